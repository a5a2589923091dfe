"""What runs a float network and shows its activations: gpuq's own operators, or LiteRT's interpreter on a CPU.

Calibration needs activations, not anybody's bits. On a CPU LiteRT's interpreter gives them several times as fast as
NumPy can; where it is not installed, or does not take the network, gpuq's own operators run it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from gpuq.cuda.arrays import uploaded
from gpuq.devices import resolve_device
from gpuq.errors import DeviceNotAvailable, UnsupportedModel
from gpuq.model.graph import Graph
from gpuq.model.model import Model, checked_batch
from gpuq.model.planner import plan_program
from gpuq.model.tflite_writer import write

LITERT = "litert"
"""LiteRT's interpreter, where a device is asked for."""

ACTIVATION_BYTES = {"cpu": 1 << 24, "cuda": 1 << 31, LITERT: 1 << 22}
"""Of all activations of one call, which are alive together, by what runs it: what caches and what GPUs hold. LiteRT's
interpreter is fastest with 2 to 8 MiB (measured on ResNet-8 and a MobileNet)."""


Show = Callable[[int, Any], None]
"""Takes a tensor's number and its values."""


class Runner(Protocol):
    """Runs a network over batches."""

    @property
    def at_once(self) -> int:
        """Runs that a call should have at most."""
        ...

    def __call__(self, arrays: Sequence[Any], show: Show) -> None:
        """Shows every watched tensor of these inputs; whoever sees its values must not keep them."""
        ...


def runner_of(graph: Graph, watched: Sequence[int], device: str) -> Runner:
    """What runs a network here.

    Args:
        watched: tensors to show: the network's inputs, and what operators compute.
        device: "cpu", "cuda" or "cuda:N" for gpuq's operators, "litert" for LiteRT's interpreter; "auto" is the first
            of a GPU, LiteRT and the CPU that is here and has the network's operators.

    Raises:
        DeviceNotAvailable: what was asked for is not here.
        UnsupportedModel: it does not have an operator of the network.
    """
    refused: UnsupportedModel | None = None
    for name in _candidates(device):
        try:
            return LitertRunner(graph, watched) if name == LITERT else GpuqRunner(graph, watched, name)
        except UnsupportedModel as error:
            refused = error
    assert refused is not None
    raise refused


def quick_model(graph: Graph, device: str) -> Model:
    """A model whose float32 sums run in whatever order is fast: BLAS's on a CPU, the reference kernels' on a GPU.

    "auto" is the CPU where the network has operators without a CUDA kernel, and so is "litert".
    """
    refused: UnsupportedModel | None = None
    for name in [each for each in _candidates(device) if each != LITERT] or ["cpu"]:
        where = resolve_device(name)
        orders = ("litert_opt", "litert_ref") if where.kind == "cpu" else ("litert_ref", "litert_opt")
        for numerics in orders:
            try:
                return Model(plan_program(graph, where, numerics))
            except UnsupportedModel as error:
                refused = error
    assert refused is not None
    raise refused


def _candidates(device: str) -> list[str]:
    if device != "auto":
        return [device]
    gpu = ["cuda"] if resolve_device("auto").kind == "cuda" else []
    return [*gpu, *([LITERT] if _litert_is_installed() else []), "cpu"]


def _litert_is_installed() -> bool:
    return importlib.util.find_spec("ai_edge_litert") is not None


