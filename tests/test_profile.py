"""gpuq.model.profile and `gpuq profile`: every step is there, times add up to something, plots appear whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpuq
from gpuq.cli import main
from gpuq.cuda import ceilings, launch
from gpuq.model.profile import profile
from gpuq.resources import resource

from . import fake_cupy
from .fake_cupy import FakeCupy
from .host_cuda.runner import HostLauncher, require_tools

DIGITS = str(resource("examples", "digits", "digits_int8.tflite"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCupy]:
    require_tools()
    for name, few in (("DP4A_ITERATIONS", 1), ("COPY_BYTES", 1 << 12), ("COPIES", 1), ("SAMPLES", 1)):
        monkeypatch.setattr(ceilings, name, few)
    with HostLauncher() as host:
        yield fake_cupy.install(monkeypatch, host)
    launch.launcher.cache_clear()


def check(device: str, kernel: str) -> None:
    model = gpuq.load(DIGITS, device=device)
    found = profile(model, batch=2, repeats=2)
    assert (found.batch, found.device) == (2, str(model.device))
    assert [step.number for step in found.steps] == list(range(len(model.program.steps)))
    assert sum(step.macs for step in found.steps) == 2 * model.graph.macs
    assert all(step.seconds > 0 and step.nbytes > 0 for step in found.steps)
    assert found.seconds > 0
    assert found.sum_seconds == pytest.approx(sum(step.seconds for step in found.steps))
    first = found.steps[0]
    assert (first.op, first.shape) == ("CONV_2D", (1, 8, 8, 16))
    assert first.kernel.startswith(kernel)
    assert first.tops == pytest.approx(2e-12 * first.macs / first.seconds)
    # Two images in, two out, and the constants.
    assert first.nbytes == 2 * 64 + 2 * 64 * 16 + model.program.steps[0].plan.constant_bytes


def test_on_the_cpu() -> None:
    check("cpu", "conv2d_im2col_sgemm")
    found = profile(gpuq.load(DIGITS, device="cpu"), repeats=1)
    assert found.ceilings is None
    assert all(step.of_ceiling is None for step in found.steps)


def test_on_a_gpu(gpu: FakeCupy) -> None:
    check("cuda", "conv2d_stem_dp4a")
    found = profile(gpuq.load(DIGITS, device="cuda"), batch=3, repeats=1)
    limits = found.ceilings
    assert limits is not None
    assert limits.dp4a_tops > 0
    assert limits.copy_gbs > 0
    for step in found.steps:
        arithmetic, memory = 2e-12 * step.macs / limits.dp4a_tops, 1e-9 * step.nbytes / limits.copy_gbs
        assert step.of_ceiling == pytest.approx(max(arithmetic, memory) / step.seconds)
    # One place for them: the process has measured them.
    assert profile(gpuq.load(DIGITS, device="cuda"), repeats=1).ceilings is limits


@pytest.mark.usefixtures("gpu")
def test_command_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", DIGITS, "--device", "cuda", "--repeats", "1"]) == 0
    text = capsys.readouterr().out
    assert "of ceiling" in text
    assert "ceilings measured on cuda:0: " in text
    assert main(["profile", DIGITS, "--device", "cuda", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["ceilings"]) == {"dp4a_tops", "copy_gbs"}
    assert all(step["of_ceiling"] == step["bound_seconds"] / step["seconds"] for step in report["steps"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    plot = tmp_path / "steps.png"
    assert main(["profile", DIGITS, "--device", "cpu", "--repeats", "1", "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert "conv2d_im2col_sgemm" in text
    assert "runs a second" in text
    assert "ceilings measured" not in text
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [plot]
    assert main(["profile", DIGITS, "--device", "cpu", "--batch", "3", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["batch"], report["device"], report["ceilings"]) == (3, "cpu", None)
    assert len(report["steps"]) == len(gpuq.load(DIGITS, device="cpu").program.steps)
    assert set(report["steps"][0]) >= {"op", "kernel", "seconds", "tops", "gigabytes_per_second", "macs", "nbytes"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch 0 must be at least 1"),
        (["--repeats", "-1"], "--repeats -1 must be at least 1"),
        (["--plot", "x.pdf"], "must end in .png"),
        (["--plot", "/nowhere/x.png"], "there is no folder"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", DIGITS, *arguments]) == 2
    assert message in capsys.readouterr().err
