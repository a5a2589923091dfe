"""Arrays of other libraries as CuPy arrays: no copy, the same memory on the same GPU."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from gpuq.cuda.launch import as_stream
from gpuq.cuda.launcher import Launcher
from gpuq.errors import DeviceNotAvailable, InputTypeError

# DLPack's numbers of CUDA memory: kDLCUDA, kDLCUDAManaged.
_CUDA_DEVICES = (2, 13)


def is_device_array(x: Any) -> bool:
    """True for an array in CUDA memory: CuPy's, a torch tensor, any of DLPack or the CUDA array interface."""
    if hasattr(x, "__dlpack_device__"):
        return int(x.__dlpack_device__()[0]) in _CUDA_DEVICES
    return hasattr(x, "__cuda_array_interface__")


def as_cupy(x: Any, stream: Any = None) -> Any:
    """The same memory as a CuPy array.

    Args:
        x: an array for which is_device_array holds. DLPack makes this stream wait for the producer's.
        stream: the stream that will use it; default: CuPy's current one.

    Raises:
        InputTypeError: the library refuses to share it (a torch tensor that requires grad, say).
        DeviceNotAvailable: there is no CuPy.
    """
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceNotAvailable(f"{type(x).__name__} is on a GPU, and CuPy is not installed") from error
    if isinstance(x, cupy.ndarray):
        return x
    with nullcontext() if stream is None else as_stream(stream):
        try:
            return cupy.from_dlpack(x) if hasattr(x, "__dlpack__") else cupy.asarray(x)
        except Exception as error:  # whatever the other library raises
            raise InputTypeError(f"{type(x).__name__} cannot be shared with CuPy: {error}") from error


def uploaded(x: Any, device: int) -> Any:
    """An array of this GPU: x itself if it is in CUDA memory, else a copy of a NumPy array."""
    if is_device_array(x):
        return x
    cupy: Any = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        return cupy.asarray(x)


def like(x: Any, y: Any, stream: Any = None) -> Any:
    """A CuPy array as an array of x's library, the same memory; CuPy's where that library has no from_dlpack.

    Args:
        stream: on which y is computed; default: CuPy's current one. The library's own stream waits for it.
    """
    if type(x) is type(y) or not is_device_array(y):
        return y
    library = sys.modules.get(type(x).__module__.partition(".")[0])
    take = getattr(library, "from_dlpack", None)
    if take is None:
        return y
    with nullcontext() if stream is None else as_stream(stream):
        return take(y)


def as_numpy(x: Any) -> np.ndarray[Any, Any]:
    """A copy on the host of a device array; waits for the GPU."""
    return np.asarray(as_cupy(x).get())


def empty_array(launcher: Launcher, shape: Sequence[int], dtype: np.dtype[Any], stream: Any = None) -> Any:
    """A new array of the device for work on this stream.

    Raises:
        DeviceOutOfMemory: there is no memory for it.
    """
    size = math.prod(shape) * dtype.itemsize
    return launcher.empty(max(1, size), stream)[:size].view(dtype).reshape(tuple(shape))
