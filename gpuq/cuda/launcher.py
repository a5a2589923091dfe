"""What the CUDA path asks of a device: a GPU through CuPy (launch.py), or the CPU, thread by thread (the tests)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, Pointer
from gpuq.cuda.layer import Traits


class Replay(Protocol):
    """Launches recorded once, started together."""

    def __call__(self, stream: Any = None) -> None: ...


class Launcher(Protocol):
    """One device. Arrays are its own: slicing, view() and reshape() work as NumPy's do.

    A stream of None is the current one. Nothing waits for the device but what says so.
    """

    @property
    def traits(self) -> Traits: ...

    def upload(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Pointer]:
        """Copies constants to the device, where the caller's arrays no longer matter. Waits for the copy."""
        ...

    def empty(self, size: int, stream: Any = None) -> Any:
        """Memory of this many bytes, aligned to 256, for work on this stream.

        Raises:
            DeviceOutOfMemory: there is not as much.
        """
        ...

    def pinned(self, size: int) -> npt.NDArray[Any]:
        """Bytes on the host that write() and read() copy without waiting."""
        ...

    def misalignment(self, array: Any) -> int:
        """The array's address modulo 16."""
        ...

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        """Compiles and loads what is not there yet, so that launches need not."""
        ...

    def launch(self, launch: Launch, stream: Any = None) -> None:
        """Starts a launch that has no Slots left."""
        ...

    def record(self, launches: Sequence[Launch]) -> Replay:
        """The launches as one thing to start."""
        ...

    def write(self, target: Any, values: Any, stream: Any = None) -> None:
        """Copies NumPy's or the device's values into an array of the same dtype and shape."""
        ...

    def read(self, out: npt.NDArray[Any], source: Any, stream: Any = None) -> None:
        """Copies an array into NumPy's of the same dtype and shape; there once the stream is synchronized."""
        ...

    def stream(self) -> Any:
        """A stream of its own."""
        ...

    def synchronize(self, stream: Any = None) -> None:
        """Waits for a stream.

        Raises:
            DeviceLost: the device stopped working.
        """
        ...

    def mark(self, stream: Any = None) -> Any:
        """A point in a stream that another can wait for."""
        ...

    def wait(self, mark: Any, stream: Any = None) -> None:
        """Makes a stream wait for a mark; the host does not."""
        ...

    def finish(self, mark: Any) -> None:
        """Waits on the host until a mark is reached."""
        ...

    def clock(self, stream: Any = None) -> Any:
        """A point in a stream whose time is kept."""
        ...

    def seconds(self, start: Any, stop: Any) -> float:
        """From one clock to a later one of the same stream; waits for the later one."""
        ...
