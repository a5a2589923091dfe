"""One GPU as the benches use it: memory, correctness checks, and times without the cost of Python.

`Gpu` is the whole interface; tests put one on the CPU in its place. A time is measured so:

    capture launch(0) ... launch(count - 1) in a CUDA graph, each with buffers of its own
    repeat: read a buffer of four times the L2 cache, so that no input is left in it
            event, graph, event            -> elapsed / count, one sample

The launches of a graph run one after the other, each with about a microsecond between it and the next: that is part
of the time, as it is in a network.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuq.cuda import compile as compiling
from gpuq.cuda.kernel import Kernel, Pointer

KERNELS_FOLDER = Path(__file__).resolve().parent / "kernels"
THREADS = 256
FLUSH_FACTOR = 4
# What the flush reads at once, in 16-byte words of one pass.
_READ_BLOCKS, _READ_UNROLL = 1056, 4


class Gpu(Protocol):
    """What a bench asks of a GPU. Arrays are the device's, uint8 vectors unless said otherwise."""

    launcher: Any
    l2_bytes: int
    memory_bytes: int

    def empty(self, size: int) -> Any:
        """Memory of this many bytes."""
        ...

    def upload(self, array: npt.NDArray[Any]) -> Any:
        """A copy of the array, dtype and shape kept."""
        ...

    def gather(self, images: Any, index: npt.NDArray[np.int32], out: Any) -> None:
        """out, bytes: the images of these numbers, one after the other."""
        ...

    def poison(self, array: Any, value: int) -> None:
        """Sets every byte."""
        ...

    def differences(self, y: Any, wanted: Any, index: npt.NDArray[np.int32]) -> int:
        """Bytes in which the images of y are not the images of wanted with these numbers."""
        ...

    def release(self) -> None:
        """Gives memory that no array uses back to the driver, so that others in this process find some."""
        ...

    def synchronize(self) -> None:
        """Waits for all work; raises what went wrong in it."""
        ...

    def seconds(self, launch: Callable[[int], None], count: int, samples: int) -> list[float]:
        """Seconds of one launch, `samples` times, each the mean over launch(0) ... launch(count - 1)."""
        ...


def kernel(source: str, entry: str, name: str = "", threads: int = THREADS, **defines: int | str) -> Kernel:
    """A kernel of bench/kernels/."""
    return Kernel(name or entry, source, entry, tuple(defines.items()), (threads, 1, 1))


READ = kernel("memory.cu", "read_words", UNROLL=_READ_UNROLL, THREADS=THREADS)
RANDOM = kernel("memory.cu", "random_words", UNROLL=_READ_UNROLL, THREADS=THREADS)
DIFFERENCES = kernel("memory.cu", "count_differences", UNROLL=_READ_UNROLL, THREADS=THREADS)
NOTHING = kernel("memory.cu", "nothing", threads=32, UNROLL=_READ_UNROLL, THREADS=THREADS)


