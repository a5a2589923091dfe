"""What runs float networks for calibration: LiteRT's interpreter and gpuq's operators show the same activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert

import gpuq
from gpuq.errors import DeviceNotAvailable, InputTypeError, InputValueError, UnsupportedModel
from gpuq.model.graph import Graph
from gpuq.model.tflite_reader import read
from gpuq.ptq import runners
from gpuq.ptq.calibration import watch
from gpuq.ptq.observers import MinMax, MovingAverageMinMax
from gpuq.ptq.runners import GpuqRunner, LitertRunner, runner_of
from gpuq.resources import resource

from .networks import Network
from .peers.one_operator import TensorDef
from .peers.test_float32 import options

DIGITS = resource("examples", "digits", "digits_float.tflite")
F = np.float32


class Kept:
    """Everything that was shown, one run behind the other."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def update(self, values: np.ndarray) -> None:
        self.parts.append(values.copy())

    @property
    def values(self) -> np.ndarray:
        return np.concatenate(self.parts)


def shown(graph: Graph, samples: list[np.ndarray], device: str) -> dict[int, np.ndarray]:
    """All activations, inputs included."""
    indices = {index for node in graph.nodes for index in node.outputs} | set(graph.inputs)
    watchers = {index: [Kept()] for index in indices if graph.tensors[index].dtype == F}
    runs = watch(graph, samples, watchers, device=device)
    assert runs == sum(len(sample) for sample in samples)
    return {index: kept.values for index, (kept,) in watchers.items()}


def test_both_show_the_same(material: Path, seed: int) -> None:
    for path in (DIGITS, material / "models" / "mlperf_tiny" / "resnet8_cifar10_float.tflite"):
        graph = read(path.read_bytes())
        shape = graph.tensors[graph.inputs[0]].shape[1:]
        x = np.random.default_rng(seed).uniform(0, 1, (20, *shape)).astype(F)
        wanted, got = shown(graph, [x], "cpu"), shown(graph, [x], "litert")
        assert got.keys() == wanted.keys()
        for index, values in got.items():
            # Orders of sums differ, and polynomials of exp; layers add theirs up.
            reach = max(1.0, float(np.abs(wanted[index]).max()))
            assert values.shape == wanted[index].shape
            assert np.abs(values - wanted[index]).max() <= 2**-16 * reach, graph.tensors[index].name


def test_cutting_the_data_changes_no_bit(seed: int) -> None:
    """LiteRT's sums have one order whatever the batch, so scales do not hang on how the data came."""
    graph = read(DIGITS.read_bytes())
    x = np.random.default_rng(seed).uniform(0, 1, (90, *graph.tensors[graph.inputs[0]].shape[1:])).astype(F)
    runner = runner_of(graph, graph.outputs, "litert")
    assert isinstance(runner, LitertRunner)
    assert 1 < runner.at_once < len(x)
    whole, cut = shown(graph, [x], "litert"), shown(graph, [x[:1], x[1:4], x[4:40], x[40:]], "litert")
    for index, values in whole.items():
        np.testing.assert_array_equal(values, cut[index], graph.tensors[index].name)


