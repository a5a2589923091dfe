"""READ_VARIABLE and ASSIGN_VARIABLE: copies out of and into state that lasts from run to run.

Sources: LiteRT tflite/kernels/{read_variable,assign_variable}.cc, tflite/experimental/resource/resource_variable.cc;
tflite-micro tensorflow/lite/micro/micro_resource_variable.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import Shape, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class ReadVariableSpec(MovementSpec):
    """The value of a variable. See MovementSpec for the other fields.

    Args:
        out_shape: of one run; as many elements as x_shape, the variable's.
        is_assigned: CALL_ONCE or an operator before this one assigns the variable in the first run.
    """

    op: ClassVar[str] = "READ_VARIABLE"

    out_shape: Shape
    is_assigned: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            math.prod(self.x_shape) == math.prod(self.out_shape),
            f"output {shape_text(self.out_shape)} must have the variable's {math.prod(self.x_shape)} elements",
        )

    @property
    def output_shape(self) -> Shape:
        return self.out_shape


@dataclass(frozen=True, kw_only=True)
class AssignVariableSpec(MovementSpec):
    """A new value for a variable. See MovementSpec for the fields; the variable has the value's shape and dtype."""

    op: ClassVar[str] = "ASSIGN_VARIABLE"

    @property
    def output_shape(self) -> Shape:
        return self.x_shape


def reference(spec: ReadVariableSpec | AssignVariableSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) as (N, *output_shape)."""
    return np.asarray(run_shape(x, spec.output_shape))
