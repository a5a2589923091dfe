"""bench/: the layers' numbers, the benches' logic with the CPU in a GPU's place, the microbenchmarks' machine code."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from bench import bench_calibrate, bench_conv2d, bench_models, gpu, microbench, networks, report, sanitize
from bench.bench_models import write_json
from bench.gpu import KERNELS_FOLDER, launches_per_graph, quantiles
from bench.layers import CONV, DEPTHWISE, NETWORKS, Layer, Row, conv, dense, layers, rows
from bench.peers import Peers
from gpuq.cuda import ceilings, unavailable
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.plans import layer_of
from gpuq.devices import Device
from gpuq.model.planner import plan_program

from .host_cuda.runner import HostLauncher, require_tools
from .test_cuda_compile import require_nvrtc
from .test_sass import require_tools as require_disassembler

ROOT = Path(__file__).resolve().parents[1]


# ---- layers


@pytest.mark.parametrize(
    ("network", "count", "macs", "weights"),
    [
        # MACs as published: 4.1 G, 300 M, 569 M, 385 M (407 M with what is no convolution), 12.5 M, 2.7 M, 7.5 M, 264 k.
        ("resnet50", 54, 4_089_184_256, 25_502_912),
        ("mobilenet_v2", 53, 300_775_552, 3_471_040),
        ("mobilenet_v1", 28, 568_741_376, 4_210_112),
        ("efficientnet_lite0", 50, 385_187_552, 4_608_992),
        ("resnet8", 10, 12_501_632, 77_360),
        ("ds_cnn", 10, 2_656_768, 22_016),
        ("vww", 28, 7_489_664, 208_112),
        ("ad", 10, 264_192, 264_192),
    ],
)
def test_networks(network: str, count: int, macs: int, weights: int) -> None:
    found = NETWORKS[network]
    assert len(found) == count
    assert sum(layer.macs for layer in found) == macs
    assert sum(layer.weight_bytes for layer in found) == weights
    # Counts of distinct shapes add up again.
    counts = [dict(row.networks).get(network, 0) for row in rows()]
    assert sum(counts) == count
    assert sum(each * row.layer.macs for each, row in zip(counts, rows(), strict=True)) == macs


def test_every_network_is_listed_above() -> None:
    assert set(NETWORKS) == {
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v1",
        "efficientnet_lite0",
        "resnet8",
        "ds_cnn",
        "vww",
        "ad",
    }


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_specs_agree_with_their_layers(dtype: str) -> None:
    for row in rows():
        layer, spec = row.layer, row.layer.spec(dtype)
        assert (spec.output_shape, spec.weights_shape, spec.macs) == (layer.y_shape, layer.weights_shape, layer.macs)
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)


def test_bytes_and_names() -> None:
    layer = conv(56, 64, 256, 1)
    assert layer.name == "conv2d_56x56x64-256_1x1"
    assert layer.bytes(2) == 2 * 56 * 56 * (64 + 256) + 64 * 256
    assert conv(28, 128, 64, 3, 2, 1, 32).name == "conv2d_28x28x128-64_3x3_s2_g32"
    assert conv(28, 18, 10, 3, groups=2).padded == conv(28, 32, 16, 3)
    assert Layer(DEPTHWISE, 14, 14, 24, 24, 5, 5, 2).name == "depthwise_conv2d_14x14x24_5x5_s2"
    assert dense(640, 128).name == "fully_connected_640-128"


def test_selection() -> None:
    assert [row.name for row in layers("stem")] == ["conv2d_224x224x3-64_7x7_s2", "conv2d_224x224x3-32_3x3_s2"]
    assert len(layers("big 3x3,1x1*")) == 4 + 3 + 4
    assert {row.layer for row in layers("resnet8")} == set(NETWORKS["resnet8"])
    assert layers() == rows()
    assert [row.classes[0] for row in rows()[:11]] == ["big 3x3"] * 4 + ["1x1 wide"] * 3 + ["1x1 narrow"] * 4
    assert layers("nothing") == ()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("layer", [conv(9, 16, 24, 3), Layer(DEPTHWISE, 20, 20, 16, 16, 3, 3), dense(200, 300)])
def test_codes_spread_and_do_not_saturate(layer: Layer, dtype: str) -> None:
    spec, images = layer.spec(dtype), layer.images(2, dtype)
    weights, bias = layer.constants(dtype)
    y = bench_conv2d.expected(spec, layer.rule(dtype), weights, bias, images)
    info = np.iinfo(dtype)
    assert 25 < y.std() < 60
    assert np.mean((y == info.min) | (y == info.max)) < 0.05


@pytest.mark.slow
def test_every_layer_packs_and_has_choices() -> None:
    refused = {}
    for row in rows():
        layer = row.layer
        for dtype in ("int8", "uint8"):
            try:
                packed = layer_of(layer.spec(dtype), layer.rule(dtype), [None, *layer.constants(dtype)])
            except Exception as error:
                refused[row.name, dtype] = str(error)
                continue
            for runs in bench_conv2d.BATCHES:
                found = packed.choices(runs, Traits(90, 132))
                assert len({choice.name for choice in found}) == len(found) > 0
    assert not refused


# ---- the benches, with the CPU in a GPU's place


class CpuGpu:
    """bench.gpu.Gpu on NumPy arrays, kernels run thread by thread; every launch takes a millisecond."""

    l2_bytes, memory_bytes = 1 << 20, 1 << 26

    def __init__(self, launcher: HostLauncher) -> None:
        self.launcher: Any = launcher
        self.broken: Exception | None = None
        self.timed: list[int] = []

    def empty(self, size: int) -> np.ndarray:
        return np.full(size, 0xEE, np.uint8)

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C")

    def gather(self, images: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
        out[...] = images[index].reshape(-1).view(np.uint8)

    def poison(self, array: np.ndarray, value: int) -> None:
        array.view(np.uint8)[...] = value

    def differences(self, y: np.ndarray, wanted: np.ndarray, index: np.ndarray) -> int:
        return int(np.count_nonzero(y != wanted[index].reshape(-1).view(np.uint8)))

    def release(self) -> None: ...

    def synchronize(self) -> None:
        if self.broken:
            raise self.broken

    def seconds(self, launch: Callable[[int], None], count: int, samples: int) -> list[float]:
        for number in range(count):
            launch(number)
        self.timed.append(count)
        return [1e-3 + 1e-6 * sample for sample in range(samples)]


@pytest.fixture(scope="module")
def host() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher(arch=80, seeds=(1,)) as started:
        yield started


@pytest.fixture
def cpu_gpu(host: HostLauncher) -> CpuGpu:
    return CpuGpu(host)


SMALL = Row(Layer(CONV, 3, 3, 16, 8, 3, 3), ("big 3x3",), (("resnet8", 2),))
TINY = Row(dense(16, 4), (), (("ad", 1),))


def test_a_run_of_the_bench(cpu_gpu: CpuGpu, tmp_path: Path) -> None:
    output = tmp_path / "out" / "conv2d_cuda.json"
    asked = []

    def peers(row: Row, runs: int) -> list[dict[str, Any]]:
        asked.append((row.name, runs))
        return [{"layer": row.name, "n": runs, "peer": "torch_bf16", "unavailable": "no torch"}]

    ceilings = {"dp4a_tops": 100.0, "hbm_gbs": 4000.0}
    run = bench_conv2d.Run(
        cpu_gpu, output, batches=(1, 5), count=2, ceilings=ceilings, peers=peers, samples=5, about={"gpu": "none"}
    )
    assert run.all([SMALL, TINY]) == 0
    found = json.loads(output.read_text())
    assert found["complete"] is True
    assert asked == [(SMALL.name, 1), (SMALL.name, 5), (TINY.name, 1), (TINY.name, 5)]
    assert len(found["results"]) == 2 * 2 * 2
    assert found["problems"] == []
    assert found["layers"][SMALL.name]["classes"] == ["big 3x3"]
    for name in (SMALL.name, TINY.name):
        for runs in (1, 5):
            group = [row for row in found["results"] if (row["layer"], row["n"]) == (name, runs)]
            assert [row["rank"] for row in group] == [0, 1]
            assert sum(row["is_best"] for row in group) == 1
            assert [row["is_chosen_by_model"] for row in group] == [True, False]
    row = next(row for row in found["results"] if (row["layer"], row["n"]) == (SMALL.name, 5))
    operations = 2 * 5 * SMALL.layer.macs
    assert row["median_s"] == pytest.approx(1.002e-3)
    assert row["tops"] == pytest.approx(operations / 1.002e-3 / 1e12)
    assert row["gbs"] == pytest.approx((5 * 9 * 24 + 16 * 8 * 9) / 1.002e-3 / 1e9)
    assert row["share_dp4a"] == pytest.approx(row["tops"] / 100)
    assert row["share_roof"] == pytest.approx(max(operations / 1e14, row["bytes"] / 4e12) / 1.002e-3)
    # A rough figure first, then graphs of as many launches as that one tells.
    assert cpu_gpu.timed[:2] == [2, 4]
    assert "x1.00" not in bench_conv2d.summary(SMALL, 5, [row])


def test_candidates_far_behind_keep_a_rough_figure(
    cpu_gpu: CpuGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = CpuGpu.seconds
    slower = iter([1, 1, 3])

    def seconds(self: CpuGpu, launch: Callable[[int], None], count: int, samples: int) -> list[float]:
        factor = next(slower)
        return [factor * each for each in true(self, launch, count, samples)]

    monkeypatch.setattr(CpuGpu, "seconds", seconds)
    run = bench_conv2d.Run(cpu_gpu, tmp_path / "a.json", batches=(1,), count=2, samples=5)
    assert run.all([SMALL]) == 0
    assert [(row["rough"], row["launches"]) for row in run.report["results"]] == [(False, 4), (True, 2)]
    assert [row["is_best"] for row in run.report["results"]] == [True, False]


def test_wrong_outputs_are_not_timed(cpu_gpu: CpuGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = bench_conv2d.expected
    monkeypatch.setattr(bench_conv2d, "expected", lambda *arguments: true(*arguments) ^ np.int8(1))
    run = bench_conv2d.Run(cpu_gpu, tmp_path / "a.json", batches=(2,), count=1)
    assert run.all([SMALL]) == bench_conv2d.EXIT_WRONG
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["results"] == []
    assert found["problems"][0]["wrong"] == f"{2 * 9 * 8} of {2 * 9 * 8} bytes differ from the reference"
    assert cpu_gpu.timed == []


def test_a_failure_costs_a_candidate_and_a_lost_gpu_a_layer(
    cpu_gpu: CpuGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a.json"
    true = CpuGpu.seconds
    failures = iter([True] + [False] * 100)

    def seconds(self: CpuGpu, launch: Callable[[int], None], count: int, samples: int) -> list[float]:
        if next(failures):
            raise RuntimeError("illegal address")
        return true(self, launch, count, samples)

    monkeypatch.setattr(CpuGpu, "seconds", seconds)
    run = bench_conv2d.Run(cpu_gpu, output, batches=(1,), count=2, samples=3)
    assert run.all([SMALL]) == bench_conv2d.EXIT_WRONG
    assert [row["rank"] for row in run.report["results"]] == [1]
    assert run.report["problems"][0]["failed"] == "RuntimeError: illegal address"

    failures = iter([True] + [False] * 100)
    cpu_gpu.broken = RuntimeError("gone")
    run = bench_conv2d.Run(cpu_gpu, output, batches=(1,), count=2, samples=3)
    assert run.all([SMALL, TINY]) == bench_conv2d.EXIT_LOST
    assert json.loads(output.read_text())["complete"] is False

    cpu_gpu.broken = None
    run = bench_conv2d.Run(cpu_gpu, output, batches=(1,), count=2, samples=3)
    run.resume()
    assert run.all([SMALL, TINY]) == bench_conv2d.EXIT_WRONG  # the layer that lost it is left out, not forgotten
    found = json.loads(output.read_text())
    assert {row["layer"] for row in found["results"]} == {TINY.name}
    assert set(found["layers"]) == {SMALL.name, TINY.name}
    assert any("lost" in problem for problem in found["problems"])


def test_budget_and_unsupported_layers(cpu_gpu: CpuGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench_conv2d.Run(cpu_gpu, tmp_path / "a.json", batches=(1,), count=1, deadline=time.monotonic() - 1)
    assert run.all([SMALL]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["complete"] is False

    def refuse(spec: Any, *unused: Any) -> Any:
        raise spec.fail("there is no CUDA kernel for it")

    monkeypatch.setattr(bench_conv2d, "layer_of", refuse)
    run = bench_conv2d.Run(cpu_gpu, tmp_path / "b.json", batches=(1,), count=1)
    assert run.all([SMALL]) == 0
    (problem,) = run.report["problems"]
    assert problem == {"layer": SMALL.name, "unsupported": "CONV_2D: there is no CUDA kernel for it"}


def test_expected_is_the_same_by_both_ways() -> None:
    layer = conv(12, 24, 16, 3)
    spec, rule, images = layer.spec(), layer.rule(), layer.images(2)
    constants = layer.constants()
    slow = bench_conv2d.expected(spec, rule, *constants, images)
    limit, bench_conv2d.REFERENCE_MACS = bench_conv2d.REFERENCE_MACS, 0
    try:
        fast = bench_conv2d.expected(spec, rule, *constants, images)
    finally:
        bench_conv2d.REFERENCE_MACS = limit
    assert slow.shape == fast.shape == (2, 12, 12, 16)
    assert np.array_equal(slow, fast)


def test_candidates() -> None:
    assert [bench_conv2d.candidate_count(text) for text in ("all", "best", "3")] == [None, 1, 3]
    with pytest.raises(ValueError):
        bench_conv2d.candidate_count("0")


def test_lengths_of_graphs_and_quantiles() -> None:
    assert launches_per_graph(1e-3, 1, 1 << 30) == 4
    assert launches_per_graph(40e-6, 1, 1 << 30) == 10
    assert launches_per_graph(1e-6, 1, 1 << 30) == 64
    assert launches_per_graph(1e-6, 1 << 27, 1 << 30) == 2
    assert launches_per_graph(1e-6, 1 << 31, 1 << 30) == 1
    assert quantiles([3.0, 1.0, 2.0]) == {"median_s": 2.0, "p10_s": 1.0, "p90_s": 3.0}


def test_peers_that_are_not_there_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = Peers(1 << 20, 3).rows(conv(14, 64, 64, 1), 1)
    assert [row["peer"] for row in found] == ["torch_bf16", "int_mm", "cudnn_int8"]
    assert all("unavailable" in row for row in found)
    assert [row["peer"] for row in Peers(1 << 20, 3).rows(dense(8, 8), 1)] == ["torch_bf16", "int_mm"]
    assert [row["peer"] for row in Peers(1 << 20, 3).rows(conv(14, 64, 64, 3), 1)] == ["torch_bf16", "cudnn_int8"]


# ---- whole networks


@pytest.fixture
def networks_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No real models, and a machine that seems to have a GPU."""
    monkeypatch.setenv("GPUQ_MATERIAL", str(tmp_path))
    monkeypatch.setattr("gpuq.cuda.unavailable", lambda device=0: None)
    monkeypatch.setattr(bench_models, "machine", lambda device: {"gpu": "GPU X"})


