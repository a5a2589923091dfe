"""A module that behaves as CuPy does where gpuq touches it, with one or two GPUs that are the CPU.

Arrays are NumPy arrays with a device and an address; a launch finds the arrays behind its addresses and runs the kernel
thread by thread. So everything of gpuq's CUDA path but CuPy itself runs without a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuq.cuda import compile as compiling
from gpuq.cuda import device, launch
from gpuq.cuda.kernel import Kernel, Launch, Pointer

from .host_cuda.runner import HostLauncher

_allocations: weakref.WeakValueDictionary[int, ndarray] = weakref.WeakValueDictionary()


class ndarray(np.ndarray):
    """cupy.ndarray: memory of one device; NumPy cannot tell where it is."""

    device_id = 0

    def __array_finalize__(self, source: Any) -> None:
        self.device_id = getattr(source, "device_id", 0)

    @property
    def device(self) -> SimpleNamespace:
        return SimpleNamespace(id=self.device_id)

    @property
    def data(self) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        if out is None:
            return np.array(self, subok=False)
        out[...] = self
        return out

    def set(self, values: np.ndarray) -> None:
        assert (values.dtype, values.shape) == (self.dtype, self.shape)
        self[...] = values

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device_id


class Tensor:
    """Another library's array on a GPU: shares its memory by DLPack alone."""

    def __init__(self, array: ndarray) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.array.device_id

    def __dlpack__(self, stream: int | None = None) -> ndarray:
        self.streams.append(current.ptr)
        return self.array


class Graph:
    """What was launched on a stream while it was captured."""

    def __init__(self, launches: list[Callable[[Stream], None]]) -> None:
        self.launches = launches

    def launch(self, stream: Stream | None = None) -> None:
        for each in self.launches:
            each(stream or current)


class Event:
    def __init__(self, disable_timing: bool = False) -> None:
        self.stream: int | None = None
        self.time = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.stream, self.time = (stream or current).ptr, time.perf_counter()

    def synchronize(self) -> None:
        pass


class Stream:
    """A stream on which everything is done at once.

    Attributes:
        waited: streams whose events it was told to wait for.
    """

    numbers = itertools.count(100)

    def __init__(self, ptr: int | None = None, *, non_blocking: bool = False) -> None:
        self.ptr = next(self.numbers) if ptr is None else ptr
        self.before: list[Stream] = []
        self.captured: list[Callable[[Stream], None]] | None = None
        self.waited: list[int | None] = []

    def begin_capture(self, mode: int) -> None:
        assert self.ptr, "the legacy stream cannot be captured"
        assert mode == THREAD_LOCAL
        self.captured = []

    def end_capture(self) -> Graph:
        captured, self.captured = self.captured, None
        assert captured is not None
        return Graph(captured)

    def wait_event(self, event: Event) -> None:
        self.waited.append(event.stream)

    @classmethod
    def from_external(cls, stream: Any) -> Stream:
        version, address = stream.__cuda_stream__()
        assert version == 0
        return cls(address)

    def __enter__(self) -> Stream:
        global current
        self.before.append(current)
        current = self
        return self

    def __exit__(self, *unused: object) -> None:
        global current
        current = self.before.pop()

    def synchronize(self) -> None:
        assert self.captured is None, "no synchronization while a stream is captured"


class OutOfMemoryError(MemoryError):
    pass


