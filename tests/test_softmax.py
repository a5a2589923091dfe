"""SOFTMAX: probabilities on paper, and LiteRT's reference kernel as scalars."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.softmax import SoftmaxSpec, input_scaling, reference

from . import exact, gemmlowp
from .compare import assert_equal_bits
from .layers import codes

FIXED = Rule(Rounding.FIXED_POINT)
OUT = Quant(1 / 256, -128)


def test_by_hand() -> None:
    # Equal codes share: 1/2 is 128 / 256, 1/4 is 64 / 256; one alone has all, 256, clamped to 255. ln 3 apart: 3/4, 1/4.
    spec = SoftmaxSpec(depth=2, x_quant=Quant(math.log(3) / 10, 7), out_quant=OUT)
    assert reference(spec, FIXED, np.array([[5, 5], [20, 10], [-128, 127]], np.int8)).tolist() == [
        [0, 0],
        [64, -64],
        [-128, 127],
    ]
    assert reference(uint8(4), FIXED, np.full((1, 4), 9, np.uint8)).tolist() == [[64] * 4]
    assert reference(uint8(1), FIXED, np.array([[0], [255]], np.uint8)).tolist() == [[255], [255]]


def uint8(depth: int) -> SoftmaxSpec:
    return SoftmaxSpec(depth=depth, x_quant=Quant(0.1, 3, dtype="uint8"), out_quant=Quant(1 / 256, 0, dtype="uint8"))


def kernel(row: list[int], multiplier: int, left_shift: int, diff_min: int, lowest: int) -> list[int]:
    """reference_ops::Softmax of one row, line by line."""
    largest = max(row)

    def exp_of(code: int) -> int:
        scaled = exact.high_mul(exact.wrap((code - largest) * (1 << left_shift)), multiplier)
        return gemmlowp.exp_on_negative_values(scaled, 5)

    sum_of_exps = 0
    for code in row:
        if code - largest >= diff_min:
            sum_of_exps = exact.wrap(sum_of_exps + gemmlowp.rescale(exp_of(code), 0, 12))
    shifted_scale, bits_over_unit = gemmlowp.get_reciprocal(sum_of_exps, 12)
    out = []
    for code in row:
        if code - largest >= diff_min:
            product = exact.high_mul(shifted_scale, exp_of(code))
            unsaturated = exact.divide_by_pot(product, bits_over_unit + 31 - 8)
            out.append(exact.clamp(unsaturated + lowest, lowest, lowest + 255))
        else:
            out.append(lowest)
    return out


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_reference_is_the_kernel(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        depth = int(rng.choice([1, 2, 3, 10, 100]))
        scale, beta = np.float32(2.0 ** rng.uniform(-12, 6)), float(rng.choice([1.0, 0.5, 3.7]))
        out = Quant(1 / 256, np.iinfo(dtype).min, dtype=dtype)
        spec = SoftmaxSpec(depth=depth, x_quant=Quant(scale, 5, dtype=dtype), out_quant=out, beta=beta)
        real = min(beta * float(scale) * 2.0**26, 2.0**31 - 1)
        multiplier, left_shift = exact.multiplier_and_shift(real)
        diff_min = -math.floor(31 * 2.0**26 / 2.0**left_shift)
        context = f"seed {seed}, {spec}"
        assert input_scaling(spec) == (multiplier, left_shift, diff_min), context
        x = codes(rng, (3, depth), dtype)
        if rng.random() < 0.5:  # codes near one another: nothing underflows
            x = (x // 16).astype(dtype)
        want = [kernel(row, multiplier, left_shift, diff_min, out.qmin) for row in x.tolist()]
        assert_equal_bits(reference(spec, FIXED, x), np.array(want, dtype), context)


@pytest.mark.parametrize("scale", [2.0**-25, 1e30])
def test_extreme_scales(scale: float) -> None:
    # Tiny: all alike. Huge: the largest takes all.
    spec = SoftmaxSpec(depth=4, x_quant=Quant(scale), out_quant=OUT)
    got = reference(spec, FIXED, np.array([[-128, 127, 0, 126]], np.int8)).tolist()
    assert got == ([[-64] * 4] if scale < 1 else [[-128, 127, -128, -128]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(depth=0), InputValueError, "depth=0"),
        (dict(beta=0.0), InputValueError, "beta"),
        (dict(beta=-1.0), InputValueError, "beta"),
        (dict(beta=math.nan), InputValueError, "beta"),
        (dict(beta=math.inf), InputValueError, "beta"),
        (dict(out_quant=Quant(1 / 256, 0)), InputValueError, "zero point -128"),
        (dict(out_quant=Quant(1 / 255, -128)), InputValueError, "1/256"),
        (dict(x_quant=Quant(2.0**-26)), InputValueError, r"2\^-26"),
        (dict(x_quant=Quant(0.1, dtype="int16")), InputTypeError, "int16"),
        (dict(out_quant=Quant(1 / 256, 0, dtype="uint8")), InputTypeError, "uint8"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SoftmaxSpec(**(dict(depth=3, x_quant=Quant(0.1), out_quant=OUT) | change))


def test_rows_whose_sum_leaves_the_accumulator() -> None:
    # From a sum of 512 on the runtimes abort. By the formula 1/512 and less of 256 rounds to 0; the sum must not wrap.
    for depth in (1001, 4096, 8191):
        spec = SoftmaxSpec(depth=depth, x_quant=Quant(0.1, 0), out_quant=OUT)
        assert set(reference(spec, FIXED, np.zeros((1, depth), np.int8)).reshape(-1).tolist()) == {-128}
