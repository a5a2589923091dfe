"""RESIZE_NEAREST_NEIGHBOR: copies the pixel at a float32 position.

Source: LiteRT tflite/kernels/internal/reference/resize_nearest_neighbor.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.resize_bilinear import ResizeSpec
from gpuq.ops.spec import run_shape
from gpuq.quant import round_half_away


@dataclass(frozen=True, kw_only=True)
class ResizeNearestNeighborSpec(ResizeSpec):
    """See ResizeSpec for the fields."""

    op: ClassVar[str] = "RESIZE_NEAREST_NEIGHBOR"


def nearest_indices(spec: ResizeNearestNeighborSpec, in_size: int, out_size: int) -> npt.NDArray[np.int64]:
    """The input row or column that each output row or column copies."""
    if spec.align_corners and out_size > 1:
        scale = np.float32(in_size - 1) / np.float32(out_size - 1)
    else:
        scale = np.float32(in_size) / np.float32(out_size)
    offset = np.float32(0.5 if spec.half_pixel_centers else 0)
    position = (np.arange(out_size).astype(np.float32) + offset) * scale
    rounded = round_half_away(position) if spec.align_corners else np.floor(position)
    return np.clip(rounded.astype(np.int64), 0, in_size - 1)


def reference(spec: ResizeNearestNeighborSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., H, W, C) codes at the new size: (N, out_h, out_w, C) codes."""
    images = run_shape(x, (spec.in_h, spec.in_w, spec.in_c))
    rows = nearest_indices(spec, spec.in_h, spec.out_h)
    columns = nearest_indices(spec, spec.in_w, spec.out_w)
    return images[:, rows][:, :, columns]
