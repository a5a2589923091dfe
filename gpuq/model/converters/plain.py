"""Operators on float32, int32 and int64 elements whose kin on codes rescale, and so have Specs of another kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Converted, OperatorView
from gpuq.ops.float32.elementwise import (
    BINARY_SPECS,
    UNARY_SPECS,
    FloatLeakyReluSpec,
    FloatPreluSpec,
    FloatUnarySpec,
    PlainBinarySpec,
)
from gpuq.ops.float32.movement import PlainConcatenationSpec, PlainPadSpec
from gpuq.ops.float32.reduction import FloatL2NormalizationSpec, FloatMeanSpec, FloatReduceSpec, FloatSumSpec
from gpuq.ops.float32.weighted import FloatBatchMatmulSpec
from gpuq.ops.spec import FLOAT32, INT32, INT64, shape_text

_WITH_ACTIVATION = ("ADD", "SUB", "MUL", "DIV")


def _binary(spec_type: type[PlainBinarySpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        a, b = view.x(0), view.x(1)
        if not a.dtype == b.dtype == view.out.dtype:
            raise view.fail(f"inputs of {a.dtype} and {b.dtype} and output of {view.out.dtype} must have one dtype")
        activation = view.float_activation if spec_type.op in _WITH_ACTIVATION else None
        spec = spec_type(a_shape=a.shape, b_shape=b.shape, dtype=a.dtype, activation=activation)
        if isinstance(spec, FloatPreluSpec) and spec.output_shape != spec.a_shape:
            raise view.fail(f"alpha {shape_text(spec.b_shape)} must broadcast to input {shape_text(spec.a_shape)}")
        return spec, spec.output_shape

    return convert


def _unary(spec_type: type[FloatUnarySpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        _require_float(view)
        return spec_type(shape=view.x().shape), view.x().shape

    return convert


def _leaky_relu(view: OperatorView) -> Converted:
    _require_float(view)
    return FloatLeakyReluSpec(shape=view.x().shape, alpha=float(view.option("Alpha"))), view.x().shape


def _reduce(spec_type: type[FloatReduceSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        _require_float(view)
        shape = view.x().shape
        spec = spec_type(
            x_shape=shape,
            axes=view.axes(view.integers(1, "axes"), len(shape)),
            keep_dims=bool(view.option("KeepDims")),
        )
        return spec, spec.output_shape

    return convert


def _l2_normalization(view: OperatorView) -> Converted:
    _require_float(view)
    shape = view.x().shape
    if not shape:
        raise view.fail("input must have rank 1 or more")
    if view.activation is not None:
        raise InputTypeError(f"L2_NORMALIZATION: fused activation {view.activation} is not supported")
    return FloatL2NormalizationSpec(depth=shape[-1]), shape


def _batch_matmul(view: OperatorView) -> Converted:
    if not view.x(0).dtype == view.x(1).dtype == view.out.dtype == FLOAT32:
        raise InputTypeError(f"BATCH_MATMUL: {view.x(0).dtype} times {view.x(1).dtype} is not supported")
    spec = FloatBatchMatmulSpec(
        a_shape=view.x(0).shape,
        b_shape=view.x(1).shape,
        adj_x=bool(view.option("AdjX")),
        adj_y=bool(view.option("AdjY")),
    )
    return spec, spec.output_shape


def _pad(view: OperatorView) -> Converted:
    spec = PlainPadSpec(**view.moved(), pads=view.pairs(1, "paddings"))
    return spec, spec.output_shape


def _concatenation(view: OperatorView) -> Converted:
    inputs = [view.x(position) for position in range(len(view.raw.inputs))]
    if any(x.dtype != inputs[0].dtype for x in inputs):
        raise view.fail("inputs must have one dtype")
    if view.activation is not None:
        raise InputTypeError(f"CONCATENATION: fused activation {view.activation} is not supported")
    moved = view.moved()
    spec = PlainConcatenationSpec(
        **moved,
        x_shapes=tuple(x.shape for x in inputs),
        axis=view.axis(view.option("Axis"), len(moved["x_shape"])),
    )
    return spec, spec.output_shape


def _require_float(view: OperatorView) -> None:
    for tensor in (view.x(), view.out):
        if tensor.dtype != FLOAT32:
            raise InputTypeError(f"{view.raw.name}: {tensor.dtype} tensors are not supported")


PLAIN_CONVERTERS: Mapping[str, Callable[[OperatorView], Converted]] = MappingProxyType(
    {
        "BATCH_MATMUL": _batch_matmul,
        "CONCATENATION": _concatenation,
        "L2_NORMALIZATION": _l2_normalization,
        "LEAKY_RELU": _leaky_relu,
        "MEAN": _reduce(FloatMeanSpec),
        "PAD": _pad,
        "PRELU": _binary(FloatPreluSpec),
        "SUM": _reduce(FloatSumSpec),
        **{name: _binary(spec_type) for name, spec_type in BINARY_SPECS.items()},
        **{name: _unary(spec_type) for name, spec_type in UNARY_SPECS.items()},
    }
)
"""Converters that take the place of those in CONVERTERS where is_plain holds."""


def is_plain(view: OperatorView) -> bool:
    """The first output holds numbers, not codes."""
    return bool(view.raw.outputs) and view.tensors[view.raw.outputs[0]].dtype in (FLOAT32, INT32, INT64)
