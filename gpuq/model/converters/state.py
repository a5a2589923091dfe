"""Operators that read and assign variables."""

from __future__ import annotations

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Converted, OperatorView
from gpuq.ops.spec import shape_text
from gpuq.ops.variable import AssignVariableSpec, ReadVariableSpec


def read_variable(view: OperatorView) -> Converted:
    variable, shape = view.x(), view.out.shape
    if not variable.is_variable:
        raise InputTypeError("READ_VARIABLE: a handle that does not come from VAR_HANDLE is not supported")
    # No dimensions: a scalar, or a shape that the file leaves to the variable.
    spec = ReadVariableSpec(**view.moved(), out_shape=shape or variable.shape, is_assigned=view.option("IsAssigned"))
    return spec, spec.output_shape


def assign_variable(view: OperatorView) -> Converted:
    if len(view.raw.inputs) != 1 or not view.raw.outputs or not view.out.is_variable:
        raise InputTypeError("ASSIGN_VARIABLE: a handle that does not come from VAR_HANDLE is not supported")
    value, variable = view.x(), view.out
    if value.shape != variable.shape:
        raise view.fail(f"value {shape_text(value.shape)} must have the variable's shape {shape_text(variable.shape)}")
    spec = AssignVariableSpec(**view.moved())
    return spec, spec.output_shape
