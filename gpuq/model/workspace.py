"""The memory of one call over N runs, on the CPU or on a GPU: arena, scratch, and every step's operands in them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuq.cpu.blas import single_threaded
from gpuq.cuda.kernel import Launch
from gpuq.cuda.launcher import Replay
from gpuq.cuda.layer import y_shapes
from gpuq.cuda.layout import ImageOperand
from gpuq.cuda.plans import CudaPlan
from gpuq.cuda.status import clear_launch
from gpuq.errors import DeviceError, DeviceOutOfMemory
from gpuq.model.placement import ALIGNMENT
from gpuq.model.planner import Operand, Program, Step
from gpuq.ranges import annotate


class Workspace(Protocol):
    """Memory for one call at a time; streams are those of a GPU, None the current one."""

    @property
    def runs(self) -> int: ...

    def begin(self, stream: Any = None) -> None:
        """Before a call on a stream: makes it wait for the last call, which may have been on another."""
        ...

    def end(self, stream: Any = None) -> None:
        """After a call on a stream, of which nothing need be done yet."""
        ...

    def reset(self, stream: Any = None) -> None:
        """Sets state to what the runtimes reset it to."""
        ...

    def load(self, inputs: Mapping[int, Any], stream: Any = None) -> None:
        """Copies inputs, by tensor number, into the arena: NumPy arrays, or the device's."""
        ...

    def run(self, stream: Any = None) -> None:
        """Launches the program."""
        ...

    def steps(self, stream: Any = None) -> Iterator[Step]:
        """Launches the program step by step; yields each right after it."""
        ...

    def time_run(self, repeats: int) -> float:
        """Seconds of one run of the program, the mean of so many after one more."""
        ...

    def time_step(self, number: int, repeats: int) -> float:
        """Seconds of one step by itself, likewise; its inputs lie in the caches as its last run left them."""
        ...

    def view(self, index: int) -> Any:
        """A tensor in the arena, (N, *shape), on the device."""
        ...

    def store(self, index: int, out: Any, stream: Any = None) -> None:
        """Copies a tensor to `out`, (N, *shape), NumPy's or the device's; see synchronize()."""
        ...

    def synchronize(self, stream: Any = None) -> None:
        """Waits until all that was asked for on the stream is done."""
        ...

    def verdict(self, stream: Any = None) -> Verdict:
        """What the steps of the last run say of their data.

        To be called once the stream is synchronized: raises InputValueError for the first step that refuses its own.
        """
        ...


Verdict = Callable[[], None]


def initial_states(program: Program) -> Iterator[tuple[int, int | npt.NDArray[Any]]]:
    """(tensor, value) of every variable: what CALL_ONCE assigns, else the zero point for int8, zero for other types.

    Source: Subgraph::ResetVariableTensors, LiteRT tflite/core/subgraph.cc.
    """
    for tensor in program.graph.variables:
        if tensor.initial is not None:
            yield tensor.index, tensor.initial
            continue
        is_int8 = tensor.dtype == np.int8 and tensor.quant is not None
        yield tensor.index, tensor.quant.scalar_zero_point() if is_int8 and tensor.quant else 0


def _out_of_memory(runs: int, nbytes: int, problem: str = "more than there are") -> DeviceOutOfMemory:
    return DeviceOutOfMemory(f"a batch of {runs} needs {nbytes} bytes, {problem}; use a smaller batch")


def _span(operand: Operand, runs: int) -> slice:
    """The bytes of a tensor, or of what it is part of, in the arena of so many runs."""
    start = operand.offset * runs
    return slice(start, start + (operand.inside.run_pitch if operand.inside else operand.nbytes) * runs)


def _mean_seconds(call: Callable[[], None], repeats: int) -> float:
    call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


class CpuWorkspace:
    """NumPy arrays."""

    def __init__(self, program: Program, runs: int) -> None:
        self.runs = runs
        self._program = program
        scratch_bytes = program.workspace_bytes(runs)
        arena_bytes = program.arena_bytes * runs
        try:
            memory = np.empty(arena_bytes + scratch_bytes + ALIGNMENT, np.uint8)
        except MemoryError:
            raise _out_of_memory(runs, arena_bytes + scratch_bytes) from None
        start = -memory.ctypes.data % ALIGNMENT
        arena = memory[start : start + arena_bytes]
        self._scratch = memory[start + arena_bytes : start + arena_bytes + scratch_bytes]
        self._views = {
            index: arena[_span(operand, runs)].view(operand.dtype).reshape(runs, *operand.shape)
            for index, operand in program.operands.items()
        }
        self._launches = [
            (
                step,
                [self._views[operand.tensor] for operand in step.inputs],
                [self._views[operand.tensor] for operand in step.outputs],
            )
            for step in program.steps
        ]
        self.reset()

    def begin(self, stream: Any = None) -> None:
        pass

    def end(self, stream: Any = None) -> None:
        pass

    def reset(self, stream: Any = None) -> None:
        for index, value in initial_states(self._program):
            self._views[index][...] = value

    def load(self, inputs: Mapping[int, npt.NDArray[Any]], stream: Any = None) -> None:
        for index, value in inputs.items():
            view = self._views[index]
            np.copyto(view, value.reshape(view.shape))

    def run(self, stream: Any = None) -> None:
        for _ in self.steps():
            pass

    def steps(self, stream: Any = None) -> Iterator[Step]:
        with single_threaded():
            for step, inputs, outputs in self._launches:
                with annotate(step.plan.name):
                    step.plan.launch(inputs, outputs, self._scratch)
                yield step

    def time_run(self, repeats: int) -> float:
        return _mean_seconds(self.run, repeats)

    def time_step(self, number: int, repeats: int) -> float:
        step, inputs, outputs = self._launches[number]
        with single_threaded():
            return _mean_seconds(lambda: step.plan.launch(inputs, outputs, self._scratch), repeats)

    def view(self, index: int) -> npt.NDArray[Any]:
        return self._views[index]

    def store(self, index: int, out: npt.NDArray[Any], stream: Any = None) -> None:
        np.copyto(out, self._views[index])

    def synchronize(self, stream: Any = None) -> None:
        pass

    def verdict(self, stream: Any = None) -> Verdict:
        # Plans have raised themselves.
        return lambda: None


