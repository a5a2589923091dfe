"""DEPTHWISE_CONV_2D on dp4a: pack(), choices(), and the launches of one layer.

| kernel                     | file in kernels_cuda/         | for                                                |
|----------------------------|-------------------------------|----------------------------------------------------|
| depthwise_conv2d_rows_...  | depthwise_conv2d_rows_dp4a.cu | 3x3 and 5x5 windows, stride 1 or 2, multiplier 1   |
| depthwise_conv2d_taps_...  | depthwise_conv2d_taps_dp4a.cu | any window, stride, dilation and multiplier        |

Weights are packed minus their zero point z_w. For int8 that is the weight itself; w - z_w of uint8 reaches from -255 to
255 and becomes the sum of as few int8 terms as all weights of the layer need, almost always one. The kernels multiply
by each: sums stay exact, and no window sums are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.epilogue import Epilogue, Fusion, epilogue_defines, pack_epilogue, pad_groups, round_up
from gpuq.cuda.kernel import Argument, Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Int64Array, Rule
from gpuq.ops.conv2d import check_weights
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec

THREADS = 128

# Blocks of the general kernel that share a multiprocessor: left alone, the compiler may spill to fit in more of them.
TAPS_MIN_BLOCKS = 6

# int8 terms of a weight: w - z_w = 255 takes three.
MOST_TERMS = 3

# Row of a tap that pads a quad: in no image, and far from the ends of int32.
OUTSIDE = -(1 << 30)


@dataclass(frozen=True)
class RowsTile:
    """A strip of columns walked down; see kernels_cuda/depthwise_conv2d_rows_dp4a.cu.

    Attributes:
        kernel_size, stride: of both axes; what the tile is for.
        width: output columns of a thread.
        min_blocks: blocks that share a multiprocessor, which bounds a thread's registers.
        most_terms: int8 terms of a weight; more would not stay in registers.
    """

    kernel_size: int
    stride: int
    width: int
    min_blocks: int
    most_terms: int = MOST_TERMS

    @property
    def name(self) -> str:
        size = self.kernel_size
        return f"depthwise_conv2d_rows_dp4a_{size}x{size}s{self.stride}_w{self.width}"

    def kernel(
        self,
        vec: int = 4,
        terms: int = 1,
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines(),
    ) -> Kernel:
        """The tile compiled for one kind of layer; the defaults are the layers that matter most."""
        # Kinds that need more registers take them: they are rare, and local memory would cost more.
        usual = vec == 4 and terms == 1 and ("RULE", "RULE_V1_RIGHT") in epilogue and ("FUSED_SUM", 1) not in epilogue
        return Kernel(
            name=self.name,
            source="depthwise_conv2d_rows_dp4a.cu",
            entry="depthwise_conv2d_rows_dp4a",
            defines=(
                ("KERNEL", self.kernel_size),
                ("STRIDE", self.stride),
                ("TILE_W", self.width),
                ("THREADS", THREADS),
                ("MIN_BLOCKS", self.min_blocks if usual else 1),
                ("VEC", vec),
                ("TERMS", terms),
                *epilogue,
            ),
            threads=(THREADS, 1, 1),
        )

    def fits(self, spec: DepthwiseConv2dSpec, terms: int = 1) -> bool:
        """Whether the tile can run this layer."""
        window = spec.window
        return (
            terms <= self.most_terms
            and spec.multiplier == 1
            and (window.kernel_h, window.kernel_w) == (self.kernel_size, self.kernel_size)
            and (window.stride_h, window.stride_w) == (self.stride, self.stride)
            and (window.dilation_h, window.dilation_w) == (1, 1)
        )


@dataclass(frozen=True)
class TapsTile:
    """Any window, four taps at a time; see kernels_cuda/depthwise_conv2d_taps_dp4a.cu.

    Attributes:
        width: output columns of a thread.
    """

    width: int

    @property
    def name(self) -> str:
        return f"depthwise_conv2d_taps_dp4a_w{self.width}"

    def kernel(
        self,
        vec: int = 4,
        terms: int = 1,
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines(),
    ) -> Kernel:
        """The kernel compiled for one kind of layer."""
        return Kernel(
            name=self.name,
            source="depthwise_conv2d_taps_dp4a.cu",
            entry="depthwise_conv2d_taps_dp4a",
            defines=(
                ("TILE_W", self.width),
                ("THREADS", THREADS),
                ("MIN_BLOCKS", TAPS_MIN_BLOCKS),
                ("VEC", vec),
                ("TERMS", terms),
                *epilogue,
            ),
            threads=(THREADS, 1, 1),
        )


ROWS_TILES = (
    RowsTile(kernel_size=3, stride=1, width=4, min_blocks=4),
    RowsTile(kernel_size=3, stride=1, width=2, min_blocks=5),
    RowsTile(kernel_size=3, stride=2, width=4, min_blocks=4),
    RowsTile(kernel_size=3, stride=2, width=2, min_blocks=6),
    RowsTile(kernel_size=5, stride=1, width=4, min_blocks=2, most_terms=1),
    RowsTile(kernel_size=5, stride=1, width=2, min_blocks=3),
    RowsTile(kernel_size=5, stride=2, width=4, min_blocks=3, most_terms=1),
    RowsTile(kernel_size=5, stride=2, width=2, min_blocks=4),
)
TAPS_TILES = (TapsTile(2), TapsTile(1))

KERNELS = tuple(tile.kernel() for tile in (*ROWS_TILES, *TAPS_TILES))
"""Every tile, as the layers that matter most compile it: int8, channels in multiples of 4, right shifts, no clamp."""


@dataclass(frozen=True)
class DepthwiseConv2dChoice:
    """A tile, and how many output rows a thread of a RowsTile walks down."""

    tile: RowsTile | TapsTile
    rows: int = 1

    @property
    def name(self) -> str:
        return self.tile.name if self.rows == 1 else f"{self.tile.name}_rows{self.rows}"


@dataclass(frozen=True, eq=False)
class DepthwiseConv2dLayer:
    """The constants of one layer; NumPy arrays.

    Attributes:
        weights: int8 (terms, O, KH, KW), whose sum over the terms is the weights minus their zero point.
    """

    spec: DepthwiseConv2dSpec
    weights: npt.NDArray[np.int8]
    epilogue: Epilogue
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)
    x_shapes: tuple[tuple[int, int, int], ...] = field(init=False)
    y_shape: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        constants = dict(self.epilogue.constants(1, 4 * self.words))
        constants |= {"taps": tap_table(spec), "taps_weights": taps_weights(self.weights)}
        if any(tile.fits(spec, self.terms) for tile in ROWS_TILES):
            constants["rows_weights"] = rows_weights(self.weights)
        y_shape = (*spec.window.output_hw(spec.in_h, spec.in_w), spec.out_c)
        object.__setattr__(self, "constants", constants)
        object.__setattr__(self, "x_shapes", self.epilogue.x_shapes((spec.in_h, spec.in_w, spec.in_c), y=y_shape))
        object.__setattr__(self, "y_shape", y_shape)

    @property
    def words(self) -> int:
        """Of an output pixel, four channels each."""
        return -(-self.spec.out_c // 4)

    @property
    def terms(self) -> int:
        return int(self.weights.shape[0])

    def choices(self, runs: int, traits: Traits) -> Sequence[DepthwiseConv2dChoice]:
        return choices(self.spec, self.terms, runs, traits.multiprocessors)

    def workspace_bytes(self, runs: int, choice: DepthwiseConv2dChoice) -> int:
        return 0

    def launches(
        self, choice: DepthwiseConv2dChoice, inputs: Sequence[ImageLayout], output: ImageLayout
    ) -> Sequence[Launch]:
        (x, *residual), y = inputs, output
        spec = self.spec
        out_h, out_w, out_c = spec.output_shape
        words_of_x = spec.multiplier == 1 and spec.in_c % 4 == 0 and x.alignment(4) == 4
        kernel = choice.tile.kernel(4 if words_of_x else 1, self.terms, self.epilogue.defines)
        columns = -(-out_w // choice.tile.width)
        row_groups = -(-out_h // choice.rows)
        items = x.images * row_groups * columns * self.words
        if items >= 1 << 31:
            raise spec.fail(f"{items} threads in one launch; the limit is 2^31 - 1, use a smaller batch")
        grid = (-(-items // THREADS), 1, 1)
        before: tuple[Argument, ...] = (x.slot("x"), np.int64(x.image_pitch), *int32s(x.row_pitch, x.pixel_pitch))
        between: tuple[Argument, ...] = (
            *(Slot("bias"), Slot("factors"), y.slot("y"), np.int64(y.image_pitch)),
            *int32s(y.row_pitch, y.pixel_pitch, spec.in_h, spec.in_w, spec.in_c),
        )
        window = spec.window
        if isinstance(choice.tile, RowsTile):
            weights: tuple[Argument, ...] = (Slot("rows_weights"),)
            cut = int32s(
                *(out_h, out_w, window.pad_top, window.pad_left),
                *(self.words, choice.rows, row_groups, columns, items),
            )
        else:
            weights = (Slot("taps_weights"), Slot("taps"))
            cut = int32s(
                *(spec.multiplier, out_h, out_w, window.stride_h, window.stride_w, window.pad_top, window.pad_left),
                *(self.words, -(-window.taps // 4), columns, items),
            )
        vector_store = out_c % 4 == 0 and all(stored.alignment(4) == 4 for stored in (y, *residual))
        after = (
            *int32s(spec.x_quant.scalar_zero_point()),
            *self.epilogue.arguments(y, *residual),
            np.int32(vector_store),
        )
        return [Launch(kernel, grid, (*before, *weights, *between, *cut, *after))]


def pack(
    spec: DepthwiseConv2dSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[np.int32] | None,
    fusion: Fusion | None = None,
) -> DepthwiseConv2dLayer:
    """Packs a layer's constants.

    Args:
        weights: 1HWO codes.
        bias: (O,) int32, or None.
        fusion: what follows in the same kernel.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    centred = np.moveaxis(weights[0].astype(np.int64) - spec.w_quant.zero_points, 2, 0)
    epilogue = pack_epilogue(spec, rule, centred.reshape(spec.out_c, -1), bias, fusion)
    centred[epilogue.constant] = 0
    return DepthwiseConv2dLayer(spec, int8_terms(centred), epilogue)


