"""Runs a Program: copies inputs in, launches step after step, copies outputs out."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.blas import single_threaded
from gpuq.errors import DeviceOutOfMemory
from gpuq.model.planner import ALIGNMENT, Operand, Program, Step
from gpuq.ranges import annotate

# Workspaces kept for the next call; each is as large as its batch.
POOLED_WORKSPACES = 4


class Workspace:
    """The memory of one call over N runs: arena, scratch, and the views of every step into them."""

    def __init__(self, program: Program, runs: int) -> None:
        self.runs = runs
        scratch_bytes = program.workspace_bytes(runs)
        arena_bytes = program.arena_bytes * runs
        try:
            memory = np.empty(arena_bytes + scratch_bytes + ALIGNMENT, np.uint8)
        except MemoryError:
            raise DeviceOutOfMemory(
                f"a batch of {runs} needs {arena_bytes + scratch_bytes} bytes, more than there are; use a smaller batch"
            ) from None
        start = -memory.ctypes.data % ALIGNMENT
        self._arena = memory[start : start + arena_bytes]
        self._scratch = memory[start + arena_bytes : start + arena_bytes + scratch_bytes]
        self.views = {index: self._view(operand) for index, operand in program.operands.items()}
        self.launches = [
            (
                step,
                [self.views[operand.tensor] for operand in step.inputs],
                [self.views[operand.tensor] for operand in step.outputs],
            )
            for step in program.steps
        ]
        self.reset(program)

    def _view(self, operand: Operand) -> npt.NDArray[Any]:
        size = math.prod(operand.shape) * operand.dtype.itemsize * self.runs
        start = operand.offset * self.runs
        return self._arena[start : start + size].view(operand.dtype).reshape(self.runs, *operand.shape)

    def reset(self, program: Program) -> None:
        """Sets state to what the runtimes reset it to: the zero point for int8, zero bytes for other types.

        Source: Subgraph::ResetVariableTensors, LiteRT tflite/core/subgraph.cc.
        """
        for tensor in program.graph.variables:
            is_int8 = tensor.dtype == np.int8 and tensor.quant is not None
            self.views[tensor.index][...] = tensor.quant.scalar_zero_point() if is_int8 and tensor.quant else 0

    def load(self, inputs: Mapping[int, npt.NDArray[Any]]) -> None:
        """Copies inputs, by tensor number, into the arena."""
        for index, value in inputs.items():
            view = self.views[index]
            np.copyto(view, value.reshape(view.shape))

    def steps(self) -> Iterator[Step]:
        """Launches the program; yields each step right after it."""
        with single_threaded():
            for step, inputs, outputs in self.launches:
                with annotate(step.plan.name):
                    step.plan.launch(inputs, outputs, self._scratch)
                yield step


class Executor:
    """Runs one Program from any number of threads; every call has a workspace of its own from a bounded pool."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._lock = threading.Lock()
        self._pool: list[Workspace] = []

    def run(self, inputs: Mapping[int, npt.NDArray[Any]], runs: int) -> list[npt.NDArray[Any]]:
        """The network's outputs from zero state: copies, (N * first dimension, ...)."""
        workspace = self._take(runs)
        workspace.reset(self.program)
        try:
            return self.run_in(workspace, inputs)
        finally:
            self._give_back(workspace)

    def run_in(self, workspace: Workspace, inputs: Mapping[int, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The network's outputs, state as it lies in this workspace."""
        workspace.load(inputs)
        for _ in workspace.steps():
            pass
        return [self._output(workspace, index) for index in self.program.graph.outputs]

    def walk(self, inputs: Mapping[int, npt.NDArray[Any]], runs: int) -> dict[int, npt.NDArray[Any]]:
        """Every tensor that an operator computes, copied right after its step: the same steps as run()."""
        program = self.program
        workspace = self._take(runs)
        workspace.reset(program)
        try:
            workspace.load(inputs)
            computed = {view.tensor: self._copy(workspace, view.tensor) for view in program.input_views}
            for step in workspace.steps():
                for operand in (*step.outputs, *step.views):
                    computed[operand.tensor] = self._copy(workspace, operand.tensor)
        finally:
            self._give_back(workspace)
        for index in _folded_outputs(program):
            computed[index] = self._output(workspace, index)
        return computed

    def _output(self, workspace: Workspace, index: int) -> npt.NDArray[Any]:
        if index in workspace.views:
            return self._copy(workspace, index)
        constant = self.program.constants[index]
        return joined(np.repeat(constant[None], workspace.runs, axis=0))

    @staticmethod
    def _copy(workspace: Workspace, index: int) -> npt.NDArray[Any]:
        return joined(workspace.views[index]).copy()

    def _take(self, runs: int) -> Workspace:
        with self._lock:
            for position, workspace in enumerate(self._pool):
                if workspace.runs == runs:
                    return self._pool.pop(position)
        return Workspace(self.program, runs)

    def _give_back(self, workspace: Workspace) -> None:
        with self._lock:
            self._pool.append(workspace)
            del self._pool[:-POOLED_WORKSPACES]


def joined(runs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, d0, d1, ...) as (N * d0, d1, ...): N runs side by side, as users see a batch. Scalars give (N,)."""
    if runs.ndim <= 1:
        return runs
    return runs.reshape(-1, *runs.shape[2:])


def _folded_outputs(program: Program) -> Sequence[int]:
    """Tensors that operators of the file compute, but that were known when the model was loaded."""
    by_nodes = [index for node in program.graph.nodes for index in node.outputs if index in program.constants]
    return [*program.graph.folded, *by_nodes]