def _cuda_plan(step: Step) -> CudaPlan:
    assert isinstance(step.plan, CudaPlan)
    return step.plan


class CudaWorkspace:
    """One allocation on a GPU; the launches of all steps are bound to it once and recorded as one graph."""

    def __init__(self, program: Program, runs: int) -> None:
        assert program.launcher is not None
        self.runs = runs
        self._program = program
        self._launcher = program.launcher
        scratch_bytes, status_bytes = program.workspace_bytes(runs), program.status_bytes
        arena_bytes = program.arena_bytes * runs
        needed = arena_bytes + status_bytes + scratch_bytes
        try:
            self._memory = self._launcher.empty(max(1, needed))
        except DeviceOutOfMemory as error:
            raise _out_of_memory(runs, needed, str(error)) from error
        arena, scratch = self._memory[:arena_bytes], self._memory[arena_bytes + status_bytes :]
        self._checking = program.checking
        self._status = self._memory[arena_bytes : arena_bytes + 4 * len(self._checking)].view(np.int32)
        self._clear = [clear_launch(self._status)] if self._checking else []
        self._views = {
            index: arena[_span(operand, runs)].view(operand.dtype).reshape(runs, *operand.shape)
            for index, operand in program.operands.items()
            if operand.inside is None
        }

        def bound(operand: Operand, shape: tuple[int, int, int]) -> Any:
            if operand.inside is None:
                return self._views[operand.tensor]
            return ImageOperand(arena[_span(operand, runs)], operand.inside.layout(runs, shape))

        words = iter(self._status[number : number + 1] for number in range(len(self._checking)))
        self._launches: list[tuple[Step, list[Launch]]] = []
        for step in program.steps:
            plan = _cuda_plan(step)
            inputs = [bound(operand, shape) for operand, shape in zip(step.inputs, plan.layer.x_shapes, strict=True)]
            outputs = [bound(operand, shape) for operand, shape in zip(step.outputs, y_shapes(plan.layer), strict=True)]
            status = next(words) if step.checking is not None else None
            self._launches.append((step, plan.bound(inputs, outputs, scratch, status)))
        self._replay: Replay | None = None
        self._mark: Any = None
        self.reset()

    def __del__(self) -> None:
        # Memory goes back to a pool that knows one stream of it; the last call may be under way on another.
        if getattr(self, "_mark", None) is not None:
            with contextlib.suppress(DeviceError):
                self._launcher.finish(self._mark)

    def begin(self, stream: Any = None) -> None:
        if self._mark is not None:
            self._launcher.wait(self._mark, stream)

    def end(self, stream: Any = None) -> None:
        self._mark = self._launcher.mark(stream)

    def reset(self, stream: Any = None) -> None:
        for index, value in initial_states(self._program):
            view = self._views[index]
            self._launcher.write(view, np.full(view.shape, value, view.dtype), stream)

    def load(self, inputs: Mapping[int, Any], stream: Any = None) -> None:
        for index, value in inputs.items():
            view = self._views[index]
            self._launcher.write(view, value.reshape(view.shape), stream)

    def run(self, stream: Any = None) -> None:
        if self._replay is None:
            steps = [launch for _, launches in self._launches for launch in launches]
            self._replay = self._launcher.record([*self._clear, *steps])
        self._replay(stream)

    def steps(self, stream: Any = None) -> Iterator[Step]:
        for launch in self._clear:
            self._launcher.launch(launch, stream)
        for step, launches in self._launches:
            for launch in launches:
                self._launcher.launch(launch, stream)
            yield step

    def time_run(self, repeats: int) -> float:
        self.run()
        return self._seconds(self.run, repeats)

    def time_step(self, number: int, repeats: int) -> float:
        _, launches = self._launches[number]
        # As one graph: the host's time between two launches would count, too.
        replay = self._launcher.record(launches * repeats)
        replay()
        return self._seconds(replay, 1) / repeats

    def _seconds(self, call: Callable[[], None], repeats: int) -> float:
        start = self._launcher.clock()
        for _ in range(repeats):
            call()
        return self._launcher.seconds(start, self._launcher.clock()) / repeats

    def view(self, index: int) -> Any:
        return self._views[index]

    def store(self, index: int, out: Any, stream: Any = None) -> None:
        if isinstance(out, np.ndarray):
            self._launcher.read(out, self._views[index], stream)
        else:
            self._launcher.write(out, self._views[index], stream)

    def synchronize(self, stream: Any = None) -> None:
        self._launcher.synchronize(stream)

    def verdict(self, stream: Any = None) -> Verdict:
        if not self._checking:
            return lambda: None
        words = self._launcher.pinned(self._status.nbytes).view(np.int32)
        self._launcher.read(words, self._status, stream)
        return partial(_raise_refusal, self._checking, words)


def _raise_refusal(checking: Sequence[Step], words: npt.NDArray[np.int32]) -> None:
    for step, reason in zip(checking, words.tolist(), strict=True):
        if reason and step.checking is not None:
            raise step.checking.refusal(reason)
