"""Where activations lie in the arena: which tensors share memory, and offsets for those that do not.

Everything is per run: the arena of N runs is N times the arena of one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.strides import image_shape
from gpuq.model.graph import Graph, Node
from gpuq.ops.spec import Shape

ALIGNMENT = 64


@dataclass(frozen=True)
class Inside:
    """Where a tensor lies within a run of a larger one, whose memory it is part of; distances in bytes.

    Attributes:
        parent: the tensor that it is copied into.
        storage: the larger tensor: the parent, or what that is part of.
        run_pitch: from run to run.
        start: of its first element.
        row_pitch, pixel_pitch: of the tensor as an image, see cuda.strides.image_shape.
        is_dense: a run of it has no gaps.
        itemsize: bytes of an element.
    """

    parent: int
    storage: int
    run_pitch: int
    start: int
    row_pitch: int
    pixel_pitch: int
    is_dense: bool
    itemsize: int

    def layout(self, runs: int, shape: tuple[int, int, int]) -> ImageLayout:
        """For a layer that takes a run of the tensor as (H, W, C)."""
        _, width, channels = shape
        if self.is_dense:
            row_pitch, pixel_pitch = width * channels * self.itemsize, channels * self.itemsize
        else:
            row_pitch, pixel_pitch = self.row_pitch, self.pixel_pitch
        return ImageLayout(runs, self.run_pitch, row_pitch, pixel_pitch, self.start, itemsize=self.itemsize)


@dataclass(frozen=True)
class Use:
    """A layer that reads or writes a tensor.

    Attributes:
        shape: (H, W, C) as the layer takes a run.
        takes_pitches: whether gaps may lie between pixels, rows and runs.
    """

    tensor: int
    shape: tuple[int, int, int]
    takes_pitches: bool


@dataclass(frozen=True)
class Part:
    """A tensor that an operator copies into its output.

    Attributes:
        source, target: tensor numbers.
        before: where the source begins in the target, by dimension.
        operand: which of the operator's operands the source is.
    """

    source: int
    target: int
    before: Shape
    operand: int


def storage_roots(graph: Graph, views: Sequence[Node], outputs: Collection[int]) -> dict[int, int]:
    """For every activation and variable the tensor whose memory it uses: itself, or the input of its view.

    Args:
        views: operators whose output has their input's memory, in the order of execution.
        outputs: what all other operators write.
    """
    roots = {index: index for index in (*graph.inputs, *(tensor.index for tensor in graph.variables), *outputs)}
    for node in views:
        roots[node.outputs[0]] = roots[node.inputs[0]]
    return roots


def in_place(
    graph: Graph, roots: Mapping[int, int], uses: Sequence[Use], parts: Sequence[Part], movable: Collection[int]
) -> dict[int, Inside]:
    """Parts that whoever makes them can write straight into the target: where their storage lies in it, by root.

    Of tensors nested in one another the outermost is the storage of all.

    Args:
        roots: the storage of each tensor without this.
        uses: of all tensors.
        parts: in the order of execution.
        movable: storage that steps write, that callers do not see, and that may have gaps.
    """
    used: dict[int, list[Use]] = {}
    for use in uses:
        used.setdefault(roots[use.tensor], []).append(use)
    copied = [(roots[part.source], part.target) for part in parts]
    found: dict[int, Inside] = {}
    # The last target first: by then it is known whether it lies within another itself.
    for part in reversed(parts):
        root = roots[part.source]
        if root not in movable or root in found or copied.count((root, part.target)) > 1 or root == roots[part.target]:
            continue
        place = _inside(graph, part, roots[part.target], found.get(roots[part.target]))
        if place is not None and all(_suits(graph, use, part, place) for use in used[root]):
            found[root] = place
    return found


def _inside(graph: Graph, part: Part, root: int, target: Inside | None) -> Inside | None:
    """Where a part lies; None where its rows would not be equally far apart.

    Args:
        root: the target's storage without this.
        target: where that lies itself, if it is part of another.
    """
    pad = (0,) * (2 - len(part.before))
    *outer, column, channel = (*pad, *part.before)
    *sizes, _, _ = (*(1 for _ in pad), *graph.tensors[part.source].shape)
    *whole_sizes, whole_width, whole_channels = (*(1 for _ in pad), *graph.tensors[part.target].shape)
    # All dimensions before the last two count as rows: one of them may be cut, if those around it are 1.
    row = 0
    for number, (first, size, whole) in enumerate(zip(outer, sizes, whole_sizes, strict=True)):
        if size != whole and math.prod(whole_sizes[:number]) != 1:
            return None
        row = row * whole + first
    size_of_one = graph.tensors[part.source].dtype.itemsize
    if target is None or target.is_dense:
        run_pitch, start = (graph.tensors[root].nbytes, 0) if target is None else (target.run_pitch, target.start)
        row_pitch, pixel_pitch = whole_width * whole_channels * size_of_one, whole_channels * size_of_one
    else:
        run_pitch, start = target.run_pitch, target.start
        row_pitch, pixel_pitch = target.row_pitch, target.pixel_pitch
    height, width, channels = image_shape(graph.tensors[part.source].shape)
    return Inside(
        parent=root,
        storage=root if target is None else target.storage,
        run_pitch=run_pitch,
        start=start + row * row_pitch + column * pixel_pitch + channel * size_of_one,
        row_pitch=row_pitch,
        pixel_pitch=pixel_pitch,
        is_dense=(width == 1 or pixel_pitch == channels * size_of_one)
        and (height == 1 or row_pitch == width * channels * size_of_one),
        itemsize=size_of_one,
    )


def _suits(graph: Graph, use: Use, part: Part, place: Inside) -> bool:
    """Whether a layer can take a tensor from there, of whose storage the part is all or a view."""
    shape = graph.tensors[use.tensor].shape
    if not use.takes_pitches or math.prod(use.shape) != math.prod(shape):
        return False
    # Gaps are where the part's own shape has them.
    return place.is_dense or (use.tensor == part.source and use.shape == image_shape(shape))


def lifetimes(
    graph: Graph, steps: Sequence[tuple[Sequence[int], Sequence[int]]], roots: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    """(first, last) step of each piece of storage, both included; -1 is before the first step.

    Args:
        steps: (tensors read, tensors written) in the order of execution, views among them.
    """
    end = len(steps)
    born = {roots[index]: -1 for index in graph.inputs}
    last = {roots[index]: -1 for index in graph.inputs}
    for tensor in graph.variables:
        born[tensor.index], last[tensor.index] = -1, end
    for step, (inputs, outputs) in enumerate(steps):
        for index in outputs:
            born.setdefault(roots[index], step)
            last[roots[index]] = max(last.get(roots[index], step), step)
        for index in inputs:
            if index in roots:
                last[roots[index]] = max(last[roots[index]], step)
    for index in graph.outputs:
        if index in roots:
            last[roots[index]] = end
    return {root: (born[root], last[root]) for root in born}


def place(sizes: Mapping[int, int], alive: Mapping[int, tuple[int, int]]) -> tuple[dict[int, int], int]:
    """Offsets such that pieces alive at the same step do not overlap, and the arena's size.

    Greedy by size, as TFLite's arena planner: the largest piece first, each at the lowest gap that holds it between
    those already placed that are alive together with it.
    """
    offsets: dict[int, int] = {}
    for piece in sorted(sizes, key=lambda piece: (-sizes[piece], piece)):
        first, last = alive[piece]
        neighbours = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if alive[other][0] <= last and first <= alive[other][1]
        )
        offset = 0
        for start, stop in neighbours:
            if start - offset >= sizes[piece]:
                break
            offset = max(offset, -(-stop // ALIGNMENT) * ALIGNMENT)
        offsets[piece] = offset
    size = max((offsets[piece] + sizes[piece] for piece in sizes), default=0)
    return offsets, -(-size // ALIGNMENT) * ALIGNMENT