def int8_terms(values: Int64Array) -> npt.NDArray[np.int8]:
    """(terms, ...): as few int8 arrays as the values are the sum of, at least one."""
    terms = [np.clip(values, -128, 127)]
    rest = values - terms[0]
    while rest.any():
        terms.append(np.clip(rest, -128, 127))
        rest = rest - terms[-1]
    return np.stack(terms).astype(np.int8)


def rows_weights(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Weights (terms, O, K, K) as depthwise_conv2d_rows_dp4a.cu reads them: (words, terms, parts, 4)."""
    terms, out_c, size, _ = weights.shape
    parts = np.zeros((terms, out_c, 3 if size == 3 else 7, 4), np.int8)
    parts[:, :, :size, : min(size, 4)] = weights[..., :4]
    if size == 5:
        parts[:, :, 5] = weights[:, :, :4, 4]
        parts[:, :, 6, 0] = weights[:, :, 4, 4]
    return _by_words(parts)


def taps_weights(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Weights (terms, O, KH, KW) as depthwise_conv2d_taps_dp4a.cu reads them: (words, quads, terms, 4)."""
    terms, out_c, *_ = weights.shape
    flat = weights.reshape(terms, out_c, -1)
    quads = np.zeros((terms, out_c, round_up(flat.shape[2], 4)), np.int8)
    quads[..., : flat.shape[2]] = flat
    return np.ascontiguousarray(_by_words(quads.reshape(terms, out_c, -1, 4)).swapaxes(1, 2))


def _by_words(parts: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """(terms, O, parts, 4 bytes) as int32 (words, terms, parts, 4 channels)."""
    terms, out_c, count, _ = parts.shape
    padded = pad_groups(parts.swapaxes(0, 1), 1, round_up(out_c, 4)).reshape(-1, 4, terms, count, 4)
    return np.ascontiguousarray(np.moveaxis(padded, 1, 3)).view("<i4")[..., 0]


@lru_cache(maxsize=1024)
def tap_table(spec: DepthwiseConv2dSpec) -> npt.NDArray[np.int32]:
    """int32 (quads, 2, 4): rows, then columns, of four taps relative to the window's first; OUTSIDE where none is."""
    window = spec.window
    tap = np.arange(round_up(window.taps, 4))
    rows = np.where(tap < window.taps, tap // window.kernel_w * window.dilation_h, OUTSIDE)
    columns = np.where(tap < window.taps, tap % window.kernel_w * window.dilation_w, 0)
    table = np.ascontiguousarray(np.stack([rows.reshape(-1, 4), columns.reshape(-1, 4)], axis=1), np.int32)
    table.flags.writeable = False
    return table


# The model of choices(), until measured, in instructions: what a thread does before its first row and its last store;
# a pixel's address, load, part in the transposition, and its share of waiting for memory; the epilogue of a word; four
# taps of the general kernel, for the thread and for each of its pixels. And the threads that keep memory busy.
SETUP_COST = 280.0
PIXEL_COST = 8.0
WORD_COST = 26.0
QUAD_COST = 10.0
QUAD_PIXEL_COST = 65.0
BUSY_THREADS = 512


@lru_cache(maxsize=4096)
def choices(
    spec: DepthwiseConv2dSpec, terms: int, images: int, multiprocessors: int
) -> Sequence[DepthwiseConv2dChoice]:
    """Tiles and rows for this batch, cheapest first: pure, by a count of what the busiest multiprocessor has to do.

    A thread that walks down more rows reads fewer of them twice, rows * stride + kernel - stride for its `rows`, and
    sets itself up for more outputs. But then there are fewer threads: multiprocessors without work, or with too few
    threads to keep memory busy; time passes all the same.

    Args:
        terms: int8 terms of a weight.
    """
    out_h, out_w, out_c = spec.output_shape
    words = -(-out_c // 4)

    def cost(choice: DepthwiseConv2dChoice) -> float:
        tile = choice.tile
        items = images * -(-out_h // choice.rows) * -(-out_w // tile.width) * words
        per_multiprocessor = -(-items // (THREADS * multiprocessors))
        per_thread = SETUP_COST + choice.rows * tile.width * WORD_COST
        if isinstance(tile, RowsTile):
            rows_read = choice.rows * tile.stride + tile.kernel_size - tile.stride
            pixels = (tile.width - 1) * tile.stride + tile.kernel_size
            # An input row belongs to kernel / stride output rows; 5 wide windows need more dp4as for their ends.
            ends = 1.0 if tile.kernel_size == 3 else 1.4 if tile.stride == 1 else 2.0
            dp4as = 4 * tile.width * terms * ends * tile.kernel_size / tile.stride
            per_thread += rows_read * (pixels * PIXEL_COST + dp4as)
        else:
            per_thread += -(-spec.window.taps // 4) * (QUAD_COST + tile.width * QUAD_PIXEL_COST)
        idle = max(1.0, BUSY_THREADS / (per_multiprocessor * THREADS))
        return per_multiprocessor * per_thread * idle

    tiles = [tile for tile in ROWS_TILES if tile.fits(spec, terms)]
    found = [DepthwiseConv2dChoice(tile, rows) for tile in tiles for rows in rows_per_thread(out_h)]
    found.extend(DepthwiseConv2dChoice(tile) for tile in TAPS_TILES)
    return tuple(sorted(found, key=cost))


def rows_per_thread(out_h: int) -> list[int]:
    """About 1, 2, 4, ... 32 rows, such that the strips of a column are about equally long."""
    return sorted({-(-out_h // -(-out_h // rows)) for rows in (1, 2, 4, 8, 16, 32)})
