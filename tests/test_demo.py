"""The demo: what it says is true, and its check finds a single wrong bit."""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq.cli import main
from gpuq.commands import demo
from gpuq.cpu.conv2d import FullyConnectedPlan
from gpuq.model.model import Model
from gpuq.resources import resource

from .networks import small_network

DIGITS = resource("examples", "digits", "digits_int8.tflite")
HELDOUT = resource("examples", "digits", "digits_heldout.npz")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One timed run: what the demo says does not depend on it."""
    monkeypatch.setattr(demo, "REPEATS", 1)


@pytest.mark.usefixtures("few")
def test_demo_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert "  right: 592 of 599, 98.83%" in lines
    # What the 14 operators give for one image: maps of 8x8, maps of 4x4, means, logits, probabilities.
    values = 599 * (8 * 8 * (16 + 64 + 64 + 16 + 16) + 4 * 4 * (16 + 32 + 64 + 64 + 32 + 32) + 32 + 10 + 10)
    assert f"  bit-exact against reference: yes (14 tensors, {values:,} values)" in lines
    assert any("images/s (batch 599, median of 1 runs)" in line for line in lines)
    assert "? it is " in lines[8]


@pytest.mark.usefixtures("few")
def test_demo_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--device", "cpu", "--numerics", "tflm"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["device"], found["numerics"]) == (599, "cpu", "tflm")
    assert found["accuracy"] == found["correct"] / 599 > 0.98
    assert found["bit_exact"] is True
    assert (found["different"], found["first_difference"]) == (0, None)
    assert found["images_per_second"] > 0


def test_the_commands_that_it_proposes_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in demo.next_commands(str(DIGITS), str(HELDOUT)):
        program, *argv = shlex.split(command)
        assert program == "gpuq"
        assert main(argv) == 0, command
    assert np.load(tmp_path / "probabilities.npy").shape == (599, 10)


@pytest.mark.usefixtures("few")
def test_a_single_wrong_value_is_found(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is one off in one value of 9 million makes the demo fail and name the place."""
    launch = FullyConnectedPlan.launch

    def off_by_one(self: Any, inputs: Any, outputs: Any, workspace: Any, stream: object = None) -> None:
        launch(self, inputs, outputs, workspace, stream)
        if len(outputs[0]) > 400:
            outputs[0].reshape(-1, 10)[400, 3] ^= 1

    monkeypatch.setattr(FullyConnectedPlan, "launch", off_by_one)
    assert main(["demo", "--device", "cpu", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["bit_exact"] is False
    assert " at (400, 0, 3): " in found["first_difference"]
    assert main(["demo", "--device", "cpu"]) == 1
    assert "bit-exact against reference: NO" in capsys.readouterr().out


@pytest.mark.parametrize("batch", [1, 2], ids=["one row a run", "two rows a run"])
@pytest.mark.parametrize("profile", ["litert_ref", "tflm"])
def test_the_reference_walk_has_every_tensor(batch: int, profile: str, seed: int) -> None:
    """On a network with a view in it, which the planner takes out and the walk goes through."""
    model = gpuq.load(small_network(batch), device="cpu", numerics=profile)
    x = np.random.default_rng(seed).integers(-128, 128, (3 * batch, 6, 6, 3)).astype(np.int8)
    want = demo.reference_tensors(model, x)
    assert set(want) == {node.outputs[0] for node in model.graph.nodes}
    found = demo.compare(model.graph, model.tensors(x), want)
    assert found.equal, (seed, found)
    assert found.tensors == len(model.graph.nodes) == 6
    (output,) = model.graph.outputs
    assert np.array_equal(model(x), want[output].reshape(-1, 5))


def test_compare_counts_and_names(seed: int) -> None:
    model: Model = gpuq.load(small_network(), device="cpu")
    x = np.random.default_rng(seed).integers(-128, 128, (2, 6, 6, 3)).astype(np.int8)
    want = demo.reference_tensors(model, x)
    got = model.tensors(x)
    first, *_, last = sorted(want)

    def changed(index: int, value: np.ndarray | None) -> demo.Comparison:
        others = {key: array for key, array in got.items() if key != index}
        return demo.compare(model.graph, others if value is None else {**others, index: value}, want)

    one_off = got[last].copy()
    one_off[1, 4] ^= 1
    found = changed(last, one_off)
    assert (found.equal, found.different) == (False, 1)
    assert found.first is not None
    assert " at (1, 0, 4): " in found.first
    assert changed(last, None).different == changed(last, got[last].astype(np.int16)).different == want[last].size
    assert changed(first, got[first][:1]).different == want[first].size
    assert not demo.compare(model.graph, got, {}).equal


def test_minus_zero_is_another_value() -> None:
    graph = gpuq.load(DIGITS, device="cpu").graph
    assert demo.compare(graph, {0: np.array([-0.0, 1.0])}, {0: np.array([0.0, 1.0])}).different == 1
    nan = np.array([np.nan])
    assert demo.compare(graph, {0: nan}, {0: nan.copy()}).equal


def test_pictures_fall_back_to_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.array([[0, 16], [8, 4]], np.uint8)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert demo.pictures([image, image], ["7", "1"]) == "  ██     ██\n▒▒░░   ▒▒░░\n 7      1"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert demo.pictures([image, image], ["7", "1"]) == "  @@     @@\n++..   ++..\n 7      1"
