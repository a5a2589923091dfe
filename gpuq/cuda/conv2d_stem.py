"""CONV_2D of at most 4 input channels on dp4a, the first layer of a network: fits(), pack(), choices(), launches.

One kernel, kernels_cuda/conv2d_stem_dp4a.cu, in several tiles conv2d_stem_dp4a_<rows>x<columns>x<channels>. Where the
implicit GEMM of cuda/conv2d.py would spend a word of every tap on one or two channels, here up to 4 kernel columns
share a word, and the pixels that a block sees are read once and not once per tap.

Window sums for weights with a zero point: see pack_codes in cuda/epilogue.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.epilogue import Epilogue, Fusion, epilogue_defines, pack_codes, round_up
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec

# What the packed layout is padded to: the largest tile's channels.
PADDED_CHANNELS = 64

# Shared memory of a block: every GPU gives 48 KiB without being asked.
SHARED_BYTES = 44 << 10

# Words of the patch that a thread loads at once.
FILL = 4


@dataclass(frozen=True)
class StemTile:
    """How a block is cut; see kernels_cuda/conv2d_stem_dp4a.cu. A tile is all that there is to choose.

    Attributes:
        min_blocks: blocks that share a multiprocessor, which bounds a thread's registers: 16 warps leave 128.
    """

    lanes_n: int
    tm_w: int
    tm_h: int
    tn: int
    warps: int
    min_blocks: int

    @property
    def bw(self) -> int:
        """Output pixels of a block along a row."""
        return 32 // self.lanes_n * self.tm_w

    @property
    def bh(self) -> int:
        """Output rows of a block."""
        return self.warps * self.tm_h

    @property
    def bn(self) -> int:
        """Output channels of a block."""
        return self.lanes_n * self.tn

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def size(self) -> str:
        return f"{self.bh}x{self.bw}x{self.bn}"

    @property
    def name(self) -> str:
        return f"conv2d_stem_dp4a_{self.size}"

    def kernel(
        self,
        in_c: int = 3,
        vec: int = 1,
        window_sum: bool = False,
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines(),
        dynamic_shared_bytes: int = 0,
    ) -> Kernel:
        """The tile compiled for one kind of layer; the defaults are the layers that matter most."""
        # Rules of many steps or of doubles need more registers: 12 warps leave 168.
        roomy = dict(epilogue)["RULE"] in ("RULE_V1", "RULE_V6")
        return Kernel(
            name=self.name,
            source="conv2d_stem_dp4a.cu",
            entry="conv2d_stem_dp4a",
            defines=(
                ("LANES_N", self.lanes_n),
                ("TM_W", self.tm_w),
                ("TM_H", self.tm_h),
                ("TN", self.tn),
                ("WARPS", self.warps),
                ("MIN_BLOCKS", self.min_blocks * 3 // 4 if roomy else self.min_blocks),
                ("FILL", FILL),
                ("IN_C", in_c),
                ("VEC", vec),
                ("WINDOW_SUM", int(window_sum)),
                *epilogue,
            ),
            threads=(self.threads, 1, 1),
            dynamic_shared_bytes=dynamic_shared_bytes,
        )


TILES = (
    StemTile(lanes_n=8, tm_w=4, tm_h=2, tn=8, warps=4, min_blocks=4),
    StemTile(lanes_n=4, tm_w=2, tm_h=4, tn=8, warps=2, min_blocks=8),
    StemTile(lanes_n=2, tm_w=1, tm_h=8, tn=8, warps=1, min_blocks=16),
    StemTile(lanes_n=8, tm_w=4, tm_h=1, tn=4, warps=4, min_blocks=4),
    StemTile(lanes_n=4, tm_w=1, tm_h=4, tn=4, warps=1, min_blocks=16),
)

KERNELS = tuple(tile.kernel() for tile in TILES)
"""Every tile, as the layers that matter most compile it: int8, three channels, right shifts, no clamp."""


@dataclass(frozen=True)
class StemWords:
    """How a layer's kernel columns and channels share words.

    Attributes:
        padded_c: bytes of a pixel in a word.
        taps: kernel columns of a word.
        groups: words of a kernel row.
        count: words of the window.
    """

    padded_c: int
    taps: int
    groups: int
    count: int


def words_of(spec: Conv2dSpec) -> StemWords:
    """Words of the window of a layer of at most 4 channels."""
    padded_c = (0, 1, 2, 4, 4)[spec.in_c]
    taps = 4 // padded_c
    groups = -(-spec.window.kernel_w // taps)
    return StemWords(padded_c, taps, groups, spec.window.kernel_h * groups)


@dataclass(frozen=True)
class StemPatch:
    """The shape of what a block stages of x; see the kernel for the picture.

    Attributes:
        rows: input rows that the block sees.
        phases: columns modulo stride_w that words of the window begin at.
        width: words of a phase of a row.
        distance: input columns from one word of a kernel row to the next.
    """

    rows: int
    phases: int
    width: int
    distance: int

    @property
    def row_words(self) -> int:
        return self.phases * self.width

    def words(self, tile: StemTile) -> int:
        """Words in shared memory: a multiple of what all threads load in one turn."""
        return round_up(self.rows * self.row_words, FILL * tile.threads)


@lru_cache(maxsize=4096)
def patch_of(spec: Conv2dSpec, tile: StemTile) -> StemPatch:
    """The patch of a tile; see the kernel for the picture."""
    window, words = spec.window, words_of(spec)
    distance = words.taps * column_step(spec)
    period = window.stride_w // math.gcd(window.stride_w, distance)
    return StemPatch(
        rows=(tile.bh - 1) * window.stride_h + (window.kernel_h - 1) * window.dilation_h + 1,
        # Word g of a kernel row begins at column g * distance, so that words `period` apart share a phase.
        phases=min(period, words.groups),
        width=tile.bw + (words.groups - 1) * distance // window.stride_w,
        distance=distance,
    )


def column_step(spec: Conv2dSpec) -> int:
    """Input columns from one kernel column to the next; no matter what where there is no next."""
    return spec.window.dilation_w if spec.window.kernel_w > 1 else 1


@lru_cache(maxsize=256)
def places(spec: Conv2dSpec, tile: StemTile) -> npt.NDArray[np.int32]:
    """For each word of the patch {row, column}, relative to the block's first input pixel; padded by {0, 0}."""
    patch, stride = patch_of(spec, tile), spec.window.stride_w
    row, slot = np.divmod(np.arange(patch.rows * patch.row_words), patch.row_words)
    phase, pixel = np.divmod(slot, patch.width)
    table = np.zeros((patch.words(tile), 2), np.int32)
    table[: row.size, 0] = row
    table[: row.size, 1] = phase * patch.distance % stride + pixel * stride
    table.flags.writeable = False
    return table


