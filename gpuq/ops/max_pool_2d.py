"""MAX_POOL_2D: the largest code inside the image; no rescaling.

Sources: LiteRT tflite/kernels/internal/reference/{pooling.h,integer_ops/pooling.h}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.average_pool_2d import Pool2dSpec
from gpuq.ops.spec import clamp_to, run_shape


@dataclass(frozen=True, kw_only=True)
class MaxPool2dSpec(Pool2dSpec):
    """See Pool2dSpec for the fields."""

    op: ClassVar[str] = "MAX_POOL_2D"


def reference(spec: MaxPool2dSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact maxima of (..., H, W, C) codes: (N, OH, OW, C) codes."""
    images = run_shape(x, (spec.in_h, spec.in_w, spec.in_c))
    out_h, out_w, _ = spec.output_shape
    lowest = spec.x_quant.qmin
    largest = spec.window.reduce(spec.window.pad(images, lowest), out_h, out_w, np.maximum)
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return clamp_to(largest, act_min, act_max, spec.out_quant.dtype)
