"""CONV_2D on dp4a: KERNELS, pack(), choose(), and the launches of one layer.

Zero points leave the kernel's loop. With codes x, packed weights v = w - s (s = 128 for uint8 weights, which makes
them int8; else 0), and z_w' = z_w - s,

    sum (x - z_x) * (w - z_w) = sum x * v  -  z_x * sum v  -  z_w' * sum x  +  K * z_x * z_w'

The second and last term are constant per channel and go to the bias; the third needs the window's sum of x, once per
output pixel, and only where z_w' is not 0. Pixels outside the image are read as z_x, so that all sums run over all K
taps. Everything holds modulo 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.kernel import Kernel, Launch, Pointer
from gpuq.cuda.operand import ImageOperand
from gpuq.numerics import Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.spec import UINT8

# What the packed layout is padded to; the kernel's largest tile, and one tile of K in bytes.
PADDED_CHANNELS = 128
TILE_K = 32


@dataclass(frozen=True)
class Tile:
    """How a block is cut; see kernels_cuda/conv2d_igemm_dp4a.cu.

    Attributes:
        min_blocks: blocks that share a multiprocessor, which bounds a thread's registers: 16 warps leave 128, 12 leave
            168, which the tiles that load more per thread need to stay out of local memory.
    """

    warps_m: int
    warps_n: int
    tm: int
    tn: int
    min_blocks: int
    stages: int = 3

    @property
    def bm(self) -> int:
        """Output pixels of a block."""
        return self.warps_m * 4 * self.tm

    @property
    def bn(self) -> int:
        """Output channels of a block."""
        return self.warps_n * 8 * self.tn

    @property
    def threads(self) -> int:
        return self.warps_m * self.warps_n * 32

    @property
    def shared_bytes(self) -> int:
        """Static shared memory: stages of both operands, and an offset per pixel."""
        return self.stages * (self.bm + self.bn) * TILE_K + 8 * self.bm


TILES = (
    Tile(warps_m=4, warps_n=2, tm=8, tn=8, min_blocks=2),
    Tile(warps_m=4, warps_n=1, tm=8, tn=8, min_blocks=3),
    Tile(warps_m=4, warps_n=1, tm=8, tn=4, min_blocks=4),
    Tile(warps_m=2, warps_n=2, tm=8, tn=8, min_blocks=3),
    Tile(warps_m=2, warps_n=2, tm=8, tn=4, min_blocks=4),
    Tile(warps_m=2, warps_n=1, tm=4, tn=4, min_blocks=8),
)

# Bytes of one load along the channels; 1 takes any channel count.
VECTORS = (16, 8, 4, 1)

# Macro values of kernels_cuda/requantize.cuh (enum Rule) and of the kernel's OUTPUT.
_RULES = {
    Rounding.V1: "RULE_V1",
    Rounding.V1U: "RULE_V1U",
    Rounding.V2: "RULE_V2",
    Rounding.V4: "RULE_V4",
    Rounding.V6: "RULE_V6",
}
FINISH_THREADS = 256


@dataclass(frozen=True)
class Variant:
    """What a kernel is compiled for beside its tile: everything that the layer, not the batch, decides."""

    vec: int
    rule: str
    x_unsigned: bool
    window_sum: bool


def kernel(tile: Tile, variant: Variant, output: str = "OUTPUT_CODES") -> Kernel:
    """One row of the table, compiled for one layer's variant."""
    return Kernel(
        name=f"conv2d_igemm_dp4a_{tile.bm}x{tile.bn}x{TILE_K}",
        source="conv2d_igemm_dp4a.cu",
        entry="conv2d_igemm_dp4a",
        defines=(
            ("WARPS_M", tile.warps_m),
            ("WARPS_N", tile.warps_n),
            ("TM", tile.tm),
            ("TN", tile.tn),
            ("STAGES", tile.stages),
            ("MIN_BLOCKS", tile.min_blocks),
            ("VEC", variant.vec),
            ("RULE", variant.rule),
            ("X_UNSIGNED", int(variant.x_unsigned)),
            ("WINDOW_SUM", int(variant.window_sum)),
            ("OUTPUT", output),
        ),
        threads=(tile.threads, 1, 1),
    )


KERNELS = tuple(
    kernel(tile, Variant(vec=16, rule="RULE_V1_RIGHT", x_unsigned=False, window_sum=False)) for tile in TILES
)
"""Every tile, as the layers that matter most compile it: int8, channels in multiples of 16, right shifts."""


