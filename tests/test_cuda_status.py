"""Data that only a running kernel can refuse: indices outside their dimension, integer divisors of 0.

Kernels alone, run thread by thread on the CPU, then networks as callers see them, through a stand-in for CuPy.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq.cuda import gather, numbers
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.plans import layer_of
from gpuq.cuda.status import CheckingLayer, clear_launch
from gpuq.errors import InputValueError
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.div import DivSpec, quotients
from gpuq.ops.float32.elementwise import BINARY_SPECS
from gpuq.ops.gather import GatherNdSpec, GatherSpec
from gpuq.ops.registry import reference
from gpuq.ops.spec import INT8, INT16, INT32, INT64
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import run_layer
from .fake_cupy import FakeCupy, Stream
from .host_cuda.runner import HostLauncher
from .networks import Network, int8
from .peers.one_operator import TensorDef, constant
from .test_cuda_executor import gpu, host

__all__ = ["gpu", "host", "launcher"]

EXACT = Rule(Rounding.EXACT)
DTYPES = ("int8", "int16", "int32", "int64", "float32")
Made = tuple[Any, np.ndarray, np.ndarray]


def gathered(rng: np.random.Generator, dtype: np.dtype[Any], index: np.dtype[Any]) -> Made:
    shape = (*(int(n) for n in rng.integers(1, 5, int(rng.integers(0, 4)))), int(rng.choice([1, 2, 3, 4, 8, 16])))
    axis = int(rng.integers(len(shape)))
    batch_dims = int(rng.integers(axis + 1))
    picked = tuple(int(n) for n in rng.integers(1, 5, int(rng.integers(0 if batch_dims else 1, 3))))
    spec = GatherSpec(
        x_shape=shape,
        dtype=dtype,
        indices_shape=(*shape[:batch_dims], *picked),
        indices_dtype=index,
        axis=axis,
        batch_dims=batch_dims,
    )
    runs = int(rng.integers(1, 4))
    indices = rng.integers(0, shape[axis], (runs, *spec.indices_shape)).astype(index)
    return spec, rng.integers(0, 100, (runs, *shape)).astype(dtype), indices


def gathered_nd(rng: np.random.Generator, dtype: np.dtype[Any], index: np.dtype[Any]) -> Made:
    shape = (*(int(n) for n in rng.integers(1, 5, int(rng.integers(0, 4)))), int(rng.choice([1, 2, 3, 4, 8, 16])))
    depth, rows = int(rng.integers(1, len(shape) + 1)), int(rng.integers(1, 6))
    spec = GatherNdSpec(x_shape=shape, dtype=dtype, indices_shape=(rows, depth), indices_dtype=index)
    runs = int(rng.integers(1, 4))
    indices = np.stack([rng.integers(0, size, (runs, rows)) for size in shape[:depth]], axis=-1)
    return spec, rng.integers(0, 100, (runs, *shape)).astype(dtype), indices.astype(index)


@pytest.mark.slow
@pytest.mark.parametrize("maker", [gathered, gathered_nd])
def test_computed_indices(launcher: HostLauncher, maker: Callable[..., Made], seed: int) -> None:
    rng = np.random.default_rng([seed, maker is gathered])
    for case in range(scaled(60)):
        dtype, index = np.dtype(DTYPES[case % len(DTYPES)]), (INT32, INT16, INT64)[case % 3]
        spec, x, indices = maker(rng, dtype, index)
        table = rng.random() < 0.4
        if table:
            x = x[:1]
        layer = gather.pack(spec, EXACT, [x[0] if table else None, None])
        given, status = [indices] if table else [x, indices], np.zeros(1, np.int32)
        context = f"seed {seed}, case {case}: {spec}"
        want = np.ascontiguousarray(reference(spec, EXACT, x, indices)).reshape(len(indices), -1)
        run_layer(launcher, layer, given, want, rng, context, align=16, gaps=False, status=status)
        assert status[0] == 0, context
        check_refused(launcher, rng, layer, x, indices, context)


def check_refused(
    launcher: HostLauncher,
    rng: np.random.Generator,
    layer: gather.GatherLayer,
    x: np.ndarray,
    indices: np.ndarray,
    context: str,
) -> None:
    """With indices outside the tensor, near and far, the nearest are taken, and the first dimension is named."""
    spec, info = layer.spec, np.iinfo(indices.dtype)
    sizes = np.array(spec.x_shape[layer.first_axis : layer.first_axis + layer.depth])
    if isinstance(spec, GatherSpec):
        sizes = sizes[0]
    bad = indices.copy()
    for place in rng.integers(bad.size, size=2):
        bad.reshape(-1)[place] = rng.choice([-1, info.min, info.max, int(np.max(sizes))])
    nearest = np.clip(bad, 0, sizes - 1).astype(indices.dtype)
    given, status = [bad] if layer.x is not None else [x, bad], np.zeros(1, np.int32)
    want = np.ascontiguousarray(reference(spec, EXACT, x, nearest)).reshape(len(indices), -1)
    run_layer(launcher, layer, given, want, rng, context, align=16, gaps=False, status=status)
    assert bool(status[0]) is bool((bad != nearest).any())
    if status[0]:
        with pytest.raises(InputValueError) as failure:
            spec.check_indices(bad)
        # "of dimension 1, which has 3 elements": the message of the CPU, but for the index.
        assert str(layer.refusal(int(status[0]))).split(" of ", 1)[1] == str(failure.value).split(" of ", 1)[1]


@pytest.mark.slow
@pytest.mark.parametrize("op", ["DIV", "FLOOR_DIV"])
def test_divisors(launcher: HostLauncher, op: str, seed: int) -> None:
    rng = np.random.default_rng([seed, op == "DIV"])
    for case in range(scaled(20)):
        shape = tuple(int(n) for n in rng.integers(1, 5, 3))
        other = (shape, shape[2:], (shape[0], 1, shape[2]))[case % 3]
        spec = BINARY_SPECS[op](a_shape=shape, b_shape=other, dtype=INT32)
        runs = int(rng.integers(1, 4))
        a = rng.integers(-(2**31), 2**31, (runs, *shape)).astype(np.int32)
        b = rng.choice(np.array([-(2**31), -7, -2, 3, 2**31 - 1], np.int32), (runs, *other))
        for zeros in (False, True):
            if zeros:
                b.reshape(-1)[rng.integers(b.size)] = 0
            constants = (None, b[0] if case % 2 else None)
            if case % 2:
                b = b[:1]
            layer, status = numbers.pack(spec, EXACT, constants), np.zeros(1, np.int32)
            assert layer is not None
            assert isinstance(layer, CheckingLayer) is (zeros or case % 2 == 0)
            given = [a] if case % 2 else [a, b]
            want = reference(spec, EXACT, a, np.where(b == 0, np.int32(1), b))
            run_layer(launcher, layer, given, want, rng, f"seed {seed}, case {case}", status=status)
            assert status[0] == zeros
    assert isinstance(layer, CheckingLayer)
    assert str(layer.refusal(1)) == f"{op}: division by 0, as the runtimes refuse it for integers"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_quotients_of_codes(launcher: HostLauncher, dtype: str, seed: int) -> None:
    rng, info, rule = np.random.default_rng([seed, len(dtype)]), np.iinfo(dtype), Rule(Rounding.V1, Product.ALL_F32)
    for case in range(scaled(16)):
        zeros = [0] * 3 if dtype == "int16" else [int(zero) for zero in rng.integers(info.min, info.max + 1, 3)]
        # Quotients as wide as codes, powers of two with ties among them; or any factor, down to where 0 is left.
        exponents = [*rng.uniform(-3, 0, 2), rng.uniform(-20, 6)] if case % 2 else rng.integers(-4, 4, 3)
        scales = [float(2.0**exponent) for exponent in exponents]
        a_quant, b_quant, out_quant = (Quant(*each, dtype=dtype) for each in zip(scales, zeros, strict=True))
        shape = tuple(int(n) for n in rng.integers(1, 9, 3))
        other = (shape, shape[2:], (shape[0], 1, shape[2]))[case % 3]
        spec = DivSpec(
            a_shape=shape,
            b_shape=other,
            a_quant=a_quant,
            b_quant=b_quant,
            out_quant=out_quant,
            activation=(None, "relu6")[case % 2],
        )
        runs = int(rng.integers(1, 4))
        a = random_codes(rng, (runs, *shape), dtype)
        b = random_codes(rng, (runs, *other), dtype)
        a.reshape(-1)[rng.integers(a.size)] = zeros[0]
        step = zeros[1] + (1 if zeros[1] < info.max else -1)
        b = np.where(b == zeros[1], step, b).astype(dtype)
        context = f"seed {seed}, case {case}: {spec}"
        for fixed in (None, b[0]):
            used = b if fixed is None else b[:1]
            layer, status = layer_of(spec, rule, [None, fixed]), np.zeros(1, np.int32)
            given, want = [a] if fixed is not None else [a, b], reference(spec, rule, a, used)
            assert isinstance(layer, CheckingLayer) is (fixed is None)
            run_layer(launcher, layer, given, want, rng, context, align=a.itemsize, status=status)
            assert status[0] == 0, context
        b.reshape(-1)[rng.integers(b.size)] = zeros[1]
        layer = layer_of(spec, rule, [None, None])
        want = quotients(spec, rule, *spec.aligned(a, b))
        run_layer(launcher, layer, [a, b], want, rng, context, align=a.itemsize, status=status)
        assert status[0] == 1, context
        assert isinstance(layer, CheckingLayer)
        assert "DIV: division by 0" in str(layer.refusal(1))


def test_nothing_by_anything_is_nothing() -> None:
    # Of a factor so small that the last shift has more than 63 bits.
    quant, large = Quant(2.0**-20), Quant(2.0**10)
    spec = DivSpec(a_shape=(3,), b_shape=(3,), a_quant=quant, b_quant=Quant(1.0), out_quant=large)
    a, b = np.array([[0, 0, 127]], np.int8), np.array([[1, 100, 1]], np.int8)
    assert reference(spec, Rule(Rounding.V1, Product.ALL_F32), a, b).tolist() == [[0, 0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_floors_of_short_integers(launcher: HostLauncher, dtype: str, seed: int) -> None:
    rng, info = np.random.default_rng([seed, len(dtype)]), np.iinfo(dtype)
    spec = BINARY_SPECS["FLOOR_DIV"](a_shape=(5, 60), b_shape=(60,), dtype=np.dtype(dtype))
    a, b = random_codes(rng, (2, 5, 60), dtype), random_codes(rng, (2, 60), dtype)
    b = np.where(b == 0, -1, b).astype(dtype)
    a[:, 0], b[:, 0] = info.min, -1
    for zero in (False, True):
        b.reshape(-1)[1] = 0 if zero else 5
        layer, status = layer_of(spec, EXACT, [None, None]), np.zeros(1, np.int32)
        want = reference(spec, EXACT, a, np.where(b == 0, 1, b).astype(dtype))
        run_layer(launcher, layer, [a, b], want, rng, f"seed {seed}", align=a.itemsize, status=status)
        assert status[0] == zero


@pytest.mark.parametrize(
    ("op", "wanted"), [("DIV", [3, -3, -3, 3, 0, 1, -(2**31), 5]), ("FLOOR_DIV", [3, -4, -4, 3, -1, 1, -(2**31), 5])]
)
def test_quotients_on_paper(launcher: HostLauncher, op: str, wanted: list[int]) -> None:
    # The lowest number by -1 wraps; of 5 by 0 nothing is said.
    a = np.array([[7, -7, 7, -7, 5, -(2**31), -(2**31), 5]], np.int32)
    b = np.array([[2, 2, -2, -2, -(2**31), -(2**31), -1, 0]], np.int32)
    spec, want = BINARY_SPECS[op](a_shape=(8,), b_shape=(8,), dtype=INT32), np.array([wanted], np.int32)
    assert_equal_bits(reference(spec, EXACT, a, np.where(b == 0, np.int32(1), b)), want, op)
    status = np.zeros(1, np.int32)
    layer = numbers.pack(spec, EXACT, (None, None))
    run_layer(launcher, layer, [a, b], want, np.random.default_rng(1), op, gaps=False, status=status)
    assert status[0] == 1


def test_words_are_cleared(launcher: HostLauncher) -> None:
    words = np.arange(1, 301, dtype=np.int32)
    launcher.launch(clear_launch(words[:200]))
    assert words.tolist() == [0] * 200 + list(range(201, 301))


def test_nothing_to_do_and_too_much() -> None:
    spec = GatherSpec(x_shape=(4,), dtype=INT8, indices_shape=(2, 3), indices_dtype=INT32, axis=0)
    layer = gather.pack(spec, EXACT, [None, None])
    choice, many = layer.choices(1, Traits(80, 4))[0], ImageLayout.contiguous(1 << 37, 1, 1, 6)
    with pytest.raises(InputValueError, match="GATHER: .* items in one launch"):
        layer.launches(choice, [many, many], many)
    for empty in (replace(spec, indices_shape=(0,)), replace(spec, x_shape=(0,))):
        with pytest.raises(InputValueError, match="GATHER: there is nothing in a tensor"):
            gather.pack(empty, EXACT, [None, None])
    nobody_asks = layer.launches(choice, [ImageLayout.contiguous(1, 1, 1, 4)] * 2, ImageLayout.contiguous(1, 1, 1, 6))
    bound = nobody_asks[0].bound({name: Pointer(None) for name in ("x", "x1", "y", "axes", "status")})
    assert Pointer(None) in bound.arguments


# -------------------------------------------------------------------------------------------------- whole networks


def looking_up() -> bytes:
    """Rows of a table by indices that are computed, divided by a divisor that is given."""
    net = Network()
    x, divisor = net.tensor(TensorDef((1, 2), np.int32)), net.tensor(TensorDef((1, 2), np.int32))
    table = net.tensor(int8((3, 2), data=np.arange(6, dtype=np.int8).reshape(3, 2)))
    one = net.tensor(constant(1))
    indices = net.operator("SUB", [x, one], TensorDef((1, 2), np.int32), schema.SubOptionsT(), version=1)
    rows = net.operator("GATHER", [table, indices], int8((1, 2, 2)), schema.GatherOptionsT(axis=0), version=1)
    shares = net.operator("DIV", [x, divisor], TensorDef((1, 2), np.int32), schema.DivOptionsT(), version=1)
    return net.build([x, divisor], [rows, shares])


def numbers_of(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(rows, np.int32)


GOOD = (numbers_of((3, 1), (2, 2)), numbers_of((1, 2), (-1, 3)))
OUTSIDE = (numbers_of((3, 1), (2, 4)), GOOD[1])
BY_ZERO = (GOOD[0], numbers_of((1, 0), (1, 1)))
INDEX = r"GATHER: an index outside of dimension 0, which has 3 elements"
DIVISOR = r"DIV: division by 0, as the runtimes refuse it for integers"


def check_good(model: Any) -> None:
    rows, shares = model(*GOOD)
    assert rows.tolist() == [[[4, 5], [0, 1]], [[2, 3], [2, 3]]]
    assert shares.tolist() == [[3, 0], [-2, 0]]


@pytest.mark.parametrize("fuse", [True, False])
def test_numpy_calls_raise(gpu: FakeCupy, fuse: bool) -> None:
    model = gpuq.load(looking_up(), device="cuda", fuse=fuse)
    cpu = gpuq.load(looking_up(), device="cpu")
    for given, text in ((OUTSIDE, INDEX), (BY_ZERO, DIVISOR), ((OUTSIDE[0], BY_ZERO[1]), INDEX)):
        with pytest.raises(InputValueError, match=text):
            model(*given)
        with pytest.raises(InputValueError, match=text):
            model.tensors(*given)
        with pytest.raises(InputValueError, match=text.split(":")[0]):
            cpu(*given)
        check_good(model)
        for index, value in cpu.tensors(*GOOD).items():
            assert_equal_bits(model.tensors(*GOOD)[index], value, f"tensor {index}")
    session = model.session(2)
    with pytest.raises(InputValueError, match=INDEX):
        session(*OUTSIDE)
    check_good(session)
    assert len(model.program.checking) == 2
    # Programs without such steps do not pay.
    assert gpuq.load(moving(), device="cuda").program.status_bytes == 0


def moving() -> bytes:
    net = Network()
    x = net.tensor(int8((1, 4)))
    return net.build([x], [net.operator("NEG", [x], int8((1, 4)), version=1)])


def test_batches_raise_in_their_turn(gpu: FakeCupy) -> None:
    model = gpuq.load(looking_up(), device="cuda")
    for kind in (lambda x: x, gpu.asarray):
        batches = [tuple(kind(x) for x in each) for each in (GOOD, GOOD, BY_ZERO, GOOD)]
        results = model.run_batches(batches)
        assert [len(next(results)) for _ in range(2)] == [2, 2]
        with pytest.raises(InputValueError, match=DIVISOR):
            next(results)
    check_good(model)


def test_in_parts_and_in_turns(gpu: FakeCupy) -> None:
    program = gpuq.load(looking_up(), device="cuda").program
    limit = program.constant_bytes + program.status_bytes + program.arena_bytes + program.workspace_bytes(1)
    model = gpuq.load(looking_up(), device="cuda", memory_limit=limit)
    assert model.largest_batch == 1
    failures = []
    for given, text in ((OUTSIDE, INDEX), (BY_ZERO, DIVISOR)):
        with pytest.raises(InputValueError, match=text) as failure:
            model(*given)
        # Whoever holds the error does not hold the only workspace.
        failures.append(failure)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(check_good, model).result(timeout=60)
    results = model.run_batches([GOOD, BY_ZERO])
    assert next(results)[1].tolist() == [[3, 0], [-2, 0]]
    with pytest.raises(InputValueError, match=DIVISOR):
        next(results)


def test_arrays_on_the_device_take_what_is_nearest(gpu: FakeCupy) -> None:
    model = gpuq.load(looking_up(), device="cuda")
    with Stream(41):
        rows, _ = model(*(gpu.asarray(x) for x in OUTSIDE))
        assert rows.get().tolist() == [[[4, 5], [0, 1]], [[2, 3], [4, 5]]]
        _, shares = model(*(gpu.asarray(x) for x in BY_ZERO))
        assert shares.get().tolist() == [[3, 1], [2, 2]]
    check_good(model)
