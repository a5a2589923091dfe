"""Operators with weights, and products of two tensors."""

from __future__ import annotations

import math
from typing import Any

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import PADDINGS, Converted, OperatorView
from gpuq.ops.batch_matmul import BatchMatmulSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.float32.weighted import (
    FloatConv2dSpec,
    FloatDepthwiseConv2dSpec,
    FloatFullyConnectedSpec,
    FloatTransposeConvSpec,
)
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.hybrid import HybridConv2dSpec, HybridDepthwiseConv2dSpec, HybridFullyConnectedSpec
from gpuq.ops.spec import FLOAT32, Spec, shape_text
from gpuq.ops.transpose_conv import TransposeConvSpec


def conv2d(view: OperatorView) -> Converted:
    n, in_h, in_w, in_c = view.image()
    view.weights_and_bias()
    weights = view.x(1)
    if len(weights.shape) != 4:
        raise view.fail(f"weights {shape_text(weights.shape)} must have rank 4 (OHWI)")
    out_c, kernel_h, kernel_w, group_c = weights.shape
    if in_c % group_c:
        raise view.fail(
            f"input C={in_c} (NHWC {shape_text(view.x().shape)}) must be a multiple of weights "
            f"I={group_c} (OHWI {shape_text(weights.shape)})"
        )
    if view.is_float:
        _check_bias_shape(view, out_c)
        geometry: dict[str, Any] = dict(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_c=out_c,
            window=view.window(kernel_h, kernel_w),
            groups=in_c // group_c,
            activation=view.float_activation,
        )
        if weights.dtype == FLOAT32:
            plain = FloatConv2dSpec(**geometry)
            return plain, (n, *plain.output_shape)
        hybrid = HybridConv2dSpec(**geometry, w_quant=view.quant(weights))
        return hybrid, (n, *hybrid.output_shape)
    spec = Conv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_c=out_c,
        window=view.window(kernel_h, kernel_w),
        groups=in_c // group_c,
        x_quant=view.quant(view.x()),
        w_quant=view.quant(weights),
        out_quant=view.quant(view.out),
        activation=view.activation,
        weight_bits=weights.bits,
        bias_dtype=view.bias_dtype(),
    )
    _check_bias_shape(view, out_c)
    return spec, (n, *spec.output_shape)


def _check_bias_shape(view: OperatorView, out_c: int, position: int = 2) -> None:
    if view.has(position) and math.prod(view.x(position).shape) != out_c:
        raise view.fail(f"bias {shape_text(view.x(position).shape)} must have O={out_c} elements")


def depthwise_conv2d(view: OperatorView) -> Converted:
    n, in_h, in_w, in_c = view.image()
    view.weights_and_bias()
    weights = view.x(1)
    if len(weights.shape) != 4 or weights.shape[0] != 1:
        raise view.fail(f"weights {shape_text(weights.shape)} must be 1HWO")
    _, kernel_h, kernel_w, out_c = weights.shape
    # The runtimes ignore the file's depth_multiplier in favour of the shapes.
    if out_c % in_c:
        raise view.fail(f"weights O={out_c} must be a multiple of input C={in_c}")
    if view.is_float:
        geometry: dict[str, Any] = dict(
            in_h=in_h, in_w=in_w, in_c=in_c, multiplier=out_c // in_c, window=view.window(kernel_h, kernel_w)
        )
        _check_bias_shape(view, out_c)
        if weights.dtype == FLOAT32:
            plain = FloatDepthwiseConv2dSpec(**geometry, activation=view.float_activation)
            return plain, (n, *plain.output_shape)
        hybrid = HybridDepthwiseConv2dSpec(**geometry, w_quant=view.quant(weights), activation=view.float_activation)
        return hybrid, (n, *hybrid.output_shape)
    spec = DepthwiseConv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        multiplier=out_c // in_c,
        window=view.window(kernel_h, kernel_w),
        x_quant=view.quant(view.x()),
        w_quant=view.quant(weights),
        out_quant=view.quant(view.out),
        activation=view.activation,
        weight_bits=weights.bits,
        has_bias=view.has(2),
        bias_dtype=view.bias_dtype(),
    )
    _check_bias_shape(view, out_c)
    return spec, (n, *spec.output_shape)


