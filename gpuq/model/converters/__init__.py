"""From one operator of a .tflite to its checked Spec: one small function per operator, one table of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.model.converters import detection, elementwise, movement, recurrent, reduction, state, weighted
from gpuq.model.converters.plain import PLAIN_CONVERTERS, is_plain
from gpuq.model.converters.view import Converted, Joint, OperatorView
from gpuq.model.tflite_file import MAX_ENTRIES
from gpuq.ops.abs_neg import AbsSpec
from gpuq.ops.add import AddSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.comparison import COMPARISONS
from gpuq.ops.elu import EluSpec
from gpuq.ops.hard_swish import HardSwishSpec
from gpuq.ops.leaky_relu import PreluSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.maximum_minimum import MaximumSpec, MinimumSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.reduce import ReduceMaxSpec, ReduceMinSpec, SumSpec
from gpuq.ops.relu import Relu0To1Spec, Relu6Spec, ReluN1To1Spec, ReluSpec
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec
from gpuq.ops.select import SelectSpec, SelectV2Spec
from gpuq.ops.space import DepthToSpaceSpec, SpaceToDepthSpec
from gpuq.ops.sqrt import RsqrtSpec, SqrtSpec
from gpuq.ops.squared_difference import SquaredDifferenceSpec
from gpuq.ops.sub import SubSpec
from gpuq.ops.tanh import TanhSpec

Converter = Callable[[OperatorView], Converted | list[Converted] | Joint]

CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        "ABS": elementwise.unary(AbsSpec),
        "ADD": elementwise.binary(AddSpec),
        "ARG_MAX": reduction.arg_max,
        "ASSIGN_VARIABLE": state.assign_variable,
        "AVERAGE_POOL_2D": reduction.pool(AveragePool2dSpec),
        "BATCH_MATMUL": weighted.batch_matmul,
        "BATCH_TO_SPACE_ND": movement.batch_to_space_nd,
        "BROADCAST_TO": movement.broadcast_to,
        "CAST": elementwise.cast,
        "CONCATENATION": movement.concatenation,
        "CONV_2D": weighted.conv2d,
        "DEPTHWISE_CONV_2D": weighted.depthwise_conv2d,
        "DEPTH_TO_SPACE": movement.space_to_depth(DepthToSpaceSpec),
        "DEQUANTIZE": elementwise.dequantize,
        "DIV": elementwise.div,
        "ELU": elementwise.unary(EluSpec),
        "EXPAND_DIMS": movement.expand_dims,
        "FLOOR_DIV": PLAIN_CONVERTERS["FLOOR_DIV"],
        "FULLY_CONNECTED": weighted.fully_connected,
        "GATHER": movement.gather,
        "GATHER_ND": movement.gather_nd,
        "HARD_SWISH": elementwise.unary(HardSwishSpec),
        "L2_NORMALIZATION": reduction.l2_normalization,
        "LEAKY_RELU": elementwise.leaky_relu,
        "LOGISTIC": elementwise.unary(LogisticSpec),
        "MAXIMUM": elementwise.maximum(MaximumSpec),
        "MAX_POOL_2D": reduction.pool(MaxPool2dSpec),
        "MEAN": reduction.reduce_codes(MeanSpec),
        "MINIMUM": elementwise.maximum(MinimumSpec),
        "MIRROR_PAD": movement.mirror_pad,
        "MUL": elementwise.binary(MulSpec),
        "NEG": elementwise.neg,
        "PACK": movement.pack,
        "PAD": movement.pad,
        "PADV2": movement.padv2,
        "PRELU": elementwise.codes(PreluSpec),
        "QUANTIZE": elementwise.quantize,
        "READ_VARIABLE": state.read_variable,
        "REDUCE_MAX": reduction.reduce_extreme(ReduceMaxSpec),
        "REDUCE_MIN": reduction.reduce_extreme(ReduceMinSpec),
        "RELU": elementwise.unary(ReluSpec),
        "RELU6": elementwise.unary(Relu6Spec),
        "RELU_0_TO_1": elementwise.unary(Relu0To1Spec),
        "RELU_N1_TO_1": elementwise.unary(ReluN1To1Spec),
        "RESHAPE": movement.reshape,
        "RESIZE_BILINEAR": reduction.resize(ResizeBilinearSpec),
        "RESIZE_NEAREST_NEIGHBOR": reduction.resize(ResizeNearestNeighborSpec),
        "REVERSE_V2": movement.reverse_v2,
        "RSQRT": elementwise.unary(RsqrtSpec),
        "SELECT": elementwise.select(SelectSpec),
        "SELECT_V2": elementwise.select(SelectV2Spec),
        "SLICE": movement.slice_,
        "SOFTMAX": reduction.softmax,
        "SPACE_TO_BATCH_ND": movement.space_to_batch_nd,
        "SPACE_TO_DEPTH": movement.space_to_depth(SpaceToDepthSpec),
        "SPLIT": movement.split,
        "SPLIT_V": movement.split_v,
        "SQRT": elementwise.unary(SqrtSpec),
        "SQUARED_DIFFERENCE": elementwise.codes(SquaredDifferenceSpec),
        "SQUEEZE": movement.squeeze,
        "STRIDED_SLICE": movement.strided_slice,
        "SUB": elementwise.binary(SubSpec),
        "SUM": reduction.reduce_codes(SumSpec),
        "TANH": elementwise.unary(TanhSpec),
        "SVDF": recurrent.svdf,
        "UNIDIRECTIONAL_SEQUENCE_LSTM": recurrent.unidirectional_sequence_lstm,
        "TFLite_Detection_PostProcess": detection.detection_post_process,
        "TILE": movement.tile,
        "TRANSPOSE": movement.transpose,
        "TRANSPOSE_CONV": weighted.transpose_conv,
        "UNPACK": movement.unpack,
        **{spec_type.op: elementwise.comparison(spec_type) for spec_type in COMPARISONS},
    }
)


def converter(view: OperatorView) -> Converter | None:
    """The function that reads this operator; None for one that gpuq lacks."""
    if view.raw.name in PLAIN_CONVERTERS and is_plain(view):
        return PLAIN_CONVERTERS[view.raw.name]
    return CONVERTERS.get(view.raw.name)


_TWO_INPUTS = (
    *("ADD", "DIV", "FLOOR_DIV", "MUL", "SUB", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU", "BATCH_MATMUL"),
    *("ARG_MAX", "EXPAND_DIMS", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "PAD", "MIRROR_PAD", "TRANSPOSE", "SPLIT"),
    *("GATHER", "GATHER_ND", "TILE", "BROADCAST_TO", "REVERSE_V2", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    *(spec_type.op for spec_type in COMPARISONS),
)


INPUT_COUNTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), (2, 3)),
        **dict.fromkeys(_TWO_INPUTS, (2, 2)),
        **dict.fromkeys(("SELECT", "SELECT_V2", "SLICE", "SPLIT_V", "PADV2"), (3, 3)),
        **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), (3, 3)),
        **dict.fromkeys(("CONCATENATION", "PACK"), (1, MAX_ENTRIES)),
        "SVDF": (5, 5),
        "UNIDIRECTIONAL_SEQUENCE_LSTM": (20, 24),
        "TFLite_Detection_PostProcess": (3, 3),
        "ASSIGN_VARIABLE": (1, 2),
        "RESHAPE": (1, 2),
        "STRIDED_SLICE": (4, 4),
        "TRANSPOSE_CONV": (3, 4),
    }
)
"""The fewest and most inputs of an operator; (1, 1) for those that are not listed."""


_FIRST_INPUT = (
    *("ARG_MAX", "EXPAND_DIMS", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "PAD", "PADV2", "MIRROR_PAD", "RESHAPE"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "REVERSE_V2", "SPLIT_V"),
    *("TILE", "BROADCAST_TO", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
)


DATA_INPUTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(_FIRST_INPUT, (0,)),
        "SPLIT": (1,),
        "SVDF": (0, 1, 2, 4, 3),
        "UNIDIRECTIONAL_SEQUENCE_LSTM": recurrent.LSTM_DATA,
        "TRANSPOSE_CONV": (2, 1, 3),
    }
)
"""The inputs that reference() takes, in its order; the others (axes, sizes, pads) are constants that went into the
Spec. Operators that are not listed take all in the file's order.
"""


# Operators that converters build shapes with: computed while the model is read where all inputs are known, for the
# shapes of what follows hang on them.
SHAPE_ARITHMETIC = frozenset(
    ("PACK", "UNPACK", "STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V", "GATHER", "CAST", "TILE", "MAXIMUM", "MINIMUM")
)


def shape_value(view: OperatorView) -> npt.NDArray[Any] | None:
    """What SHAPE gives: the shapes of one run are known; None for other operators."""
    if view.raw.name != "SHAPE":
        return None
    return np.array(view.x().shape, np.int64 if view.out.dtype == np.int64 else np.int32)
