"""RESIZE_BILINEAR: int8 with 10-bit integer weights, uint8 in float32; XNNPACK with 11-bit weights for both.

int8:  y = (q00*wy0*wx0 + q10*wy1*wx0 + q01*wy0*wx1 + q11*wy1*wx1 +- 2^19) / 2^20, truncated, weights in 1/1024.
uint8: y = uint8(float32 sum of the four products + 0.5); float32: that sum.
Q11:   t, b = 2^11 * q_left + (q_right - q_left) * wx of the upper and lower row, wx, wy in 1/2048,
       y = (2^11 * t + (b - t) * wy + 2^21) >> 22.
Builds that round once take ties of int8 up (exact_up). The optimized uint8 kernel multiplies each pixel's two weights
first and adds in another order (affine_f32_pixel).
Sources: LiteRT tflite/kernels/resize_bilinear.cc, internal/reference/resize_bilinear.h,
internal/optimized/resize_bilinear.h (ResizeBilinearGenericSmallChannel); XNNPACK src/indirection.c
(xnn_indirection_init_resize_bilinear2d_hwc_q11), src/s8-ibilinear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import FLOAT32, INT8, INT16, UINT8, Shape, Spec, run_shape


@dataclass(frozen=True, kw_only=True)
class ResizeSpec(Spec):
    """An image at another size; see RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR.

    Args:
        in_h, in_w, in_c: input image and channels.
        out_h, out_w: output image.
        align_corners, half_pixel_centers: how output pixels lie on the input; at most one is set.
        dtype: int8, uint8, int16 or float32.
    """

    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    align_corners: bool = False
    half_pixel_centers: bool = False
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, out_h=self.out_h, out_w=self.out_w)
        self.require_dtype("input", self.dtype, INT8, UINT8, INT16, FLOAT32)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype

    @property
    def output_shape(self) -> Shape:
        return (self.out_h, self.out_w, self.in_c)


@dataclass(frozen=True, kw_only=True)
class ResizeBilinearSpec(ResizeSpec):
    """See ResizeSpec for the fields."""

    op: ClassVar[str] = "RESIZE_BILINEAR"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            not (self.align_corners and self.half_pixel_centers),
            "align_corners and half_pixel_centers exclude each other",
        )


def integer_positions(
    spec: ResizeBilinearSpec, in_size: int, out_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(lower index, upper index, weight of the upper one in 1/1024) of each output row or column."""
    scale = ((in_size << 10) + out_size // 2) // out_size
    if spec.align_corners and out_size > 1:
        scale = (((in_size - 1) << 10) + (out_size - 1) // 2) // (out_size - 1)
    position = np.arange(out_size, dtype=np.int64) * scale
    if spec.half_pixel_centers:
        position += scale // 2 - (1 << 9)
    # C division truncates, but a negative position gives 0 either way; the upper bound's dividend is never below 0
    # by more than the 511 that truncation takes to 0. At strong enlargements the rounded scale leads beyond the last
    # pixel, where the runtimes read foreign memory; here the last pixel repeats.
    lower = np.clip(position >> 10, 0, in_size - 1)
    upper = np.minimum(np.maximum(position + 1023, 0) >> 10, in_size - 1)
    return lower, upper, position - (lower << 10)


def float_positions(
    spec: ResizeBilinearSpec, in_size: int, out_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(lower index, upper index, float32 weight of the upper one) of each output row or column."""
    scale = np.float32(in_size) / np.float32(out_size)
    if spec.align_corners and out_size > 1:
        scale = np.float32(in_size - 1) / np.float32(out_size - 1)
    index = np.arange(out_size).astype(np.float32)
    position = (index + np.float32(0.5)) * scale - np.float32(0.5) if spec.half_pixel_centers else index * scale
    lower = np.maximum(np.floor(position).astype(np.int64), 0)
    upper = np.minimum(np.ceil(position).astype(np.int64), in_size - 1)
    return lower, upper, position - lower.astype(np.float32)


def q11_positions(
    spec: ResizeBilinearSpec, in_size: int, out_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(lower index, upper index, weight of the upper one in 1/2048) of each output row or column."""
    less = 1 if spec.align_corners and out_size > 1 else 0
    scale = np.float32(in_size - less) / np.float32(out_size - less)
    position = np.arange(out_size).astype(np.float32) * scale
    if spec.half_pixel_centers:
        position = np.maximum(position + (np.float32(0.5) * scale - np.float32(0.5)), np.float32(0))
    position = np.minimum(position, np.float32(in_size - 1))
    lower = position.astype(np.int64)
    weight = np.rint((position - lower.astype(np.float32)) * np.float32(2048)).astype(np.int64)
    return lower, np.minimum(lower + 1, in_size - 1), weight


def reference(spec: ResizeBilinearSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., H, W, C) codes at the new size: (N, out_h, out_w, C) codes."""
    images = run_shape(x, (spec.in_h, spec.in_w, spec.in_c))
    if spec.dtype == FLOAT32:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return _float_sums(spec, images, by_pixel=False)
    if rule.rounding is Rounding.Q11:
        return _q11_blend(spec, images)
    if spec.dtype != UINT8:
        return _integer_blend(spec, images, ties_up=rule.rounding is Rounding.EXACT_UP)
    sums = _float_sums(spec, images, by_pixel=rule.rounding is Rounding.AFFINE_F32_PIXEL)
    return np.asarray((sums + np.float32(0.5)).astype(np.int32), spec.dtype)


def _corners(
    images: npt.NDArray[Any], y0: npt.NDArray[Any], y1: npt.NDArray[Any], x0: npt.NDArray[Any], x1: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], ...]:
    top, bottom = images[:, y0], images[:, y1]
    return top[:, :, x0], bottom[:, :, x0], top[:, :, x1], bottom[:, :, x1]


def _integer_blend(spec: ResizeBilinearSpec, images: npt.NDArray[Any], *, ties_up: bool) -> npt.NDArray[Any]:
    y0, y1, wy = integer_positions(spec, spec.in_h, spec.out_h)
    x0, x1, wx = integer_positions(spec, spec.in_w, spec.out_w)
    wy, wx = wy[:, None, None], wx[None, :, None]
    top_left, bottom_left, top_right, bottom_right = _corners(images.astype(np.int64), y0, y1, x0, x1)
    total = top_left * (1024 - wy) * (1024 - wx) + bottom_left * wy * (1024 - wx)
    total += top_right * (1024 - wy) * wx + bottom_right * wy * wx
    rounded = np.sign(total) * ((np.abs(total) + (1 << 19)) >> 20)
    return np.asarray((total + (1 << 19)) >> 20 if ties_up else rounded, spec.dtype)


def _q11_blend(spec: ResizeBilinearSpec, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    y0, y1, wy = q11_positions(spec, spec.in_h, spec.out_h)
    x0, x1, wx = q11_positions(spec, spec.in_w, spec.out_w)
    wy, wx = wy[:, None, None], wx[None, :, None]
    top_left, bottom_left, top_right, bottom_right = _corners(images.astype(np.int64), y0, y1, x0, x1)
    top = (top_left << 11) + (top_right - top_left) * wx
    bottom = (bottom_left << 11) + (bottom_right - bottom_left) * wx
    return np.asarray(((top << 11) + (bottom - top) * wy + (1 << 21)) >> 22, spec.dtype)


def _float_sums(spec: ResizeBilinearSpec, images: npt.NDArray[Any], *, by_pixel: bool) -> npt.NDArray[np.float32]:
    y0, y1, wy = float_positions(spec, spec.in_h, spec.out_h)
    x0, x1, wx = float_positions(spec, spec.in_w, spec.out_w)
    wy, wx = wy[:, None, None], wx[None, :, None]
    one = np.float32(1)
    top_left, bottom_left, top_right, bottom_right = _corners(images.astype(np.float32), y0, y1, x0, x1)
    # The order of the products and sums is the C++ expression's, every step rounded to float32.
    if by_pixel:
        total = top_left * ((one - wy) * (one - wx)) + top_right * ((one - wy) * wx)
        return np.asarray(total + bottom_left * (wy * (one - wx)) + bottom_right * (wy * wx), np.float32)
    total = top_left * (one - wy) * (one - wx)
    total = total + bottom_left * wy * (one - wx)
    total = total + top_right * (one - wy) * wx
    return np.asarray(total + bottom_right * wy * wx, np.float32)
