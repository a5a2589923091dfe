"""ELU: y = x where x >= 0, exp(x) - 1 elsewhere, as a float32 table over the 256 codes of the input.

LiteRT and XNNPACK take expm1f, TFLite Micro expf less 1; XNNPACK rounds ties to even.
Sources: LiteRT tflite/kernels/activations.cc (EluPrepare), internal/common.h (LUTPopulateInt8); tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/elu.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import INT8
from gpuq.ops.unary import (
    UnarySpec,
    float_table,
    float_table_to_even,
    look_up,
    real_inputs,
    require_finite_inverse,
    rounded_once,
)


@dataclass(frozen=True, kw_only=True)
class EluSpec(UnarySpec):
    """Elementwise exponential linear unit; int8 only. See UnarySpec for the fields."""

    op: ClassVar[str] = "ELU"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_dtype("input", self.x_quant.dtype, INT8)
        require_finite_inverse(self)


def table(spec: EluSpec, rule: Rule) -> npt.NDArray[Any]:
    """The output code of every input code, from -128 to 127."""
    real = real_inputs(spec)
    below = np.minimum(real, np.float32(0))
    if rule.rounding is Rounding.TABLE_F32_EXP:
        negative = rounded_once(math.exp, below) - np.float32(1)
    else:
        negative = rounded_once(math.expm1, below)
    of_reals = float_table_to_even if rule.rounding is Rounding.TABLE_F32_EVEN else float_table
    return of_reals(spec, np.where(real < 0, negative, real))


def reference(spec: EluSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for codes of any shape."""
    return look_up(spec, table(spec, rule), x)
