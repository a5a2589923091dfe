"""Operators that reduce windows, rows or axes, and resizing."""

from __future__ import annotations

from collections.abc import Callable

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Converted, OperatorView
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.float32.pool_2d import FloatAveragePool2dSpec, FloatMaxPool2dSpec
from gpuq.ops.float32.softmax import FloatSoftmaxSpec
from gpuq.ops.l2_normalization import L2NormalizationSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.reduce import ReduceMaxSpec, SumSpec
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import INT8, UINT8


def pool(spec_type: type[AveragePool2dSpec] | type[MaxPool2dSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        n, in_h, in_w, in_c = view.image()
        if view.is_float:
            plain = (FloatAveragePool2dSpec if spec_type is AveragePool2dSpec else FloatMaxPool2dSpec)(
                in_h=in_h,
                in_w=in_w,
                in_c=in_c,
                window=view.window(view.option("FilterHeight"), view.option("FilterWidth"), dilated=False),
                activation=view.float_activation,
            )
            return plain, (n, *plain.output_shape)
        spec = spec_type(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            window=view.window(view.option("FilterHeight"), view.option("FilterWidth"), dilated=False),
            x_quant=view.quant(view.x()),
            out_quant=view.quant(view.out),
            activation=view.activation,
        )
        return spec, (n, *spec.output_shape)

    return convert


def reduce_codes(spec_type: type[MeanSpec] | type[SumSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        shape = view.x().shape
        spec = spec_type(
            x_shape=shape,
            axes=view.axes(view.integers(1, "axes"), len(shape)),
            keep_dims=bool(view.option("KeepDims")),
            x_quant=view.quant(view.x()),
            out_quant=view.quant(view.out),
        )
        return spec, spec.output_shape

    return convert


def reduce_extreme(spec_type: type[ReduceMaxSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        shape = view.x().shape
        if view.x().dtype in (INT8, UINT8) and view.x().quant != view.out.quant:
            raise view.fail("input and output must have equal scale and zero point")
        spec = spec_type(
            **view.moved(),
            axes=view.axes(view.integers(1, "axes"), len(shape)),
            keep_dims=bool(view.option("KeepDims")),
        )
        return spec, spec.output_shape

    return convert


def arg_max(view: OperatorView) -> Converted:
    x = view.x()
    axis = view.axis(view.one_integer(1, "axis"), len(x.shape))
    spec = ArgMaxSpec(x_shape=x.shape, axis=axis, dtype=x.dtype, out_dtype=view.out.dtype)
    return spec, spec.output_shape


def softmax(view: OperatorView) -> Converted:
    shape = view.x().shape
    if not shape:
        raise view.fail("input must have rank 1 or more")
    if view.is_float:
        return FloatSoftmaxSpec(depth=shape[-1], beta=view.option("Beta")), shape
    spec = SoftmaxSpec(
        depth=shape[-1],
        x_quant=view.quant(view.x()),
        out_quant=view.quant(view.out),
        beta=view.option("Beta"),
    )
    return spec, shape


def l2_normalization(view: OperatorView) -> Converted:
    shape = view.x().shape
    if not shape:
        raise view.fail("input must have rank 1 or more")
    if view.activation is not None:
        raise InputTypeError(f"L2_NORMALIZATION: fused activation {view.activation} is not supported")
    spec = L2NormalizationSpec(depth=shape[-1], x_quant=view.quant(view.x()), out_quant=view.quant(view.out))
    return spec, shape


def resize(
    spec_type: type[ResizeBilinearSpec] | type[ResizeNearestNeighborSpec],
) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        n, in_h, in_w, in_c = view.image()
        size = view.integers(1, "size")
        if len(size) != 2:
            raise view.fail(f"size {size} must be (height, width)")
        if not view.is_float and view.quant(view.x()) != view.quant(view.out):
            raise view.fail("input and output must have equal scale and zero point")
        spec = spec_type(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_h=size[0],
            out_w=size[1],
            align_corners=bool(view.option("AlignCorners")),
            half_pixel_centers=bool(view.option("HalfPixelCenters")),
            dtype=view.x().dtype,
        )
        return spec, (n, *spec.output_shape)

    return convert
