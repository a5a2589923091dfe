"""Runs a float network over data and shows every activation to an observer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from gpuq.errors import InputTypeError, InputValueError
from gpuq.model.graph import Graph
from gpuq.ptq.observers import MinMax, MovingAverageMinMax
from gpuq.ptq.runners import runner_of

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
        device: see runners.runner_of.
        progress: is told the number of runs after each call.

    Returns:
        The number of runs.

    Raises:
        InputTypeError, InputValueError: samples that do not fit the network; no samples; NaN in an activation.
    """

    def show(index: int, values: Any) -> None:
        for watcher in watchers[index]:
            watcher.update(values)

    runner = runner_of(graph, tuple(sorted(watchers)), device)
    averages = [one for each in watchers.values() for one in each if isinstance(one, WholeBatches)]
    runs = 0
    for sample in samples:
        for arrays in _parts(graph, sample, runner.at_once):
            runner(arrays, show)
            count = _runs(graph, arrays)
            runs += count
            if progress is not None:
                progress(count)
        for average in averages:
            average.end_batch()
    if runs == 0:
        raise InputValueError("quantize: no calibration samples; ranges need at least one")
    return runs


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


def _parts(graph: Graph, sample: Sample, at_once: int) -> Iterator[tuple[Any, ...]]:
    """A sample, cut where it is larger than what may run at once; the runner checks the rest."""
    arrays = inputs_of(graph, sample)
    for index, array in zip(graph.inputs, arrays, strict=True):
        if not hasattr(array, "shape") or len(array.shape) == 0:
            name = graph.tensors[index].name
            raise InputTypeError(f"quantize: a sample for {name!r} of {type(array).__name__} must be an array")
    runs = _runs(graph, arrays)
    if runs <= at_once:
        yield arrays
        return
    rows = [graph.tensors[index].shape[0] for index in graph.inputs]
    for first in range(0, runs, at_once):
        last = min(runs, first + at_once)
        yield tuple(array[first * row : last * row] for array, row in zip(arrays, rows, strict=True))


class WholeBatches:
    """A watcher for a moving average, which weighs batches as they were given, not as they were cut to run."""

    def __init__(self, average: MovingAverageMinMax) -> None:
        self._average = average
        self._seen = MinMax()

    def update(self, values: Any) -> None:
        self._seen.update(values)

    def end_batch(self) -> None:
        """Hands on what the batch's parts had."""
        if self._seen.count:
            self._average.average(self._seen.minimum, self._seen.maximum, self._seen.count)
        self._seen = MinMax()


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
