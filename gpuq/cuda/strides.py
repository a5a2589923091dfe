"""Tensors of any rank as kernels walk them: sizes and strides in bytes, neighbouring dimensions joined if possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpuq.cuda.layout import ImageLayout
from gpuq.ops.spec import Shape


def image_shape(shape: Shape) -> tuple[int, int, int]:
    """A run of any rank as (H, W, C): the last two dimensions stay, those before them are rows."""
    padded = (1, 1, *shape)
    return math.prod(padded[:-2]), padded[-2], padded[-1]


def run_strides(layout: ImageLayout, shape: Shape) -> tuple[int, ...]:
    """Distances in bytes along (runs, *shape), which lie in memory as image_shape(shape) does.

    A tensor of one run belongs to every run of a batch: its first stride is 0.
    """
    strides = [layout.row_pitch, layout.pixel_pitch, layout.itemsize]
    for size in reversed((1, 1, *shape)[1:-2]):
        strides.insert(0, strides[0] * size)
    within = strides[len(strides) - len(shape) :] if shape else []
    return (layout.image_pitch if layout.images > 1 else 0, *within)


def broadcast_strides(layout: ImageLayout, shape: Shape, output_shape: Shape) -> tuple[int, ...]:
    """Byte strides of an operand along (runs, *output_shape), 0 where it is broadcast."""
    runs, *within = run_strides(layout, shape)
    steps = [0 if size == 1 else step for size, step in zip(shape, within, strict=True)]
    return (runs, *[0] * (len(output_shape) - len(shape)), *steps)


def contiguous_strides(shape: Shape) -> tuple[int, ...]:
    """Distances in elements along the dimensions of a C-contiguous array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


@dataclass(frozen=True)
class Dimension:
    """One loop over several tensors.

    Attributes:
        strides: of each tensor, in its own unit; 0 where it has one element for all.
    """

    size: int
    strides: tuple[int, ...]


def folded(sizes: Sequence[int], *strides: Sequence[int]) -> list[Dimension]:
    """The dimensions, outermost first, without those of size 1, neighbours joined where every tensor allows it."""
    found: list[Dimension] = []
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        inner = Dimension(size, tuple(steps))
        if found and all(a == b * size for a, b in zip(found[-1].strides, inner.strides, strict=True)):
            found[-1] = Dimension(found[-1].size * size, inner.strides)
        else:
            found.append(inner)
    return found