def finish_kernel(rule: str) -> Kernel:
    """The second kernel of a split convolution."""
    return Kernel(
        name="requantize_sums",
        source="requantize_sums.cu",
        entry="requantize_sums",
        defines=(("RULE", rule), ("THREADS", FINISH_THREADS)),
        threads=(FINISH_THREADS, 1, 1),
    )


@dataclass(frozen=True, eq=False)
class PackedConv2d:
    """The constants of one layer as every tile reads them; NumPy arrays, uploaded once.

    Attributes:
        weights: int8 (groups, O', K'), O' a multiple of 128, K' of 32; K is (kh, kw, c), c padded to whole words.
        bias: int32 (groups * O',), zero points folded.
        factors: (groups * O', ...) what the rule needs per channel.
        window_factor: factor of the window's sum; 0 where the weights' zero point does not need it.
        rule: the macro of kernels_cuda/requantize.cuh.
    """

    spec: Conv2dSpec
    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    factors: npt.NDArray[Any]
    window_factor: int
    rule: str

    @property
    def padded_out_c(self) -> int:
        """O'."""
        return int(self.weights.shape[1])

    @property
    def k_tiles(self) -> int:
        """K' in tiles."""
        return int(self.weights.shape[2]) // TILE_K


def pack(spec: Conv2dSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[np.int32] | None) -> PackedConv2d:
    """Packs a layer's constants.

    Args:
        weights: OHWI codes.
        bias: (O,) int32, or None.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    group_in, group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
    unsigned = spec.w_quant.dtype == UINT8
    shift = 128 if unsigned else 0
    codes = weights.astype(np.int64) - shift
    zero_points = np.broadcast_to(spec.w_quant.zero_points - shift, (spec.out_c,))
    x_zero_point = spec.x_quant.scalar_zero_point()
    taps = spec.window.taps * group_in

    constant = -x_zero_point * codes.reshape(spec.out_c, -1).sum(axis=1) + taps * x_zero_point * zero_points
    if bias is not None:
        constant = constant + bias
    centred = np.abs(codes.reshape(spec.out_c, -1) - zero_points[:, None]).sum(axis=1)
    reach = max(x_zero_point - spec.x_quant.qmin, spec.x_quant.qmax - x_zero_point)

    word_c = _round_up(group_in, 4)
    padded_k = _round_up(spec.window.taps * word_c, TILE_K)
    padded_o = _round_up(group_out, PADDED_CHANNELS)
    packed = np.zeros((spec.groups, padded_o, padded_k), np.int8)
    words = np.zeros((spec.groups, group_out, spec.window.taps, word_c), np.int8)
    words[..., :group_in] = codes.reshape(spec.groups, group_out, spec.window.taps, group_in)
    packed[:, :group_out, : spec.window.taps * word_c] = words.reshape(spec.groups, group_out, -1)

    reals = numerics.real_multipliers(
        spec.x_quant.scalar_scale(), spec.w_quant.scales, spec.out_quant.scalar_scale(), rule.product
    )
    real_bias = np.zeros(spec.out_c, np.int64) if bias is None else bias.astype(np.int64)
    factors, macro = pack_factors(
        rule.rounding,
        np.broadcast_to(reals, (spec.out_c,)),
        real_bias,
        centred * reach,
        spec.out_quant.scalar_zero_point(),
    )
    return PackedConv2d(
        spec=spec,
        weights=packed,
        bias=_pad_groups(numerics.wrap_int32(constant).astype(np.int32), spec.groups, padded_o),
        factors=_pad_groups(factors, spec.groups, padded_o),
        # One zero point per layer: weights with zero points are per tensor.
        window_factor=int(-zero_points[0]),
        rule=macro,
    )


def pack_factors(
    rounding: Rounding,
    reals: npt.NDArray[np.float64],
    bias: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    zero_point: int,
) -> tuple[npt.NDArray[Any], str]:
    """Per-channel factors as the rule reads them, and the rule's macro.

    Args:
        bias: (O,), in the units of the sums; sums of a channel lie within bias - bound and bias + bound.
        zero_point: the output's.
    """
    if rounding is Rounding.V4:
        return reals.astype(np.float32), _RULES[rounding]
    if rounding is Rounding.V6:
        return reals.astype(np.float64), _RULES[rounding]
    multipliers, shifts = numerics.quantize_multipliers(reals)
    if rounding is Rounding.V1:
        right = _right_shift_factors(multipliers, shifts, bias, bounds, zero_point)
        if right is not None:
            return right, "RULE_V1_RIGHT"
    return np.stack([multipliers, shifts], axis=1).astype(np.int32), _RULES[rounding]


def _right_shift_factors(
    multipliers: npt.NDArray[np.int64],
    shifts: npt.NDArray[np.int64],
    bias: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    zero_point: int,
) -> npt.NDArray[np.int32] | None:
    """RightShiftFactor of every channel; None where one channel needs the general V1.

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
            factors.append((m, right, offset))
        elif right >= 0 and low == high:
            factors.append((0, 0, low + zero_point))
        else:
            return None
    return np.array(factors, np.int32)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _pad_groups(values: npt.NDArray[Any], groups: int, padded: int) -> npt.NDArray[Any]:
    """(O, ...) as (groups * padded, ...), zeros behind each group; shifts of 0 with factors of 0 are harmless."""
    grouped = values.reshape(groups, -1, *values.shape[1:])
    out = np.zeros((groups, padded, *values.shape[1:]), values.dtype)
    out[:, : grouped.shape[1]] = grouped
    return np.ascontiguousarray(out.reshape(groups * padded, *values.shape[1:]))


