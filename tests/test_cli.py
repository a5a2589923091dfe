"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq import cuda, profiles
from gpuq.cli import main
from gpuq.commands import doctor, files, output, run
from gpuq.commands.classes import Classes, rank
from gpuq.commands.dataset import Feed, Reading, open_feeds
from gpuq.cuda.device import GpuInfo, Probe
from gpuq.resources import resource

from .networks import Network, edited, int8
from .peers.one_operator import TensorDef, build

DIGITS = resource("examples", "digits", "digits_int8.tflite")
HELDOUT = resource("examples", "digits", "digits_heldout.npz")
IMAGES = f"{HELDOUT}:images"
CLASSES = 10


@pytest.fixture
def codes(seed: int) -> np.ndarray:
    """Seven digits of noise."""
    return np.random.default_rng(seed).integers(-128, 128, (7, 8, 8, 1)).astype(np.int8)


@pytest.fixture(scope="module")
def digits() -> gpuq.Model:
    return gpuq.load(DIGITS, device="cpu")


@pytest.fixture
def npy(tmp_path: Path) -> Callable[..., str]:
    """Saves an array; gives the path."""

    def save(array: Any, name: str = "x.npy", **options: Any) -> str:
        np.save(tmp_path / name, np.asarray(array), **options)
        return str(tmp_path / name)

    return save


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a model; gives the path."""

    def save(content: bytes, name: str = "model.tflite") -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return save


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Runs a command that must work, with nothing on stderr; gives what it prints."""
    code = main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.err == ""
    return captured.out


