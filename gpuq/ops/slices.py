"""STRIDED_SLICE, SLICE, SPLIT, SPLIT_V, UNPACK, REVERSE_V2: elements at regular distances along each dimension.

SPLIT, SPLIT_V and UNPACK give several tensors: each is a slice with a Spec of its own.
Sources: LiteRT tflite/kernels/{strided_slice,slice,split,split_v,unpack,reverse}.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import Shape, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class StridedSliceSpec(MovementSpec):
    """Element i of an output dimension is element start + i * stride of the input's. See MovementSpec for other fields.

    Args:
        starts, strides, sizes: of each dimension of x_shape; strides may be negative, all elements exist.
        out_shape: sizes, with dimensions of 1 put in or taken out.
    """

    op: ClassVar[str] = "STRIDED_SLICE"

    starts: tuple[int, ...]
    strides: tuple[int, ...]
    sizes: tuple[int, ...]
    out_shape: Shape

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            len(self.starts) == len(self.strides) == len(self.sizes) == self.rank,
            f"{len(self.starts)} starts, {len(self.strides)} strides and {len(self.sizes)} sizes for rank {self.rank}",
        )
        for axis, (start, stride, size) in enumerate(zip(self.starts, self.strides, self.sizes, strict=True)):
            self.require(stride != 0, "strides must not be 0")
            self.require(size >= 1, f"the slice of dimension {axis} ({self.x_shape[axis]} elements) is empty")
            last = start + (size - 1) * stride
            self.require(
                min(start, last) >= 0 and max(start, last) < self.x_shape[axis],
                f"elements {start} to {last} of dimension {axis}, which has {self.x_shape[axis]}",
            )
        self.require(
            math.prod(self.sizes) == math.prod(self.out_shape),
            f"{shape_text(self.sizes)} elements do not make {shape_text(self.out_shape)}",
        )

    @property
    def output_shape(self) -> Shape:
        return self.out_shape


@dataclass(frozen=True, kw_only=True)
class SliceSpec(StridedSliceSpec):
    """A block of elements, strides 1. See StridedSliceSpec for the fields."""

    op: ClassVar[str] = "SLICE"


@dataclass(frozen=True, kw_only=True)
class SplitSpec(StridedSliceSpec):
    """One of several equal parts along a dimension. See StridedSliceSpec for the fields."""

    op: ClassVar[str] = "SPLIT"


@dataclass(frozen=True, kw_only=True)
class SplitVSpec(StridedSliceSpec):
    """One of several parts of given sizes along a dimension. See StridedSliceSpec for the fields."""

    op: ClassVar[str] = "SPLIT_V"


@dataclass(frozen=True, kw_only=True)
class UnpackSpec(StridedSliceSpec):
    """One element along a dimension, which goes. See StridedSliceSpec for the fields."""

    op: ClassVar[str] = "UNPACK"


@dataclass(frozen=True, kw_only=True)
class ReverseV2Spec(StridedSliceSpec):
    """Dimensions back to front, strides -1. See StridedSliceSpec for the fields."""

    op: ClassVar[str] = "REVERSE_V2"


def reference(spec: StridedSliceSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) as a view (N, *out_shape)."""
    index = []
    for start, stride, size in zip(spec.starts, spec.strides, spec.sizes, strict=True):
        stop = start + size * stride
        index.append(slice(start, None if stop < 0 else stop, stride))
    return run_shape(x, spec.x_shape)[(slice(None), *index)].reshape(-1, *spec.out_shape)
