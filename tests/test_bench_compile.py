"""bench/bench_compile.py: the kernels of a network, compiled into an empty cache and found in a full one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import bench_compile
from gpuq.resources import resource

from .test_cuda_compile import require_nvrtc

DIGITS = resource("examples", "digits", "digits_int8.tflite")


def test_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require_nvrtc()
    monkeypatch.setenv("GPUQ_CACHE_DIR", "")
    out = tmp_path / "compile.json"
    monkeypatch.setattr(
        sys, "argv", ["bench_compile", str(DIGITS), "--batch", "1", "--arch", "80", "--output", str(out)]
    )
    assert bench_compile.main() == 0
    (row,) = json.loads(out.read_text())["results"]
    assert 3 <= row["kernels"] <= row["steps"] + 2
    assert min(row["cached_s"], row["cold_s"]) > 0
    assert "digits_int8" in capsys.readouterr().out
