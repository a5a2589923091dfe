"""Dynamic range: run-time quantization and the three operators, beside plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuq import profiles
from gpuq.cpu.plans import pack
from gpuq.errors import InputTypeError, InputValueError, UnsupportedModel
from gpuq.ops.dynamic_range import quantize_asymmetric, quantize_qd8, quantize_symmetric
from gpuq.ops.hybrid import HybridConv2dSpec, HybridDepthwiseConv2dSpec, HybridFullyConnectedSpec
from gpuq.ops.registry import reference
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

from .compare import assert_equal_bits

F = np.float32


def c_round(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def symmetric_by_loop(row: np.ndarray) -> tuple[list[int], np.float32]:
    reach = F(max(abs(float(v)) for v in row))
    if reach == 0:
        return [0] * len(row), F(1)
    inverse = F(127) / reach
    codes = []
    for i, value in enumerate(row):
        v = F(value * inverse)
        if i < len(row) // 8 * 8:
            code = int(F(v + F(-0.5 if v < 0 else 0.5)))
        else:
            code = c_round(float(v))
        codes.append(max(-127, min(127, code)))
    return codes, F(reach / F(127))


@pytest.mark.parametrize("length", [1, 7, 8, 13, 64])
def test_symmetric_codes(length: int) -> None:
    rng = np.random.default_rng(length)
    rows = rng.normal(size=(50, length)).astype(F)
    rows[0] = 0
    rows[1] = np.round(rows[1] * 4) / 4
    got = quantize_symmetric(rows)
    for i, row in enumerate(rows):
        codes, scale = symmetric_by_loop(row)
        assert got.codes[i].tolist() == codes, i
        assert got.scales[i] == scale
    assert not got.zero_points.any()


def test_a_half_is_added_in_whole_vectors_only() -> None:
    """0.49999997 + 0.5 is 1 in float32: the eighth element of a vector rounds up, the one behind it does not."""
    below_half = np.nextafter(F(0.5), F(0))
    row = np.array([[127, 0, 0, 0, 0, 0, 0, below_half, below_half, 0, 0, 0]], F)
    assert quantize_symmetric(row).codes[0].tolist() == [127, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("rule", [quantize_asymmetric, quantize_qd8])
def test_asymmetric_rows_cover_their_range(rule: object) -> None:
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(200, 33)) * 10.0 ** rng.integers(-3, 4, (200, 1)) + rng.integers(-3, 4, (200, 1))).astype(
        F
    )
    rows[0] = 0
    got = rule(rows)  # type: ignore[operator]
    assert got.codes.min() >= -128
    assert got.codes.max() <= 127
    error = np.abs(got.scales[:, None] * (got.codes - got.zero_points[:, None]) - rows).max(axis=1)
    assert (error <= got.scales * 1.01).all()
    assert (got.codes[0] == got.zero_points[0]).all()
    assert got.scales[0] == 1
    # Each row by itself, or with others: the same.
    for i in range(0, 200, 17):
        assert rule(rows[i : i + 1]).codes.tolist() == [got.codes[i].tolist()]  # type: ignore[operator]


def test_asymmetric_by_hand() -> None:
    """-1..3: scale 4/255; from the lower end -128 + 63.75 = -64.25, whose error is the smaller one."""
    got = quantize_asymmetric(np.array([[-1, 0, 3]], F))
    assert got.scales[0] == F(4 / 255)
    assert got.zero_points[0] == -64
    assert got.codes[0].tolist() == [-128, -64, 127]


def test_fully_connected_beside_a_loop() -> None:
    rng = np.random.default_rng(2)
    weights = rng.integers(-127, 128, (5, 19)).astype(np.int8)
    bias, scales = rng.normal(size=5).astype(F), rng.uniform(0.01, 0.1, 5).astype(F)
    spec = HybridFullyConnectedSpec(
        in_c=19, out_c=5, w_quant=Quant(scales, np.zeros(5, np.int64), 0, np.dtype(np.int8))
    )
    x = rng.normal(size=(3, 19)).astype(F)
    got = reference(spec, profiles.resolve("litert_ref", spec), x, weights, bias)
    for r, row in enumerate(x):
        codes, scale = symmetric_by_loop(row)
        for o in range(5):
            acc = sum(int(w) * q for w, q in zip(weights[o], codes, strict=True))
            assert got[r, o] == F(F(acc) * F(scales[o] * scale)) + bias[o], (r, o)


def test_conv2d_quantizes_each_image_by_itself() -> None:
    """A loud image beside a quiet one changes nothing, and XNNPACK's pointwise layers look at pixels."""
    rng = np.random.default_rng(3)
    weights = rng.integers(-127, 128, (4, 1, 1, 3)).astype(np.int8)
    bias = np.zeros(4, F)
    spec = HybridConv2dSpec(
        in_h=5,
        in_w=5,
        in_c=3,
        out_c=4,
        window=Window2d(kernel_h=1, kernel_w=1),
        w_quant=Quant(0.1, 0, None, np.dtype(np.int8)),
    )
    x = rng.normal(size=(2, 5, 5, 3)).astype(F)
    x[1] *= 1000
    for profile in ("litert_ref", "litert_opt", "xnnpack"):
        rule = profiles.resolve(profile, spec)
        both = reference(spec, rule, x, weights, bias)
        for i in range(2):
            assert np.array_equal(reference(spec, rule, x[i : i + 1], weights, bias)[0], both[i])
    by_pixel = profiles.resolve("xnnpack", spec)
    changed = x.copy()
    changed[:, 0, 0] *= 100
    kept = reference(spec, by_pixel, changed, weights, bias)[:, 1:]
    assert np.array_equal(kept, reference(spec, by_pixel, x, weights, bias)[:, 1:])


