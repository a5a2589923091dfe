"""gpuq.model.planner: storage that never overlaps while alive, views, folding, and what a Program says of itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import InputValueError, ModelLimit
from gpuq.devices import Device
from gpuq.model import planner
from gpuq.model.placement import ALIGNMENT, place
from gpuq.model.planner import Program, plan_program
from gpuq.model.tflite_reader import read

from .networks import Network, int8, small_network
from .peers.one_operator import TensorDef, constant

CPU = Device("cpu")


def plan(content: bytes, profile: str = "litert_ref") -> Program:
    return plan_program(read(content), CPU, profile)


# ------------------------------------------------------------------------------------------------------- place


@st.composite
def pieces(draw: st.DrawFn) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    sizes = dict(enumerate(draw(st.lists(st.one_of(st.integers(0, 300), st.sampled_from([0, 64, 4096])), max_size=25))))
    lifetimes = {}
    for piece in sizes:
        first = draw(st.integers(-1, 12))
        lifetimes[piece] = (first, draw(st.integers(first, 13)))
    return sizes, lifetimes


@settings(max_examples=400)
@given(pieces())
def test_pieces_alive_together_do_not_overlap(case: tuple[dict[int, int], dict[int, tuple[int, int]]]) -> None:
    sizes, lifetimes = case
    offsets, arena = place(sizes, lifetimes)
    assert set(offsets) == set(sizes)
    for a in sizes:
        assert offsets[a] % ALIGNMENT == 0
        assert 0 <= offsets[a] <= offsets[a] + sizes[a] <= arena
        for b in sizes:
            together = lifetimes[a][0] <= lifetimes[b][1] and lifetimes[b][0] <= lifetimes[a][1]
            if a < b and together and sizes[a] and sizes[b]:
                apart = offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
                assert apart, (a, b, offsets, sizes, lifetimes)
    assert arena % ALIGNMENT == 0
    assert arena <= sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes.values())
    # The step at which most is alive is a lower bound.
    alive = [sum(sizes[p] for p in sizes if lifetimes[p][0] <= step <= lifetimes[p][1]) for step in range(-1, 14)]
    assert arena >= max(alive)


def test_pieces_that_follow_one_another_share() -> None:
    # A chain: input -> 1 -> 2 -> output; at any step two neighbours are alive.
    sizes, lifetimes = dict.fromkeys(range(4), 128), {0: (-1, 0), 1: (0, 1), 2: (1, 2), 3: (2, 3)}
    offsets, arena = place(sizes, lifetimes)
    assert arena == 256
    assert offsets[0] == offsets[2]
    assert place({}, {}) == ({}, 0)


def test_a_small_piece_goes_into_a_gap() -> None:
    # 0 and 1 are alive with 2, but not with one another: 2 lies above both; 3, small, fits beside the smaller one.
    sizes = {0: 512, 1: 256, 2: 256, 3: 64}
    lifetimes = {0: (0, 1), 1: (2, 3), 2: (1, 3), 3: (3, 3)}
    offsets, arena = place(sizes, lifetimes)
    assert arena == 768
    assert offsets == {0: 0, 1: 0, 2: 512, 3: 256}


# ------------------------------------------------------------------------------------------------ whole programs


def test_small_network() -> None:
    program = plan(small_network())
    assert [step.op for step in program.steps] == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "ADD",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    added = program.steps[2]
    (flat,) = added.views
    assert (flat.shape, flat.offset) == ((1, 36), added.outputs[0].offset)
    assert program.steps[3].inputs == (flat,)
    # The first convolution's result is still needed by ADD, after the depthwise one.
    conv, depthwise = program.steps[0].outputs[0], program.steps[1].outputs[0]
    assert abs(conv.offset - depthwise.offset) >= 36
    assert program.constant_bytes == sum(step.plan.constant_bytes for step in program.steps)
    assert program.workspace_bytes(3) == max(step.plan.workspace_bytes(3) for step in program.steps)


def test_program_prints_its_steps() -> None:
    lines = str(plan(small_network())).splitlines()
    assert "5 steps on cpu, numerics litert_ref" in lines[0]
    assert "1476 MACs" in lines[0]
    assert len(lines) == 6
    assert "CONV_2D" in lines[1]
    assert "conv2d_im2col_sgemm" in lines[1]
    assert "1x3x3x4" in lines[1]
    assert "972 MACs" in lines[1]


def test_network_without_steps_prints() -> None:
    net = Network()
    x = net.tensor(int8((1, 4)))
    program = plan(net.build([x], [x]))
    assert program.steps == ()
    assert program.workspace_bytes(8) == 0
    assert "0 steps" in str(program)


def test_views_share_storage_through_chains() -> None:
    """Input -> RESHAPE -> EXPAND_DIMS -> SQUEEZE: one piece of memory, no steps, each a view of the input."""
    net = Network()
    x = net.tensor(int8((1, 6)))
    a = net.operator("RESHAPE", [x, net.tensor(constant([1, 2, 3]))], int8((1, 2, 3)), schema.ReshapeOptionsT())
    b = net.operator("EXPAND_DIMS", [a, net.tensor(constant(1))], int8((1, 1, 2, 3)), schema.ExpandDimsOptionsT())
    c = net.operator("SQUEEZE", [b], int8((1, 2, 3)), schema.SqueezeOptionsT(squeezeDims=[1]))
    program = plan(net.build([x], [c]))
    assert program.steps == ()
    assert [view.tensor for view in program.input_views] == [a, b, c]
    assert {program.operands[tensor].offset for tensor in (x, a, b, c)} == {0}
    assert program.arena_bytes == ALIGNMENT


def test_a_view_keeps_its_source_alive() -> None:
    # The input's memory is read through the view in the last step; RELU's result must not overwrite it.
    net = Network()
    x = net.tensor(int8((1, 64)))
    view = net.operator("RESHAPE", [x, net.tensor(constant([64, 1]))], int8((64, 1)), schema.ReshapeOptionsT())
    relu = net.operator("RELU", [x], int8((1, 64)))
    back = net.operator("RESHAPE", [relu, net.tensor(constant([64, 1]))], int8((64, 1)), schema.ReshapeOptionsT())
    last = net.operator("ADD", [view, back], int8((64, 1)), schema.AddOptionsT())
    program = plan(net.build([x], [last]))
    offsets = {program.operands[tensor].offset for tensor in (x, relu, last)}
    assert len(offsets) == 3
    assert program.operands[view].offset == program.operands[x].offset
    assert program.operands[back].offset == program.operands[relu].offset


def test_outputs_stay_alive_to_the_end() -> None:
    net = Network()
    x = net.tensor(int8((1, 64)))
    first = net.operator("RELU", [x], int8((1, 64)))
    second = net.operator("RELU6", [first], int8((1, 64)))
    third = net.operator("RELU", [second], int8((1, 64)))
    program = plan(net.build([x], [first, third]))
    assert program.operands[first].offset not in (program.operands[second].offset, program.operands[third].offset)
    # Not so the one between.
    assert plan(net.build([x], [third])).arena_bytes < program.arena_bytes


def test_constant_operators_are_computed_once() -> None:
    """RELU of a constant, and what follows from it: values in the Program, no steps."""
    net = Network()
    x = net.tensor(int8((1, 4)))
    data = np.array([[-3, -1, 0, 5]], np.int8)
    positive = net.operator("RELU", [net.tensor(int8((1, 4), data=data))], int8((1, 4)))
    doubled = net.operator("ADD", [positive, positive], int8((1, 4)), schema.AddOptionsT())
    total = net.operator("ADD", [x, doubled], int8((1, 4)), schema.AddOptionsT())
    program = plan(net.build([x], [total]))
    assert [step.nodes[-1].outputs for step in program.steps] == [(total,)]
    assert program.constants[positive].tolist() == [[0, 0, 0, 5]]
    assert program.constants[doubled].tolist() == [[0, 0, 0, 10]]
    assert doubled not in program.operands


@pytest.mark.parametrize("op", ["CONV_2D", "FULLY_CONNECTED"])
def test_constant_layers_are_computed_once(op: str) -> None:
    net = Network()
    x = net.tensor(int8((1, 2)))
    shape = (1, 1, 1, 2) if op == "CONV_2D" else (1, 2)
    image = net.tensor(int8(shape, 1.0, data=np.array([3, -2], np.int8).reshape(shape)))
    weights_shape = (2, 1, 1, 2) if op == "CONV_2D" else (2, 2)
    weights = net.tensor(int8(weights_shape, 1.0, data=np.array([1, 2, 3, 4], np.int8).reshape(weights_shape)))
    options: Any = schema.FullyConnectedOptionsT()
    if op == "CONV_2D":
        options = schema.Conv2DOptionsT(strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    # 3 - 4 = -1 and 9 - 8 = 1.
    layer = net.operator(op, [image, weights, -1], int8(shape, 1.0), options)
    program = plan(net.build([x], [x, layer]))
    assert program.steps == ()
    assert program.constants[layer].reshape(-1).tolist() == [-1, 1]


def test_variables_live_through_the_whole_run() -> None:
    net = Network()
    x = net.tensor(int8((1, 64)))
    state = net.tensor(int8((1, 64)), is_variable=True)
    results = [net.operator("ADD", [x, state], int8((1, 64)), schema.AddOptionsT())]
    # Long enough that every piece of memory that is free is used again.
    for _ in range(5):
        results.append(net.operator("RELU", [results[-1]], int8((1, 64))))
    program = plan(net.build([x], [results[-1]]))
    others = {program.operands[tensor].offset for tensor in (x, *results)}
    assert program.operands[state].offset not in others
    assert len(others) == 2


def test_plan_program_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputValueError, match="litert_ref, tflm"):
        plan(small_network(), "no_such_runtime")
    monkeypatch.setattr(planner, "MAX_ARENA_BYTES", 64)
    with pytest.raises(ModelLimit, match="bytes a run; the limit is 64"):
        plan(small_network())


def test_arena_of_many_types_is_aligned() -> None:
    net = Network()
    x = net.tensor(int8((1, 5)))
    real = net.operator("DEQUANTIZE", [x], TensorDef((1, 5), np.float32))
    index = net.operator(
        "ARG_MAX", [x, net.tensor(constant(1))], TensorDef((1,), np.int64), schema.ArgMaxOptionsT(outputType=4)
    )
    program = plan(net.build([x], [real, index]))
    assert all(operand.offset % ALIGNMENT == 0 for operand in program.operands.values())
    assert program.operands[index].dtype == np.int64
    assert program.arena_bytes == 3 * ALIGNMENT