def fully_connected(view: OperatorView) -> Converted:
    view.weights_and_bias()
    weights = view.x(1)
    if view.option("WeightsFormat") != 0:
        raise InputTypeError("FULLY_CONNECTED: shuffled weights are not supported")
    if len(weights.shape) != 2:
        raise view.fail(f"weights {shape_text(weights.shape)} must have rank 2 (O, I)")
    out_c, in_c = weights.shape
    x_shape = view.x().shape
    elements = math.prod(x_shape)
    keeps = bool(view.option("KeepNumDims"))
    if elements % in_c or (keeps and x_shape[-1:] != (in_c,)):
        raise view.fail(f"input {shape_text(x_shape)} does not fall into rows of weights I={in_c}")
    spec: Spec
    if not view.is_float:
        spec = FullyConnectedSpec(
            in_c=in_c,
            out_c=out_c,
            x_quant=view.quant(view.x()),
            w_quant=view.quant(weights),
            out_quant=view.quant(view.out),
            activation=view.activation,
            weight_bits=weights.bits,
            has_bias=view.has(2),
            bias_dtype=view.bias_dtype(),
        )
    elif weights.dtype == FLOAT32:
        spec = FloatFullyConnectedSpec(in_c=in_c, out_c=out_c, activation=view.float_activation)
    else:
        spec = HybridFullyConnectedSpec(
            in_c=in_c,
            out_c=out_c,
            w_quant=view.quant(weights),
            activation=view.float_activation,
            asymmetric_inputs=bool(view.option("AsymmetricQuantizeInputs")),
        )
    _check_bias_shape(view, out_c)
    return spec, (*x_shape[:-1], out_c) if keeps else (elements // in_c, out_c)


def transpose_conv(view: OperatorView) -> Converted:
    n, in_h, in_w, in_c = view.image(2)
    view.weights_and_bias(x=2, bias_position=3)
    weights = view.x(1)
    if len(weights.shape) != 4:
        raise view.fail(f"weights {shape_text(weights.shape)} must have rank 4 (OHWI)")
    out_c, kernel_h, kernel_w, weights_c = weights.shape
    if weights_c != in_c:
        raise view.fail(f"weights I={weights_c} (OHWI {shape_text(weights.shape)}) must equal input C={in_c}")
    size = view.integers(0, "output shape")
    if len(size) != 4 or (size[0], size[3]) != (n, out_c):
        raise view.fail(f"output shape {size} must be NHWC with N={n} and C={out_c}")
    geometry: dict[str, Any] = dict(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_h=size[1],
        out_w=size[2],
        out_c=out_c,
        window=view.window(kernel_h, kernel_w, dilated=False, image=(size[1], size[2])),
    )
    if view.x(2).dtype == FLOAT32:
        _check_bias_shape(view, out_c, 3)
        plain = FloatTransposeConvSpec(**geometry, activation=view.float_activation)
        return plain, (n, *plain.output_shape)
    spec = TransposeConvSpec(
        **geometry,
        x_quant=view.quant(view.x(2)),
        w_quant=view.quant(weights),
        out_quant=view.quant(view.out),
        activation=view.activation,
        padding=PADDINGS[view.option("Padding")],
        images=n,
        bias_dtype=view.bias_dtype(2),
    )
    _check_bias_shape(view, out_c, 3)
    return spec, (n, *spec.output_shape)


def batch_matmul(view: OperatorView) -> Converted:
    spec = BatchMatmulSpec(
        a_shape=view.x(0).shape,
        b_shape=view.x(1).shape,
        adj_x=bool(view.option("AdjX")),
        adj_y=bool(view.option("AdjY")),
        a_quant=view.quant(view.x(0)),
        b_quant=view.quant(view.x(1)),
        out_quant=view.quant(view.out),
    )
    return spec, spec.output_shape