def test_refusals() -> None:
    with pytest.raises(InputValueError, match="zero point 0"):
        HybridFullyConnectedSpec(in_c=2, out_c=2, w_quant=Quant(0.1, 3, None, np.dtype(np.int8)))
    with pytest.raises(InputTypeError, match="uint8"):
        HybridFullyConnectedSpec(in_c=2, out_c=2, w_quant=Quant(0.1, 0, None, np.dtype(np.uint8)))
    spec = HybridFullyConnectedSpec(in_c=2, out_c=2, w_quant=Quant(0.1, 0, None, np.dtype(np.int8)))
    for profile in ("tflm", "single"):
        with pytest.raises(UnsupportedModel, match="FULLY_CONNECTED on float32"):
            profiles.resolve(profile, spec)


@pytest.mark.parametrize("profile", ["litert_ref", "litert_opt", "xnnpack"])
def test_the_cpu_plan_equals_the_reference(profile: str, seed: int) -> None:
    """Beyond 2^24 the plan sums in float64: rows of 600 taps and more, all at the ends of their range."""
    for number in range(12):
        rng = np.random.default_rng([seed, number])
        deep = number % 3 == 0
        in_c, out_c = (700 if deep else int(rng.integers(1, 20))), int(rng.integers(1, 9))
        window = Window2d.padded("same", 5, 4, kernel_h=3, kernel_w=2, stride_w=int(rng.integers(1, 3)))
        quant = Quant(rng.uniform(0.01, 0.1, out_c), 0, 0)
        specs = [
            HybridFullyConnectedSpec(in_c=in_c, out_c=out_c, w_quant=quant, asymmetric_inputs=bool(number % 2)),
            HybridConv2dSpec(in_h=5, in_w=4, in_c=in_c, out_c=out_c, window=window, w_quant=quant),
            HybridDepthwiseConv2dSpec(
                in_h=5, in_w=4, in_c=out_c, window=window, w_quant=Quant(rng.uniform(0.01, 0.1, out_c), 0, 3)
            ),
        ]
        for spec in specs:
            extreme = np.where(rng.random(spec.weights_shape) < 0.5, -127, 127)
            weights = (extreme if deep else rng.integers(-127, 128, spec.weights_shape)).astype(np.int8)
            bias = rng.normal(size=spec.output_shape[-1]).astype(F)
            shape = (3, spec.in_c) if isinstance(spec, HybridFullyConnectedSpec) else (3, 5, 4, spec.in_c)
            x = (rng.choice([-1, 1], shape) if deep else rng.normal(size=shape)).astype(F)
            rule = profiles.resolve(profile, spec)
            want = reference(spec, rule, x, weights, bias)
            got = np.empty((3, *spec.output_shape), F)
            pack(spec, rule, [None, weights, bias]).launch([x], [got], np.zeros(0, np.uint8))
            assert_equal_bits(got, want.reshape(got.shape), f"{spec.op}, {profile}, case {number}, seed {seed}")
