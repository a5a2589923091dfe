"""SPACE_TO_DEPTH, SPACE_TO_BATCH_ND: blocks of pixels to channels or images; DEPTH_TO_SPACE, BATCH_TO_SPACE_ND: back.

The batch here is the file's own first dimension: all stays within one run.
Sources: LiteRT tflite/kernels/{space_to_depth,depth_to_space,space_to_batch_nd,batch_to_space_nd}.cc and their headers
in internal/reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import Shape, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class SpaceToDepthSpec(MovementSpec):
    """Each block of pixels becomes one pixel, its channels one after the other. See MovementSpec for the other fields.

    Args:
        block: height and width of a block; divides those of the image. x_shape is NHWC.
    """

    op: ClassVar[str] = "SPACE_TO_DEPTH"

    block: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_rank(4)
        self.require_positive(block=self.block)
        _, h, w, _ = self.x_shape
        self.require(
            h % self.block == 0 and w % self.block == 0, f"image {h}x{w} must be a multiple of block {self.block}"
        )

    @property
    def output_shape(self) -> Shape:
        n, h, w, c = self.x_shape
        return n, h // self.block, w // self.block, c * self.block**2


@dataclass(frozen=True, kw_only=True)
class DepthToSpaceSpec(MovementSpec):
    """Each pixel becomes a block of pixels. See MovementSpec for the other fields.

    Args:
        block: height and width of a block; its square divides the channels. x_shape is NHWC.
    """

    op: ClassVar[str] = "DEPTH_TO_SPACE"

    block: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_rank(4)
        self.require_positive(block=self.block)
        self.require(self.x_shape[3] % self.block**2 == 0, f"C={self.x_shape[3]} must be a multiple of {self.block}^2")

    @property
    def output_shape(self) -> Shape:
        n, h, w, c = self.x_shape
        return n, h * self.block, w * self.block, c // self.block**2


@dataclass(frozen=True, kw_only=True)
class SpaceToBatchNdSpec(MovementSpec):
    """Pixels at each place of a block become an image of their own. See MovementSpec for the other fields.

    Args:
        block: of each spatial dimension, those from 1 on. x_shape has rank 3 or 4.
        pads: (before, after) of each spatial dimension; the padded size is a multiple of the block's.
        fill: the code of the border (the output's zero point).
    """

    op: ClassVar[str] = "SPACE_TO_BATCH_ND"

    block: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    fill: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self, self.block, self.pads, "pads")
        for size, block in zip(self.padded, self.block, strict=True):
            self.require(size % block == 0, f"padded size {size} must be a multiple of block {block}")

    @property
    def padded(self) -> tuple[int, ...]:
        """Spatial sizes with their pads."""
        return tuple(size + sum(pair) for size, pair in zip(self.x_shape[1:], self.pads, strict=False))

    @property
    def output_shape(self) -> Shape:
        spatial = tuple(size // block for size, block in zip(self.padded, self.block, strict=True))
        return (self.x_shape[0] * math.prod(self.block), *spatial, *self.x_shape[1 + len(self.block) :])


@dataclass(frozen=True, kw_only=True)
class BatchToSpaceNdSpec(MovementSpec):
    """Images become pixels at each place of a block, and borders go. See MovementSpec for the other fields.

    Args:
        block: of each spatial dimension, those from 1 on; their product divides x_shape[0]. x_shape has rank 3 or 4.
        crops: (before, after) of each spatial dimension of the enlarged image.
    """

    op: ClassVar[str] = "BATCH_TO_SPACE_ND"

    block: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self, self.block, self.crops, "crops")
        self.require(
            self.x_shape[0] % math.prod(self.block) == 0,
            f"batch {self.x_shape[0]} must be a multiple of block {shape_text(self.block)}",
        )
        self.require(min(self.output_shape) >= 1, f"crops {self.crops} leave nothing of {shape_text(self.x_shape)}")

    @property
    def output_shape(self) -> Shape:
        spatial = tuple(
            size * block - sum(pair)
            for size, block, pair in zip(self.x_shape[1:], self.block, self.crops, strict=False)
        )
        return (self.x_shape[0] // math.prod(self.block), *spatial, *self.x_shape[1 + len(self.block) :])


def check_blocks(spec: MovementSpec, block: tuple[int, ...], borders: tuple[tuple[int, int], ...], what: str) -> None:
    """The rules that SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND share."""
    spec.require(spec.rank in (3, 4), f"input {shape_text(spec.x_shape)} must have rank 3 or 4")
    spec.require(
        len(block) == len(borders) == spec.rank - 2,
        f"{len(block)} block sizes and {len(borders)} pairs of {what} for {spec.rank - 2} spatial dimensions",
    )
    spec.require(all(size >= 1 for size in block), f"block {block} must be positive")
    spec.require(all(size >= 0 for pair in borders for size in pair), f"{what} {borders} must not be negative")


def space_to_depth(spec: SpaceToDepthSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape): (N, *output_shape)."""
    n, h, w, c = spec.output_shape
    blocks = run_shape(x, (n, h, spec.block, w, spec.block, spec.x_shape[3]))
    return blocks.transpose(0, 1, 2, 4, 3, 5, 6).reshape(-1, n, h, w, c)


def depth_to_space(spec: DepthToSpaceSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape): (N, *output_shape)."""
    n, h, w, _ = spec.x_shape
    blocks = run_shape(x, (n, h, w, spec.block, spec.block, spec.output_shape[3]))
    return blocks.transpose(0, 1, 2, 4, 3, 5, 6).reshape(-1, *spec.output_shape)


def space_to_batch_nd(spec: SpaceToBatchNdSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape): (N, *output_shape)."""
    rest = len(spec.x_shape) - 1 - len(spec.block)
    images = np.pad(
        run_shape(x, spec.x_shape), ((0, 0), (0, 0), *spec.pads, *((0, 0),) * rest), constant_values=spec.fill
    )
    pairs = [size for whole, block in zip(spec.padded, spec.block, strict=True) for size in (whole // block, block)]
    blocks = images.reshape(-1, spec.x_shape[0], *pairs, *spec.x_shape[1 + len(spec.block) :])
    # The places within a block lead, images follow: run, places, image, pixels, channels.
    places = [3 + 2 * i for i in range(len(spec.block))]
    order = (0, *places, 1, *(place - 1 for place in places), *range(places[-1] + 1, blocks.ndim))
    return blocks.transpose(order).reshape(-1, *spec.output_shape)


def batch_to_space_nd(spec: BatchToSpaceNdSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape): (N, *output_shape)."""
    dims = len(spec.block)
    spatial = spec.x_shape[1 : 1 + dims]
    blocks = run_shape(x, (*spec.block, spec.output_shape[0], *spatial, *spec.x_shape[1 + dims :]))
    # run, image, then each spatial dimension with its place within the block behind it.
    pairs = [axis for i in range(dims) for axis in (2 + dims + i, 1 + i)]
    order = (0, 1 + dims, *pairs, *range(2 + 2 * dims, blocks.ndim))
    sizes = [size * block for size, block in zip(spatial, spec.block, strict=True)]
    images = blocks.transpose(order).reshape(-1, spec.output_shape[0], *sizes, *spec.x_shape[1 + dims :])
    inside = [slice(before, size - after) for size, (before, after) in zip(sizes, spec.crops, strict=True)]
    return images[(slice(None), slice(None), *inside)]
