"""Calibration on a GPU that is the CPU: every activation in the reference kernels' bits, ranges found by kernels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import gpuq
from gpuq.cuda import affine, launch
from gpuq.model.tflite_reader import read
from gpuq.ptq.calibration import watch
from gpuq.ptq.observers import MinMax, Percentile
from gpuq.resources import resource

from . import fake_cupy
from .fake_cupy import FakeCupy
from .host_cuda.runner import HostLauncher, require_tools

DIGITS = resource("examples", "digits", "digits_float.tflite")


@pytest.fixture(scope="module")
def host() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher(seeds=(1,)) as started:
        yield started


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, host: HostLauncher) -> Iterator[FakeCupy]:
    yield fake_cupy.install(monkeypatch, host)
    launch.launcher.cache_clear()
    affine._constants.cache_clear()


def test_ranges_are_those_of_the_reference_kernels(gpu: FakeCupy) -> None:
    graph = read(DIGITS.read_bytes())
    x = np.load(resource("examples", "digits", "digits_heldout.npz"))["images"][:3].astype(np.float32)
    x = x.reshape(-1, *graph.tensors[graph.inputs[0]].shape[1:])
    want = gpuq.load(DIGITS, device="cpu", numerics="litert_ref").tensors(x)
    watchers = {index: [MinMax(), Percentile(99)] for index in want if want[index].dtype == np.float32}
    assert watch(graph, [x[:2], gpu.asarray(x[2:])], watchers, device="cuda") == 3
    for index, (extremes, percentile) in watchers.items():
        name = graph.tensors[index].name
        assert extremes.range() == (float(want[index].min()), float(want[index].max())), name
        on_cpu = Percentile(99)
        for part in (want[index][:2], want[index][2:]):
            on_cpu.update(part)
        assert percentile.range() == on_cpu.range(), name
    assert {"observe_extremes_f32", "observe_histogram_f32"} <= {kernel for kernel, *_ in gpu.launched}


def test_a_network_is_quantized_there(gpu: FakeCupy) -> None:
    images = np.load(resource("examples", "digits", "digits_heldout.npz"))["images"][:4].astype(np.float32)
    graph = read(DIGITS.read_bytes())
    x = images.reshape(-1, *graph.tensors[graph.inputs[0]].shape[1:])
    made = {device: gpuq.quantize_model(DIGITS, [x], device=device) for device in ("cuda", "cpu")}
    # Orders of sums differ: BLAS's on the CPU. No scale moves by more than that.
    for a, b in zip(made["cuda"].tensors, made["cpu"].tensors, strict=True):
        assert (a.quant is None) == (b.quant is None)
        if a.quant is not None and b.quant is not None:
            np.testing.assert_allclose(a.quant.scales, b.quant.scales, rtol=1e-5)
            assert a.quant.zero_points.tolist() == b.quant.zero_points.tolist()
