"""Reading .tflite files: what a good file means, and every way in which a file can be bad.

Whatever a file holds, loading it ends within two seconds in a Model or in a ModelError that names the problem.
"""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq import Limits, MalformedModel, Model, ModelError, ModelLimit, Quant, UnsupportedModel
from gpuq.model.tflite_reader import read
from gpuq.resources import resource

from .compare import assert_equal_bits
from .lstm_layers import Sizes, Variant, lstm_layer
from .networks import Change, Network, edited, int8, moving_network, packed, small_network
from .peers.one_operator import PADDINGS, TensorDef, constant

SECONDS = 2.0
SMALL = small_network()
CONV, DEPTHWISE, ADD, RESHAPE, DENSE, SOFTMAX = range(6)


def load(content: bytes, **options: Any) -> Model:
    """Loads within the processor time that every file has."""
    start = time.process_time()
    try:
        return gpuq.load(content, device="cpu", **options)
    finally:
        taken = time.process_time() - start
        assert taken < SECONDS, f"loading took {taken:.1f} s"


def refused(content: bytes, error: type[ModelError], message: str, **options: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        load(content, **options)
    # The class says what kind of problem it is, not one that it derives from.
    assert caught.type is error, caught.value


def only(op: str, inputs: Sequence[TensorDef | None], output: TensorDef, options: Any = None) -> bytes:
    """A file with one operator, whatever it is: constants are inputs that have data, None is a missing one."""
    net = Network()
    numbers = [-1 if definition is None else net.tensor(definition) for definition in inputs]
    out = net.operator(op, numbers, output, options, version=1)
    live = [
        i for i, definition in zip(numbers, inputs, strict=True) if definition is not None and definition.data is None
    ]
    return net.build(live, [out])


def operator(model: Any, number: int) -> Any:
    return model.subgraphs[0].operators[number]


def tensor_of(model: Any, number: int, position: int) -> Any:
    """An operator's input tensor."""
    return model.subgraphs[0].tensors[operator(model, number).inputs[position]]


# ------------------------------------------------------------------------------------------------- a good file


def test_tensors_of_a_good_file() -> None:
    graph = read(SMALL)
    image = graph.tensors[graph.inputs[0]]
    assert (image.name, image.shape, image.dtype) == ("image", (1, 6, 6, 3), np.int8)
    assert image.quant == Quant(0.05, 12)
    assert image.data is None
    weights = graph.tensors[graph.nodes[CONV].inputs[1]]
    assert weights.quant == Quant(np.linspace(0.002, 0.004, 4), 0, axis=0)
    assert weights.data is not None
    assert weights.data.shape == (4, 3, 3, 3)
    assert not weights.data.flags.writeable
    depthwise = graph.tensors[graph.nodes[DEPTHWISE].inputs[1]]
    assert depthwise.quant == Quant(np.linspace(0.002, 0.004, 4), 0, axis=3)
    assert [node.spec.op for node in graph.nodes] == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "ADD",
        "RESHAPE",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    # 3x3 outputs of 4 channels from 27 taps, the same from 9, then 36 * 5.
    assert [graph.node_macs(node) for node in graph.nodes] == [972, 324, 0, 0, 180, 0]
    assert graph.macs == 972 + 324 + 180


def test_spec_of_a_good_file() -> None:
    spec: Any = read(SMALL).nodes[CONV].spec
    window = spec.window
    assert (window.kernel_h, window.stride_h, window.dilation_w, spec.groups) == (3, 2, 1, 1)
    # SAME: 3 outputs of stride 2 reach 7 of 6 pixels, the missing one goes after.
    assert (window.pad_top, window.pad_bottom, window.pad_left, window.pad_right) == (0, 1, 0, 1)
    assert spec.activation is None
    relu6: Any = read(SMALL).nodes[DEPTHWISE].spec
    assert relu6.activation == "relu6"


def test_missing_bias_is_allowed() -> None:
    for number in (CONV, DEPTHWISE, DENSE):
        for left_out in ([-1], []):

            def drop(model: Any, number: int = number, left_out: list[int] = left_out) -> None:
                operator(model, number).inputs = list(operator(model, number).inputs[:2]) + left_out

            zero = edited(SMALL, lambda model, number=number: zero_bias(model, number))  # type: ignore[misc]
            x = np.full((1, 6, 6, 3), 50, np.int8)
            assert load(edited(SMALL, drop))(x).tolist() == load(zero)(x).tolist()


def zero_bias(model: Any, number: int) -> None:
    buffer = model.buffers[tensor_of(model, number, 2).buffer]
    buffer.data = np.zeros_like(buffer.data)


def test_bias_of_any_shape_with_as_many_elements() -> None:
    # The runtimes count elements only; converters write (1, 1, 1, O) too.
    def change(model: Any) -> None:
        tensor_of(model, CONV, 2).shape = [1, 1, 1, 4]

    x = np.full((1, 6, 6, 3), 50, np.int8)
    assert load(edited(SMALL, change))(x).tolist() == load(SMALL)(x).tolist()


def test_buffers_behind_the_flatbuffer() -> None:
    """Files beyond 2 GB keep constants after the flatbuffer, at an offset from the start of the file."""

    def move(model: Any, offset: int, size: int) -> None:
        buffer = model.buffers[tensor_of(model, DENSE, 1).buffer]
        buffer.data, buffer.offset, buffer.size = None, offset, size

    weights = next(tensor for tensor in read(SMALL).tensors if tensor.shape == (5, 36)).data
    assert weights is not None
    # The offset's own value does not change the file's length once it is there.
    length = len(edited(SMALL, lambda model: move(model, 1 << 20, 180)))
    content = edited(SMALL, lambda model: move(model, length, 180)) + weights.tobytes()
    x = np.full((1, 6, 6, 3), 50, np.int8)
    assert load(content)(x).tolist() == load(SMALL)(x).tolist()
    refused(content[:-1], MalformedModel, "ends beyond the file")
    refused(edited(SMALL, lambda model: move(model, (1 << 63) + 8, 180)), MalformedModel, "ends beyond")


def test_shape_arithmetic_is_folded() -> None:
    """SHAPE -> STRIDED_SLICE -> PACK -> RESHAPE, as converters flatten a batch that is not fixed."""
    net = Network()
    x = net.tensor(int8((1, 2, 3)))
    shape = net.operator("SHAPE", [x], TensorDef((3,), np.int32), schema.ShapeOptionsT(outType=schema.TensorType.INT32))
    batch = net.operator(
        "STRIDED_SLICE",
        [shape, net.tensor(constant([0])), net.tensor(constant([1])), net.tensor(constant([1]))],
        TensorDef((), np.int32),
        schema.StridedSliceOptionsT(shrinkAxisMask=1),
    )
    target = net.operator(
        "PACK", [batch, net.tensor(constant(6))], TensorDef((2,), np.int32), schema.PackOptionsT(axis=0, valuesCount=2)
    )
    flat = net.operator("RESHAPE", [x, target], int8((1, 6)), schema.ReshapeOptionsT())
    model = load(net.build([x], [flat]))
    assert [node.spec.op for node in model.graph.nodes] == ["RESHAPE"]
    assert model.graph.folded == (shape, batch, target)
    codes = np.arange(12, dtype=np.int8).reshape(2, 2, 3)
    assert model(codes).tolist() == codes.reshape(2, 6).tolist()
    # Looking at the tensors gives one copy per run: [1, 2, 3] twice.
    seen = model.tensors(codes)
    assert seen[shape].tolist() == [1, 2, 3, 1, 2, 3]
    assert seen[batch].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("begin", "end", "stride", "masks", "want"),
    [
        ([1], [3], [1], {}, [20, 30]),
        ([-1], [-5], [-2], {}, [40, 20]),
        ([1], [99], [1], {}, [20, 30, 40]),
        ([2], [0], [1], {"beginMask": 1, "endMask": 1}, [10, 20, 30, 40]),
        ([-2], [0], [1], {"shrinkAxisMask": 1}, 30),
    ],
)
def test_strided_slices(begin: list[int], end: list[int], stride: list[int], masks: dict[str, int], want: Any) -> None:
    net = Network()
    x = net.tensor(int8((1, 4)))
    out = net.operator(
        "STRIDED_SLICE",
        [net.tensor(constant(values)) for values in ([10, 20, 30, 40], begin, end, stride)],
        TensorDef(np.shape(want), np.int32),
        schema.StridedSliceOptionsT(**masks),
    )
    graph = read(net.build([x], [net.operator("RELU", [x], int8((1, 4)))]))
    data = graph.tensors[out].data
    assert data is not None
    assert data.tolist() == want


def test_the_shape_that_follows_from_the_inputs_counts() -> None:
    # Converters leave stale output shapes behind.
    def stale(model: Any) -> None:
        graph = model.subgraphs[0]
        for number in (CONV, DENSE, SOFTMAX):
            graph.tensors[operator(model, number).outputs[0]].shape = [1, 1]

    assert load(edited(SMALL, stale))(np.zeros((3, 6, 6, 3), np.int8)).shape == (3, 5)


