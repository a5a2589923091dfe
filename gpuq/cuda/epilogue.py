"""What turns a convolution's sums into codes: bias and factors per channel, packed for kernels_cuda/epilogue.cuh.

Zero points leave the loops of all kernels. With codes x and weights w,

    sum (x - z_x) * (w - z_w)  =  sum x * (w - z_w)  -  z_x * sum (w - z_w)

the last term is constant per channel and goes to the bias, if pixels outside the image are read as z_x, so that every
sum runs over all taps. Everything holds modulo 2^32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.codes import code_defines
from gpuq.cuda.kernel import Argument, Pointer, Slot, int32s
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Int64Array, Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.spec import INT8, INT16, UINT8

# Macro values of kernels_cuda/requantize.cuh (enum Rule).
_RULES = {
    Rounding.V1: "RULE_V1",
    Rounding.V1U: "RULE_V1U",
    Rounding.V1U_BLOCK8: "RULE_V1_BLOCKS",
    Rounding.V2: "RULE_V2",
    Rounding.V3: "RULE_V3",
    Rounding.V4: "RULE_V4",
    Rounding.V4_INT28: "RULE_V4_INT28",
    Rounding.V6: "RULE_V6",
}


@dataclass(frozen=True, eq=False)
class Fusion:
    """What becomes of a convolution's codes before they are stored: packed by cuda/fusion.py.

    Attributes:
        words: int32, as fused_codes() of kernels_cuda/epilogue.cuh reads them.
        has_residual: a tensor of the output's shape is added: the layer's second input.
    """

    defines: tuple[tuple[str, int | str], ...]
    words: npt.NDArray[np.int32]
    has_residual: bool


@dataclass(frozen=True, eq=False)
class Epilogue:
    """The constants of one layer's epilogue; NumPy arrays.

    Attributes:
        rule: the macro of kernels_cuda/requantize.cuh.
        bias: (O,), zero points folded; int64 where sums of int16 activations may leave int32, else int32.
        factors: (O, ...) what the rule needs per channel.
        constant: bool (O,), channels whose every sum gives one code. Their factors take that for granted: their
            weights must be packed as zeros, their sums be 0.
        dtype: of the codes, of input and output.
    """

    rule: str
    bias: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    factors: npt.NDArray[Any]
    constant: npt.NDArray[np.bool_]
    dtype: np.dtype[Any]
    zero_point: int
    act_min: int
    act_max: int
    clamps: bool
    fusion: Fusion | None = None

    @property
    def sum64(self) -> bool:
        """Whether sums are 64 bits wide."""
        return self.bias.dtype == np.int64

    @property
    def defines(self) -> tuple[tuple[str, int | str], ...]:
        """Macros of kernels_cuda/epilogue.cuh."""
        return self.own_defines + (self.fusion.defines if self.fusion else ())

    @property
    def own_defines(self) -> tuple[tuple[str, int | str], ...]:
        """The same without what follows."""
        return epilogue_defines(self.rule, self.dtype, self.clamps)

    def arguments(self, y: ImageLayout, *residual: ImageLayout) -> tuple[Argument, ...]:
        """The kernel arguments out_zero_point, act_min, act_max, residual, fused.

        Args:
            residual: the layer's second input, if it has one; pixels lie as far apart as the output's.
        """
        own: tuple[Argument, ...] = int32s(self.zero_point, self.act_min, self.act_max)
        # Kernels compute the address also where they do not read there: it must not be null.
        where = residual[0].slot("x1") if residual else y.slot("y")
        return *own, where, Slot("fused") if self.fusion else Pointer(None)

    def x_shapes(self, *own: tuple[int, int, int], y: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
        """A layer's inputs: its own, then the residual."""
        return (*own, y) if self.fusion and self.fusion.has_residual else own

    def constants(self, groups: int, channels: int) -> Mapping[str, npt.NDArray[Any]]:
        """Bias and factors with each group's channels padded by zeros to this many, group after group; fused words."""
        padded: dict[str, npt.NDArray[Any]] = {
            "bias": pad_groups(self.bias, groups, channels),
            "factors": pad_groups(self.factors, groups, channels),
        }
        return padded | ({"fused": self.fusion.words} if self.fusion else {})


