"""Launches kernels on a GPU through CuPy: the one place where arguments, arrays and streams meet the driver.

CuPy checks nothing at a launch: a Python int travels as 64 bits, a view's strides are ignored, another GPU's address is
taken. Everything is checked here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda import compile as compiling
from gpuq.cuda.device import unavailable
from gpuq.cuda.kernel import Argument, Kernel, Launch, Pointer, Slot
from gpuq.cuda.launcher import Replay
from gpuq.cuda.layer import Traits
from gpuq.errors import (
    DeviceError,
    DeviceLost,
    DeviceNotAvailable,
    DeviceOutOfMemory,
    InputTypeError,
    InputValueError,
)
from gpuq.ranges import annotate

# CUDA's limits on a grid, for every GPU that gpuq supports.
MAX_GRID = (2**31 - 1, 65535, 65535)
# What constants are aligned to within their one allocation, as allocations themselves are.
ALIGNMENT = 256
_SCALARS = (np.int32, np.uint32, np.int64, np.float32, np.float64)


class _Use:
    """Enters contexts; the driver's errors within become gpuq's. A class, for contextlib's generators cost more."""

    __slots__ = ("_contexts", "_failures", "_what")

    def __init__(self, failures: tuple[type[Exception], ...], what: str, contexts: Sequence[Any]) -> None:
        self._failures = failures
        self._what = what
        self._contexts = contexts

    def __enter__(self) -> None:
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for context in reversed(self._contexts):
            context.__exit__(kind, error, trace)
        if isinstance(error, self._failures):
            raise device_error(self._what, error) from error


class CupyLauncher:
    """Launches on one GPU; see gpuq.cuda.launcher.Launcher.

    Raises:
        DeviceNotAvailable: gpuq cannot use this GPU; the message says why.
    """

    def __init__(self, device: int = 0) -> None:
        reason = unavailable(device)
        if reason:
            raise DeviceNotAvailable(f"cuda:{device}: {reason}")
        self._cupy: Any = importlib.import_module("cupy")
        self.device = device
        self._failures = (self._cupy.cuda.driver.CUDADriverError, self._cupy.cuda.runtime.CUDARuntimeError)
        properties = self._cupy.cuda.runtime.getDeviceProperties(device)
        arch = 10 * int(properties["major"]) + int(properties["minor"])
        self._traits = Traits(arch, int(properties["multiProcessorCount"]))

    @property
    def traits(self) -> Traits:
        return self._traits

    def upload(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Pointer]:
        """One allocation and one copy for all of them, done when this returns."""
        offsets: dict[str, int] = {}
        size = 0
        for name, array in arrays.items():
            offsets[name] = size
            size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        staging = np.zeros(size, np.uint8)
        for name, array in arrays.items():
            staging[offsets[name] : offsets[name] + array.nbytes] = (
                np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            )
        memory = self.empty(size)
        with self._cupy.cuda.Device(self.device):
            memory.set(staging)
            self._cupy.cuda.get_current_stream().synchronize()
        return {name: Pointer(memory, offset) for name, offset in offsets.items()}

    def empty(self, size: int, stream: Any = None) -> Any:
        """Memory of this many bytes, for work on this stream (default: the current one).

        Raises:
            DeviceOutOfMemory: there is not as much.
        """
        cupy = self._cupy
        try:
            with self._on(stream):
                return cupy.empty(size, np.uint8)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise DeviceOutOfMemory(f"cuda:{self.device}: {size} bytes: {error}") from error

    def pinned(self, size: int) -> npt.NDArray[Any]:
        memory = self._cupy.cuda.alloc_pinned_memory(max(1, size))
        return np.frombuffer(memory, np.uint8, size)

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        compiling.load_many(kernels, self.device)

    def misalignment(self, array: Any) -> int:
        self.check("operand", array)
        return int(array.data.ptr) % 16

    def launch(self, launch: Launch, stream: Any = None) -> None:
        """Starts a launch on this stream, or the current one.

        Args:
            stream: see as_stream.

        Raises:
            InputTypeError, InputValueError: an argument is not what a kernel may take.
            DeviceLost: the GPU stopped working, now or in an earlier launch.
        """
        kernel = launch.kernel
        for axis, blocks, limit in zip("xyz", launch.grid, MAX_GRID, strict=True):
            if not 1 <= blocks <= limit:
                raise InputValueError(f"{kernel.name}: grid.{axis} is {blocks}; it must be 1 to {limit}")
        arguments = tuple(self._argument(kernel, number, value) for number, value in enumerate(launch.arguments))
        function = compiling.load(kernel, self.device)
        with self._at_step(kernel.name, annotate(kernel.name)):
            function(
                launch.grid,
                kernel.threads,
                arguments,
                shared_mem=kernel.dynamic_shared_bytes,
                stream=None if stream is None else as_stream(stream),
            )

    def record(self, launches: Sequence[Launch]) -> Replay:
        """Captures them into a CUDA graph, in thread-local mode: other threads may allocate meanwhile."""
        if not launches:
            return lambda stream=None: None
        self.prepare([launch.kernel for launch in launches])
        cupy = self._cupy
        names = f"{launches[0].kernel.name} and {len(launches) - 1} more"
        with self._at_step(names):
            stream = cupy.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture(mode=cupy.cuda.runtime.streamCaptureModeThreadLocal)
                try:
                    for launch in launches:
                        self.launch(launch, stream)
                except BaseException:
                    with contextlib.suppress(Exception):  # the capture is void; the first error says why
                        stream.end_capture()
                    raise
                graph = stream.end_capture()

        def replay(stream: Any = None) -> None:
            with self._at_step(names):
                graph.launch(None if stream is None else as_stream(stream))

        return replay

    def write(self, target: Any, values: Any, stream: Any = None) -> None:
        with self._on(stream):
            if isinstance(values, np.ndarray):
                target.set(np.ascontiguousarray(values))
            else:
                self._cupy.copyto(target, values)

    def read(self, out: npt.NDArray[Any], source: Any, stream: Any = None) -> None:
        with self._on(stream):
            source.get(out=out, blocking=False)

    def stream(self) -> Any:
        with self._cupy.cuda.Device(self.device):
            return self._cupy.cuda.Stream(non_blocking=True)

    def synchronize(self, stream: Any = None) -> None:
        with self._on(stream):
            self._cupy.cuda.get_current_stream().synchronize()

    def mark(self, stream: Any = None) -> Any:
        with self._on(stream):
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record()
            return event

    def wait(self, mark: Any, stream: Any = None) -> None:
        with self._on(stream):
            self._cupy.cuda.get_current_stream().wait_event(mark)

    def finish(self, mark: Any) -> None:
        with self._on(None):
            mark.synchronize()

    def clock(self, stream: Any = None) -> Any:
        with self._on(stream):
            event = self._cupy.cuda.Event()
            event.record()
            return event

    def seconds(self, start: Any, stop: Any) -> float:
        with self._on(None):
            stop.synchronize()
            return float(self._cupy.cuda.get_elapsed_time(start, stop)) / 1e3

    def _on(self, stream: Any) -> _Use:
        """with: this device and stream are the current ones; the driver's errors become gpuq's."""
        chosen = () if stream is None else (as_stream(stream),)
        return _Use(self._failures, f"cuda:{self.device}", (self._cupy.cuda.Device(self.device), *chosen))

    def _at_step(self, name: str, *contexts: Any) -> _Use:
        """with: this device is the current one; the driver's errors name the step."""
        return _Use(self._failures, name, (self._cupy.cuda.Device(self.device), *contexts))

    def _argument(self, kernel: Kernel, number: int, value: Argument) -> Any:
        if isinstance(value, _SCALARS):
            return value
        where = f"{kernel.name}: argument {number}"
        if isinstance(value, Slot):
            raise InputTypeError(f"{where}: nothing is bound to {value.name!r}")
        if not isinstance(value, Pointer):
            names = ", ".join(scalar.__name__ for scalar in _SCALARS)
            raise InputTypeError(f"{where} is a {type(value).__name__}; it must be a Pointer or one of {names}")
        array = value.array
        if array is None:
            return np.uint64(value.offset)
        self.check(where, array)
        if not 0 <= value.offset <= array.nbytes:
            raise InputValueError(f"{where}: offset {value.offset} must be 0 to {array.nbytes}, the array's bytes")
        return np.uint64(int(array.data.ptr) + value.offset)

    def check(self, where: str, array: Any) -> None:
        """Raises unless this is a C-contiguous array on this GPU."""
        if not isinstance(array, self._cupy.ndarray):
            raise InputTypeError(f"{where} is a {type(array).__name__}; it must be an array on cuda:{self.device}")
        if int(array.device.id) != self.device:
            raise InputValueError(f"{where} is on cuda:{array.device.id}; it must be on cuda:{self.device}")
        if not array.flags.c_contiguous:
            raise InputValueError(f"{where} has strides {array.strides}; it must be C-contiguous")