# --------------------------------------------------------------------------------------- not a flatbuffer at all


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 7, b"\0\0\0\0TFL2" + b"\0" * 64, b"PK\3\4" + b"x" * 100])
def test_other_files(content: bytes) -> None:
    refused(content, MalformedModel, "not a .tflite file")


@pytest.mark.parametrize("content", [SMALL, resource("examples", "digits", "digits_int8.tflite").read_bytes()])
def test_truncated_at_every_16th_byte(content: bytes) -> None:
    for length in range(0, len(content), 16):
        try:
            load(content[:length])
        except ModelError:
            continue
        except Exception as error:
            raise AssertionError(f"cut to {length} of {len(content)} bytes") from error
        # Only what no part of the model refers to may be missing.
        assert length > len(content) - 64, f"cut to {length} of {len(content)} bytes, and loaded"


@pytest.mark.parametrize("offset", [0, 8, len(SMALL), len(SMALL) + 4, 1 << 31, (1 << 32) - 1])
def test_root_offset_out_of_range(offset: int) -> None:
    # Some offsets lead to bytes that read as a table without subgraphs.
    with pytest.raises(ModelError, match="corrupt|0 subgraphs"):
        load(offset.to_bytes(4, "little") + SMALL[4:])


INTERESTING = np.array([0, 1, -1, 2, 4, 8, 16, -4, 127, 128, 255, 256, 65535, 100_000, 2**31 - 1, -(2**31), 0x7F800000])


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: a random byte, a 32-bit word of a kind that breaks things, or one moved by a little."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        word = slice(at := int(rng.integers(len(changed) // 4)) * 4, at + 4)
        kind = rng.integers(3)
        if kind == 0:
            changed[rng.integers(len(changed))] = rng.integers(256)
            continue
        value = (
            int(rng.choice(INTERESTING)) if kind == 1 else int.from_bytes(changed[word], "little") + rng.integers(-8, 9)
        )
        changed[word] = (int(value) % (1 << 32)).to_bytes(4, "little")
    return bytes(changed)


CONTENTS = {
    "small": SMALL,
    "digits": resource("examples", "digits", "digits_int8.tflite").read_bytes(),
    "moving": moving_network(),
    "lstm": lstm_layer(np.random.default_rng(3), Variant(True, True, True, True, True), Sizes(2, 2, 40, 30, 20)),
}


def test_a_network_that_moves() -> None:
    model = load(CONTENTS["moving"])
    assert model(np.zeros((3, 4, 6, 4), np.int8)).shape == (3, 8)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "count"), [("small", 1500), ("digits", 500), ("moving", 1000), ("lstm", 400)])
def test_random_mutations(name: str, count: int, seed: int) -> None:
    """Loading ends in a Model or a ModelError; what loads also runs."""
    content = CONTENTS[name]
    rng = np.random.default_rng(seed)
    limits = Limits(elements=1 << 16, macs=1 << 22)
    problems, loaded = [], 0
    for number in range(count):
        changed = mutated(content, rng)
        start = time.perf_counter()
        try:
            model = gpuq.load(changed, device="cpu", limits=limits)
            loaded += 1
            needed = model.program.workspace_bytes(1) + model.program.arena_bytes
            # Running what wants more than this could take down the machine, not just this test.
            assert needed < 1 << 28, f"a run takes {needed} bytes"
            inputs = [model.graph.tensors[index] for index in model.graph.inputs]
            model(*(np.zeros(tensor.shape, tensor.dtype) for tensor in inputs))
            model.get_input_details()
        except ModelError:
            pass
        except Exception as error:
            problems.append(f"mutation {number}: {type(error).__name__}: {error}")
        taken = time.perf_counter() - start
        if taken > SECONDS:
            problems.append(f"mutation {number}: took {taken:.1f} s")
    assert loaded, "mutations must leave some models usable"
    assert not problems, f"seed {seed}: {len(problems)} of {count}\n" + "\n".join(problems)


# ----------------------------------------------------------------------------- indices, order, and what is missing


def set_inputs(number: int, position: int, value: int) -> Change:
    def change(model: Any) -> None:
        inputs = list(operator(model, number).inputs)
        inputs[position] = value
        operator(model, number).inputs = inputs

    return change


def set_outputs(number: int, *values: int) -> Change:
    def change(model: Any) -> None:
        operator(model, number).outputs = list(values)

    return change


def set_graph(field: str, *values: int) -> Change:
    def change(model: Any) -> None:
        setattr(model.subgraphs[0], field, list(values))

    return change


OUT = {number: int(read(SMALL).nodes[number].outputs[0]) for number in range(6)}
WEIGHTS = int(read(SMALL).nodes[CONV].inputs[1])

GRAPH_RULES: dict[str, tuple[Change, str]] = {
    "operator input out of range": (set_inputs(CONV, 0, 999), "CONV_2D .*tensor 999"),
    "operator input -2": (set_inputs(CONV, 2, -2), "tensor -2"),
    "operator output out of range": (set_outputs(CONV, 1 << 30), "tensor 1073741824"),
    "operator output -1": (set_outputs(CONV, -1), "tensor -1"),
    "missing image": (set_inputs(CONV, 0, -1), "CONV_2D: input 0 is missing"),
    "missing weights": (set_inputs(CONV, 1, -1), "CONV_2D: input 1 is missing"),
    "missing summand": (set_inputs(ADD, 1, -1), "ADD: input 1 is missing"),
    "no operator inputs": (lambda model: setattr(operator(model, CONV), "inputs", []), "CONV_2D: has 0 inputs"),
    "no operator outputs": (set_outputs(SOFTMAX), "SOFTMAX|never written"),
    "two outputs": (set_outputs(DEPTHWISE, OUT[DEPTHWISE], OUT[ADD] + 100), "tensor"),
    "reads what comes later": (set_inputs(ADD, 0, OUT[SOFTMAX]), "reads tensor .* before anything has written it"),
    "reads its own output": (set_inputs(ADD, 0, OUT[ADD]), "before anything"),
    "written twice": (set_outputs(SOFTMAX, OUT[CONV]), "already written"),
    "writes an input": (set_outputs(SOFTMAX, 0), "which is an input"),
    "writes a constant": (set_outputs(SOFTMAX, WEIGHTS), "constant"),
    "model input out of range": (set_graph("inputs", 0, 999), "inputs refers to tensor 999"),
    "model input -1": (set_graph("inputs", -1), "inputs refers to tensor -1"),
    "model input twice": (set_graph("inputs", 0, 0), "twice"),
    "model output out of range": (set_graph("outputs", 999), "outputs refers to tensor 999"),
    "model output -1": (set_graph("outputs", -1), "outputs refers to tensor -1"),
    "no model output": (set_graph("outputs"), "no outputs"),
    "no model input": (set_graph("inputs"), "reads tensor 0 before"),
    "operator code out of range": (lambda model: setattr(operator(model, ADD), "opcodeIndex", 77), "operator code 77"),
    "buffer out of range": (lambda model: setattr(tensor_of(model, CONV, 1), "buffer", 500), "buffer 500"),
    "signature out of range": (
        lambda model: setattr(model.signatureDefs[0].inputs[0], "tensorIndex", 444),
        "signature 'serving_default' refers to tensor 444",
    ),
    "options missing": (lambda model: setattr(operator(model, CONV), "builtinOptions", None), "options are missing"),
    "options of another operator": (
        lambda model: (
            setattr(operator(model, CONV), "builtinOptions", schema.SoftmaxOptionsT()),
            setattr(operator(model, CONV), "builtinOptionsType", schema.BuiltinOptions.SoftmaxOptions),
        ),
        "options are missing",
    ),
}


@pytest.mark.parametrize("name", GRAPH_RULES)
def test_graph_rules(name: str) -> None:
    change, message = GRAPH_RULES[name]
    refused(edited(SMALL, change), MalformedModel, message)


def test_cycle() -> None:
    # ADD reads what RELU gives, and RELU what ADD gives.
    net = Network()
    x, loop = net.tensor(int8((1, 4))), net.tensor(int8((1, 4)))
    total = net.operator("ADD", [x, loop], int8((1, 4)), schema.AddOptionsT())
    net.operator("RELU", [total], loop)
    refused(net.build([x], [total]), MalformedModel, "reads tensor 1 before anything has written it")


@pytest.mark.parametrize("count", [0, 2])
def test_subgraphs(count: int) -> None:
    def change(model: Any) -> None:
        model.subgraphs = model.subgraphs * count
        model.signatureDefs = []

    refused(edited(SMALL, change), UnsupportedModel, f"{count} subgraphs")


# -------------------------------------------------------------------------------------- shapes and quantization