@lru_cache(maxsize=1024)
def k_table(spec: Conv2dSpec, vec: int) -> npt.NDArray[np.int32]:
    """For each load along K' {row offset, column offset, channel, valid channels}; see the kernel."""
    chunk = max(vec, 4)
    group_in = spec.in_c // spec.groups
    word_c = _round_up(group_in, 4)
    padded_k = _round_up(spec.window.taps * word_c, TILE_K)
    k = np.arange(0, padded_k, chunk)
    tap, channel = k // word_c, k % word_c
    kh, kw = tap // spec.window.kernel_w, tap % spec.window.kernel_w
    valid = np.where(tap < spec.window.taps, np.minimum(group_in - channel, chunk), 0)
    table = np.stack([kh * spec.window.dilation_h, kw * spec.window.dilation_w, channel, valid], axis=1)
    # Padding must not look like a tap: offsets 0, no valid channel.
    table[valid <= 0] = 0
    packed = np.ascontiguousarray(table, np.int32)
    packed.flags.writeable = False
    return packed


# The model of choose(), until measured: threads that keep a multiprocessor busy, shared loads in units of dp4a, and the
# second kernel's cost per sum in units of one pixel and channel of one tile of K.
BUSY_THREADS = 256
LOADS_PER_MAC = 1.0
SPLIT_COST = 1.0


