"""Networks on a GPU as callers see them, through a stand-in for CuPy: arrays, streams, graphs, memory, refusals."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq.cuda import affine, launch
from gpuq.cuda import compile as compiling
from gpuq.errors import DeviceLost, DeviceOutOfMemory, InputTypeError, InputValueError
from gpuq.model.executor import PIPELINE_DEPTH
from gpuq.resources import resource

from . import fake_cupy
from .compare import assert_equal_bits
from .fake_cupy import CUDADriverError, FakeCupy, Stream, Tensor
from .host_cuda.runner import HostLauncher, require_tools
from .memory import leaked_blocks
from .networks import Network, int8, small_network

DIGITS = resource("examples", "digits", "digits_int8.tflite")


@pytest.fixture(scope="module")
def host() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher() as started:
        yield started


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, host: HostLauncher) -> Iterator[FakeCupy]:
    yield fake_cupy.install(monkeypatch, host, gpus=2)
    launch.launcher.cache_clear()
    affine._constants.cache_clear()


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (count, 6, 6, 3)).astype(np.int8)


def expected(x: np.ndarray) -> Any:
    return gpuq.load(small_network(), device="cpu")(x)


def test_numpy_in_numpy_out(gpu: FakeCupy, seed: int) -> None:
    model, x = gpuq.load(small_network(), device="cuda"), images(3, seed)
    assert str(model.device) == "cuda:0"
    got = model(x)
    assert type(got) is np.ndarray
    assert_equal_bits(got, expected(x), f"seed {seed}")
    assert len(gpu.launched) >= len(model.program.steps)
    assert gpuq.load(small_network()).device.kind == "cuda", "auto takes the GPU"
    assert_equal_bits(gpuq.load(small_network(), device="cuda:1")(x), expected(x), "cuda:1")
    assert gpu.launched[-1][2] == 1


def test_a_call_replays_one_graph_and_allocates_outputs_only(gpu: FakeCupy, seed: int) -> None:
    model, x = gpuq.load(small_network(), device="cuda"), gpu.asarray(images(4, seed))
    want = expected(x.get())
    assert_equal_bits(model(x).get(), want, f"seed {seed}")
    steps = len(gpu.launched)
    gpu.launched.clear()
    gpu.allocated.clear()
    out = model(x)
    assert isinstance(out, fake_cupy.ndarray)
    assert_equal_bits(out.get(), want, f"seed {seed}")
    assert len(gpu.launched) == steps
    assert gpu.allocated == [out.nbytes]


@pytest.mark.parametrize("fuse", [True, False])
def test_looking_at_tensors(gpu: FakeCupy, fuse: bool, seed: int) -> None:
    model, x = gpuq.load(DIGITS.read_bytes(), device="cuda", fuse=fuse), np.zeros((2, 8, 8, 1), np.int8)
    cpu = gpuq.load(DIGITS.read_bytes(), device="cpu")
    model(x)
    called = [name for name, _, _ in gpu.launched]
    seen, want = model.tensors(x), cpu.tensors(x)
    assert set(seen) == set(want)
    for index, value in want.items():
        assert_equal_bits(seen[index], value, f"tensor {index}, seed {seed}")
    looked = [name for name, _, _ in gpu.launched][len(called) :]
    # Operators that a call joins run by themselves here: there are tensors between them.
    assert (looked == called) is not fuse
    gpu.launched.clear()
    model(x)
    assert [name for name, _, _ in gpu.launched] == called, "looking changes nothing"


def test_streams(gpu: FakeCupy, seed: int) -> None:
    model, x = gpuq.load(small_network(), device="cuda"), images(2, seed)
    want, on_gpu = expected(x), gpu.asarray(x)
    model(on_gpu)
    gpu.launched.clear()
    with Stream(41):
        assert_equal_bits(model(on_gpu).get(), want, f"seed {seed}")
    assert {stream for _, stream, _ in gpu.launched} == {41}
    other = Stream(42)
    with other:
        model(on_gpu)
    assert 41 in other.waited, "the workspace may still be at work on the stream of the call before"


def test_results_are_of_the_inputs_kind(gpu: FakeCupy, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    # A library as torch is one: arrays that its module's from_dlpack makes of others.
    class Ours(Tensor):
        pass

    Ours.__module__ = "fakelib.arrays"
    monkeypatch.setitem(sys.modules, "fakelib", SimpleNamespace(from_dlpack=Ours))
    model, x = gpuq.load(small_network(), device="cuda"), images(2, seed)
    given = Ours(gpu.asarray(x))
    name = model.get_input_details()[0]["name"]
    found = [model(given), model(**{name: given}), model.session(2)(given), *model.run_batches([given, {name: given}])]
    found += model.get_signature_runner()(input_0=given).values()
    for got in found:
        assert type(got) is Ours
        assert_equal_bits(got.array.get(), expected(x), f"seed {seed}")
    quant = gpuq.Quant(0.5, 3)
    real = gpuq.dequantize(given, quant)
    assert type(real) is Ours
    assert type(gpuq.quantize(real, quant)) is Ours


def test_tensors_of_other_libraries(gpu: FakeCupy, seed: int) -> None:
    model, x = gpuq.load(small_network(), device="cuda"), images(2, seed)
    got = model(Tensor(gpu.asarray(x)))
    assert isinstance(got, fake_cupy.ndarray)
    assert_equal_bits(got.get(), expected(x), f"seed {seed}")
    quant = model.graph.tensors[model.graph.inputs[0]].quant
    assert quant is not None
    real = gpuq.dequantize(x, quant)
    assert_equal_bits(model(gpu.asarray(real), quantize=True).get(), expected(x), f"seed {seed}")


def test_many_threads(gpu: FakeCupy, seed: int) -> None:
    model = gpuq.load(small_network(), device="cuda")
    batches = [images(1 + number % 3, seed + number) for number in range(16)]
    want = [expected(x) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        for number, got in enumerate(pool.map(model, batches)):
            assert_equal_bits(got, want[number], f"batch {number}, seed {seed}")


def test_run_batches(gpu: FakeCupy, seed: int) -> None:
    model = gpuq.load(small_network(), device="cuda")
    batches = [images(1 + number % 3, seed + number) for number in range(10)]
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for batch in batches:
            taken += 1
            yield batch

    results = []
    for number, got in enumerate(model.run_batches(source())):
        assert taken <= number + 1 + PIPELINE_DEPTH, "no more batches are under way than there is memory for"
        results.append(got)
    for number, got in enumerate(results):
        assert_equal_bits(got, expected(batches[number]), f"batch {number}, seed {seed}")
    assert len({stream for _, stream, _ in gpu.launched}) == PIPELINE_DEPTH
    # Device arrays, and a caller who stops early.
    for got in model.run_batches(gpu.asarray(batch) for batch in batches):
        assert_equal_bits(got.get(), expected(batches[0]), f"seed {seed}")
        break
    assert_equal_bits(model(batches[1]), expected(batches[1]), "after stopping early")


def test_out_of_memory_splits_the_batch(gpu: FakeCupy, seed: int) -> None:
    model, x = gpuq.load(small_network(), device="cuda"), images(11, seed)
    program = model.program
    gpu.memory_limit = program.arena_bytes * 3 + program.workspace_bytes(3)
    assert_equal_bits(model(x), expected(x), f"seed {seed}")
    assert model.largest_batch == 3
    assert_equal_bits(np.concatenate(list(model.run_batches([x, x]))), expected(np.concatenate([x, x])), "in parts")
    gpu.memory_limit = 10
    with pytest.raises(
        DeviceOutOfMemory, match=r"a batch of 1 needs \d+ bytes, .*out of memory.*; use a smaller batch"
    ):
        model(x[:4])


def test_memory_limit(gpu: FakeCupy, seed: int) -> None:
    program = gpuq.load(small_network(), device="cuda").program
    limit = program.constant_bytes + 3 * program.arena_bytes + program.workspace_bytes(3)
    model, x = gpuq.load(small_network(), device="cuda", memory_limit=limit), images(7, seed)
    want, on_gpu = expected(x), gpu.asarray(x)
    gpu.allocated.clear()
    for got in model.run_batches([x, x[:3], x[:1], x]):
        assert_equal_bits(got, want[: len(got)], f"seed {seed}")
    assert_equal_bits(model(on_gpu).get(), want, f"seed {seed}")
    assert len(model._executor._pool) == 1
    assert max(gpu.allocated) + program.constant_bytes <= limit
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(model, [x] * 8):
            assert_equal_bits(got, want, f"seed {seed}")


def test_state(gpu: FakeCupy) -> None:
    net = Network()
    x = net.tensor(int8((1, 4), 1.0))
    state = net.tensor(int8((1, 4), 1.0, -7), is_variable=True)
    out = net.operator("ADD", [x, state], int8((1, 4), 1.0), schema.AddOptionsT())
    model = gpuq.load(net.build([x], [out, state]), device="cuda")
    codes = np.array([[1, 2, 3, 4]], np.int8)
    total, kept = model(codes)
    assert total.tolist() == [[1, 2, 3, 4]]
    assert kept.tolist() == [[-7] * 4]
    for workspace in model._executor._pool:
        workspace.view(state)[...] = 9  # what an operator that writes state would leave behind
    assert model(codes)[1].tolist() == [[-7] * 4]
    session = model.session()
    session._workspace.view(state)[...] = 3
    assert session(codes)[0].tolist() == [[11, 12, 13, 14]]
    session.reset()
    assert session(codes)[0].tolist() == [[1, 2, 3, 4]]


def test_calls_leave_nothing_behind(gpu: FakeCupy, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    model, x = gpuq.load(small_network(), device="cuda"), gpu.asarray(images(2, seed))
    monkeypatch.setattr(compiling, "load", lambda kernel, index=0: lambda *args, **more: None)
    model(x)
    gc.collect()  # of the tests before
    held = len(fake_cupy._allocations)

    def call() -> None:
        model(x)
        gpu.allocated.clear()
        fake_cupy.current.waited.clear()

    assert leaked_blocks(call) < 50
    assert len(fake_cupy._allocations) == held


def test_refusals(gpu: FakeCupy, seed: int) -> None:
    here, there = gpuq.load(small_network(), device="cpu"), gpuq.load(small_network(), device="cuda")
    x = images(2, seed)
    on_gpu = gpu.asarray(x)
    with gpu.cuda.Device(1):
        on_other = gpu.asarray(x)
    with pytest.raises(InputTypeError, match="is on a GPU and the model on the CPU; load it with device='cuda'"):
        here(on_gpu)
    with pytest.raises(InputValueError, match="is on cuda:1 and the model on cuda:0"):
        there(on_other)
    with pytest.raises(InputTypeError, match="expected int8, got uint8"):
        there(on_gpu.view(np.uint8))
    with pytest.raises(InputTypeError, match="expected int8, got float32; pass quantize=True"):
        there(gpu.asarray(x.astype(np.float32)))
    with pytest.raises(InputValueError, match="must be Nx6x6x3"):
        there(on_gpu[:, :5])
    with pytest.raises(InputValueError, match="with N >= 1"):
        there(on_gpu[:0])


def test_a_lost_device_names_the_step(gpu: FakeCupy, seed: int) -> None:
    model = gpuq.load(small_network(), device="cuda")
    gpu.failure = CUDADriverError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")
    with pytest.raises(DeviceLost, match="conv2d_.*: the GPU stopped working here or shortly before"):
        model(images(1, seed))
