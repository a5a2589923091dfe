"""`gpuq doctor`: what there is on this machine, what is missing, and the command that mends it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import gpuq
from gpuq import cuda, devices, profiles
from gpuq.commands.output import indented, table, write, write_json
from gpuq.cuda.device import GpuInfo, Probe
from gpuq.resources import resource

REQUIRED = ("flatbuffers", "numpy", "pillow", "rich", "tflite", "threadpoolctl")
# What gpuq works without, only plainer: ranges in Nsight.
OPTIONAL = ("nvtx",)
SHIPPED = (
    ("examples", "digits", "digits_int8.tflite"),
    ("examples", "digits", "digits_heldout.npz"),
    ("kernels_cuda",),
)

LIBCUDA = "libcuda.so.1"
NVIDIA_SMI_SECONDS = 20


@dataclass(frozen=True)
class Remedy:
    """Something that is missing, and what mends it."""

    problem: str
    command: str


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver as it describes itself, without CuPy's help.

    Attributes:
        cuda: the newest CUDA that it runs, 13010 for 13.1; 0 where it does not say.
        version: as nvidia-smi gives it, 580.65.06; None without nvidia-smi.
        gpus: their names.
        problem: why it does not start, or None.
    """

    cuda: int
    version: str | None
    gpus: tuple[str, ...]
    problem: str | None

    def __str__(self) -> str:
        return f"{self.version or 'version unknown'} (CUDA {_cuda_version(self.cuda)})"


def run_doctor(*, as_json: bool) -> int:
    """Prints the report; 0, or 1 where gpuq cannot work at all. A machine without a GPU is well: the CPU does."""
    driver, found = nvidia_driver(), cuda.probe()
    packages = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    cupys = _cupy_distributions()
    broken = [*missing_packages(packages), *missing_files()]
    mends = [*broken, *gpu_remedies(driver, found, cupys)]
    device, why = auto_device(driver, found)
    if as_json:
        write_json(_json(driver, found, packages, cupys, mends, device, why))
    else:
        write(_text(driver, found, packages, cupys, mends, device, why))
    return 1 if broken else 0


def nvidia_driver() -> Driver | None:
    """What the driver's own library says; None where there is no driver."""
    try:
        library = ctypes.CDLL(LIBCUDA)
    except OSError:
        return None
    number, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    library.cuDriverGetVersion(ctypes.byref(number))
    cuda_version = number.value
    status = library.cuInit(0)
    if status:
        return Driver(
            cuda_version, _nvidia_smi_version(), (), f"the driver does not start: cuInit gives error {status}"
        )
    library.cuDeviceGetCount(ctypes.byref(number))
    gpus = []
    for index in range(number.value):
        # A CUdevice is an int, and for cuDeviceGetName the device's number.
        library.cuDeviceGetName(name, len(name), index)
        gpus.append(name.value.decode("utf-8", "replace"))
    return Driver(cuda_version, _nvidia_smi_version(), tuple(gpus), None)


def auto_device(driver: Driver | None, found: Probe) -> tuple[str, str]:
    """The device that "auto" takes here, and why."""
    device = devices.resolve_device("auto")
    if device.kind == "cuda":
        return str(device), f"{found.gpus[device.index].name} can be used"
    if driver is None:
        return str(device), f"there is no NVIDIA driver on this machine ({LIBCUDA} is not found)"
    return str(device), driver.problem or cuda.unavailable(0) or "no GPU can be used"


def missing_packages(packages: dict[str, str | None]) -> list[Remedy]:
    """Required packages that are not installed."""
    return [
        Remedy(f"{name} is not installed", f"pip install {name}") for name in REQUIRED if packages.get(name) is None
    ]


def missing_files() -> list[Remedy]:
    """Files of gpuq's own that this installation lacks."""
    found = []
    for parts in SHIPPED:
        try:
            resource(*parts)
        except FileNotFoundError as error:
            found.append(Remedy(str(error), "pip install --force-reinstall --no-deps gpuq"))
    return found


