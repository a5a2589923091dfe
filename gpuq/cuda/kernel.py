"""What a kernel is before it is compiled, and what one launch of it is. Plain values, no driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Kernel:
    """One compiled variant of a CUDA source: a row of a KERNELS table.

    Attributes:
        name: `<op>_<algorithm>_<unit>[_<tile>]`; the same in test ids, bench JSON, errors and nvtx ranges.
        source: file in kernels_cuda/.
        entry: the extern "C" function.
        defines: macros the source is compiled with, in order: ((name, value), ...).
        threads: threads of a block (x, y, z).
        dynamic_shared_bytes: beyond what the source declares statically.
        min_arch: the oldest compute capability it compiles for, as 10 * major + minor.
    """

    name: str
    source: str
    entry: str
    defines: tuple[tuple[str, int | str], ...]
    threads: tuple[int, int, int]
    dynamic_shared_bytes: int = 0
    min_arch: int = 75


@dataclass(frozen=True)
class Pointer:
    """A device address as a kernel argument: an array's memory, `offset` bytes in. None is a null pointer."""

    array: Any
    offset: int = 0


@dataclass(frozen=True)
class Slot:
    """A device address that is known at the call: the memory of this name, `offset` bytes in.

    Attributes:
        name: "x", "x1", ..., "y", "y1", ..., "workspace", "status", or one of the layer's constants.
    """

    name: str
    offset: int = 0


Argument = Pointer | Slot | np.int32 | np.uint32 | np.int64 | np.float32 | np.float64
"""What a kernel may take; Python numbers are refused, for CuPy would send an int as 64 bits."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch; with Slots among its arguments, a launch that only lacks its memory.

    Attributes:
        grid: blocks (x, y, z).
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]

    def bound(self, memory: Mapping[str, Pointer]) -> Launch:
        """The launch with every Slot replaced by the memory of its name."""
        arguments = []
        for argument in self.arguments:
            if isinstance(argument, Slot):
                pointer = memory[argument.name]
                argument = Pointer(pointer.array, pointer.offset + argument.offset)
            arguments.append(argument)
        return replace(self, arguments=tuple(arguments))


def renamed(launch: Launch, slots: Mapping[str, Slot]) -> Launch:
    """The launch of a layer that is part of another: Slots of these names lie where the other layer has them."""
    arguments = []
    for argument in launch.arguments:
        if isinstance(argument, Slot) and argument.name in slots:
            there = slots[argument.name]
            argument = Slot(there.name, there.offset + argument.offset)
        arguments.append(argument)
    return replace(launch, arguments=tuple(arguments))


def int32s(*values: int) -> tuple[np.int32, ...]:
    """Kernel arguments of type int.

    Raises:
        OverflowError: a value is no int32.
    """
    return tuple(np.int32(value) for value in values)
