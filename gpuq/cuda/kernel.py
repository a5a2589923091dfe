"""What a kernel is before it is compiled, and what one launch of it is. Plain values, no driver."""

from __future__ import annotations

from dataclasses import dataclass
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


Argument = Pointer | np.int32 | np.uint32 | np.int64 | np.float32 | np.float64
"""What a kernel may take; Python numbers are refused, for CuPy would send an int as 64 bits."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        grid: blocks (x, y, z).
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]
