"""SVDF on int8: a dense layer whose filters remember their last results.

    s <- s shifted by one, newest = zp_s + clamp(V1(sum((x - zp_x) * w_f), s_x * s_wf / s_s))
    y = clamp8(zp_y + V1(sum over rank and memory of (s - zp_s) * w_t + b, s_s * s_wt / s_y))

States and time weights are both int16 (zp_s is 0) or both int8. The clamp to the state's range comes before its zero
point joins, modulo 2^8: a large newest result may come out at the other end. A fused RELU does not count: codes are
clamped to int8 alone.

Sources: LiteRT f67457790, tflite/kernels/svdf.cc, internal/reference/svdf.h (EvalIntegerSVDF); tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/svdf_common.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.spec import INT8, INT16, INT32, Shape, Spec, clamp_to, run_shape
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class SvdfSpec(Spec):
    """A dense layer with memory.

    Args:
        rows: of one run.
        in_c: elements of an input row.
        units: elements of an output row.
        rank: filters of a unit.
        memory: results that a filter remembers.
        x_quant, feature_quant, out_quant: int8 per tensor; feature weights have zero point 0.
        time_quant, state_quant: int16 or int8 per tensor, both alike; the state of int8 may have a zero point.
        has_bias: TFLite Micro needs one.
        has_relu: LiteRT demands it.
    """

    op: ClassVar[str] = "SVDF"

    rows: int
    in_c: int
    units: int
    rank: int
    memory: int
    x_quant: Quant
    feature_quant: Quant
    time_quant: Quant
    state_quant: Quant
    out_quant: Quant
    has_bias: bool = True
    has_relu: bool = True

    def __post_init__(self) -> None:
        self.require_positive(rows=self.rows, in_c=self.in_c, units=self.units, rank=self.rank, memory=self.memory)
        for what, quant, dtype in (
            ("input", self.x_quant, INT8),
            ("feature weights", self.feature_quant, INT8),
            ("time weights", self.time_quant, self.state_quant.dtype),
            ("output", self.out_quant, INT8),
        ):
            self.require_dtype(what, quant.dtype, dtype)
            self.require_per_tensor(quant=quant)
            if "weights" in what:
                self.require(quant.zero_point == 0, f"{what} must have zero point 0, got {quant.zero_point}")
        self.require_dtype("state", self.state_quant.dtype, INT8, INT16)
        self.require_per_tensor(state_quant=self.state_quant)
        self.require_symmetric_int16(state=self.state_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def filters(self) -> int:
        return self.units * self.rank

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Of the output and the state."""
        return (self.rows, self.units), (self.rows, self.filters * self.memory)

    @property
    def output_shape(self) -> Shape:
        return self.output_shapes[0]

    @property
    def macs(self) -> int:
        return self.rows * self.filters * (self.in_c + self.memory)


def reference(
    spec: SvdfSpec,
    rule: Rule,
    x: npt.NDArray[np.int8],
    feature_weights: npt.NDArray[np.int8],
    time_weights: npt.NDArray[Any],
    state: npt.NDArray[Any],
    bias: npt.NDArray[np.int32] | None = None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[Any]]:
    """One step.

    Args:
        x: (N, rows, in_c) codes.
        feature_weights, time_weights: (1, filters, in_c), (1, filters, memory); the latter of the state's dtype.
        state: (N, rows, filters * memory), int16 or int8.
        bias: (1, units), or None.

    Returns:
        (N, rows, units) codes; the new state.
    """
    codes = run_shape(x, (spec.rows, spec.in_c)).astype(np.int64) - spec.x_quant.scalar_zero_point()
    features = feature_weights.reshape(spec.filters, spec.in_c).astype(np.int64)
    times = time_weights.reshape(spec.filters, spec.memory).astype(np.int64)
    sums = numerics.wrap_int32(codes @ features.T)
    newest = numerics.requantize(sums, rule.rounding, factor(spec.x_quant, spec.feature_quant, spec.state_quant, rule))
    zero_point, dtype = spec.state_quant.scalar_zero_point(), spec.state_quant.dtype
    newest = np.clip(newest, np.iinfo(dtype).min, np.iinfo(dtype).max) + zero_point
    remembered = run_shape(state, (spec.rows, spec.filters, spec.memory))
    shifted = np.concatenate([remembered[..., 1:], newest[..., None].astype(dtype)], axis=-1)
    products = ((shifted.astype(np.int64) - zero_point) * times).sum(axis=-1)
    total = products.reshape(*products.shape[:-1], spec.units, spec.rank).sum(axis=-1)
    if bias is not None:
        total = total + bias.reshape(-1)
    total = numerics.wrap_int32(total)
    steps = numerics.requantize(total, rule.rounding, factor(spec.state_quant, spec.time_quant, spec.out_quant, rule))
    y = clamp_to(steps + spec.out_quant.scalar_zero_point(), spec.out_quant.qmin, spec.out_quant.qmax, INT8)
    return y, shifted.reshape(-1, *spec.output_shapes[1])


def factor(x: Quant, weights: Quant, out: Quant, rule: Rule) -> npt.NDArray[np.float64]:
    """(1,): what sums in units of x and weights are multiplied by."""
    return numerics.real_multipliers(x.scalar_scale(), weights.scales, out.scalar_scale(), rule.product)


def check_constants(
    spec: SvdfSpec, features: npt.NDArray[Any], times: npt.NDArray[Any], bias: npt.NDArray[Any] | None
) -> None:
    """Raises unless the constants have the shapes and dtypes that the Spec says."""
    for what, array, shape, dtype in (
        ("feature weights", features, (spec.filters, spec.in_c), INT8),
        ("time weights", times, (spec.filters, spec.memory), spec.time_quant.dtype),
    ):
        spec.require_dtype(what, array.dtype, dtype)
        spec.require(array.shape == shape, f"{what} of shape {array.shape} must have shape {shape}")
    if bias is not None:
        spec.require_dtype("bias", bias.dtype, INT32)
        spec.require(bias.shape == (spec.units,), f"bias of shape {bias.shape} must have shape {(spec.units,)}")
