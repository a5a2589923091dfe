"""Launches CUDA kernels on the CPU: the text that NVRTC compiles, compiled by g++ against host_cuda.h.

Kernels run in a process of their own, an executable built here from host_cuda.cpp and worker.cpp: it links the
sanitizers itself, so that neither it nor pytest needs a preloaded library, and a kernel that ruins its memory takes no
Python with it. Objects are cached by the hash of everything that goes into them.

Environment:
    GPUQ_HOST_CACHE: the folder for compiled objects; by default gpuq-host in the user's cache folder.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import re
import select
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from gpuq.cuda.kernel import Argument, Kernel, Launch, Pointer
from gpuq.cuda.layer import Traits
from gpuq.resources import resource

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

COMPILER = "g++"
FLAGS = (
    # Lines are all that reports show.
    *("-std=c++17", "-O1", "-g1", "-DGPUQ_HOST", "-fno-exceptions", "-fno-rtti"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror=return-type"),
    # The checks. A cast of a float that does not fit saturates on the device, but one that is not meant hides a bug.
    *("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=vptr"),
    *("-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    # The device's rules: no contraction, bytes may be read as vectors. The same bits on every host: char is signed.
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fsigned-char"),
    # Uninitialised registers hold a pattern, not yesterday's right value.
    "-ftrivial-auto-var-init=pattern",
    # Two objects may have the same inline function with another tile size: never merge their shared arrays.
    "-fno-gnu-unique",
)

# What NVIDIA GPUs accept (CUDA programming guide, compute capabilities): dynamic and static shared bytes of a block.
SHARED_LIMIT = {arch: kib << 10 for arch, kib in {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}.items()}
MAX_BLOCK, MAX_THREADS = (1024, 1024, 64), 1024
MAX_GRID = (2**31 - 1, 65535, 65535)

_LETTERS = {"<i4": "i", "<u4": "u", "<i8": "l", "<f4": "f", "<f8": "d"}
_ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')


class HostCudaError(RuntimeError):
    """A kernel failed on the CPU.

    Attributes:
        kernel: its name.
        report: everything that the compiler, the sanitizers or the harness wrote; the message has its first lines.
    """

    def __init__(self, kernel: str, problem: str, report: str = "") -> None:
        super().__init__(f"{kernel}: {problem}")
        self.kernel = kernel
        self.report = report


@dataclass(frozen=True)
class Statistics:
    """Of one run of a launch: switches between threads, seconds in the kernel."""

    switches: int
    seconds: float


def missing_tools() -> str | None:
    """Why kernels cannot be compiled here, or None if they can."""
    if shutil.which(COMPILER) is None:
        return f"there is no {COMPILER}"
    for library in ("libasan.so", "libubsan.so"):
        # Where there is none, the compiler gives the bare name back.
        found = subprocess.run([COMPILER, f"-print-file-name={library}"], capture_output=True, text=True, check=True)
        if not Path(found.stdout.strip()).is_absolute():
            return f"{COMPILER} has no {library}"
    return None


def require_tools() -> None:
    """Skips the test that calls it where kernels cannot be compiled; in CI the test fails."""
    problem = missing_tools()
    if problem:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no kernels on the CPU: {problem}")


class HostLauncher:
    """Runs launches whose arrays are NumPy arrays, C-contiguous, as a GPU would run them.

    Args:
        folder: where kernels' sources are; kernels_cuda by default.
        arch: the compute capability to be, 10 * major + minor: what __CUDA_ARCH__ says, and how much shared memory a
            block may have.
        seeds: a launch runs once for each seed, with another order of threads and blocks and other random bytes in
            uninitialised shared memory. All outputs must be equal.
        timeout_s: how long one run may take.

    >>> with HostLauncher() as launcher:  # doctest: +SKIP
    ...     launcher.launch(Launch(kernel, grid, (Pointer(x), Pointer(out), np.int32(n))))
    """

    def __init__(
        self, folder: Path | None = None, *, arch: int = 80, seeds: Sequence[int] = (1, 2), timeout_s: float = 120
    ) -> None:
        if arch not in SHARED_LIMIT:
            raise ValueError(f"arch {arch} must be one of {', '.join(map(str, SHARED_LIMIT))}")
        self._folder = folder or resource("kernels_cuda")
        self._arch = arch
        self._seeds = tuple(seeds)
        self._timeout_s = timeout_s
        self._worker: _Worker | None = None
        self._objects: dict[tuple[Any, ...], Path] = {}
        self.statistics = Statistics(0, 0.0)
        """Of the latest run."""

    def __enter__(self) -> HostLauncher:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker process; a later launch starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def with_seeds(self, seeds: Sequence[int]) -> HostLauncher:
        """This launcher, from now on with other orders of threads and blocks."""
        self._seeds = tuple(seeds)
        return self

    @property
    def traits(self) -> Traits:
        """Of a GPU with few multiprocessors, so that small layers make choices of all kinds."""
        return Traits(self._arch, multiprocessors=4)

    def upload(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Pointer]:
        """Read-only copies, each with an allocation of its own: what lies beside it is out of bounds."""
        copies = {name: np.array(array, order="C") for name, array in arrays.items()}
        for copy in copies.values():
            copy.flags.writeable = False
        return {name: Pointer(copy) for name, copy in copies.items()}

    def empty(self, size: int, stream: object = None) -> np.ndarray:
        """Memory of noise, as a GPU's is."""
        return np.random.default_rng(size).integers(0, 256, size, np.uint8)

    def pinned(self, size: int) -> np.ndarray:
        """Bytes on the host, of which all is one."""
        return self.empty(size)

    def record(self, launches: Sequence[Launch]) -> Callable[..., None]:
        """The launches, one after the other."""

        def replay(stream: object = None) -> None:
            for launch in launches:
                self.launch(launch)

        return replay

    def write(self, target: np.ndarray, values: np.ndarray, stream: object = None) -> None:
        """Copies; like CuPy, neither casts nor broadcasts."""
        assert (target.dtype, target.shape) == (values.dtype, values.shape)
        target[...] = values

    def read(self, out: np.ndarray, source: np.ndarray, stream: object = None) -> None:
        """Copies, as write()."""
        self.write(out, source)

    def stream(self) -> None:
        """There is none but the current one."""

    def synchronize(self, stream: object = None) -> None:
        """Everything has been done."""

    def mark(self, stream: object = None) -> None:
        """See synchronize()."""

    def wait(self, mark: object, stream: object = None) -> None:
        """See synchronize()."""

    def finish(self, mark: object) -> None:
        """See synchronize()."""

    def clock(self, stream: object = None) -> float:
        """Now."""
        return time.perf_counter()

    def seconds(self, start: float, stop: float) -> float:
        """Between two clocks."""
        return stop - start

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        """Compiles kernels that are not in the cache."""
        for kernel in kernels:
            self._object(kernel)

    def misalignment(self, array: np.ndarray) -> int:
        """Within its allocation, modulo 16; the address itself means nothing."""
        return _misalignment(array) % 16

    def launch(self, launch: Launch, stream: object = None, *, seeds: Sequence[int] | None = None) -> None:
        """Runs the launch and updates its arrays; there are no streams.

        Raises:
            HostCudaError: the kernel does not compile, a check failed, or outputs differ between seeds. No array has
                changed then.
        """
        kernel = launch.kernel
        self._check(launch)
        memory = _Memory(launch)
        request = self._request(launch, memory)
        seeds = self._seeds if seeds is None else seeds
        first: list[bytes | None] = []
        for turn, seed in enumerate(seeds):
            after = self._run(kernel, request.replace_seed(seed), memory)
            if turn == 0:
                first = after
            elif problem := memory.difference(first, after):
                raise HostCudaError(kernel.name, f"{problem} with seeds {seeds[0]} and {seed}: " + _WHY_DIFFERENT)
        memory.store(first)

    def _check(self, launch: Launch) -> None:
        """What the driver would refuse."""
        kernel, x_y_z = launch.kernel, ("x", "y", "z")
        for what, size, limits in (("block", kernel.threads, MAX_BLOCK), ("grid", launch.grid, MAX_GRID)):
            for axis, n, limit in zip(x_y_z, size, limits, strict=True):
                if not 1 <= n <= limit:
                    raise HostCudaError(kernel.name, f"{what}.{axis} is {n}, must be 1 to {limit}")
        if np.prod(kernel.threads) > MAX_THREADS:
            raise HostCudaError(kernel.name, f"a block of {kernel.threads} has more than {MAX_THREADS} threads")
        if not 0 <= kernel.dynamic_shared_bytes <= SHARED_LIMIT[self._arch]:
            raise HostCudaError(
                kernel.name,
                f"{kernel.dynamic_shared_bytes} bytes of dynamic shared memory; sm_{self._arch} has "
                f"{SHARED_LIMIT[self._arch]} a block",
            )
        if kernel.min_arch > self._arch:
            raise HostCudaError(kernel.name, f"needs sm_{kernel.min_arch}; this is sm_{self._arch}")

    def _request(self, launch: Launch, memory: _Memory) -> _Request:
        kernel = launch.kernel
        head = b"".join(
            struct.pack("<I", len(text)) + text
            for text in (
                os.fsencode(self._object(kernel)),
                kernel.entry.encode(),
                kernel.name.encode(),
                memory.signature.encode(),
            )
        )
        head += struct.pack("<6I", *launch.grid, *kernel.threads)
        head += struct.pack("<QQ", kernel.dynamic_shared_bytes, SHARED_LIMIT[self._arch])
        return _Request(head, memory.packed())

    def _run(self, kernel: Kernel, request: bytes, memory: _Memory) -> list[bytes | None]:
        """One run; what each range of memory holds then, None if it has not changed."""
        if self._worker is None:
            self._worker = _Worker(_worker_executable())
        worker = self._worker
        after: list[bytes | None] = []
        try:
            worker.send(request, self._timeout_s)
            problem = worker.read(*struct.unpack("<I", worker.read(4)))
            if not problem:
                self.statistics = Statistics(*struct.unpack("<Qd", worker.read(16)))
                after = [worker.read(span.size) if worker.read(1)[0] else None for span in memory.spans]
        except _WorkerEnded as ended:
            self._worker = None
            report = worker.report(kill=ended.timed_out)
            if ended.timed_out:
                raise HostCudaError(kernel.name, f"did not end within {self._timeout_s} s", report) from None
            raise HostCudaError(kernel.name, _summary(report), report) from None
        except BaseException:  # an interrupt amid the conversation: nobody knows what the worker would say next
            self._worker = None
            worker.report(kill=True)
            raise
        if problem:
            raise HostCudaError(kernel.name, problem.decode())
        if which := memory.forbidden(after):
            raise HostCudaError(kernel.name, f"wrote to {which}, which is read-only")
        return after

    def _object(self, kernel: Kernel) -> Path:
        key = (kernel.source, kernel.defines, kernel.entry)
        if key not in self._objects:
            self._objects[key] = _kernel_object(self._folder / kernel.source, kernel, self._arch)
        return self._objects[key]


