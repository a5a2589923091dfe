"""gpuq.cuda.movement: every operator that moves elements, run thread by thread on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuq.cuda.movement import Stride, element_map, pack, strides_of
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.gather import GatherNdSpec, GatherSpec
from gpuq.ops.movement import MovementSpec
from gpuq.ops.pack import PackSpec
from gpuq.ops.pad import MirrorPadSpec, PadV2Spec
from gpuq.ops.registry import constant_operands, reference
from gpuq.ops.slices import ReverseV2Spec, SliceSpec, StridedSliceSpec
from gpuq.ops.space import BatchToSpaceNdSpec, DepthToSpaceSpec, SpaceToBatchNdSpec, SpaceToDepthSpec
from gpuq.ops.tile import BroadcastToSpec, TileSpec
from gpuq.ops.transpose import TransposeSpec

from .cuda_layers import launcher, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

EXACT = Rule(Rounding.EXACT)
DTYPES = ("int8", "uint8", "int32", "int64", "bool", "float32")
Made = tuple[MovementSpec, list[np.ndarray | None]]


def shape_of(rng: np.random.Generator, rank: int | None = None) -> tuple[int, ...]:
    """Few elements, often a last dimension of whole words."""
    rank = int(rng.integers(1, 5)) if rank is None else rank
    last = int(rng.choice([1, 2, 3, 4, 5, 8, 12, 16, 32]))
    return (*(int(n) for n in rng.integers(1, 6, rank - 1)), last)


def transpose(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape = shape_of(rng)
    perm = tuple(int(axis) for axis in rng.permutation(len(shape)))
    return TransposeSpec(x_shape=shape, dtype=dtype, perm=perm), [None]


def sliced(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape = shape_of(rng)
    starts, strides, sizes = [], [], []
    plain = rng.random() < 0.4
    for n in shape:
        stride = 1 if plain else int(rng.choice([1, 1, 2, 3, -1, -2]))
        start = int(rng.integers(n))
        most = (n - 1 - start) // stride + 1 if stride > 0 else start // -stride + 1
        starts.append(start)
        strides.append(stride)
        sizes.append(int(rng.integers(1, most + 1)))
    kind = SliceSpec if plain else StridedSliceSpec
    return (
        kind(
            x_shape=shape,
            dtype=dtype,
            starts=tuple(starts),
            strides=tuple(strides),
            sizes=tuple(sizes),
            out_shape=tuple(sizes),
        ),
        [None],
    )


def reverse(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape = shape_of(rng)
    axes = [axis for axis in range(len(shape)) if rng.random() < 0.5]
    return (
        ReverseV2Spec(
            x_shape=shape,
            dtype=dtype,
            starts=tuple(n - 1 if axis in axes else 0 for axis, n in enumerate(shape)),
            strides=tuple(-1 if axis in axes else 1 for axis in range(len(shape))),
            sizes=shape,
            out_shape=shape,
        ),
        [None],
    )


def tile(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape = shape_of(rng)
    return TileSpec(x_shape=shape, dtype=dtype, multiples=tuple(int(n) for n in rng.integers(1, 4, len(shape)))), [None]


def broadcast(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    out = shape_of(rng)
    shape = tuple(1 if rng.random() < 0.4 else n for n in out)[int(rng.integers(len(out))) :]
    return BroadcastToSpec(x_shape=shape, dtype=dtype, out_shape=out), [None]


def space_to_depth(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    block = int(rng.integers(1, 4))
    n, h, w, c = shape_of(rng, 4)
    return SpaceToDepthSpec(x_shape=(n, h * block, w * block, c), dtype=dtype, block=block), [None]


def depth_to_space(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    block = int(rng.integers(1, 4))
    n, h, w, c = shape_of(rng, 4)
    return DepthToSpaceSpec(x_shape=(n, h, w, c * block**2), dtype=dtype, block=block), [None]


def space_to_batch(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    n, h, w, c = shape_of(rng, 4)
    blocks = tuple(int(size) for size in rng.integers(1, 4, 2))
    pads = tuple((int(rng.integers(3)), 0) for _ in blocks)
    pads = tuple(
        (before, -(size + before) % block) for (before, _), size, block in zip(pads, (h, w), blocks, strict=True)
    )
    return SpaceToBatchNdSpec(x_shape=(n, h, w, c), dtype=dtype, block=blocks, pads=pads, fill=1), [None]


def batch_to_space(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    n, h, w, c = shape_of(rng, 4)
    blocks = tuple(int(size) for size in rng.integers(1, 4, 2))
    crops = tuple((int(rng.integers(min(2, block * size))), 0) for block, size in zip(blocks, (h, w), strict=True))
    return BatchToSpaceNdSpec(x_shape=(n * math.prod(blocks), h, w, c), dtype=dtype, block=blocks, crops=crops), [None]


def framed(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape = shape_of(rng)
    pads = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (len(shape), 2)))
    return PadV2Spec(x_shape=shape, dtype=dtype, pads=pads, value=1), [None]


def mirrored(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape, symmetric = shape_of(rng), bool(rng.integers(2))
    pads = tuple((int(rng.integers(most + 1)), int(rng.integers(most + 1))) for most in (n - 1 for n in shape))
    return MirrorPadSpec(x_shape=shape, dtype=dtype, pads=pads, symmetric=symmetric), [None]


def gathered(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape = shape_of(rng)
    axis = int(rng.integers(len(shape)))
    indices = rng.integers(0, shape[axis], shape_of(rng, int(rng.integers(1, 3)))).astype(np.int32)
    return (
        GatherSpec(x_shape=shape, dtype=dtype, indices_shape=indices.shape, indices_dtype=indices.dtype, axis=axis),
        [None, indices],
    )


def gathered_nd(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape = shape_of(rng)
    depth = int(rng.integers(1, len(shape) + 1))
    rows = [int(rng.integers(n)) for _ in range(5) for n in shape[:depth]]
    indices = np.array(rows, np.int32).reshape(5, depth)
    return GatherNdSpec(x_shape=shape, dtype=dtype, indices_shape=(5, depth), indices_dtype=indices.dtype), [
        None,
        indices,
    ]


def stacked(rng: np.random.Generator, dtype: np.dtype[Any]) -> Made:
    shape, count = shape_of(rng), int(rng.integers(1, 5))
    spec = PackSpec(x_shape=shape, dtype=dtype, count=count, axis=int(rng.integers(len(shape) + 1)))
    constants: list[np.ndarray | None] = [
        values(rng, shape, dtype) if i and rng.random() < 0.3 else None for i in range(count)
    ]
    return spec, constants


MAKERS: tuple[Callable[[np.random.Generator, np.dtype[Any]], Made], ...] = (
    transpose,
    sliced,
    reverse,
    tile,
    broadcast,
    space_to_depth,
    depth_to_space,
    space_to_batch,
    batch_to_space,
    framed,
    mirrored,
    gathered,
    gathered_nd,
    stacked,
)


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    return rng.integers(0, 128, shape).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_equals_reference(launcher: HostLauncher, maker: Any, seed: int) -> None:
    rng = np.random.default_rng([seed, MAKERS.index(maker)])
    for case in range(scaled(36)):
        dtype = np.dtype(DTYPES[case % len(DTYPES)])
        spec, constants = maker(rng, dtype)
        runs = int(rng.integers(1, 4))
        inputs = [values(rng, (runs, *spec.x_shape), dtype) for each in constants if each is None]
        given = iter(inputs)
        operands = [next(given) if each is None else each for each in constant_operands(spec, constants)]
        want = np.ascontiguousarray(reference(spec, EXACT, *operands)).reshape(runs, *spec.output_shape)
        layer = pack(spec, EXACT, constants)
        # As bytes: bool and float32 would be noise that NumPy does not keep.
        shown = [x.reshape(runs, -1).view(np.uint8) if dtype in (np.bool_, np.float32) else x for x in inputs]
        wanted = want.reshape(runs, -1)
        if dtype in (np.bool_, np.float32):
            wanted = wanted.view(np.uint8)
            shown = [x.reshape(runs, 1, 1, -1) for x in shown]
            wanted = wanted.reshape(runs, 1, 1, -1)
        run_layer(
            launcher,
            Bytes(layer, wanted) if dtype in (np.bool_, np.float32) else layer,
            shown,
            wanted,
            rng,
            f"seed {seed}, case {case}: {spec}",
            align=16,
            gaps=False,
        )


def test_runs_of_an_odd_number_of_elements(launcher: HostLauncher) -> None:
    """Pairs that begin at even elements of one run do not in the next."""
    x = np.arange(3 * 27, dtype=np.int8).reshape(3, 3, 9)
    spec = StridedSliceSpec(
        x_shape=(3, 9), dtype=x.dtype, starts=(0, 0), strides=(2, 1), sizes=(2, 2), out_shape=(2, 2)
    )
    want = np.ascontiguousarray(x[:, ::2, :2]).reshape(3, -1)
    run_layer(launcher, pack(spec, EXACT, [None]), [x.reshape(3, -1)], want, np.random.default_rng(1), "", gaps=False)


class Bytes:
    """A layer whose operands are seen as bytes."""

    def __init__(self, layer: Any, y: np.ndarray) -> None:
        self.layer = layer
        size = layer.spec.dtype.itemsize
        self.x_shapes = tuple((1, 1, n * size) for _, _, n in layer.x_shapes)
        self.y_shape = (1, 1, y.shape[-1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


def test_strides_on_paper() -> None:
    grid = np.arange(24).reshape(2, 3, 4)
    assert strides_of(grid.reshape(-1)) == (Stride(24, 1),)
    assert strides_of(grid.transpose(2, 0, 1).reshape(-1)) == (Stride(4, 1), Stride(6, 4))
    assert strides_of(grid[:, ::-1].reshape(-1)) == (Stride(2, 12), Stride(3, -4), Stride(4, 1))
    assert strides_of(np.repeat(np.arange(3), 2)) == (Stride(3, 1), Stride(2, 0))
    assert strides_of(np.array([7])) == ()
    assert strides_of(np.array([0, 1, 3])) is None
    assert strides_of(np.array([-1, 0])) is None


def test_what_is_copied_and_what_is_looked_up() -> None:
    int8 = np.dtype(np.int8)
    kept = pack(TransposeSpec(x_shape=(4, 6, 16), dtype=int8, perm=(1, 0, 2)), EXACT)
    assert kept.choices(1, None)[0].name == "copy_rows"  # type: ignore[arg-type]
    single = pack(TransposeSpec(x_shape=(4, 6), dtype=int8, perm=(1, 0)), EXACT)
    assert single.choices(1, None)[0].name == "gather_elements"  # type: ignore[arg-type]
    # Rows of 16 channels stay together: one entry for each, not for each byte.
    rows = pack(GatherSpec(x_shape=(9, 16), dtype=int8, indices_shape=(3,), indices_dtype=np.dtype(np.int32), axis=0),
                EXACT, [None, np.array([5, 0, 8], np.int32)])  # fmt: skip
    assert rows.constants["map"].tolist() == [5, 0, 8]


def test_the_fill_is_what_the_operator_puts_there() -> None:
    spec = PadV2Spec(x_shape=(2,), dtype=np.dtype(np.float32), pads=((1, 0),), value=0.5)
    index, fill = element_map(spec, EXACT)
    assert index.tolist() == [-1, 0, 1]
    assert fill == np.float32(0.5)


def test_indices_must_be_constant() -> None:
    spec = GatherSpec(
        x_shape=(9,), dtype=np.dtype(np.int8), indices_shape=(3,), indices_dtype=np.dtype(np.int32), axis=0
    )
    with pytest.raises(InputValueError, match="GATHER: on a GPU all inputs but the first must be constant"):
        pack(spec, EXACT, [None, None])
