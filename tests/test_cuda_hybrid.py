"""Dynamic range on the CUDA kernels: rows, scales and the float32 end beside the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuq.cuda import hybrid
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.hybrid import HybridConv2dSpec, HybridDepthwiseConv2dSpec, HybridFullyConnectedSpec
from gpuq.ops.registry import reference
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

from .cuda_layers import launcher, random_codes
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

RULES = (Rounding.HYBRID, Rounding.HYBRID_STEPS, Rounding.HYBRID_BLOCK4, Rounding.QD8)


def check(launcher: HostLauncher, spec: Any, rule: Rule, x: np.ndarray, rng: np.random.Generator, seed: int) -> None:
    weights = random_codes(rng, spec.weights_shape, np.int8)
    bias = rng.normal(size=spec.output_shape[-1]).astype(np.float32) if rng.random() < 0.8 else None
    want = reference(spec, rule, x, weights, bias)
    layer = hybrid.pack(spec, rule, weights, bias)
    run_layer(launcher, layer, [x], want, rng, f"{spec}, {rule}, seed {seed}", gaps=False)


def rows(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of unlike ranges, one of zeros, and one on one side of 0."""
    x = rng.normal(size=shape) * np.exp2(rng.integers(-6, 7, (shape[0], *(1,) * (len(shape) - 1))))
    x[0] = 0
    if shape[0] > 1:
        x[1] = np.abs(x[1])
    return x.astype(np.float32)


@pytest.mark.parametrize("rounding", RULES)
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("in_c", [3, 24, 1100])
def test_dense(launcher: HostLauncher, rounding: Rounding, asymmetric: bool, in_c: int, seed: int) -> None:
    rng = np.random.default_rng([seed, in_c, asymmetric])
    w_quant = Quant(rng.uniform(0.001, 0.1, 21).astype(np.float32), axis=0)
    spec = HybridFullyConnectedSpec(
        in_c=in_c, out_c=21, w_quant=w_quant, activation="relu6", asymmetric_inputs=asymmetric
    )
    check(launcher, spec, Rule(rounding), rows(rng, (5, in_c)), rng, seed)


def test_whole_vectors_round_as_they_do(launcher: HostLauncher, seed: int) -> None:
    # With a largest element of 127 the factor is 1; 0.49999997 plus a half is 1 in float32, but not what C rounds it to.
    x = np.array([[127, *[0.49999997] * 10]], np.float32)
    spec = HybridFullyConnectedSpec(in_c=11, out_c=11, w_quant=Quant(1.0))
    rule, weights = Rule(Rounding.HYBRID), np.eye(11, dtype=np.int8)
    want = reference(spec, rule, x, weights, None)
    assert want[0].tolist() == [127, *[1] * 7, 0, 0, 0]
    layer = hybrid.pack(spec, rule, weights, None)
    run_layer(launcher, layer, [x], want, np.random.default_rng(seed), "vectors", gaps=False)


@pytest.mark.parametrize("rounding", RULES)
@pytest.mark.parametrize("pointwise", [False, True])
def test_convolutions(launcher: HostLauncher, rounding: Rounding, pointwise: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, pointwise])
    window = Window2d(kernel_h=1, kernel_w=1) if pointwise else Window2d(kernel_h=3, kernel_w=2, stride_w=2, pad_top=1)
    scales = rng.uniform(0.001, 0.1, 12).astype(np.float32)
    for groups, w_quant in ((1, Quant(scales, axis=0)), (1, Quant(float(scales[0]))), (2, Quant(scales, axis=0))):
        spec: Any = HybridConv2dSpec(
            in_h=5, in_w=6, in_c=4, out_c=12, window=window, groups=groups, w_quant=w_quant, activation="relu"
        )
        check(launcher, spec, Rule(rounding), rows(rng, (3, 5, 6, 4)), rng, seed)
    spec = HybridDepthwiseConv2dSpec(
        in_h=9, in_w=8, in_c=3, multiplier=2, window=window, w_quant=Quant(scales[:6], axis=3)
    )
    if rounding is Rounding.QD8:
        with pytest.raises(InputValueError, match="XNNPACK has no depthwise convolutions"):
            hybrid.pack(spec, Rule(rounding), np.zeros(spec.weights_shape, np.int8), None)
    else:
        check(launcher, spec, Rule(rounding), rows(rng, (4, 9, 8, 3)), rng, seed)