@lru_cache(maxsize=256)
def taps(spec: Conv2dSpec, tile: StemTile) -> npt.NDArray[np.int32]:
    """For each word of the window where it begins in the patch, in bytes, and the mask of its bytes that count.

    One entry more, which the kernel loads and does not use.
    """
    patch, window, words = patch_of(spec, tile), spec.window, words_of(spec)
    kh, group = np.divmod(np.arange(words.count), words.groups)
    slot = group % patch.phases * patch.width + group * patch.distance // window.stride_w
    valid = np.zeros((words.groups * words.taps, words.padded_c), np.int8)
    valid[: window.kernel_w, : spec.in_c] = 1
    table = np.zeros((words.count + 1, 2), np.int32)
    table[:-1, 0] = 4 * (kh * window.dilation_h * patch.row_words + slot)
    table[:-1, 1] = valid.reshape(-1).view(np.int32)[group]
    table.flags.writeable = False
    return table


def shared_bytes(spec: Conv2dSpec, tile: StemTile) -> int:
    """Weights, taps and patch of a block."""
    words = words_of(spec).count
    return 4 * (words * tile.bn + 2 * (words + 1) + patch_of(spec, tile).words(tile))


def fits(spec: Conv2dSpec) -> bool:
    """Whether the layer has few enough channels, and a window that at least one tile can stage."""
    return spec.groups == 1 and spec.in_c <= 4 and bool(fitting(spec))


def fitting(spec: Conv2dSpec) -> tuple[StemTile, ...]:
    """The tiles whose shared memory suffices."""
    return tuple(tile for tile in TILES if shared_bytes(spec, tile) <= SHARED_BYTES)