_WHY_DIFFERENT = (
    "the result depends on the order of threads or blocks (a missing barrier?) or on uninitialised shared memory"
)

# ------------------------------------------------------------------------------------------------- device memory


@dataclass(frozen=True)
class _Span:
    """Bytes that one or more arguments' arrays occupy: arrays that overlap share one.

    Attributes:
        argument: the first argument that points into it.
        misalignment: where it starts within its allocation, modulo 256; NumPy's own addresses mean nothing.
        keep: the arrays, which must outlive the span.
    """

    start: int
    size: int
    argument: int
    misalignment: int
    writeable: bool
    keep: tuple[Any, ...]


class _Memory:
    """A launch's arguments as the worker wants them: spans of bytes, and (span, bits) for each argument."""

    def __init__(self, launch: Launch) -> None:
        self._kernel = launch.kernel.name
        found: list[_Span] = []
        for number, argument in enumerate(launch.arguments):
            if isinstance(argument, Pointer) and argument.array is not None:
                found.append(self._span(number, argument))
        self.spans = _merged(found)
        self.signature = ""
        self._arguments: list[tuple[int, bytes]] = []
        for number, argument in enumerate(launch.arguments):
            self._add(number, argument)

    def _span(self, number: int, pointer: Pointer) -> _Span:
        array = pointer.array
        where = f"{self._kernel}: argument {number}"
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{where} must point into a NumPy array, not {type(array).__name__}")
        if not array.flags.c_contiguous or array.dtype.hasobject:
            raise ValueError(f"{where} must be C-contiguous and of plain numbers, got strides {array.strides}")
        if not 0 <= pointer.offset <= array.nbytes:
            raise ValueError(f"{where}: offset {pointer.offset} must be 0 to {array.nbytes}, the array's bytes")
        return _Span(array.ctypes.data, array.nbytes, number, _misalignment(array), array.flags.writeable, (array,))

    def _add(self, number: int, argument: Argument) -> None:
        if isinstance(argument, Pointer):
            self.signature += "p"
            if argument.array is None:
                self._arguments.append((-1, struct.pack("<Q", argument.offset)))
                return
            start = argument.array.ctypes.data
            for index, span in enumerate(self.spans):
                if any(array is argument.array for array in span.keep):
                    self._arguments.append((index, struct.pack("<Q", start - span.start + argument.offset)))
            return
        dtype = argument.dtype.str if isinstance(argument, np.generic) else ""
        if dtype not in _LETTERS:
            raise TypeError(
                f"{self._kernel}: argument {number} must be a Pointer, np.int32, np.uint32, np.int64, np.float32 or "
                f"np.float64, not {type(argument).__name__}"
            )
        self.signature += _LETTERS[dtype]
        self._arguments.append((-1, argument.tobytes().ljust(8, b"\0")))

    def packed(self) -> bytes:
        """Arrays and arguments in the worker's format."""
        parts = [struct.pack("<I", len(self.spans))]
        for span in self.spans:
            parts.append(struct.pack("<IQQ", span.argument, span.size, span.misalignment))
            parts.append(ctypes.string_at(span.start, span.size))
        parts.extend(struct.pack("<i", span) + bits for span, bits in self._arguments)
        return b"".join(parts)

    def difference(self, one: list[bytes | None], other: list[bytes | None]) -> str | None:
        """Where two outcomes differ, in words."""
        for span, *contents in zip(self.spans, one, other, strict=True):
            a, b = (
                np.frombuffer(ctypes.string_at(span.start, span.size) if c is None else c, np.uint8) for c in contents
            )
            bytes_ = np.flatnonzero(a != b)
            if bytes_.size:
                return f"argument {span.argument} differs in {bytes_.size} bytes, the first at {bytes_[0]},"
        return None

    def forbidden(self, contents: list[bytes | None]) -> str | None:
        """A read-only array that has changed."""
        for span, content in zip(self.spans, contents, strict=True):
            if content is not None and not span.writeable:
                return f"argument {span.argument}"
        return None

    def store(self, contents: list[bytes | None]) -> None:
        """Copies the worker's arrays back."""
        for span, content in zip(self.spans, contents, strict=True):
            if content is not None:
                ctypes.memmove(span.start, content, span.size)


