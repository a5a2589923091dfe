"""What of each operator is quantized, and how: the modes, and one table of operators.

Sources of the constraints: LiteRT f67457790, the Prepare functions of tflite/kernels (equal scales, fixed outputs);
tflite/g3doc/performance/quantization_spec (symmetric weights, bias scale).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuq.errors import InputValueError
from gpuq.model.tflite_file import RawOperator
from gpuq.ops.spec import INT8, INT16, UINT8
from gpuq.quant import Quant


@dataclass(frozen=True)
class Mode:
    """A way to quantize a network.

    Attributes:
        activations: their dtype; None: they stay float32, and only large weights are quantized (dynamic range).
        weights: int8, symmetric and per channel; or uint8, asymmetric and per tensor.
        weight_bits: 8, or 4 where the operator takes packed weights.
        summary: for users.
    """

    activations: np.dtype[Any] | None
    weights: np.dtype[Any]
    weight_bits: int
    summary: str


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "int8": Mode(INT8, INT8, 8, "int8 activations, int8 weights per channel"),
        "uint8": Mode(UINT8, UINT8, 8, "uint8 activations, uint8 weights per tensor, as legacy networks have them"),
        "int16x8": Mode(INT16, INT8, 8, "int16 activations, int8 weights per channel"),
        "dynamic-range": Mode(None, INT8, 8, "float32 activations quantized at run time, int8 weights per channel"),
        "int4-weights": Mode(INT8, INT8, 4, "int8 activations, int4 weights per channel"),
    }
)

MIN_DYNAMIC_WEIGHTS = 1024
"""Weights of fewer elements stay float32 in dynamic range, as the TensorFlow converter leaves them."""


def mode_of(name: str) -> Mode:
    """The mode of this name; InputValueError lists the names there are."""
    if name not in MODES:
        raise InputValueError(f"mode {name!r} must be one of {', '.join(MODES)}")
    return MODES[name]


@dataclass(frozen=True)
class Weights:
    """Where an operator has its constants.

    Attributes:
        position, bias: their inputs.
        axis: the weights' output channels.
        in_axis: the weights' input channels; the same axis for depthwise weights.
        takes_int4: its weights may be packed.
        is_dynamic: it quantizes float32 activations at run time.
    """

    position: int
    bias: int
    axis: int
    in_axis: int
    takes_int4: bool = False
    is_dynamic: bool = False


@dataclass(frozen=True)
class Scheme:
    """How an operator is quantized. All its float32 inputs and outputs get codes.

    Attributes:
        weights: of layers that have them.
        shares_scale: inputs and outputs have one scale and zero point.
        output: (scale, zero point) that the kernels demand of outputs, by dtype.
        int8_beside_int16: the input whose codes are int8 where the others have int16.
        in_int16: int16 is worth having. Comparisons then look at codes alone, whatever their scales, or at 8 fraction
            bits; RSQRT is a straight line over the 128 codes next to 0.
    """

    weights: Weights | None = None
    shares_scale: bool = False
    output: Mapping[np.dtype[Any], Quant] = field(default_factory=dict)
    int8_beside_int16: int | None = None
    in_int16: bool = True


def _fixed(int8: tuple[float, int], int16_scale: float | None) -> Scheme:
    """An output whose codes the kernels fix; uint8 codes are 128 more than int8 ones."""
    scale, zero_point = int8
    output: dict[np.dtype[Any], Quant] = {
        INT8: Quant(scale, zero_point, dtype=INT8),
        UINT8: Quant(scale, zero_point + 128, dtype=UINT8),
    }
    if int16_scale is not None:
        output[INT16] = Quant(int16_scale, 0, dtype=INT16)
    return Scheme(output=MappingProxyType(output))


_SHARED = (
    *("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "PACK", "UNPACK"),
    *("CONCATENATION", "PAD", "PADV2", "MIRROR_PAD", "TILE", "BROADCAST_TO", "GATHER", "GATHER_ND", "REVERSE_V2"),
    *("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SELECT", "SELECT_V2"),
    *("AVERAGE_POOL_2D", "MAX_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REDUCE_MAX", "REDUCE_MIN"),
    *("MAXIMUM", "MINIMUM"),
)
_FREE = (
    *("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE", "BATCH_MATMUL", "MEAN", "SUM", "ARG_MAX", "LEAKY_RELU"),
    *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ELU", "HARD_SWISH", "ABS", "SQRT"),
)
_NOT_IN_INT16 = ("RSQRT", "EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "CONV_2D": Scheme(Weights(1, 2, axis=0, in_axis=3, takes_int4=True, is_dynamic=True)),
        "DEPTHWISE_CONV_2D": Scheme(Weights(1, 2, axis=3, in_axis=3, takes_int4=True, is_dynamic=True)),
        "FULLY_CONNECTED": Scheme(Weights(1, 2, axis=0, in_axis=1, takes_int4=True, is_dynamic=True)),
        "TRANSPOSE_CONV": Scheme(Weights(1, 3, axis=0, in_axis=3)),
        "SOFTMAX": _fixed((1 / 256, -128), 1 / 32768),
        "LOGISTIC": _fixed((1 / 256, -128), 1 / 32768),
        "TANH": _fixed((1 / 128, 0), 1 / 32768),
        "L2_NORMALIZATION": _fixed((1 / 128, 0), None),
        **dict.fromkeys(_SHARED, Scheme(shares_scale=True)),
        "PRELU": Scheme(int8_beside_int16=1),
        **dict.fromkeys(_FREE, Scheme()),
        **dict.fromkeys(_NOT_IN_INT16, Scheme(in_int16=False)),
    }
)
"""Operators that can be quantized; all others stay as they are, with conversions around them."""


def data_input(operator: RawOperator) -> int:
    """The position of a layer's activations."""
    return 2 if operator.name == "TRANSPOSE_CONV" else 0
