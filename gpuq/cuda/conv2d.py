"""CONV_2D on dp4a: pack(), choices(), and the launches of one layer.

One packed layout serves two algorithms, chosen for each batch:

| kernel            | file in kernels_cuda/ | for                                                       |
|-------------------|-----------------------|-----------------------------------------------------------|
| conv2d_igemm_...  | conv2d_igemm_dp4a.cu  | implicit GEMM in tiles of shared memory, K perhaps split  |
| conv2d_direct_... | conv2d_direct_dp4a.cu | few outputs: small networks, batch 1, matrix times vector |

A layer of at most 4 input channels has kernels and a layout of its own: see cuda/conv2d_stem.py.
"""

from __future__ import annotations

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
from gpuq.numerics import Int64Array, Rule
from gpuq.ops.conv2d import Conv2dSpec

# What the packed layout is padded to: the largest tile's channels, the largest tile's bytes of K.
PADDED_CHANNELS = 128
PADDED_K = 64

# Bytes of one load along the channels; 1 takes any channel count.
VECTORS = (16, 8, 4, 1)

FINISH_THREADS = 256


@dataclass(frozen=True)
class IgemmTile:
    """How a block of the implicit GEMM is cut; see kernels_cuda/conv2d_igemm_dp4a.cu.

    Attributes:
        bk: bytes of K.
        min_blocks: blocks that share a multiprocessor, which bounds a thread's registers: 16 warps leave 128, 12 leave
            168, which the tiles that load more per thread need to stay out of local memory.
    """

    warps_m: int
    warps_n: int
    tm: int
    tn: int
    min_blocks: int
    bk: int = 32
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
    def name(self) -> str:
        return f"conv2d_igemm_dp4a_{self.bm}x{self.bn}x{self.bk}"

    def kernel(
        self,
        vec: int = 16,
        window_sum: bool = False,
        output: str = "OUTPUT_CODES",
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines(),
    ) -> Kernel:
        """The tile compiled for one kind of layer; the defaults are the layers that matter most."""
        # Shorter loads and window sums need more registers: local memory would cost more than fewer warps do.
        usual = vec == 16 and not window_sum
        return Kernel(
            name=self.name,
            source="conv2d_igemm_dp4a.cu",
            entry="conv2d_igemm_dp4a",
            defines=(
                ("WARPS_M", self.warps_m),
                ("WARPS_N", self.warps_n),
                ("TM", self.tm),
                ("TN", self.tn),
                ("BK", self.bk),
                ("STAGES", self.stages),
                ("MIN_BLOCKS", self.min_blocks if usual else max(1, self.min_blocks - 1)),
                ("VEC", vec),
                ("WINDOW_SUM", int(window_sum)),
                ("OUTPUT", output),
                *epilogue,
            ),
            threads=(self.threads, 1, 1),
        )


IGEMM_TILES = (
    IgemmTile(warps_m=4, warps_n=2, tm=8, tn=8, min_blocks=2),
    IgemmTile(warps_m=4, warps_n=1, tm=8, tn=8, min_blocks=3),
    IgemmTile(warps_m=4, warps_n=1, tm=8, tn=4, min_blocks=4),
    IgemmTile(warps_m=2, warps_n=2, tm=8, tn=8, min_blocks=3),
    IgemmTile(warps_m=2, warps_n=2, tm=8, tn=4, min_blocks=4),
    IgemmTile(warps_m=2, warps_n=1, tm=4, tn=4, min_blocks=8, bk=64),
)


@dataclass(frozen=True)
class DirectTile:
    """How the direct convolution shares its work; see kernels_cuda/conv2d_direct_dp4a.cu.

    Attributes:
        lanes_k: neighbouring lanes that share the K of four neighbouring channels of a pixel.
    """

    lanes_k: int
    threads: int = 128

    @property
    def name(self) -> str:
        return f"conv2d_direct_dp4a_k{self.lanes_k}"

    def kernel(
        self,
        vec: int = 16,
        window_sum: bool = False,
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines(),
    ) -> Kernel:
        """The kernel compiled for one kind of layer."""
        return Kernel(
            name=self.name,
            source="conv2d_direct_dp4a.cu",
            entry="conv2d_direct_dp4a",
            defines=(
                ("LANES_K", self.lanes_k),
                ("THREADS", self.threads),
                ("VEC", vec),
                ("WINDOW_SUM", int(window_sum)),
                *epilogue,
            ),
            threads=(self.threads, 1, 1),
        )


DIRECT_TILES = (DirectTile(4), DirectTile(32))


