"""RESIZE_NEAREST_NEIGHBOR: which pixel is copied."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec, nearest_indices, reference

from . import exact

INT8 = np.dtype(np.int8)


def spec_of(in_size: int, out_size: int, corners: bool = False, half: bool = False) -> ResizeNearestNeighborSpec:
    return ResizeNearestNeighborSpec(
        in_h=in_size,
        in_w=1,
        in_c=1,
        out_h=out_size,
        out_w=1,
        align_corners=corners,
        half_pixel_centers=half,
        dtype=INT8,
    )


@pytest.mark.parametrize(
    ("in_size", "out_size", "corners", "half", "want"),
    [
        (3, 6, False, False, [0, 0, 1, 1, 2, 2]),
        (6, 3, False, False, [0, 2, 4]),
        (6, 3, False, True, [1, 3, 5]),  # (i + 0.5) * 2
        (3, 5, True, False, [0, 1, 1, 2, 2]),  # i * 0.5: ties away from zero
        (3, 1, True, False, [0]),
        (2, 5, True, True, [0, 0, 1, 1, 1]),  # (i + 0.5) / 4 rounded: 0.125 0.375 0.625 0.875 1.125
        (1, 4, False, False, [0, 0, 0, 0]),
    ],
)
def test_by_hand(in_size: int, out_size: int, corners: bool, half: bool, want: list[int]) -> None:
    assert nearest_indices(spec_of(in_size, out_size, corners, half), in_size, out_size).tolist() == want


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_every_small_size(corners: bool, half: bool) -> None:
    """GetNearestNeighbor, its float32 operations as exact fractions rounded one by one."""
    for in_size in (1, 2, 3, 5, 7, 13, 49, 100):
        for out_size in range(1, 60):
            scale = exact.f32(Fraction(in_size, out_size))
            if corners and out_size > 1:
                scale = exact.f32(Fraction(in_size - 1, out_size - 1))
            want = []
            for i in range(out_size):
                position = exact.f32((i + Fraction(int(half), 2)) * scale)
                index = exact.round_away(position) if corners else math.floor(position)
                want.append(max(min(index, in_size - 1), 0))
            got = nearest_indices(spec_of(in_size, out_size, corners, half), in_size, out_size).tolist()
            assert got == want, (in_size, out_size)


def test_copies_pixels_of_both_dimensions() -> None:
    x = np.arange(2 * 2 * 3 * 2, dtype=np.int8).reshape(2, 2, 3, 2)
    spec = ResizeNearestNeighborSpec(in_h=2, in_w=3, in_c=2, out_h=4, out_w=2, dtype=INT8)
    got = reference(spec, Rule(Rounding.EXACT), x)
    assert np.array_equal(got, x[:, [0, 0, 1, 1]][:, :, [0, 1]])


@pytest.mark.parametrize(
    ("change", "error"), [(dict(out_w=0), InputValueError), (dict(dtype=np.dtype(np.float64)), InputTypeError)]
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ResizeNearestNeighborSpec(**(dict(in_h=2, in_w=2, in_c=1, out_h=4, out_w=4, dtype=INT8) | change))