@pytest.mark.parametrize("device", ["cpu", "litert"])
def test_moving_averages_weigh_the_batches_given(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a batch is cut to run: here into single runs."""
    graph = read(DIGITS.read_bytes())
    x = np.linspace(0, 1, 9 * 64, dtype=F).reshape(9, *graph.tensors[graph.inputs[0]].shape[1:])
    batches = [x[:4], x[4:5], x[5:]]
    monkeypatch.setattr(runners, "ACTIVATION_BYTES", dict.fromkeys(runners.ACTIVATION_BYTES, 1))
    made = gpuq.quantize_model(DIGITS, batches, observer="moving-average", device=device)
    want = MovingAverageMinMax()
    for batch in batches:
        want.update(batch)
    assert made.tensors[made.nodes[0].outputs[0]].quant == want.quant()


def reshaped() -> bytes:
    """A network that only runs one by one: RESHAPE has the file's own batch in its shape."""
    network = Network()
    x = network.tensor(TensorDef((1, 2, 3), F, name="x"))
    shape = network.tensor(TensorDef((2,), np.int32, data=np.array([1, 6], np.int32)))
    flat = network.operator("RESHAPE", [x, shape], TensorDef((1, 6), F, name="flat"), options("ReshapeOptionsT"))
    y = network.operator("NEG", [flat], TensorDef((1, 6), F, name="y"))
    return network.build([x], [y])


def test_what_takes_one_run_gets_one_run() -> None:
    graph = read(reshaped())
    runner = runner_of(graph, graph.outputs, "litert")
    assert runner.at_once == 1
    x = np.arange(18, dtype=F).reshape(3, 2, 3)
    np.testing.assert_array_equal(shown(graph, [x], "litert")[graph.outputs[0]], -x.reshape(3, 6))


def test_two_inputs_and_two_outputs() -> None:
    network = Network()
    a = network.tensor(TensorDef((1, 4), F, name="a"))
    b = network.tensor(TensorDef((1, 4), F, name="b"))
    total = network.operator("ADD", [a, b], TensorDef((1, 4), F, name="total"), options("AddOptionsT"))
    less = network.operator("SUB", [a, b], TensorDef((1, 4), F, name="less"), options("SubOptionsT"))
    graph = read(network.build([a, b], [total, less]))
    xs = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(F)
    watchers = {index: [Kept()] for index in (*graph.inputs, *graph.outputs)}
    assert watch(graph, [{"b": xs[1], "a": xs[0]}], watchers, device="litert") == 7
    by_name = {graph.tensors[index].name: kept.values for index, (kept,) in watchers.items()}
    assert by_name.keys() == {"a", "b", "total", "less"}
    np.testing.assert_array_equal(by_name["less"], xs[0] - xs[1])
    np.testing.assert_array_equal(by_name["total"], xs[0] + xs[1])


def test_what_auto_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT where it is installed and takes the network, else gpuq's operators."""
    graph = read(DIGITS.read_bytes())
    monkeypatch.setattr(runners, "resolve_device", lambda name: gpuq.devices.Device("cpu"))
    assert isinstance(runner_of(graph, graph.outputs, "auto"), LitertRunner)
    assert isinstance(runner_of(graph, graph.outputs, "cpu"), GpuqRunner)

    def refusing(*_: object, **__: object) -> None:
        raise ValueError("Didn't find op for builtin opcode")

    with monkeypatch.context() as patch:
        patch.setattr(litert, "Interpreter", refusing)
        assert isinstance(runner_of(graph, graph.outputs, "auto"), GpuqRunner)
        with pytest.raises(UnsupportedModel, match=r"LiteRT refuses the network: Didn't find op"):
            runner_of(graph, graph.outputs, "litert")
    monkeypatch.setattr(runners, "_litert_is_installed", lambda: False)
    assert isinstance(runner_of(graph, graph.outputs, "auto"), GpuqRunner)
    with pytest.raises(DeviceNotAvailable, match=r"pip install 'gpuq\[litert\]'"):
        runner_of(graph, graph.outputs, "litert")


def test_state_is_not_for_an_interpreter_that_keeps_it() -> None:
    network = Network()
    x = network.tensor(TensorDef((1, 4), F, name="x"))
    state = network.tensor(TensorDef((1, 4), F, name="state"), is_variable=True)
    y = network.operator("ADD", [x, state], TensorDef((1, 4), F, name="y"), options("AddOptionsT"))
    graph = read(network.build([x], [y]))
    with pytest.raises(UnsupportedModel, match="zero state"):
        runner_of(graph, graph.outputs, "litert")
    assert isinstance(runner_of(graph, graph.outputs, "auto"), GpuqRunner)


@pytest.mark.parametrize("device", ["cpu", "litert"])
def test_data_that_breaks_a_rule(device: str) -> None:
    graph = read(DIGITS.read_bytes())
    x = np.zeros((3, *graph.tensors[graph.inputs[0]].shape[1:]), F)
    watchers = {graph.outputs[0]: [MinMax()]}
    with pytest.raises(InputTypeError, match="expected float32, got float64"):
        watch(graph, [x.astype(np.float64)], watchers, device=device)
    with pytest.raises(InputValueError, match="shape"):
        watch(graph, [x[..., :-1]], watchers, device=device)
    x[1, 0] = np.nan
    with pytest.raises(InputValueError, match="NaN at"):
        watch(graph, [x], watchers, device=device)
