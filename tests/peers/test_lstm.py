"""UNIDIRECTIONAL_SEQUENCE_LSTM of int8 beside LiteRT and TFLite Micro: random layers, several invokes with the state between them."""

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
INVOKES = 3


def layer(
    rng: np.random.Generator, *, activation: int = 4, time_major: bool = False, with_cifg: bool | None = None
) -> bytes:
    """Scales such that gates and cells move through all of their range, and a hidden zero point that counts."""
    batch, steps, in_c, units = (int(n) for n in rng.integers(1, (3, 6, 20, 20)))
    network = Network()
    zero_points = rng.integers(-128, 128, 3)
    x_scale, out_scale = (float(np.float32(rng.uniform(0.5, 2) * size)) for size in (0.02, 0.008))
    cell_scale = 2.0 ** int(rng.integers(-15, -8))
    cifg = rng.random() < 0.25 if with_cifg is None else with_cifg
    x = network.tensor(TensorDef((batch, steps, in_c), np.int8, x_scale, int(zero_points[0]), name="x"))

    def weights(columns: int) -> int:
        scale = float(np.float32(rng.uniform(0.2, 3) * 0.02))
        codes = rng.integers(-127, 128, (units, columns)).astype(np.int8)
        return network.tensor(TensorDef(codes.shape, np.int8, scale, 0, data=codes))

    absent = [-1] if cifg else []
    w = absent + [weights(in_c) for _ in range(4 - cifg)]
    r = absent + [weights(units) for _ in range(4 - cifg)]
    biases = list(absent)
    for index in w[cifg:]:
        scale = float(np.float32(x_scale) * np.float32(network._definitions[index].scale))
        codes = rng.integers(-(2**12), 2**12, units).astype(np.int32)
        biases.append(network.tensor(TensorDef((units,), np.int32, scale, 0, data=codes)))
    hidden = TensorDef((batch, units), np.int8, out_scale, int(zero_points[1]), name="output_state")
    cell = TensorDef((batch, units), np.int16, cell_scale, 0, name="cell_state")
    states = [network.tensor(each, is_variable=True) for each in (hidden, cell)]
    out = TensorDef((batch, steps, units), np.int8, out_scale, int(zero_points[1]), name="y")
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction, options.timeMajor = activation, time_major
    options.cellClip = float(rng.choice([0.0, 0.0, 1.5]))
    inputs = [x, *w, *r, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
    y = network.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, out, options, version=3)
    hidden_scale = float(np.float32(out_scale * rng.choice([1, 1.3])))
    intermediates = [
        network.tensor(TensorDef((0,), np.int16, 2.0**-12, 0, name=f"intermediate_{gate}")) for gate in range(4)
    ]
    intermediates.append(
        network.tensor(TensorDef((0,), np.int8, hidden_scale, int(zero_points[2]), name="intermediate_hidden"))
    )
    network.graph.operators[-1].intermediates = intermediates
    return network.build([x], [y])


@pytest.mark.parametrize("profile", ["litert_ref", "litert_opt", "xnnpack", "tflm"])
def test_random_layers(profile: str, seed: int) -> None:
    """A session equals the interpreter's invokes; a call starts from zero state."""
    for number in range(CASES):
        rng = np.random.default_rng([seed, number])
        content = layer(rng, with_cifg=False if profile == "tflm" else None)
        model = gpuq.load(content, device="cpu", numerics=profile)
        shape = model.graph.tensors[model.graph.inputs[0]].shape
        frames = rng.integers(-128, 128, (INVOKES, *shape)).astype(np.int8)
        peer, session = PEERS[profile](content), model.session()
        for invoke, frame in enumerate(frames):
            (want,) = peer.run([frame]).outputs
            where = f"case {number}, invoke {invoke}, {profile}, seed {seed}"
            assert_equal_bits(session(frame), want, where)
            if invoke == 0:
                assert_equal_bits(model(frame), want, where)
        both = model(np.concatenate([frames[0], frames[1]]))
        assert_equal_bits(both[: len(frames[0])], model(frames[0]), f"batch, case {number}, seed {seed}")


def test_writing(seed: int) -> None:
    content = layer(np.random.default_rng(seed))
    assert read(write(read(content))).nodes == read(content).nodes


def test_refusals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with pytest.raises(UnsupportedModel, match="time-major data"):
        gpuq.load(layer(rng, time_major=True), device="cpu")
    with pytest.raises(UnsupportedModel, match="a fused activation other than TANH"):
        gpuq.load(layer(rng, activation=0), device="cpu")
    with pytest.raises(UnsupportedModel, match="without an input gate"):
        gpuq.load(layer(rng, with_cifg=True), device="cpu", numerics="tflm")