@pytest.mark.usefixtures("networks_alone")
def test_networks_on_a_gpu_in_order_of_their_worth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def child(
        runtime: str, device: str, model: str, batches: list[int], threads: int, seconds: float, left: float
    ) -> list[dict[str, Any]]:
        asked.append((runtime, Path(model).stem, batches))
        if runtime == "torch_compiled":
            return [bench_models.LATE] * len(batches)
        if runtime == "torch_bf16":
            return [{"unavailable": "no torch"}] * len(batches)
        return [
            {"images_per_s": 10.0 * batch, "median_s": 0.1, "share_of_bound": 0.25, "peak_bytes": 1, "batch": batch}
            for batch in batches
        ]

    monkeypatch.setattr(bench_models, "run_child", child)
    (tmp_path / "models" / "x").mkdir(parents=True)
    (tmp_path / "models" / "x" / "mobilenet_v2_int8.tflite").write_bytes(b"")
    output = tmp_path / "m.json"
    command = ["--device", "cuda", "--models", "mobilenet_v2*", "--batch", "32", "4", "--output", str(output)]
    assert bench_models.main(command) == 0
    three = ("mobilenet_v2", "mobilenet_v2_int16x8", "mobilenet_v2_int8")
    assert asked == [
        *((runtime, model, [4, 32]) for model in three for runtime in ("gpuq", "torch_bf16")),
        *((runtime, three[2], [1]) for runtime in bench_models.RESOLVERS),
        *(("torch_compiled", model, [4, 32]) for model in three),
    ]
    found = json.loads(output.read_text())
    assert found["complete"] is False
    assert [(row["model"], row["source"], row["batch"]) for row in found["results"]] == [
        *((model, "memory", batch) for model in three[:2] for batch in (4, 32)),
        *((three[2], "file", batch) for batch in (4, 32)),
    ]
    assert [row["gpuq"]["images_per_s"] for row in found["results"]] == [40, 320] * 3
    assert [row["litert_ref"].get("batch") for row in found["results"]] == [None, None, None, None, 1, 1]
    assert found["results"][0]["litert_ref"] == {"unavailable": bench_models.NO_FILE}
    assert found["results"][0]["torch_bf16"] == {"unavailable": "no torch"}


