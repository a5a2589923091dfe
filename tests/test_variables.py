"""State of streaming networks: resource variables from the file to sessions, on both paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq import MalformedModel, UnsupportedModel
from gpuq.devices import Device
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read

from .compare import assert_equal_bits
from .host_cuda.runner import HostLauncher, require_tools
from .networks import Network, edited, int8, streaming_network
from .peers.one_operator import TensorDef

STREAMS = 3


def frames(seed: int, invokes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (invokes, STREAMS, 1, 1, 4)).astype(np.int8)


def check_session(model: Model, seed: int) -> None:
    """A batch of streams equals each stream in a session of its own; a call without a session is a first one."""
    single = gpuq.load(streaming_network(), device="cpu")
    streams, given = [single.session() for _ in range(STREAMS)], frames(seed)
    session = model.session(STREAMS)
    wanted = []
    for number, batch in enumerate(given):
        parts = [stream(batch[i : i + 1]) for i, stream in enumerate(streams)]
        wanted.append([np.concatenate(each) for each in zip(*parts, strict=True)])
        for got, want in zip(session(batch), wanted[-1], strict=True):
            assert_equal_bits(got, want, f"invoke {number}, seed {seed}")
        for got, want in zip(model(given[0]), wanted[0], strict=True):
            assert_equal_bits(got, want, f"a call between invokes, seed {seed}")
    assert not np.array_equal(wanted[0][0], model(given[-1])[0]), "state must matter"
    session.reset()
    for number in (0, 1):
        for got, want in zip(session(given[number]), wanted[number], strict=True):
            assert_equal_bits(got, want, f"invoke {number} after reset, seed {seed}")


def test_session(seed: int) -> None:
    check_session(gpuq.load(streaming_network(), device="cpu"), seed)


def test_session_on_cuda(seed: int) -> None:
    require_tools()
    with HostLauncher(seeds=(1,)) as launcher:
        for fuse in (True, False):
            program = plan_program(read(streaming_network()), Device("cuda"), "litert_ref", launcher, fuse=fuse)
            check_session(Model(program), seed)


def counting(value: int = 1, definition: TensorDef | None = None) -> tuple[Network, int, int]:
    """A network that gives what its variable held before: a constant is assigned last."""
    net = Network()
    x = net.tensor(int8((1, 2), 1.0))
    net.call_once({"v": definition or int8((1, 2), 1.0, data=np.array([[5, 6]], np.int8))})
    handle = net.handle("v")
    out = net.operator("ADD", [net.read(handle, int8((1, 2), 1.0)), x], int8((1, 2), 1.0), schema.AddOptionsT())
    net.assign(handle, net.tensor(int8((1, 2), 1.0, data=np.full((1, 2), value, np.int8))))
    return net, x, out


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_constant_is_assigned_in_every_run(device: str) -> None:
    net, x, out = counting(value=9)
    graph, zeros = read(net.build([x], [out])), np.zeros((2, 2), np.int8)
    if device == "cuda":
        require_tools()
        with HostLauncher(seeds=(1,)) as launcher:
            session = Model(plan_program(graph, Device("cuda"), "litert_ref", launcher)).session(2)
            calls = [session(zeros).tolist() for _ in range(3)]
    else:
        session = Model(plan_program(graph, Device("cpu"), "litert_ref")).session(2)
        calls = [session(zeros).tolist() for _ in range(3)]
    assert calls == [[[5, 6]] * 2, [[9, 9]] * 2, [[9, 9]] * 2]


def test_handles_of_one_name_are_one_variable() -> None:
    net = Network()
    x = net.tensor(int8((1, 2), 1.0))
    net.call_once({"v": int8((1, 2), 1.0, data=np.zeros((1, 2), np.int8))})
    first, second = net.handle("v"), net.handle("v")
    before = net.read(first, int8((1, 2), 1.0))
    net.assign(second, x)
    after = net.read(first, int8((1, 2), 1.0))
    model = gpuq.load(net.build([x], [before, after]), device="cpu")
    # What was read before the assignment stays.
    assert [each.tolist() for each in model(np.array([[3, 4]], np.int8))] == [[[0, 0]], [[3, 4]]]


def in_initializer(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: change(model.subgraphs[1])


def no_data(graph: Any) -> None:
    graph.tensors[1].buffer = 0


def other_operator(model: Any) -> None:
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in model.subgraphs[1].operators]
    codes[1].builtinCode = schema.BuiltinOperator.FILL
    codes[1].deprecatedBuiltinCode = schema.BuiltinOperator.FILL


def second_subgraph(model: Any) -> None:
    model.subgraphs.append(model.subgraphs[1])


def names(number: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        (operator,) = (each for each in model.subgraphs[0].operators if isinstance(each.builtinOptions, CALL_ONCE))
        operator.builtinOptions.initSubgraphIndex = number

    return change


def read_nothing(model: Any) -> None:
    for operator in model.subgraphs[0].operators:
        if isinstance(operator.builtinOptions, schema.ReadVariableOptionsT):
            operator.inputs = []


CALL_ONCE = schema.CallOnceOptionsT


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (in_initializer(no_data), UnsupportedModel, "CALL_ONCE of a subgraph that assigns what is not constant"),
        (other_operator, UnsupportedModel, "CALL_ONCE of a subgraph with FILL"),
        (second_subgraph, UnsupportedModel, "the model has 3 subgraphs; gpuq runs the first"),
        (read_nothing, MalformedModel, "READ_VARIABLE: has 0 inputs, it must have 1"),
        (names(0), MalformedModel, "CALL_ONCE names subgraph 0; it must be one of 1 to 1"),
        (names(2), MalformedModel, "CALL_ONCE names subgraph 2; it must be one of 1 to 1"),
    ],
)
def test_refusals(change: Callable[[Any], None], error: type[Exception], message: str) -> None:
    net, x, out = counting()
    with pytest.raises(error, match=message):
        read(edited(net.build([x], [out]), change))


def test_values_of_other_shapes_and_types() -> None:
    for definition, message in (
        (int8((1, 3), 1.0, data=np.zeros((1, 3), np.int8)), "must have the variable's 3 elements"),
        (TensorDef((1, 2), np.int32, data=np.zeros((1, 2), np.int32)), "must have the input's dtype int32"),
        (int8((2, 1), 1.0, data=np.zeros((2, 1), np.int8)), "value 1x2 must have the variable's shape 2x1"),
    ):
        net, x, out = counting(definition=definition)
        with pytest.raises(MalformedModel, match=message):
            read(net.build([x], [out]))


def test_a_variable_that_nothing_assigns() -> None:
    net = Network()
    x = net.tensor(int8((1, 2), 1.0))
    out = net.operator(
        "ADD", [net.read(net.handle("v"), int8((1, 2), 1.0)), x], int8((1, 2), 1.0), schema.AddOptionsT()
    )
    with pytest.raises(UnsupportedModel, match="READ_VARIABLE of a variable that nothing assigns"):
        read(net.build([x], [out]))


def test_initialization_behind_its_variables() -> None:
    net = Network()
    x = net.tensor(int8((1, 2), 1.0))
    net.assign(net.handle("v"), x)
    net.call_once({"v": int8((1, 2), 1.0, data=np.zeros((1, 2), np.int8))})
    out = net.read(net.handle("v"), int8((1, 2), 1.0))
    with pytest.raises(UnsupportedModel, match="CALL_ONCE behind operators that use its variables"):
        read(net.build([x], [out]))
