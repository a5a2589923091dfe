"""AVERAGE_POOL_2D and MAX_POOL_2D on float32: over the pixels inside the image, row by row.

Source: LiteRT f67457790, tflite/kernels/internal/reference/pooling.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.float32.activation import check_activation, clamp
from gpuq.ops.spec import FLOAT32, Shape, Spec, run_shape
from gpuq.ops.window import Window2d


@dataclass(frozen=True, kw_only=True)
class FloatPool2dSpec(Spec):
    """A pool over windows of a float32 image; see Pool2dSpec for the geometry."""

    in_h: int
    in_w: int
    in_c: int
    window: Window2d
    activation: str | None = None

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c)
        check_activation(self, self.activation)
        window = self.window
        out_h, out_w, _ = self.output_shape
        self.require(
            out_h >= 1 and out_w >= 1,
            f"window {window.kernel_h}x{window.kernel_w} does not fit into {self.in_h}x{self.in_w}",
        )
        self.require(
            max(window.pad_top, window.pad_bottom) < window.kernel_h
            and max(window.pad_left, window.pad_right) < window.kernel_w,
            "pads must be smaller than the window, so that no window is empty",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return (*self.window.output_hw(self.in_h, self.in_w), self.in_c)


@dataclass(frozen=True, kw_only=True)
class FloatAveragePool2dSpec(FloatPool2dSpec):
    """See FloatPool2dSpec."""

    op: ClassVar[str] = "AVERAGE_POOL_2D"


@dataclass(frozen=True, kw_only=True)
class FloatMaxPool2dSpec(FloatPool2dSpec):
    """See FloatPool2dSpec."""

    op: ClassVar[str] = "MAX_POOL_2D"


def reference(spec: FloatPool2dSpec, rule: Rule, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(..., H, W, C) to (N, OH, OW, C)."""
    is_mean = isinstance(spec, FloatAveragePool2dSpec)
    images = run_shape(x, (spec.in_h, spec.in_w, spec.in_c))
    out_h, out_w, out_c = spec.output_shape
    window = spec.window
    padded = window.pad(images, 0) if is_mean else _padded_low(window, images)
    total = np.full((images.shape[0], out_h, out_w, out_c), 0 if is_mean else np.finfo(np.float32).min, np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for _, _, pixels in window.views(padded, out_h, out_w):
            total = total + pixels if is_mean else np.maximum(total, pixels)
        if is_mean:
            inside = window.pad(np.ones((1, spec.in_h, spec.in_w, 1), np.float32), 0)
            count = np.zeros((1, out_h, out_w, 1), np.float32)
            for _, _, pixels in window.views(inside, out_h, out_w):
                count = count + pixels
            total = total / count
    return clamp(spec.activation, total)


def _padded_low(window: Window2d, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Borders that no pixel is below."""
    pads = ((0, 0), (window.pad_top, window.pad_bottom), (window.pad_left, window.pad_right), (0, 0))
    return np.pad(images, pads, constant_values=np.finfo(np.float32).min)