def set_tensor(number: int, position: int, **fields: Any) -> Change:
    """Changes an operator's input tensor, or with position -1 its output."""

    def change(model: Any) -> None:
        tensors = model.subgraphs[0].tensors
        chosen = operator(model, number)
        tensor = tensors[chosen.outputs[0] if position < 0 else chosen.inputs[position]]
        for name, value in fields.items():
            target = tensor.quantization if name in ("scale", "zeroPoint", "quantizedDimension") else tensor
            setattr(target, name, value)

    return change


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def longs(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


TENSOR_RULES: dict[str, tuple[Change, type[ModelError], str]] = {
    "negative dimension": (set_tensor(CONV, 0, shape=[1, -6, 6, 3]), MalformedModel, "negative dimension"),
    "empty dimension": (set_tensor(CONV, 0, shape=[1, 0, 6, 3]), UnsupportedModel, "empty shape"),
    "overflowing shape": (set_tensor(CONV, 0, shape=[2**31 - 1] * 4), ModelLimit, "elements"),
    "overflowing constant": (set_tensor(CONV, 1, shape=[2**31 - 1] * 4), ModelLimit, "elements"),
    "wrong rank": (set_tensor(CONV, 0, shape=[6, 6, 3]), MalformedModel, "rank 4"),
    "shape of no rank": (set_tensor(CONV, 0, shape=[]), MalformedModel, "rank 4"),
    "buffer too short": (
        set_tensor(CONV, 1, shape=[4, 3, 3, 4]),
        MalformedModel,
        "108 bytes, 4x3x3x4 of int8 needs 144",
    ),
    "buffer too long": (set_tensor(CONV, 1, shape=[4, 3, 3, 2]), MalformedModel, "108 bytes, .* needs 72"),
    "weights of another rank": (set_tensor(CONV, 1, shape=[4, 27]), MalformedModel, "rank 4"),
    "weights of other channels": (set_tensor(CONV, 1, shape=[6, 3, 3, 2]), MalformedModel, "multiple of weights I=2"),
    "scale 0": (set_tensor(CONV, 0, scale=floats(0)), MalformedModel, "scale must be positive"),
    "scale negative": (set_tensor(CONV, 0, scale=floats(-0.1)), MalformedModel, "scale -0.1"),
    "scale NaN": (set_tensor(CONV, 0, scale=floats(np.nan)), MalformedModel, "scale nan"),
    "scale Inf": (set_tensor(CONV, 0, scale=floats(np.inf)), MalformedModel, "scale inf"),
    "weight scale NaN": (set_tensor(CONV, 1, scale=floats(1, np.nan, 1, 1)), MalformedModel, "scale nan"),
    "output scale 0": (set_tensor(CONV, -1, scale=floats(0)), MalformedModel, "scale must be positive"),
    "zero point too large": (set_tensor(CONV, 0, zeroPoint=longs(128)), MalformedModel, "zero_point 128"),
    "zero point huge": (set_tensor(CONV, 0, zeroPoint=longs(2**62)), MalformedModel, "zero_point 4611686018427387904"),
    "weight zero point": (set_tensor(CONV, 1, zeroPoint=longs(0, 0, 1, 0)), MalformedModel, "zero point 0"),
    "too few scales": (
        set_tensor(CONV, 1, scale=floats(1, 1, 1), zeroPoint=longs(0, 0, 0)),
        MalformedModel,
        "3 weight scales",
    ),
    "too few zero points": (
        set_tensor(CONV, 1, zeroPoint=longs(0, 0, 0)),
        MalformedModel,
        "3 zero points for 4 scales",
    ),
    "scales along another axis": (set_tensor(CONV, 1, quantizedDimension=3), MalformedModel, "axis 3"),
    "scales along no axis": (set_tensor(CONV, 1, quantizedDimension=-7), MalformedModel, "axis -7"),
    "activations per channel": (
        set_tensor(CONV, 0, scale=floats(1, 1, 1), zeroPoint=longs(0, 0, 0), quantizedDimension=3),
        MalformedModel,
        "per tensor",
    ),
    "bias zero point": (set_tensor(CONV, 2, zeroPoint=longs(1, 0, 0, 0)), MalformedModel, "bias zero point"),
    "bias too short": (set_tensor(CONV, 2, shape=[3]), MalformedModel, "4 scales, more than any"),
    "bias of another type": (set_tensor(CONV, 2, type=schema.TensorType.FLOAT32), UnsupportedModel, "bias of float32"),
    "weights computed at run time": (set_inputs(DENSE, 1, OUT[ADD]), UnsupportedModel, "weights computed at run time"),
    "bias computed at run time": (set_inputs(DENSE, 2, OUT[ADD]), UnsupportedModel, "bias computed at run time"),
    "no quantization": (
        set_tensor(CONV, 0, quantization=None),
        UnsupportedModel,
        "CONV_2D: int8 .*not supported",
    ),
    "int16 activations": (set_tensor(CONV, 0, type=schema.TensorType.INT16), UnsupportedModel, "it must be int64"),
    "int4 weights of 8 bits": (set_tensor(CONV, 1, type=schema.TensorType.INT4), MalformedModel, "of int4 needs 54"),
    "int4 activations": (set_tensor(CONV, 0, type=schema.TensorType.INT4), UnsupportedModel, "type INT4"),
    "strings": (set_tensor(CONV, 0, type=schema.TensorType.STRING), UnsupportedModel, "type STRING"),
    "unknown type": (set_tensor(CONV, 0, type=99), UnsupportedModel, "type 99"),
    "sparse weights": (
        set_tensor(CONV, 1, sparsity=schema.SparsityParametersT()),
        UnsupportedModel,
        "sparse weights",
    ),
    "dtypes that do not match": (
        set_tensor(ADD, 1, type=schema.TensorType.UINT8, zeroPoint=longs(5)),
        UnsupportedModel,
        "output of uint8",
    ),
    "softmax output scale": (set_tensor(SOFTMAX, -1, scale=floats(0.5)), MalformedModel, "1/256"),
}


@pytest.mark.parametrize("name", TENSOR_RULES)
def test_tensor_rules(name: str) -> None:
    change, error, message = TENSOR_RULES[name]
    refused(edited(SMALL, change), error, message)


@pytest.mark.parametrize(
    "change",
    [
        set_tensor(CONV, -1, scale=floats(1e-40)),
        set_tensor(CONV, 0, scale=floats(1e38)),
        set_tensor(CONV, 1, scale=floats(1, 1e38, 1, 1)),
        set_tensor(DENSE, 1, scale=floats(3e38)),
        set_tensor(ADD, 0, scale=floats(3e38)),
    ],
)
def test_factors_that_no_runtime_can_represent(change: Change) -> None:
    # in * weights / out of 2^30 and more has no multiplier; float64 rules may take it.
    content = edited(SMALL, change)
    for profile in ("litert_ref", "tflm"):
        try:
            model = load(content, numerics=profile)
        except ModelError:
            continue
        assert model(np.zeros((1, 6, 6, 3), np.int8)).shape == (1, 5)


@pytest.mark.parametrize(
    "op",
    [
        *("RELU", "RELU6", "QUANTIZE", "MEAN", "MUL", "SUB", "LOGISTIC", "CONCATENATION", "TANH", "ELU", "HARD_SWISH"),
        *("LEAKY_RELU", "ABS", "SQRT", "RSQRT", "PRELU", "SQUARED_DIFFERENCE", "SUM", "LESS", "BATCH_MATMUL"),
    ],
)
@pytest.mark.parametrize(("scale", "out_scale"), [(1e10, 1e-10), (3e38, 1e-38), (1e-38, 3e38), (1e-45, 1e-45)])
def test_extreme_scales(op: str, scale: float, out_scale: float) -> None:
    """A result or a ModelError, never a warning: warnings are errors in these tests."""
    x = TensorDef((1, 4), np.uint8 if op == "CONCATENATION" else np.int8, scale, 3)
    out = TensorDef((1, 4), x.dtype, 1 / 256 if op == "LOGISTIC" else out_scale, -128 if op == "LOGISTIC" else 5)
    options = {
        "MEAN": schema.ReducerOptionsT(keepDims=True),
        "MUL": schema.MulOptionsT(),
        "SUB": schema.SubOptionsT(),
        "CONCATENATION": schema.ConcatenationOptionsT(axis=1),
        "LEAKY_RELU": schema.LeakyReluOptionsT(alpha=1e30),
        "SUM": schema.ReducerOptionsT(keepDims=True),
        "BATCH_MATMUL": schema.BatchMatMulOptionsT(adjY=True),
    }.get(op)
    if op == "LESS":
        out = TensorDef((1, 4), bool)
    more = [constant([0])] if op in ("MEAN", "SUM") else []
    if op in ("MUL", "SUB", "PRELU", "SQUARED_DIFFERENCE", "LESS", "BATCH_MATMUL"):
        more = [x]
    codes = np.array([[0, 1, 100, 127]]).astype(x.dtype)
    try:
        model = load(only(op, [x, *more], out, options), numerics="tflm" if op == "ELU" else "litert_ref")
    except ModelError:
        return
    model(*[codes] * len(model.graph.inputs))


# --------------------------------------------------------------------------------------------- operators' options


def conv_options(**fields: Any) -> Change:
    def change(model: Any) -> None:
        for name, value in fields.items():
            setattr(operator(model, CONV).builtinOptions, name, value)

    return change


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(strideH=0), "stride_h=0"),
        (dict(strideW=-1), "stride_w=-1"),
        (dict(dilationHFactor=0), "dilation_h=0"),
        (dict(dilationWFactor=-(2**31)), "dilation_w=-2147483648"),
        (dict(padding=7), "padding 7"),
        (dict(fusedActivationFunction=99), "activation 99"),
        (dict(padding=PADDINGS["VALID"], dilationHFactor=100), "does not fit"),
    ],
)
def test_convolution_options(fields: dict[str, Any], message: str) -> None:
    refused(edited(SMALL, conv_options(**fields)), MalformedModel, message)