@pytest.mark.usefixtures("networks_alone")
def test_rows_of_other_models_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "m.json"
    command = ["--budget", "0", "--batch", "1", "--threads", "1", "--output", str(output)]
    for name in ("resnet50", "mobilenet_v1", "resnet50"):
        assert bench_models.main([*command, "--keep", "--models", name]) == 0
    rows = json.loads(output.read_text())["results"]
    assert [row["model"] for row in rows] == ["mobilenet_v1", "resnet50"]
    monkeypatch.setattr(bench_models, "machine", lambda device: {"gpu": "another"})
    with pytest.raises(SystemExit, match="measured on another machine"):
        bench_models.main([*command, "--keep"])
    assert json.loads(output.read_text())["results"] == rows


@pytest.mark.usefixtures("networks_alone")
def test_networks_without_time_or_names(tmp_path: Path) -> None:
    output = tmp_path / "m.json"
    assert bench_models.main(["--device", "cuda", "--budget", "0", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["complete"] is False
    assert len(found["results"]) == (6 + 2) * 3
    assert all(row["gpuq"] == bench_models.LATE for row in found["results"])
    with pytest.raises(SystemExit, match="no models 'nothing'"):
        bench_models.main(["--models", "nothing"])


def test_figures_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, and with the CPU in a GPU's place: the bound is the sum over steps, the slower side of each."""
    graph = networks.mobilenet_v1(32, 0.25)
    monkeypatch.setattr(bench_models, "graph_of", lambda model: graph)
    (one, two) = bench_models.measure("gpuq", "cpu", "small", [1, 2], 1, 0.0)
    assert (one["batch"], two["batch"], one["mode"], one["calls"]) == (1, 2, "batch", 5)
    assert two["images_per_s"] == pytest.approx(2 / two["median_s"])
    assert (one["ceilings"], one["bound_s"], one["share_of_bound"]) == (None, None, None)
    (refused,) = bench_models.measure("torch_bf16", "cuda", "small", [1], 1, 0.0)
    assert "unavailable" in refused

    limits = ceilings.Ceilings(dp4a_tops=1e-3, copy_gbs=1e-1)
    monkeypatch.setattr("gpuq.model.profile.measured_ceilings", lambda program: limits)
    monkeypatch.setitem(
        sys.modules, "cupy", SimpleNamespace(empty=lambda shape, dtype: np.empty(shape, dtype).view(Array))
    )
    prepare = bench_models.prepare_gpuq("cpu", "small")
    calls, facts = prepare(3)
    assert set(calls) == {"host", "device"}
    assert facts["ceilings"] == {"dp4a_tops": 1e-3, "copy_gbs": 1e-1}
    bound_s = 0.0
    for step in plan_program(graph, Device("cpu"), "litert_ref").steps:
        moved = sum(graph.tensors[index].nbytes for index in (step.nodes[0].inputs[0], *step.nodes[-1].outputs))
        arithmetic = 2 * graph.node_macs(step.nodes[0]) * 3 / 1e9
        bound_s += max(arithmetic, (3 * moved + step.plan.constant_bytes) / 1e8)
    assert facts["bound_s"] == pytest.approx(bound_s)


def test_a_process_that_fails_or_is_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    late = tmp_path / "python"
    late.write_text("#!/bin/sh\necho '{\"batch\": 1}'\nexec sleep 60\n")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho '{\"batch\": 1}'\necho half a line\necho 'ValueError: no' >&2\nexit 3\n")
    for script in (late, broken):
        script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(late))
    found = bench_models.run_child("gpuq", "cuda", "x", [1, 32], 1, 0.1, 0.5)
    assert found == [{"batch": 1}, bench_models.LATE]
    monkeypatch.setattr(sys, "executable", str(broken))
    found = bench_models.run_child("gpuq", "cuda", "x", [1, 32], 1, 0.1, float("inf"))
    assert found == [{"batch": 1}, {"error": "ValueError: no"}]


@pytest.mark.slow
def test_a_network_in_a_process_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "m.json"
    command = ["--models", "mobilenet_v1", "--batch", "1", "--threads", "1", "--seconds", "0"]
    done = run(
        *(sys.executable, "-m", "bench.bench_models", *command, "--output", str(output)), GPUQ_MATERIAL=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    (row,) = found["results"]
    assert found["complete"] is True
    assert row["gpuq"]["images_per_s"] > 0, row
    assert row["gpuq"]["peak_bytes"] > row["gpuq"]["peak_bytes_of_imports"]


def test_sanitize_runs_its_layers(
    cpu_gpu: CpuGpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sanitize, "SMALL", (*sanitize.SMALL[-1:], (Layer(CONV, 3, 3, 16, 8, 3, 3), "int8")))
    true = sanitize.cases
    monkeypatch.setattr(sanitize, "cases", lambda traits: list(true(traits))[:3])
    assert sanitize.check_all(cpu_gpu, Traits(80, 4), time.monotonic() + 100) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("ok ") for line in lines)
    monkeypatch.setattr(cpu_gpu, "differences", lambda *unused: 1)
    assert sanitize.check_all(cpu_gpu, Traits(80, 4), time.monotonic() + 100) == sanitize.WRONG_STATUS
    assert sanitize.check_all(cpu_gpu, Traits(80, 4), time.monotonic() - 1) == 0


def test_sanitize_covers_every_kernel() -> None:
    """Every row of a KERNELS table of the layers' operators is a choice of some small layer."""
    from gpuq.cuda import conv2d, conv2d_stem, depthwise_conv2d

    kernels = set()
    for layer, _, packed, choice in sanitize.cases(Traits(90, 132)):
        kernels |= {kernel.name for kernel in bench_conv2d.kernels_of(layer, packed, sanitize.RUNS, choice)}
    wanted = {kernel.name for module in (conv2d, conv2d_stem, depthwise_conv2d) for kernel in module.KERNELS}
    assert wanted <= kernels


@pytest.mark.parametrize(
    ("status", "output", "verdict", "failed"),
    [
        (0, "ok a\nok b\n========= ERROR SUMMARY: 0 errors\n", "no error in 2 runs", False),
        (86, "ok a\n========= Invalid read\n========= ERROR SUMMARY: 3 errors\n", "3 errors in 1 runs", True),
        (
            86,
            "ok a\n========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n",
            "2 errors in 1 runs",
            True,
        ),
        (0, "ok a\n========= RACECHECK SUMMARY: 0 hazards displayed\n", "no error in 1 runs", False),
        (1, "ok a\nwrong b int8 x\n", "1 outputs wrong: wrong b int8 x", True),
        (1, "========= Error: Device not supported\n", "unavailable: ========= Error: Device not supported", False),
        (2, "sanitize: cuda:0: no GPU\n", "unavailable: sanitize: cuda:0: no GPU", False),
        (255, "", "unavailable: exit status 255", False),
    ],
)
def test_what_a_sanitizer_says(status: int, output: str, verdict: str, failed: bool) -> None:
    found = sanitize.judged(status, output)
    assert (found["verdict"], found["failed"]) == (verdict, failed)


def test_a_sanitizer_that_is_late_or_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sanitize.judged(-1, "ok a\n", late=True)["verdict"] == "no error seen, cut short after 1 runs"
    monkeypatch.setattr(sanitize, "FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "s.json"
    assert sanitize.main(["--output", str(output)]) == 0
    verdicts = {row["verdict"] for row in json.loads(output.read_text())["results"]}
    assert verdicts == {"unavailable: there is no compute-sanitizer"}
    # A tool that never ends is ended.
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho 'ok a'\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    row = sanitize.run_tool("memcheck", 5)
    assert (row["layers"], row["failed"]) == (1, False)
    assert sanitize.run_tool("memcheck", 4)["verdict"] == "unavailable: no time left"


# ---- the same through CuPy's names, kernels that do nothing


class Memory:
    """cupy.cuda.MemoryPointer over NumPy's memory."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr

    def __add__(self, offset: int) -> Memory:
        return Memory(self.ptr + offset)

    def copy_from_device_async(self, source: Memory, size: int, stream: object) -> None:
        ctypes.memmove(self.ptr, source.ptr, size)

    def memset_async(self, value: int, size: int, stream: object) -> None:
        ctypes.memset(self.ptr, value, size)


class Array(np.ndarray):
    """cupy.ndarray, as far as the benches use it."""

    device = SimpleNamespace(id=0)

    @property
    def data(self) -> Memory:  # type: ignore[override]
        return Memory(self.ctypes.data)

    def set(self, values: np.ndarray, stream: object = None) -> None:
        assert values.shape == self.shape
        assert values.dtype == self.dtype
        self[...] = values

    def get(self, stream: object = None) -> np.ndarray:
        return np.array(self, subok=False)


class Anything(contextlib.AbstractContextManager[Any]):
    """A stream, an event, a graph, a device: takes every call that they take."""

    ptr = 0

    def __init__(self, *unused: object, non_blocking: bool = False) -> None: ...
    def __exit__(self, *unused: object) -> None: ...
    def use(self) -> None: ...
    def synchronize(self) -> None: ...
    def record(self, stream: object = None) -> None: ...
    def begin_capture(self, mode: object = None) -> None: ...
    def upload(self, stream: object) -> None: ...
    def launch(self, stream: object) -> None: ...
    def end_capture(self) -> Anything:
        return Anything()


class Module:
    """cupy.cuda.Module: counts launches, by entry."""

    launched: ClassVar[Counter[str]] = Counter()

    def load(self, cubin: bytes) -> None:
        assert cubin[:4] == b"\x7fELF"

    def get_function(self, entry: str) -> Callable[..., None]:
        def function(
            grid: tuple[int, ...],
            block: tuple[int, ...],
            arguments: tuple[Any, ...],
            shared_mem: int = 0,
            stream: object = None,
        ) -> None:
            assert len(grid) == len(block) == 3
            assert min(grid) >= 1
            assert all(isinstance(argument, np.generic) for argument in arguments)
            self.launched[entry] += 1

        function.ptr = 0  # type: ignore[attr-defined]
        return function


@pytest.fixture
def cupy_of_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CuPy without a GPU behind it: memory is there, kernels do nothing, everything takes a millisecond."""
    require_nvrtc()
    from gpuq.cuda import compile as compiling
    from gpuq.cuda.launch import launcher

    real: Any = importlib.import_module("cupy")
    properties = {
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
        "name": b"GPU X",
        "totalGlobalMem": 1 << 30,
        "l2CacheSize": 1 << 20,
    }
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda device: properties,
        memGetInfo=lambda: (1 << 27, 1 << 30),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        CUDARuntimeError=real.cuda.runtime.CUDARuntimeError,
        streamCaptureModeThreadLocal=1,
    )
    fake = SimpleNamespace(
        __version__="0",
        ndarray=Array,
        empty=lambda shape, dtype: np.full(shape, 0x5B, dtype).view(Array),
        copyto=np.copyto,
        get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None),
        cuda=SimpleNamespace(
            Device=type("Device", (Anything,), {"compute_capability": "90"}),
            Stream=Anything,
            ExternalStream=Anything,
            Event=Anything,
            Module=Module,
            get_current_stream=Anything,
            get_elapsed_time=lambda start, end: 1.0,
            is_available=lambda: True,
            set_allocator=lambda allocator: None,
            driver=SimpleNamespace(
                CUDADriverError=real.cuda.driver.CUDADriverError,
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=(
                    real.cuda.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                ),
                funcSetAttribute=lambda function, attribute, value: None,
            ),
            memory=real.cuda.memory,
            nvrtc=real.cuda.nvrtc,
            runtime=runtime,
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(compiling, "_loaded", {})
    monkeypatch.setattr(Module, "launched", Counter())
    monkeypatch.setattr(ceilings, "COPY_BYTES", 1 << 21)
    launcher.cache_clear()
    yield
    launcher.cache_clear()


@pytest.mark.usefixtures("cupy_of_names")
def test_microbench_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.json"
    assert microbench.main(["--output", str(output)]) == 0, capsys.readouterr()
    found = json.loads(output.read_text())
    figures = Counter(row["figure"] for row in found["results"])
    assert figures == Counter(
        ceilings=1, dp4a=5, memcpy=1, read=1, l2_read=1, launch_in_graph=1, launch_from_python=1, pack=1, mad_wide=1, mad=1, prmt=1,
        dp2a=1, shared_loads=3, memset=1,
    )  # fmt: skip
    assert all(found["ceilings"].values())
    assert (found["machine"]["gpu"], found["machine"]["arch"]) == ("GPU X", 90)
    copied = next(row for row in found["results"] if row["figure"] == "memcpy")
    assert copied["gbs"] == pytest.approx(copied["bytes"] / 1e-3 / 1e9)
    # gpuq's own ceilings: two MiB read and written by each of four launches, all together in a millisecond.
    assert found["ceilings"]["hbm_gbs"] == pytest.approx(4 * 2 * (1 << 21) / 1e-3 / 1e9)
    assert Module.launched["nothing"] > 500
    assert "GPU X" in "\n".join(report.microbench_summary(found))
    assert microbench.main(["--output", str(output), "--budget", "0"]) == 0


@pytest.mark.usefixtures("cupy_of_names")
def test_bench_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    write_json(tmp_path / "microbench.json", {"ceilings": {"dp4a_tops": 100.0, "hbm_gbs": 4000.0}})
    output = tmp_path / "conv2d_cuda.json"
    command = [
        "--layers",
        "fully_connected_128-8,ds_cnn",
        "--batch",
        "1",
        "3",
        "--candidates",
        "best",
        "--peers",
        "all",
    ]
    # Kernels that do nothing give wrong bytes, which a comparison that does nothing does not see.
    status = bench_conv2d.main([*command, "--samples", "3", "--output", str(output)])
    found = json.loads(output.read_text())
    assert status == 0, found["problems"]
    assert found["complete"]
    assert found["ceilings"]["dp4a_tops"] == 100
    assert found["machine"]["gpu"] == "GPU X"
    measured = {row["layer"] for row in found["results"]}
    unsupported = {problem["layer"] for problem in found["problems"]}
    assert measured | unsupported == set(found["layers"])
    assert len(found["layers"]) == 5
    assert {row["launches"] for row in found["results"]} == {4}
    assert found["peers"]
    assert all(row["unavailable"].startswith("ModuleNotFoundError") for row in found["peers"])
    assert Module.launched["read_words"] >= 3 * len(found["results"])
    assert bench_conv2d.main([*command, "--output", str(output), "--resume"]) == 0


@pytest.mark.usefixtures("cupy_of_names")
def test_sanitize_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sanitize, "SMALL", sanitize.SMALL[-1:])
    assert sanitize.main(["--child"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2
    assert all(line.startswith("ok fully_connected_70-12") for line in lines)
    sanitize.precompile()


# ---- microbenchmarks


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_loops_hold_what_they_measure(arch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    require_disassembler()
    monkeypatch.setenv("GPUQ_CACHE_DIR", "")
    from bench.sass_report import report as sass

    for alu in microbench.ALUS:
        for chains in microbench.CHAINS.get(alu.name, (8,)):
            kernel = alu.kernel(chains)
            found = sass(kernel, arch, KERNELS_FOLDER)
            assert found.problems == (), found
            assert found.loop is not None
            opcodes = found.loop.opcodes
            measured = sum(count for name, count in opcodes.items() if name.startswith(alu.opcode))
            assert measured == microbench.LOOP_STEPS, (kernel.name, opcodes)
            # mad_wide needs one LOP3 a step; nothing else has more than the loop's own three or four.
            others = found.loop.instructions - measured - (microbench.LOOP_STEPS if alu.name == "mad_wide" else 0)
            assert others <= 5, (kernel.name, opcodes)
    for sharers in microbench.SHARERS:
        found = sass(microbench.shared_kernel(sharers), arch, KERNELS_FOLDER)
        assert found.problems == ()
        assert found.loop is not None
        assert found.loop.loads_shared_16 == microbench.SHARED_UNROLL
        assert found.loop.instructions <= 4 * microbench.SHARED_UNROLL
    found = sass(gpu.READ, arch, KERNELS_FOLDER)
    assert found.problems == ()
    assert found.loop is not None
    assert found.loop.loads_global_16 == 4


@pytest.mark.parametrize("arch", [80, 90])
def test_every_kernel_of_the_benches_compiles(arch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    require_nvrtc()
    monkeypatch.setenv("GPUQ_CACHE_DIR", "")
    from gpuq.cuda.compile import nvrtc_cubin, program_of

    for kernel in dict.fromkeys([*microbench.kernels(), gpu.RANDOM, gpu.DIFFERENCES]):
        cubin, log = nvrtc_cubin(kernel, arch, program_of(kernel, arch, KERNELS_FOLDER))
        assert cubin[:4] == b"\x7fELF"
        assert log.strip("\0\n ") == ""


def test_ceilings() -> None:
    found = microbench.ceilings(
        [
            {"figure": "ceilings", "tops": 110.0, "gbs": 3900.0},
            {"figure": "dp4a", "chains": 16, "tops": 120.0},
            {"figure": "memcpy", "gbs": 4200.0},
            {"figure": "failed", "error": "x"},
        ]
    )
    assert found == {"dp4a_tops": 110.0, "hbm_gbs": 3900.0, "l2_gbs": None, "launch_us": None}


# ---- reports


def made_up() -> dict[str, Any]:
    """A report as bench_conv2d writes it: two layers, one of them odd beside its padded shape."""
    odd, padded = conv(28, 18, 64, 3), conv(28, 18, 64, 3).padded
    about = {
        layer.name: {
            "kind": CONV,
            "classes": [name],
            "networks": {},
            "macs": layer.macs,
            "weight_bytes": layer.weight_bytes,
            "padded": layer.padded.name,
        }
        for layer, name in ((odd, "odd"), (padded, "padded"))
    }
    results, peers = [], []
    for layer in (odd, padded):
        for runs in (1, 256):
            for rank, (choice, seconds) in enumerate((("conv2d_a", 2e-5 * runs), ("conv2d_b", 1e-5 * runs))):
                results.append(
                    {
                        "layer": layer.name,
                        "n": runs,
                        "choice": choice,
                        "rank": rank,
                        "is_chosen_by_model": rank == 0,
                        "is_best": rank == 1,
                        **quantiles([seconds]),
                        **bench_conv2d.figures(layer, runs, seconds, {"dp4a_tops": 100.0, "hbm_gbs": 4000.0}),
                    }
                )
    peers.append({"layer": odd.name, "n": 256, "peer": "torch_bf16", "tops": 1.0, **quantiles([1e-2])})
    peers.append({"layer": odd.name, "n": 256, "peer": "cudnn_int8", "unavailable": "no cudnn"})
    return {
        "machine": {"gpu": "GPU X", "driver": "1.2", "versions": {"gpuq": "0.1"}, "date": "2026-01-02T03:04:05"},
        "ceilings": {"dp4a_tops": 100.0, "hbm_gbs": 4000.0, "l2_gbs": None, "launch_us": 1.0},
        "dtype": "int8",
        "numerics": "litert_ref",
        "batches": [1, 256],
        "complete": True,
        "layers": about,
        "results": results,
        "peers": peers,
        "problems": [{"layer": odd.name, "n": 1, "choice": "conv2d_c", "wrong": "2 of 3 bytes differ"}],
    }


def test_table() -> None:
    lines = report.conv2d_cuda(made_up()).splitlines()
    assert lines[0] == "| class | layer | N=1, us | N=256, us | TOPS | GB/s | of the roof | x PyTorch bf16 |"
    # 28 * 28 * 64 * 9 * 18 MACs, 20 us each: 0.813 TOPS; PyTorch takes 10 ms, ours 5.12.
    assert lines[2] == "| odd | conv2d_28x28x18-64_3x3 | 20.0 | 5,120.0 | 0.8 | 3 | 1% | 1.95 |"
    assert lines[3] == ""
    assert "measured ceilings 100 TOPS of dp4a and 4,000 GB/s" in lines[4]
    assert "GPU X, driver 1.2; gpuq 0.1; 2026-01-02" in lines[4]
    assert len(lines) == 5


def test_tables_go_between_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# x\n\n<!-- bench:conv2d_cuda -->\nold\n<!-- /bench:conv2d_cuda -->\n")
    monkeypatch.setattr(report, "REPOSITORY", tmp_path)
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(sys, "argv", ["report.py"])
    assert report.main() == 0  # no JSON: markers of tables that are not there are not asked for
    assert "old" in readme.read_text()
    write_json(tmp_path / "bench" / "results" / "conv2d_cuda.json", made_up())
    monkeypatch.setattr(sys, "argv", ["report.py", "--check"])
    assert report.main() == 1
    monkeypatch.setattr(sys, "argv", ["report.py"])
    assert report.main() == 0
    assert "| odd | conv2d_28x28x18-64_3x3 |" in readme.read_text()
    assert "\nold\n" not in readme.read_text()
    readme.write_text("# no markers\n")
    with pytest.raises(SystemExit, match="lacks the markers"):
        report.main()


def test_summary(tmp_path: Path) -> None:
    assert report.summary(tmp_path).count("nothing") == 6
    write_json(tmp_path / "conv2d_cuda.json", made_up())
    write_json(tmp_path / "conv2d_cuda_all.json", made_up())
    sanitized = [{"tool": "memcheck", "verdict": "3 errors", "failed": True, "log": "Invalid read\n"}]
    write_json(tmp_path / "sanitize.json", {"results": sanitized})
    rows = [
        {"figure": "dp4a", "chains": 8, "per_clock_sm": 63.9, "tops": 120.0, "mhz": 1900.0},
        {"figure": "ceilings", "tops": 118.0, "gbs": 4000.0},
        {"figure": "memcpy", "gbs": 4100.0},
        {"figure": "launch_in_graph", "microseconds": 1.2},
        {"figure": "failed", "error": "RuntimeError: no"},
    ]
    machine = {"gpu": "GPU X", "multiprocessors": 132, "driver": "1.2"}
    write_json(
        tmp_path / "microbench.json", {"machine": machine, "ceilings": microbench.ceilings(rows), "results": rows}
    )
    (tmp_path / "gpu_tests.xml").write_text(
        '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">'
        '<testcase name="test_a"><failure message="bytes  differ">...</failure></testcase></testsuite></testsuites>'
    )
    text = "\n".join(report.summary(tmp_path))
    for expected in (
        "3 tests, 1 failures, 0 errors, 1 skipped",
        "test_a: bytes differ",
        "dp4a/8 63.90",
        "failed: RuntimeError: no",
        "memcheck   3 errors",
        "28x28x18-64_3x3",
        "x2.00",  # the model's choice takes twice the best one's time
        "x1.78 of padded",  # 32 channels for 18, in the same time
        "torch 3.91",
        "unavailable 1 times, cudnn_int8: no cudnn",
        "the model's choice: x2.000 of the best on average, within 3 % for 0 of 4",
        "! conv2d_28x28x18-64_3x3 1 conv2d_c 2 of 3 bytes differ",
    ):
        assert expected in text, (expected, text)
    assert len(text) < 9000


def of_models() -> dict[str, Any]:
    """A report as bench_models writes it on a GPU: two networks, one of them in memory, one refused at batch 256."""
    late = {"unavailable": "not measured: no time left"}
    rows = []
    for model, source in (("resnet50", "memory"), ("resnet8", "file")):
        for batch in (1, 256):
            ours: dict[str, Any] = {"median_s": 1e-3, "images_per_s": batch / 1e-3, "share_of_bound": 0.5}
            if (model, batch) == ("resnet8", 256):
                ours = {"error": "DeviceOutOfMemory: a batch of 256"}
            litert = {"images_per_s": 40.0} if source == "file" else {"unavailable": bench_models.NO_FILE}
            rows.append(
                {
                    "model": model,
                    "source": source,
                    "batch": batch,
                    "threads": 1,
                    "gpuq": ours,
                    "torch_bf16": {"images_per_s": batch / 4e-3},
                    "torch_compiled": {"unavailable": "torch finds no GPU"} if batch == 1 else late,
                    **dict.fromkeys(bench_models.RESOLVERS, litert),
                }
            )
    machine = {"gpu": "GPU X", "driver": "1.2", "cpu": "CPU Y", "versions": {"gpuq": "0.1"}, "date": "2026-01-02T03"}
    return {"machine": machine, "device": "cuda", "complete": False, "results": rows}


def test_table_and_summary_of_networks(tmp_path: Path) -> None:
    lines = report.models_cuda(of_models()).splitlines()
    assert lines[0].startswith(
        "| network | N=1, ms | N=1, images/s | N=256, images/s | of the bound | x PyTorch bf16 |"
    )
    assert {line.count("|") for line in lines[:4]} == {10}
    assert lines[2] == "| resnet50 | 1.000 | 1,000 | 256,000 | 50% | 4.00 | - | - | - |"
    assert lines[3] == "| resnet8 | 1.000 | 1,000 | - | - | - | - | - | - |"
    assert "At N=256: " in lines[5]
    assert "GPU X, driver 1.2, CPU Y; gpuq 0.1; 2026-01-02" in lines[5]
    write_json(tmp_path / "models_cuda.json", of_models())
    text = "\n".join(report.summary(tmp_path))
    for expected in (
        "N1 1.000 50%  bf16 4.00  N256 1.000 50%  bf16 4.00",
        "litert_ref 25.00  N256 -",
        "cut short",
        "absent 1 times, gpuq: DeviceOutOfMemory: a batch of 256",
        "absent 2 times, litert_ref: built in memory",
    ):
        assert expected in text, (expected, text)


def test_table_of_networks_on_the_cpu() -> None:
    ours = {"images_per_s": 10.0, "median_s": 0.8}
    rows = [
        {"model": "a", "batch": 8, "threads": 1, "gpuq": ours, **dict.fromkeys(bench_models.RESOLVERS, other)}
        for other in ({"images_per_s": 4.0}, {"error": "x"}, {"unavailable": bench_models.NO_FILE})
    ]
    found = report.models_cpu({"machine": of_models()["machine"] | {"cores": 2}, "results": rows}).splitlines()
    assert found[2:5] == ["| a | 10 |" + f" {cell} |" * 3 for cell in ("2.50", "refused", "-")]


def test_speed_of_whole_networks() -> None:
    results = [
        {"layer": layer.name, "n": 1, "choice": "c", "is_best": True, "is_chosen_by_model": True, "median_s": 1e-3}
        for layer in dict.fromkeys(NETWORKS["resnet8"])
    ]
    found = report.Measured({"layers": {}, "results": results, "peers": [], "machine": {}})
    assert report.network_speed(found, "resnet8", 1) == pytest.approx(100)
    assert report.network_speed(found, "vww", 1) is None


def test_plots(tmp_path: Path) -> None:
    (line,) = report.plots(tmp_path)
    assert line.startswith("no plots: ")
    pytest.importorskip("matplotlib", reason="plots need matplotlib", exc_type=ImportError)
    write_json(tmp_path / "conv2d_cuda.json", made_up())
    report.plots(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["conv2d_cuda.json", "conv2d_cuda_peers.png", "conv2d_cuda_roofline.png"]


def test_json_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object(), "b": [1] * 1000})
    assert json.loads(path.read_text()) == {"a": 1}


# ---- commands


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment
    )


@pytest.mark.parametrize("module", ["bench_conv2d", "microbench", "bench_models"])
def test_without_a_gpu_one_line_and_status_2(module: str, tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path / "a.json"), *(["--device", "cuda"] if module == "bench_models" else [])]
    done = run(sys.executable, "-m", f"bench.{module}", *arguments, CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith(f"{module}: cuda:0: ")
    assert not list(tmp_path.iterdir())


def test_without_cupy_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    from gpuq.cuda.launch import launcher

    launcher.cache_clear()
    assert bench_conv2d.main([]) == 2
    assert microbench.main([]) == 2
    assert sanitize.main(["--child"]) == 2
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "bench_conv2d",
        "microbench",
        "sanitize",
    ]


def test_lists_need_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_conv2d.main(["--list", "--layers", "resnet8"]) == 0
    out = capsys.readouterr().out
    assert "conv2d_32x32x16-16_3x3" in out
    assert out.splitlines()[-1] == "9 shapes: 8 conv2d, 0 depthwise_conv2d, 1 fully_connected"
    assert microbench.main(["--list"]) == 0
    assert "alu_dp4a_8" in capsys.readouterr().out.splitlines()
    with pytest.raises(SystemExit):
        bench_conv2d.main(["--layers", "nothing"])


@pytest.mark.parametrize("script", ["gpu_session.sh", "fetch_wheels.sh"])
def test_scripts_are_bash(script: str) -> None:
    done = run("bash", "-n", f"bench/{script}")
    assert (done.returncode, done.stderr) == (0, "")


# Stands for python3 on a GPU machine: notes what it is asked, and fails where told to.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m pytest"*|"-m bench."*) echo "$*" >>"$NOTES" ;;
    *probe*) echo "GPU X" ;;
esac
case "$*" in
    *"-m pytest"*) echo "1 passed in 0.1s"; exit "${TESTS:-0}" ;;
    *bench.bench_conv2d*--resume*) exit 0 ;;
    *bench.bench_conv2d*--candidates\\ all*) exit "${ALL:-0}" ;;
    *bench.report*--summary*) echo "the summary" ;;
    *unavailable*) exit "${NO_GPU:-0}" ;;