class CupyGpu:
    """A GPU through CuPy; everything runs on one stream of its own.

    Raises:
        DeviceNotAvailable: gpuq cannot use this GPU; the message says why.
    """

    def __init__(self, device: int = 0) -> None:
        from gpuq.cuda.launch import launcher

        self.launcher: Any = launcher(device)
        self._cupy: Any = importlib.import_module("cupy")
        cupy = self._cupy
        self.device = device
        cupy.cuda.Device(device).use()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        properties = cupy.cuda.runtime.getDeviceProperties(device)
        self.l2_bytes = int(properties["l2CacheSize"])
        self.memory_bytes = int(cupy.cuda.runtime.memGetInfo()[0])
        self._functions: dict[Kernel, Any] = {}
        self._flush_words = self._whole_reads(FLUSH_FACTOR * self.l2_bytes)
        self._flush: Any = None
        self._flush_out: Any = None

    def _whole_reads(self, size: int) -> int:
        """The words of this many bytes, up to a multiple of what read_words reads at once."""
        step = _READ_BLOCKS * THREADS * _READ_UNROLL
        return -(-size // (16 * step)) * step

    # ---- memory

    def empty(self, size: int) -> Any:
        return self._cupy.empty(size, np.uint8)

    def upload(self, array: npt.NDArray[Any]) -> Any:
        there = self._cupy.empty(array.shape, array.dtype)
        there.set(np.ascontiguousarray(array), stream=self.stream)
        self.stream.synchronize()
        return there

    def random(self, size: int, seed: int = 1) -> Any:
        """Memory of at least this many bytes, up to a multiple of 16, full of random bits."""
        words = -(-size // 16)
        array = self.empty(16 * words)
        self.run(RANDOM, (min(4096, -(-words // THREADS)), 1, 1), array, np.int64(words), np.int32(seed))
        return array

    def gather(self, images: Any, index: npt.NDArray[np.int32], out: Any) -> None:
        size = images.nbytes // images.shape[0]
        for place, number in enumerate(index.tolist()):
            (out.data + place * size).copy_from_device_async(images.data + number * size, size, self.stream)

    def poison(self, array: Any, value: int) -> None:
        array.data.memset_async(value, array.nbytes, self.stream)

    def differences(self, y: Any, wanted: Any, index: npt.NDArray[np.int32]) -> int:
        image_bytes = wanted.nbytes // wanted.shape[0]
        count = self.upload(np.zeros(1, np.uint64))
        numbers = self.upload(np.ascontiguousarray(index, np.int32))
        for start in range(0, len(index), 32768):  # a grid has 65,535 blocks along y
            images = min(32768, len(index) - start)
            blocks = (max(1, min(64, -(-image_bytes // (8 * THREADS)))), images, 1)
            self.run(
                DIFFERENCES,
                blocks,
                Pointer(y, start * image_bytes),
                wanted,
                Pointer(numbers, 4 * start),
                np.int64(image_bytes),
                count,
            )
        return int(self.host(count)[0])

    def host(self, array: Any) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = array.get(stream=self.stream)
        self.stream.synchronize()
        return found

    def release(self) -> None:
        self._cupy.get_default_memory_pool().free_all_blocks()

    def synchronize(self) -> None:
        self.stream.synchronize()

    # ---- kernels of bench/kernels/

    def run(self, which: Kernel, grid: tuple[int, int, int], *arguments: Any) -> None:
        """Launches a kernel of this folder; arrays and Pointers as addresses."""
        function = self._functions.get(which)
        if function is None:
            arch = compiling.device_arch(self.launcher.traits.arch)
            cubin = compiling.compile_cubin(which, arch, KERNELS_FOLDER)
            module = self._cupy.cuda.Module()
            module.load(cubin)
            function = self._functions[which] = module.get_function(which.entry)
        function(grid, which.threads, tuple(map(_address, arguments)), stream=self.stream)

    # ---- time

    def flush(self) -> None:
        """Reads a buffer that leaves nothing else in the L2 cache, and nothing to be written back."""
        if self._flush is None:
            self._flush = self.random(16 * self._flush_words)
            self._flush_out = self.empty(4 * _READ_BLOCKS * THREADS)
        self.run(READ, (_READ_BLOCKS, 1, 1), self._flush, self._flush_out, np.int64(self._flush_words), np.int32(1))

    def graph(self, work: Callable[[], None]) -> Any:
        """The launches of this function as a CUDA graph; it has run once before, so that all is compiled."""
        self.stream.begin_capture()
        try:
            work()
        finally:
            graph = self.stream.end_capture()
        graph.upload(self.stream)
        self.stream.synchronize()
        return graph

    def elapsed(self, work: Callable[[], None], before: Callable[[], None] | None = None) -> float:
        """Seconds between two events around this work."""
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        if before is not None:
            before()
        start.record(self.stream)
        work()
        end.record(self.stream)
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end)) / 1e3

    def seconds(self, launch: Callable[[int], None], count: int, samples: int) -> list[float]:
        launch(0)
        self.flush()
        self.synchronize()

        def all_of_them() -> None:
            for number in range(count):
                launch(number)

        graph = self.graph(all_of_them)
        self.elapsed(lambda: graph.launch(self.stream), self.flush)
        return [self.elapsed(lambda: graph.launch(self.stream), self.flush) / count for _ in range(samples)]


def _address(argument: Any) -> Any:
    if isinstance(argument, np.generic):
        return argument
    if isinstance(argument, Pointer):
        return np.uint64(int(argument.array.data.ptr) + argument.offset)
    return np.uint64(int(argument.data.ptr))


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    """Median, p10 and p90 in seconds."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {
        "median_s": ordered[len(ordered) // 2],
        "p10_s": ordered[math.floor(0.1 * last)],
        "p90_s": ordered[math.ceil(0.9 * last)],
    }


def launches_per_graph(seconds: float, bytes_each: int, memory_bytes: int, most: int = 64) -> int:
    """How many launches, each with buffers of its own, make a graph long enough to time.

    Args:
        seconds: of one launch, roughly.
        bytes_each: the buffers of one launch.
    """
    wanted = math.ceil(400e-6 / max(seconds, 1e-7))
    room = max(1, int(memory_bytes * 0.25) // max(1, bytes_each))
    return max(1, min(max(4, wanted), most, room))


def machine(gpu: Any = None) -> dict[str, Any]:
    """What the figures were measured on and with."""
    versions = {}
    for package in ("gpuq", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cuda-nvrtc", "torch", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "gpuq" not in versions:
        versions["gpuq"] = importlib.import_module("gpuq").__version__
    found: dict[str, Any] = {
        "gpu": None,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if gpu is not None:
        from gpuq.cuda import probe

        probed = probe()
        info = probed.gpus[gpu.device]
        major, minor = info.compute_capability
        found |= {
            "gpu": info.name,
            "arch": 10 * major + minor,
            "multiprocessors": gpu.launcher.traits.multiprocessors,
            "l2_bytes": gpu.l2_bytes,
            "memory_bytes": info.memory_bytes,
            "driver": driver_version() or probed.driver,
            "cuda": probed.runtime,
            "nvrtc": list(probed.nvrtc) if probed.nvrtc else None,
        }
    return found


def driver_version() -> str | None:
    """As nvidia-smi tells it; None where it does not."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.split()
    return lines[0] if lines else None
