"""gpuq.ops.window: padding and output sizes, by hand and by counting positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq import InputValueError
from gpuq.ops.window import Window2d, same_padding


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "want"),
    [
        (224, 3, 2, 1, (0, 1)),  # 112 outputs reach 225: one more pixel, after
        (7, 3, 1, 1, (1, 1)),
        (7, 3, 2, 1, (1, 1)),
        (8, 1, 2, 1, (0, 0)),  # the stride skips the end: nothing to pad
        (8, 2, 1, 1, (0, 1)),
        (8, 5, 1, 2, (4, 4)),
        (1, 5, 3, 1, (2, 2)),
        (10, 3, 1, 3, (3, 3)),
    ],
)
def test_same_padding_by_hand(size: int, kernel: int, stride: int, dilation: int, want: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride, dilation) == want


sizes, kernels, strides, dilations = st.integers(1, 40), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4)


@given(sizes, kernels, strides, dilations)
def test_same_gives_one_output_per_stride(size: int, kernel: int, stride: int, dilation: int) -> None:
    window = Window2d.padded("same", size, 1, kernel_h=kernel, kernel_w=1, stride_h=stride, dilation_h=dilation)
    assert window.output_hw(size, 1) == (-(-size // stride), 1)
    assert 0 <= window.pad_bottom - window.pad_top <= 1
    assert (window.pad_left, window.pad_right) == (0, 0)


@given(sizes, kernels, strides, dilations, st.integers(0, 4), st.integers(0, 4))
def test_output_size_counts_the_places_where_the_window_fits(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    window = Window2d(
        kernel_h=1, kernel_w=kernel, stride_w=stride, dilation_w=dilation, pad_left=before, pad_right=after
    )
    reach = (kernel - 1) * dilation + 1
    places = [left for left in range(0, size + before + after, stride) if left + reach <= size + before + after]
    # Where nothing fits the formula may give 0 or less; Specs refuse both.
    assert max(window.output_hw(1, size)[1], 0) == len(places)


def test_valid_has_no_pads() -> None:
    window = Window2d.padded("valid", 9, 9, kernel_h=3, kernel_w=3)
    assert not window.has_pads
    assert window.output_hw(9, 9) == (7, 7)
    x = np.zeros((1, 9, 9, 1))
    assert window.pad(x, 5) is x


def test_views_see_what_each_tap_sees() -> None:
    # Padded columns: 9 0 1 2 3 9; kernel 2, dilation 2, stride 2: outputs at columns 0 and 2.
    window = Window2d(kernel_h=1, kernel_w=2, stride_w=2, dilation_w=2, pad_left=1, pad_right=1)
    padded = window.pad(np.arange(4).reshape(1, 1, 4, 1), 9)
    assert padded.reshape(-1).tolist() == [9, 0, 1, 2, 3, 9]
    views = [(kh, kw, view.reshape(-1).tolist()) for kh, kw, view in window.views(padded, 1, 2)]
    assert views == [(0, 0, [9, 1]), (0, 1, [1, 3])]


@pytest.mark.parametrize("field", ["kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"])
def test_refuses_below_one(field: str) -> None:
    for value in (0, -1):
        with pytest.raises(InputValueError, match=f"{field}={value}"):
            Window2d(**({"kernel_h": 1, "kernel_w": 1} | {field: value}))


@pytest.mark.parametrize("field", ["pad_top", "pad_bottom", "pad_left", "pad_right"])
def test_refuses_negative_pads(field: str) -> None:
    with pytest.raises(InputValueError, match=field):
        Window2d(kernel_h=1, kernel_w=1, **{field: -1})


def test_refuses_unknown_padding() -> None:
    with pytest.raises(InputValueError, match="'full'"):
        Window2d.padded("full", 3, 3, kernel_h=1, kernel_w=1)


def test_pointwise() -> None:
    assert Window2d(kernel_h=1, kernel_w=1).is_pointwise
    assert Window2d(kernel_h=1, kernel_w=1, dilation_h=3).is_pointwise
    assert not Window2d(kernel_h=1, kernel_w=1, stride_w=2).is_pointwise
    assert not Window2d(kernel_h=1, kernel_w=1, pad_left=1).is_pointwise
    assert not Window2d(kernel_h=1, kernel_w=3).is_pointwise
    assert Window2d(kernel_h=2, kernel_w=3).taps == 6
