"""SVDF beside LiteRT and TFLite Micro: random layers, several invokes with the state between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq.errors import InputTypeError, UnsupportedModel
from gpuq.model.tflite_reader import read
from gpuq.model.tflite_writer import write
from gpuq.quant import Quant
from tests.compare import assert_equal_bits
from tests.networks import Network

from . import layers_each
from .one_operator import TensorDef
from .runtimes import PEERS

CASES = layers_each(20)
INVOKES = 4


def layer(
    rng: np.random.Generator,
    *,
    with_bias: bool = True,
    activation: int = 1,
    second: bool = False,
    dtype: str = "int16",
) -> bytes:
    """A model with this operator alone; state and time weights of this dtype."""
    rows, in_c, units, rank, memory = (int(n) for n in rng.integers(1, (3, 30, 12, 4, 12)))
    filters = units * rank
    largest, sizes = np.iinfo(dtype).max, _SIZES if dtype == "int16" else _SIZES | _INT8_SIZES
    scales = {name: float(rng.uniform(0.5, 2) * size) for name, size in sizes.items()}
    network = Network()
    x = network.tensor(TensorDef((rows, in_c), np.int8, scales["x"], int(rng.integers(-128, 128)), name="x"))
    weights = rng.integers(-127, 128, (filters, in_c)).astype(np.int8)
    features = network.tensor(TensorDef(weights.shape, np.int8, scales["features"], 0, data=weights))
    kernel = rng.integers(-largest, largest + 1, (filters, memory)).astype(dtype)
    times = network.tensor(TensorDef(kernel.shape, np.dtype(dtype).type, scales["times"], 0, data=kernel))
    bias = -1
    if with_bias:
        values = rng.integers(-32 * largest, 32 * largest, units).astype(np.int32)
        bias = network.tensor(TensorDef((units,), np.int32, scales["state"] * scales["times"], 0, data=values))
    zero_point = int(rng.integers(-128, 128)) if dtype == "int8" else 0
    state_def = TensorDef((rows, filters * memory), np.dtype(dtype).type, scales["state"], zero_point, name="state")
    state = network.tensor(state_def, is_variable=True)
    out = TensorDef((rows, units), np.int8, scales["out"], int(rng.integers(-128, 128)), name="y")
    options = schema.SVDFOptionsT()
    options.rank, options.fusedActivationFunction = rank, activation
    inputs = [x, features, times, bias, state]
    y = network.operator("SVDF", inputs, out, options, version=3)
    outputs = [y]
    if second:
        outputs.append(network.operator("SVDF", inputs, out, options, version=3))
    return network.build([x], outputs)


_SIZES = {"x": 0.05, "features": 0.02, "state": 0.005, "times": 0.0004, "out": 0.5}
_INT8_SIZES = {"state": 0.2, "times": 0.02}


@pytest.mark.parametrize(
    ("profile", "dtype"),
    [("litert_ref", "int16"), ("litert_opt", "int16"), ("xnnpack", "int16"), ("tflm", "int16"), ("tflm", "int8")],
)
def test_random_layers(profile: str, dtype: str, seed: int) -> None:
    """A session equals the interpreter's invokes; a call starts from zero state."""
    for number in range(CASES):
        rng = np.random.default_rng([seed, number])
        micro = profile == "tflm"
        activation = int(rng.integers(5)) if micro else 1
        content = layer(rng, with_bias=micro or bool(rng.integers(4)), activation=activation, dtype=dtype)
        model = gpuq.load(content, device="cpu", numerics=profile)
        shape = model.graph.tensors[0].shape
        frames = rng.integers(-128, 128, (INVOKES, *shape)).astype(np.int8)
        peer, session = PEERS[profile](content), model.session()
        for invoke, frame in enumerate(frames):
            (want,) = peer.run([frame]).outputs
            where = f"case {number}, invoke {invoke}, {profile}, seed {seed}"
            assert_equal_bits(session(frame), want, where)
            if invoke == 0:
                assert_equal_bits(model(frame), want, where)
        again = np.concatenate([frames[0], frames[1]])
        first = model(again)
        assert_equal_bits(first[: len(frames[0])], model(frames[0]), f"batch, case {number}, seed {seed}")


def test_single_rounds_once(seed: int) -> None:
    content = layer(np.random.default_rng(seed))
    assert gpuq.load(content, device="cpu", numerics="single").graph.nodes[0].spec.op == "SVDF"


def test_writing(seed: int) -> None:
    content = layer(np.random.default_rng(seed))
    assert read(write(read(content))).nodes == read(content).nodes


def test_refusals(seed: int) -> None:
    with pytest.raises(UnsupportedModel, match="without a bias"):
        gpuq.load(layer(np.random.default_rng(seed), with_bias=False), device="cpu", numerics="tflm")
    with pytest.raises(UnsupportedModel, match="no fused activation but RELU"):
        gpuq.load(layer(np.random.default_rng(seed), activation=0), device="cpu")
    spec = read(layer(np.random.default_rng(seed), dtype="int8")).nodes[0].spec
    with pytest.raises(InputTypeError, match="time weights of int8 is not supported; it must be int16"):
        replace(spec, state_quant=Quant(0.1, 0, dtype="int16"))
    with pytest.raises(UnsupportedModel, match="reads int8 states and time weights as int16"):
        gpuq.load(layer(np.random.default_rng(seed), dtype="int8"), device="cpu")
    with pytest.raises(UnsupportedModel, match="a state that other operators read.*'state'"):
        gpuq.load(layer(np.random.default_rng(seed), second=True), device="cpu")