def finish_kernel(epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines()) -> Kernel:
    """The second kernel of a split convolution."""
    return Kernel(
        name="requantize_sums",
        source="requantize_sums.cu",
        entry="requantize_sums",
        defines=(("THREADS", FINISH_THREADS), *epilogue),
        threads=(FINISH_THREADS, 1, 1),
    )


KERNELS = (*(tile.kernel() for tile in (*IGEMM_TILES, *DIRECT_TILES)), finish_kernel())
"""Every tile, as the layers that matter most compile it: int8, channels in multiples of 16, right shifts, no clamp."""


@dataclass(frozen=True)
class Conv2dChoice:
    """A tile, and into how many parts K is split (1: the epilogue is fused)."""

    tile: IgemmTile | DirectTile
    splits: int = 1

    @property
    def name(self) -> str:
        return self.tile.name if self.splits == 1 else f"{self.tile.name}_split{self.splits}"


@dataclass(frozen=True, eq=False)
class Conv2dLayer:
    """The constants of one layer as every tile reads them; NumPy arrays.

    Attributes:
        weights: int8 (groups, O', K'), O' a multiple of 128, K' of 64; K is (kh, kw, c), c padded to whole words.
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
        constants = {"weights": self.weights, **self.epilogue.constants(spec.groups, self.padded_out_c)}
        group_in = spec.in_c // spec.groups
        constants |= {f"k_table_{vec}": k_table(spec, vec) for vec in VECTORS if vec == 1 or group_in % vec == 0}
        y_shape = (*spec.window.output_hw(spec.in_h, spec.in_w), spec.out_c)
        object.__setattr__(self, "constants", constants)
        object.__setattr__(self, "x_shapes", self.epilogue.x_shapes((spec.in_h, spec.in_w, spec.in_c), y=y_shape))
        object.__setattr__(self, "y_shape", y_shape)

    @property
    def padded_out_c(self) -> int:
        """O'."""
        return int(self.weights.shape[1])

    @property
    def padded_k(self) -> int:
        """K'."""
        return int(self.weights.shape[2])

    def choices(self, runs: int, traits: Traits) -> Sequence[Conv2dChoice]:
        return choices(self.spec, runs, traits.multiprocessors)

    def workspace_bytes(self, runs: int, choice: Conv2dChoice) -> int:
        """Partial sums of a split convolution; 0 without a split."""
        out_h, out_w, out_c = self.spec.output_shape
        return 4 * choice.splits * runs * out_h * out_w * out_c if choice.splits > 1 else 0

    def launches(self, choice: Conv2dChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x, *residual), y = inputs, output
        spec = self.spec
        out_h, out_w, _ = spec.output_shape
        pixels = x.images * out_h * out_w
        if pixels >= 1 << 31:
            raise spec.fail(f"{pixels} output pixels in one launch; the limit is 2^31 - 1, use a smaller batch")
        group_in = spec.in_c // spec.groups
        vec = next(vec for vec in VECTORS if vec == 1 or (group_in % vec == 0 and x.alignment() % vec == 0))
        if isinstance(choice.tile, DirectTile):
            return [self._direct(choice.tile, vec, pixels, x, y, *residual)]
        main = self._igemm(choice.tile, choice.splits, vec, pixels, x, y, *residual)
        return [main] if choice.splits == 1 else [main, self._finish(choice.splits, pixels, y, *residual)]

    def _geometry(self, pixels: int) -> tuple[np.int32, ...]:
        """The kernel arguments pixels to pad_left, which both algorithms share."""
        spec, window = self.spec, self.spec.window
        out_h, out_w, out_c = spec.output_shape
        return int32s(
            pixels,
            spec.in_h,
            spec.in_w,
            spec.in_c // spec.groups,
            out_h,
            out_w,
            out_c // spec.groups,
            self.padded_out_c,
            window.stride_h,
            window.stride_w,
            window.pad_top,
            window.pad_left,
            self.padded_k // 16,
        )

    def _x_and_constants(self, vec: int, x: ImageLayout) -> tuple[Slot | np.int64 | np.int32, ...]:
        return (
            x.slot("x"),
            np.int64(x.image_pitch),
            *int32s(x.row_pitch, x.pixel_pitch),
            Slot("weights"),
            Slot(f"k_table_{vec}"),
            Slot("bias"),
            Slot("factors"),
        )

    def _vector_store(self, *stored: ImageLayout) -> bool:
        return (self.spec.out_c // self.spec.groups) % 4 == 0 and all(y.alignment(4) == 4 for y in stored)

    def _igemm(
        self,
        tile: IgemmTile,
        splits: int,
        vec: int,
        pixels: int,
        x: ImageLayout,
        y: ImageLayout,
        *residual: ImageLayout,
    ) -> Launch:
        spec, epilogue = self.spec, self.epilogue
        _, group_out, _ = spec.gemm_mnk
        k_tiles = -(-k_bytes(spec) // tile.bk)
        if splits > 1:
            y = ImageLayout.contiguous(x.images, *spec.output_shape)
        output = "OUTPUT_PARTIAL" if splits > 1 else "OUTPUT_CODES"
        defines = epilogue.own_defines if splits > 1 else epilogue.defines
        return Launch(
            tile.kernel(vec, self.window_factor != 0, output, defines),
            (-(-pixels // tile.bm), -(-group_out // tile.bn), spec.groups * splits),
            (
                *self._x_and_constants(vec, x),
                Slot("workspace") if splits > 1 else y.slot("y"),
                np.int64(y.image_pitch),
                *int32s(y.row_pitch, y.pixel_pitch),
                *self._geometry(pixels),
                *int32s(k_tiles, -(-k_tiles // splits), splits),
                np.int64(pixels * spec.out_c),
                *int32s(spec.x_quant.scalar_zero_point(), self.window_factor),
                *epilogue.arguments(y, *residual),
                np.int32(self._vector_store(y, *residual)),
            ),
        )

    def _direct(
        self, tile: DirectTile, vec: int, pixels: int, x: ImageLayout, y: ImageLayout, *residual: ImageLayout
    ) -> Launch:
        spec, epilogue = self.spec, self.epilogue
        _, group_out, _ = spec.gemm_mnk
        columns = -(-group_out // 4) * spec.groups
        outputs = pixels * columns
        if outputs >= 1 << 31:
            raise spec.fail(f"{outputs} outputs of 4 channels in one launch; the limit is 2^31 - 1")
        return Launch(
            tile.kernel(vec, self.window_factor != 0, epilogue.defines),
            (-(-outputs * tile.lanes_k // tile.threads), 1, 1),
            (
                *self._x_and_constants(vec, x),
                y.slot("y"),
                np.int64(y.image_pitch),
                *int32s(y.row_pitch, y.pixel_pitch),
                *self._geometry(pixels),
                *int32s(columns, outputs, -(-k_bytes(spec) // max(vec, 4))),
                *int32s(spec.x_quant.scalar_zero_point(), self.window_factor),
                *epilogue.arguments(y, *residual),
                np.int32(self._vector_store(y, *residual)),
            ),
        )

    def _finish(self, splits: int, pixels: int, y: ImageLayout, *residual: ImageLayout) -> Launch:
        spec, epilogue = self.spec, self.epilogue
        out_h, out_w, out_c = spec.output_shape
        return Launch(
            finish_kernel(epilogue.defines),
            (-(-pixels * out_c // FINISH_THREADS), 1, 1),
            (
                Slot("workspace"),
                Slot("bias"),
                Slot("factors"),
                np.int32(splits),
                y.slot("y"),
                np.int64(y.image_pitch),
                *int32s(y.row_pitch, y.pixel_pitch),
                np.int64(pixels * out_c),
                *int32s(out_h, out_w, out_c, out_c // spec.groups, self.padded_out_c),
                *epilogue.arguments(y, *residual),
            ),
        )


def pack(
    spec: Conv2dSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[np.int32] | None,
    fusion: Fusion | None = None,
    w_zero_point: int | None = None,
) -> Conv2dLayer:
    """Packs a layer's constants.

    Args:
        weights: OHWI codes.
        bias: (O,) int32, or None.
        fusion: what follows in the same kernel.
        w_zero_point: the weights' zero point, where the spec cannot say it (FULLY_CONNECTED with int8 weights).
    """
    codes, epilogue, window_factor = pack_codes(spec, rule, weights, bias, fusion, w_zero_point)
    return Conv2dLayer(spec, pack_weights(spec, codes), epilogue, window_factor)


def pack_weights(spec: Conv2dSpec, codes: Int64Array) -> npt.NDArray[np.int8]:
    """(groups, O', K') of (O, K) weights within int8; see Conv2dLayer."""
    group_in, group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
    word_c = round_up(group_in, 4)
    padded_o = round_up(group_out, PADDED_CHANNELS)
    words = np.zeros((spec.groups, group_out, spec.window.taps, word_c), np.int8)
    words[..., :group_in] = codes.reshape(spec.groups, group_out, spec.window.taps, group_in)
    packed = np.zeros((spec.groups, padded_o, round_up(k_bytes(spec), PADDED_K)), np.int8)
    packed[:, :group_out, : k_bytes(spec)] = words.reshape(spec.groups, group_out, -1)
    return packed


def k_bytes(spec: Conv2dSpec) -> int:
    """K of one group in bytes, each tap's channels padded to whole words."""
    return spec.window.taps * round_up(spec.in_c // spec.groups, 4)


@lru_cache(maxsize=1024)
def k_table(spec: Conv2dSpec, vec: int) -> npt.NDArray[np.int32]:
    """For each load along K' {row offset, column offset, channel, valid channels}; see the kernels."""
    chunk = max(vec, 4)
    group_in = spec.in_c // spec.groups
    word_c = round_up(group_in, 4)
    k = np.arange(0, round_up(k_bytes(spec), PADDED_K), chunk)
    tap, channel = k // word_c, k % word_c
    kh, kw = tap // spec.window.kernel_w, tap % spec.window.kernel_w
    valid = np.where(tap < spec.window.taps, np.minimum(group_in - channel, chunk), 0)
    table = np.stack([kh * spec.window.dilation_h, kw * spec.window.dilation_w, channel, valid], axis=1)
    # Padding must not look like a tap: offsets 0, no valid channel.
    table[valid <= 0] = 0
    packed = np.ascontiguousarray(table, np.int32)
    packed.flags.writeable = False
    return packed


# The model of choices(), until measured: threads that keep a multiprocessor busy, shared loads in units of dp4a, the
# second kernel's cost per sum in units of one pixel and channel of one tile of K, a global load of the direct
# convolution in units of dp4a, and what a pipeline of tiles costs before the first and after the last.
BUSY_THREADS = 256
LOADS_PER_MAC = 1.0
SPLIT_COST = 1.0
DIRECT_LOAD_COST = 8.0
PIPELINE_TILES = 4


@lru_cache(maxsize=4096)
def choices(spec: Conv2dSpec, images: int, multiprocessors: int) -> Sequence[Conv2dChoice]:
    """Tiles and splits for this batch, cheapest first: pure, by a count of what every multiprocessor has to do.

    A block costs its share of pixels and channels, padding included; smaller thread tiles load more shared memory
    per dp4a and cost more per MAC. The multiprocessor with the most blocks decides.
    """
    pixels, channels, _ = spec.gemm_mnk
    pixels *= images
    words = k_bytes(spec) // 4

    def igemm(choice: Conv2dChoice, tile: IgemmTile) -> float:
        k_tiles = -(-4 * words // tile.bk)
        blocks = -(-pixels // tile.bm) * -(-channels // tile.bn) * spec.groups * choice.splits
        per_multiprocessor = -(-blocks // multiprocessors)
        loads = 1 + LOADS_PER_MAC * (1 / tile.tm + 1 / tile.tn)
        tiles = -(-k_tiles // choice.splits) + PIPELINE_TILES
        per_block = tile.bm * tile.bn * tiles * (tile.bk // 4) * loads
        # Too few warps cannot hide the latency of shared memory: time passes all the same.
        idle = max(1.0, BUSY_THREADS / (per_multiprocessor * tile.threads))
        finish = 8 * SPLIT_COST * pixels * channels * spec.groups * choice.splits / multiprocessors
        return per_multiprocessor * per_block * idle + (finish if choice.splits > 1 else 0.0)

    def direct(tile: DirectTile) -> float:
        lanes = pixels * -(-channels // 4) * spec.groups * tile.lanes_k
        blocks = -(-lanes // tile.threads)
        per_multiprocessor = -(-blocks // multiprocessors)
        # Per 16 bytes of K, one load of x and four of weights; then the sums of the lanes are added up.
        per_lane = -(-words // (4 * tile.lanes_k)) * (16 + 5 * DIRECT_LOAD_COST) + 8 * tile.lanes_k.bit_length()
        idle = max(1.0, BUSY_THREADS / (per_multiprocessor * tile.threads))
        return per_multiprocessor * per_lane * tile.threads * idle

    found: list[tuple[float, int, Conv2dChoice]] = []
    for tile in IGEMM_TILES:
        k_tiles = -(-4 * words // tile.bk)
        for splits in (1, 2, 4, 8, 16):
            # Grids have 65,535 blocks along z.
            if splits == 1 or (k_tiles >= 4 * splits and spec.groups * splits < 1 << 16):
                choice = Conv2dChoice(tile, splits)
                found.append((igemm(choice, tile), len(found), choice))
    if pixels * -(-channels // 4) * spec.groups < 1 << 31:
        found.extend((direct(tile), len(found) + i, Conv2dChoice(tile)) for i, tile in enumerate(DIRECT_TILES))
    return tuple(choice for _, _, choice in sorted(found, key=lambda each: each[:2]))
