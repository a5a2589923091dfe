"""A module that behaves as CuPy does where gpuq touches it, with one or two GPUs that are the CPU.

Arrays are NumPy arrays with a device and an address; a launch finds the arrays behind its addresses and runs the kernel
thread by thread. So everything of gpuq's CUDA path but CuPy itself runs without a GPU.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
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


class Stream:
    def __init__(self, ptr: int = 0) -> None:
        self.ptr = ptr
        self.before: list[Stream] = []

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
        pass


class OutOfMemoryError(MemoryError):
    pass


class CUDADriverError(RuntimeError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


current = Stream()


class FakeCupy:
    """One machine.

    Attributes:
        launched: (kernel's name, stream's address, device) of each launch.
        memory_limit: what an allocation may take.
        failure: what the next launch raises.
    """

    ndarray = ndarray
    __version__ = "14.2.0"

    def __init__(self, launcher: HostLauncher, gpus: int = 1) -> None:
        self.launcher = launcher
        self.launched: list[tuple[str, int, int]] = []
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
        )
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            Device=self._device,
            Stream=Stream,
            get_current_stream=lambda: current,
        )

    @contextlib.contextmanager
    def _device(self, index: int) -> Iterator[None]:
        before, self.current_device = self.current_device, index
        yield
        self.current_device = before

    def empty(self, size: Any, dtype: Any) -> ndarray:
        nbytes = int(np.prod(size)) * np.dtype(dtype).itemsize
        if nbytes > self.memory_limit:
            raise OutOfMemoryError(f"out of memory allocating {nbytes} bytes")
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
            self.launched.append((kernel.name, (stream or current).ptr, self.current_device))
            values = [pointer_of(value) if isinstance(value, np.uint64) else value for value in arguments]
            self.launcher.launch(Launch(kernel, grid, tuple(values)), seeds=(1,))

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
