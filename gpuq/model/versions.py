"""The version that a file gives each operator: which generation of kernels it needs. Runtimes refuse versions that they
do not know.

Source: LiteRT f67457790, tflite/tools/versioning/op_version.cc (GetBuiltinOperatorVersion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gpuq.model.tflite_file import RawOperator, RawTensor

# By the first input's type, in the order of (int8, int16) kernels; 1 for all other types.
_BY_TYPE: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION", "LOGISTIC", "MEAN", "PAD"), (2, 3)),
        **dict.fromkeys(("SOFTMAX", "TANH", "DEQUANTIZE", "SUM", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), (2, 3)),
        **dict.fromkeys(("ARG_MAX", "REDUCE_MAX", "REDUCE_MIN", "SQUARED_DIFFERENCE", "L2_NORMALIZATION"), (2, 2)),
        **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPLIT", "SELECT", "LOG_SOFTMAX"), (2, 2)),
        **dict.fromkeys(("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"), (2, 2)),
        "ADD": (2, 4),
        "BATCH_MATMUL": (2, 3),
        "MAXIMUM": (2, 4),
        "MINIMUM": (2, 4),
        "MIRROR_PAD": (2, 3),
        "MUL": (2, 4),
        "PACK": (2, 3),
        "PADV2": (2, 2),
        "PRELU": (1, 1),
        "QUANTIZE": (1, 2),
        "RELU": (2, 3),
        "RELU6": (2, 3),
        "SLICE": (2, 4),
        "SPLIT_V": (2, 2),
        "SUB": (3, 5),
        "TILE": (2, 2),
        "TRANSPOSE": (2, 4),
        "UNPACK": (2, 3),
        "GATHER": (2, 4),
        "LEAKY_RELU": (2, 2),
        "ABS": (2, 3),
        "RSQRT": (2, 3),
    }
)


def operator_version(operator: RawOperator, tensors: Sequence[RawTensor]) -> int:
    """The lowest version whose kernels run this operator on these types."""
    options: Mapping[str, Any] = operator.options or {}
    types = [tensors[index].type_name if index >= 0 else "" for index in operator.inputs]
    data = 2 if operator.name == "TRANSPOSE_CONV" else 0
    first = types[data] if len(types) > data else ""
    if operator.name in _LAYERS:
        return _LAYERS[operator.name](operator, tensors, types, options)
    if operator.name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        if first == "INT16":
            return 4
        newer = options.get("HalfPixelCenters") or (
            operator.name == "RESIZE_NEAREST_NEIGHBOR" and options.get("AlignCorners")
        )
        return 3 if newer else 2 if first == "INT8" else 1
    if operator.name == "QUANTIZE" and first != "FLOAT32":
        return 2
    int8, int16 = _BY_TYPE.get(operator.name, (1, 1))
    return int8 if first == "INT8" else int16 if first == "INT16" else 1


def _conv_2d(
    operator: RawOperator, tensors: Sequence[RawTensor], types: Sequence[str], options: Mapping[str, Any]
) -> int:
    x, weights = tensors[operator.inputs[0]], tensors[operator.inputs[1]]
    if types[1] in ("INT4", "INT2"):
        return 7
    if len(x.shape) == 4 and len(weights.shape) == 4 and x.shape[3] != weights.shape[3]:
        return 6
    if types[0] == "INT16":
        return 4
    if types[0] == "FLOAT32" and types[1] == "INT8":
        return 5 if weights.scales.size > 1 else 2
    return 3 if types[0] == "INT8" else 1


def _depthwise_conv_2d(
    operator: RawOperator, tensors: Sequence[RawTensor], types: Sequence[str], options: Mapping[str, Any]
) -> int:
    if types[1] == "INT4":
        # The converter writes 7; LiteRT's reference resolver ends at 6, with a kernel that has int4.
        return 6
    if types[0] == "INT16":
        return 5
    if types[0] == "FLOAT32" and types[1] == "INT8":
        return 6 if tensors[operator.inputs[1]].scales.size > 1 else 4
    if types[0] == "INT8":
        return 3
    return 2 if options.get("DilationHFactor", 1) != 1 or options.get("DilationWFactor", 1) != 1 else 1


def _fully_connected(
    operator: RawOperator, tensors: Sequence[RawTensor], types: Sequence[str], options: Mapping[str, Any]
) -> int:
    is_per_channel = tensors[operator.inputs[1]].scales.size > 1
    if types[1] in ("INT4", "INT2"):
        return {"INT4": 10, "INT2": 14}[types[1]]
    if types[0] == "INT16":
        return 12 if is_per_channel else 7
    if types[0] == "FLOAT32" and types[1] == "INT8":
        return 12 if is_per_channel else 9 if options.get("AsymmetricQuantizeInputs") else 3
    if types[0] == "INT8" and is_per_channel:
        return 12
    if len(operator.inputs) == 2 or operator.inputs[2] < 0:
        return 6
    if options.get("KeepNumDims"):
        return 5
    return 4 if types[0] == "INT8" else 1


def _transpose_conv(
    operator: RawOperator, tensors: Sequence[RawTensor], types: Sequence[str], options: Mapping[str, Any]
) -> int:
    if options.get("FusedActivationFunction"):
        return 4
    return 3 if len(operator.inputs) == 4 and operator.inputs[3] >= 0 else 2 if types[2] == "INT8" else 1


_LAYERS = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
}
