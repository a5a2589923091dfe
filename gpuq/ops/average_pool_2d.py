"""AVERAGE_POOL_2D: the mean of the codes inside the image, rounded half away from zero; no rescaling.

Sources: LiteRT tflite/kernels/internal/reference/{pooling.h,integer_ops/pooling.h}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.spec import INT8, INT16, UINT8, Shape, Spec, clamp_to, run_shape
from gpuq.ops.window import Window2d
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class Pool2dSpec(Spec):
    """A pool over windows of an image; see AVERAGE_POOL_2D and MAX_POOL_2D.

    Args:
        in_h, in_w, in_c: input image and channels.
        window: kernel, strides, pads; no dilation.
        x_quant, out_quant: per tensor, int8, uint8 or int16; pools copy codes, so both must mean the same.
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
    """

    in_h: int
    in_w: int
    in_c: int
    window: Window2d
    x_quant: Quant
    out_quant: Quant
    activation: str | None = None

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c)
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8, INT16)
        self.require_dtype("output", self.out_quant.dtype, self.x_quant.dtype)
        self.require_per_tensor(x_quant=self.x_quant, out_quant=self.out_quant)
        self.require(
            self.x_quant.zero_point == self.out_quant.zero_point
            and abs(self.x_quant.scalar_scale() - self.out_quant.scalar_scale()) <= 1e-6,
            "input and output must have equal scale and zero point",
        )
        out_h, out_w, _ = self.output_shape
        self.require(
            out_h >= 1 and out_w >= 1,
            f"window {self.window.kernel_h}x{self.window.kernel_w} does not fit into {self.in_h}x{self.in_w}",
        )
        window = self.window
        self.require(
            max(window.pad_top, window.pad_bottom) < window.kernel_h
            and max(window.pad_left, window.pad_right) < window.kernel_w,
            "pads must be smaller than the window, so that no window is empty",
        )
        numerics.activation_range(self.activation, self.out_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return (*self.window.output_hw(self.in_h, self.in_w), self.in_c)


@dataclass(frozen=True, kw_only=True)
class AveragePool2dSpec(Pool2dSpec):
    """See Pool2dSpec for the fields."""

    op: ClassVar[str] = "AVERAGE_POOL_2D"


def reference(spec: AveragePool2dSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact means of (..., H, W, C) codes: (N, OH, OW, C) codes."""
    images = run_shape(x, (spec.in_h, spec.in_w, spec.in_c)).astype(np.int64)
    out_h, out_w, _ = spec.output_shape
    window = spec.window
    inside = np.ones((1, spec.in_h, spec.in_w, 1), np.int64)
    total = window.reduce(window.pad(images, 0), out_h, out_w, np.add)
    count = window.reduce(window.pad(inside, 0), out_h, out_w, np.add)
    # C integer division truncates; the sign is taken apart to say the same with NumPy's floor division.
    means = np.sign(total) * ((np.abs(total) + count // 2) // count)
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return clamp_to(means, act_min, act_max, spec.out_quant.dtype)