esac
exit 0
"""


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]:
    if shutil.which("bash") is None or shutil.which("timeout") is None:
        pytest.skip("no bash or timeout")
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    notes = tmp_path / "notes"

    def start(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        notes.write_text("")
        environment |= {"PYTHON": str(fake), "OUT": str(tmp_path / "out"), "NOTES": str(notes)}
        environment.setdefault("GPUQ_MATERIAL", str(tmp_path))
        done = run("bash", "bench/gpu_session.sh", *arguments, **environment)
        return done, notes.read_text().splitlines()

    return start


def phases(notes: list[str]) -> list[str]:
    return [note.split()[1] for note in notes]


def test_calibration_beside_litert() -> None:
    path = ROOT / "examples" / "digits" / "digits_float.tflite"
    speeds = bench_calibrate.row(path, 8, 4, ["litert", "cpu"], repeats=1)["images_per_second"]
    assert len(speeds) == 2 + 3 * 2
    assert min(speeds.values()) > 0


ALL_PHASES = [
    "pytest",
    *("bench.microbench", "bench.bench_conv2d", "bench.bench_models", "bench.bench_calibrate"),
    *("pytest", "bench.sanitize", "bench.bench_conv2d"),
]


def test_session_runs_every_phase(session: Any, tmp_path: Path) -> None:
    done, notes = session("--budget", "300", "--wheels", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert phases(notes) == [*ALL_PHASES, "bench.report"]
    assert "the summary" in done.stdout
    assert "test_cuda_gpu.py" in notes[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["session.log"]


def test_session_goes_on_after_failures(session: Any, tmp_path: Path) -> None:
    done, notes = session("--budget", "300", "--wheels", str(tmp_path), TESTS="1", ALL="3")
    assert done.returncode == 1
    # A lost GPU: the last bench once more, without the layer that lost it.
    assert phases(notes) == [*ALL_PHASES, "bench.bench_conv2d", "bench.report"]
    assert "--resume" in notes[8]
    assert "something failed" in done.stdout
    # Networks in memory need no folder of real models.
    done, notes = session("--budget", "300", "--wheels", str(tmp_path), GPUQ_MATERIAL=str(tmp_path / "nowhere"))
    assert phases(notes) == [*ALL_PHASES, "bench.report"]
    assert "--device cuda --seconds 0.2 --budget 105" in notes[3]


def test_session_without_a_gpu_or_with_bad_arguments(session: Any, tmp_path: Path) -> None:
    done, notes = session("--wheels", str(tmp_path), NO_GPU="1")
    assert (done.returncode, notes) == (2, [])
    assert session("--budget", "soon")[0].returncode == 2
    assert session("--nothing")[0].returncode == 2
    assert "--budget SECONDS" in session("--help")[0].stdout


def test_session_with_no_time_still_reports(session: Any, tmp_path: Path) -> None:
    done, notes = session("--budget", "1", "--wheels", str(tmp_path))
    assert phases(notes)[-1] == "bench.report"
    assert "left out, no time" in done.stdout


@pytest.mark.skipif(unavailable(0) is not None, reason="no GPU")
@pytest.mark.gpu
def test_the_gpu_that_the_benches_use(seed: int) -> None:
    """CupyGpu's memory, comparison and times, on a GPU."""
    there = gpu.CupyGpu(0)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, 1001), np.uint8)
    uploaded, index = there.upload(images), rng.integers(0, 3, 70).astype(np.int32)
    batch = there.empty(70 * 1001)
    there.gather(uploaded, index, batch)
    assert np.array_equal(there.host(batch).reshape(70, 1001), images[index])
    assert there.differences(batch, uploaded, index) == 0
    changed = images[index].reshape(-1)
    changed[[0, 5000, -1]] ^= 1
    assert there.differences(there.upload(changed), uploaded, index) == 3
    there.poison(batch, 0x5A)
    assert (there.host(batch) == 0x5A).all()
    noise = there.host(there.random(1 << 20))
    assert np.bincount(noise, minlength=256).min() > 3000
    source, target = there.random(1 << 24), there.empty(1 << 24)
    copy = ceilings.copy_launch(Pointer(source), Pointer(target), 1 << 24)
    times = there.seconds(lambda _: there.launcher.launch(copy, there.stream), 5, 7)
    assert len(times) == 7
    assert all(1e-7 < each < 1e-2 for each in times)
    assert np.array_equal(there.host(target), there.host(source))
