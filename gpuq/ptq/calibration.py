"""Runs a float network over data and shows every activation to an observer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from gpuq.cuda.arrays import uploaded
from gpuq.devices import resolve_device
from gpuq.errors import InputTypeError, InputValueError, UnsupportedModel
from gpuq.model.graph import Graph
from gpuq.model.model import Model
from gpuq.model.planner import plan_program

MAX_ACTIVATION_BYTES = {"cpu": 1 << 24, "cuda": 1 << 31}
"""Of all activations of one call, which are alive together, by the kind of device: what caches and what GPUs hold."""

Sample = Any
"""One batch: an array, a sequence of arrays in the order of the network's inputs, or a mapping by their names."""


class Watcher(Protocol):
    """What sees a tensor's values, batch by batch."""

    def update(self, values: Any) -> object: ...


def watch(
    graph: Graph,
    samples: Iterable[Sample],
    watchers: Mapping[int, Sequence[Watcher]],
    *,
    device: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Runs the network over all samples.

    Args:
        graph: a float network.
        samples: batches of any size, see Sample; on a GPU also CuPy arrays.
        watchers: by tensor number.
        progress: is told the number of runs after each call.

    Returns:
        The number of runs.

    Raises:
        InputTypeError, InputValueError: samples that do not fit the network; no samples; NaN in an activation.
    """
    exposed = tuple(sorted(watchers))
    model = quick_model(replace(graph, outputs=exposed, signatures=()), device)
    bytes_per_run = sum(tensor.nbytes for tensor in graph.tensors if tensor.data is None)
    at_once = max(1, MAX_ACTIVATION_BYTES[model.device.kind] // max(1, bytes_per_run))
    runs = 0
    for arrays in _batches(graph, samples, at_once):
        if model.device.kind == "cuda":
            # What goes in on the GPU comes out there, where the observers have kernels.
            arrays = tuple(uploaded(array, model.device.index) for array in arrays)
        values = model(*arrays)
        for index, value in zip(exposed, values if isinstance(values, tuple) else (values,), strict=True):
            for watcher in watchers[index]:
                watcher.update(value)
        count = _runs(graph, arrays)
        runs += count
        if progress is not None:
            progress(count)
    if runs == 0:
        raise InputValueError("quantize: no calibration samples; ranges need at least one")
    return runs


def quick_model(graph: Graph, device: str) -> Model:
    """A model whose float32 sums run in whatever order is fast: BLAS's on a CPU, the reference kernels' on a GPU.

    "auto" is the CPU where the network has operators without a CUDA kernel.
    """
    refused: UnsupportedModel | None = None
    for name in (device, "cpu") if device == "auto" else (device,):
        where = resolve_device(name)
        orders = ("litert_opt", "litert_ref") if where.kind == "cpu" else ("litert_ref", "litert_opt")
        for numerics in orders:
            try:
                return Model(plan_program(graph, where, numerics))
            except UnsupportedModel as error:
                refused = error
    assert refused is not None
    raise refused


def inputs_of(graph: Graph, sample: Sample) -> tuple[Any, ...]:
    """A sample's arrays in the order of the network's inputs."""
    names = [graph.tensors[index].name for index in graph.inputs]
    if isinstance(sample, Mapping):
        known = {
            name: index for signature in graph.signatures for name, index in signature.inputs if index in graph.inputs
        } | dict(zip(names, graph.inputs, strict=True))
        unknown = [name for name in sample if name not in known]
        by_index = {known[name]: value for name, value in sample.items() if name in known}
        missing = [graph.tensors[index].name for index in graph.inputs if index not in by_index]
        if unknown or missing:
            raise InputTypeError(f"quantize: a sample with {list(sample)} must have the network's inputs {names}")
        return tuple(by_index[index] for index in graph.inputs)
    arrays = tuple(sample) if isinstance(sample, list | tuple) else (sample,)
    if len(arrays) != len(names):
        raise InputTypeError(f"quantize: a sample of {len(arrays)} arrays for a network with {len(names)} inputs")
    return arrays


def _runs(graph: Graph, arrays: Sequence[Any]) -> int:
    rows = graph.tensors[graph.inputs[0]].shape[:1]
    return int(arrays[0].shape[0]) // math.prod(rows)


def _batches(graph: Graph, samples: Iterable[Sample], at_once: int) -> Iterator[tuple[Any, ...]]:
    """The samples, cut where they are larger than what may run at once; the model checks the rest."""
    for sample in samples:
        arrays = inputs_of(graph, sample)
        for index, array in zip(graph.inputs, arrays, strict=True):
            if not hasattr(array, "shape") or len(array.shape) == 0:
                name = graph.tensors[index].name
                raise InputTypeError(f"quantize: a sample for {name!r} of {type(array).__name__} must be an array")
        runs = _runs(graph, arrays)
        if runs <= at_once:
            yield arrays
            continue
        rows = [graph.tensors[index].shape[0] for index in graph.inputs]
        for first in range(0, runs, at_once):
            last = min(runs, first + at_once)
            yield tuple(array[first * row : last * row] for array, row in zip(arrays, rows, strict=True))


class ChannelMeans:
    """The mean of a tensor along its last axis, one float64 for each channel."""

    def __init__(self) -> None:
        self._sums: np.ndarray[Any, np.dtype[np.float64]] | None = None
        self._count = 0

    def update(self, values: Any) -> None:
        rows = values.reshape(-1, values.shape[-1])
        sums = np.asarray(_on_host(rows.sum(axis=0, dtype=np.float64)))
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += rows.shape[0]

    @property
    def means(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self._sums is None:
            raise InputValueError("quantize: a mean of no values")
        return np.asarray(self._sums / self._count)


def _on_host(values: Any) -> Any:
    """A CuPy array as NumPy's."""
    return values.get() if hasattr(values, "get") else values
