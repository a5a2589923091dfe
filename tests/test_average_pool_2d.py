"""AVERAGE_POOL_2D: means of codes inside the image, rounded half away from zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import InputTypeError, InputValueError, Quant, numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.average_pool_2d import AveragePool2dSpec, Pool2dSpec, reference
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.window import Window2d

from . import exact
from .compare import assert_equal_bits
from .layers import ACTIVATIONS, codes, zero_point

EXACT = Rule(Rounding.EXACT)
QUANT = Quant(0.1, 3)


def test_by_hand() -> None:
    # A 2x2 window over 3x3, SAME: one more row and column after, of which nothing counts.
    #   1  2  3      (1+2+4-10)/4 = -0.75 -> -1     (2+3-10+6)/4 = 0.25 -> 0     (3+6)/2 = 4.5 -> 5
    #   4 -10 6      (4-10+7+0)/4 = 0.25 -> 0       (-10+6+0+1)/4 = -0.75 -> -1  (6+1)/2 = 3.5 -> 4
    #   7  0  1      (7+0)/2 = 3.5 -> 4             (0+1)/2 = 0.5 -> 1           1
    x = np.array([[1, 2, 3], [4, -10, 6], [7, 0, 1]], np.int8)
    window = Window2d.padded("same", 3, 3, kernel_h=2, kernel_w=2)
    spec = AveragePool2dSpec(in_h=3, in_w=3, in_c=1, window=window, x_quant=QUANT, out_quant=QUANT)
    want = np.array([[-1, 0, 5], [0, -1, 4], [4, 1, 1]])
    assert reference(spec, EXACT, x).reshape(3, 3).tolist() == want.tolist()
    # Ties of negative means go down; the zero point plays no part.
    assert reference(spec, EXACT, -x).reshape(3, 3).tolist() == (-want).tolist()


@st.composite
def pools(draw: st.DrawFn, spec_type: type[Pool2dSpec]) -> tuple[Pool2dSpec, np.ndarray, int]:
    rng_seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(rng_seed)
    dtype = draw(st.sampled_from(["int8", "uint8"]))
    in_h, in_w, in_c = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    padding = draw(st.sampled_from(["same", "valid"]))
    largest = (5, 5) if padding == "same" else (min(5, in_h), min(5, in_w))
    window = Window2d.padded(
        padding,
        in_h,
        in_w,
        kernel_h=draw(st.integers(1, largest[0])),
        kernel_w=draw(st.integers(1, largest[1])),
        stride_h=draw(st.integers(1, 3)),
        stride_w=draw(st.integers(1, 3)),
    )
    quant = Quant(draw(st.sampled_from([0.02, 0.1, 2.0])), zero_point(rng, dtype), dtype=dtype)
    spec = spec_type(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        window=window,
        x_quant=quant,
        out_quant=quant,
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )
    return spec, codes(rng, (2, in_h, in_w, in_c), dtype), rng_seed


def check_pool(spec: Pool2dSpec, got: np.ndarray, x: np.ndarray, reduce: Any, context: object) -> None:
    """Window by window, `reduce` of the codes inside the image."""
    window = spec.window
    low, high = numerics.activation_range(spec.activation, spec.out_quant)
    want = np.empty((x.shape[0], *spec.output_shape), x.dtype)
    for run, oh, ow, c in np.ndindex(want.shape):
        top, left = oh * window.stride_h - window.pad_top, ow * window.stride_w - window.pad_left
        rows, columns = slice(max(top, 0), top + window.kernel_h), slice(max(left, 0), left + window.kernel_w)
        inside = [int(code) for code in x[run, rows, columns, c].reshape(-1)]
        want[run, oh, ow, c] = exact.clamp(reduce(inside), low, high)
    assert_equal_bits(got, want, context)


@settings(max_examples=80)
@given(pools(AveragePool2dSpec))
def test_reference_is_the_definition(case: tuple[Any, np.ndarray, int]) -> None:
    spec, x, rng_seed = case

    def mean(inside: list[int]) -> int:
        # As C writes it: half of the count added with the sum's sign, then a truncating division.
        total, count = sum(inside), len(inside)
        return exact.trunc_div(total + count // 2 if total > 0 else total - count // 2, count)

    check_pool(spec, reference(spec, EXACT, x), x, mean, f"seed {rng_seed}, {spec}")


@pytest.mark.parametrize("spec_type", [AveragePool2dSpec, MaxPool2dSpec])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(in_c=0), InputValueError, "in_c=0"),
        (dict(in_h=1), InputValueError, "2x2 does not fit into 1x4"),
        (dict(out_quant=Quant(0.1, 4)), InputValueError, "equal scale and zero point"),
        (dict(out_quant=Quant(0.2, 3)), InputValueError, "equal scale and zero point"),
        (dict(x_quant=Quant(0.1, 3, dtype="int16")), InputTypeError, "int16"),
        (dict(out_quant=Quant(0.1, 3, dtype="uint8")), InputTypeError, "uint8"),
        (dict(activation="tanh"), InputValueError, "tanh"),
        (dict(window=Window2d(kernel_h=2, kernel_w=2, pad_left=2)), InputValueError, "no window is empty"),
    ],
)
def test_spec_refuses(spec_type: Any, change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = dict(
        in_h=4, in_w=4, in_c=1, window=Window2d(kernel_h=2, kernel_w=2), x_quant=QUANT, out_quant=QUANT
    )
    assert spec_type(**good).output_shape == (3, 3, 1)
    with pytest.raises(error, match=message):
        spec_type(**(good | change))
