"""Strategy of operators with float32 activations and int8 weights, quantized at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .one_operator import TensorDef, build
from .strategies import Case


def hybrid(op: str) -> SearchStrategy[Case]:
    """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED, one run of several batch items."""

    def case(seed: int) -> Case:
        content, x = random_model(op, np.random.default_rng(seed))
        return Case(op, f"dynamic range, seed={seed}", content, (x,))

    return st.integers(0, 2**32 - 1).map(case)


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