def gpu_remedies(driver: Driver | None, found: Probe, cupys: Sequence[str]) -> list[Remedy]:
    """What keeps an NVIDIA GPU that is there from being used, where a command mends it; none without a driver."""
    if driver is None or driver.problem is not None:
        return []
    if driver.cuda < 12000:
        return [
            Remedy(
                f"NVIDIA driver {driver} is too old; CuPy needs CUDA 12",
                "install a newer NVIDIA driver: https://www.nvidia.com/drivers",
            )
        ]
    major = 13 if driver.cuda >= 13000 else 12
    install = f"pip install 'gpuq[cuda{major}]'"
    if not cupys:
        return [Remedy("CuPy is not installed", install)]
    uninstall = f"pip uninstall -y {' '.join(cupys)}"
    if len(cupys) > 1:
        return [
            Remedy(f"several CuPy are installed and break each other: {', '.join(cupys)}", f"{uninstall} && {install}")
        ]
    if found.cupy is None:
        return [Remedy(found.problem or "CuPy does not import", f"{uninstall} && {install}")]
    if "13x" in cupys[0] and major < 13:
        return [Remedy(f"{cupys[0]} needs a driver with CUDA 13, this is {driver}", f"{uninstall} && {install}")]
    if found.nvrtc is None:
        toolkit = 13 if "13x" in cupys[0] else 12
        return [
            Remedy(
                "NVRTC, which compiles the kernels, is missing",
                f"pip install 'cuda-toolkit[nvrtc,cudart]=={toolkit}.*'",
            )
        ]
    return []


def _nvidia_smi_version() -> str | None:
    """The driver's version; the CUDA library knows only that of CUDA."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NVIDIA_SMI_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cupy_distributions() -> list[str]:
    """The installed packages that bring the module cupy: two of them break each other."""
    names = {distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions()}
    return sorted(name for name in names if name == "cupy" or name.startswith("cupy-cuda"))


def _blas() -> str:
    """The BLAS that this NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _cuda_version(number: int | None) -> str:
    """13010 as 13.1."""
    return "-" if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _nvrtc(found: Probe) -> str:
    return "-" if found.nvrtc is None else ".".join(map(str, found.nvrtc))


def _text(
    driver: Driver | None,
    found: Probe,
    packages: dict[str, str | None],
    cupys: Sequence[str],
    mends: Sequence[Remedy],
    device: str,
    why: str,
) -> str:
    software = [
        ("gpuq", gpuq.__version__),
        ("numerics", ", ".join(profiles.PROFILES)),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("system", f"{platform.platform()}, {os.cpu_count()} CPUs"),
        ("BLAS", _blas()),
        *(
            (name, version or ("missing" if name in REQUIRED else "not installed (optional)"))
            for name, version in packages.items()
        ),
    ]
    hardware = [
        ("NVIDIA driver", driver.problem or driver if driver else "none"),
        ("CuPy", f"{found.cupy} ({', '.join(cupys) or 'unknown package'})" if found.cupy else "not usable"),
        (
            "CUDA",
            f"driver {_cuda_version(found.driver)}, runtime {_cuda_version(found.runtime)}, NVRTC {_nvrtc(found)}",
        ),
        *((f"GPU {gpu.index}", _gpu_text(gpu)) for gpu in found.gpus),
        *(
            (f"GPU {i}", f"{name}, not visible to gpuq")
            for i, name in enumerate(driver.gpus if driver else ())
            if not found.gpus
        ),
    ]
    lines = ["software", indented(table(software, "<<")), "GPU", indented(table(hardware, "<<"))]
    lines.append(f"device auto takes {device}: {why}")
    if mends:
        lines += ["to mend", *(f"  {mend.problem}\n    {mend.command}" for mend in mends)]
    elif device == "cpu":
        lines.append("nothing to mend: gpuq works on this machine's CPU, with the same bits as on a GPU")
    else:
        lines.append("nothing to mend")
    lines.append("try: gpuq demo")
    return "\n".join(lines)


def _gpu_text(gpu: GpuInfo) -> str:
    major, minor = gpu.compute_capability
    problem = cuda.unavailable(gpu.index)
    return f"{gpu.name}, sm_{major}{minor}, {gpu.memory_bytes / 2**30:.1f} GiB" + (f"; {problem}" if problem else "")


def _json(
    driver: Driver | None,
    found: Probe,
    packages: dict[str, str | None],
    cupys: Sequence[str],
    mends: Sequence[Remedy],
    device: str,
    why: str,
) -> dict[str, Any]:
    return {
        "gpuq": gpuq.__version__,
        "numerics": {name: profile.reproduces for name, profile in profiles.PROFILES.items()},
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "blas": _blas(),
        "packages": packages,
        "nvidia_driver": asdict(driver) if driver else None,
        "cupy": found.cupy,
        "cupy_packages": list(cupys),
        "cuda_driver": found.driver,
        "cuda_runtime": found.runtime,
        "nvrtc": list(found.nvrtc) if found.nvrtc else None,
        "gpus": [{**asdict(gpu), "problem": cuda.unavailable(gpu.index)} for gpu in found.gpus],
        "auto": {"device": device, "why": why},
        "remedies": [asdict(mend) for mend in mends],
    }