@pytest.mark.parametrize("number", [CONV, DEPTHWISE])
@pytest.mark.parametrize("field", ["strideH", "strideW", "dilationHFactor", "dilationWFactor"])
@pytest.mark.parametrize("value", [512, 1_000_000, 2**31 - 1])
def test_huge_strides_and_dilations(number: int, field: str, value: int) -> None:
    """Far-off taps see only the border: no reason for memory or time of the order of the dilation."""

    def change(model: Any) -> None:
        setattr(operator(model, number).builtinOptions, field, value)
        model.subgraphs[0].operators = model.subgraphs[0].operators[: number + 1]
        model.subgraphs[0].outputs = list(operator(model, number).outputs)
        model.signatureDefs = []

    try:
        model = load(edited(SMALL, change))
    except ModelError:
        return
    assert model.program.workspace_bytes(1) < 1 << 23
    start = time.perf_counter()
    model(np.zeros((1, 6, 6, 3), np.int8))
    assert time.perf_counter() - start < SECONDS


def test_taps_far_outside_of_many_channels_take_no_memory() -> None:
    """A file of ten kilobytes: nine taps of 1024 channels, eight of which never meet the image of 8x8."""
    net = Network()
    x = net.tensor(int8((1, 8, 8, 1024), 1.0))
    weights = net.tensor(int8((1, 3, 3, 1024), 1.0, data=np.ones((1, 3, 3, 1024), np.int8)))
    options = schema.DepthwiseConv2DOptionsT(strideH=1, strideW=1, dilationHFactor=512, dilationWFactor=512)
    out = net.operator("DEPTHWISE_CONV_2D", [x, weights, -1], int8((1, 8, 8, 1024), 1.0), options)
    content = net.build([x], [out])
    try:
        model = load(content)
    except ModelError:
        return
    assert model.program.workspace_bytes(1) < 1 << 26


def pool_options(**fields: Any) -> Any:
    good = dict(filterHeight=2, filterWidth=2, strideH=1, strideW=1, padding=PADDINGS["SAME"])
    return schema.Pool2DOptionsT(**(good | fields))


IMAGE = int8((1, 4, 4, 2))

