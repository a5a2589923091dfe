"""Extremes and histograms of float32 arrays on their GPU, with the integers that NumPy gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda import arrays
from gpuq.cuda.kernel import Kernel, Launch, Pointer, Slot, int32s
from gpuq.cuda.launch import launcher
from gpuq.cuda.launcher import Launcher
from gpuq.errors import InputTypeError
from gpuq.ops.spec import FLOAT32

THREADS = 256
BINS = 4096
"""Bins of a histogram at most; 16 KiB of shared memory."""
ELEMENTS_PER_THREAD = 16
MAX_BLOCKS = 4096


def observe_kernel(entry: str) -> Kernel:
    """observe.cu."""
    return Kernel(
        name=f"{entry}_f32",
        source="observe.cu",
        entry=entry,
        defines=(("THREADS", THREADS), ("BINS", BINS)),
        threads=(THREADS, 1, 1),
    )


EXTREMES, HISTOGRAM = observe_kernel("observe_extremes"), observe_kernel("observe_histogram")
KERNELS = (EXTREMES, HISTOGRAM)


def extremes_launch(elements: int) -> Launch:
    """Lowest and highest into Slot "result", two uint32 that begin at 2^32 - 1 and 0."""
    return Launch(EXTREMES, _grid(elements), (Slot("x"), Slot("result"), np.int64(elements)))


def histogram_launch(elements: int, exponent: int, first: int, bins: int) -> Launch:
    """Counts of bins [k, k + 1) * 2^exponent, k from `first` on, added to Slot "counts", `bins` uint64."""
    half = -exponent // 2
    scale, more = np.float32(2.0**half), np.float32(2.0 ** (-exponent - half))
    return Launch(
        HISTOGRAM,
        _grid(elements),
        (Slot("x"), Slot("counts"), np.int64(elements), scale, more, *int32s(first, bins)),
    )


def value_of(key: int) -> float:
    """The float32 that the kernel's order writes as this uint32."""
    bits = key & 0x7FFFFFFF if key & 0x80000000 else ~key & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


def extremes(x: Any) -> tuple[float, float]:
    """(lowest, highest) of a float32 array on a GPU; NaN where there is one."""
    array, device = _operand(x)
    result = arrays.empty_array(device, (2,), np.dtype(np.uint32))
    result[0], result[1] = 0xFFFFFFFF, 0
    _launch(device, extremes_launch(array.size), {"x": Pointer(array), "result": Pointer(result)})
    low, high = (value_of(int(key)) for key in arrays.as_numpy(result))
    return low, high


def histogram(x: Any, exponent: int, first: int, bins: int) -> npt.NDArray[np.int64]:
    """Counts of an array on a GPU; see histogram_launch."""
    array, device = _operand(x)
    counts = arrays.empty_array(device, (bins,), np.dtype(np.uint64))
    counts[...] = 0
    launch = histogram_launch(array.size, exponent, first, bins)
    _launch(device, launch, {"x": Pointer(array), "counts": Pointer(counts)})
    return arrays.as_numpy(counts).astype(np.int64)


def _operand(x: Any) -> tuple[Any, Any]:
    array = arrays.as_cupy(x)
    if array.dtype != FLOAT32:
        raise InputTypeError(f"observer: values of {array.dtype} must be float32 on a GPU; nothing is cast")
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    device = launcher(int(array.device.id))
    device.check("observer: values", array)
    return array, device


def _launch(device: Launcher, launch: Launch, memory: dict[str, Pointer]) -> None:
    device.prepare([launch.kernel])
    device.launch(launch.bound(memory), None)


def _grid(elements: int) -> tuple[int, int, int]:
    return max(1, min(MAX_BLOCKS, -(-elements // (THREADS * ELEMENTS_PER_THREAD)))), 1, 1
