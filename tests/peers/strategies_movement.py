"""Random one-operator models that move elements: codes, integers, floats and truth values alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from .one_operator import TensorDef, constant
from .strategies import Case, Source

CODES_AND_INTEGERS = ("int8", "uint8", "int32", "int64")
NUMBERS = (*CODES_AND_INTEGERS, "float32")
ANY = (*NUMBERS, "bool")
INDICES = ("int16", "int32", "int64")


def numbers(source: Source, size: Sequence[int], dtype: str) -> np.ndarray:
    """Any values of the dtype."""
    if dtype == "bool":
        return source.rng.random(size) < 0.5
    if dtype == "float32":
        return source.rng.normal(0, 100, size).astype(np.float32)
    info = np.iinfo(dtype)
    return source.rng.integers(info.min, info.max, size, dtype=dtype, endpoint=True)


class Mover:
    """Tensors of one kind and quantization, as all that one operator moves have them."""

    def __init__(self, draw: DrawFn, op: str, dtypes: Sequence[str]) -> None:
        self.source = Source(draw, op)
        self.dtype = str(self.source.pick("dtype", dtypes))
        self.scale: Any = None
        self.zero_point = 0
        if self.dtype in ("int8", "uint8"):
            self.scale = self.source.note("scale", self.source.log2(-10, 2))
            self.zero_point = self.source.zero_point("zero_point", self.dtype)

    def shape(self, ranks: tuple[int, int] = (1, 4), largest: int = 7) -> tuple[int, ...]:
        """A shape as the file gives it."""
        source = self.source
        rank = source.integer("rank", *ranks)
        return (source.first, *(source.integer(f"d{i}", 1, largest) for i in range(1, rank)))

    def tensor(self, shape: Sequence[int], data: np.ndarray | None = None) -> TensorDef:
        return TensorDef(tuple(shape), self.dtype, self.scale, self.zero_point, data=data)

    def values(self, shape: Sequence[int]) -> np.ndarray:
        """Inputs of all runs, stacked along axis 0."""
        return numbers(self.source, (self.source.runs * shape[0], *shape[1:]), self.dtype)

    def case(
        self,
        shape: Sequence[int],
        more: Sequence[TensorDef | None],
        out_shape: Sequence[int],
        options: Any,
    ) -> Case:
        """One data input, then constants; one output."""
        return self.source.case([self.tensor(shape), *more], self.tensor(out_shape), options, [self.values(shape)])


def negated(source: Source, axis: int, rank: int) -> int:
    """The axis, or counted from the back."""
    return axis - rank if source.rng.random() < 0.3 else axis


@st.composite
def transpose(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "TRANSPOSE", dtypes)
    shape = mover.shape()
    perm = mover.source.draw("perm", st.permutations(range(len(shape))))
    return mover.case(shape, [constant(perm)], [shape[axis] for axis in perm], schema.TransposeOptionsT())


@st.composite
def strided_slice(draw: DrawFn, dtypes: Sequence[str] = ANY, masks: bool = True) -> Case:
    """masks: ellipses and new axes, too."""
    mover = Mover(draw, "STRIDED_SLICE", dtypes)
    source, rng = mover.source, mover.source.rng
    shape = mover.shape((2, 4))
    used = source.integer("used", 1, len(shape)) if masks else len(shape)
    begins, ends, strides = [], [], []
    flags = {"beginMask": 0, "endMask": 0, "shrinkAxisMask": 0, "newAxisMask": 0, "ellipsisMask": 0}
    out_shape: list[int] = []
    taken = 0
    # An ellipsis stands for the dimensions that no entry names; it must be one at least.
    ellipsis_at = source.integer("ellipsis_at", 0, used) if masks and used < len(shape) else -1
    if ellipsis_at == used:
        ellipsis_at = -1

    def entry(begin: int, end: int, stride: int) -> int:
        begins.append(begin)
        ends.append(end)
        strides.append(stride)
        return len(begins) - 1

    for position in range(used):
        if position == ellipsis_at:
            flags["ellipsisMask"] |= 1 << entry(int(rng.integers(-2, 3)), int(rng.integers(-2, 3)), 1)
            left = len(shape) - used
            out_shape += shape[taken : taken + left]
            taken += left
        if masks and rng.random() < 0.15:
            flags["newAxisMask"] |= 1 << entry(int(rng.integers(0, 2)), 1, 1)
            out_shape.append(1)
        size = shape[taken]
        taken += 1
        # The first dimension holds the runs: it stays.
        if taken > 1 and rng.random() < 0.2:
            begin = int(rng.integers(-size, size))
            flags["shrinkAxisMask"] |= 1 << entry(begin, begin + 1 if begin != -1 else size, 1)
            continue
        while True:
            begin, end = (int(value) for value in rng.integers(-size - 2, size + 3, 2))
            stride = int(rng.choice([1, 1, 2, 3, -1, -2]))
            open_begin, open_end = rng.random(2) < 0.3
            kept = range(size)[slice(None if open_begin else begin, None if open_end else end, stride)]
            if len(kept):
                break
        at = entry(begin, end, stride)
        flags["beginMask"] |= int(open_begin) << at
        flags["endMask"] |= int(open_end) << at
        out_shape.append(len(kept))
    out_shape += shape[taken:]
    source.note("slices", (shape, begins, ends, strides, flags))
    return mover.case(
        shape, [constant(begins), constant(ends), constant(strides)], out_shape, schema.StridedSliceOptionsT(**flags)
    )


@st.composite
def slice_(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "SLICE", dtypes)
    source = mover.source
    shape = mover.shape()
    starts = [source.integer(f"start{i}", 0, size - 1) for i, size in enumerate(shape)]
    sizes = [
        source.integer(f"size{i}", 1, size - start) for i, (size, start) in enumerate(zip(shape, starts, strict=True))
    ]
    spelled = [
        -1 if start + size == whole and source.rng.random() < 0.5 else size
        for whole, start, size in zip(shape, starts, sizes, strict=True)
    ]
    index = source.pick("index", ["int32", "int64"])
    return mover.case(shape, [constant(starts, index), constant(spelled, index)], sizes, schema.SliceOptionsT())


@st.composite
def split(draw: DrawFn, dtypes: Sequence[str] = NUMBERS, micro: bool = False) -> Case:
    """micro: axes counted from the front only."""
    mover = Mover(draw, "SPLIT", dtypes)
    source = mover.source
    shape = list(mover.shape())
    axis = source.integer("axis", 0, len(shape) - 1)
    count = source.integer("count", 1, 4)
    part = list(shape)
    shape[axis] *= count
    spelled = axis if micro else negated(source, axis, len(shape))
    return source.case(
        [constant(spelled), mover.tensor(shape)],
        [mover.tensor(part)] * count,
        schema.SplitOptionsT(numSplits=count),
        [mover.values(shape)],
    )


@st.composite
def split_v(draw: DrawFn, dtypes: Sequence[str] = NUMBERS, micro: bool = False) -> Case:
    """micro: axes counted from the front, all sizes given."""
    mover = Mover(draw, "SPLIT_V", dtypes)
    source = mover.source
    shape = list(mover.shape())
    axis = source.integer("axis", 0, len(shape) - 1)
    sizes = source.draw("sizes", st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shape[axis] = sum(sizes)
    spelled = list(sizes)
    if not micro and source.flag("infer"):
        spelled[source.integer("at", 0, len(sizes) - 1)] = -1
    return source.case(
        [
            mover.tensor(shape),
            constant(spelled),
            constant(axis if micro else negated(source, axis, len(shape))),
        ],
        [mover.tensor([*shape[:axis], size, *shape[axis + 1 :]]) for size in sizes],
        schema.SplitVOptionsT(numSplits=len(sizes)),
        [mover.values(shape)],
    )


@st.composite
def unpack(draw: DrawFn, dtypes: Sequence[str] = ("int8", "uint8", "int32", "float32", "bool")) -> Case:
    mover = Mover(draw, "UNPACK", dtypes)
    source = mover.source
    shape = mover.shape((2, 4), 5)
    # One dimension must stay in front for the runs.
    axis = source.integer("axis", 1, len(shape) - 1)
    count = shape[axis]
    return source.case(
        [mover.tensor(shape)],
        [mover.tensor(shape[:axis] + shape[axis + 1 :])] * count,
        schema.UnpackOptionsT(num=count, axis=negated(source, axis, len(shape))),
        [mover.values(shape)],
    )


@st.composite
def pack(draw: DrawFn, dtypes: Sequence[str] = NUMBERS) -> Case:
    mover = Mover(draw, "PACK", dtypes)
    source = mover.source
    shape = mover.shape((1, 3), 5)
    axis = source.integer("axis", 0, len(shape))
    count = source.integer("count", 1, 4)
    constants = [source.rng.random() < 0.2 for _ in range(count)]
    constants[0] = False
    inputs = [mover.tensor(shape, numbers(source, shape, mover.dtype) if fixed else None) for fixed in constants]
    return source.case(
        inputs,
        mover.tensor((*shape[:axis], count, *shape[axis:])),
        schema.PackOptionsT(valuesCount=count, axis=negated(source, axis, len(shape) + 1)),
        [mover.values(shape) for fixed in constants if not fixed],
    )


@st.composite
def gather(draw: DrawFn, dtypes: Sequence[str] = ANY, index_dtypes: Sequence[str] = INDICES) -> Case:
    """Indices that are constants or inputs, maybe with batch dimensions."""
    mover = Mover(draw, "GATHER", dtypes)
    source = mover.source
    shape = mover.shape((1, 4), 6)
    axis = source.integer("axis", 0, len(shape) - 1)
    batch_dims = source.integer("batch_dims", 0, axis) if source.flag("batched") else 0
    picked = tuple(source.draw("picked", st.lists(st.integers(1, 4), min_size=0 if batch_dims else 1, max_size=2)))
    index_shape = (*shape[:batch_dims], *picked)
    as_input = source.flag("indices_are_input")
    if as_input and not batch_dims:
        # The indices' own first dimension holds their runs.
        index_shape = (1, *picked)
    dtype = source.pick("index_dtype", index_dtypes)
    size = index_shape if not as_input else (source.runs * index_shape[0], *index_shape[1:])
    indices = source.rng.integers(0, shape[axis], size).astype(dtype)
    index = TensorDef(index_shape, dtype, data=None if as_input else indices)
    out_shape = shape[:axis] + index_shape[batch_dims:] + shape[axis + 1 :]
    return source.case(
        [mover.tensor(shape), index],
        mover.tensor(out_shape),
        schema.GatherOptionsT(axis=negated(source, axis, len(shape)), batchDims=batch_dims),
        [mover.values(shape), *([indices] if as_input else [])],
    )


@st.composite
def gather_nd(draw: DrawFn, dtypes: Sequence[str] = ANY, index_dtypes: Sequence[str] = INDICES) -> Case:
    mover = Mover(draw, "GATHER_ND", dtypes)
    source = mover.source
    shape = mover.shape((1, 4), 6)
    depth = source.integer("depth", 1, len(shape))
    picked = source.draw("picked", st.lists(st.integers(1, 4), min_size=0, max_size=2))
    as_input = source.flag("indices_are_input")
    index_shape = (1, *picked, depth)
    dtype = source.pick("index_dtype", index_dtypes)
    size = index_shape if not as_input else (source.runs, *index_shape[1:])
    indices = np.stack([source.rng.integers(0, shape[axis], size[:-1]) for axis in range(depth)], axis=-1).astype(dtype)
    return source.case(
        [mover.tensor(shape), TensorDef(index_shape, dtype, data=None if as_input else indices)],
        mover.tensor((*index_shape[:-1], *shape[depth:])),
        schema.GatherNdOptionsT(),
        [mover.values(shape), *([indices] if as_input else [])],
    )


@st.composite
def tile(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "TILE", dtypes)
    source = mover.source
    shape = mover.shape((1, 4), 5)
    multiples = [source.integer(f"times{i}", 1, 3) for i in range(len(shape))]
    return mover.case(
        shape,
        [constant(multiples, source.pick("index", ["int32", "int64"]))],
        [size * count for size, count in zip(shape, multiples, strict=True)],
        schema.TileOptionsT(),
    )


@st.composite
def broadcast_to(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "BROADCAST_TO", dtypes)
    source = mover.source
    shape = mover.shape((1, 4), 5)
    out_shape = [
        source.integer(f"wide{i}", 1, 4) if size == 1 and source.rng.random() < 0.7 else size
        for i, size in enumerate(shape)
    ]
    if len(shape) < 4 and source.flag("longer"):
        out_shape.insert(0, source.integer("front", 1, 3))
    index = source.pick("index", ["int32", "int64"])
    return mover.case(shape, [constant(out_shape, index)], out_shape, schema.BroadcastToOptionsT())


@st.composite
def reverse_v2(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "REVERSE_V2", dtypes)
    shape = mover.shape()
    # The runtimes want neighbouring axes in ascending order.
    first = mover.source.integer("from", 0, len(shape) - 1)
    last = mover.source.integer("to", first, len(shape) - 1)
    return mover.case(shape, [constant(list(range(first, last + 1)))], shape, schema.ReverseV2OptionsT())


@st.composite
def space_to_depth(draw: DrawFn, op: str, dtypes: Sequence[str] = NUMBERS) -> Case:
    mover = Mover(draw, op, dtypes)
    source = mover.source
    block = source.integer("block", 1, 4)
    h, w, c = (source.integer(name, 1, 4) for name in "hwc")
    deep, wide = (source.first, h, w, c * block * block), (source.first, h * block, w * block, c)
    if op == "SPACE_TO_DEPTH":
        return mover.case(wide, [], deep, schema.SpaceToDepthOptionsT(blockSize=block))
    return mover.case(deep, [], wide, schema.DepthToSpaceOptionsT(blockSize=block))


def blocks(source: Source) -> tuple[list[int], list[tuple[int, int]], list[int], list[int]]:
    """Block sizes, borders, framed sizes and sizes inside of one or two spatial dimensions."""
    sizes, borders, outer, inner = [], [], [], []
    for i in range(source.pick("dimensions", [1, 2, 2])):
        block = source.integer(f"block{i}", 1, 3)
        whole = block * source.integer(f"count{i}", 1, 4)
        before = source.integer(f"before{i}", 0, min(3, whole - 1))
        after = source.integer(f"after{i}", 0, min(3, whole - 1 - before))
        sizes.append(block)
        borders.append((before, after))
        outer.append(whole)
        inner.append(whole - before - after)
    return sizes, borders, outer, inner


@st.composite
def space_to_batch_nd(draw: DrawFn, dtypes: Sequence[str] = ANY, pads: bool = True) -> Case:
    """pads: borders, too; TFLite Micro leaves their value uninitialised."""
    mover = Mover(draw, "SPACE_TO_BATCH_ND", dtypes)
    source = mover.source
    sizes, borders, outer, inner = blocks(source)
    if not pads:
        borders, inner = [(0, 0)] * len(sizes), outer
    channels = source.integer("channels", 1, 5)
    cells = [whole // block for whole, block in zip(outer, sizes, strict=True)]
    return mover.case(
        (source.first, *inner, channels),
        [constant(sizes), constant(borders)],
        (source.first * math.prod(sizes), *cells, channels),
        schema.SpaceToBatchNDOptionsT(),
    )


@st.composite
def batch_to_space_nd(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "BATCH_TO_SPACE_ND", dtypes)
    source = mover.source
    sizes, borders, outer, inner = blocks(source)
    channels = source.integer("channels", 1, 5)
    cells = [whole // block for whole, block in zip(outer, sizes, strict=True)]
    return mover.case(
        (source.first * math.prod(sizes), *cells, channels),
        [constant(sizes), constant(borders)],
        (source.first, *inner, channels),
        schema.BatchToSpaceNDOptionsT(),
    )


@st.composite
def padv2(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "PADV2", dtypes)
    source = mover.source
    shape = mover.shape(largest=6)
    pads = [source.draw(f"pad{i}", st.tuples(st.integers(0, 3), st.integers(0, 3))) for i in range(len(shape))]
    value = mover.tensor((1,), numbers(source, (1,), mover.dtype))
    return mover.case(
        shape, [constant(pads), value], [d + sum(p) for d, p in zip(shape, pads, strict=True)], schema.PadV2OptionsT()
    )


@st.composite
def mirror_pad(draw: DrawFn, dtypes: Sequence[str] = ANY) -> Case:
    mover = Mover(draw, "MIRROR_PAD", dtypes)
    source = mover.source
    shape = mover.shape(largest=6)
    symmetric = source.flag("symmetric")
    most = [size if symmetric else size - 1 for size in shape]
    pads = [
        source.draw(f"pad{i}", st.tuples(st.integers(0, min(3, limit)), st.integers(0, min(3, limit))))
        for i, limit in enumerate(most)
    ]
    mode = schema.MirrorPadMode.SYMMETRIC if symmetric else schema.MirrorPadMode.REFLECT
    return mover.case(
        shape,
        [constant(pads)],
        [d + sum(p) for d, p in zip(shape, pads, strict=True)],
        schema.MirrorPadOptionsT(mode=mode),
    )


@st.composite
def cast(
    draw: DrawFn,
    dtypes: Sequence[str] = (*CODES_AND_INTEGERS, "int16", "bool"),
    out_dtypes: Sequence[str] = (*CODES_AND_INTEGERS, "int16", "bool"),
) -> Case:
    mover = Mover(draw, "CAST", dtypes)
    source = mover.source
    shape = mover.shape()
    out_dtype = source.pick("out_dtype", out_dtypes)
    types = {"bool": "BOOL", "int8": "INT8", "uint8": "UINT8", "int16": "INT16", "int32": "INT32", "int64": "INT64"}
    options = schema.CastOptionsT(
        inDataType=getattr(schema.TensorType, types[mover.dtype]),
        outDataType=getattr(schema.TensorType, types[out_dtype]),
    )
    return source.case([mover.tensor(shape)], TensorDef(shape, out_dtype), options, [mover.values(shape)])