@dataclass(frozen=True)
class Choice:
    """A tile, and into how many parts K is split (1: the epilogue is fused)."""

    tile: Tile
    splits: int = 1

    def tiles_per_split(self, k_tiles: int) -> int:
        return -(-k_tiles // self.splits)


@lru_cache(maxsize=4096)
def choose(spec: Conv2dSpec, images: int, multiprocessors: int) -> Choice:
    """The tile and split for this batch: pure, by a count of what every multiprocessor has to do.

    A block costs its share of pixels and channels, padding included; smaller thread tiles load more shared memory
    per dp4a and cost more per MAC. The multiprocessor with the most blocks decides.
    """
    pixels, channels, taps = spec.gemm_mnk
    pixels *= images
    k_tiles = -(-taps // TILE_K)

    def cost(choice: Choice) -> tuple[float, int]:
        tile = choice.tile
        blocks = -(-pixels // tile.bm) * -(-channels // tile.bn) * spec.groups * choice.splits
        per_multiprocessor = -(-blocks // multiprocessors)
        loads = 1 + LOADS_PER_MAC * (1 / tile.tm + 1 / tile.tn)
        per_block = tile.bm * tile.bn * choice.tiles_per_split(k_tiles) * loads
        # Too few warps cannot hide the latency of shared memory: time passes all the same.
        idle = max(1.0, BUSY_THREADS / (per_multiprocessor * tile.threads))
        finish = SPLIT_COST * pixels * channels * spec.groups * choice.splits / multiprocessors
        return per_multiprocessor * per_block * idle + (finish if choice.splits > 1 else 0.0), choice.splits

    splits = [split for split in (1, 2, 4, 8, 16) if split == 1 or k_tiles >= 4 * split]
    return min((Choice(tile, split) for tile in TILES for split in splits), key=cost)


def workspace_bytes(spec: Conv2dSpec, images: int, choice: Choice) -> int:
    """Partial sums of a split convolution; 0 without a split."""
    out_h, out_w, out_c = spec.output_shape
    return 4 * choice.splits * images * out_h * out_w * out_c if choice.splits > 1 else 0


@dataclass(frozen=True)
class Constants:
    """Packed arrays on the device."""

    weights: Pointer
    bias: Pointer
    factors: Pointer
    k_tables: dict[int, Pointer]

    @classmethod
    def upload(cls, packed: PackedConv2d, to_device: Any) -> Constants:
        """Moves everything by `to_device(numpy array) -> array`; only the tables that the channels allow."""
        group_in = packed.spec.in_c // packed.spec.groups
        return cls(
            weights=Pointer(to_device(packed.weights)),
            bias=Pointer(to_device(packed.bias)),
            factors=Pointer(to_device(packed.factors)),
            k_tables={
                vec: Pointer(to_device(k_table(packed.spec, vec))) for vec in VECTORS if vec == 1 or group_in % vec == 0
            },
        )


def launches(
    packed: PackedConv2d,
    constants: Constants,
    x: ImageOperand,
    y: ImageOperand,
    choice: Choice,
    workspace: Pointer,
) -> list[Launch]:
    """What one call launches, in order.

    Args:
        constants: the packed arrays where the device can read them.
        workspace: `workspace_bytes` of scratch; unused without a split.
    """
    spec = packed.spec
    window = spec.window
    out_h, out_w, out_c = spec.output_shape
    group_in, group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
    pixels = x.images * out_h * out_w
    if pixels >= 1 << 31:
        raise spec.fail(f"{pixels} output pixels in one launch; the limit is 2^31 - 1, use a smaller batch")
    vec = next(vec for vec in VECTORS if vec == 1 or (group_in % vec == 0 and x.alignment() % vec == 0))
    is_split = choice.splits > 1
    variant = Variant(vec, packed.rule, spec.x_quant.dtype == UINT8, packed.window_factor != 0)
    tile = choice.tile
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant)
    target = ImageOperand(workspace.array, x.images, 0, out_h * out_w * out_c, out_w * out_c, out_c) if is_split else y
    grid = (-(-pixels // tile.bm), -(-group_out // tile.bn), spec.groups * choice.splits)
    main = Launch(
        kernel(tile, variant, "OUTPUT_PARTIAL" if is_split else "OUTPUT_CODES"),
        grid,
        (
            x.pointer(),
            np.int64(x.image_pitch),
            np.int32(x.row_pitch),
            np.int32(x.pixel_pitch),
            constants.weights,
            constants.k_tables[vec],
            constants.bias,
            constants.factors,
            workspace if is_split else y.pointer(),
            np.int64(target.image_pitch),
            np.int32(target.row_pitch),
            np.int32(target.pixel_pitch),
            *(
                np.int32(value)
                for value in (
                    pixels,
                    spec.in_h,
                    spec.in_w,
                    group_in,
                    out_h,
                    out_w,
                    group_out,
                    packed.padded_out_c,
                    window.stride_h,
                    window.stride_w,
                    window.pad_top,
                    window.pad_left,
                    packed.k_tiles,
                    choice.tiles_per_split(packed.k_tiles),
                    choice.splits,
                )
            ),
            np.int64(pixels * out_c),
            np.int32(spec.x_quant.scalar_zero_point()),
            np.int32(packed.window_factor),
            np.int32(spec.out_quant.scalar_zero_point()),
            np.int32(act_min),
            np.int32(act_max),
            np.int32(group_out % 4 == 0 and y.alignment(4) == 4),
        ),
    )
    if not is_split:
        return [main]
    finish = Launch(
        finish_kernel(packed.rule),
        (-(-pixels * out_c // FINISH_THREADS), 1, 1),
        (
            workspace,
            constants.bias,
            constants.factors,
            np.int32(choice.splits),
            y.pointer(),
            np.int64(y.image_pitch),
            np.int32(y.row_pitch),
            np.int32(y.pixel_pitch),
            np.int64(pixels * out_c),
            *(
                np.int32(value)
                for value in (
                    out_h,
                    out_w,
                    out_c,
                    group_out,
                    packed.padded_out_c,
                    spec.out_quant.scalar_zero_point(),
                    act_min,
                    act_max,
                )
            ),
        ),
    )
    return [main, finish]