@dataclass(frozen=True, eq=False)
class StemLayer:
    """The constants of one layer as every tile reads them; NumPy arrays.

    Attributes:
        weights: int8 (K, O', 4), O' a multiple of 64; K is (kh, group of kernel columns), a word is (column, c).
        window_factor: factor of the window's sum; 0 where the weights' zero point does not need it.
    """

    spec: Conv2dSpec
    weights: npt.NDArray[np.int8]
    epilogue: Epilogue
    window_factor: int
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)
    x_shapes: tuple[tuple[int, int, int], ...] = field(init=False)
    y_shape: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        constants = {"weights": self.weights, **self.epilogue.constants(1, self.padded_out_c)}
        for tile in fitting(spec):
            constants |= {f"taps_{tile.size}": taps(spec, tile), f"places_{tile.size}": places(spec, tile)}
        y_shape = (*spec.window.output_hw(spec.in_h, spec.in_w), spec.out_c)
        object.__setattr__(self, "constants", constants)
        object.__setattr__(self, "x_shapes", self.epilogue.x_shapes((spec.in_h, spec.in_w, spec.in_c), y=y_shape))
        object.__setattr__(self, "y_shape", y_shape)

    @property
    def padded_out_c(self) -> int:
        """O'."""
        return int(self.weights.shape[1])

    def choices(self, runs: int, traits: Traits) -> Sequence[StemTile]:
        return choices(self.spec, runs, traits.multiprocessors)

    def workspace_bytes(self, runs: int, choice: StemTile) -> int:
        return 0

    def launches(self, choice: StemTile, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x, *residual), y = inputs, output
        spec, window, epilogue = self.spec, self.spec.window, self.epilogue
        out_h, out_w, out_c = spec.output_shape
        patches_w = -(-out_w // choice.bw)
        patches = patches_w * -(-out_h // choice.bh)
        if patches * x.images >= 1 << 31:
            raise spec.fail(f"{patches * x.images} blocks in one launch; the limit is 2^31 - 1, use a smaller batch")
        # One load takes all channels of a pixel, if there is a load of that width.
        vec = spec.in_c if spec.in_c in (2, 4) and x.alignment(spec.in_c) == spec.in_c else 1
        stored = (y, *residual)
        vector_store = next(n for n in (8, 4, 1) if out_c % n == 0 and all(each.alignment(n) == n for each in stored))
        patch = patch_of(spec, choice)
        kernel = choice.kernel(spec.in_c, vec, self.window_factor != 0, epilogue.defines, shared_bytes(spec, choice))
        return [
            Launch(
                kernel,
                (patches * x.images, -(-out_c // choice.bn), 1),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    *int32s(x.row_pitch, x.pixel_pitch),
                    Slot("weights"),
                    Slot(f"taps_{choice.size}"),
                    Slot(f"places_{choice.size}"),
                    Slot("bias"),
                    Slot("factors"),
                    y.slot("y"),
                    np.int64(y.image_pitch),
                    *int32s(y.row_pitch, y.pixel_pitch),
                    *int32s(spec.in_h, spec.in_w, out_h, out_w, out_c, self.padded_out_c),
                    *int32s(window.stride_h, window.stride_w, column_step(spec), window.pad_top, window.pad_left),
                    *int32s(words_of(spec).count, patch.words(choice), patch.row_words),
                    np.uint32(patches_w),
                    np.uint32(patches),
                    *int32s(spec.x_quant.scalar_zero_point(), self.window_factor),
                    *epilogue.arguments(y, *residual),
                    np.int32(vector_store),
                ),
            )
        ]


def pack(
    spec: Conv2dSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[np.int32] | None,
    fusion: Fusion | None = None,
) -> StemLayer:
    """Packs the constants of a layer that fits.

    Args:
        weights: OHWI codes.
        bias: (O,) int32, or None.
        fusion: what follows in the same kernel.
    """
    spec.require(fits(spec), "groups, channels or window do not fit the stem kernels")
    codes, epilogue, window_factor = pack_codes(spec, rule, weights, bias, fusion)
    window, words = spec.window, words_of(spec)
    padded = np.zeros(
        (round_up(spec.out_c, PADDED_CHANNELS), window.kernel_h, words.groups * words.taps, words.padded_c), np.int8
    )
    padded[: spec.out_c, :, : window.kernel_w, : spec.in_c] = codes.reshape(spec.weights_shape)
    packed = np.ascontiguousarray(padded.reshape(-1, words.count, 4).transpose(1, 0, 2))
    return StemLayer(spec, packed, epilogue, window_factor)


# The model of choices(), until measured: threads that keep a multiprocessor busy, and, in units of a dp4a, which takes
# as long as two other instructions, a shared load of a word, the epilogue of an output, a word of the patch, and what
# every thread does before and between them.
BUSY_THREADS = 256
LOADS_PER_MAC = 1.0
EPILOGUE_COST = 3.5
PATCH_COST = 11.0
THREAD_COST = 100.0


@lru_cache(maxsize=4096)
def choices(spec: Conv2dSpec, images: int, multiprocessors: int) -> Sequence[StemTile]:
    """The tiles that fit, cheapest first: pure, by a count of what every multiprocessor has to do.

    A block costs its share of pixels and channels, padding included, and its patch, which is staged again for every
    tile of channels. The multiprocessor with the most blocks decides.
    """
    out_h, out_w, out_c = spec.output_shape
    words = words_of(spec).count

    def cost(tile: StemTile) -> float:
        blocks = images * -(-out_h // tile.bh) * -(-out_w // tile.bw) * -(-out_c // tile.bn)
        per_multiprocessor = -(-blocks // multiprocessors)
        outputs = tile.bh * tile.bw * tile.bn
        loads = 1 + LOADS_PER_MAC * (1 / (tile.tm_w * tile.tm_h) + 1 / tile.tn)
        patch = patch_of(spec, tile).words(tile)
        per_block = outputs * (words * loads + EPILOGUE_COST) + PATCH_COST * patch + THREAD_COST * tile.threads
        # Too few warps cannot hide the latency of memory: time passes all the same.
        idle = max(1.0, BUSY_THREADS / (per_multiprocessor * tile.threads))
        return per_multiprocessor * per_block * idle

    return tuple(sorted(fitting(spec), key=cost))
