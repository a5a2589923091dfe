"""Operators on float32 elements, one tensor or two, and ADD, SUB, MUL, DIV, FLOOR_DIV on plain integers.

Every step is float32's, as the reference kernels write it. TANH, and ELU below 0, are computed in float64 and rounded
once to the nearest: glibc's tanhf and expm1f lie within 2 ulps of that. Integers wrap.

Sources: LiteRT f67457790, tflite/kernels/{activations,elementwise,div,floor_div,squared_difference}.cc,
internal/reference/{add,sub,mul,div,logistic,tanh,hard_swish,leaky_relu,prelu}.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputValueError
from gpuq.numerics import Rule
from gpuq.ops.broadcast import BroadcastSpec
from gpuq.ops.float32.activation import check_activation, clamp
from gpuq.ops.float32.exponential import expf, expm1, tanhf
from gpuq.ops.spec import FLOAT32, INT8, INT16, INT32, INT64, Shape, Spec
from gpuq.quant import first_index

Array = npt.NDArray[Any]


_LOGISTIC_UPPER, _LOGISTIC_LOWER = np.float32(16.619047164916992188), np.float32(-9)


def _logistic(x: Array) -> Array:
    # 1 above a cutoff and exp(x) below another; in between 1 / (1 + exp(-x)).
    middle = np.float32(1) / (np.float32(1) + expf(-x))
    return np.where(x > _LOGISTIC_UPPER, np.float32(1), np.where(x < _LOGISTIC_LOWER, expf(x), middle))


def _hard_swish(x: Array) -> Array:
    return np.asarray(x * np.clip(x + np.float32(3), np.float32(0), np.float32(6)) / np.float32(6))


def _elu(x: Array) -> Array:
    below = expm1(np.clip(x, -40, 0).astype(np.float64))
    return np.where(x < 0, below.astype(np.float32), x)


def _rsqrt(x: Array) -> Array:
    return np.asarray(np.float32(1) / np.sqrt(x))


def _relu(x: Array) -> Array:
    return clamp("relu", x)


def _relu6(x: Array) -> Array:
    return clamp("relu6", x)


def _relu_n1_to_1(x: Array) -> Array:
    return clamp("relu_n1_to_1", x)


def _relu_0_to_1(x: Array) -> Array:
    return np.clip(x, np.float32(0), np.float32(1))


UNARY: dict[str, Callable[[Array], Array]] = {
    "ABS": np.abs,
    "ELU": _elu,
    "HARD_SWISH": _hard_swish,
    "LOGISTIC": _logistic,
    "RELU": _relu,
    "RELU6": _relu6,
    "RELU_0_TO_1": _relu_0_to_1,
    "RELU_N1_TO_1": _relu_n1_to_1,
    "RSQRT": _rsqrt,
    "SQRT": np.sqrt,
    "TANH": tanhf,
}
"""What each operator of one float32 tensor computes, by its TFLite name."""


@dataclass(frozen=True, kw_only=True)
class FloatUnarySpec(Spec):
    """An operator on each element of one float32 tensor.

    Args:
        shape: shape of one run.
    """

    shape: Shape

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return self.shape


@dataclass(frozen=True, kw_only=True)
class FloatLeakyReluSpec(FloatUnarySpec):
    """x, or alpha * x below 0. See FloatUnarySpec for the other field."""

    op: ClassVar[str] = "LEAKY_RELU"

    alpha: float


@dataclass(frozen=True, kw_only=True)
class PlainBinarySpec(BroadcastSpec):
    """An operator on two tensors of plain numbers. See BroadcastSpec for the shapes.

    Args:
        dtype: float32, int32 or int64, of all three tensors; of FLOOR_DIV also int8 and int16.
        activation: None or what clamps, fused; of float32 only.
    """

    dtype: np.dtype[Any]
    activation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        short = (INT8, INT16) if self.op == "FLOOR_DIV" else ()
        self.require_dtype("input", self.dtype, FLOAT32, INT32, INT64, *short)
        check_activation(self, self.activation)
        self.require(self.activation is None or self.dtype == FLOAT32, f"a fused activation of {self.dtype}")

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype


@dataclass(frozen=True, kw_only=True)
class FloatPreluSpec(PlainBinarySpec):
    """a, or a * b below 0, of float32. See PlainBinarySpec for the fields."""

    op: ClassVar[str] = "PRELU"


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    _check_divisor(b)
    # C's quotient: towards zero.
    cut = ((a < 0) != (b < 0)) & (np.remainder(a, b) != 0)
    return np.asarray(np.floor_divide(a, b) + cut, a.dtype)


def _floor_divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.floor(a / b)
    _check_divisor(b)
    return np.asarray(np.floor_divide(a, b))


def _check_divisor(b: Array) -> None:
    if (b == 0).any():
        raise InputValueError(f"DIV: division by 0 at {first_index(b == 0)}, as the runtimes refuse it for integers")


def _squared_difference(a: Array, b: Array) -> Array:
    difference = a - b
    return np.asarray(difference * difference)


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "ADD": np.add,
    "DIV": _divide,
    "FLOOR_DIV": _floor_divide,
    "MUL": np.multiply,
    "SQUARED_DIFFERENCE": _squared_difference,
    "SUB": np.subtract,
}
"""What each operator of two plain tensors computes, by its TFLite name."""


def _named(base: type[Any], name: str) -> type[Any]:
    """A Spec class of an operator that has no field of its own."""
    title = "".join(word.capitalize() for word in name.lower().split("_"))
    prefix = base.__name__.split("Unary")[0].split("Binary")[0]
    return type(f"{prefix}{title}Spec", (base,), {"op": name, "__doc__": f"See {base.__name__} for the fields."})


UNARY_SPECS: dict[str, type[FloatUnarySpec]] = {name: _named(FloatUnarySpec, name) for name in UNARY}
BINARY_SPECS: dict[str, type[PlainBinarySpec]] = {name: _named(PlainBinarySpec, name) for name in BINARY}


def unary(spec: FloatUnarySpec, rule: Rule, x: Array) -> Array:
    """Values of any shape."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return UNARY[spec.op](x)


def leaky_relu(spec: FloatLeakyReluSpec, rule: Rule, x: Array) -> Array:
    """Values of any shape."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.where(x > 0, x, x * np.float32(spec.alpha))


def binary(spec: PlainBinarySpec, rule: Rule, a: Array, b: Array) -> Array:
    """(N, *a_shape) and (N, *b_shape), either N may be 1: (N, *output_shape)."""
    a, b = spec.aligned(a, b)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        values = BINARY[spec.op](a, b)
    return values if spec.activation is None else clamp(spec.activation, values)


def prelu(spec: FloatPreluSpec, rule: Rule, a: Array, b: Array) -> Array:
    """(N, *a_shape) and slopes (N, *b_shape), either N may be 1: (N, *output_shape)."""
    a, b = spec.aligned(a, b)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.where(a >= 0, a, a * b)
