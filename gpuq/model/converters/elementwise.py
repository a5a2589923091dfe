"""Operators that work element by element, and conversions between types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Converted, OperatorView
from gpuq.ops.abs_neg import NegSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.cast import CastSpec
from gpuq.ops.comparison import ComparisonSpec
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.div import DivSpec
from gpuq.ops.leaky_relu import LeakyReluSpec, PreluSpec
from gpuq.ops.maximum_minimum import MaximumSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.select import SelectSpec, SelectV2Spec
from gpuq.ops.spec import FLOAT32, INT8, INT16, UINT8, shape_text
from gpuq.ops.squared_difference import SquaredDifferenceSpec
from gpuq.ops.unary import UnarySpec


def _pair(view: OperatorView) -> dict[str, Any]:
    """What every operator on two tensors of codes has."""
    a, b = view.x(0), view.x(1)
    return {
        "a_shape": a.shape,
        "b_shape": b.shape,
        "a_quant": view.quant(a),
        "b_quant": view.quant(b),
        "out_quant": view.quant(view.out),
    }


def binary(spec_type: type[BinarySpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        spec = spec_type(
            **_pair(view),
            activation=view.activation,
            pot_scale_int16=view.x().dtype == INT16 and spec_type is not MulSpec and bool(view.option("PotScaleInt16")),
        )
        return spec, spec.output_shape

    return convert


def div(view: OperatorView) -> Converted:
    spec = DivSpec(**_pair(view), activation=view.activation)
    return spec, spec.output_shape


def codes(spec_type: type[PreluSpec] | type[SquaredDifferenceSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        spec = spec_type(**_pair(view))
        if isinstance(spec, PreluSpec) and spec.output_shape != spec.a_shape:
            raise view.fail(f"alpha {shape_text(spec.b_shape)} must broadcast to input {shape_text(spec.a_shape)}")
        return spec, spec.output_shape

    return convert


def maximum(spec_type: type[MaximumSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        dtype = view.moved()["dtype"]
        if view.x(1).dtype != dtype:
            raise view.fail(f"inputs of {dtype} and {view.x(1).dtype} must have one dtype")
        spec = spec_type(a_shape=view.x(0).shape, b_shape=view.x(1).shape, dtype=dtype)
        return spec, spec.output_shape

    return convert


def comparison(spec_type: type[ComparisonSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        a, b = view.x(0), view.x(1)
        if a.dtype != b.dtype:
            raise view.fail(f"inputs of {a.dtype} and {b.dtype} must have one dtype")
        if view.out.dtype != np.bool_:
            raise view.fail(f"output of {view.out.dtype} must be bool")
        quantized = a.dtype in (INT8, UINT8) or (a.dtype == INT16 and (a.quant or b.quant) is not None)
        spec = spec_type(
            a_shape=a.shape,
            b_shape=b.shape,
            dtype=a.dtype,
            a_quant=view.quant(a) if quantized else None,
            b_quant=view.quant(b) if quantized else None,
        )
        return spec, spec.output_shape

    return convert


def select(spec_type: type[SelectV2Spec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        condition, a, b = (view.x(position) for position in range(3))
        if condition.dtype != np.bool_ or b.dtype != a.dtype:
            raise view.fail(f"inputs of {condition.dtype}, {a.dtype} and {b.dtype} must be bool and two of one dtype")
        shape = condition.shape
        if spec_type is SelectSpec and len(shape) == 1 and len(a.shape) > 1:
            shape += (1,) * (len(a.shape) - 1)
        spec = spec_type(condition_shape=shape, a_shape=a.shape, b_shape=b.shape, dtype=view.moved(position=1)["dtype"])
        return spec, spec.output_shape

    return convert


def unary(spec_type: type[UnarySpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        x = view.x()
        return spec_type(shape=x.shape, x_quant=view.quant(x), out_quant=view.quant(view.out)), x.shape

    return convert


def leaky_relu(view: OperatorView) -> Converted:
    x = view.x()
    spec = LeakyReluSpec(
        shape=x.shape, x_quant=view.quant(x), out_quant=view.quant(view.out), alpha=float(view.option("Alpha"))
    )
    return spec, x.shape


def neg(view: OperatorView) -> Converted:
    moved = view.moved()
    return NegSpec(shape=moved["x_shape"], dtype=moved["dtype"]), moved["x_shape"]


def quantize(view: OperatorView) -> Converted:
    x = view.x()
    spec = QuantizeSpec(
        shape=x.shape,
        x_quant=None if x.dtype == FLOAT32 else view.quant(x),
        out_quant=view.quant(view.out),
    )
    return spec, x.shape


def dequantize(view: OperatorView) -> Converted:
    x = view.x()
    if view.out.dtype != FLOAT32:
        raise InputTypeError(f"DEQUANTIZE: output of {view.out.dtype} is not supported; it must be float32")
    return DequantizeSpec(shape=x.shape, x_quant=view.quant(x)), x.shape


def cast(view: OperatorView) -> Converted:
    x = view.x()
    return CastSpec(shape=x.shape, dtype=x.dtype, out_dtype=view.out.dtype), x.shape