def epilogue_defines(
    rule: str = "RULE_V1_RIGHT", dtype: np.dtype[Any] = INT8, clamps: bool = False
) -> tuple[tuple[str, int | str], ...]:
    """Macros of kernels_cuda/epilogue.cuh; the defaults are those of almost every int8 layer."""
    return (("RULE", rule), *code_defines(dtype), ("CLAMP", int(clamps)))


def pack_epilogue(
    spec: Conv2dSpec | DepthwiseConv2dSpec | FullyConnectedSpec,
    rule: Rule,
    centred: Int64Array,
    bias: npt.NDArray[Any] | None,
    fusion: Fusion | None = None,
    *,
    can_clear: bool = True,
) -> Epilogue:
    """Packs what follows a layer's sums.

    Args:
        centred: (O, K) weights minus their zero points.
        bias: (O,) of the spec's bias_dtype, or None.
        fusion: what follows the layer itself.
        can_clear: the kernel's sum of a channel with weights 0 is its bias.
    """
    out_c = spec.out_c
    x_quant, out_quant = spec.x_quant, spec.out_quant
    x_zero_point = x_quant.scalar_zero_point()
    real_bias = np.zeros(out_c, np.int64) if bias is None else bias.astype(np.int64).reshape(out_c)
    reach = max(x_zero_point - x_quant.qmin, x_quant.qmax - x_zero_point)
    bounds = np.abs(centred).sum(axis=1) * reach
    folded: npt.NDArray[Any] = real_bias - x_zero_point * centred.sum(axis=1)
    if numerics.sums_wrap(rule.rounding, spec.bias_dtype):
        folded = numerics.wrap_int32(folded).astype(np.int32)
    elif np.all(np.abs(real_bias) + bounds < 1 << 31):
        folded = folded.astype(np.int32)
    reals = numerics.real_multipliers(
        x_quant.scalar_scale(), spec.w_quant.scales, out_quant.scalar_scale(), rule.product
    )
    zero_point = out_quant.scalar_zero_point()
    act_min, act_max = numerics.activation_range(spec.activation, out_quant, rule.bounds)
    rounding = numerics.of_channels(rule.rounding, out_c, cuts_negative=act_min >= zero_point)
    if rounding is Rounding.V4_INT28 and np.all(np.abs(real_bias) + bounds < 1 << 27):
        rounding = Rounding.V4
    if rounding not in _RULES:
        raise spec.fail(f"{out_c} channels under rule {rounding.value}: there is no CUDA kernel for it")
    factors, macro, constant = pack_factors(
        rounding, np.broadcast_to(reals, (out_c,)), real_bias, bounds, zero_point, can_clear
    )
    folded[constant] = 0
    return Epilogue(
        rule=macro,
        bias=folded,
        factors=factors,
        constant=constant,
        dtype=x_quant.dtype,
        zero_point=zero_point,
        act_min=act_min,
        act_max=act_max,
        # int16 layers always clamp: one kernel less each.
        clamps=x_quant.dtype == INT16 or (act_min, act_max) != (out_quant.qmin, out_quant.qmax),
        fusion=fusion,
    )


