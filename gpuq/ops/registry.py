"""Every operator's reference(), by its Spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops import (
    add,
    arg_max,
    average_pool_2d,
    concatenation,
    conv2d,
    depthwise_conv2d,
    dequantize,
    fully_connected,
    logistic,
    max_pool_2d,
    mean,
    mul,
    pad,
    quantize,
    relu,
    reshape,
    resize_bilinear,
    resize_nearest_neighbor,
    softmax,
    sub,
)
from gpuq.ops.spec import Spec

REFERENCES: Mapping[type[Spec], Callable[..., npt.NDArray[Any]]] = MappingProxyType(
    {
        add.AddSpec: add.reference,
        arg_max.ArgMaxSpec: arg_max.reference,
        average_pool_2d.AveragePool2dSpec: average_pool_2d.reference,
        concatenation.ConcatenationSpec: concatenation.reference,
        conv2d.Conv2dSpec: conv2d.reference,
        depthwise_conv2d.DepthwiseConv2dSpec: depthwise_conv2d.reference,
        dequantize.DequantizeSpec: dequantize.reference,
        fully_connected.FullyConnectedSpec: fully_connected.reference,
        logistic.LogisticSpec: logistic.reference,
        max_pool_2d.MaxPool2dSpec: max_pool_2d.reference,
        mean.MeanSpec: mean.reference,
        mul.MulSpec: mul.reference,
        pad.PadSpec: pad.reference,
        quantize.QuantizeSpec: quantize.reference,
        relu.ReluSpec: relu.reference,
        relu.Relu6Spec: relu.reference,
        reshape.ReshapeSpec: reshape.reference,
        reshape.SqueezeSpec: reshape.reference,
        reshape.ExpandDimsSpec: reshape.reference,
        resize_bilinear.ResizeBilinearSpec: resize_bilinear.reference,
        resize_nearest_neighbor.ResizeNearestNeighborSpec: resize_nearest_neighbor.reference,
        softmax.SoftmaxSpec: softmax.reference,
        sub.SubSpec: sub.reference,
    }
)


def constant_operands(spec: Spec, constants: Sequence[npt.NDArray[Any] | None]) -> list[npt.NDArray[Any] | None]:
    """Constants as reference() takes them: one run that broadcasts over all, but weights and bias as they are stored.

    Args:
        constants: one entry per operand; None for activations and for what is left out, and stays so.
    """
    return [
        constant if constant is None or (spec.has_weights and position > 0) else constant[None]
        for position, constant in enumerate(constants)
    ]


def reference(spec: Spec, rule: Rule, *operands: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """The obviously right result of any operator; operands in the file's order, constants included."""
    return REFERENCES[type(spec)](spec, rule, *operands)
