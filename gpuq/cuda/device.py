"""What GPUs, driver and compiler there are, and whether gpuq can use them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

# dp4a arrived with sm_61, but NVRTC 13 compiles for sm_75 and up: one floor for every toolkit.
MIN_COMPUTE_CAPABILITY = (7, 5)

CUPY_HINT = "pip install 'gpuq[cuda13]' (driver 580 or newer) or 'gpuq[cuda12]'"


@dataclass(frozen=True)
class GpuInfo:
    """One GPU as the driver describes it."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True)
class Probe:
    """What was found on this machine; None or empty where something is missing.

    Attributes:
        problem: why no GPU is to be had, in words; None when there is one.
    """

    cupy: str | None
    driver: int | None
    runtime: int | None
    nvrtc: tuple[int, int] | None
    gpus: tuple[GpuInfo, ...]
    problem: str | None


def probe() -> Probe:
    """Looks for CuPy, the driver, NVRTC and GPUs; never raises."""
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError:
        return Probe(None, None, None, None, (), f"CuPy is not installed; {CUPY_HINT}")
    except Exception as error:  # a broken CUDA installation can fail in any way at import
        return Probe(None, None, None, None, (), f"CuPy does not import: {error}")
    nvrtc = _try(lambda: tuple(cupy.cuda.nvrtc.getVersion()))
    # Without a driver every runtime call raises; is_available() is the one that answers.
    if not cupy.cuda.is_available():
        return Probe(cupy.__version__, None, None, nvrtc, (), "CuPy finds no CUDA driver or no GPU (nvidia-smi)")
    runtime = cupy.cuda.runtime
    gpus = []
    for index in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(index)
        name = properties["name"]
        gpus.append(
            GpuInfo(
                index=index,
                name=name.decode() if isinstance(name, bytes) else str(name),
                compute_capability=(int(properties["major"]), int(properties["minor"])),
                memory_bytes=int(properties["totalGlobalMem"]),
            )
        )
    driver, toolkit = _try(runtime.driverGetVersion), _try(runtime.runtimeGetVersion)
    return Probe(cupy.__version__, driver, toolkit, nvrtc, tuple(gpus), None if gpus else "there is no GPU")


def _try(call: Any) -> Any:
    try:
        return call()
    except Exception:  # any part of a CUDA installation may be missing; the report says which
        return None


def unavailable(index: int) -> str | None:
    """Why this GPU cannot be used, or None if it can."""
    found = probe()
    if found.problem:
        return found.problem
    if index >= len(found.gpus):
        return f"there is no GPU {index}; this machine has {len(found.gpus)}"
    gpu = found.gpus[index]
    if gpu.compute_capability < MIN_COMPUTE_CAPABILITY:
        major, minor = gpu.compute_capability
        return f"{gpu.name} is sm_{major}{minor}; gpuq needs sm_75 or newer"
    if found.nvrtc is None:
        return "CuPy finds no NVRTC, which compiles the kernels; gpuq doctor says what to install"
    return None
