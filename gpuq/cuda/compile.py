"""Kernel source to a function on a device, one path for every machine.

    source + headers + defines --NVRTC--> cubin --disk cache--> module on the device --> function, kept per process

**Compiled** is SASS for one exact architecture, never PTX: the driver compiles nothing, so the code that the tests
disassembled is the code that runs. The headers (every `*.cuh` beside the source) go to NVRTC in memory, under the
names that an #include gives. There is no other include path: NVRTC has no <stdint.h> and no int8_t of its own, and
CUDA's headers, which it does not bring either, would have to be part of the key below.

**Kept on disk** is each cubin in a file whose name ends in a SHA-256 of all that decides its bytes: source, headers,
options, architecture, entry, compiler build. The file ends in a SHA-256 of its own, checked at each reading: a damaged
entry is a miss, compiled again and replaced. That guards against accidents; whoever may write to the folder may put
any code there, as with every cache of compiled code. Entries appear whole, by rename, so any number of processes may
share a folder, also cold; no process waits for another.

| GPUQ_CACHE_DIR | folder                                                                 |
|----------------|------------------------------------------------------------------------|
| a path         | that one                                                               |
| not set        | $XDG_CACHE_HOME/gpuq/kernels, or without that ~/.cache/gpuq/kernels    |
| empty          | none: every process compiles for itself                                |

A folder that is missing and cannot be made, or that cannot be written, is no error: the cubin is compiled in memory.
The folder is held to 256 MiB (a cubin is 5 to 100 KB): the entries not read for longest go first.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuq.cuda.device import CUPY_HINT
from gpuq.cuda.kernel import Kernel
from gpuq.errors import DeviceError, DeviceNotAvailable, InputValueError, KernelCompileError
from gpuq.resources import resource

ARCHS = (75, 80, 86, 89, 90, 100, 120)
"""What every kernel must compile for, as far as its min_arch allows; a device gets its own, see device_arch."""

OPTIONS = (
    "--std=c++17",
    # NVRTC would make one FFMA of x * y + z, with other bits than the CPU's; a wanted one is written __fmaf_rn.
    "--fmad=false",
    # Source lines in the reports of compute-sanitizer and Nsight; the instructions stay the same.
    "-lineinfo",
)

CACHE_BYTES = 256 << 20
LOG_LINES = 12

# Part of every key: changed when the layout of an entry or the meaning of the key changes.
_FORMAT = "gpuq cubin 1"
_DIGEST_BYTES = hashlib.sha256().digest_size
_ENTRY = re.compile(r".+-sm_\d+[af]?-[0-9a-f]{64}\.cubin")
_TEMPORARY_PREFIX = ".gpuq-"
_TEMPORARY_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Program:
    """All that NVRTC is given.

    Attributes:
        source: file name, as it stands in messages and line tables.
        headers: ((name in an #include, text), ...).
    """

    source: str
    text: str
    headers: tuple[tuple[str, str], ...]
    options: tuple[str, ...]


def compile_cubin(kernel: Kernel, arch: int | str, sources: Path | None = None) -> bytes:
    """The kernel's machine code, from the disk cache if it is there.

    Args:
        arch: compute capability as 10 * major + minor, or with a suffix: 75, 90, "90a".
        sources: folder of the kernel's source and its headers; default: the kernels that ship with gpuq.

    Returns:
        A whole ELF file, for cupy.cuda.Module().load or any of CUDA's binary tools.

    Raises:
        KernelCompileError: NVRTC refuses it; its whole log is the error's `log`.
        DeviceNotAvailable: there is no CuPy or no NVRTC.

    Example:
        >>> cubin = compile_cubin(kernel, 90)  # doctest: +SKIP
    """
    arch = _checked_arch(kernel, arch)
    program = program_of(kernel, arch, sources)
    folder = cache_folder()
    if folder is None:
        return nvrtc_cubin(kernel, arch, program)[0]
    key = _key(kernel, program)
    path = folder / f"{kernel.name}-sm_{arch}-{key}.cubin"
    cubin = _read(path, key)
    if cubin is None:
        cubin = nvrtc_cubin(kernel, arch, program)[0]
        _write(path, key, cubin)
    return cubin


def compile_many(
    kernels: Sequence[Kernel], arch: int | str, workers: int | None = None, sources: Path | None = None
) -> list[bytes]:
    """compile_cubin for each of a model's kernels, in threads: NVRTC runs without Python's global lock.

    Args:
        workers: threads; default: one per core that this process may use.

    Returns:
        The cubins in the order of the kernels.

    Raises:
        KernelCompileError, DeviceNotAvailable: as compile_cubin; the first error, once the running compilations end.
    """
    distinct = list(dict.fromkeys(kernels))
    # Processes that start on a cold cache at once would all compile the same kernel at the same time; in an order of
    # its own each finds most of them done by the others.
    random.SystemRandom().shuffle(distinct)
    with ThreadPoolExecutor(max(1, min(len(distinct), workers or _cores()))) as pool:
        futures = {kernel: pool.submit(compile_cubin, kernel, arch, sources) for kernel in distinct}
        try:
            return [futures[kernel].result() for kernel in kernels]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_loaded: dict[tuple[int, Kernel], Any] = {}
_loading = threading.Lock()


def load(kernel: Kernel, device: int = 0) -> Any:
    """The kernel as a function on this device; see load_many."""
    return load_many((kernel,), device)[0]


def load_many(kernels: Sequence[Kernel], device: int = 0) -> list[Any]:
    """Kernels as functions on this device, compiled together where they must be, and loaded once per process.

    Not to be called while a stream is being captured: loading a module may allocate and synchronize.

    Args:
        device: index of a GPU that gpuq.cuda.unavailable has nothing against.

    Returns:
        cupy.cuda.Function for each kernel, ready for launches with its dynamic_shared_bytes.

    Raises:
        KernelCompileError: a kernel does not compile, or NVRTC is too old for this GPU.
        DeviceNotAvailable: there is no CuPy or no NVRTC.
        DeviceError: the driver refuses a cubin, or a kernel wants more shared memory than the GPU has.
    """
    if any((device, kernel) not in _loaded for kernel in kernels):
        with _loading:
            missing = [kernel for kernel in dict.fromkeys(kernels) if (device, kernel) not in _loaded]
            if missing:
                cupy = _cupy()
                with cupy.cuda.Device(device) as current:  # a module belongs to the context that is current
                    arch = device_arch(int(current.compute_capability))
                    for kernel, cubin in zip(missing, compile_many(missing, arch), strict=True):
                        _loaded[device, kernel] = _function(cupy, kernel, cubin, f"sm_{arch} on GPU {device}")
    return [_loaded[device, kernel] for kernel in kernels]


def _function(cupy: Any, kernel: Kernel, cubin: bytes, where: str) -> Any:
    """Loads the bytes that were checked: from a path, the driver would read the file a second time."""
    driver = cupy.cuda.driver
    try:
        module = cupy.cuda.Module()
        module.load(cubin)
        function = module.get_function(kernel.entry)
        if kernel.dynamic_shared_bytes:
            # Needed where static and dynamic together exceed 48 KiB, harmless below.
            attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            driver.funcSetAttribute(function.ptr, attribute, kernel.dynamic_shared_bytes)
    except driver.CUDADriverError as error:
        raise DeviceError(f"{kernel.name}: the driver does not load it for {where}: {error}") from error
    return function


def device_arch(capability: int) -> int:
    """What to compile for on a device: its own architecture, or the nearest older one of its generation.

    A cubin runs on every device of the same major and the same or a higher minor number.

    Args:
        capability: the device's compute capability as 10 * major + minor.

    Raises:
        KernelCompileError: this NVRTC knows no architecture that the device can run.
    """
    nvrtc = _nvrtc()
    fitting = [arch for arch in nvrtc.getSupportedArchs() if arch // 10 == capability // 10 and arch <= capability]
    if not fitting:
        version = ".".join(map(str, nvrtc.getVersion()))
        raise KernelCompileError(f"NVRTC {version} does not know sm_{capability}; {CUPY_HINT}")
    return int(max(fitting))


def program_of(kernel: Kernel, arch: int | str, sources: Path | None = None) -> Program:
    """What NVRTC is given for this kernel; reads the source and every header beside it.

    Raises:
        KernelCompileError: the source cannot be read.
    """
    try:
        folder = sources or resource("kernels_cuda")
        text = (folder / kernel.source).read_text("utf-8")
        # All of them, not only those that it includes: who includes what is the preprocessor's to say.
        headers = tuple((path.name, path.read_text("utf-8")) for path in sorted(folder.glob("*.cuh")))
    except OSError as error:
        raise KernelCompileError(f"{kernel.name}: its source cannot be read: {error}") from error
    defines = (f"-D{name}={value}" for name, value in kernel.defines)
    return Program(kernel.source, text, headers, (f"-arch=sm_{arch}", *OPTIONS, *defines))


def nvrtc_cubin(kernel: Kernel, arch: int | str, program: Program) -> tuple[bytes, str]:
    """Compiles, without any cache.

    Returns:
        The cubin and NVRTC's log, which is empty where there is no warning.

    Raises:
        KernelCompileError, DeviceNotAvailable: as compile_cubin.
    """
    nvrtc = _nvrtc()
    handle = nvrtc.createProgram(
        program.text,
        program.source,
        tuple(text.encode() for _, text in program.headers),
        tuple(name.encode() for name, _ in program.headers),
    )
    try:
        try:
            nvrtc.compileProgram(handle, program.options)
        except nvrtc.NVRTCError as error:
            log = str(nvrtc.getProgramLog(handle))
            raise _compile_error(kernel, arch, log or str(error)) from error
        # CuPy takes the ELF for a C string and drops its last byte, which is a zero: the top of an alignment.
        return bytes(nvrtc.getCUBIN(handle)) + b"\0", str(nvrtc.getProgramLog(handle))
    finally:
        nvrtc.destroyProgram(handle)


def cache_folder() -> Path | None:
    """Where cubins are kept, which may not exist yet; None: nowhere (see the top of this file)."""
    chosen = os.environ.get("GPUQ_CACHE_DIR")
    if chosen is not None:
        return Path(chosen).expanduser() if chosen else None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "gpuq" / "kernels"
    except RuntimeError:  # a user without a home
        return None


def _compile_error(kernel: Kernel, arch: int | str, log: str) -> KernelCompileError:
    lines = [line for line in log.splitlines() if line.strip()]
    shown = lines[:LOG_LINES]
    if len(lines) > LOG_LINES:
        shown.append(f"... and {len(lines) - LOG_LINES} lines more")
    message = "\n  ".join((f"{kernel.name}: {kernel.source} does not compile for sm_{arch}:", *shown))
    return KernelCompileError(message, log)


def _checked_arch(kernel: Kernel, arch: int | str) -> str:
    match = re.fullmatch(r"(\d{2,3})[af]?", str(arch))
    if match is None:
        raise InputValueError(f"arch={arch!r} must be 10 * major + minor, with or without a suffix: 80, 90, '90a'")
    if int(match[1]) < kernel.min_arch:
        raise KernelCompileError(f"{kernel.name}: it needs sm_{kernel.min_arch} or newer, and sm_{arch} was asked for")
    return match[0]


def _key(kernel: Kernel, program: Program) -> str:
    """SHA-256, in hex, of everything that decides the cubin's bytes; the architecture is one of the options."""
    parts = [_FORMAT, _compiler(), program.source, program.text, program.headers, program.options, kernel.entry]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _compiler() -> str:
    """NVRTC's version to the build, as the head of its PTX tells it: getVersion ends at the minor number.

    One empty program, 20 ms per process. A patch release may fix a miscompilation, and must not find the old code.
    """
    nvrtc = _nvrtc()
    handle = nvrtc.createProgram("", "empty.cu", (), ())
    try:
        nvrtc.compileProgram(handle, ())
        ptx = nvrtc.getPTX(handle)
    finally:
        nvrtc.destroyProgram(handle)
    text = ptx.decode() if isinstance(ptx, bytes) else str(ptx)  # CuPy 13 gives str, CuPy 14 bytes
    return "\n".join(line for line in text.splitlines() if line.startswith("//"))


def _digest(key: str, cubin: bytes) -> bytes:
    # With the key in it, a file under another's name is damage too.
    return hashlib.sha256(key.encode() + cubin).digest()


def _read(path: Path, key: str) -> bytes | None:
    """The entry's cubin; None where there is none, or a damaged one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    # The digest follows the ELF, which its own header ends: the file is still one for nvdisasm.
    cubin, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if digest != _digest(key, cubin):
        return None
    with contextlib.suppress(OSError):  # a shared folder may be read-only
        os.utime(path)  # read times are often not kept: the entry's own tells _prune when it was last used
    return cubin


def _write(path: Path, key: str, cubin: bytes) -> None:
    """Adds or replaces an entry, whole or not at all; does nothing where it cannot."""
    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(cubin + _digest(key, cubin))
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return
    _prune(path.parent)


_pruned: set[Path] = set()


def _prune(folder: Path) -> None:
    """Holds the folder to CACHE_BYTES; looks once per process, at its first entry. Touches nothing but entries.

    An entry may vanish under a process that is about to read it: to that process it is a miss.
    """
    if folder in _pruned:
        return
    _pruned.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as listing:
        entries = []
        for file in listing:
            with contextlib.suppress(OSError):
                status = file.stat(follow_symlinks=False)
                if _ENTRY.fullmatch(file.name):
                    entries.append((status.st_mtime, status.st_size, file.path))
                elif file.name.startswith(_TEMPORARY_PREFIX) and status.st_mtime < time.time() - _TEMPORARY_SECONDS:
                    os.unlink(file.path)  # its writer was killed
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= CACHE_BYTES:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceNotAvailable(f"CuPy is not installed; {CUPY_HINT}") from error


@functools.cache
def _nvrtc() -> Any:
    """CuPy's binding of NVRTC, which works without a driver and without a GPU."""
    nvrtc = _cupy().cuda.nvrtc
    try:
        nvrtc.getVersion()
    except Exception as error:  # the loader of each platform fails in its own way
        raise DeviceNotAvailable(f"NVRTC does not load: {error}; {CUPY_HINT}") from error
    return nvrtc