OPERATOR_RULES: dict[str, tuple[bytes, type[ModelError], str]] = {
    "pool filter 0": (
        only("MAX_POOL_2D", [IMAGE], IMAGE, pool_options(filterHeight=0)),
        MalformedModel,
        "kernel_h=0",
    ),
    "pool filter negative": (
        only("AVERAGE_POOL_2D", [IMAGE], IMAGE, pool_options(filterWidth=-3)),
        MalformedModel,
        "kernel_w=-3",
    ),
    "pool stride 0": (only("AVERAGE_POOL_2D", [IMAGE], IMAGE, pool_options(strideW=0)), MalformedModel, "stride_w=0"),
    "pool rescales": (
        only("AVERAGE_POOL_2D", [IMAGE], int8((1, 4, 4, 2), 0.25), pool_options()),
        MalformedModel,
        "equal scale",
    ),
    "mean axis too low": (
        only("MEAN", [IMAGE, constant([-5])], IMAGE, schema.ReducerOptionsT()),
        MalformedModel,
        "axis -5 of a tensor of rank 4",
    ),
    "mean axis too high": (
        only("MEAN", [IMAGE, constant([4])], IMAGE, schema.ReducerOptionsT()),
        MalformedModel,
        "axis 4",
    ),
    "mean axes of floats": (
        only("MEAN", [IMAGE, constant([1.0], np.float32)], IMAGE, schema.ReducerOptionsT()),
        UnsupportedModel,
        "axes of float32",
    ),
    "mean axes at run time": (
        only("MEAN", [IMAGE, TensorDef((2,), np.int32)], IMAGE, schema.ReducerOptionsT()),
        UnsupportedModel,
        "axes computed at run time",
    ),
    "concatenation axis": (
        only("CONCATENATION", [IMAGE, IMAGE], IMAGE, schema.ConcatenationOptionsT(axis=-5)),
        MalformedModel,
        "axis -5",
    ),
    "concatenation of nothing": (
        only("CONCATENATION", [], IMAGE, schema.ConcatenationOptionsT(axis=0)),
        MalformedModel,
        "has 0 inputs",
    ),
    "concatenation of unlike shapes": (
        only("CONCATENATION", [IMAGE, int8((1, 4, 5, 2))], IMAGE, schema.ConcatenationOptionsT(axis=1)),
        MalformedModel,
        "differ beside axis 1",
    ),
    "concatenation rescales int8": (
        only("CONCATENATION", [IMAGE, int8((1, 4, 4, 2), 0.25)], IMAGE, schema.ConcatenationOptionsT(axis=1)),
        MalformedModel,
        "output's scale",
    ),
    "concatenation with activation": (
        only(
            "CONCATENATION",
            [IMAGE],
            IMAGE,
            schema.ConcatenationOptionsT(axis=0, fusedActivationFunction=schema.ActivationFunctionType.RELU),
        ),
        UnsupportedModel,
        "fused activation relu",
    ),
    "reshape of other size": (
        only("RESHAPE", [IMAGE, constant([3, 11])], int8((3, 11)), schema.ReshapeOptionsT()),
        MalformedModel,
        "32 elements",
    ),
    "reshape with two unknowns": (
        only("RESHAPE", [IMAGE, constant([-1, -1])], int8((1, 32)), schema.ReshapeOptionsT()),
        MalformedModel,
        "at most one -1",
    ),
    "reshape that does not divide": (
        only("RESHAPE", [IMAGE, constant([-1, 5])], int8((1, 32)), schema.ReshapeOptionsT()),
        MalformedModel,
        "do not fit",
    ),
    "reshape with 0 and -1": (
        only("RESHAPE", [IMAGE, constant([-1, 0])], int8((1, 32)), schema.ReshapeOptionsT()),
        MalformedModel,
        "do not fit",
    ),
    "reshape at run time": (
        only("RESHAPE", [IMAGE, TensorDef((2,), np.int32)], int8((1, 32)), schema.ReshapeOptionsT()),
        UnsupportedModel,
        "shape computed at run time",
    ),
    "squeeze of a large dimension": (
        only("SQUEEZE", [IMAGE], IMAGE, schema.SqueezeOptionsT(squeezeDims=[1])),
        MalformedModel,
        "must be 1",
    ),
    "expand_dims beyond the rank": (
        only("EXPAND_DIMS", [IMAGE, constant([6])], IMAGE, schema.ExpandDimsOptionsT()),
        MalformedModel,
        "axis 6",
    ),
    "negative pads": (
        only("PAD", [IMAGE, constant([[0, 0], [-1, 0], [0, 0], [0, 0]])], IMAGE, schema.PadOptionsT()),
        MalformedModel,
        "negative",
    ),
    "pads of another rank": (
        only("PAD", [IMAGE, constant([[0, 0]])], IMAGE, schema.PadOptionsT()),
        MalformedModel,
        "must have shape 4x2",
    ),
    "resize to nothing": (
        only("RESIZE_BILINEAR", [IMAGE, constant([0, 4])], IMAGE, schema.ResizeBilinearOptionsT()),
        MalformedModel,
        "out_h=0",
    ),
    "resize with one size": (
        only("RESIZE_NEAREST_NEIGHBOR", [IMAGE, constant([4])], IMAGE, schema.ResizeNearestNeighborOptionsT()),
        MalformedModel,
        "height, width",
    ),
    "resize beyond the limit": (
        only(
            "RESIZE_NEAREST_NEIGHBOR",
            [IMAGE, constant([2**31 - 1, 2**31 - 1])],
            IMAGE,
            schema.ResizeNearestNeighborOptionsT(),
        ),
        ModelLimit,
        "elements",
    ),
    "arg_max of two axes": (
        only("ARG_MAX", [IMAGE, constant([1, 2])], TensorDef((1,), np.int32), schema.ArgMaxOptionsT()),
        MalformedModel,
        "one value",
    ),
    "arg_max of no axis": (
        only("ARG_MAX", [IMAGE, constant(-5)], TensorDef((1,), np.int32), schema.ArgMaxOptionsT()),
        MalformedModel,
        "axis -5",
    ),
    "depthwise weights that are no multiple": (
        only(
            "DEPTHWISE_CONV_2D",
            [IMAGE, int8((1, 1, 1, 3), data=np.ones((1, 1, 1, 3), np.int8))],
            IMAGE,
            schema.DepthwiseConv2DOptionsT(strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1),
        ),
        MalformedModel,
        "O=3 must be a multiple of input C=2",
    ),
    "dense rows that do not divide": (
        only(
            "FULLY_CONNECTED",
            [IMAGE, int8((2, 5), data=np.ones((2, 5), np.int8))],
            int8((6, 2)),
            schema.FullyConnectedOptionsT(),
        ),
        MalformedModel,
        "rows of weights I=5",
    ),
    "dense shuffled weights": (
        only(
            "FULLY_CONNECTED",
            [IMAGE, int8((2, 4), data=np.ones((2, 4), np.int8))],
            int8((8, 2)),
            schema.FullyConnectedOptionsT(weightsFormat=1),
        ),
        UnsupportedModel,
        "shuffled",
    ),
    "add that does not broadcast": (
        only("ADD", [IMAGE, int8((1, 4, 3, 2))], IMAGE, schema.AddOptionsT()),
        MalformedModel,
        "do not broadcast",
    ),
    "dequantize to int32": (
        only("DEQUANTIZE", [IMAGE], TensorDef((1, 4, 4, 2), np.int32)),
        UnsupportedModel,
        "output of int32",
    ),
    "strided slice with stride 0": (
        only(
            "STRIDED_SLICE",
            [constant([1, 2]), constant([0]), constant([1]), constant([0])],
            TensorDef((1,), np.int32),
            schema.StridedSliceOptionsT(),
        ),
        MalformedModel,
        "strides must not be 0",
    ),
    "strided slice of a missing element": (
        only(
            "STRIDED_SLICE",
            [constant([1, 2]), constant([2]), constant([3]), constant([1])],
            TensorDef((), np.int32),
            schema.StridedSliceOptionsT(shrinkAxisMask=1),
        ),
        MalformedModel,
        "index 2",
    ),
    "strided slice of too many dimensions": (
        only(
            "STRIDED_SLICE",
            [constant([1, 2]), constant([0, 0]), constant([1, 1]), constant([1, 1])],
            TensorDef((1,), np.int32),
            schema.StridedSliceOptionsT(),
        ),
        MalformedModel,
        "rank 1",
    ),
    "strided slice with an ellipsis for nothing": (
        only(
            "STRIDED_SLICE",
            [constant([1, 2]), constant([0, 0]), constant([1, 1]), constant([1, 1])],
            TensorDef((1,), np.int32),
            schema.StridedSliceOptionsT(ellipsisMask=1),
        ),
        UnsupportedModel,
        "ellipsis",
    ),
    "strided slice with two ellipses": (
        only(
            "STRIDED_SLICE",
            [IMAGE, constant([0, 0]), constant([1, 1]), constant([1, 1])],
            IMAGE,
            schema.StridedSliceOptionsT(ellipsisMask=3),
        ),
        MalformedModel,
        "2 ellipses",
    ),
    "strided slice of nothing": (
        only(
            "STRIDED_SLICE",
            [IMAGE, constant([0, 3]), constant([1, 2]), constant([1, 1])],
            IMAGE,
            schema.StridedSliceOptionsT(),
        ),
        MalformedModel,
        "slice of dimension 1 .* is empty",
    ),
    "slice beyond the end": (
        only("SLICE", [IMAGE, constant([0, 2, 0, 0]), constant([1, 3, 4, 2])], IMAGE, schema.SliceOptionsT()),
        MalformedModel,
        "elements 2 to 4 of dimension 1, which has 4",
    ),
    "slice of another rank": (
        only("SLICE", [IMAGE, constant([0]), constant([1])], IMAGE, schema.SliceOptionsT()),
        MalformedModel,
        "1 begins and 1 sizes for rank 4",
    ),
    "split that does not divide": (
        only("SPLIT", [constant(1), int8((1, 4)), int8((1, 3))], int8((1, 4)), schema.SplitOptionsT(numSplits=1)),
        MalformedModel,
        "SPLIT: has 3 inputs",
    ),
    "split_v of other sizes": (
        only("SPLIT_V", [IMAGE, constant([3]), constant(1)], IMAGE, schema.SplitVOptionsT(numSplits=1)),
        MalformedModel,
        "add up to 4",
    ),
    "split_v into too many": (
        only("SPLIT_V", [IMAGE, constant([2, 2]), constant(1)], IMAGE, schema.SplitVOptionsT(numSplits=2)),
        MalformedModel,
        "2 parts for 1 outputs",
    ),
    "unpack along no axis": (
        only("UNPACK", [IMAGE], IMAGE, schema.UnpackOptionsT(num=4, axis=4)),
        MalformedModel,
        "axis 4",
    ),
    "unpack of huge dimensions": (
        only("UNPACK", [int8((1, 2**30))], IMAGE, schema.UnpackOptionsT(num=1, axis=1)),
        MalformedModel,
        "1073741824 parts for 1 outputs",
    ),
    "transpose that repeats a dimension": (
        only("TRANSPOSE", [IMAGE, constant([0, 1, 1, 2])], IMAGE, schema.TransposeOptionsT()),
        MalformedModel,
        "must name each of 4 dimensions once",
    ),
    "transpose at run time": (
        only("TRANSPOSE", [IMAGE, TensorDef((4,), np.int32)], IMAGE, schema.TransposeOptionsT()),
        UnsupportedModel,
        "perm computed at run time",
    ),
    "transpose to another dtype": (
        only("TRANSPOSE", [IMAGE, constant([0, 1, 2, 3])], TensorDef((1, 4, 4, 2), np.uint8, 0.5, 0)),
        MalformedModel,
        "output of uint8 must have the input's dtype int8",
    ),
    "gather beyond the end": (
        only("GATHER", [IMAGE, constant([0, 4])], IMAGE, schema.GatherOptionsT(axis=1)),
        MalformedModel,
        "index 4 of dimension 1, which has 4 elements",
    ),
    "gather with indices of floats": (
        only("GATHER", [IMAGE, constant([0.0], np.float32)], IMAGE, schema.GatherOptionsT(axis=1)),
        UnsupportedModel,
        "indices of float32",
    ),
    "gather with too many batch dimensions": (
        only("GATHER", [IMAGE, constant([[0]])], IMAGE, schema.GatherOptionsT(axis=1, batchDims=2)),
        MalformedModel,
        "batch_dims 2",
    ),
    "gather_nd beyond the end": (
        only("GATHER_ND", [IMAGE, constant([[0, -1]])], IMAGE, schema.GatherNdOptionsT()),
        MalformedModel,
        "index -1 of dimension 1",
    ),
    "gather_nd of too many dimensions": (
        only("GATHER_ND", [IMAGE, constant([[0, 0, 0, 0, 0]])], IMAGE, schema.GatherNdOptionsT()),
        MalformedModel,
        "coordinates of 5 dimensions",
    ),
    "tile of another rank": (
        only("TILE", [IMAGE, constant([2, 2])], IMAGE, schema.TileOptionsT()),
        MalformedModel,
        "2 multiples for a tensor of rank 4",
    ),
    "tile of nothing": (
        only("TILE", [IMAGE, constant([1, 0, 1, 1])], IMAGE, schema.TileOptionsT()),
        MalformedModel,
        "must be positive",
    ),
    "tile without end": (
        only("TILE", [IMAGE, constant([1, 2**30, 2**30, 1])], IMAGE, schema.TileOptionsT()),
        ModelLimit,
        "TILE gives .* elements",
    ),
    "broadcast to a smaller shape": (
        only("BROADCAST_TO", [IMAGE, constant([1, 2, 4, 2])], IMAGE, schema.BroadcastToOptionsT()),
        MalformedModel,
        "does not broadcast",
    ),
    "space to depth of an odd image": (
        only("SPACE_TO_DEPTH", [IMAGE], IMAGE, schema.SpaceToDepthOptionsT(blockSize=3)),
        MalformedModel,
        "multiple of block 3",
    ),
    "depth to space of too few channels": (
        only("DEPTH_TO_SPACE", [IMAGE], IMAGE, schema.DepthToSpaceOptionsT(blockSize=2)),
        MalformedModel,
        "multiple of 2.2",
    ),
    "space to depth in blocks of 0": (
        only("SPACE_TO_DEPTH", [IMAGE], IMAGE, schema.SpaceToDepthOptionsT(blockSize=0)),
        MalformedModel,
        "block=0",
    ),
    "space to batch with odd blocks": (
        only("SPACE_TO_BATCH_ND", [IMAGE, constant([3, 1]), constant([[0, 1], [0, 0]])], IMAGE),
        MalformedModel,
        "padded size 5",
    ),
    "space to batch with paddings of another shape": (
        only("SPACE_TO_BATCH_ND", [IMAGE, constant([1, 1]), constant([0, 1, 0, 0])], IMAGE),
        MalformedModel,
        "paddings 4 must have shape Rx2",
    ),
    "batch to space that crops all": (
        only("BATCH_TO_SPACE_ND", [IMAGE, constant([1, 1]), constant([[2, 2], [0, 0]])], IMAGE),
        MalformedModel,
        "leave nothing",
    ),
    "batch to space of too few images": (
        only("BATCH_TO_SPACE_ND", [IMAGE, constant([2, 1]), constant([[0, 0], [0, 0]])], IMAGE),
        MalformedModel,
        "batch 1 must be a multiple",
    ),
    "mirror beyond the image": (
        only(
            "MIRROR_PAD", [IMAGE, constant([[0, 0], [4, 0], [0, 0], [0, 0]])], IMAGE, schema.MirrorPadOptionsT(mode=0)
        ),
        MalformedModel,
        "at most 3",
    ),
    "mirror of another kind": (
        only("MIRROR_PAD", [IMAGE, constant([[0, 0]] * 4)], IMAGE, schema.MirrorPadOptionsT(mode=3)),
        MalformedModel,
        "mode 3",
    ),
    "padv2 with a value of another scale": (
        only("PADV2", [IMAGE, constant([[0, 0]] * 4), int8((1,), 0.25, data=np.zeros(1, np.int8))], IMAGE),
        MalformedModel,
        "value must have the output's scale",
    ),
    "cast of floats": (
        only("CAST", [TensorDef((1, 2), np.float32)], TensorDef((1, 2), np.int32), schema.CastOptionsT()),
        UnsupportedModel,
        "CAST: input of float32",
    ),
    "prelu with a larger alpha": (
        only("PRELU", [int8((1, 1)), int8((3, 4))], IMAGE),
        MalformedModel,
        "alpha 3x4 must broadcast to input 1x1",
    ),
    "squared difference to a tiny scale": (
        only("SQUARED_DIFFERENCE", [IMAGE, IMAGE], int8((1, 4, 4, 2), 1e-6)),
        MalformedModel,
        "must be below 1",
    ),
    "hard swish to a tiny scale": (
        only("HARD_SWISH", [IMAGE], int8((1, 4, 4, 2), 0.5 / 200)),
        MalformedModel,
        "128 output scales",
    ),
    "comparison of unlike dtypes": (
        only("LESS", [IMAGE, TensorDef((1, 4, 4, 2), np.int32)], TensorDef((1, 4, 4, 2), bool)),
        MalformedModel,
        "inputs of int8 and int32",
    ),
    "comparison of large scales": (
        only("LESS", [int8((1, 2), 1.0), int8((1, 2), 0.5)], TensorDef((1, 2), bool)),
        MalformedModel,
        "must be below 1",
    ),
    "order of truth values": (
        only("LESS", [TensorDef((1, 2), bool), TensorDef((1, 2), bool)], TensorDef((1, 2), bool)),
        UnsupportedModel,
        "LESS: input of bool",
    ),
    "select by numbers": (
        only("SELECT_V2", [IMAGE, IMAGE, IMAGE], IMAGE),
        MalformedModel,
        "must be bool",
    ),
    "select by another shape": (
        only("SELECT", [TensorDef((4,), bool), IMAGE, IMAGE], IMAGE),
        MalformedModel,
        "does not fit",
    ),
    "reduce_max that rescales": (
        only("REDUCE_MAX", [IMAGE, constant([1])], int8((1, 4, 2), 0.25), schema.ReducerOptionsT()),
        MalformedModel,
        "equal scale",
    ),
    "l2 normalization to another scale": (
        only("L2_NORMALIZATION", [IMAGE], int8((1, 4, 4, 2), 1 / 127), schema.L2NormOptionsT()),
        MalformedModel,
        "scale 1/128",
    ),
    "matrices that do not meet": (
        only("BATCH_MATMUL", [int8((2, 3)), int8((2, 3))], int8((2, 3)), schema.BatchMatMulOptionsT()),
        MalformedModel,
        "3 columns meet 2 rows",
    ),
    "transposed convolution of other channels": (
        only(
            "TRANSPOSE_CONV",
            [constant([1, 8, 8, 1]), int8((1, 2, 2, 3), data=np.zeros((1, 2, 2, 3), np.int8)), IMAGE],
            IMAGE,
            schema.TransposeConvOptionsT(strideH=2, strideW=2),
        ),
        MalformedModel,
        "weights I=3 .* must equal input C=2",
    ),
    "transposed convolution to another shape": (
        only(
            "TRANSPOSE_CONV",
            [constant([1, 8, 8, 5]), int8((1, 2, 2, 2), data=np.zeros((1, 2, 2, 2), np.int8)), IMAGE],
            IMAGE,
            schema.TransposeConvOptionsT(strideH=2, strideW=2),
        ),
        MalformedModel,
        "N=1 and C=1",
    ),
    "pack of unlike shapes": (
        only(
            "PACK",
            [constant([1, 2]), constant([1, 2, 3])],
            TensorDef((2, 2), np.int32),
            schema.PackOptionsT(valuesCount=2),
        ),
        MalformedModel,
        "PACK",
    ),
    "pack along no axis": (
        only(
            "PACK",
            [constant([1, 2]), constant([1, 2])],
            TensorDef((2, 2), np.int32),
            schema.PackOptionsT(axis=7, valuesCount=2),
        ),
        MalformedModel,
        "PACK",
    ),
    "pack of nothing": (
        only("PACK", [], TensorDef((2, 2), np.int32), schema.PackOptionsT(valuesCount=0)),
        MalformedModel,
        "PACK",
    ),
    "pack that rescales": (
        only("PACK", [IMAGE, IMAGE], int8((2, 1, 4, 4, 2), 0.25), schema.PackOptionsT(valuesCount=2)),
        MalformedModel,
        "output's scale",
    ),
}