def pack_codes(
    spec: Conv2dSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[np.int32] | None,
    fusion: Fusion | None = None,
    w_zero_point: int | None = None,
) -> tuple[Int64Array, Epilogue, int]:
    """(int8 values v of the weights, (O, K); epilogue; factor of the window's sum of x) of a convolution.

    v = w - s, where s = 128 makes int8 of uint8, else 0. What is left of the weights' zero point, z = z_w - s, needs
    the window's sum once per output pixel, by the factor -z, and only where z is not 0:

        sum x * (w - z_w) = sum x * v - z * sum x

    Args:
        weights: OHWI codes.
        bias: (O,) int32, or None.
        fusion: what follows the layer itself.
        w_zero_point: the weights' zero point, where the spec cannot say it (FULLY_CONNECTED with int8 weights).
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    shift = 128 if spec.w_quant.dtype == UINT8 else 0
    # One zero point per layer: weights with zero points are per tensor.
    zero_point = int(spec.w_quant.zero_points[0]) if w_zero_point is None else w_zero_point
    rows = weights.astype(np.int64).reshape(spec.out_c, -1)
    epilogue = pack_epilogue(spec, rule, rows - zero_point, bias, fusion, can_clear=zero_point == shift)
    codes = rows - shift
    codes[epilogue.constant] = 0
    return codes, epilogue, shift - zero_point


def pack_factors(
    rounding: Rounding,
    reals: npt.NDArray[np.float64],
    bias: Int64Array,
    bounds: Int64Array,
    zero_point: int,
    can_clear: bool = True,
) -> tuple[npt.NDArray[Any], str, npt.NDArray[np.bool_]]:
    """(factors as the rule reads them, the rule's macro, constant channels).

    Args:
        bias: (O,), in the units of the sums; sums of a channel lie within bias - bound and bias + bound.
        zero_point: the output's.
        can_clear: see pack_epilogue.
    """
    none = np.zeros(reals.shape, np.bool_)
    if rounding in (Rounding.V4, Rounding.V4_INT28):
        return reals.astype(np.float32), _RULES[rounding], none
    if rounding is Rounding.V6:
        return reals.astype(np.float64), _RULES[rounding], none
    multipliers, shifts = numerics.quantize_multipliers(reals)
    if rounding in numerics.V1U_BLOCKS:
        block = numerics.V1U_BLOCKS[rounding]
        away = np.arange(reals.size) >= reals.size // block * block
        return np.stack([multipliers, shifts, away], axis=1).astype(np.int32), _RULES[rounding], none
    if rounding is Rounding.V3:
        numerics.reduced_multiplier(multipliers, shifts)  # refuses factors beyond its contract
    if rounding is Rounding.V1:
        right = _right_shift_factors(multipliers, shifts, bias, bounds, zero_point)
        if right is not None and (can_clear or not right[1].any()):
            return right[0], "RULE_V1_RIGHT", right[1]
    return np.stack([multipliers, shifts], axis=1).astype(np.int32), _RULES[rounding], none


def _right_shift_factors(
    multipliers: Int64Array, shifts: Int64Array, bias: Int64Array, bounds: Int64Array, zero_point: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]] | None:
    """(RightShiftFactor of every channel, constant channels); None where one channel needs the general V1.

    A channel shifts right by r >= 1 with 2^(r - 1) + zero_point * 2^r as its offset while |h| plus the offset is an
    int32. Dead channels, whose scale makes r large, fail that, but every sum of theirs gives the same code: V1 is
    monotonic, so the ends tell.
    """
    if np.any(np.abs(bias) + bounds >= 1 << 31):
        return None
    lowest = numerics.requantize_v1(bias - bounds, multipliers, np.minimum(shifts, 0))
    highest = numerics.requantize_v1(bias + bounds, multipliers, np.minimum(shifts, 0))
    factors = []
    # Python integers: products are up to 2^62, and are compared, not computed with.
    for m, shift, most, low, high in zip(
        multipliers.tolist(),
        shifts.tolist(),
        (np.abs(bias) + bounds).tolist(),
        lowest.tolist(),
        highest.tolist(),
        strict=True,
    ):
        right = -shift
        offset = (1 << (right - 1)) + (zero_point << right) if right >= 1 else 0
        if right >= 1 and m > 0 and (most * m >> 31) + 2 + abs(offset) < 1 << 31:
            factors.append((2 * m - (1 << 32), right, -(1 << 31), offset))
        elif right >= 0 and low == high:
            factors.append((0, 0, -(1 << 31), low + zero_point))
        else:
            return None
    packed = np.array(factors, np.int32)
    return packed, packed[:, 1] == 0


def pad_groups(values: npt.NDArray[Any], groups: int, padded: int) -> npt.NDArray[Any]:
    """(O, ...) as (groups * padded, ...), zeros behind each group; shifts of 0 with factors of 0 are harmless."""
    grouped = values.reshape(groups, -1, *values.shape[1:])
    out = np.zeros((groups, padded, *values.shape[1:]), values.dtype)
    out[:, : grouped.shape[1]] = grouped
    return np.ascontiguousarray(out.reshape(groups * padded, *values.shape[1:]))


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple
