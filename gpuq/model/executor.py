"""Runs a Program: copies inputs in, launches it, copies outputs out; any batch, in as many parts as memory asks for."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.arrays import empty_array, is_device_array
from gpuq.cuda.launcher import Launcher
from gpuq.errors import DeviceError, DeviceOutOfMemory
from gpuq.model.planner import Program
from gpuq.model.workspace import CpuWorkspace, CudaWorkspace, Verdict, Workspace

# Workspaces kept for the next call; each is as large as its batch.
POOLED_WORKSPACES = 4
# Batches that run_batches has under way: one is copied in, one computed, one copied out.
PIPELINE_DEPTH = 3

Inputs = Mapping[int, Any]


class Executor:
    """Runs one Program from any number of threads; every call has a workspace of its own from a bounded pool."""

    def __init__(self, program: Program, memory_limit: int | None = None) -> None:
        """Prepares to run.

        Args:
            memory_limit: bytes that constants and one workspace may take together; batches beyond it run in parts.

        Raises:
            DeviceOutOfMemory: not even one run fits.
        """
        self.program = program
        self._lock = threading.Lock()
        self._pool: list[Workspace] = []
        self._largest = None if memory_limit is None else largest_batch(program, memory_limit)
        # Under a limit there is one workspace, and callers take turns.
        self._kept = POOLED_WORKSPACES if memory_limit is None else 1
        self._turn = None if memory_limit is None else threading.Lock()

    @property
    def largest_batch(self) -> int | None:
        """Runs that are computed at once at most; None while nothing has set a limit."""
        return self._largest

    def run(self, inputs: Inputs, runs: int, stream: Any = None, verdicts: list[Verdict] | None = None) -> list[Any]:
        """The network's outputs from zero state: copies, (N * first dimension, ...), of the inputs' kind of array.

        Args:
            verdicts: where to add what is to be asked once the stream is synchronized, instead of asking here.

        Raises:
            InputValueError: data that a step refuses; of arrays on a device nobody waits to see it.
        """
        on_device = any(is_device_array(value) for value in inputs.values())
        outputs: list[Any] = []
        for part, workspace in self._parts(inputs, runs, stream):
            outputs = outputs or [self._new(index, runs, on_device, stream) for index in self.program.graph.outputs]
            workspace.run(stream)
            for index, out in zip(self.program.graph.outputs, outputs, strict=True):
                self._store(workspace, index, out[part], stream)
            if on_device and verdicts is None:
                continue
            verdict = workspace.verdict(stream)
            if not on_device:
                workspace.synchronize(stream)
            if verdicts is None:
                verdict()
            else:
                verdicts.append(verdict)
        return [joined(out) for out in outputs]

    def run_in(self, workspace: Workspace, inputs: Inputs, stream: Any = None) -> list[Any]:
        """The network's outputs, state as it lies in this workspace."""
        on_device = any(is_device_array(value) for value in inputs.values())
        workspace.begin(stream)
        workspace.load(inputs, stream)
        workspace.run(stream)
        outputs = []
        for index in self.program.graph.outputs:
            out = self._new(index, workspace.runs, on_device, stream)
            self._store(workspace, index, out, stream)
            outputs.append(joined(out))
        verdict = None if on_device else workspace.verdict(stream)
        workspace.end(stream)
        if verdict is not None:
            workspace.synchronize(stream)
            verdict()
        return outputs

    def run_batches(self, batches: Iterable[tuple[Inputs, int]]) -> Iterator[list[Any]]:
        """run() of one batch after the other, in order; on a GPU, copies and computation overlap.

        At most PIPELINE_DEPTH batches are under way, each with a stream and a workspace of its own.
        """
        launcher = self.program.launcher
        if launcher is None:
            for inputs, runs in batches:
                yield self.run(inputs, runs)
            return
        lanes = [_Lane(self, launcher) for _ in range(PIPELINE_DEPTH)]
        busy: deque[_Lane] = deque()
        try:
            for number, (inputs, runs) in enumerate(batches):
                if len(busy) == PIPELINE_DEPTH:
                    yield busy.popleft().finish()
                lane = lanes[number % PIPELINE_DEPTH]
                lane.start(inputs, runs)
                busy.append(lane)
            while busy:
                yield busy.popleft().finish()
        finally:
            # Whoever stops early leaves copies under way into memory that is about to be freed.
            while busy:
                busy.popleft().wait()

    def walk(self, inputs: Inputs, runs: int) -> dict[int, npt.NDArray[Any]]:
        """Every tensor that an operator computes and that has memory of its own, copied right after its step."""
        program = self.program
        parts: list[dict[int, npt.NDArray[Any]]] = []
        for _, workspace in self._parts(inputs, runs):
            computed = {view.tensor: self._copy(workspace, view.tensor) for view in program.input_views}
            for step in workspace.steps():
                for operand in (*step.outputs, *step.views):
                    if operand.inside is None:
                        computed[operand.tensor] = self._copy(workspace, operand.tensor)
            verdict = workspace.verdict()
            workspace.synchronize()
            verdict()
            parts.append(computed)
        found = parts[0] if len(parts) == 1 else {i: np.concatenate([part[i] for part in parts]) for i in parts[0]}
        for index in _folded_outputs(program):
            found[index] = joined(np.repeat(program.constants[index][None], runs, axis=0))
        return found

    def open(self, runs: int) -> Workspace:
        """A workspace of the caller's own.

        Raises:
            DeviceOutOfMemory: it does not fit.
        """
        return CpuWorkspace(self.program, runs) if self.program.launcher is None else CudaWorkspace(self.program, runs)

    def _parts(self, inputs: Inputs, runs: int, stream: Any = None) -> Iterator[tuple[slice, Workspace]]:
        """(runs of this part, a workspace in zero state that holds their inputs), as few parts as memory allows."""
        done = 0
        while done < runs:
            workspace = self._take(min(runs - done, self._largest or runs), stream)
            part = slice(done, done + workspace.runs)
            try:
                workspace.reset(stream)
                workspace.load({index: self._of_runs(index, value)[part] for index, value in inputs.items()}, stream)
                yield part, workspace
            finally:
                self._give_back(workspace, stream)
            done = part.stop

    def _of_runs(self, index: int, value: Any) -> Any:
        """An input as (runs, *shape)."""
        return value.reshape(-1, *self.program.graph.tensors[index].shape)

    def _new(self, index: int, runs: int, on_device: bool, stream: Any) -> Any:
        """An array for an output of so many runs."""
        tensor = self.program.graph.tensors[index]
        shape = (runs, *tensor.shape)
        launcher = self.program.launcher
        if not on_device or launcher is None:
            return np.empty(shape, tensor.dtype)
        return empty_array(launcher, shape, tensor.dtype, stream)

    def _store(self, workspace: Workspace, index: int, out: Any, stream: Any) -> None:
        if index in self.program.operands:
            workspace.store(index, out, stream)
            return
        values = np.repeat(self.program.constants[index][None], out.shape[0], axis=0)
        if isinstance(out, np.ndarray):
            out[...] = values
        elif self.program.launcher is not None:
            self.program.launcher.write(out, values, stream)

    def _copy(self, workspace: Workspace, index: int) -> npt.NDArray[Any]:
        out: npt.NDArray[Any] = self._new(index, workspace.runs, False, None)
        workspace.store(index, out)
        workspace.synchronize()
        return np.asarray(joined(out))

    def _take(self, runs: int, stream: Any = None) -> Workspace:
        """A workspace from the pool, or a new one: of fewer runs where there is no memory for as many."""
        if self._turn is not None:
            self._turn.acquire()
        try:
            return self._found_or_opened(runs, stream)
        except BaseException:
            if self._turn is not None:
                self._turn.release()
            raise

    def _found_or_opened(self, runs: int, stream: Any) -> Workspace:
        while True:
            with self._lock:
                position = next((i for i, workspace in enumerate(self._pool) if workspace.runs == runs), None)
                workspace = None if position is None else self._pool.pop(position)
                if workspace is None and self._turn is not None:
                    self._pool.clear()
            if workspace is not None:
                workspace.begin(stream)
                return workspace
            try:
                return self.open(runs)
            except DeviceOutOfMemory:
                with self._lock:
                    kept = bool(self._pool)
                    self._pool.clear()
                if kept:
                    continue
                if runs == 1:
                    raise
                runs = -(-runs // 2)
                self._largest = min(runs, self._largest or runs)

    def _give_back(self, workspace: Workspace, stream: Any = None) -> None:
        try:
            workspace.end(stream)
            with self._lock:
                self._pool.append(workspace)
                del self._pool[: -self._kept]
        except DeviceError:
            # A lost device: whoever ran on it has had the error, and nobody can use this workspace again.
            pass
        finally:
            if self._turn is not None:
                self._turn.release()


class _Lane:
    """A stream of run_batches, with pinned memory on the host for one batch's inputs and outputs."""

    def __init__(self, executor: Executor, launcher: Launcher) -> None:
        self._executor = executor
        self._launcher = launcher
        self._stream = launcher.stream()
        self._pinned: dict[tuple[str, int], npt.NDArray[Any]] = {}
        self._outputs: list[Any] = []
        self._verdicts: list[Verdict] = []

    def start(self, inputs: Inputs, runs: int) -> None:
        """Copies in, launches, copies out, and waits for nothing."""
        executor, stream = self._executor, self._stream
        program, largest = executor.program, executor.largest_batch
        self._verdicts = []
        on_device = any(is_device_array(value) for value in inputs.values())
        if on_device or (largest is not None and runs > largest):
            self._outputs = executor.run(inputs, runs, stream, self._verdicts)
            return
        workspace = executor._take(runs, stream)
        if workspace.runs < runs:
            # In parts, one after the other: there is no memory to do it side by side.
            executor._give_back(workspace, stream)
            self._outputs = executor.run(inputs, runs, stream, self._verdicts)
            return
        try:
            workspace.reset(stream)
            workspace.load({index: self._staged(index, value) for index, value in inputs.items()}, stream)
            workspace.run(stream)
            self._outputs = []
            for position, index in enumerate(program.graph.outputs):
                tensor = program.graph.tensors[index]
                out = self._room("out", position, (runs, *tensor.shape), tensor.dtype)
                executor._store(workspace, index, out, stream)
                self._outputs.append(joined(out))
            self._verdicts = [workspace.verdict(stream)]
        finally:
            executor._give_back(workspace, stream)

    def wait(self) -> None:
        """Until the batch is done."""
        self._launcher.synchronize(self._stream)

    def finish(self) -> list[Any]:
        """Waits for the batch; its outputs as arrays of the caller's own.

        Raises:
            InputValueError: data that a step refuses.
        """
        self.wait()
        for verdict in self._verdicts:
            verdict()
        outputs, self._outputs = self._outputs, []
        return [out if is_device_array(out) else np.array(out) for out in outputs]

    def _staged(self, index: int, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        room = self._room("in", index, value.shape, value.dtype)
        np.copyto(room, value)
        return room

    def _room(self, what: str, index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        size = math.prod(shape) * dtype.itemsize
        room = self._pinned.get((what, index))
        if room is None or room.size < size:
            room = self._pinned[what, index] = self._launcher.pinned(size)
        return room[:size].view(dtype).reshape(shape)


def largest_batch(program: Program, memory_limit: int) -> int:
    """The most runs whose workspace fits beside the constants.

    Raises:
        DeviceOutOfMemory: not even one does.
    """

    def needed(runs: int) -> int:
        own = program.arena_bytes * runs + program.status_bytes + program.workspace_bytes(runs)
        return program.constant_bytes + own

    if needed(1) > memory_limit:
        raise DeviceOutOfMemory(f"one run needs {needed(1)} bytes; the limit is {memory_limit}")
    low, high = 1, 2
    while high < 1 << 24 and needed(high) <= memory_limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= memory_limit else (low, middle)
    return low


def joined(runs: Any) -> Any:
    """(N, d0, d1, ...) as (N * d0, d1, ...): N runs side by side, as users see a batch. Scalars give (N,)."""
    if runs.ndim <= 1:
        return runs
    return runs.reshape(-1, *runs.shape[2:])


def _folded_outputs(program: Program) -> Sequence[int]:
    """Tensors that operators of the file compute, but that were known when the model was loaded."""
    by_nodes = [index for node in program.graph.nodes for index in node.outputs if index in program.constants]
    return [*program.graph.folded, *by_nodes]