def _misalignment(array: np.ndarray) -> int:
    """Where the array starts in its allocation, modulo 256."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return int(array.ctypes.data - whole.ctypes.data) % 256


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """The spans with those united that overlap or hold the same array."""
    merged: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.size)):
        last = merged[-1] if merged else None
        same = last is not None and any(array is span.keep[0] for array in last.keep)
        if last is None or not (same or (span.size and span.start < last.start + last.size)):
            merged.append(span)
            continue
        size = max(last.start + last.size, span.start + span.size) - last.start
        argument = min(last.argument, span.argument)
        writeable = last.writeable or span.writeable
        merged[-1] = _Span(last.start, size, argument, last.misalignment, writeable, last.keep + span.keep)
    return merged


# ----------------------------------------------------------------------------------------------------- the worker


@dataclass(frozen=True)
class _Request:
    """A launch in the worker's format, but for the seed."""

    head: bytes
    tail: bytes

    def replace_seed(self, seed: int) -> bytes:
        return self.head + struct.pack("<Q", seed % 2**64) + self.tail


class _WorkerEnded(Exception):
    def __init__(self, timed_out: bool) -> None:
        super().__init__()
        self.timed_out = timed_out


class _Worker:
    """The process in which kernels run."""

    def __init__(self, executable: Path) -> None:
        # A file, not a pipe: nobody reads it before the process has ended.
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # Sanitizers have the worker's own options, and must be the first library of all.
        environment = {
            name: value for name, value in os.environ.items() if not name.endswith(("SAN_OPTIONS", "LD_PRELOAD"))
        }
        self._process = subprocess.Popen(
            [executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._from, select.POLLIN)
        self._deadline = 0.0

    def send(self, data: bytes, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        view = memoryview(data)
        try:
            while view:
                view = view[self._to.write(view) :]
        except BrokenPipeError:
            raise _WorkerEnded(timed_out=False) from None

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = self._deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(1000 * left):
                raise _WorkerEnded(timed_out=True)
            part = self._from.read(size - len(data))
            if not part:
                raise _WorkerEnded(timed_out=False)
            data += part
        return bytes(data)

    def report(self, kill: bool) -> str:
        """Ends the process and gives what it wrote, its status if it wrote nothing."""
        if kill:
            self._process.kill()
        return self.close() or f"the worker process ended with status {self._process.returncode}"

    def close(self) -> str:
        """Waits for the process, which ends with its input; gives what it wrote to standard error."""
        with contextlib.suppress(OSError):
            self._to.close()
        self._process.wait()
        self._from.close()
        with self._stderr:
            self._stderr.seek(0)
            return self._stderr.read().decode(errors="replace")


# Lines about the harness itself: its frames, and where in its memory an array lies. After "allocated by" they all are.
_NOT_KERNELS = re.compile(
    r"^gpuq-host: |^\s*#\d.*(libsanitizer|gpuq_host::|gpuq_fiber_start|/host_\w+\.)| is located \d+ bytes inside of"
)
_ENOUGH = re.compile("(allocated|freed) by thread|^SUMMARY|note: pointer points here")


def _summary(report: str) -> str:
    """A report's first lines, those of the harness before those of the sanitizers."""
    lines = report.splitlines()
    ours = [line.removeprefix("gpuq-host: ") for line in lines if line.startswith("gpuq-host: ")]
    theirs = [line for line in lines if line.strip("= ") and not _NOT_KERNELS.search(line)]
    end = next((i for i, line in enumerate(theirs) if _ENOUGH.search(line)), 8)
    return "\n".join(ours + theirs[:end])


# -------------------------------------------------------------------------------------------------- compiled objects


def _kernel_object(source: Path, kernel: Kernel, arch: int) -> Path:
    """The shared object with the kernels of this source under these macros."""
    text = source.read_text()
    entries = sorted({kernel.entry, *_ENTRY.findall(text)})
    # A name that the preprocessor or a comment has taken away is found in gpuq_absent, which a qualified look-up
    # enters only where the global namespace itself has none.
    unit = f'#include "{_relative(source)}"\n'
    unit += "namespace gpuq_absent {\n" + "".join(f"constexpr gpuq_host::Absent {name};\n" for name in entries) + "}\n"
    unit += "using namespace gpuq_absent;\n"
    unit += 'extern "C" const gpuq_host::Entry* gpuq_host_entries() {\n  static const gpuq_host::Entry table[] = {\n'
    unit += "".join(f'      gpuq_host::entry("{name}", ::{name}),\n' for name in entries)
    unit += "      {nullptr, nullptr, nullptr, nullptr}};\n  return table;\n}\n"
    defines = [f"-D{name}={value}" for name, value in kernel.defines] + [f"-D__CUDA_ARCH__={arch}0"]
    folders = list(dict.fromkeys([source.parent, resource("kernels_cuda"), HERE]))
    includes = [f"-I{_relative(folder)}" for folder in folders]
    arguments = [*FLAGS, *defines, *includes, "-fPIC", "-shared", "-x", "c++", "-"]
    try:
        return _compiled(source.stem, ".so", arguments, _with_headers(source, folders), unit)
    except subprocess.CalledProcessError as error:
        problem = "\n".join(error.stderr.splitlines()[:20])
        raise HostCudaError(kernel.name, f"does not compile for the host\n{problem}", error.stderr) from None


_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def _with_headers(source: Path, folders: Sequence[Path]) -> list[Path]:
    """The source and all that it includes, headers of headers too, whatever the macros say."""
    found = [source]
    for path in found:
        for name in _INCLUDE.findall(path.read_text()):
            header = next((folder / name for folder in (path.parent, *folders) if (folder / name).exists()), None)
            if header is not None and header not in found:
                found.append(header)
    return found


@functools.cache
def _worker_executable() -> Path:
    sources = [HERE / "host_cuda.cpp", HERE / "worker.cpp"]
    # -rdynamic: the objects with kernels find the machine's functions in the executable.
    arguments = [*FLAGS, "-D__CUDA_ARCH__=0", "-rdynamic", *(str(_relative(path)) for path in sources), "-ldl"]
    return _compiled("worker", "", arguments, [*sources, *HERE.glob("*.h")])


def _compiled(stem: str, suffix: str, arguments: Sequence[str], files: Iterable[Path], unit: str = "") -> Path:
    """What the compiler makes of the arguments, from the cache if it has made it before.

    Args:
        files: all sources and headers that may go into it.
        unit: what the compiler reads from standard input.
    """
    key = hashlib.sha256("\0".join([_compiler_version(), *arguments, unit]).encode())
    for path in sorted(set(files)):
        key.update(str(_relative(path)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    result = _cache() / f"{stem}-{key.hexdigest()[:32]}{suffix}"
    with _locked(result.with_name(result.name + ".lock")):
        if result.exists():
            os.utime(result)
        else:
            # Complete or not there: other processes may look at any time, and this one may be killed.
            partial = result.with_name(f"{result.name}.{os.getpid()}")
            command = [COMPILER, *arguments, f"-ffile-prefix-map={ROOT}/=", "-o", str(partial)]
            try:
                environment = os.environ | {"LC_ALL": "C"}
                subprocess.run(
                    command, input=unit, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
                )
                os.replace(partial, result)
            finally:
                partial.unlink(missing_ok=True)
    return result


def _relative(path: Path) -> Path:
    """The path as reports shall show it, and as it is the same in every checkout: from the project's root."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: the others wait for its object instead of compiling it again."""
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([COMPILER, "-v"], check=True, capture_output=True, text=True).stderr


def _prune(folder: Path) -> None:
    """Removes what no one has used for a month; every edit of a header leaves a generation of objects behind."""
    month_ago = time.time() - 30 * 86400
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process prunes, too
            if path.stat().st_mtime < month_ago:
                path.unlink()


@functools.cache
def _cache() -> Path:
    """The folder for compiled objects; a temporary one where the user's cannot be written."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(os.environ.get("GPUQ_HOST_CACHE") or Path(user, "gpuq-host"))
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            _prune(folder)
            return folder
    folder = Path(tempfile.mkdtemp(prefix="gpuq-host-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
