"""Operators that move elements: for every element of the output, where in the input it must come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq import InputTypeError, InputValueError, UnsupportedModel, cpu, profiles
from gpuq.numerics import Rounding, Rule
from gpuq.ops.cast import CastSpec
from gpuq.ops.gather import GatherNdSpec, GatherSpec
from gpuq.ops.movement import MovementSpec
from gpuq.ops.pack import PackSpec
from gpuq.ops.pad import MirrorPadSpec, PadV2Spec
from gpuq.ops.registry import constant_operands, reference
from gpuq.ops.slices import ReverseV2Spec, SliceSpec, StridedSliceSpec, UnpackSpec
from gpuq.ops.space import BatchToSpaceNdSpec, DepthToSpaceSpec, SpaceToBatchNdSpec, SpaceToDepthSpec
from gpuq.ops.tile import BroadcastToSpec, TileSpec
from gpuq.ops.transpose import TransposeSpec

from .compare import assert_equal_bits
from .launching import launched
from .networks import Network, int8
from .peers.one_operator import TensorDef, constant
from .peers.strategies_movement import ANY

EXACT = Rule(Rounding.EXACT)
INT8 = np.dtype(np.int8)
Index = tuple[int, ...]


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Unlike values as far as the dtype has them."""
    if dtype == "bool":
        return rng.random(shape) < 0.5
    return (
        rng.permutation(np.arange(np.prod(shape, dtype=int)) % 251 - (0 if dtype == "uint8" else 125))
        .astype(dtype)
        .reshape(shape)
    )


def check(spec: Any, operands: list[np.ndarray], source: Callable[[int, Index], Any], context: object) -> None:
    """reference() and the CPU plan on all runs against `source`, which gives the value of a run's output index."""
    runs = max(x.shape[0] for x in operands)
    dtype = operands[0].dtype
    want = np.empty((runs, *spec.output_shape), dtype)
    for run, *index in np.ndindex(*want.shape):
        want[(run, *index)] = source(run, tuple(index))
    assert_equal_bits(reference(spec, EXACT, *operands), want, (context, spec))
    plan = cpu.pack(spec, EXACT, [None] * len(operands))
    got = launched(plan, [x.copy() for x in operands], want.shape, dtype, np.random.default_rng(0))
    assert_equal_bits(got, want, (plan.name, context, spec))