def _runs_of(graph: Graph, kind: str) -> int:
    """Runs whose activations fit where they should."""
    bytes_per_run = sum(tensor.nbytes for tensor in graph.tensors if tensor.data is None)
    return max(1, ACTIVATION_BYTES[kind] // max(1, bytes_per_run))


class GpuqRunner:
    """gpuq's operators: a Runner."""

    def __init__(self, graph: Graph, watched: Sequence[int], device: str) -> None:
        self._watched = tuple(watched)
        self._model = quick_model(replace(graph, outputs=self._watched, signatures=()), device)
        self.at_once = _runs_of(graph, self._model.device.kind)

    def __call__(self, arrays: Sequence[Any], show: Show) -> None:
        device = self._model.device
        if device.kind == "cuda":
            # What goes in on the GPU comes out there, where the observers have kernels.
            arrays = [uploaded(array, device.index) for array in arrays]
        values = self._model(*arrays)
        for index, value in zip(self._watched, values if isinstance(values, tuple) else (values,), strict=True):
            show(index, value)


class LitertRunner:
    """LiteRT's interpreter with XNNPACK, on as many threads as there are cores: a Runner.

    It is given the network with all watched tensors as outputs, which shows what a delegate keeps to itself. Runs go in
    side by side where every watched tensor then has its own first dimension that many times, one by one elsewhere
    (a RESHAPE to a constant shape, say).
    """

    def __init__(self, graph: Graph, watched: Sequence[int]) -> None:
        """Prepares to run.

        Raises:
            DeviceNotAvailable: ai-edge-litert is not installed.
            UnsupportedModel: the interpreter refuses the network, or the network keeps state from run to run.
        """
        if not _litert_is_installed():
            raise DeviceNotAvailable("device 'litert': ai-edge-litert is not installed; pip install 'gpuq[litert]'")
        if any(True for _ in graph.variables):
            raise UnsupportedModel("device 'litert': every run must start from zero state, and the network keeps some")
        self._graph = graph
        self._watched = tuple(watched)
        self._computed = [index for index in self._watched if index not in graph.inputs]
        # A network of no outputs is none: what nobody watches is still an output.
        outputs = tuple(self._computed) or graph.outputs
        litert: Any = importlib.import_module("ai_edge_litert.interpreter")
        try:
            self._interpreter = litert.Interpreter(
                model_content=write(replace(graph, outputs=outputs, signatures=())), num_threads=_cores()
            )
            self._resize(1)
        except (RuntimeError, ValueError) as error:
            raise UnsupportedModel(f"device 'litert': LiteRT refuses the network: {error}") from error
        self.at_once = _runs_of(graph, LITERT)
        if self.at_once > 1 and not self._takes(self.at_once):
            self.at_once = 1

    def __call__(self, arrays: Sequence[Any], show: Show) -> None:
        values, runs = checked_batch(self._graph, dict(zip(self._graph.inputs, arrays, strict=True)))
        if runs != self._runs:
            self._resize(runs)
        for detail, index in zip(self._interpreter.get_input_details(), self._graph.inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], values[index])
        self._interpreter.invoke()
        for index in self._watched:
            # The interpreter's own memory: it refuses to go on while anybody holds it.
            show(index, values[index] if index in values else self._interpreter.tensor(self._numbers[index])())

    def _resize(self, runs: int) -> None:
        """Makes room for this many runs side by side."""
        for detail, index in zip(self._interpreter.get_input_details(), self._graph.inputs, strict=True):
            shape = self._graph.tensors[index].shape
            if shape:
                self._interpreter.resize_tensor_input(detail["index"], [runs * shape[0], *shape[1:]], strict=False)
        self._interpreter.allocate_tensors()
        outputs = self._interpreter.get_output_details()
        self._numbers = {index: detail["index"] for index, detail in zip(self._computed, outputs, strict=False)}
        self._runs = runs

    def _takes(self, runs: int) -> bool:
        """Whether runs go side by side: tried."""
        try:
            self._resize(runs)
        except (RuntimeError, ValueError):
            found = False
        else:
            shapes = {detail["index"]: tuple(detail["shape"]) for detail in self._interpreter.get_output_details()}
            found = all(
                shapes[self._numbers[index]] == (runs * lead, *rest)
                for index in self._computed
                for lead, *rest in [self._graph.tensors[index].shape or (0,)]
            )
        if not found:
            self._resize(1)
        return found


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
