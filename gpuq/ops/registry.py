"""Every operator's reference(), by its Spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops import (
    abs_neg,
    add,
    arg_max,
    average_pool_2d,
    batch_matmul,
    cast,
    comparison,
    concatenation,
    conv2d,
    depthwise_conv2d,
    dequantize,
    detection_post_process,
    div,
    elu,
    fully_connected,
    gather,
    hard_swish,
    hybrid,
    l2_normalization,
    leaky_relu,
    logistic,
    max_pool_2d,
    maximum_minimum,
    mean,
    mul,
    pack,
    pad,
    quantize,
    reduce,
    relu,
    reshape,
    resize_bilinear,
    resize_nearest_neighbor,
    select,
    slices,
    softmax,
    space,
    sqrt,
    squared_difference,
    sub,
    svdf,
    tanh,
    tile,
    transpose,
    transpose_conv,
    unidirectional_sequence_lstm,
    variable,
)
from gpuq.ops.float32 import elementwise as float_elementwise
from gpuq.ops.float32 import movement as float_movement
from gpuq.ops.float32 import pool_2d as float_pool_2d
from gpuq.ops.float32 import reduction as float_reduction
from gpuq.ops.float32 import softmax as float_softmax
from gpuq.ops.float32 import unidirectional_sequence_lstm as float_lstm
from gpuq.ops.float32 import weighted as float_weighted
from gpuq.ops.spec import Spec

REFERENCES: Mapping[type[Spec], Callable[..., Any]] = MappingProxyType(
    {
        abs_neg.AbsSpec: abs_neg.abs_reference,
        abs_neg.NegSpec: abs_neg.neg_reference,
        add.AddSpec: add.reference,
        arg_max.ArgMaxSpec: arg_max.reference,
        average_pool_2d.AveragePool2dSpec: average_pool_2d.reference,
        batch_matmul.BatchMatmulSpec: batch_matmul.reference,
        cast.CastSpec: cast.reference,
        **dict.fromkeys(comparison.COMPARISONS, comparison.reference),
        concatenation.ConcatenationSpec: concatenation.reference,
        conv2d.Conv2dSpec: conv2d.reference,
        depthwise_conv2d.DepthwiseConv2dSpec: depthwise_conv2d.reference,
        dequantize.DequantizeSpec: dequantize.reference,
        detection_post_process.DetectionPostProcessSpec: detection_post_process.reference,
        div.DivSpec: div.reference,
        elu.EluSpec: elu.reference,
        float_pool_2d.FloatAveragePool2dSpec: float_pool_2d.reference,
        float_pool_2d.FloatMaxPool2dSpec: float_pool_2d.reference,
        float_softmax.FloatSoftmaxSpec: float_softmax.softmax,
        float_elementwise.FloatLeakyReluSpec: float_elementwise.leaky_relu,
        float_elementwise.FloatPreluSpec: float_elementwise.prelu,
        **dict.fromkeys(float_elementwise.BINARY_SPECS.values(), float_elementwise.binary),
        **dict.fromkeys(float_elementwise.UNARY_SPECS.values(), float_elementwise.unary),
        float_movement.PlainConcatenationSpec: float_movement.concatenation,
        float_movement.PlainPadSpec: float_movement.pad,
        float_lstm.FloatUnidirectionalSequenceLstmSpec: float_lstm.reference,
        float_reduction.FloatL2NormalizationSpec: float_reduction.l2_normalization,
        float_reduction.FloatMeanSpec: float_reduction.reduce,
        float_reduction.FloatSumSpec: float_reduction.reduce,
        float_weighted.FloatBatchMatmulSpec: float_weighted.batch_matmul,
        float_weighted.FloatConv2dSpec: float_weighted.conv2d,
        float_weighted.FloatTransposeConvSpec: float_weighted.transpose_conv,
        float_weighted.FloatDepthwiseConv2dSpec: float_weighted.depthwise_conv2d,
        float_weighted.FloatFullyConnectedSpec: float_weighted.fully_connected,
        fully_connected.FullyConnectedSpec: fully_connected.reference,
        gather.GatherNdSpec: gather.nd_reference,
        gather.GatherSpec: gather.reference,
        hard_swish.HardSwishSpec: hard_swish.reference,
        hybrid.HybridConv2dSpec: hybrid.conv2d,
        hybrid.HybridDepthwiseConv2dSpec: hybrid.depthwise_conv2d,
        hybrid.HybridFullyConnectedSpec: hybrid.fully_connected,
        l2_normalization.L2NormalizationSpec: l2_normalization.reference,
        leaky_relu.LeakyReluSpec: leaky_relu.reference,
        leaky_relu.PreluSpec: leaky_relu.prelu_reference,
        logistic.LogisticSpec: logistic.reference,
        max_pool_2d.MaxPool2dSpec: max_pool_2d.reference,
        maximum_minimum.MaximumSpec: maximum_minimum.reference,
        maximum_minimum.MinimumSpec: maximum_minimum.reference,
        mean.MeanSpec: mean.reference,
        mul.MulSpec: mul.reference,
        pack.PackSpec: pack.reference,
        pad.PadSpec: pad.reference,
        pad.PadV2Spec: pad.padv2_reference,
        pad.MirrorPadSpec: pad.mirror_pad_reference,
        quantize.QuantizeSpec: quantize.reference,
        reduce.SumSpec: reduce.sum_reference,
        reduce.ReduceMaxSpec: reduce.extreme_reference,
        reduce.ReduceMinSpec: reduce.extreme_reference,
        relu.ReluSpec: relu.reference,
        relu.Relu6Spec: relu.reference,
        relu.ReluN1To1Spec: relu.reference,
        relu.Relu0To1Spec: relu.reference,
        reshape.ReshapeSpec: reshape.reference,
        reshape.SqueezeSpec: reshape.reference,
        reshape.ExpandDimsSpec: reshape.reference,
        resize_bilinear.ResizeBilinearSpec: resize_bilinear.reference,
        resize_nearest_neighbor.ResizeNearestNeighborSpec: resize_nearest_neighbor.reference,
        select.SelectSpec: select.reference,
        select.SelectV2Spec: select.reference,
        slices.StridedSliceSpec: slices.reference,
        slices.SliceSpec: slices.reference,
        slices.SplitSpec: slices.reference,
        slices.SplitVSpec: slices.reference,
        slices.UnpackSpec: slices.reference,
        slices.ReverseV2Spec: slices.reference,
        softmax.SoftmaxSpec: softmax.reference,
        space.SpaceToDepthSpec: space.space_to_depth,
        space.DepthToSpaceSpec: space.depth_to_space,
        space.SpaceToBatchNdSpec: space.space_to_batch_nd,
        space.BatchToSpaceNdSpec: space.batch_to_space_nd,
        sqrt.SqrtSpec: sqrt.sqrt_reference,
        sqrt.RsqrtSpec: sqrt.rsqrt_reference,
        squared_difference.SquaredDifferenceSpec: squared_difference.reference,
        sub.SubSpec: sub.reference,
        svdf.SvdfSpec: svdf.reference,
        unidirectional_sequence_lstm.UnidirectionalSequenceLstmSpec: unidirectional_sequence_lstm.reference,
        tanh.TanhSpec: tanh.reference,
        tile.TileSpec: tile.tile,
        tile.BroadcastToSpec: tile.broadcast_to,
        transpose.TransposeSpec: transpose.reference,
        transpose_conv.TransposeConvSpec: transpose_conv.reference,
        variable.ReadVariableSpec: variable.reference,
        variable.AssignVariableSpec: variable.reference,
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
    """The obviously right result of an operator with one output; operands in the file's order, constants included."""
    (result,) = references(spec, rule, *operands)
    return result


def references(spec: Spec, rule: Rule, *operands: npt.NDArray[Any] | None) -> tuple[npt.NDArray[Any], ...]:
    """As reference, of any operator: all its outputs."""
    result = REFERENCES[type(spec)](spec, rule, *operands)
    return result if isinstance(result, tuple) else (result,)
