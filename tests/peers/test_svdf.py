"""SVDF beside LiteRT and TFLite Micro: random layers, several invokes with the state between them."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq.errors import UnsupportedModel
from gpuq.model.tflite_reader import read
from gpuq.model.tflite_writer import write
from tests.compare import assert_equal_bits
from tests.networks import Network

from .one_operator import TensorDef
from .runtimes import PEERS

CASES = 20
INVOKES = 4


def layer(rng: np.random.Generator, *, with_bias: bool = True, activation: int = 1, second: bool = False) -> bytes:
    rows, in_c, units, rank, memory = (int(n) for n in rng.integers(1, (3, 30, 12, 4, 12)))
    filters = units * rank
    scales = {name: float(rng.uniform(0.5, 2) * size) for name, size in _SIZES.items()}
    network = Network()
    x = network.tensor(TensorDef((rows, in_c), np.int8, scales["x"], int(rng.integers(-128, 128)), name="x"))
    weights = rng.integers(-127, 128, (filters, in_c)).astype(np.int8)
    features = network.tensor(TensorDef(weights.shape, np.int8, scales["features"], 0, data=weights))
    kernel = rng.integers(-32767, 32768, (filters, memory)).astype(np.int16)
    times = network.tensor(TensorDef(kernel.shape, np.int16, scales["times"], 0, data=kernel))
    bias = -1
    if with_bias:
        values = rng.integers(-(2**20), 2**20, units).astype(np.int32)
        bias = network.tensor(TensorDef((units,), np.int32, scales["state"] * scales["times"], 0, data=values))
    state_def = TensorDef((rows, filters * memory), np.int16, scales["state"], 0, name="state")
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


@pytest.mark.parametrize("profile", ["litert_ref", "litert_opt", "xnnpack", "tflm"])
def test_random_layers(profile: str, seed: int) -> None:
    """A session equals the interpreter's invokes; a call starts from zero state."""
    for number in range(CASES):
        rng = np.random.default_rng([seed, number])
        content = layer(rng, with_bias=profile == "tflm" or bool(rng.integers(4)))
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
    with pytest.raises(UnsupportedModel, match="a fused activation other than RELU"):
        gpuq.load(layer(np.random.default_rng(seed), activation=0), device="cpu")
    with pytest.raises(UnsupportedModel, match="a state that other operators read.*'state'"):
        gpuq.load(layer(np.random.default_rng(seed), second=True), device="cpu")