INT4_VALUES = np.array([-8, 7, -1, 0, 3, -4, 5], np.int8)


def int4_layer(weights: TensorDef) -> bytes:
    inputs = [int8((1, 7), 1.0), weights, None]
    return only("FULLY_CONNECTED", inputs, int8((1, 1), 1.0), schema.FullyConnectedOptionsT())


def test_int4_weights_are_unpacked() -> None:
    """Seven values in four bytes, the low half first."""
    weights = TensorDef((1, 7), np.int8, 1.0, data=INT4_VALUES.reshape(1, 7), bits=4)
    content = int4_layer(weights)
    assert bytes([0x78, 0x0F, 0xC3, 0x05]) in content
    model = load(content)
    data = model.graph.tensors[1].data
    assert data is not None
    assert data.tolist() == [INT4_VALUES.tolist()]
    one_at_a_time = np.eye(7, dtype=np.int8)
    assert model(one_at_a_time).reshape(-1).tolist() == INT4_VALUES.tolist()


def test_int2_weights_are_unpacked() -> None:
    """Seven values in two bytes, the first in the lowest bits; only FULLY_CONNECTED has them."""
    values = np.array([-2, 1, -1, 0, 1, -2, -1], np.int8)
    weights = TensorDef((1, 7), np.int8, 1.0, data=values.reshape(1, 7), bits=2)
    content = only(
        "FULLY_CONNECTED", [int8((1, 7), 1.0), weights, None], int8((1, 1), 1.0), schema.FullyConnectedOptionsT()
    )
    assert bytes([0b00_11_01_10, 0b00_11_10_01]) in content
    model = load(content)
    assert model(np.eye(7, dtype=np.int8)).reshape(-1).tolist() == values.tolist()
    short = edited(content, lambda model: setattr(tensor_of(model, 0, 1), "shape", [1, 9]))
    refused(short, MalformedModel, "2 bytes, 1x9 of int2 needs 3")
    for numerics in ("tflm", "single"):
        with pytest.raises(UnsupportedModel, match="FULLY_CONNECTED on int8, TFLite Micro has no int2 weights"):
            gpuq.load(content, numerics=numerics)
    taps = TensorDef((1, 1, 1, 7), np.int8, 1.0, data=values.reshape(1, 1, 1, 7), bits=2)
    options = schema.Conv2DOptionsT(strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    refused(
        only("CONV_2D", [int8((1, 2, 2, 7)), taps, None], int8((1, 2, 2, 1)), options), UnsupportedModel, "type INT2"
    )


def test_a_profile_may_refuse_int4() -> None:
    weights = TensorDef((1, 7), np.int8, 1.0, 3, data=INT4_VALUES.reshape(1, 7), bits=4)
    gpuq.load(int4_layer(weights), numerics="tflm")
    for numerics in ("litert_ref", "litert_opt", "xnnpack"):
        with pytest.raises(UnsupportedModel, match="FULLY_CONNECTED on int8, LiteRT takes no zero point with int4"):
            gpuq.load(int4_layer(weights), numerics=numerics)


def test_int4_anywhere_else_is_refused() -> None:
    packed_constant = TensorDef((1, 7), np.int8, 1.0, data=INT4_VALUES.reshape(1, 7), bits=4)
    refused(only("ADD", [int8((1, 7)), packed_constant], int8((1, 7)), schema.AddOptionsT()), UnsupportedModel, "INT4")
    net = Network()
    x = net.tensor(int8((1, 7)))
    net.operator("RELU", [x], int8((1, 7)))
    refused(net.build([x], [net.tensor(packed_constant)]), UnsupportedModel, "output .* of type INT4")
    short = edited(int4_layer(packed_constant), lambda model: setattr(tensor_of(model, 0, 1), "shape", [1, 9]))
    refused(short, MalformedModel, "4 bytes, 1x9 of int4 needs 5")


@pytest.mark.parametrize("name", OPERATOR_RULES)
def test_operator_rules(name: str) -> None:
    content, error, message = OPERATOR_RULES[name]
    refused(content, error, message)


def test_negative_axes_count_from_the_back(seed: int) -> None:
    x = np.random.default_rng(seed).integers(-128, 128, (3, 4, 4, 2)).astype(np.int8)
    wide = int8((1, 4, 4, 4))

    def results(shift: int) -> list[np.ndarray]:
        contents = [
            only("MEAN", [IMAGE, constant([1 - shift, 2 - shift])], IMAGE, schema.ReducerOptionsT(keepDims=True)),
            only(
                "ARG_MAX",
                [IMAGE, constant(2 - shift)],
                TensorDef((1, 4, 2), np.int64),
                schema.ArgMaxOptionsT(outputType=4),
            ),
            only("CONCATENATION", [IMAGE, IMAGE], wide, schema.ConcatenationOptionsT(axis=3 - shift)),
            # EXPAND_DIMS counts over one dimension more.
            only("EXPAND_DIMS", [IMAGE, constant(2 - shift - (shift > 0))], IMAGE, schema.ExpandDimsOptionsT()),
        ]
        models = [load(content) for content in contents]
        return [model(*[x] * len(model.graph.inputs)) for model in models]

    for positive, negative in zip(results(0), results(4), strict=True):
        assert_equal_bits(negative, positive, f"seed {seed}")
    squeezed = only("SQUEEZE", [int8((1, 3, 1, 2))], int8((1, 3, 2)), schema.SqueezeOptionsT(squeezeDims=[-2]))
    assert load(squeezed)(np.zeros((2, 3, 1, 2), np.int8)).shape == (2, 3, 2)


ONE_INPUT = [
    "SOFTMAX",
    "RELU",
    "RELU6",
    "LOGISTIC",
    "QUANTIZE",
    "DEQUANTIZE",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
    "SQUEEZE",
]


@pytest.mark.parametrize("op", [*ONE_INPUT, "MUL", "ADD", "CONV_2D", "FULLY_CONNECTED", "MEAN", "RESHAPE"])
@pytest.mark.parametrize("surplus", ["activation", "constant", "left out"])
def test_more_inputs_than_the_operator_has(op: str, surplus: str) -> None:
    image = int8((1, 2, 2, 1), 1 / 256, -128)
    weights = int8(
        (1, 1, 1, 1) if op == "CONV_2D" else (1, 1),
        data=np.ones((1, 1, 1, 1), np.int8).reshape((1, 1, 1, 1) if op == "CONV_2D" else (1, 1)),
    )
    proper: dict[str, list[TensorDef | None]] = {
        "MUL": [image, image],
        "ADD": [image, image],
        "CONV_2D": [image, weights, None],
        "FULLY_CONNECTED": [image, weights, None],
        "MEAN": [image, constant([1, 2])],
        "RESHAPE": [image, constant([1, 4])],
    }
    options = {
        "SOFTMAX": schema.SoftmaxOptionsT(beta=1.0),
        "MAX_POOL_2D": pool_options(),
        "AVERAGE_POOL_2D": pool_options(),
        "SQUEEZE": schema.SqueezeOptionsT(squeezeDims=[]),
        "MUL": schema.MulOptionsT(),
        "ADD": schema.AddOptionsT(),
        "CONV_2D": schema.Conv2DOptionsT(strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1),
        "FULLY_CONNECTED": schema.FullyConnectedOptionsT(),
        "MEAN": schema.ReducerOptionsT(),
        "RESHAPE": schema.ReshapeOptionsT(),
    }.get(op)
    more = {"activation": image, "constant": constant([1]), "left out": None}[surplus]
    out = TensorDef((1, 2, 2, 1), np.float32) if op == "DEQUANTIZE" else image
    content = only(op, [*proper.get(op, [image]), more], out, options)
    refused(content, MalformedModel, f"{op}.*input")


# --------------------------------------------------------------------------------- all problems in one message


def test_all_unsupported_operators_in_one_error_with_counts() -> None:
    net = Network()
    x = net.tensor(int8((1, 4)))
    for _ in range(7):
        x = net.operator("GELU", [x], int8((1, 4)))
    x = net.operator("LOG", [x], int8((1, 4)))
    x = net.operator("RELU", [x], int8((1, 4)))
    x = net.operator("LOG", [x], int8((1, 4)))
    content = net.build([0], [x])
    with pytest.raises(UnsupportedModel) as caught:
        load(content)
    text = str(caught.value)
    assert "GELU (7 operators: #0 'tensor_1', #1 'tensor_2', " in text
    assert "LOG (2 operators: #7 'tensor_8', #9 'tensor_10')" in text
    assert caught.value.operators == (0, 1, 2, 3, 4, 5, 6, 7, 9)
    assert "RELU (" not in text


def test_operators_that_the_profile_lacks_in_one_error_with_counts() -> None:
    net = Network()
    x = first = net.tensor(TensorDef((1, 4), np.uint8, 0.5, 0))
    for op, options in (("RELU", None), ("RELU", None), ("SOFTMAX", schema.SoftmaxOptionsT(beta=1.0))):
        x = net.operator(op, [x], TensorDef((1, 4), np.uint8, 1 / 256, 0), options)
    content = net.build([first], [x])
    load(content)
    with pytest.raises(UnsupportedModel, match="tflm") as caught:
        load(content, numerics="tflm")
    assert "RELU on uint8 (2 operators: #0 'tensor_1', #1 'tensor_2')" in str(caught.value)
    assert "SOFTMAX on uint8 (1 operator: #2 'tensor_3')" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "name"), [(300, "operator 300"), (210, "operator 210"), (2**31 - 1, "operator 2147483647")]
)
def test_unknown_operators(code: int, name: str) -> None:
    refused(edited(SMALL, lambda model: setattr(model.operatorCodes[ADD], "builtinCode", code)), UnsupportedModel, name)


