"""Dynamic range beside LiteRT's resolvers: random operators, and a whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq

from .expose import expose
from .one_operator import TensorDef, build
from .runtimes import PEERS

PROFILES = ("litert_ref", "litert_opt", "xnnpack")
CASES = 60


def random_model(op: str, rng: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """A hybrid operator and an input whose batch items differ in range."""
    n, h, w = (int(v) for v in rng.integers(1, (4, 12, 12)))
    c, out_c = (int(v) for v in rng.integers(1, 20, 2))
    kernel_h, kernel_w = int(rng.integers(1, min(h, 4) + 1)), int(rng.integers(1, min(w, 4) + 1))
    stride_h, stride_w = (int(v) for v in rng.integers(1, 3, 2))
    options: Any
    per_channel, axis = bool(rng.integers(2)), 0
    x_shape: tuple[int, ...] = (n, h, w, c)
    if op == "FULLY_CONNECTED":
        options = schema.FullyConnectedOptionsT()
        options.asymmetricQuantizeInputs = bool(rng.integers(2))
        x_shape, w_shape, y_shape = (n, c), (out_c, c), (n, out_c)
    else:
        if op == "CONV_2D":
            options, w_shape = schema.Conv2DOptionsT(), (out_c, kernel_h, kernel_w, c)
        else:
            options, per_channel, axis = schema.DepthwiseConv2DOptionsT(), True, 3
            options.depthMultiplier = int(rng.integers(1, 3))
            out_c = c * options.depthMultiplier
            w_shape = (1, kernel_h, kernel_w, out_c)
        options.padding = int(rng.integers(2))
        options.strideH, options.strideW = stride_h, stride_w
        options.dilationHFactor = options.dilationWFactor = 1
        same = options.padding == schema.Padding.SAME
        out_h = -(-h // stride_h) if same else (h - kernel_h) // stride_h + 1
        out_w = -(-w // stride_w) if same else (w - kernel_w) // stride_w + 1
        y_shape = (n, out_h, out_w, out_c)
    options.fusedActivationFunction = int(rng.integers(4))
    scales = rng.uniform(0.001, 0.1, out_c if per_channel else 1).astype(np.float32)
    weights = rng.integers(-127, 128, w_shape).astype(np.int8)
    operands = [
        TensorDef(x_shape, np.float32),
        TensorDef(w_shape, np.int8, scales, 0, axis, weights),
        TensorDef((out_c,), np.float32, data=rng.normal(size=out_c).astype(np.float32)),
    ]
    x = rng.normal(size=x_shape) * rng.choice([1e-3, 1, 100]) + rng.choice([0, 0, 2, -3])
    x[0] *= rng.choice([0, 1, 10])
    if rng.random() < 0.3:
        x = np.round(x * 2) / 2
    return build(op, operands, [TensorDef(y_shape, np.float32)], options), x.astype(np.float32)


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
@pytest.mark.parametrize("profile", PROFILES)
def test_random_operators(profile: str, op: str) -> None:
    """Equal bits."""
    for seed in range(CASES):
        content, x = random_model(op, np.random.default_rng(seed))
        want = PEERS[profile](content).run([x]).outputs[0]
        got = gpuq.load(content, device="cpu", numerics=profile)(x)
        assert np.array_equal(got, want), f"{op}, {profile}, seed {seed}: {np.sum(got != want)} of {got.size} differ"


# Largest difference of the probabilities: the float32 layers of the last two are in another order of sums, and a value
# next to a tie then takes another code in the next layer.
BOUNDS = {"litert_ref": 0.0, "litert_opt": 2e-6, "xnnpack": 1e-3}


@pytest.mark.parametrize("profile", PROFILES)
def test_kws_network(material: Path, profile: str) -> None:
    """20 inputs of four ranges, as one batch; all tensors equal in litert_ref, and all but the tail in litert_opt."""
    content = (material / "models" / "mlperf_tiny" / "kws_dscnn_dynamic_range.tflite").read_bytes()
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(20, 49, 10, 1)) * np.tile([1, 30, 0.01, 5], 5).reshape(-1, 1, 1, 1)).astype(np.float32)
    exposed, indices = expose(content)
    peer = PEERS[profile](exposed)
    model = gpuq.load(content, device="cpu", numerics=profile)
    tensors, outputs = model.tensors(x), model(x)
    for i in range(20):
        want = dict(zip(indices, peer.run([x[i : i + 1]]).outputs, strict=True))
        for index in indices[: {"litert_ref": None, "litert_opt": -2, "xnnpack": 1}[profile]]:
            assert np.array_equal(tensors[index][i], want[index][0]), f"{profile}, input {i}, tensor {index}"
        difference = np.abs(outputs[i] - want[model.graph.outputs[0]][0]).max()
        assert difference <= BOUNDS[profile], f"{profile}, input {i}: {difference}"
