"""Operators that move elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Converted, OperatorView
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.gather import GatherNdSpec, GatherSpec
from gpuq.ops.pack import PackSpec
from gpuq.ops.pad import MirrorPadSpec, PadSpec, PadV2Spec
from gpuq.ops.reshape import ExpandDimsSpec, ReshapeSpec, SqueezeSpec
from gpuq.ops.slices import ReverseV2Spec, SliceSpec, SplitSpec, SplitVSpec, StridedSliceSpec, UnpackSpec
from gpuq.ops.space import BatchToSpaceNdSpec, DepthToSpaceSpec, SpaceToBatchNdSpec, SpaceToDepthSpec
from gpuq.ops.spec import INT8, UINT8, shape_text
from gpuq.ops.tile import BroadcastToSpec, TileSpec
from gpuq.ops.transpose import TransposeSpec


def reshape(view: OperatorView) -> Converted:
    x = view.x()
    target = list(view.integers(1, "shape") if view.has(1) else view.option("NewShape"))
    elements = math.prod(x.shape)
    if target.count(-1) == 1:
        known = math.prod(size for size in target if size != -1)
        if known <= 0 or elements % known:
            raise view.fail(f"{elements} elements of {shape_text(x.shape)} do not fit shape {target}")
        target[target.index(-1)] = elements // known
    if any(size < 1 for size in target):
        raise view.fail(f"shape {target} must be positive, with at most one -1")
    spec = ReshapeSpec(x_shape=x.shape, out_shape=tuple(target), dtype=x.dtype)
    return spec, spec.out_shape


def squeeze(view: OperatorView) -> Converted:
    x = view.x()
    dims = {view.axis(axis, len(x.shape)) for axis in view.option("SqueezeDims")}
    if any(x.shape[axis] != 1 for axis in dims):
        raise view.fail(f"dimensions {sorted(dims)} of {shape_text(x.shape)} must be 1")
    chosen = dims or {axis for axis, size in enumerate(x.shape) if size == 1}
    out_shape = tuple(size for axis, size in enumerate(x.shape) if axis not in chosen)
    return SqueezeSpec(x_shape=x.shape, out_shape=out_shape, dtype=x.dtype), out_shape


def expand_dims(view: OperatorView) -> Converted:
    x = view.x()
    axes = view.integers(1, "axis")
    if len(axes) != 1:
        raise view.fail(f"axis must be one value, got {len(axes)}")
    axis = view.axis(axes[0], len(x.shape) + 1)
    out_shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return ExpandDimsSpec(x_shape=x.shape, out_shape=out_shape, dtype=x.dtype), out_shape


def pad(view: OperatorView) -> Converted:
    x = view.x()
    pads = np.array(view.integers(1, "paddings"), np.int64)
    if view.x(1).shape != (len(x.shape), 2):
        raise view.fail(f"paddings {shape_text(view.x(1).shape)} must have shape {len(x.shape)}x2")
    if view.out.dtype != x.dtype:
        raise view.fail(f"output of {view.out.dtype} must have the input's dtype {x.dtype}")
    pairs = tuple((int(before), int(after)) for before, after in pads.reshape(-1, 2))
    spec = PadSpec(x_shape=x.shape, pads=pairs, out_quant=view.quant(view.out))
    return spec, spec.output_shape


def padv2(view: OperatorView) -> Converted:
    value = view.constant(2, "value")
    if value.size != 1 or value.dtype != view.x().dtype:
        raise view.fail(f"value {value.dtype} {shape_text(value.shape)} must be one {view.x().dtype}")
    if value.dtype in (INT8, UINT8) and view.x(2).quant != view.out.quant:
        raise view.fail("value must have the output's scale and zero point")
    spec = PadV2Spec(**view.moved(), pads=view.pairs(1, "paddings"), value=value.reshape(-1)[0].item())
    return spec, spec.output_shape


_MIRROR_MODES = {0: False, 1: True}  # REFLECT, SYMMETRIC


def mirror_pad(view: OperatorView) -> Converted:
    mode = view.option("Mode")
    if mode not in _MIRROR_MODES:
        raise view.fail(f"mode {mode} is not in the schema")
    spec = MirrorPadSpec(**view.moved(), pads=view.pairs(1, "paddings"), symmetric=_MIRROR_MODES[mode])
    return spec, spec.output_shape


def concatenation(view: OperatorView) -> Converted:
    inputs = [view.x(position) for position in range(len(view.raw.inputs))]
    if not inputs:
        raise view.fail("needs at least one input")
    if view.activation is not None:
        raise InputTypeError(f"CONCATENATION: fused activation {view.activation} is not supported")
    spec = ConcatenationSpec(
        x_shapes=tuple(x.shape for x in inputs),
        axis=view.axis(view.option("Axis"), len(inputs[0].shape)),
        x_quants=tuple(view.quant(x) for x in inputs),
        out_quant=view.quant(view.out),
    )
    return spec, spec.output_shape


def pack(view: OperatorView) -> Converted:
    inputs = [view.x(position) for position in range(len(view.raw.inputs))]
    moved = view.moved()
    if any(x.shape != inputs[0].shape for x in inputs):
        raise view.fail(f"inputs {[shape_text(x.shape) for x in inputs[:4]]} must have one shape")
    if any(x.dtype != inputs[0].dtype for x in inputs):
        raise view.fail("inputs must have one dtype")
    if inputs[0].dtype in (INT8, UINT8) and any(x.quant != view.out.quant for x in inputs):
        raise view.fail("inputs must have the output's scale and zero point")
    axis = view.axis(view.option("Axis"), len(inputs[0].shape) + 1)
    spec = PackSpec(**moved, count=len(inputs), axis=axis)
    return spec, spec.output_shape


def transpose(view: OperatorView) -> Converted:
    rank = len(view.x().shape)
    perm = tuple(view.axis(axis, rank) for axis in view.integers(1, "perm"))
    spec = TransposeSpec(**view.moved(), perm=perm)
    return spec, spec.output_shape


def slice_(view: OperatorView) -> Converted:
    shape = view.x().shape
    starts, sizes = view.integers(1, "begin"), view.integers(2, "size")
    if not len(starts) == len(sizes) == len(shape):
        raise view.fail(f"{len(starts)} begins and {len(sizes)} sizes for rank {len(shape)}")
    counts = tuple(
        whole - start if size == -1 else size for whole, start, size in zip(shape, starts, sizes, strict=True)
    )
    spec = SliceSpec(**view.moved(), starts=starts, strides=(1,) * len(shape), sizes=counts, out_shape=counts)
    return spec, counts


def strided_slice(view: OperatorView) -> Converted:
    shape = view.x().shape
    begins, ends, strides = (
        view.integers(position, what) for position, what in ((1, "begin"), (2, "end"), (3, "strides"))
    )
    counts = f"{len(begins)} begins, {len(ends)} ends and {len(strides)} strides for rank {len(shape)}"
    if not len(begins) == len(ends) == len(strides):
        raise view.fail(counts)

    def marked(mask: str, entry: int) -> bool:
        return bool(view.option(mask) >> entry & 1)

    entries = range(len(begins))
    ellipses = [entry for entry in entries if marked("EllipsisMask", entry)]
    added = [entry for entry in entries if marked("NewAxisMask", entry) and entry not in ellipses]
    left = len(shape) - (len(begins) - len(ellipses) - len(added))
    if left < 0:
        raise view.fail(counts)
    if len(ellipses) > 1:
        raise view.fail(f"{len(ellipses)} ellipses; there can be one")
    if ellipses and left == 0:
        # The runtimes let it stand for one dimension all the same.
        raise InputTypeError("STRIDED_SLICE: an ellipsis that stands for no dimension is not supported")
    starts: list[int] = []
    steps: list[int] = []
    sizes: list[int] = []
    out_shape: list[int] = []

    def take(start: int, step: int, size: int, *, keep: bool = True) -> None:
        starts.append(start)
        steps.append(step)
        sizes.append(size)
        if keep:
            out_shape.append(size)

    for entry in entries:
        whole = shape[len(starts)] if len(starts) < len(shape) else 0
        begin, end, stride = begins[entry], ends[entry], strides[entry]
        if entry in ellipses:
            for size in shape[len(starts) : len(starts) + left]:
                take(0, 1, size)
        elif entry in added:
            out_shape.append(1)
        elif stride == 0:
            raise view.fail("strides must not be 0")
        elif marked("ShrinkAxisMask", entry):
            if not -whole <= begin < whole:
                raise view.fail(f"index {begin} of a dimension of {whole}")
            take(begin % whole, 1, 1, keep=False)
        else:
            chosen = range(whole)[
                slice(
                    None if marked("BeginMask", entry) else begin,
                    None if marked("EndMask", entry) else begin + end if view.option("Offset") else end,
                    stride,
                )
            ]
            take(chosen.start, stride, len(chosen))
    for size in shape[len(starts) :]:
        take(0, 1, size)
    spec = StridedSliceSpec(
        **view.moved(), starts=tuple(starts), strides=tuple(steps), sizes=tuple(sizes), out_shape=tuple(out_shape)
    )
    return spec, spec.out_shape


def reverse_v2(view: OperatorView) -> Converted:
    shape = view.x().shape
    axes = view.axes(view.integers(1, "axis"), len(shape))
    spec = ReverseV2Spec(
        **view.moved(),
        starts=tuple(size - 1 if i in axes else 0 for i, size in enumerate(shape)),
        strides=tuple(-1 if i in axes else 1 for i in range(len(shape))),
        sizes=shape,
        out_shape=shape,
    )
    return spec, shape


def _part(
    view: OperatorView, spec_type: type[StridedSliceSpec], position: int, axis: int, start: int, size: int
) -> StridedSliceSpec:
    """size elements from start on along one dimension, all of the others."""
    moved = view.moved(position)
    shape = moved["x_shape"]
    sizes = (*shape[:axis], size, *shape[axis + 1 :])
    return spec_type(
        **moved,
        starts=tuple(start if i == axis else 0 for i in range(len(shape))),
        strides=(1,) * len(shape),
        sizes=sizes,
        out_shape=sizes if spec_type is not UnpackSpec else shape[:axis] + shape[axis + 1 :],
    )


def _parts(
    view: OperatorView, spec_type: type[StridedSliceSpec], position: int, axis: int, sizes: Sequence[int]
) -> list[Converted]:
    """Consecutive parts along one dimension, one for each output."""
    if len(sizes) != len(view.raw.outputs):
        raise view.fail(f"{len(sizes)} parts for {len(view.raw.outputs)} outputs")
    starts = np.cumsum([0, *sizes]).tolist()
    specs = [_part(view, spec_type, position, axis, start, size) for start, size in zip(starts, sizes, strict=False)]
    return [(spec, spec.out_shape) for spec in specs]


def split(view: OperatorView) -> list[Converted]:
    shape = view.x(1).shape
    axis = view.axis(view.one_integer(0, "axis"), len(shape))
    count = len(view.raw.outputs)
    if count == 0 or shape[axis] % count:
        raise view.fail(f"dimension {axis} of {shape_text(shape)} does not divide into {count} parts")
    return _parts(view, SplitSpec, 1, axis, [shape[axis] // count] * count)


def split_v(view: OperatorView) -> list[Converted]:
    shape = view.x().shape
    axis = view.axis(view.one_integer(2, "axis"), len(shape))
    sizes = list(view.integers(1, "sizes"))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = shape[axis] - sum(size for size in sizes if size != -1)
    if any(size < 1 for size in sizes) or sum(sizes) != shape[axis]:
        raise view.fail(f"sizes {sizes[:8]} must be positive and add up to {shape[axis]}, with at most one -1")
    return _parts(view, SplitVSpec, 0, axis, sizes)


def unpack(view: OperatorView) -> list[Converted]:
    shape = view.x().shape
    axis = view.axis(view.option("Axis"), len(shape))
    if shape[axis] != len(view.raw.outputs):
        raise view.fail(f"{shape[axis]} parts for {len(view.raw.outputs)} outputs")
    return _parts(view, UnpackSpec, 0, axis, [1] * shape[axis])


def gather(view: OperatorView) -> Converted:
    moved, indices = view.moved(), view.x(1)
    axis = view.axis(view.option("Axis"), len(moved["x_shape"]))
    batch_dims = view.option("BatchDims")
    spec = GatherSpec(
        **moved,
        indices_shape=indices.shape,
        indices_dtype=indices.dtype,
        axis=axis,
        batch_dims=batch_dims + len(indices.shape) if batch_dims < 0 else batch_dims,
    )
    if indices.data is not None:
        spec.check_indices(indices.data)
    return spec, spec.output_shape


def gather_nd(view: OperatorView) -> Converted:
    indices = view.x(1)
    spec = GatherNdSpec(**view.moved(), indices_shape=indices.shape, indices_dtype=indices.dtype)
    if indices.data is not None:
        spec.check_indices(indices.data)
    return spec, spec.output_shape


def tile(view: OperatorView) -> Converted:
    spec = TileSpec(**view.moved(), multiples=view.integers(1, "multiples"))
    return spec, spec.output_shape


def broadcast_to(view: OperatorView) -> Converted:
    spec = BroadcastToSpec(**view.moved(), out_shape=view.integers(1, "shape"))
    return spec, spec.output_shape


def space_to_depth(
    spec_type: type[SpaceToDepthSpec] | type[DepthToSpaceSpec],
) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        spec = spec_type(**view.moved(), block=view.option("BlockSize"))
        return spec, spec.output_shape

    return convert


def space_to_batch_nd(view: OperatorView) -> Converted:
    moved = view.moved()
    codes = moved["dtype"] in (INT8, UINT8)
    spec = SpaceToBatchNdSpec(
        **moved,
        block=view.integers(1, "block shape"),
        pads=view.pairs(2, "paddings"),
        fill=view.quant(view.out).scalar_zero_point() if codes else 0,
    )
    return spec, spec.output_shape


def batch_to_space_nd(view: OperatorView) -> Converted:
    spec = BatchToSpaceNdSpec(**view.moved(), block=view.integers(1, "block shape"), crops=view.pairs(2, "crops"))
    return spec, spec.output_shape