def call_json(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    """Runs a command with --json, whose stdout must be one JSON document without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert main([*(str(argument) for argument in argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Runs a command that must be refused with one line on stderr; gives that line."""
    code = main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    notes = [line for line in captured.err.splitlines() if line.startswith("gpuq: note: ")]
    lines = captured.err.splitlines()[len(notes) :]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("gpuq: error: ")
    return lines[0].removeprefix("gpuq: error: ")


def two_inputs() -> bytes:
    """The sum and the product of two (1, 3), under names that are awkward for a command line and for np.savez."""
    net = Network()
    a, b = net.tensor(int8((1, 3), 0.5, 0, name="left")), net.tensor(int8((1, 3), 0.5, 0, name="right=1"))
    added = net.operator("ADD", [a, b], int8((1, 3), 1.0, 0, name="sum"), schema.AddOptionsT())
    product = net.operator("MUL", [a, b], int8((1, 3), 1.0, 0, name="file"), schema.MulOptionsT())
    return net.build([a, b], [added, product])


def quantize_floats() -> bytes:
    """float32 (1, 3) to int8."""
    return build("QUANTIZE", [TensorDef((1, 3), np.float32, name="x")], [TensorDef((1, 3), np.int8, 0.5, 0, name="q")])


def dequantize_codes() -> bytes:
    """int8 (1, 3) to float32."""
    return build("DEQUANTIZE", [TensorDef((1, 3), np.int8, 0.5, 1, name="q")], [TensorDef((1, 3), np.float32)])


def class_map() -> bytes:
    """int8 (1, 2, 2, 3) to the number of the largest of 3, (1, 2, 2)."""
    net = Network()
    x = net.tensor(int8((1, 2, 2, 3), name="scores"))
    axis = net.tensor(TensorDef((), np.int32, data=np.array(3, np.int32)))
    out = net.operator(
        "ARG_MAX",
        [x, axis],
        TensorDef((1, 2, 2), np.int64, name="classes"),
        schema.ArgMaxOptionsT(outputType=schema.TensorType.INT64),
    )
    return net.build([x], [out])


# ----------------------------------------------------------------------------------------------------- the frame


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"gpuq {gpuq.__version__}\n"


@pytest.mark.parametrize(
    "argv", [[], ["frobnicate"], ["info"], ["info", "x", "--nope"], ["run", "m", "--batch", "many"]]
)
def test_argparse_refuses_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err


def test_help_states_the_pixel_rules(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    words = " ".join(text.split())
    rules = ("uint8 input code p", "int8 input code p - 128", "float32 input p / 255", "(p - mean) / std", "BILINEAR")
    for rule in rules:
        assert rule in words
    assert max(map(len, text.splitlines())) < 80


def test_module_runs_as_a_program(npy: Callable[..., str], codes: np.ndarray, tmp_path: Path) -> None:
    """python -m gpuq, the one way that needs a process of its own: exit code, streams, and the outputs' bits."""
    out = tmp_path / "out.npy"
    command = [sys.executable, "-m", "gpuq", "run", str(DIGITS), npy(codes), "--output", str(out), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 samples on cpu" in done.stdout
    assert np.array_equal(np.load(out), gpuq.load(DIGITS, device="cpu")(codes))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no broken pipes on Windows")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["found out at the end", "found out at once"])
def test_a_reader_that_leaves_is_no_error(unbuffered: str) -> None:
    command = [sys.executable, "-m", "gpuq", "info", str(DIGITS), "--steps", "--device", "cpu"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(timeout=120) == 141


def test_ctrl_c_is_quiet(
    npy: Callable[..., str],
    codes: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = npy(codes)
    monkeypatch.setattr(run, "run_all", interrupt)
    assert main(["run", str(DIGITS), path, "--output", str(tmp_path / "out.npy")]) == 130
    assert capsys.readouterr() == ("", "")
    assert sorted(os.listdir(tmp_path)) == ["x.npy"]


@pytest.mark.parametrize("argv", [["--traceback", "info", "nope"], ["info", "nope", "--traceback"]])
def test_traceback_on_request(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1] == "gpuq: error: model 'nope' cannot be read: No such file or directory"


def test_errors_that_nobody_foresaw_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "profile", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["info", str(DIGITS)])


def test_memory_that_is_too_small_is_an_error(
    npy: Callable[..., str], codes: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object) -> None:
        raise MemoryError("cannot allocate 9 PiB")

    path = npy(codes)
    monkeypatch.setattr(run, "run_all", exhaust)
    assert refusal(capsys, "run", DIGITS, path) == "out of memory: cannot allocate 9 PiB"


# -------------------------------------------------------------------------------------------------------- output


def test_printable_disarms_control_characters() -> None:
    assert output.printable("a\x1b[2Jb\nc\u202e\udc80é") == "a\\x1b[2Jb\\nc\\u202e\\udc80é"


def test_names_from_files_cannot_drive_the_terminal(
    model_file: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(model: Any) -> None:
        model.description = "\x1b]0;owned\x07"
        model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].name = "in\x1b[31m\nput"

    path = model_file(edited(DIGITS.read_bytes(), rename))
    text = call(capsys, "info", path)
    assert "\x1b" not in text
    assert "in\\x1b[31m\\nput" in text
    assert "\x1b" not in refusal(capsys, "run", path)


def test_characters_beyond_the_terminal_become_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    output.write("é")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xe9\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "step", "shown"),
    [(Terminal(), 0.8, True), (Terminal(), 0.1, False), (io.StringIO(), 0.8, False)],
    ids=["slow", "quick", "no terminal"],
)
def test_progress_is_for_slow_work_on_terminals(
    stream: io.StringIO, step: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(np.arange(0, 100, step))
    monkeypatch.setattr(output.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(sys, "stderr", stream)
    # rich takes it to mean that there is a terminal; a log file is none, whatever it says.
    monkeypatch.setenv("FORCE_COLOR", "1")
    with output.Progress("running", 5) as progress:
        for _ in range(5):
            progress.advance(1)
    assert ("running" in stream.getvalue()) == shown


# ---------------------------------------------------------------------------------------------------------- info


def test_info_describes_a_model(capsys: pytest.CaptureFixture[str], digits: gpuq.Model) -> None:
    rows = [line.split() for line in call(capsys, "info", DIGITS, "--device", "cpu").splitlines()]
    assert ["serving_default_image:0", "Nx8x8x1", "int8", "0.00392156886", "-128"] in rows
    assert ["StatefulPartitionedCall:0", "Nx10", "int8", "0.00390625", "-128"] in rows
    assert ["CONV_2D", "6", "214,016", "81.5%", "v1"] in rows
    assert ["FULLY_CONNECTED", "1", "320", "0.1%", "v6"] in rows
    assert ["all", "14", "262,720"] in rows
    assert ["signature", "serving_default", "image", "->", "probabilities"] in rows
    text = " ".join(word for row in rows for word in row)
    assert "8,794 values" in text
    assert f"arena {digits.program.arena_bytes:,} bytes a run" in text
    assert profiles.profile("litert_ref").reproduces in text
    assert "pixel p (0..255) becomes code p - 128, the real value 0.00392157 * p" in text


def test_info_follows_the_profile(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in call(capsys, "info", DIGITS, "--numerics", "tflm").splitlines()]
    assert ["FULLY_CONNECTED", "1", "320", "0.1%", "v1"] in rows


def test_info_prints_the_program(capsys: pytest.CaptureFixture[str], digits: gpuq.Model) -> None:
    text = call(capsys, "info", DIGITS, "--device", "cpu", "--steps")
    assert str(digits.program) in "\n".join(line.removeprefix("  ") for line in text.splitlines())


def test_info_as_json(capsys: pytest.CaptureFixture[str], digits: gpuq.Model) -> None:
    found = call_json(capsys, "info", DIGITS, "--device", "cpu", "--steps")
    assert found["inputs"][0]["batch_shape"] == "Nx8x8x1"
    assert (found["inputs"][0]["scale"], found["inputs"][0]["zero_point"]) == digits.get_input_details()[0][
        "quantization"
    ]
    assert found["macs"] == sum(row["macs"] for row in found["operators"]) == digits.graph.macs == 262720
    assert found["parameters"]["values"] == 8794
    assert found["arena_bytes"] == digits.program.arena_bytes
    assert found["signatures"] == {"serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}}
    assert [step["kernel"] for step in found["steps"]] == [step.plan.name for step in digits.program.steps]
    assert (found["device"], found["numerics"]) == ("cpu", "litert_ref")


def test_info_of_inputs_that_are_no_pictures(
    model_file: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = call(capsys, "info", model_file(quantize_floats()))
    assert "pixel" not in text
    assert ["x", "Nx3", "float32", "-", "-"] in [line.split() for line in text.splitlines()]


# ----------------------------------------------------------------------------------------------------------- run


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_run_gives_the_models_bits_at_any_batch(
    batch: int,
    codes: np.ndarray,
    digits: gpuq.Model,
    npy: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.npy"
    text = call(capsys, "run", DIGITS, npy(codes), "--output", out, "--batch", batch)
    assert f"wrote {out}: 7x10 int8" in text
    found = np.load(out)
    assert found.dtype == np.int8
    assert np.array_equal(found, digits(codes)), "rerun with GPUQ_SEED"


def test_several_files_are_one_data_set_in_order(
    codes: np.ndarray,
    digits: gpuq.Model,
    npy: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Batches of 3 cut across files of 2, 4 and 1, the last without a batch dimension."""
    paths = [npy(codes[5:], "a.npy"), npy(codes[1:5], "b.npy"), npy(codes[0], "c.npy")]
    assert main(["run", str(DIGITS), *paths, "--batch", "3", "--output", str(tmp_path / "out.npy")]) == 0
    assert capsys.readouterr().err == f"gpuq: note: {paths[2]}: 8x8x1 has no batch dimension; taken as one sample\n"
    assert np.array_equal(np.load(tmp_path / "out.npy"), digits(codes[[5, 6, 1, 2, 3, 4, 0]]))


def test_real_values_are_quantized_on_request(
    digits: gpuq.Model, npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    values = np.random.default_rng(seed).uniform(-0.1, 1.1, (5, 8, 8, 1)).astype(np.float32)
    found = call_json(capsys, "run", DIGITS, npy(values), "--quantize", "--output", tmp_path / "out.npy")
    assert found["inputs"][0]["files"][0]["taken_as"] == "real values"
    assert np.array_equal(np.load(tmp_path / "out.npy"), digits(values, quantize=True)), seed


def test_pixels_of_an_archive(digits: gpuq.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call_json(capsys, "run", DIGITS, IMAGES, "--std", "16", "--output", tmp_path / "out.npy", "--batch", 200)
    assert found["inputs"][0]["files"] == [{"file": IMAGES, "rows": 599, "taken_as": "pixels"}]
    with np.load(HELDOUT) as data:
        images, labels = data["images"], data["labels"]
    result = np.load(tmp_path / "out.npy")
    assert np.array_equal(result, digits(images.astype(np.float32) / 16, quantize=True))
    assert (result.argmax(-1) == labels).sum() == 592


def test_uint8_arrays_for_int8_inputs_are_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert "takes int8, the file has uint8; if these are pixels" in refusal(capsys, "run", DIGITS, IMAGES)


def test_statistics(
    codes: np.ndarray, digits: gpuq.Model, npy: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = npy(codes)
    want = digits(codes)
    found = call_json(capsys, "run", DIGITS, path)["outputs"][0]
    assert (found["min"], found["max"]) == (want.min(), want.max())
    assert found["mean"] == pytest.approx(want.astype(float).mean())
    real = gpuq.dequantize(want, digits.graph.tensors[digits.graph.outputs[0]].quant)
    assert (found["real"]["min"], found["real"]["max"]) == (real.min(), real.max())
    assert found["real"]["mean"] == pytest.approx(float(real.mean()), abs=1e-6)
    lines = [line.split() for line in call(capsys, "run", DIGITS, path).splitlines()]
    assert ["StatefulPartitionedCall:0", "7x10", "int8", "codes", str(want.min()), str(want.max())] == lines[2][:-1]


def test_several_inputs_by_name(
    model_file: Callable[..., str], npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name may hold "=", a name given twice goes on, and outputs are keyed by name, even by "file"."""
    left = np.array([[1, 2, 3], [40, 50, 60]], np.int8)
    right = np.array([[5, 5, 5], [-7, 0, 7]], np.int8)
    content = two_inputs()
    path, out = model_file(content), tmp_path / "out.npz"
    argv = [f"--input=right=1={npy(right[0], 'r0.npy')}", f"--input=right=1={npy(right[1:], 'r1.npy')}"]
    assert main(["run", path, *argv, f"--input=left={npy(left, 'l.npy')}", "--output", str(out)]) == 0
    want = gpuq.load(content, device="cpu")(left, right)
    with np.load(out) as found:
        assert found.files == ["sum", "file"]
        assert np.array_equal(found["sum"], want[0])
        assert np.array_equal(found["file"], want[1])
    capsys.readouterr()

    assert "give each one as --input NAME=FILE" in refusal(capsys, "run", path, tmp_path / "l.npy")
    assert "no INPUT for 'right=1'" in refusal(capsys, "run", path, f"--input=left={tmp_path / 'l.npy'}")
    assert "must be NAME=FILE" in refusal(capsys, "run", path, "--input=middle=x.npy")
    message = refusal(
        capsys, "run", path, f"--input=left={tmp_path / 'l.npy'}", f"--input=right=1={tmp_path / 'r0.npy'}"
    )
    assert message == "inputs of different numbers of samples: {'left': 2, 'right=1': 1}"
    both = [f"--input=left={tmp_path / 'l.npy'}", f"--input=right=1={tmp_path / 'l.npy'}"]
    assert "the model has 2 outputs" in refusal(capsys, "run", path, *both, "--output", tmp_path / "one.npy")
    assert not (tmp_path / "one.npy").exists()


def test_an_input_by_its_signatures_name(
    codes: np.ndarray, npy: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = npy(codes)
    assert "7 samples" in call(capsys, "run", DIGITS, "--input", f"image={path}")
    assert "7 samples" in call(capsys, "run", DIGITS, "--input", f"serving_default_image:0={path}")
    assert (
        refusal(capsys, "run", DIGITS, path, "--input", f"image={path}") == "give INPUT or --input NAME=FILE, not both"
    )


def test_outputs_without_names_of_their_own_are_numbered(
    model_file: Callable[..., str], npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(model: Any) -> None:
        for index in model.subgraphs[0].outputs:
            model.subgraphs[0].tensors[index].name = "same"

    path, x = model_file(edited(two_inputs(), rename)), npy(np.ones((1, 3), np.int8))
    call(capsys, "run", path, f"--input=left={x}", f"--input=right=1={x}", "--output", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert found.files == ["output_0", "output_1"]


def test_networks_of_several_rows_a_run(
    model_file: Callable[..., str], npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file says (2, 3): rows come in pairs, from whichever files, and batches cut between pairs."""
    content = build("RELU", [TensorDef((2, 3), np.int8, 0.5, 0)], [TensorDef((2, 3), np.int8, 0.5, 0)])
    rows = np.arange(-9, 9, dtype=np.int8).reshape(6, 3)
    path = model_file(content)
    paths = [npy(rows[:1], "a.npy"), npy(rows[1:], "b.npy")]
    call(capsys, "run", path, *paths, "--output", tmp_path / "out.npy", "--batch", 2)
    assert np.array_equal(np.load(tmp_path / "out.npy"), np.maximum(rows, 0))
    assert "5 rows in all must be a multiple of 2" in refusal(capsys, "run", path, paths[1])


def test_infinities_saturate(
    model_file: Callable[..., str], npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npy(np.array([[np.inf, 1.0, -np.inf]], np.float32))
    call(capsys, "run", model_file(quantize_floats()), path, "--output", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[127, 2, -128]]


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json({"a": [float("inf"), 1.5, {"b": (float("nan"), "NaN")}]})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5, {"b": [None, "NaN"]}]}


def test_json_leaves_stderr_to_notes(
    codes: np.ndarray, npy: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = npy(codes[0])
    assert main(["run", str(DIGITS), path, "--json"]) == 0
    captured = capsys.readouterr()
    note = f"{path}: 8x8x1 has no batch dimension; taken as one sample"
    assert json.loads(captured.out)["notes"] == [note]
    assert captured.err == f"gpuq: note: {note}\n"


# ----------------------------------------------------------------------------------------------------------- top


def test_top_of_a_vector(
    codes: np.ndarray,
    digits: gpuq.Model,
    npy: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"digit {i}" for i in range(CLASSES)) + "\n\n", "utf-8")
    path = npy(codes)
    found = call_json(capsys, "run", DIGITS, path, "--top", 3, "--labels", labels, "--batch", 2)["top"]
    assert [entry["input"] for entry in found] == [f"{path}[{i}]" for i in range(7)]
    for entry, scores in zip(found, digits(codes), strict=True):
        order = sorted(range(CLASSES), key=lambda i: (-int(scores[i]), i))[:3]
        assert [one["class"] for one in entry["classes"]] == order
        assert [one["label"] for one in entry["classes"]] == [f"digit {i}" for i in order]
        assert [one["code"] for one in entry["classes"]] == [int(scores[i]) for i in order]
        assert [one["score"] for one in entry["classes"]] == [(int(scores[i]) + 128) / 256 for i in order]
    text = call(capsys, "run", DIGITS, npy(codes[:1]), "--top", 99)
    assert len(text.splitlines()) == 1 + 1 + 1 + CLASSES


def test_rank_orders_like_arg_max(digits: gpuq.Model) -> None:
    """Of equal codes the first wins, and -128 is the least, although -(-128) is -128 in int8."""
    classes = Classes(0, digits.graph.tensors[digits.graph.outputs[0]], CLASSES, False)
    scores = np.array([[-128, 5, 127, 5, -128, 127, 0, 0, 0, 5]], np.int8)
    assert [one.index for one in rank(classes, scores, CLASSES, None)] == [2, 5, 1, 3, 9, 6, 7, 8, 0, 4]


def test_top_of_floats_has_no_code(
    model_file: Callable[..., str], npy: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = call_json(capsys, "run", model_file(dequantize_codes()), npy(np.array([[3, 9, 1]], np.int8)), "--top", 2)
    assert found["top"][0]["classes"] == [
        {"class": 1, "label": None, "code": None, "score": 4.0},
        {"class": 0, "label": None, "code": None, "score": 1.0},
    ]


def test_top_of_a_class_map_is_shares(
    model_file: Callable[..., str], npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = np.zeros((2, 2, 2, 3), np.int8)
    scores[0, 0, 0, 1] = scores[0, 1, 1, 2] = scores[0, 0, 1, 2] = 9
    path, labels = model_file(class_map()), tmp_path / "labels.txt"
    labels.write_text("sky\nsea\nland\nunused\n", "utf-8")
    assert main(["run", path, npy(scores), "--top", "2", "--labels", str(labels), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"gpuq: note: {labels}: 4 lines for 3 classes; those behind line 3 are not used\n"
    first, second = json.loads(captured.out)["top"]
    assert first["classes"] == [
        {"class": 2, "label": "land", "pixels": 2, "share": 0.5},
        {"class": 0, "label": "sky", "pixels": 1, "share": 0.25},
    ]
    assert second["classes"] == [{"class": 0, "label": "sky", "pixels": 4, "share": 1.0}]
    labels.write_text("sky\nsea\n", "utf-8")
    assert refusal(capsys, "run", path, npy(scores), "--top", 2, "--labels", labels).endswith(
        "labels.txt' has 2 lines; the model has 3 classes"
    )


def test_top_needs_classes(model_file: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    content = build("RELU", [TensorDef((1, 4, 3), np.int8, 0.5, 0)], [TensorDef((1, 4, 3), np.int8, 0.5, 0)])
    message = refusal(capsys, "run", model_file(content), "x.npy", "--top", 1)
    assert message == "--top needs a vector of scores or an ARG_MAX output; the model has 1x4x3 int8"


# ----------------------------------------------------------------------------------------------------- refusals


def test_models_that_cannot_be_loaded(
    tmp_path: Path, model_file: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    content = DIGITS.read_bytes()
    assert refusal(capsys, "info", "nope.tflite") == "model 'nope.tflite' cannot be read: No such file or directory"
    assert "cannot be read: Is a directory" in refusal(capsys, "info", tmp_path)
    text = model_file(b"hello, this is text")
    assert refusal(capsys, "info", text).startswith("model.tflite: not a .tflite file: bytes 4 to 8 are b'o, t'")
    for size in (9, 100, len(content) // 2, len(content) - 5000):
        message = refusal(capsys, "info", model_file(content[:size], "cut.tflite"))
        assert message.startswith("cut.tflite: "), size

    def corrupt(model: Any) -> None:
        model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.COS

    message = refusal(capsys, "run", model_file(edited(content, corrupt), "cos.tflite"), "x.npy")
    assert message.startswith("cos.tflite: not supported: COS (")
    float_model = resource("examples", "digits", "digits_float.tflite")
    message = refusal(capsys, "info", float_model, "--numerics", "tflm")
    assert message.startswith("digits_float.tflite: numerics 'tflm', which reproduces")


def test_settings_that_do_not_exist(
    codes: np.ndarray, npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npy(codes)
    argv = ["run", DIGITS, path]
    assert refusal(capsys, "info", DIGITS, "--numerics", "x") == "numerics 'x' must be one of " + ", ".join(
        profiles.PROFILES
    )
    assert "must be 'auto', 'cpu', 'cuda' or 'cuda:N'" in refusal(capsys, *argv, "--device", "gpu")
    assert refusal(capsys, *argv, "--batch", 0) == "--batch 0 must be at least 1"
    assert refusal(capsys, *argv, "--top", 0) == "--top 0 must be at least 1"
    assert "names the classes of --top K" in refusal(capsys, *argv, "--labels", path)
    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\n", "utf-8")
    top = [*argv, "--top", 1, "--labels"]
    assert refusal(capsys, *top, labels) == f"labels '{labels}' has 2 lines; the model has 10 classes"
    assert "No such file" in refusal(capsys, *top, tmp_path / "none.txt")
    labels.write_bytes(b"\xff\xfe")
    assert "must be UTF-8 text" in refusal(capsys, *top, labels)
    for option, value in (("--std", "0"), ("--std", "1,-1"), ("--std", "nan"), ("--mean", "x"), ("--mean", "1,,2")):
        assert f"{option} '{value}'" in refusal(capsys, *argv, option, value)
    assert refusal(capsys, "run", DIGITS).startswith("no INPUT for 'serving_default_image:0'")


def test_memory_limit(
    codes: np.ndarray, npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole, parts = npy(codes), tmp_path / "whole.npy", tmp_path / "parts.npy"
    call(capsys, "run", DIGITS, path, "--device", "cpu", "--batch", "64", "--output", str(whole))
    call(
        capsys, "run", DIGITS, path, "--device", "cpu", "--batch", "64", "--output", str(parts), "--memory-limit", "5M"
    )
    assert np.array_equal(np.load(whole), np.load(parts))
    assert "one run needs" in refusal(capsys, "run", DIGITS, path, "--device", "cpu", "--memory-limit", "1K")
    for bad in ("0", "x", "1T", ""):
        with pytest.raises(SystemExit):
            main(["run", str(DIGITS), path, "--memory-limit", bad])
        assert "must be a number of bytes" in capsys.readouterr().err


def test_a_gpu_that_is_not_there(
    codes: np.ndarray, npy: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "unavailable", lambda index: "there is no GPU")
    path = npy(codes)
    assert refusal(capsys, "run", DIGITS, path, "--device", "cuda") == "device 'cuda': there is no GPU"
    assert refusal(capsys, "demo", "--device", "cuda:3") == "device 'cuda:3': there is no GPU"
    assert "on cpu" in call(capsys, "run", DIGITS, path, "--device", "auto")


def test_arrays_that_do_not_fit(
    codes: np.ndarray,
    npy: Callable[..., str],
    model_file: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(array: Any, *options: object) -> str:
        return refusal(capsys, "run", DIGITS, npy(array), *options)

    assert "takes int8, the file has float64; --quantize takes real values" in refused(codes.astype(float))
    assert refused(codes.astype(np.int16)).endswith("takes int8, the file has int16")
    for shape in ((7, 8, 9, 1), (7, 8, 8), (8, 8), (1, 7, 8, 8, 1), (0, 8, 8, 1), ()):
        message = refused(np.zeros(shape, np.int8))
        assert "must be Nx8x8x1 with N >= 1, or 8x8x1 for one sample" in message, shape
    values = np.zeros((20, 8, 8, 1), np.float32)
    values[17, 3, 2, 0] = np.nan
    assert refused(values, "--quantize").endswith("NaN at (17, 3, 2, 0); NaN has no code")
    floats = np.zeros((9, 3), np.float32)
    floats[8, 1] = np.nan
    message = refusal(capsys, "run", model_file(quantize_floats()), npy(floats))
    assert message.endswith("x.npy': NaN at (8, 1); NaN has no code")


def test_array_files_that_are_damaged(
    codes: np.ndarray, npy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path(npy(codes)).read_bytes()
    bad = tmp_path / "bad.npy"
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "|i1", "fortran_order": False, "shape": (1 << 40, 8, 8, 1)})
    for content in (b"", b"text", whole[:9], whole[:60], whole[:-1], b"\x80\x04K\x01.", huge.getvalue()):
        bad.write_bytes(content)
        message = refusal(capsys, "run", DIGITS, bad)
        assert message.startswith(f"input '{bad}' is not a whole .npy or .npz file of numbers"), content[:20]
        # NumPy would advise to unpickle the file.
        assert "allow_pickle" not in message
    assert "No such file" in refusal(capsys, "run", DIGITS, tmp_path / "none.npy")
    assert "Is a directory" in refusal(capsys, "run", DIGITS, tmp_path)


def test_objects_are_never_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = np.array([Trap()], dtype=object)
    np.save(tmp_path / "trap.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "trap.npz", a=trap)
    for path in (tmp_path / "trap.npy", f"{tmp_path / 'trap.npz'}:a"):
        assert "is not a whole .npy or .npz file of numbers" in refusal(capsys, "run", DIGITS, path)
    assert not (tmp_path / "sprung").exists()


def test_archives(codes: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=codes, y=codes)
    assert "7 samples" in call(capsys, "run", DIGITS, f"{path}:y")
    for name in (path, f"{path}:z"):
        assert "name one array as FILE.npz:KEY; there are ['x', 'y']" in refusal(capsys, "run", DIGITS, name)
    path.write_bytes(path.read_bytes()[:-100])
    assert "is not a whole" in refusal(capsys, "run", DIGITS, f"{path}:x")
    assert "No such file" in refusal(capsys, "run", DIGITS, f"{tmp_path / 'none.npz'}:x")


# ------------------------------------------------------------------------------------------------------- writing


def test_outputs_are_refused_before_anything_runs(
    codes: np.ndarray,
    npy: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = npy(codes)
    monkeypatch.setattr(run, "run_all", lambda *_: pytest.fail("it ran"))
    (tmp_path / "folder.npy").mkdir()

    def refused(out: Path) -> str:
        return refusal(capsys, "run", DIGITS, path, "--output", out)

    assert refused(tmp_path / "out.txt").endswith("must end in .npy or .npz")
    assert "there is no folder" in refused(tmp_path / "none" / "out.npy")
    assert refused(tmp_path / "folder.npy").endswith("is a folder")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission to write into" in refused(tmp_path / "out.npy")


@pytest.mark.parametrize("name", ["out.npy", "out.npz"])
@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_failed_write_leaves_the_old_file(
    name: str, where: str, tmp_path: Path, codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / name
    target.write_bytes(b"old")
    real_write = np.lib.format.write_array

    def half(stream: Any, array: np.ndarray, **options: Any) -> None:
        real_write(stream, array[: len(array) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    if where == "write":
        monkeypatch.setattr(np.lib.format, "write_array", half)
    else:
        monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(gpuq.InputValueError, match=r"out.np.' cannot be written: (No space|Permission)"):
        files.write_arrays(str(target), {"y": codes})
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_new_file_has_the_users_permissions(tmp_path: Path, codes: np.ndarray) -> None:
    files.write_arrays(str(tmp_path / "out.npy"), {"y": codes})
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.npy").stat().st_mode == (tmp_path / "plain").stat().st_mode


# ------------------------------------------------------------------------------------------------------ data sets


class Rows:
    """A source of numbered rows that remembers what was asked of it."""

    taken_as, remark = "codes", None

    def __init__(self, first: int, rows: int) -> None:
        self.first, self.rows, self.path = first, rows, f"file {first}"
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= self.rows
        self.asked.append((start, stop))
        return np.arange(self.first + start, self.first + stop)

    def name(self, row: int) -> str:
        return f"{self.path} row {row}"


@pytest.mark.parametrize("batch", range(1, 12))
def test_batches_cut_anywhere(batch: int, digits: gpuq.Model) -> None:
    sources, first = [], 0
    for rows in (1, 4, 2, 1, 3):
        sources.append(Rows(first, rows))
        first += rows
    feed = Feed(digits.graph.tensors[digits.graph.inputs[0]], tuple(sources))
    pieces = [feed.read(start, min(start + batch, feed.runs)) for start in range(0, feed.runs, batch)]
    assert np.array_equal(np.concatenate(pieces), np.arange(11))
    assert sum(stop - start for source in sources for start, stop in source.asked) == 11
    names = [f"file {source.first} row {row}" for source in sources for row in range(source.rows)]
    assert [feed.name(row) for row in range(11)] == names


def test_large_arrays_are_mapped_not_read(npy: Callable[..., str], codes: np.ndarray, digits: gpuq.Model) -> None:
    (feed,) = open_feeds(digits.graph, [npy(codes)], [], Reading())
    assert isinstance(feed.sources[0].array, np.memmap)


# --------------------------------------------------------------------------------------------------------- doctor

GPU = GpuInfo(0, "NVIDIA H200", (9, 0), 150 << 30)
NO_CUPY = Probe(None, None, None, None, (), "CuPy is not installed")


def full_probe(**changes: Any) -> Probe:
    fields = {"cupy": "14.2.0", "driver": 13000, "runtime": 13000, "nvrtc": (13, 0), "gpus": (GPU,), "problem": None}
    return Probe(**{**fields, **changes})


def driver(cuda_version: int = 13000, problem: str | None = None) -> doctor.Driver:
    return doctor.Driver(cuda_version, "580.65.06", ("NVIDIA H200",), problem)


def test_doctor_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    text = call(capsys, "doctor")
    found = call_json(capsys, "doctor")
    assert found["auto"]["device"] == gpuq.load(DIGITS).device.kind + (":0" if found["auto"]["device"] != "cpu" else "")
    assert f"device auto takes {found['auto']['device']}: {found['auto']['why']}" in text
    assert found["packages"]["numpy"] == np.__version__
    assert found["packages"]["numpy"] in text
    assert found["blas"] != "unknown"
    assert set(found["numerics"]) == set(profiles.PROFILES)


@pytest.mark.parametrize(
    ("the_driver", "found", "cupys", "problem", "command"),
    [
        (None, NO_CUPY, [], None, None),
        (driver(problem="the driver does not start"), NO_CUPY, [], None, None),
        (driver(), NO_CUPY, [], "CuPy is not installed", "pip install 'gpuq[cuda13]'"),
        (driver(12090), NO_CUPY, [], "CuPy is not installed", "pip install 'gpuq[cuda12]'"),
        (driver(11040), NO_CUPY, [], "too old", "https://www.nvidia.com/drivers"),
        (
            driver(12090),
            full_probe(),
            ["cupy-cuda13x"],
            "needs a driver with CUDA 13",
            "pip uninstall -y cupy-cuda13x && pip install 'gpuq[cuda12]'",
        ),
        (
            driver(),
            full_probe(),
            ["cupy-cuda12x", "cupy-cuda13x"],
            "break each other",
            "pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install 'gpuq[cuda13]'",
        ),
        (
            driver(),
            Probe(None, None, None, None, (), "CuPy does not import: libfoo"),
            ["cupy-cuda13x"],
            "libfoo",
            "pip uninstall -y cupy-cuda13x && pip install 'gpuq[cuda13]'",
        ),
        (
            driver(),
            full_probe(nvrtc=None),
            ["cupy-cuda12x"],
            "NVRTC",
            "pip install 'cuda-toolkit[nvrtc,cudart]==12.*'",
        ),
        (driver(), full_probe(), ["cupy-cuda13x"], None, None),
    ],
)
def test_doctors_remedies(
    the_driver: doctor.Driver | None,
    found: Probe,
    cupys: list[str],
    problem: str | None,
    command: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each state of a machine: what is said, and that a machine without a GPU is still well."""
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: the_driver)
    monkeypatch.setattr(doctor, "_cupy_distributions", lambda: cupys)
    monkeypatch.setattr(cuda, "probe", lambda: found)
    monkeypatch.setattr(cuda, "unavailable", lambda index: found.problem or "no kernels")
    report = call_json(capsys, "doctor")
    text = call(capsys, "doctor")
    if command is None:
        assert report["remedies"] == []
        assert "nothing to mend" in text
    else:
        (remedy,) = report["remedies"]
        assert problem in remedy["problem"]
        assert remedy["command"].endswith(command)
        assert remedy["command"] in text
    assert report["auto"]["device"] == "cpu"
    if the_driver is None:
        assert "there is no NVIDIA driver" in report["auto"]["why"]
    for gpu in found.gpus:
        assert f"{gpu.name}, sm_90, 150.0 GiB" in text


def test_doctor_takes_the_gpu_that_auto_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "nvidia_driver", driver)
    monkeypatch.setattr(doctor, "_cupy_distributions", lambda: ["cupy-cuda13x"])
    monkeypatch.setattr(cuda, "probe", full_probe)
    monkeypatch.setattr(cuda, "unavailable", lambda index: None)
    assert call_json(capsys, "doctor")["auto"] == {"device": "cuda:0", "why": "NVIDIA H200 can be used"}
    text = call(capsys, "doctor")
    assert "580.65.06 (CUDA 13.0)" in text
    assert text.splitlines()[-2:] == ["nothing to mend", "try: gpuq demo"]


def test_doctor_finds_a_broken_installation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pillow" else version(name))
    monkeypatch.setattr(doctor, "SHIPPED", (("examples", "nothing"),))
    assert main(["doctor", "--json"]) == 1
    commands = [remedy["command"] for remedy in json.loads(capsys.readouterr().out)["remedies"]]
    assert "pip install pillow" in commands
    assert "pip install --force-reinstall --no-deps gpuq" in commands


def fake_library(status: int) -> SimpleNamespace:
    """libcuda.so.1, as far as the doctor calls it; the references are ctypes.byref of an int."""

    def set_to(value: int) -> Callable[[Any], int]:
        def function(reference: Any) -> int:
            reference._obj.value = value
            return 0

        return function

    def name(buffer: Any, size: int, index: int) -> int:
        buffer.value = f"GPU number {index}".encode()
        return 0

    return SimpleNamespace(
        cuDriverGetVersion=set_to(12080), cuInit=lambda flags: status, cuDeviceGetCount=set_to(2), cuDeviceGetName=name
    )


@pytest.fixture
def no_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    return


@pytest.mark.usefixtures("no_nvidia_smi")
def test_the_driver_is_asked_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake_library(0))
    assert doctor.nvidia_driver() == doctor.Driver(12080, None, ("GPU number 0", "GPU number 1"), None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake_library(803))
    assert doctor.nvidia_driver() == doctor.Driver(12080, None, (), "the driver does not start: cuInit gives error 803")

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert doctor.nvidia_driver() is None


def test_an_nvidia_smi_that_fails_is_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tool.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    tool.chmod(0o755)
    assert doctor._nvidia_smi_version() == "580.65.06"
    tool.write_text("#!/bin/sh\necho failed\nexit 9\n")
    assert doctor._nvidia_smi_version() is None
