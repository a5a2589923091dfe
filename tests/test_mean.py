"""MEAN: on paper, and with the division moved into the multiplier as the runtimes do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import InputTypeError, InputValueError, Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.mean import MeanSpec, divided_multiplier, reference

from . import exact
from .compare import assert_equal_bits
from .layers import codes, log2_scale, zero_point

V1 = Rule(Rounding.V1)


def test_by_hand() -> None:
    # Four codes with zero point 1, scales 0.5 and 0.25, output zero point -3: (sum - 4) / 4 * 2.
    #   3 5 -2 6: 12 - 4 = 8 -> 4,  - 3 = 1;   1 1 1 2: 1 / 4 * 2 = 0.5 -> 1,  - 3 = -2
    #   1 1 1 0: -0.5 -> -1 (the shift of two bits rounds ties away),  - 3 = -4
    spec = MeanSpec(x_shape=(3, 4), axes=(1,), keep_dims=False, x_quant=Quant(0.5, 1), out_quant=Quant(0.25, -3))
    # 2 = 2^30 * 2^-31 * 2^2, k = 2: 2^30 * 4 / 4, shift 2 - 2.
    assert divided_multiplier(spec) == (1 << 30, 0)
    x = np.array([[[3, 5, -2, 6], [1, 1, 1, 2], [1, 1, 1, 0]]], np.int8)
    # With shift 0 only the high product rounds: 1 * 0.5 -> 1, -1 * 0.5 -> 0 (up), so that the last is -3.
    assert reference(spec, V1, x).tolist() == [[1, -2, -3]]


def test_division_truncates() -> None:
    # Seven codes of equal scales: 2^30, shift 1; k = 2, m' = 2^32 / 7 = 613566756.57 -> 613566756, shift -1.
    spec = MeanSpec(x_shape=(7,), axes=(0,), keep_dims=True, x_quant=Quant(0.5), out_quant=Quant(0.5))
    assert divided_multiplier(spec) == (613566756, -1)
    assert spec.output_shape == (1,)


@settings(max_examples=100)
@given(st.data(), st.integers(0, 2**32 - 1), st.sampled_from(["int8", "uint8"]))
def test_reference_is_the_definition(data: st.DataObject, rng_seed: int, dtype: str) -> None:
    rng = np.random.default_rng(rng_seed)
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)).map(sorted).map(tuple))
    spec = MeanSpec(
        x_shape=shape,
        axes=axes,
        keep_dims=data.draw(st.booleans()),
        x_quant=Quant(data.draw(log2_scale()), zero_point(rng, dtype), dtype=dtype),
        out_quant=Quant(data.draw(log2_scale()), zero_point(rng, dtype), dtype=dtype),
    )
    x = codes(rng, (2, *shape), dtype)
    count = 1
    for axis in axes:
        count *= shape[axis]
    real = float(exact.scale_of(spec.x_quant.scalar_scale()) / exact.scale_of(spec.out_quant.scalar_scale()))
    multiplier, shift = exact.multiplier_and_shift(real)
    raised = min(count.bit_length() - 1, 32, 31 + shift)
    multiplier, shift = exact.trunc_div(multiplier << raised, count), shift - raised
    sums = x.astype(object).sum(axis=tuple(axis + 1 for axis in axes), keepdims=spec.keep_dims)
    zero = spec.out_quant.scalar_zero_point()

    def code(total: int) -> int:
        value = exact.v1(exact.wrap(total - spec.x_quant.scalar_zero_point() * count), multiplier, shift)
        return exact.clamp(value + zero, spec.out_quant.qmin, spec.out_quant.qmax)

    want = np.array([code(int(total)) for total in sums.reshape(-1)], dtype).reshape(2, *spec.output_shape)
    assert_equal_bits(reference(spec, V1, x), want, f"seed {rng_seed}, {spec}")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(axes=(1, 0)), InputValueError, "sorted"),
        (dict(axes=(0, 0)), InputValueError, "distinct"),
        (dict(axes=(2,)), InputValueError, "rank 2"),
        (dict(axes=(-1,)), InputValueError, "rank 2"),
        (dict(x_quant=Quant(0.5, dtype="int16")), InputTypeError, "int16"),
        (dict(out_quant=Quant(0.5, dtype="uint8")), InputTypeError, "uint8"),
        (dict(out_quant=Quant(0.0)), InputValueError, "positive"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = dict(x_shape=(2, 3), axes=(1,), keep_dims=False, x_quant=Quant(0.5), out_quant=Quant(0.5))
    MeanSpec(**good)
    with pytest.raises(error, match=message):
        MeanSpec(**(good | change))
