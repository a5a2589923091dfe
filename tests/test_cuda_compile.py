"""gpuq.cuda.compile: NVRTC, the cubin cache, loading. No GPU: what talks to a device is tested against a stand-in."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuq.cuda import compile as compiling
from gpuq.cuda.compile import ARCHS, cache_folder, compile_cubin, compile_many, device_arch, load, load_many
from gpuq.cuda.kernel import Kernel
from gpuq.errors import DeviceError, DeviceNotAvailable, InputValueError, KernelCompileError

SOURCE = """
#include "scale.cuh"
extern "C" __global__ void scale_rows(const int* x, int* y)
{
    y[threadIdx.x] = scaled(x[threadIdx.x]) + BIAS;
}
"""
HEADER = """
__device__ __forceinline__ int scaled(int x) { return 3 * x; }
"""
KERNEL = Kernel("scale_rows_alu", "scale.cu", "scale_rows", (("BIAS", 7),), (32, 1, 1))
REPOSITORY = Path(compiling.__file__).resolve().parents[2]


def require_nvrtc() -> None:
    """Skips a test where CuPy or NVRTC is missing, except in CI, where both must be there."""
    try:
        importlib.import_module("cupy").cuda.nvrtc.getVersion()
    except Exception as error:
        reason = f"no NVRTC through CuPy (wheels cupy-cuda13x, nvidia-cuda-nvrtc): {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def nvrtc() -> None:
    require_nvrtc()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder of one kernel and one header."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "scale.cu").write_text(SOURCE)
    (folder / "scale.cuh").write_text(HEADER)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own cache folder, not made yet."""
    folder = tmp_path / "cache" / "of" / "gpuq"
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(folder))
    monkeypatch.setattr(compiling, "_pruned", set())
    return folder


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that NVRTC was asked for, growing."""
    names: list[str] = []
    original = compiling.nvrtc_cubin

    def counted(kernel: Kernel, arch: int | str, program: compiling.Program) -> tuple[bytes, str]:
        names.append(kernel.name)
        return original(kernel, arch, program)

    monkeypatch.setattr(compiling, "nvrtc_cubin", counted)
    return names


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# ---- NVRTC ----


@pytest.mark.parametrize("arch", [*ARCHS, "90a"])
def test_compiles_a_whole_elf(nvrtc: None, sources: Path, arch: int | str) -> None:
    cubin = compile_cubin(KERNEL, arch, sources)
    assert cubin[:4] == b"\x7fELF"
    # ELF64: the program headers end the file; their last byte is the one that CuPy drops.
    offset, size, count = struct.unpack_from("<32xQ14xHH", cubin)
    assert len(cubin) == offset + size * count
    machine = struct.unpack_from("<18xH", cubin)[0]
    assert machine == 190  # EM_CUDA: machine code; PTX would be text
    assert b"scale_rows" in cubin


def test_compilation_is_deterministic(nvrtc: None, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_CACHE_DIR", "")
    assert compile_cubin(KERNEL, 90, sources) == compile_cubin(KERNEL, 90, sources)


def test_error_names_kernel_arch_and_line(nvrtc: None, sources: Path, cache: Path) -> None:
    (sources / "scale.cu").write_text(SOURCE.replace("+ BIAS", "+ BAIS"))
    with pytest.raises(KernelCompileError) as caught:
        compile_cubin(KERNEL, 86, sources)
    message = str(caught.value)
    assert message.startswith("scale_rows_alu: scale.cu does not compile for sm_86:\n")
    assert 'scale.cu(5): error: identifier "BAIS" is undefined' in message
    assert "1 error detected" in caught.value.log
    assert not cache.exists()
    again = pickle.loads(pickle.dumps(caught.value))  # as it travels from a worker process
    assert (str(again), again.log) == (message, caught.value.log)


def test_error_in_a_header_names_the_header(nvrtc: None, sources: Path) -> None:
    (sources / "scale.cuh").write_text(HEADER.replace("3 * x", "3 * x * y"))
    with pytest.raises(KernelCompileError, match=r'scale\.cuh\(2\): error: identifier "y" is undefined'):
        compile_cubin(KERNEL, 80, sources)


def test_long_log_is_cut_in_the_message_only(nvrtc: None, sources: Path) -> None:
    (sources / "scale.cu").write_text(SOURCE + "".join(f"int v{i} = w{i};\n" for i in range(40)))
    with pytest.raises(KernelCompileError, match=r"\.\.\. and \d+ lines more$") as caught:
        compile_cubin(KERNEL, 80, sources)
    assert len(str(caught.value).splitlines()) == compiling.LOG_LINES + 2
    assert '"w39" is undefined' in caught.value.log


def test_arch_unknown_to_nvrtc(nvrtc: None, sources: Path) -> None:
    with pytest.raises(KernelCompileError, match=r"sm_35:\n.*gpu-architecture") as caught:
        compile_cubin(replace(KERNEL, min_arch=35), 35, sources)
    assert "invalid value" in caught.value.log


@pytest.mark.parametrize("arch", ["sm_90", "90b", 7, 9000, "", "native"])
def test_arch_must_be_one(sources: Path, arch: int | str) -> None:
    with pytest.raises(InputValueError, match="10 \\* major \\+ minor"):
        compile_cubin(KERNEL, arch, sources)


def test_arch_below_the_kernels(sources: Path) -> None:
    with pytest.raises(KernelCompileError, match="scale_rows_alu: it needs sm_80 or newer, and sm_75 was asked for"):
        compile_cubin(replace(KERNEL, min_arch=80), 75, sources)


def test_missing_source(sources: Path) -> None:
    with pytest.raises(KernelCompileError, match=r"scale_rows_alu: its source cannot be read: .*none\.cu"):
        compile_cubin(replace(KERNEL, source="none.cu"), 80, sources)


def test_no_header_but_those_beside_the_source(nvrtc: None, sources: Path) -> None:
    # A header from elsewhere would not be in the key.
    (sources / "scale.cu").write_text("#include <cuda_fp16.h>\n" + SOURCE)
    with pytest.raises(KernelCompileError, match="could not open source file"):
        compile_cubin(KERNEL, 80, sources)


def test_default_sources_are_those_that_ship() -> None:
    with pytest.raises(KernelCompileError, match=r"kernels_cuda.*/no_such\.cu"):
        compile_cubin(replace(KERNEL, source="no_such.cu"), 80)


def test_without_cupy(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    for cached in (compiling._nvrtc, compiling._compiler):
        cached.cache_clear()
    with pytest.raises(DeviceNotAvailable, match=r"CuPy is not installed; pip install 'gpuq\[cuda13\]'"):
        compile_cubin(KERNEL, 80, sources)


def test_without_nvrtc(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError('Failure finding "libnvrtc.so.13"')

    nvrtc = SimpleNamespace(getVersion=missing)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(nvrtc=nvrtc)))
    for cached in (compiling._nvrtc, compiling._compiler):
        cached.cache_clear()
    with pytest.raises(DeviceNotAvailable, match=r"NVRTC does not load: Failure finding .*libnvrtc"):
        compile_cubin(KERNEL, 80, sources)


# ---- the cache ----


def test_hit(nvrtc: None, sources: Path, cache: Path, compilations: list[str]) -> None:
    first = compile_cubin(KERNEL, 90, sources)
    assert compile_cubin(KERNEL, 90, sources) == first
    assert compilations == [KERNEL.name]
    (entry,) = entries(cache)
    assert entry.name.startswith("scale_rows_alu-sm_90-")
    assert entry.read_bytes()[: len(first)] == first
    assert cache.stat().st_mode & 0o077 == 0


def test_every_part_of_the_key(
    nvrtc: None, sources: Path, cache: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled() -> bytes:
        return compile_cubin(kernel, arch, sources)

    kernel, arch = KERNEL, 80
    seen = {compiled()}

    arch = 86
    compiled()
    assert len(compilations) == 2
    kernel = replace(KERNEL, defines=(("BIAS", 8),))
    seen.add(compiled())
    kernel = replace(KERNEL, defines=(("BIAS", 7), ("OTHER", 1)))
    compiled()
    assert len(compilations) == 4
    kernel = KERNEL
    (sources / "scale.cuh").write_text(HEADER.replace("3 *", "5 *"))
    changed = compiled()
    assert changed not in seen, "an old cubin after its header changed"
    assert len(compilations) == 5
    (sources / "scale.cu").write_text(SOURCE.replace("+ BIAS", "- BIAS"))
    assert compiled() != changed
    assert len(compilations) == 6
    (sources / "unused.cuh").write_text("")
    compiled()
    assert len(compilations) == 7
    monkeypatch.setattr(compiling, "_compiler", lambda: "another build of NVRTC")
    compiled()
    assert len(compilations) == 8
    monkeypatch.setattr(compiling, "OPTIONS", (*compiling.OPTIONS, "-extra-device-vectorization"))
    compiled()
    assert len(compilations) == 9
    assert len(entries(cache)) == 9
    compiled()
    assert len(compilations) == 9


def test_compiler_is_known_to_the_build(nvrtc: None) -> None:
    compiling._compiler.cache_clear()
    major, minor = importlib.import_module("cupy").cuda.nvrtc.getVersion()
    assert f"V{major}.{minor}." in compiling._compiler()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "short": lambda content: content[:20],
    "cut": lambda content: content[:-1],
    "cut to a page": lambda content: content[:4096],
    "first byte": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "one bit of the code": lambda content: content[:1500] + bytes([content[1500] ^ 4]) + content[1501:],
    "last byte": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    "longer": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_entry_is_replaced(nvrtc: None, sources: Path, cache: Path, compilations: list[str], kind: str) -> None:
    want = compile_cubin(KERNEL, 80, sources)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGE[kind](whole))
    assert compile_cubin(KERNEL, 80, sources) == want
    assert len(compilations) == 2
    assert entries(cache) == [entry]
    assert entry.read_bytes() == whole
    assert compile_cubin(KERNEL, 80, sources) == want
    assert len(compilations) == 2


def test_an_entry_under_anothers_name_is_damage(
    nvrtc: None, sources: Path, cache: Path, compilations: list[str]
) -> None:
    other = replace(KERNEL, name="scale_rows_other", defines=(("BIAS", 8),))
    want = compile_cubin(KERNEL, 80, sources)
    compile_cubin(other, 80, sources)
    mine, others = entries(cache)
    mine.write_bytes(others.read_bytes())
    assert compile_cubin(KERNEL, 80, sources) == want
    assert len(compilations) == 3


def test_an_entry_that_is_a_folder(nvrtc: None, sources: Path, cache: Path) -> None:
    want = compile_cubin(KERNEL, 80, sources)
    (entry,) = entries(cache)
    entry.unlink()
    entry.mkdir()
    assert compile_cubin(KERNEL, 80, sources) == want
    assert entries(cache) == [entry]


def test_folder_that_cannot_be_made(nvrtc: None, sources: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path / "file" / "kernels"))
    assert compile_cubin(KERNEL, 80, sources)[:4] == b"\x7fELF"
    assert (tmp_path / "file").read_text() == "not a folder"


def test_read_only_folder(nvrtc: None, sources: Path, cache: Path, compilations: list[str]) -> None:
    want = compile_cubin(KERNEL, 80, sources)
    other = replace(KERNEL, defines=(("BIAS", 8),))
    with read_only(cache):
        assert compile_cubin(KERNEL, 80, sources) == want
        assert len(compilations) == 1
        assert compile_cubin(other, 80, sources) != want
    assert len(entries(cache)) == 1


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody may write to, not even root, whom permissions do not bind."""

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only for the test")

    folder.chmod(0o500)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiling.tempfile, "mkstemp", refused)
            patch.setattr(compiling.os, "utime", refused)
            yield
    finally:
        folder.chmod(0o700)


