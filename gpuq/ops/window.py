"""Sliding windows over (H, W): strides, dilation, four pads. Shared by convolutions and pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputValueError


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) so that the output has ceil(size / stride) elements; an odd remainder goes after.

    Source: LiteRT tflite/kernels/padding.h.
    """
    effective = (kernel - 1) * dilation + 1
    out = (size + stride - 1) // stride
    total = max(0, (out - 1) * stride + effective - size)
    return total // 2, total - total // 2


@dataclass(frozen=True, kw_only=True)
class Window2d:
    """A kernel_h x kernel_w window moved over an image.

    SAME padding is asymmetric, so there are four pads, in pixels.
    """

    kernel_h: int
    kernel_w: int
    stride_h: int = 1
    stride_w: int = 1
    dilation_h: int = 1
    dilation_w: int = 1
    pad_top: int = 0
    pad_bottom: int = 0
    pad_left: int = 0
    pad_right: int = 0

    def __post_init__(self) -> None:
        for name in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"):
            if getattr(self, name) < 1:
                raise InputValueError(f"window: {name}={getattr(self, name)} must be at least 1")
        for name in ("pad_top", "pad_bottom", "pad_left", "pad_right"):
            if getattr(self, name) < 0:
                raise InputValueError(f"window: {name}={getattr(self, name)} must not be negative")

    @classmethod
    def padded(
        cls,
        padding: str,
        in_h: int,
        in_w: int,
        *,
        kernel_h: int,
        kernel_w: int,
        stride_h: int = 1,
        stride_w: int = 1,
        dilation_h: int = 1,
        dilation_w: int = 1,
    ) -> Window2d:
        """A window with TFLite's "same" or "valid" padding for an input of in_h x in_w."""
        plain = cls(
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=stride_h,
            stride_w=stride_w,
            dilation_h=dilation_h,
            dilation_w=dilation_w,
        )
        if padding == "valid":
            return plain
        if padding != "same":
            raise InputValueError(f"window: padding {padding!r} must be 'same' or 'valid'")
        top, bottom = same_padding(in_h, kernel_h, stride_h, dilation_h)
        left, right = same_padding(in_w, kernel_w, stride_w, dilation_w)
        return replace(plain, pad_top=top, pad_bottom=bottom, pad_left=left, pad_right=right)

    @property
    def taps(self) -> int:
        """Elements of the window."""
        return self.kernel_h * self.kernel_w

    @property
    def is_pointwise(self) -> bool:
        """True when the output pixel is the input pixel: 1x1, stride 1, no pads."""
        return self == Window2d(kernel_h=1, kernel_w=1, dilation_h=self.dilation_h, dilation_w=self.dilation_w)

    @property
    def has_pads(self) -> bool:
        """True when the window reaches beyond the image."""
        return (self.pad_top, self.pad_bottom, self.pad_left, self.pad_right) != (0, 0, 0, 0)

    def output_hw(self, in_h: int, in_w: int) -> tuple[int, int]:
        """(OH, OW); values below 1 mean that the window does not fit."""
        effective_h = (self.kernel_h - 1) * self.dilation_h + 1
        effective_w = (self.kernel_w - 1) * self.dilation_w + 1
        return (
            (in_h + self.pad_top + self.pad_bottom - effective_h) // self.stride_h + 1,
            (in_w + self.pad_left + self.pad_right - effective_w) // self.stride_w + 1,
        )

    def pad(self, x: npt.NDArray[Any], value: int) -> npt.NDArray[Any]:
        """x (N, H, W, C) with its borders filled."""
        if not self.has_pads:
            return x
        pads = ((0, 0), (self.pad_top, self.pad_bottom), (self.pad_left, self.pad_right), (0, 0))
        return np.pad(x, pads, constant_values=value)

    def reduce(self, padded: npt.NDArray[Any], out_h: int, out_w: int, combine: np.ufunc) -> npt.NDArray[Any]:
        """(N, out_h, out_w, C): all pixels of each window combined, along H first, then along W; without dilation."""
        column = padded[:, : (out_h - 1) * self.stride_h + 1 : self.stride_h].copy()
        for kh in range(1, self.kernel_h):
            combine(column, padded[:, kh : kh + (out_h - 1) * self.stride_h + 1 : self.stride_h], out=column)
        total = column[:, :, : (out_w - 1) * self.stride_w + 1 : self.stride_w].copy()
        for kw in range(1, self.kernel_w):
            combine(total, column[:, :, kw : kw + (out_w - 1) * self.stride_w + 1 : self.stride_w], out=total)
        return total

    def views(self, padded: npt.NDArray[Any], out_h: int, out_w: int) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
        """(kh, kw, view) for each tap; the view (N, out_h, out_w, C) holds the pixel that the tap sees."""
        for kh in range(self.kernel_h):
            for kw in range(self.kernel_w):
                top, left = kh * self.dilation_h, kw * self.dilation_w
                rows = slice(top, top + (out_h - 1) * self.stride_h + 1, self.stride_h)
                columns = slice(left, left + (out_w - 1) * self.stride_w + 1, self.stride_w)
                yield kh, kw, padded[:, rows, columns, :]
