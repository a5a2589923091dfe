"""Chooses the CPU plan of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from gpuq.cpu import binary_int16
from gpuq.cpu.batch_matmul import BatchMatmulPlan
from gpuq.cpu.binary_int16 import Int16BinaryPlan
from gpuq.cpu.conv2d import Conv2dPlan, FullyConnectedPlan
from gpuq.cpu.depthwise_conv2d import DepthwiseConv2dPlan
from gpuq.cpu.float32 import BlockedPlan
from gpuq.cpu.hybrid import HybridPlan
from gpuq.cpu.l2_normalization import L2NormalizationPlan
from gpuq.cpu.reference import ReferencePlan
from gpuq.cpu.resize_bilinear import ResizeBilinearPlan
from gpuq.cpu.table import BinaryTablePlan, UnaryTablePlan
from gpuq.cpu.transpose_conv import TransposeConvPlan
from gpuq.cpu.unidirectional_sequence_lstm import LstmPlan
from gpuq.numerics import Rule
from gpuq.ops.batch_matmul import BatchMatmulSpec
from gpuq.ops.broadcast import BinaryCodesSpec, BinarySpec
from gpuq.ops.comparison import ComparisonSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec, one_channel_as_conv2d
from gpuq.ops.div import DivSpec
from gpuq.ops.float32.weighted import FloatConv2dSpec, FloatDepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.hybrid import HybridConv2dSpec, HybridDepthwiseConv2dSpec, HybridFullyConnectedSpec
from gpuq.ops.l2_normalization import L2NormalizationSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.spec import FLOAT32, INT16, Spec
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.unary import UnarySpec
from gpuq.ops.unidirectional_sequence_lstm import UnidirectionalSequenceLstmSpec
from gpuq.plan import Plan


def pack(spec: Spec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> Plan:
    """The plan of one layer.

    Args:
        constants: one entry per operand in the file's order; None where the operand is an activation, or is left
            out (a missing bias).
    """
    if isinstance(spec, Conv2dSpec | DepthwiseConv2dSpec | FullyConnectedSpec | TransposeConvSpec):
        weights, bias = constants[1], constants[2] if len(constants) > 2 else None
        if weights is None:
            raise spec.fail("weights must be constant")
        if isinstance(spec, Conv2dSpec):
            return Conv2dPlan(spec, rule, weights, bias)
        if isinstance(spec, FullyConnectedSpec):
            return FullyConnectedPlan(spec, rule, weights, bias)
        if isinstance(spec, TransposeConvSpec):
            return TransposeConvPlan(spec, rule, weights, bias)
        if spec.in_c == 1:
            # One input channel: every output channel sees the same image, which is a dense convolution.
            return Conv2dPlan(one_channel_as_conv2d(spec), rule, weights.transpose(3, 1, 2, 0), bias)
        return DepthwiseConv2dPlan(spec, rule, weights, bias)
    if isinstance(spec, BinarySpec) and spec.activation_dtype == INT16 and binary_int16.fits(spec, rule):
        return Int16BinaryPlan(spec, rule, *constants)
    if isinstance(spec, DivSpec):
        return ReferencePlan(spec, rule, constants)  # it looks for divisors of 0
    if spec.activation_dtype != INT16 and (
        isinstance(spec, BinaryCodesSpec) or (isinstance(spec, ComparisonSpec) and spec.a_quant is not None)
    ):
        return BinaryTablePlan(spec, rule, *constants)
    if isinstance(spec, L2NormalizationSpec):
        return L2NormalizationPlan(spec, rule)
    if isinstance(spec, BatchMatmulSpec):
        return BatchMatmulPlan(spec, rule, constants)
    if isinstance(spec, UnarySpec) or (isinstance(spec, QuantizeSpec) and spec.x_quant is not None):
        return UnaryTablePlan(spec, rule)
    if isinstance(spec, ResizeBilinearSpec) and spec.dtype != FLOAT32 and constants[0] is None:
        return ResizeBilinearPlan(spec, rule)
    if isinstance(spec, HybridConv2dSpec | HybridDepthwiseConv2dSpec | HybridFullyConnectedSpec):
        weights, bias = constants[1], constants[2] if len(constants) > 2 else None
        if weights is None:
            raise spec.fail("weights must be constant")
        if constants[0] is None:
            return HybridPlan(spec, rule, weights, bias)
    if isinstance(spec, UnidirectionalSequenceLstmSpec) and constants[0] is None:
        return LstmPlan(spec, rule, constants)
    if spec.activation_dtype == FLOAT32 and isinstance(spec, FloatConv2dSpec | FloatDepthwiseConv2dSpec):
        return BlockedPlan(spec, rule, constants)
    return ReferencePlan(spec, rule, constants)