def test_custom_operators_are_named() -> None:
    def change(model: Any) -> None:
        model.operatorCodes[ADD].builtinCode = model.operatorCodes[ADD].deprecatedBuiltinCode = 32
        model.operatorCodes[ADD].customCode = "MyFancyOp"

    refused(edited(SMALL, change), UnsupportedModel, "CUSTOM MyFancyOp")


def test_old_files_have_operator_codes_in_the_deprecated_field() -> None:
    def change(model: Any) -> None:
        for code in model.operatorCodes:
            code.builtinCode = 0

    x = np.full((1, 6, 6, 3), 50, np.int8)
    assert load(edited(SMALL, change))(x).tolist() == load(SMALL)(x).tolist()


def test_float_operators_without_a_rule_are_refused() -> None:
    """TFLite Micro's float kernels are not measured; int4 weights are not mistaken for int8."""
    x = TensorDef((1, 7), np.float32)
    for op in ("TANH", "LOGISTIC", "ABS", "RELU_N1_TO_1"):
        refused(only(op, [x], x), UnsupportedModel, f"{op} on float32", numerics="tflm")
    weights = TensorDef((1, 7), np.int8, 1.0, data=INT4_VALUES.reshape(1, 7), bits=4)
    out = TensorDef((1, 1), np.float32)
    content = only("FULLY_CONNECTED", [x, weights, None], out, schema.FullyConnectedOptionsT())
    refused(content, UnsupportedModel, "FULLY_CONNECTED: float32 tensors with weights of int4")


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(b"no model at all")
    with pytest.raises(MalformedModel, match=r"^net.tflite: not a .tflite file"):
        gpuq.load(path)
    with pytest.raises(FileNotFoundError):
        gpuq.load(tmp_path / "missing.tflite")