class CUDADriverError(RuntimeError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


THREAD_LOCAL = 1
current = Stream(0)


class FakeCupy:
    """One machine.

    Attributes:
        launched: (kernel's name, stream's address, device) of each launch.
        allocated: bytes of each allocation.
        memory_limit: what an allocation may take.
        failure: what the next launch raises.
    """

    ndarray = ndarray
    __version__ = "14.2.0"

    def __init__(self, launcher: HostLauncher, gpus: int = 1) -> None:
        self.launcher = launcher
        self.launched: list[tuple[str, int, int]] = []
        self.allocated: list[int] = []
        self.lock = threading.Lock()
        self.memory_limit = 1 << 30
        self.failure: Exception | None = None
        self.current_device = 0
        runtime = SimpleNamespace(
            getDeviceCount=lambda: gpus,
            getDeviceProperties=lambda index: {
                "name": b"Fake GPU",
                "major": 8,
                "minor": 0,
                "multiProcessorCount": 4,
                "totalGlobalMem": self.memory_limit,
            },
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            CUDARuntimeError=CUDARuntimeError,
            streamCaptureModeThreadLocal=THREAD_LOCAL,
        )
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            Device=self._device,
            Stream=Stream,
            Event=Event,
            get_elapsed_time=lambda start, stop: 1e3 * (stop.time - start.time),
            alloc_pinned_memory=lambda size: bytearray(size),
            get_current_stream=lambda: current,
        )

    @contextlib.contextmanager
    def _device(self, index: int) -> Iterator[None]:
        before, self.current_device = self.current_device, index
        yield
        self.current_device = before

    def copyto(self, target: ndarray, values: ndarray) -> None:
        assert isinstance(values, ndarray)
        assert (values.dtype, values.shape) == (target.dtype, target.shape)
        target[...] = values

    def empty(self, size: Any, dtype: Any) -> ndarray:
        assert current.captured is None, "no allocation while a stream is captured"
        nbytes = int(np.prod(size)) * np.dtype(dtype).itemsize
        if nbytes > self.memory_limit:
            raise OutOfMemoryError(f"out of memory allocating {nbytes} bytes")
        self.allocated.append(nbytes)
        # As large blocks of CUDA's, and full of noise.
        room = bytearray(np.random.default_rng(nbytes).integers(0, 256, nbytes + 256).astype(np.uint8))
        start = -np.frombuffer(room, np.uint8).ctypes.data % 256
        array = np.frombuffer(room, np.uint8, nbytes, start).view(dtype).reshape(size).view(ndarray)
        array.device_id = self.current_device
        _allocations[array.ctypes.data] = array
        return array

    def asarray(self, values: Any) -> ndarray:
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array

    def from_dlpack(self, tensor: Any) -> ndarray:
        found: ndarray = tensor.__dlpack__(stream=current.ptr)
        return found

    def function(self, kernel: Kernel) -> Any:
        """What compile.load gives for a kernel."""

        def call(grid: Any, threads: Any, arguments: Any, shared_mem: int = 0, stream: Stream | None = None) -> None:
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            assert (threads, shared_mem) == (kernel.threads, kernel.dynamic_shared_bytes)

            def run(on: Stream) -> None:
                self.launched.append((kernel.name, on.ptr, self.current_device))
                values = [pointer_of(value) if isinstance(value, np.uint64) else value for value in arguments]
                with self.lock:
                    self.launcher.launch(Launch(kernel, grid, tuple(values)), seeds=(1,))

            on = stream or current
            if on.captured is None:
                run(on)
            else:
                on.captured.append(run)

        return call


def pointer_of(address: np.uint64) -> Pointer:
    """The array that an address lies in."""
    if not address:
        return Pointer(None)
    for start, array in list(_allocations.items()):
        if start <= int(address) <= start + max(array.nbytes, 1):
            whole = np.asarray(array).view(np.ndarray).reshape(-1)
            return Pointer(whole, int(address) - start)
    raise AssertionError(f"address {int(address):#x} belongs to no array")


def install(monkeypatch: pytest.MonkeyPatch, host: HostLauncher, gpus: int = 1) -> FakeCupy:
    """Makes gpuq find this CuPy and launch through it."""
    fake = FakeCupy(host, gpus)
    monkeypatch.setitem(__import__("sys").modules, "cupy", fake)
    monkeypatch.setattr(compiling, "load", lambda kernel, index=0: fake.function(kernel))
    monkeypatch.setattr(compiling, "load_many", lambda kernels, index=0: [fake.function(each) for each in kernels])
    assert device.unavailable(0) is None
    launch.launcher.cache_clear()
    return fake