# (what it takes, the input index of an output index or None for the fill)
Place = Callable[[Index], Any]
CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], Place]] = {
    "transpose": (TransposeSpec, dict(x_shape=(2, 3, 5), perm=(2, 0, 1)), lambda i: (i[1], i[2], i[0])),
    "transpose of 4": (
        TransposeSpec,
        dict(x_shape=(1, 4, 3, 2), perm=(3, 1, 0, 2)),
        lambda i: (i[2], i[1], i[3], i[0]),
    ),
    "slice": (
        SliceSpec,
        dict(x_shape=(3, 5), starts=(1, 0), strides=(1, 1), sizes=(2, 4), out_shape=(2, 4)),
        lambda i: (i[0] + 1, i[1]),
    ),
    "strided slice": (
        StridedSliceSpec,
        dict(x_shape=(7, 5), starts=(6, 1), strides=(-3, 2), sizes=(3, 2), out_shape=(3, 1, 2)),
        lambda i: (6 - 3 * i[0], 1 + 2 * i[2]),
    ),
    "unpack": (
        UnpackSpec,
        dict(x_shape=(2, 3, 4), starts=(0, 2, 0), strides=(1, 1, 1), sizes=(2, 1, 4), out_shape=(2, 4)),
        lambda i: (i[0], 2, i[1]),
    ),
    "reverse": (
        ReverseV2Spec,
        dict(x_shape=(2, 3, 4), starts=(0, 2, 3), strides=(1, -1, -1), sizes=(2, 3, 4), out_shape=(2, 3, 4)),
        lambda i: (i[0], 2 - i[1], 3 - i[2]),
    ),
    "tile": (TileSpec, dict(x_shape=(2, 3), multiples=(3, 2)), lambda i: (i[0] % 2, i[1] % 3)),
    "broadcast": (BroadcastToSpec, dict(x_shape=(3, 1), out_shape=(2, 3, 4)), lambda i: (i[1], 0)),
    "space to depth": (
        SpaceToDepthSpec,
        dict(x_shape=(2, 4, 6, 3), block=2),
        lambda i: (i[0], 2 * i[1] + i[3] // 6, 2 * i[2] + i[3] // 3 % 2, i[3] % 3),
    ),
    "depth to space": (
        DepthToSpaceSpec,
        dict(x_shape=(2, 2, 3, 12), block=2),
        lambda i: (i[0], i[1] // 2, i[2] // 2, 6 * (i[1] % 2) + 3 * (i[2] % 2) + i[3]),
    ),
    "space to batch": (
        SpaceToBatchNdSpec,
        dict(x_shape=(2, 3, 4, 2), block=(2, 3), pads=((1, 0), (0, 2)), fill=7),
        # Image (bh * 3 + bw) * 2 + n holds the pixels at place (bh, bw) of the blocks of image n.
        lambda i: inside((i[0] % 2, 2 * i[1] + i[0] // 6 - 1, 3 * i[2] + i[0] // 2 % 3, i[3]), (2, 3, 4, 2)),
    ),
    "space to batch of rows": (
        SpaceToBatchNdSpec,
        dict(x_shape=(1, 5, 2), block=(3,), pads=((0, 1),), fill=0),
        lambda i: inside((0, 3 * i[1] + i[0], i[2]), (1, 5, 2)),
    ),
    "batch to space": (
        BatchToSpaceNdSpec,
        dict(x_shape=(12, 2, 2, 3), block=(2, 3), crops=((1, 0), (0, 2))),
        lambda i: (((i[1] + 1) % 2 * 3 + i[2] % 3) * 2 + i[0], (i[1] + 1) // 2, i[2] // 3, i[3]),
    ),
    "batch to space of rows": (
        BatchToSpaceNdSpec,
        dict(x_shape=(3, 2, 2), block=(3,), crops=((0, 1),)),
        lambda i: (i[1] % 3, i[1] // 3, i[2]),
    ),
    "padv2": (
        PadV2Spec,
        dict(x_shape=(2, 3), pads=((1, 0), (2, 1)), value=7),
        lambda i: inside((i[0] - 1, i[1] - 2), (2, 3)),
    ),
    "mirror by the edge": (
        MirrorPadSpec,
        dict(x_shape=(3, 4), pads=((2, 1), (3, 0)), symmetric=False),
        lambda i: (2 - i[0] if i[0] < 2 else i[0] - 2 if i[0] < 5 else 1, abs(i[1] - 3)),
    ),
    "mirror with the edge": (
        MirrorPadSpec,
        dict(x_shape=(3, 2), pads=((3, 1), (0, 2)), symmetric=True),
        lambda i: (2 - i[0] if i[0] < 3 else min(i[0] - 3, 2), i[1] if i[1] < 2 else 3 - i[1]),
    ),
}


def inside(index: Index, shape: Index) -> Index | None:
    return index if all(0 <= i < size for i, size in zip(index, shape, strict=True)) else None


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ANY)
def test_places(name: str, dtype: str, seed: int) -> None:
    spec_type, fields, place = CASES[name]
    spec = spec_type(**fields, dtype=np.dtype(dtype))
    x = numbers(np.random.default_rng(seed), (3, *spec.x_shape), dtype)
    fill = getattr(spec, "fill", getattr(spec, "value", None))

    def source(run: int, index: Index) -> Any:
        at = place(index)
        return fill if at is None else x[(run, *at)]

    check(spec, [x], source, f"seed {seed}")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pack(axis: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = PackSpec(x_shape=(2, 3), dtype=INT8, count=3, axis=axis)
    inputs = [numbers(rng, (4, 2, 3), "int8") for _ in range(3)]
    check(
        spec,
        inputs,
        lambda run, i: inputs[i[axis]][(run, *i[:axis], *i[axis + 1 :])],
        f"seed {seed}",
    )
    constants = [None, inputs[1][0], None]
    given = [x if c is None else c for x, c in zip(inputs, constant_operands(spec, constants), strict=True)]
    want = np.stack([inputs[0], np.broadcast_to(inputs[1][:1], inputs[0].shape), inputs[2]], axis=axis + 1)
    assert_equal_bits(reference(spec, EXACT, *given), want, f"seed {seed}")


@pytest.mark.parametrize("index_dtype", ["int16", "int32", "int64"])
@pytest.mark.parametrize(
    ("x_shape", "indices_shape", "axis", "batch_dims"),
    [
        ((5,), (3,), 0, 0),
        ((5, 3), (2, 2), 0, 0),
        ((2, 5, 3), (4,), 1, 0),
        ((2, 5, 3), (), 1, 0),
        ((2, 5, 3), (2, 4), 1, 1),
        ((2, 4, 5, 3), (2, 2), 2, 1),
        ((2, 3, 5), (2, 3, 1, 2), 2, 2),
    ],
)
def test_gather(x_shape: Index, indices_shape: Index, axis: int, batch_dims: int, index_dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = GatherSpec(
        x_shape=x_shape,
        dtype=INT8,
        indices_shape=indices_shape,
        indices_dtype=np.dtype(index_dtype),
        axis=axis,
        batch_dims=batch_dims,
    )
    x = numbers(rng, (3, *x_shape), "int8")
    indices = rng.integers(0, x_shape[axis], (3, *indices_shape)).astype(index_dtype)
    picked = len(indices_shape) - batch_dims

    for own_indices in (True, False):
        used = indices if own_indices else indices[:1]

        def source(run: int, i: Index, used: np.ndarray = used) -> Any:
            chosen = used[(min(run, used.shape[0] - 1), *i[:batch_dims], *i[axis : axis + picked])]
            return x[(run, *i[:axis], int(chosen), *i[axis + picked :])]

        check(spec, [x, used], source, f"seed {seed}")
    # A table that is constant, as an embedding is.
    want = np.concatenate([reference(spec, EXACT, x[:1], indices[run : run + 1]) for run in range(3)])
    assert_equal_bits(reference(spec, EXACT, x[:1], indices), want, f"seed {seed}")


@pytest.mark.parametrize(("indices_shape", "depth"), [((4,), 2), ((2, 3), 1), ((), 3)])
def test_gather_nd(indices_shape: Index, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x_shape = (4, 3, 5)
    spec = GatherNdSpec(
        x_shape=x_shape, dtype=INT8, indices_shape=(*indices_shape, depth), indices_dtype=np.dtype(np.int32)
    )
    x = numbers(rng, (3, *x_shape), "int8")
    indices = np.stack([rng.integers(0, size, (3, *indices_shape)) for size in x_shape[:depth]], -1).astype(np.int32)
    rank = len(indices_shape)
    check(
        spec,
        [x, indices],
        lambda run, i: x[(run, *indices[(run, *i[:rank])].tolist(), *i[rank:])],
        f"seed {seed}",
    )


def test_indices_outside_are_errors_while_running() -> None:
    spec = GatherSpec(x_shape=(4,), dtype=INT8, indices_shape=(2,), indices_dtype=np.dtype(np.int32), axis=0)
    x = np.zeros((1, 4), np.int8)
    for bad in (4, -1):
        with pytest.raises(InputValueError, match=f"GATHER: index {bad} of dimension 0, which has 4 elements"):
            reference(spec, EXACT, x, np.array([[0, bad]], np.int32))
    nd = GatherNdSpec(x_shape=(4, 2), dtype=INT8, indices_shape=(2,), indices_dtype=np.dtype(np.int32))
    with pytest.raises(InputValueError, match="GATHER_ND: index 2 of dimension 1"):
        reference(nd, EXACT, np.zeros((1, 4, 2), np.int8), np.array([[0, 2]], np.int32))


def test_micro_takes_int32_indices_alone() -> None:
    for op, more in ((GatherSpec, {"axis": 0}), (GatherNdSpec, {})):
        for index in ("int16", "int32", "int64"):
            spec = op(x_shape=(4,), dtype=INT8, indices_shape=(2, 1), indices_dtype=np.dtype(index), **more)
            assert profiles.resolve("litert_ref", spec) == EXACT
            if index == "int32":
                assert profiles.resolve("tflm", spec) == EXACT
            else:
                with pytest.raises(UnsupportedModel, match="TFLite Micro has int32 indices alone"):
                    profiles.resolve("tflm", spec)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("out_dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_cast(dtype: str, out_dtype: str) -> None:
    values = (
        [0, 1]
        if dtype == "bool"
        else [np.iinfo(dtype).min, -1 if dtype != "uint8" else 200, 0, 1, 127, np.iinfo(dtype).max]
    )
    bits = {"int8": 8, "uint8": 8, "int32": 32, "int64": 64}

    def converted(value: int) -> int:
        if out_dtype == "bool":
            return value != 0
        low = 0 if out_dtype == "uint8" else -(1 << (bits[out_dtype] - 1))
        return (value - low) % (1 << bits[out_dtype]) + low

    spec = CastSpec(shape=(len(values),), dtype=np.dtype(dtype), out_dtype=np.dtype(out_dtype))
    want = np.array([[converted(int(value)) for value in values]], out_dtype)
    assert_equal_bits(reference(spec, EXACT, np.array([values], dtype)), want, spec)


# ------------------------------------------------------------------------------------------------------- in networks


def test_operators_of_several_outputs(seed: int) -> None:
    """SPLIT, SPLIT_V and UNPACK: parts with lives of their own, one of them an output, one unused."""
    net = Network()
    x = net.tensor(int8((1, 2, 9)))
    parts = [net.tensor(int8((1, 2, 3))) for _ in range(3)]
    net.operator("SPLIT", [net.tensor(constant(2)), x], parts[0], schema.SplitOptionsT(numSplits=3), version=1)
    net.graph.operators[-1].outputs = parts
    rows = [net.tensor(int8((1, 3))) for _ in range(2)]
    net.operator("UNPACK", [parts[1]], rows[0], schema.UnpackOptionsT(num=2, axis=1), version=1)
    net.graph.operators[-1].outputs = rows
    total = net.operator("MAXIMUM", [rows[0], rows[1]], int8((1, 3)), schema.MaximumMinimumOptionsT(), version=1)
    model = gpuq.load(net.build([x], [parts[2], total]), device="cpu")
    codes = np.random.default_rng(seed).integers(-128, 128, (4, 2, 9)).astype(np.int8)
    last, largest = model(codes)
    assert_equal_bits(last, codes[:, :, 6:], "the last part")
    assert_equal_bits(largest, codes[:, :, 3:6].max(axis=1), "the larger rows")
    seen = model.tensors(codes)
    assert_equal_bits(seen[parts[0]], codes[:, :, :3], "an unused part")
    assert [node.spec.op for node in model.graph.nodes] == ["SPLIT"] * 3 + ["UNPACK"] * 2 + ["MAXIMUM"]


def test_the_files_batch_stays_within_a_run(seed: int) -> None:
    """A file of batch 2: its first dimension is moved, runs are not."""
    net = Network()
    x = net.tensor(int8((2, 3)))
    y = net.operator("TRANSPOSE", [x, net.tensor(constant([1, 0]))], int8((3, 2)), schema.TransposeOptionsT())
    codes = np.random.default_rng(seed).integers(-128, 128, (6, 3)).astype(np.int8)
    got = gpuq.load(net.build([x], [y]), device="cpu")(codes)
    assert_equal_bits(got, np.concatenate([codes[i : i + 2].T for i in (0, 2, 4)]), "three runs")


def test_constants_beyond_shapes_are_folded_too() -> None:
    """A SPLIT of a constant is gone, and what hangs on it is computed once."""
    net = Network()
    x = net.tensor(int8((1, 2)))
    table = net.tensor(int8((1, 4), data=np.array([[1, -2, 3, -4]], np.int8)))
    parts = [net.tensor(int8((1, 2))) for _ in range(2)]
    net.operator("SPLIT", [net.tensor(constant(1)), table], parts[0], schema.SplitOptionsT(numSplits=2), version=1)
    net.graph.operators[-1].outputs = parts
    reversed_part = net.operator("REVERSE_V2", [parts[1], net.tensor(constant([1]))], int8((1, 2)), version=1)
    y = net.operator("MINIMUM", [x, reversed_part], int8((1, 2)), schema.MaximumMinimumOptionsT(), version=1)
    model = gpuq.load(net.build([x], [y]), device="cpu")
    assert model(np.array([[0, 5], [-9, 1]], np.int8)).tolist() == [[-4, 3], [-9, 1]]
    assert model.graph.folded == tuple(parts)
    assert [step.nodes[0].spec.op for step in model.program.steps] == ["MINIMUM"]


def test_gather_of_a_constant_table() -> None:
    net = Network()
    indices = net.tensor(TensorDef((1, 2), np.int32))
    table = net.tensor(int8((3, 2), data=np.arange(6, dtype=np.int8).reshape(3, 2)))
    y = net.operator("GATHER", [table, indices], int8((1, 2, 2)), schema.GatherOptionsT(axis=0), version=1)
    model = gpuq.load(net.build([indices], [y]), device="cpu")
    assert model(np.array([[2, 0], [1, 1]], np.int32)).tolist() == [[[4, 5], [0, 1]], [[2, 3], [2, 3]]]
    with pytest.raises(InputValueError, match="index 3 of dimension 0"):
        model(np.array([[3, 0]], np.int32))


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("spec_type", "fields", "message"),
    [
        (TransposeSpec, dict(x_shape=(2, 3), perm=(0,)), "must name each of 2 dimensions once"),
        (
            SliceSpec,
            dict(x_shape=(2,), starts=(1,), strides=(1,), sizes=(2,), out_shape=(2,)),
            "elements 1 to 2 of dimension 0, which has 2",
        ),
        (SliceSpec, dict(x_shape=(2,), starts=(0,), strides=(1,), sizes=(0,), out_shape=(0,)), "is empty"),
        (SliceSpec, dict(x_shape=(2,), starts=(0,), strides=(0,), sizes=(1,), out_shape=(1,)), "must not be 0"),
        (SliceSpec, dict(x_shape=(2,), starts=(0,), strides=(1,), sizes=(2,), out_shape=(3,)), "do not make 3"),
        (SliceSpec, dict(x_shape=(2, 2), starts=(0,), strides=(1,), sizes=(2,), out_shape=(2,)), "for rank 2"),
        (PackSpec, dict(x_shape=(2,), count=2, axis=2), "axis 2"),
        (TileSpec, dict(x_shape=(2,), multiples=(0,)), "must be positive"),
        (BroadcastToSpec, dict(x_shape=(2,), out_shape=(3,)), "does not broadcast"),
        (BroadcastToSpec, dict(x_shape=(2, 2), out_shape=(2,)), "does not broadcast"),
        (SpaceToDepthSpec, dict(x_shape=(1, 3, 2, 1), block=2), "multiple of block 2"),
        (SpaceToDepthSpec, dict(x_shape=(3, 2, 1), block=1), "rank 4"),
        (DepthToSpaceSpec, dict(x_shape=(1, 1, 1, 6), block=2), "multiple of 2"),
        (SpaceToBatchNdSpec, dict(x_shape=(1, 3, 1), block=(2,), pads=((0, 0),)), "padded size 3"),
        (SpaceToBatchNdSpec, dict(x_shape=(1, 3, 1), block=(1, 1), pads=((0, 0),)), "2 block sizes"),
        (SpaceToBatchNdSpec, dict(x_shape=(1, 3, 1), block=(0,), pads=((0, 0),)), "must be positive"),
        (BatchToSpaceNdSpec, dict(x_shape=(3, 1, 1), block=(2,), crops=((0, 0),)), "multiple of block"),
        (BatchToSpaceNdSpec, dict(x_shape=(2, 1, 1), block=(2,), crops=((-1, 0),)), "must not be negative"),
        (PadV2Spec, dict(x_shape=(2,), pads=((0, -1),), value=0), "must not be negative"),
        (PadV2Spec, dict(x_shape=(2,), pads=(), value=0), "0 pairs of pads"),
        (MirrorPadSpec, dict(x_shape=(2,), pads=((2, 0),), symmetric=False), "at most 1"),
        (MirrorPadSpec, dict(x_shape=(2,), pads=((0, 3),), symmetric=True), "at most 2"),
    ],
)
def test_specs_refuse(spec_type: type[MovementSpec], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        spec_type(**fields, dtype=INT8)
    with pytest.raises(InputTypeError, match="float16"):
        spec_type(**(fields | dict(dtype=np.dtype("float16"))))