# -------------------------------------------------------------------------------------- limits and amplification


def test_limits() -> None:
    refused(SMALL, ModelLimit, f"{len(SMALL)} bytes", limits=Limits(file_bytes=len(SMALL) - 1))
    load(SMALL, limits=Limits(file_bytes=len(SMALL)))
    # The largest tensors: the dense weights have 180 elements.
    refused(SMALL, ModelLimit, "180 elements; the limit is 179", limits=Limits(elements=179))
    load(SMALL, limits=Limits(elements=180))
    refused(SMALL, ModelLimit, "1476 multiply-accumulates", limits=Limits(macs=1475))
    load(SMALL, limits=Limits(macs=1476))


def test_one_vector_of_too_many_entries() -> None:
    net = Network()
    x = net.tensor(int8((1, 1)))
    out = net.operator("CONCATENATION", [x] * 100_001, int8((1, 100_001)), schema.ConcatenationOptionsT(axis=1))
    refused(net.build([x], [out]), ModelLimit, "100001")


def test_limits_count_folded_tensors() -> None:
    """PACK of a constant with itself doubles it: twenty operators make a million elements of one."""
    net = Network()
    x, doubled = net.tensor(int8((1, 4))), net.tensor(constant([1]))
    for _ in range(20):
        doubled = net.operator(
            "PACK", [doubled, doubled], TensorDef((2,), np.int32), schema.PackOptionsT(axis=0, valuesCount=2)
        )
    content = net.build([x], [net.operator("RELU", [x], int8((1, 4)))])
    refused(content, ModelLimit, "PACK.*elements", limits=Limits(elements=1000))


def test_tensors_of_one_buffer_share_it() -> None:
    """Files may use a buffer many times; a megabyte must not become one per tensor."""
    net = Network()
    x = net.tensor(int8((1, 4)))
    net.tensor(int8((1 << 20,), data=np.zeros(1 << 20, np.int8)))
    for _ in range(99):
        net.tensor(int8((1 << 20,)))
        net.graph.tensors[-1].buffer = 1
    content = net.build([x], [net.operator("RELU", [x], int8((1, 4)))])
    tracemalloc.start()
    try:
        load(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(content), f"{peak} bytes for a file of {len(content)}"


@pytest.mark.parametrize("with_data", [False, True])
def test_more_dimensions_than_numpy_has(with_data: bool) -> None:
    def change(model: Any) -> None:
        tensor = model.subgraphs[0].tensors[WEIGHTS if with_data else 0]
        tensor.shape = [1] * 70 if not with_data else [108] + [1] * 70

    with pytest.raises(ModelError, match="70|71|rank|dimensions"):
        load(edited(SMALL, change))


@pytest.mark.parametrize("count", [65, 5_000, 30_000])
def test_unused_tensors_of_absurd_rank(count: int) -> None:
    net = Network()
    x = net.tensor(int8((1, 4)))
    net.tensor(int8((1, 4)))
    net.graph.tensors[-1].shape = np.full(count, 2**31 - 1, np.int32)
    content = net.build([x], [net.operator("RELU", [x], int8((1, 4)))])
    with pytest.raises(ModelError):
        load(content)


class Shared(schema.TensorT):  # type: ignore[misc]
    """A tensor that is written once, however often a graph lists it."""

    offset: Any = None

    def Pack(self, builder: Any) -> Any:
        if self.offset is None:
            self.offset = super().Pack(builder)
        return self.offset


@pytest.mark.parametrize("field", ["shape", "scale", "name"])
def test_small_files_that_describe_huge_models(field: str) -> None:
    """A flatbuffer may refer to one table many times: a few kilobytes that take minutes, or gigabytes, entry by entry."""
    net = Network()
    x = net.tensor(int8((1, 4)))
    out = net.operator("RELU", [x], int8((1, 4)))
    shared = Shared()
    shared.shape, shared.hasRank, shared.name = np.array([4], np.int32), True, "x"
    if field == "shape":
        shared.shape = np.ones(20_000, np.int32)
    elif field == "scale":
        shared.quantization = schema.QuantizationParametersT()
        shared.quantization.scale = np.ones(20_000, np.float32)
    else:
        shared.name = "x" * 80_000
    net.graph.tensors += [shared] * (500 if field == "shape" else 2_000)
    content = net.build([x], [out])
    assert len(content) < 100_000
    tracemalloc.start()
    try:
        with contextlib.suppress(ModelError):
            load(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000, f"{peak} bytes for a file of {len(content)}"


class SharedOperator(schema.OperatorT):  # type: ignore[misc]
    """An operator that is written once, however often a graph lists it."""

    offset: Any = None

    def Pack(self, builder: Any) -> Any:
        if self.offset is None:
            self.offset = super().Pack(builder)
        return self.offset


class SharedSignature(schema.SignatureDefT):  # type: ignore[misc]
    """A signature that is written once, however often a model lists it."""

    offset: Any = None

    def Pack(self, builder: Any) -> Any:
        if self.offset is None:
            self.offset = super().Pack(builder)
        return self.offset


@pytest.mark.parametrize("kind", ["tensors", "operators", "signatures"])
def test_small_files_of_a_great_many_entries(kind: str) -> None:
    """The number of entries in all, not only of each vector, is what reading costs."""
    net = Network()
    x = net.tensor(int8((1, 4)))
    out = net.operator("CONCATENATION", [x], int8((1, 4)), schema.ConcatenationOptionsT(axis=1))
    net.build([x], [out])
    if kind == "tensors":
        tensor = Shared()
        tensor.shape, tensor.hasRank, tensor.name = np.array([4], np.int32), True, "x"
        net.graph.tensors += [tensor] * 50_000
    elif kind == "operators":
        operator_ = SharedOperator()
        operator_.opcodeIndex, operator_.inputs, operator_.outputs = 0, [x] * 20_000, [out]
        net.graph.operators += [operator_] * 1_500
    else:
        signature = SharedSignature()
        signature.signatureKey, signature.inputs, signature.outputs = (
            "many",
            net.model.signatureDefs[0].inputs * 700,
            [],
        )
        net.model.signatureDefs += [signature] * 500
    content = packed(net.model)
    assert len(content) < 300_000
    with contextlib.suppress(ModelError):
        load(content)


@pytest.mark.parametrize("kind", ["string", "int4", "empty"])
def test_inputs_that_nothing_reads(kind: str) -> None:
    """An unused input of a type or shape that gpuq lacks: refused when loading, or harmless when running."""
    net = Network()
    x, unused = net.tensor(int8((1, 4))), net.tensor(int8((0, 4) if kind == "empty" else (1, 4)))
    types = {"string": schema.TensorType.STRING, "int4": schema.TensorType.INT4, "empty": schema.TensorType.INT8}
    net.graph.tensors[unused].type = types[kind]
    content = net.build([x, unused], [net.operator("RELU", [x], int8((1, 4)))])
    with pytest.raises(UnsupportedModel, match="input"):
        load(content)


def test_state_quantized_per_channel_is_refused() -> None:
    # Nothing says to which of several zero points such state would be reset.
    net = Network()
    x = net.tensor(int8((1, 4)))
    net.tensor(TensorDef((1, 4), np.int8, [1.0, 1.0, 1.0, 1.0], 0, axis=1), is_variable=True)
    content = net.build([x], [net.operator("RELU", [x], int8((1, 4)))])
    with pytest.raises(ModelError, match="variable|state|per tensor"):
        load(content)


def test_constants_as_inputs_are_refused() -> None:
    # Its value is known, so what a caller passes would be ignored.
    net = Network()
    x = net.tensor(int8((1, 4), data=np.ones((1, 4), np.int8)))
    content = net.build([x], [net.operator("RELU", [x], int8((1, 4)))])
    with pytest.raises(ModelError, match="input"):
        load(content)


def test_constants_folded_at_load_time_are_limited() -> None:
    """Enlarging a constant is work at load time: it counts against the limits as any tensor does, and takes no time."""
    net = Network()
    x, small = net.tensor(int8((1, 4))), net.tensor(int8((1, 2, 2, 1), data=np.ones((1, 2, 2, 1), np.int8)))
    large = net.operator(
        "RESIZE_NEAREST_NEIGHBOR",
        [small, net.tensor(constant([4000, 4000]))],
        int8((1, 4000, 4000, 1)),
        schema.ResizeNearestNeighborOptionsT(),
    )
    content = net.build([x], [net.operator("RELU", [x], int8((1, 4))), large])
    refused(content, ModelLimit, "16000000 elements", limits=Limits(elements=1 << 20))


def test_packed_is_what_the_reader_reads() -> None:
    """The tests' own writer and reader agree: a file that goes through schema objects stays the same model."""
    assert edited(SMALL, lambda model: None) == packed(schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(SMALL, 0)))
    assert read(edited(SMALL, lambda model: None)).nodes == read(SMALL).nodes
