"""RESIZE_BILINEAR: on paper, and LiteRT's reference kernels as scalars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import InputTypeError, InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.resize_bilinear import ResizeBilinearSpec, reference

from . import exact
from .compare import assert_equal_bits
from .layers import codes

INT8, UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
EXACT, AFFINE = Rule(Rounding.EXACT), Rule(Rounding.AFFINE_F32)


def wide(in_w: int, out_w: int, **more: Any) -> ResizeBilinearSpec:
    return ResizeBilinearSpec(in_h=1, in_w=in_w, in_c=1, out_h=1, out_w=out_w, **(dict(dtype=INT8) | more))


def test_by_hand() -> None:
    x = np.array([[[[10], [20], [-31]]]], np.int8)

    def row(spec: ResizeBilinearSpec) -> list[int]:
        pixels: list[int] = reference(spec, EXACT, x).reshape(-1).tolist()
        return pixels

    # To twice the size: positions 0, 0.5, 1, 1.5, 2, 2.5 (beyond the last pixel: the last). -5.5 rounds away: -6.
    assert row(wide(3, 6)) == [10, 15, 20, -6, -31, -31]
    # Half pixels: -0.25 (weight of a negative position as the kernel computes it), 0.25, 0.75, 1.25, 1.75, 2.25.
    assert row(wide(3, 6, half_pixel_centers=True))[1:5] == [13, 18, 7, -18]
    # Corners: 5 outputs over 2 steps: 0, 0.5, 1, 1.5, 2.
    assert row(wide(3, 5, align_corners=True)) == [10, 15, 20, -6, -31]
    assert row(wide(3, 3)) == [10, 20, -31]
    assert row(wide(3, 1, align_corners=True)) == [10]


def integer_bounds(value: int, scale: int, half_pixel: bool, size: int) -> tuple[int, int, int]:
    """ComputeInterpolationValuesInteger."""
    scaled = value * scale + (scale // 2 - 512 if half_pixel else 0)
    lower = max(exact.trunc_div(scaled, 1024), 0)
    return scaled, lower, min(exact.trunc_div(scaled + 1023, 1024), size - 1)


def integer_scale(size: int, out: int, align_corners: bool) -> int:
    if align_corners and out > 1:
        return (1024 * (size - 1) + (out - 1) // 2) // (out - 1)
    return (1024 * size + out // 2) // out


def resized_int8(spec: ResizeBilinearSpec, x: np.ndarray) -> np.ndarray:
    """ResizeBilinearInteger of one run (H, W, C); IndexError where the kernel reads past its input."""
    want = np.empty(spec.output_shape, np.int8)
    scales = [
        integer_scale(size, out, spec.align_corners) for size, out in ((spec.in_h, spec.out_h), (spec.in_w, spec.out_w))
    ]
    for oh, ow, c in np.ndindex(want.shape):
        y, y0, y1 = integer_bounds(oh, scales[0], spec.half_pixel_centers, spec.in_h)
        p, x0, x1 = integer_bounds(ow, scales[1], spec.half_pixel_centers, spec.in_w)
        down, right = y - 1024 * y0, p - 1024 * x0
        total = int(x[y0, x0, c]) * (1024 - down) * (1024 - right) + int(x[y1, x0, c]) * down * (1024 - right)
        total += int(x[y0, x1, c]) * (1024 - down) * right + int(x[y1, x1, c]) * down * right
        want[oh, ow, c] = exact.trunc_div(total + ((1 << 19) if total > 0 else -(1 << 19)), 1 << 20)
    return want


def resized_uint8(spec: ResizeBilinearSpec, x: np.ndarray) -> np.ndarray:
    """ResizeBilinear of one run in float32, one operation at a time."""
    f = np.float32

    def bounds(value: int, size: int, out: int) -> tuple[Any, int, int]:
        scale = f(size) / f(out)
        if spec.align_corners and out > 1:
            scale = f(size - 1) / f(out - 1)
        scaled = (f(value) + f(0.5)) * scale - f(0.5) if spec.half_pixel_centers else f(value) * scale
        return scaled, max(int(np.floor(scaled)), 0), min(int(np.ceil(scaled)), size - 1)

    want = np.empty(spec.output_shape, np.uint8)
    for oh, ow, c in np.ndindex(want.shape):
        y, y0, y1 = bounds(oh, spec.in_h, spec.out_h)
        p, x0, x1 = bounds(ow, spec.in_w, spec.out_w)
        down, right, one = y - f(y0), p - f(x0), f(1)
        total = f(x[y0, x0, c]) * (one - down) * (one - right)
        total = total + f(x[y1, x0, c]) * down * (one - right)
        total = total + f(x[y0, x1, c]) * (one - down) * right
        total = total + f(x[y1, x1, c]) * down * right + f(0.5)
        want[oh, ow, c] = int(total)
    return want


MODES = [(False, False), (True, False), (False, True)]


@settings(max_examples=80)
@given(st.data(), st.sampled_from(MODES), st.sampled_from(["int8", "uint8"]), st.integers(0, 2**32 - 1))
def test_reference_is_the_kernel(data: st.DataObject, mode: tuple[bool, bool], dtype: str, rng_seed: int) -> None:
    sizes = [(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 15))) for _ in range(2)]
    spec = ResizeBilinearSpec(
        in_h=sizes[0][0],
        in_w=sizes[1][0],
        in_c=2,
        out_h=sizes[0][1],
        out_w=sizes[1][1],
        align_corners=mode[0],
        half_pixel_centers=mode[1],
        dtype=np.dtype(dtype),
    )
    x = codes(np.random.default_rng(rng_seed), (2, spec.in_h, spec.in_w, 2), dtype)
    kernel = resized_int8 if dtype == "int8" else resized_uint8
    want = np.stack([kernel(spec, run) for run in x])
    assert_equal_bits(reference(spec, EXACT if dtype == "int8" else AFFINE, x), want, f"seed {rng_seed}, {spec}")


@pytest.mark.parametrize(("in_w", "out_w"), [(1, 55), (3, 120), (5, 600)])
def test_last_pixel_repeats_where_the_int8_kernel_reads_past_its_input(in_w: int, out_w: int, seed: int) -> None:
    """Steps are rounded to 1/1024 pixel; over many steps the position leaves the image."""
    spec = wide(in_w, out_w)
    steps = ((in_w << 10) + out_w // 2) // out_w * np.arange(out_w)
    past = steps >> 10 >= in_w
    assert past.any(), "the example must leave the image"
    x = codes(np.random.default_rng(seed), (1, 1, in_w, 1), "int8")
    got = reference(spec, EXACT, x)
    assert np.all(got[0, 0, past, 0] == x[0, 0, -1, 0]), f"seed {seed}, {spec}"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(out_h=0), InputValueError, "out_h=0"),
        (dict(in_w=-1), InputValueError, "in_w=-1"),
        (dict(dtype=np.dtype(np.int32)), InputTypeError, "int32"),
        (dict(align_corners=True, half_pixel_centers=True), InputValueError, "exclude"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ResizeBilinearSpec(**(dict(in_h=2, in_w=2, in_c=1, out_h=4, out_w=4, dtype=INT8) | change))
