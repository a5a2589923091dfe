"""CONV_2D of int16 activations with int8 weights on dp2a: pack(), choices(), and the launches of one layer.

| kernel                 | file in kernels_cuda/ | for                                                       |
|------------------------|-----------------------|-----------------------------------------------------------|
| conv2d_igemm_dp2a_...  | conv2d_igemm_dp2a.cu  | implicit GEMM in tiles of shared memory                   |
| conv2d_direct_dp2a_... | conv2d_direct_dp2a.cu | few outputs: small networks, batch 1, matrix times vector |

Tiles, weights and costs are as those of cuda/conv2d.py; see cuda/conv2d_gemm.py.
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
from gpuq.cuda.epilogue import Epilogue, epilogue_defines, pack_epilogue
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.spec import INT16

# Elements of one load along the channels; 1 takes any channel count.
VECTORS = (8, 4, 1)


@dataclass(frozen=True)
class Dp2aIgemmTile(IgemmTile):
    """A tile of kernels_cuda/conv2d_igemm_dp2a.cu, whose K has 32 elements."""

    MACS = 2

    def kernel(
        self,
        vec: int = 8,
        sum64: bool = True,
        stores_sums: bool = False,
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines("RULE_V3", INT16, clamps=True),
    ) -> Kernel:
        """The tile compiled for one kind of layer; the defaults are the layers that matter most."""
        return Kernel(
            name=self.name,
            source="conv2d_igemm_dp2a.cu",
            entry="conv2d_igemm_dp2a",
            defines=(
                ("WARPS_M", self.warps_m),
                ("WARPS_N", self.warps_n),
                ("TM", self.tm),
                ("TN", self.tn),
                ("STAGES", self.stages),
                ("MIN_BLOCKS", self.min_blocks),
                ("VEC", vec),
                ("SUM64", int(sum64)),
                ("STORES_SUMS", int(stores_sums)),
                *epilogue,
            ),
            threads=(self.threads, 1, 1),
        )


@dataclass(frozen=True)
class Dp2aDirectTile(DirectTile):
    """A tile of kernels_cuda/conv2d_direct_dp2a.cu."""

    MACS = 2

    def kernel(
        self,
        vec: int = 8,
        sum64: bool = True,
        stores_sums: bool = False,
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines("RULE_V3", INT16, clamps=True),
    ) -> Kernel:
        """The kernel compiled for one kind of layer."""
        return Kernel(
            name=self.name,
            source="conv2d_direct_dp2a.cu",
            entry="conv2d_direct_dp2a",
            defines=(
                ("LANES_K", self.lanes_k),
                ("THREADS", self.threads),
                ("VEC", vec),
                ("SUM64", int(sum64)),
                ("STORES_SUMS", int(stores_sums)),
                *epilogue,
            ),
            threads=(self.threads, 1, 1),
        )


IGEMM_TILES = (
    Dp2aIgemmTile(warps_m=4, warps_n=2, tm=8, tn=4, min_blocks=1),
    Dp2aIgemmTile(warps_m=4, warps_n=1, tm=8, tn=4, min_blocks=2),
    Dp2aIgemmTile(warps_m=2, warps_n=2, tm=4, tn=4, min_blocks=4),
    Dp2aIgemmTile(warps_m=2, warps_n=1, tm=4, tn=4, min_blocks=8),
)
DIRECT_TILES = (Dp2aDirectTile(4), Dp2aDirectTile(32))

KERNELS = tuple(tile.kernel(sum64=sum64) for tile in (*IGEMM_TILES, *DIRECT_TILES) for sum64 in (True, False))
"""Every tile with sums of 64 bits and of 32, channels in multiples of 8, int64 bias."""


@dataclass(frozen=True, eq=False)
class Conv2dInt16Layer:
    """The constants of one layer as every tile reads them; NumPy arrays.

    Attributes:
        weights: int8 (groups, O', K'), see conv2d_gemm.pack_weights.
        stores_sums: the output is the sums, int32.
    """

    spec: Conv2dSpec
    weights: npt.NDArray[np.int8]
    epilogue: Epilogue
    stores_sums: bool = False
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        constants = {"weights": self.weights, **self.epilogue.constants(self.spec.groups, self.weights.shape[1])}
        constants |= k_tables(self.spec, VECTORS)
        object.__setattr__(self, "constants", constants)

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.spec.in_h, self.spec.in_w, self.spec.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return (*self.spec.window.output_hw(self.spec.in_h, self.spec.in_w), self.spec.out_c)

    def choices(self, runs: int, traits: Traits) -> Sequence[Dp2aIgemmTile | Dp2aDirectTile]:
        return choices(self.spec, runs, traits.multiprocessors)

    def workspace_bytes(self, runs: int, choice: Dp2aIgemmTile | Dp2aDirectTile) -> int:
        return 0

    def launches(
        self, choice: Dp2aIgemmTile | Dp2aDirectTile, inputs: Sequence[ImageLayout], output: ImageLayout
    ) -> Sequence[Launch]:
        (x,), y, spec, window, epilogue = inputs, output, self.spec, self.spec.window, self.epilogue
        out_h, out_w, out_c = spec.output_shape
        group_in, group_out = spec.in_c // spec.groups, out_c // spec.groups
        pixels = x.images * out_h * out_w
        columns = -(-group_out // 4) * spec.groups
        outputs = direct_outputs(spec, x.images)
        if outputs >= 1 << 31:
            raise spec.fail(f"{outputs} outputs of 4 channels in one launch; the limit is 2^31 - 1")
        vec = next(vec for vec in VECTORS if vec == 1 or (group_in % vec == 0 and x.alignment() % (2 * vec) == 0))
        if isinstance(choice, Dp2aDirectTile):
            grid = (-(-outputs * choice.lanes_k // choice.threads), 1, 1)
            cut = int32s(columns, outputs, -(-k_elements(spec) // max(vec, 4)))
        else:
            grid = (-(-pixels // choice.bm), -(-group_out // choice.bn), spec.groups)
            cut = int32s(k_tiles(spec, choice.bk))
        together = group_out % 4 == 0 and y.alignment(8) == 8
        return [
            Launch(
                choice.kernel(vec, epilogue.sum64, self.stores_sums, epilogue.defines),
                grid,
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    *int32s(x.row_pitch, x.pixel_pitch),
                    *(Slot("weights"), Slot(f"k_table_{vec}"), Slot("bias"), Slot("factors"), y.slot("y")),
                    np.int64(y.image_pitch),
                    *int32s(y.row_pitch, y.pixel_pitch),
                    *int32s(pixels, spec.in_h, spec.in_w, group_in, out_h, out_w, group_out, self.weights.shape[1]),
                    *int32s(window.stride_h, window.stride_w, window.pad_top, window.pad_left),
                    np.int32(self.weights.shape[2] // 16),
                    *cut,
                    *int32s(epilogue.act_min, epilogue.act_max, together),
                ),
            )
        ]


def pack(
    spec: Conv2dSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    stores_sums: bool = False,
) -> Conv2dInt16Layer:
    """Packs a layer's constants.

    Args:
        weights: OHWI codes.
        bias: (O,) of the spec's bias_dtype, or None.
        stores_sums: the layer's output is its sums, int32.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    centred = weights.astype(np.int64).reshape(spec.out_c, -1)
    epilogue = pack_epilogue(spec, rule, centred, bias)
    centred[epilogue.constant] = 0
    return Conv2dInt16Layer(spec, pack_weights(spec, centred), epilogue, stores_sums)


@lru_cache(maxsize=4096)
def choices(spec: Conv2dSpec, images: int, multiprocessors: int) -> Sequence[Dp2aIgemmTile | Dp2aDirectTile]:
    """Tiles for this batch, cheapest first: pure, by the costs of cuda/conv2d_gemm.py."""
    return tuple(sorted((*IGEMM_TILES, *DIRECT_TILES), key=lambda tile: tile.cost(spec, images, multiprocessors)))
