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

from gpuq.cuda.conv2d_gemm import (
    DirectTile,
    IgemmTile,
    direct_outputs,
    k_elements,
    k_tables,
    k_tiles,
    pack_weights,
)
from gpuq.cuda.epilogue import Epilogue, Fusion, epilogue_defines, pack_codes
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec

# Bytes of one load along the channels; 1 takes any channel count.
VECTORS = (16, 8, 4, 1)

FINISH_THREADS = 256


@dataclass(frozen=True)
class Dp4aIgemmTile(IgemmTile):
    """A tile of kernels_cuda/conv2d_igemm_dp4a.cu.

    16 warps on a multiprocessor leave a thread 128 registers, 12 leave 168, which the tiles that load more per thread
    need to stay out of local memory: min_blocks says so.
    """

    MACS = 4

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
    Dp4aIgemmTile(warps_m=4, warps_n=2, tm=8, tn=8, min_blocks=2),
    Dp4aIgemmTile(warps_m=4, warps_n=1, tm=8, tn=8, min_blocks=3),
    Dp4aIgemmTile(warps_m=4, warps_n=1, tm=8, tn=4, min_blocks=4),
    Dp4aIgemmTile(warps_m=2, warps_n=2, tm=8, tn=8, min_blocks=3),
    Dp4aIgemmTile(warps_m=2, warps_n=2, tm=8, tn=4, min_blocks=4),
    Dp4aIgemmTile(warps_m=2, warps_n=1, tm=4, tn=4, min_blocks=8, bk=64),
)


@dataclass(frozen=True)
class Dp4aDirectTile(DirectTile):
    """A tile of kernels_cuda/conv2d_direct_dp4a.cu."""

    MACS = 4

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


DIRECT_TILES = (Dp4aDirectTile(4), Dp4aDirectTile(32))


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

    tile: Dp4aIgemmTile | Dp4aDirectTile
    splits: int = 1

    @property
    def name(self) -> str:
        return self.tile.name if self.splits == 1 else f"{self.tile.name}_split{self.splits}"


@dataclass(frozen=True, eq=False)
class Conv2dLayer:
    """The constants of one layer as every tile reads them; NumPy arrays.

    Attributes:
        weights: int8 (groups, O', K'), see conv2d_gemm.pack_weights.
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
        constants |= k_tables(spec, VECTORS)
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
        if isinstance(choice.tile, Dp4aDirectTile):
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
        tile: Dp4aIgemmTile,
        splits: int,
        vec: int,
        pixels: int,
        x: ImageLayout,
        y: ImageLayout,
        *residual: ImageLayout,
    ) -> Launch:
        spec, epilogue = self.spec, self.epilogue
        _, group_out, _ = spec.gemm_mnk
        tiles = k_tiles(spec, tile.bk)
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
                *int32s(tiles, -(-tiles // splits), splits),
                np.int64(pixels * spec.out_c),
                *int32s(spec.x_quant.scalar_zero_point(), self.window_factor),
                *epilogue.arguments(y, *residual),
                np.int32(self._vector_store(y, *residual)),
            ),
        )

    def _direct(
        self, tile: Dp4aDirectTile, vec: int, pixels: int, x: ImageLayout, y: ImageLayout, *residual: ImageLayout
    ) -> Launch:
        spec, epilogue = self.spec, self.epilogue
        _, group_out, _ = spec.gemm_mnk
        columns = -(-group_out // 4) * spec.groups
        outputs = direct_outputs(spec, x.images)
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
                *int32s(columns, outputs, -(-k_elements(spec) // max(vec, 4))),
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


@lru_cache(maxsize=4096)
def choices(spec: Conv2dSpec, images: int, multiprocessors: int) -> Sequence[Conv2dChoice]:
    """Tiles and splits for this batch, cheapest first: pure, by the costs of cuda/conv2d_gemm.py."""
    # Grids have 65,535 blocks along z.
    found = [
        (tile.cost(spec, images, multiprocessors, splits), Conv2dChoice(tile, splits))
        for tile in IGEMM_TILES
        for splits in (1, 2, 4, 8, 16)
        if splits == 1 or (k_tiles(spec, tile.bk) >= 4 * splits and spec.groups * splits < 1 << 16)
    ]
    if direct_outputs(spec, images) < 1 << 31:
        found.extend((direct.cost(spec, images, multiprocessors), Conv2dChoice(direct)) for direct in DIRECT_TILES)
    return tuple(choice for _, choice in sorted(found, key=lambda each: each[0]))