def test_full_disk_leaves_nothing(nvrtc: None, sources: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling.os, "replace", full)
    assert compile_cubin(KERNEL, 80, sources)[:4] == b"\x7fELF"
    assert entries(cache) == []


def test_folder_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPUQ_CACHE_DIR", "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"
    monkeypatch.delenv("GPUQ_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gpuq" / "kernels"
    for unset in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", "") if unset == "" else monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == tmp_path / "home" / ".cache" / "gpuq" / "kernels"


def test_no_home(nvrtc: None, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GPUQ_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    assert cache_folder() is None
    assert compile_cubin(KERNEL, 80, sources)[:4] == b"\x7fELF"


def test_switched_off(
    nvrtc: None, sources: Path, cache: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUQ_CACHE_DIR", "")
    assert cache_folder() is None
    assert compile_cubin(KERNEL, 80, sources) == compile_cubin(KERNEL, 80, sources)
    assert len(compilations) == 2
    assert not cache.exists()


def test_folder_is_held_to_its_size(nvrtc: None, sources: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(letter: str, age: float, size: int = 1000) -> Path:
        path = cache / f"conv2d_{letter}-sm_90a-{letter * 64}.cubin"
        path.write_bytes(bytes(size))
        os.utime(path, (now - age, now - age))
        return path

    now = time.time()
    cache.mkdir(parents=True)
    old, middle, young = entry("a", 300), entry("b", 200), entry("c", 100)
    mine = cache / "notes.txt"
    mine.write_bytes(bytes(100_000))
    abandoned, fresh = cache / ".gpuq-abc", cache / ".gpuq-def"
    for path, age in ((abandoned, 2 * 24 * 3600), (fresh, 1), (mine, 9999)):
        path.write_bytes(b"x")
        os.utime(path, (now - age, now - age))
    size = len(compile_cubin(replace(KERNEL, name="probe"), 80, sources)) + 32
    assert old.exists(), "nothing goes before the folder is full"
    assert not abandoned.exists()
    assert fresh.exists()
    monkeypatch.setattr(compiling, "CACHE_BYTES", 2 * size + 2000)
    monkeypatch.setattr(compiling, "_pruned", set())
    compile_cubin(replace(KERNEL, name="last"), 80, sources)
    assert not old.exists()
    assert middle.exists()
    assert young.exists()
    assert mine.exists()
    os.utime(middle, (now, now))
    monkeypatch.setattr(compiling, "CACHE_BYTES", 1)
    compile_cubin(replace(KERNEL, name="within_one_process_it_looks_once"), 80, sources)
    assert young.exists()


def test_reading_keeps_an_entry_young(nvrtc: None, sources: Path, cache: Path) -> None:
    compile_cubin(KERNEL, 80, sources)
    (entry,) = entries(cache)
    os.utime(entry, (1, 1))
    compile_cubin(KERNEL, 80, sources)
    assert entry.stat().st_mtime > 1


PROCESSES = 32
AT_ONCE = """
import hashlib, json, multiprocessing, sys
from pathlib import Path
from gpuq.cuda import compile as compiling
from gpuq.cuda.kernel import Kernel
import cupy  # once, before the fork; NVRTC itself is loaded by each process

def work(barrier, queue, sources, kernels):
    compiled = []
    original = compiling.nvrtc_cubin
    compiling.nvrtc_cubin = lambda *arguments: compiled.append(1) or original(*arguments)
    barrier.wait()
    cubins = compiling.compile_many(kernels, 90, workers=1, sources=sources)
    queue.put((len(compiled), [hashlib.sha256(cubin).hexdigest() for cubin in cubins]))

count, sources = int(sys.argv[1]), Path(sys.argv[2])
kernels = [Kernel(f"scale_rows_{i}", "scale.cu", "scale_rows", (("BIAS", i),), (32, 1, 1)) for i in range(3)]
context = multiprocessing.get_context("fork")
barrier, queue = context.Barrier(count), context.Queue()
processes = [context.Process(target=work, args=(barrier, queue, sources, kernels)) for _ in range(count)]
for process in processes:
    process.start()
found = [queue.get() for _ in processes]
for process in processes:
    process.join()
print(json.dumps({"compiled": [n for n, _ in found], "digests": [d for _, d in found],
                  "status": [process.exitcode for process in processes]}))
"""


@pytest.mark.timeout(120)
def test_many_processes_on_a_cold_cache(nvrtc: None, sources: Path, cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", AT_ONCE, str(PROCESSES), str(sources)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == [0] * PROCESSES
    assert len({tuple(digests) for digests in found["digests"]}) == 1, "processes loaded different code"
    assert len(set(found["digests"][0])) == 3
    assert len(entries(cache)) == 3, "no temporary file is left"
    assert sum(found["compiled"]) < 3 * PROCESSES, "nobody found anything done"


# ---- many ----


def test_many_keep_their_order(nvrtc: None, sources: Path, compilations: list[str]) -> None:
    kernels = [replace(KERNEL, name=f"k{i}", defines=(("BIAS", i),)) for i in (3, 1, 2)]
    want = [compile_cubin(kernel, 80, sources) for kernel in kernels]
    del compilations[:]
    assert compile_many([*kernels, kernels[1]], 80, sources=sources) == [*want, want[1]]
    assert compilations == []
    fresh = [replace(kernel, name=kernel.name + "_new") for kernel in [*kernels, kernels[0]]]
    assert compile_many(fresh, 80, workers=2, sources=sources) == [*want, want[0]]
    assert sorted(compilations) == ["k1_new", "k2_new", "k3_new"]
    assert compile_many([], 80, sources=sources) == []


def test_many_report_the_one_that_fails(nvrtc: None, sources: Path) -> None:
    kernels = [replace(KERNEL, name=f"k{i}", defines=(("BIAS", "nonsense" if i == 2 else i),)) for i in range(4)]
    with pytest.raises(KernelCompileError, match=r'k2: .*\n.*"nonsense" is undefined'):
        compile_many(kernels, 80, sources=sources)


# ---- loading, against a stand-in for CuPy ----


class DriverError(RuntimeError):
    pass


class StandIn:
    """As much of CuPy as loading touches; it notes what is done on which device."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.devices: list[int] = []
        self.refuses = ""
        stand_in = self

        class Device:
            compute_capability = "103"

            def __init__(self, index: int) -> None:
                self.index = index

            def __enter__(self) -> Device:
                stand_in.devices.append(self.index)
                return self

            def __exit__(self, *_: object) -> None:
                stand_in.devices.pop()

        class Module:
            def load(self, cubin: bytes) -> None:
                stand_in.note("load", cubin)

            def get_function(self, name: str) -> SimpleNamespace:
                stand_in.note("get_function", name)
                return SimpleNamespace(ptr=1234, module=self, name=name)

        driver = SimpleNamespace(
            CUDADriverError=DriverError,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
            funcSetAttribute=lambda *arguments: self.note("funcSetAttribute", *arguments),
        )
        nvrtc = SimpleNamespace(getVersion=lambda: (13, 5), getSupportedArchs=lambda: (75, 80, 86, 90, 100, 101, 120))
        self.cuda = SimpleNamespace(Device=Device, Module=Module, driver=driver, nvrtc=nvrtc)

    def note(self, what: str, *arguments: Any) -> None:
        if what == self.refuses:
            raise DriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
        self.done.append((self.devices[-1], what, *arguments))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()

    def compiled(kernels: list[Kernel], arch: int) -> list[bytes]:
        stand_in.note("compile", arch, *(kernel.name for kernel in kernels))
        time.sleep(0.02)  # long enough for a second thread to come along
        return [f"cubin of {kernel.name}".encode() for kernel in kernels]

    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setattr(compiling, "compile_many", compiled)
    monkeypatch.setattr(compiling, "_loaded", {})
    compiling._nvrtc.cache_clear()
    yield stand_in
    compiling._nvrtc.cache_clear()


def test_load_once_per_device(cupy: StandIn) -> None:
    other = replace(KERNEL, name="other", entry="other_entry", dynamic_shared_bytes=98304)
    first, second, again = load_many([KERNEL, other, KERNEL], 1)
    assert first is again
    assert (first.name, second.name) == ("scale_rows", "other_entry")
    assert cupy.done == [
        (1, "compile", 101, "scale_rows_alu", "other"),
        (1, "load", b"cubin of scale_rows_alu"),
        (1, "get_function", "scale_rows"),
        (1, "load", b"cubin of other"),
        (1, "get_function", "other_entry"),
        (1, "funcSetAttribute", 1234, 8, 98304),
    ]
    del cupy.done[:]
    assert load(other, 1) is second
    assert cupy.done == []
    third = replace(KERNEL, name="third")
    assert load_many([third, other], 1)[1] is second
    assert [line[1] for line in cupy.done] == ["compile", "load", "get_function"]
    assert load(other, 0) is not second
    assert cupy.done[3] == (0, "compile", 101, "other")


def test_threads_load_once(cupy: StandIn) -> None:
    kernels = [replace(KERNEL, name=f"k{i}") for i in range(5)]
    start, found = threading.Barrier(8), []

    def work() -> None:
        start.wait()
        found.append(load_many(kernels))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(a is b for each in found for a, b in zip(each, found[0], strict=True))
    assert len(cupy.done) == 1 + 2 * 5


@pytest.mark.parametrize("step", ["load", "get_function", "funcSetAttribute"])
def test_driver_refuses(cupy: StandIn, step: str) -> None:
    cupy.refuses = step
    kernel = replace(KERNEL, dynamic_shared_bytes=300_000)
    with pytest.raises(DeviceError, match="scale_rows_alu: the driver does not load it for sm_101 on GPU 0: CUDA_ERR"):
        load(kernel)
    cupy.refuses = ""
    assert load(kernel).name == "scale_rows"


def test_arch_of_a_device(cupy: StandIn) -> None:
    # sm_89 runs sm_86 code, sm_103 runs sm_101; nothing here runs on sm_70 or on a generation to come.
    want = {75: 75, 80: 80, 86: 86, 87: 86, 89: 86, 90: 90, 100: 100, 103: 101, 120: 120, 121: 120}
    assert {capability: device_arch(capability) for capability in want} == want
    for capability in (70, 130):
        with pytest.raises(KernelCompileError, match=rf"NVRTC 13\.5 does not know sm_{capability}; pip install"):
            device_arch(capability)