@functools.cache
def launcher(device: int = 0) -> CupyLauncher:
    """The launcher of this GPU; one for the whole process."""
    return CupyLauncher(device)


def as_stream(stream: Any) -> Any:
    """A CuPy stream of anything that is one.

    Args:
        stream: a cupy.cuda.Stream, a torch.cuda.Stream, an object with __cuda_stream__, or the address of a
            cudaStream_t.

    Raises:
        InputTypeError: none of these.
    """
    cupy: Any = importlib.import_module("cupy")
    if isinstance(stream, cupy.cuda.Stream):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    address = getattr(stream, "cuda_stream", stream)
    if isinstance(address, bool) or not isinstance(address, int):
        raise InputTypeError(f"stream is a {type(stream).__name__}; it must be a CUDA stream or its address")
    return cupy.cuda.Stream.from_external(_StreamAddress(address))


class _StreamAddress:
    """An address under the protocol that CuPy takes streams by."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


# CUDA errors after which the context is of no more use (CUDA driver API, CUresult).
_LOST = (
    "ILLEGAL_ADDRESS",
    "ILLEGAL_INSTRUCTION",
    "MISALIGNED_ADDRESS",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT",
    "ASSERT",
    "HARDWARE_STACK_ERROR",
    "ECC_UNCORRECTABLE",
    "illegal memory access",
    "misaligned address",
    "unspecified launch failure",
)


def device_error(what: str, error: Exception) -> DeviceError:
    """The error of gpuq that stands for one of CUDA's.

    Args:
        what: kernel or step that was under way; an earlier one may be to blame, for launches are asynchronous.
    """
    text = str(error)
    if any(sign in text for sign in _LOST):
        return DeviceLost(f"{what}: the GPU stopped working here or shortly before: {text}")
    return DeviceError(f"{what}: {text}")
