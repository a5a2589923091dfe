"""Tests of the host build itself: planted faults are caught, correct kernels give exact results in any order."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuq.cuda.kernel import Argument, Kernel, Launch, Pointer
from tests.exact import f32, wrap
from tests.host_cuda import runner
from tests.host_cuda.runner import HostCudaError, HostLauncher, missing_tools, require_tools

KERNELS = Path(__file__).parent / "kernels"
N = 64


@pytest.fixture(scope="module")
def launchers() -> Iterator[dict[int, HostLauncher]]:
    """One for sm_80, one for sm_75."""
    require_tools()
    with HostLauncher(KERNELS) as sm_80, HostLauncher(KERNELS, arch=75) as sm_75:
        yield {75: sm_75, 80: sm_80}


@pytest.fixture
def launcher(launchers: dict[int, HostLauncher]) -> HostLauncher:
    return launchers[80]


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def kernel(source: str, entry: str, threads: tuple[int, int, int] = (N, 1, 1), shared: int = 0) -> Kernel:
    return Kernel(entry, source, entry, (), threads, shared)


def launch(
    launcher: HostLauncher,
    kernel: Kernel,
    grid: tuple[int, int, int],
    *arguments: np.ndarray | Argument,
    seeds: tuple[int, ...] | None = None,
) -> None:
    """Launches with arrays as pointers to their first element."""
    pointers = tuple(Pointer(a) if isinstance(a, np.ndarray) else a for a in arguments)
    launcher.launch(Launch(kernel, grid, pointers), seeds=seeds)


def int32s(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Of any value."""
    return rng.integers(-(2**31), 2**31, shape, np.int32)


# ------------------------------------------------------------------------------------------------- planted faults

WAITS_FOR = r"deadlock: thread \(\d+, 0, 0\) waits in %s.*, while thread \(\d+, 0, 0\) waits in %s"

FAULTS = [
    # kernel, fault, threads of a block, blocks, what the message must say
    (
        "load_unguarded",
        1,
        128,
        1,
        r"thread \(\d\d\d?, 0, 0\)\nthe address is \d+ bytes before .* argument 1\n",
    ),
    ("store_elsewhere", 1, N, 1, r"thread \(63, 0, 0\)\nthe address is 0 bytes after the 256 bytes of argument 0\n"),
    ("store_elsewhere", -N, N, 1, r"the address is 4 bytes before the 256 bytes of argument 0\n"),
    ("store_elsewhere", 200_000, N, 1, r"the address is 799996 bytes after the 256 bytes of argument 0\n"),
    ("store_elsewhere", -200_000, N, 1, r"the address is 799748 bytes before the 256 bytes of argument 0\n"),
    ("load_misaligned", 1, N // 4, 1, r"misaligned address .* requires 16 byte alignment"),
    ("load_misaligned", 2, N // 4, 1, r"misaligned address .* requires 16 byte alignment"),
    ("load_freed", 1, N, 1, r"heap-use-after-free"),
    ("load_null", 1, N, 1, r"SEGV on unknown address 0x0000"),
    ("store_to_input", 1, N, 1, r"wrote to argument 1, which is read-only"),
    ("block_order", 1, 1, N, r"argument 0 differs in .* with seeds 1 and 2: .* order of threads or blocks"),
    ("shared_overflow", 1, N, 1, r"thread \(63, 0, 0\)\n.*global-buffer-overflow"),
    ("shared_row_overflow", 1, N, 1, r"faults.cu:\d+:\d+: runtime error: index \d+ out of bounds for type 'int \[8\]'"),
    ("dynamic_overflow", 1, N, 1, r"thread \(63, 0, 0\)\n.*heap-buffer-overflow"),
    ("dynamic_of_other_block", 1, N, 2, r"heap-use-after-free"),
    ("shared_uninitialised", 1, N, 1, r"argument 0 differs in [1-4] bytes.* uninitialised shared memory"),
    ("dynamic_uninitialised", 1, N, 1, r"argument 0 differs in [1-4] bytes.* uninitialised shared memory"),
    ("shared_too_large", 1, N, 1, r"tile brings static shared memory to 65536 bytes; a block may have 49152"),
    ("barrier_missing", 1, N, 1, r"argument 0 differs .* \(a missing barrier\?\)"),
    ("barrier_missing_after_reads", 1, 32, 1, r"argument 0 differs .* \(a missing barrier\?\)"),
    ("barrier_divergent", 1, N, 1, r"barrier divergence: .*\n?.*thread \(3, 0, 0\)"),
    (
        "barrier_divergent",
        2,
        N,
        1,
        r"divergence: __syncthreads(_or)? at .*:\d+, while thread .* waits in __syncthr",
    ),
    ("barrier_divergent", 3, N, 1, r"barrier divergence: __syncthreads at .*:\d+, while thread .* waits in __syncthr"),
    ("barrier_divergent", 4, N, 1, WAITS_FOR % (r"__syncthreads", r"__syncwarp\(0xffffffff\)")),
    ("shuffle_faulty", 1, 32, 1, r"(lane 7 exits, while thread|waits for lane 7, but thread \(7, 0, 0\) has exited)"),
    ("shuffle_faulty", 2, 32, 1, r"__shfl_xor_sync\(0x0000ffff\) is called by lane \d+, which the mask does not name"),
    (
        "shuffle_faulty",
        3,
        32,
        1,
        r"reads lane \d+, which does not take part: mask and block have lanes 0x",
    ),
    ("shuffle_faulty", 4, 32, 1, WAITS_FOR % (r"__shfl_xor_sync\(0xffffffff\)", r"__shfl_xor_sync\(0x7fffffff\)")),
    ("shuffle_faulty", 5, 32, 1, WAITS_FOR % (r"__shfl_xor_sync\(0xffffffff\)", r"__shfl_down_sync\(0xffffffff\)")),
    ("shuffle_faulty", 6, 32, 1, r"__shfl_xor_sync: width 24 must be 1, 2, 4, 8, 16 or 32"),
    ("signed_overflow", 1, N, 1, r"faults.cu:\d+:\d+: runtime error: signed integer overflow"),
    ("shift_too_far", 1, N, 1, r"faults.cu:\d+:\d+: runtime error: shift exponent 32 is too large"),
    ("cast_out_of_range", 1, N, 1, r"3e\+09 is outside the range of representable values of type 'int'"),
    ("selector_too_large", 1, N, 1, r"__byte_perm: selector 0x321f names a byte above 7"),
    ("traps", 1, N, 1, r"__trap\(\)\nin kernel traps, block \(0, 0, 0\), thread \(5, 0, 0\)\n"),
]


@pytest.mark.parametrize(
    ("entry", "fault", "threads", "blocks", "says"), FAULTS, ids=[f"{f[0]}-{f[1]}" for f in FAULTS]
)
def test_fault_is_caught(
    launcher: HostLauncher,
    rng: np.random.Generator,
    entry: str,
    fault: int,
    threads: int,
    blocks: int,
    says: str,
) -> None:
    n = 32 if entry == "shuffle_faulty" else N
    x = rng.integers(1, 2**20, n, np.int32)
    x.flags.writeable = False
    out = np.zeros(n, np.int32)
    faulty = kernel("faults.cu", entry, (threads, 1, 1), 4 * N)
    launch(launcher, faulty, (blocks, 1, 1), out, x, np.int32(n), np.int32(0))
    assert np.array_equal(out, x[::-1])
    before = out.copy()
    with pytest.raises(HostCudaError, match=says) as caught:
        launch(launcher, faulty, (blocks, 1, 1), out, x, np.int32(n), np.int32(fault))
    assert str(caught.value).startswith(f"{entry}: ")
    assert np.array_equal(out, before)


def test_kernel_that_never_ends_is_stopped() -> None:
    out, x = np.zeros(N, np.int32), np.arange(N, dtype=np.int32)
    with HostLauncher(KERNELS, timeout_s=1) as launcher:
        endless = kernel("faults.cu", "never_ends")
        with pytest.raises(HostCudaError, match="never_ends: did not end within 1 s"):
            launch(launcher, endless, (1, 1, 1), out, x, np.int32(N), np.int32(1))
        launch(launcher, endless, (1, 1, 1), out, x, np.int32(N), np.int32(0))
    assert np.array_equal(out, x[::-1])


def test_one_seed_repeats_itself_and_does_not_compare(launcher: HostLauncher) -> None:
    x = np.arange(N, dtype=np.int32)
    outcomes = []
    for seed in (5, 5, 6):
        out = np.zeros(N, np.int32)
        racy = kernel("faults.cu", "barrier_missing")
        launch(launcher, racy, (1, 1, 1), out, x, np.int32(N), np.int32(1), seeds=(seed,))
        outcomes.append(out)
    assert np.array_equal(outcomes[0], outcomes[1])
    assert not np.array_equal(outcomes[0], outcomes[2])


# -------------------------------------------------------------------------------------------------------- cp.async


@pytest.mark.parametrize("arch", [75, 80])
@pytest.mark.parametrize("n", [4, 128, 1000, 1024])
def test_async_pipeline(launchers: dict[int, HostLauncher], rng: np.random.Generator, arch: int, n: int) -> None:
    x = rng.integers(-(2**20), 2**20, n, np.int32)
    out = np.zeros(n, np.int32)
    pipeline = kernel("async.cu", "async_pipeline", (32, 1, 1))
    launch(launchers[arch], pipeline, (1, 1, 1), out, x, np.int32(n), np.int32(0))
    assert np.array_equal(out, ~x)


AWAITED = r"(use-after-poison|differs in)"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (1, r"the address awaits a cp.async of thread \(\d+, 0, 0\)\n(.*\n)*.*use-after-poison"),
        (2, AWAITED),
        (3, r"the address awaits a cp.async of thread"),
        (4, AWAITED),
    ],
)
def test_faulty_async_pipeline_is_caught(
    launcher: HostLauncher, rng: np.random.Generator, fault: int, says: str
) -> None:
    x = rng.integers(-(2**20), 2**20, 1024, np.int32)
    pipeline = kernel("async.cu", "async_pipeline", (32, 1, 1))
    with pytest.raises(HostCudaError, match=says):
        launch(launcher, pipeline, (1, 1, 1), np.zeros(1024, np.int32), x, np.int32(1024), np.int32(fault))


@pytest.mark.parametrize("group", range(3))
@pytest.mark.parametrize("left", range(3))
def test_async_groups_arrive_in_order(launcher: HostLauncher, group: int, left: int) -> None:
    x, out = np.arange(12, dtype=np.int32), np.full(4, -1, np.int32)
    groups = kernel("async.cu", "async_groups", (1, 1, 1))
    if group + left < 3:
        launch(launcher, groups, (1, 1, 1), out, x, np.int32(group), np.int32(left))
        assert np.array_equal(out, x[4 * group : 4 * group + 4])
    else:
        with pytest.raises(HostCudaError, match=r"awaits a cp.async of thread \(0, 0, 0\)"):
            launch(launcher, groups, (1, 1, 1), out, x, np.int32(group), np.int32(left))


@pytest.mark.parametrize("arch", [75, 80])
@pytest.mark.parametrize("size", [4, 8, 16])
def test_async_zfill(launchers: dict[int, HostLauncher], rng: np.random.Generator, arch: int, size: int) -> None:
    for nbytes in range(size + 1):
        x = rng.integers(-128, 128, (N, size), np.int8)
        # The last word's array ends where its bytes end: nothing behind them may be read.
        x = x.reshape(-1)[: (N - 1) * size + nbytes].copy()
        out = np.ones((N, size), np.int8)
        zfill = kernel("async.cu", "async_zfill", shared=N * size)
        launch(launchers[arch], zfill, (1, 1, 1), out, x, np.int32(size), np.int32(nbytes))
        whole = np.zeros((N, size), np.int8)
        whole.reshape(-1)[: x.size] = x
        whole[:, nbytes:] = 0
        assert np.array_equal(out, whole), nbytes


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (1, r"cp_async_16: misaligned shared address"),
        (2, r"cp_async_16: misaligned global address"),
        (3, r"an earlier copy to the same place has not been waited for"),
        (4, r"cp_async_8: the target is not inside one of the block's shared arrays"),
        (5, r"the address is \d+ bytes after the 256 bytes of argument 1\n"),
        (6, r"cp_async_16: the target is not inside one of the block's shared arrays"),
        (7, r"cp_async_8: 9 bytes to copy, must be 0 to 8"),
        (8, r"the address awaits a cp.async of thread \(8, 0, 0\)"),
    ],
)
def test_misused_async_is_caught(launcher: HostLauncher, fault: int, says: str) -> None:
    x, out = np.arange(N, dtype=np.int32), np.zeros(N, np.int32)
    with pytest.raises(HostCudaError, match=says):
        launch(launcher, kernel("async.cu", "async_misused"), (1, 1, 1), out, x, np.int32(N), np.int32(fault))


@pytest.mark.parametrize("ending", [0, 9])
def test_async_copies_nobody_reads_need_no_wait(launcher: HostLauncher, ending: int) -> None:
    x, out = np.arange(N, dtype=np.int32), np.zeros(N, np.int32)
    launch(launcher, kernel("async.cu", "async_misused"), (3, 1, 1), out, x, np.int32(N), np.int32(ending))
    assert np.array_equal(out, x)


# ----------------------------------------------------------------------------------------- blocks, threads, barriers


@pytest.mark.parametrize(("m", "n", "k"), [(8, 8, 8), (13, 21, 30), (1, 40, 7)])
def test_tiled_product_in_any_order(
    launcher: HostLauncher, rng: np.random.Generator, seed: int, m: int, n: int, k: int
) -> None:
    a, b = rng.integers(-128, 128, (3, m, k), np.int8), rng.integers(-128, 128, (3, k, n), np.int8)
    c = np.zeros((3, m, n), np.int32)
    product, grid = kernel("correct.cu", "tiled_product", (8, 8, 1)), (-(-n // 8), -(-m // 8), 3)
    seeds = tuple(range(seed, seed + 5))
    launch(launcher, product, grid, c, a, b, np.int32(m), np.int32(n), np.int32(k), seeds=seeds)
    assert np.array_equal(c, a.astype(np.int32) @ b)


@pytest.mark.parametrize(
    ("block", "grid"),
    [((1, 1, 1), (1, 1, 1)), ((5, 3, 2), (2, 3, 4)), ((1, 1, 64), (3, 1, 1)), ((1024, 1, 1), (1, 2, 1))],
)
def test_indices(launcher: HostLauncher, block: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
    out = np.full(math.prod(block) * math.prod(grid), -2, np.int32)
    sizes = [np.int32(size) for size in (*block, *grid)]
    launch(launcher, kernel("correct.cu", "indices", block), grid, out, *sizes)
    assert np.array_equal(out, np.arange(out.size))


@pytest.mark.parametrize("positive", [0, 1, 17, 70])
def test_counting_barriers(launcher: HostLauncher, rng: np.random.Generator, positive: int) -> None:
    x = rng.permutation(np.where(np.arange(70) < positive, 1, -1)).astype(np.int32)
    out = np.zeros((3, 70), np.int32)
    launch(launcher, kernel("correct.cu", "counting_barriers", (70, 1, 1)), (2, 1, 1), out, x)
    assert np.array_equal(out, np.repeat([[positive], [positive > 0], [positive == 70]], 70, axis=1))


def test_atomics(launcher: HostLauncher, rng: np.random.Generator) -> None:
    n = 1000
    x, data = int32s(rng, n), rng.integers(0, 256, n, np.uint8)
    histogram, total = np.zeros(256, np.int32), np.zeros(1, np.uint64)
    others = np.array([0, 2**31 - 1, -(2**31), 0, -1, 0, 0, -1, 0, 0], np.int32)
    atomics = kernel("correct.cu", "atomics", (96, 1, 1))
    # Which thread wins the CAS is a matter of order, so one seed.
    launch(launcher, atomics, (11, 1, 1), histogram, others, total, data, x, np.int32(n), seeds=(3,))
    assert np.array_equal(histogram, np.bincount(data, minlength=256))
    assert total[0] == int(data.sum()) << 32
    words = x.view(np.uint32)
    reduced = [np.bitwise_and.reduce(x), np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x)]
    sum_ = wrap(int(x.sum(dtype=np.int64)))
    assert others[:7].tolist() == [sum_, x.min(), x.max(), words.max().astype(np.int32), *reduced]
    assert 0 <= others[7] < n
    assert others[8:].tolist() == [1, wrap(-sum_)]


def test_cost_of_a_switch(launcher: HostLauncher, capsys: pytest.CaptureFixture[str]) -> None:
    out, turns = np.zeros(256, np.int32), 1000
    launch(launcher, kernel("correct.cu", "barriers", (256, 1, 1)), (1, 1, 1), out, np.int32(turns), seeds=(1,))
    statistics = launcher.statistics
    assert (out == turns).all()
    # A thread that completes a barrier may be drawn to go on: then there is no switch.
    assert 0.9 * 256 * turns < statistics.switches <= 257 * (turns + 1)
    with capsys.disabled():
        print(f" {1e9 * statistics.seconds / statistics.switches:.0f} ns a switch of threads", end="")


# ---------------------------------------------------------------------------------------------------- warp functions


def shuffle_model(kind: int, lane: int, argument: int, width: int) -> int:
    """The source lane, after the pseudocode of shfl in the PTX ISA."""
    segment = 32 - width
    by, upper = argument & 31, (lane & segment) | (31 & ~segment)
    if kind == 0:
        return (lane & segment) | (by & ~segment)
    if kind == 1:
        return lane - by if lane - by >= (lane & segment) else lane
    source = lane + by if kind == 2 else lane ^ by
    return source if source <= upper else lane


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("argument", [0, 1, 3, 5, 16, 31, 32, 37])
def test_shuffles(launcher: HostLauncher, rng: np.random.Generator, width: int, argument: int) -> None:
    x, out = int32s(rng, 32), np.zeros((4, 32), np.int32)
    shuffles = kernel("correct.cu", "shuffles", (32, 1, 1))
    launch(launcher, shuffles, (1, 1, 1), out, x, np.int32(argument), np.int32(width))
    expected = [[x[shuffle_model(kind, lane, argument, width)] for lane in range(32)] for kind in range(4)]
    assert np.array_equal(out, expected)


def test_shuffles_in_a_short_warp(launcher: HostLauncher, rng: np.random.Generator) -> None:
    x, out = int32s(rng, 32), np.zeros((4, 32), np.int32)
    short = kernel("correct.cu", "shuffles", (20, 1, 1))
    launch(launcher, short, (1, 1, 1), out, x, np.int32(1), np.int32(4))
    expected = [[x[shuffle_model(kind, lane, 1, 4)] for lane in range(20)] for kind in range(4)]
    assert np.array_equal(out[:, :20], expected)
    with pytest.raises(HostCudaError, match="reads lane 20, which does not take part"):
        launch(launcher, short, (1, 1, 1), out, x, np.int32(1), np.int32(32))


def test_shuffle_types(launcher: HostLauncher) -> None:
    longs, doubles, floats = np.zeros(32, np.int64), np.zeros(32, np.float64), np.zeros(32, np.float32)
    wrapped, lane = np.zeros(32, np.int32), np.arange(32)
    launch(launcher, kernel("correct.cu", "shuffle_types", (32, 1, 1)), (1, 1, 1), longs, doubles, floats, wrapped)
    assert np.array_equal(longs, 2**40 + (lane ^ 1))
    assert np.array_equal(doubles, (lane ^ 1) + 0.25)
    assert np.array_equal(floats, (lane ^ 1) + 0.5)
    neighbours = np.maximum(lane - 1, 0) + np.minimum(lane + 1, 31)
    assert np.array_equal(wrapped, (lane ^ 1) + 100 * 5 + 10000 * neighbours)


def test_halves_of_warps_are_independent(launcher: HostLauncher, rng: np.random.Generator) -> None:
    x = rng.integers(-5, 100, 96, np.int32)
    x[:16], x[16:32] = -1, 1
    sums, votes = np.zeros(96, np.int32), np.zeros(96, np.uint32)
    launch(launcher, kernel("correct.cu", "halves", (96, 1, 1)), (1, 1, 1), sums, votes, x)
    halves = x.reshape(6, 16)
    positive = halves > 0
    expected = (positive << np.arange(16)).sum(1) | positive.any(1) << 16 | positive.all(1) << 17
    assert np.array_equal(sums, np.repeat(halves.sum(1), 16))
    assert np.array_equal(votes, np.repeat(expected, 16))


def test_reductions(launcher: HostLauncher, rng: np.random.Generator) -> None:
    x, out = int32s(rng, 32), np.zeros((7, 32), np.int32)
    launch(launcher, kernel("correct.cu", "reductions", (32, 1, 1)), (1, 1, 1), out, x)
    results = [wrap(int(x.sum(dtype=np.int64))), x.min(), x.max(), x.view(np.uint32).max().astype(np.int32)]
    results += [np.bitwise_and.reduce(x), np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x)]
    assert np.array_equal(out, np.repeat(np.array(results)[:, None], 32, axis=1))


# -------------------------------------------------------------------------------------------------------- intrinsics


def bytes_of(word: int, signed: bool) -> list[int]:
    return list(np.array([word], np.int64).astype(np.uint32).view(np.int8 if signed else np.uint8).tolist())


def dp4a(a: int, b: int, c: int, a_signed: bool, b_signed: bool) -> int:
    return wrap(c + sum(x * y for x, y in zip(bytes_of(a, a_signed), bytes_of(b, b_signed), strict=True)))


def prmt(a: int, b: int, selector: int) -> int:
    both, chosen = bytes_of(a, False) + bytes_of(b, False), 0
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = both[nibble & 7]
        chosen |= (255 * (byte >> 7) if nibble & 8 else byte) << 8 * i
    return wrap(chosen)


INT_EXTREMES = np.array([0, 1, -1, 2**31 - 1, -(2**31), 0x7F7F7F7F, -0x7F7F7F80, 0x01020304], np.int32)


@pytest.fixture
def words(rng: np.random.Generator) -> np.ndarray:
    """Three rows of 512 int32: every triple of the extremes, then any."""
    extremes = np.stack(np.meshgrid(INT_EXTREMES, INT_EXTREMES, INT_EXTREMES), axis=0).reshape(3, 512)
    return np.where(rng.random((3, 512)) < 0.5, extremes, int32s(rng, 3, 512))


def packed(x: int, y: int, z: int, low: int, high: int) -> int:
    codes = [min(max(value, low), high) for value in (x >> 20, y >> 23, z, x >> 24)]
    return int.from_bytes(bytes(code & 255 for code in codes), "little", signed=True)


def test_bytes_of_words(launcher: HostLauncher, words: np.ndarray) -> None:
    a, b, c = words
    out = np.zeros((8, 512), np.int32)
    launch(launcher, kernel("intrinsics.cu", "bytes_of_words", (512, 1, 1)), (1, 1, 1), out, *words, np.int32(512))
    for i, (x, y, z) in enumerate(zip(a.tolist(), b.tolist(), c.tolist(), strict=True)):
        expected = [
            dp4a(x, y, z, True, True),
            dp4a(x, y, z, False, False),
            dp4a(x, y, z, False, True),
            dp4a(x, y, z, True, True),
            prmt(x, y, z & 0x7777),
            prmt(x, y, z),
            packed(x, y, z, -128, 127),
            packed(x, y, z, 0, 255),
        ]
        assert out[:, i].tolist() == expected, (x, y, z)


def test_integers(launcher: HostLauncher, rng: np.random.Generator, words: np.ndarray) -> None:
    n = 512
    wide = rng.integers(-(2**63), 2**63, n, np.int64)
    wide[:4] = [0, -1, -(2**63), 2**63 - 1]
    out, out64 = np.zeros((14, n), np.int32), np.zeros((2, n), np.int64)
    launch(launcher, kernel("intrinsics.cu", "integers", (n, 1, 1)), (1, 1, 1), out, out64, *words, wide, np.int32(n))
    for i, (a, b, c) in enumerate(words.T.tolist()):
        ua, ub, w, v = a % 2**32, b % 2**32, int(wide[i]), int(wide[n - 1 - i])
        funnel, shift = ub << 32 | ua, c & 63
        expected = [
            a * b >> 32,
            ua * ub >> 32,
            funnel << (c & 31) >> 32,
            funnel >> (c & 31),
            funnel << min(shift, 32) >> 32,
            funnel >> min(shift, 32),
            32 - ua.bit_length(),
            bin(ua).count("1"),
            (ua & -ua).bit_length(),
            int(f"{ua:032b}"[::-1], 2),
            min(a, b),
            max(ua, ub),
            max(ua, ub),
            64 - (w % 2**64).bit_length(),
        ]
        assert out[:, i].tolist() == [wrap(x) for x in expected], (a, b, c)
        assert int(out64[0, i]) == w * v >> 64
        assert int(out64[1, i]) % 2**64 == (w % 2**64) * (v % 2**64) >> 64


ROUNDINGS: dict[str, Any] = {"n": round, "z": math.trunc, "d": math.floor, "u": math.ceil}


def to_integer(x: float, rounding: str, bits: int, signed: bool, nan: int) -> int:
    """The device's conversion, as the int of the same bits."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if math.isnan(x):
        value = nan
    elif math.isinf(x):
        value = high if x > 0 else low
    else:
        value = min(max(ROUNDINGS[rounding](Fraction(x)), low), high)
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def floats_of_every_kind(rng: np.random.Generator, dtype: Any, size: int) -> np.ndarray:
    """Specials, ties, the neighbours of every integer type's bounds, and numbers of every magnitude, subnormal too."""
    bounds = np.array([0, 0.5, 1, 1.5, 2.5, 2.0**22 + 0.5, 2.0**31, 2.0**32, 2.0**63, 2.0**64], dtype)
    edges = np.concatenate([bounds, np.nextafter(bounds, dtype(np.inf)), np.nextafter(bounds, -dtype(np.inf))])
    specials = np.array([np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    ties = rng.integers(-(2**20), 2**20, 100).astype(dtype) + dtype(0.5)
    any_bits = rng.integers(0, 256, size * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    moderate = (rng.standard_normal(size) * 2.0 ** rng.integers(-3, 66, size)).astype(dtype)
    return np.concatenate([edges, -edges, specials, -specials, ties, any_bits, moderate])


def same_floats(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, but for the payload of NaN."""
    return bool(((a.view(f"i{a.itemsize}") == b.view(f"i{b.itemsize}")) | (np.isnan(a) & np.isnan(b))).all())


def test_conversions_from_float(launcher: HostLauncher, rng: np.random.Generator) -> None:
    x = floats_of_every_kind(rng, np.float32, 200)
    n, blocks = x.size, -(-x.size // 128)
    out, out64 = np.zeros((7, n), np.int32), np.zeros((2, n), np.int64)
    from_float = kernel("intrinsics.cu", "from_float", (128, 1, 1))
    launch(launcher, from_float, (blocks, 1, 1), out, out64, x, np.int32(n))
    for i, value in enumerate(x.tolist()):
        # 32 bits to 32 bits: NaN gives 0.
        expected = [to_integer(value, r, 32, True, 0) for r in "nzdu"]
        expected += [to_integer(value, r, 32, False, 0) for r in "nz"]
        assert out[:6, i].tolist() == expected, value
        assert out64[0, i] == to_integer(value, "n", 64, True, 1 << 63), value
        assert out64[1, i] == to_integer(value, "z", 64, False, 1 << 63), value
    with np.errstate(invalid="ignore"):
        assert same_floats(out[6].view(np.float32), np.rint(x))


def test_conversions_from_double(launcher: HostLauncher, rng: np.random.Generator) -> None:
    x = floats_of_every_kind(rng, np.float64, 200)
    n, blocks = x.size, -(-x.size // 128)
    out, out64 = np.zeros((6, n), np.int32), np.zeros((3, n), np.int64)
    from_double = kernel("intrinsics.cu", "from_double", (128, 1, 1))
    launch(launcher, from_double, (blocks, 1, 1), out, out64, x, np.int32(n))
    for i, value in enumerate(x.tolist()):
        # From 64 bits NaN gives the top bit alone.
        expected = [to_integer(value, r, 32, True, 1 << 31) for r in "nzdu"]
        expected += [to_integer(value, "n", 32, False, 1 << 31)]
        assert out[:5, i].tolist() == expected, value
        assert out64[0, i] == to_integer(value, "n", 64, True, 1 << 63), value
        assert out64[1, i] == to_integer(value, "z", 64, False, 1 << 63), value
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        assert same_floats(out[5].view(np.float32), x.astype(np.float32))
        assert same_floats(out64[2].view(np.float64), np.rint(x))


def test_arithmetic_is_rounded_once_and_never_contracted(launcher: HostLauncher, rng: np.random.Generator) -> None:
    n = 256
    x = (rng.standard_normal(n) * 2.0 ** rng.integers(-8, 9, n)).astype(np.float32)
    k = int32s(rng, n)
    out, out64 = np.zeros((7, n), np.float32), np.zeros(n, np.float64)
    launch(launcher, kernel("intrinsics.cu", "rounded", (n, 1, 1)), (1, 1, 1), out, out64, x, k, np.int32(n))
    fused = 0
    for i in range(n):
        a, b, c = (Fraction(float(x[j])) for j in (i, n - 1 - i, (i + 1) % n))
        integer = int(k[i])
        expected = [f32(a * b), f32(a + b), f32(f32(a * b) + c), f32(a * b + c)]
        expected += [f32(integer), f32(integer % 2**32), f32(a / b)]
        assert [Fraction(float(y)) for y in out[:, i]] == expected, i
        assert out64[i] == float(integer * a)
        fused += expected[2] != expected[3]
    assert fused > n // 10


# ---------------------------------------------------------------------------------------------- arguments and memory


def test_every_argument_type(launcher: HostLauncher) -> None:
    out = np.zeros(12)
    values: list[Any] = [
        np.int32(-7),
        np.uint32(2**32 - 1),
        np.int64(-(2**40)),
        np.float32(0.1),
        np.float64(0.1),
        np.int32(1),
    ]
    values += [np.int32(2), np.int32(3), np.int64(2**50), np.float32(-3), np.float64(1e300)]
    every = kernel("correct.cu", "every_type", (1, 1, 1))
    launch(launcher, every, (1, 1, 1), out, Pointer(None), *values)
    assert out.tolist() == [1.0, *(float(value) for value in values)]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((np.zeros(4, np.int32), 4), TypeError, "argument 1 must be a Pointer, np.int32, .* not int"),
        ((np.zeros(4, np.int32), np.int64(4)), HostCudaError, r"takes \(pi\), the launch has \(pl\)"),
        ((np.zeros(4, np.int32), np.float32(4)), HostCudaError, r"takes \(pi\), the launch has \(pf\)"),
        ((np.zeros(4, np.int32),), HostCudaError, r"takes \(pi\), the launch has \(p\)"),
        ((np.int32(4), np.int32(4)), HostCudaError, r"takes \(pi\), the launch has \(ii\)"),
        ((np.zeros(8, np.int32)[::2], np.int32(4)), ValueError, "argument 0 must be C-contiguous"),
        ((Pointer([1, 2]), np.int32(4)), TypeError, "must point into a NumPy array, not list"),
        ((Pointer(np.zeros(4, np.int32), 17), np.int32(4)), ValueError, "offset 17 must be 0 to 16"),
    ],
)
def test_wrong_arguments(launcher: HostLauncher, arguments: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        launch(launcher, kernel("correct.cu", "barriers", (4, 1, 1)), (1, 1, 1), *arguments)


@pytest.mark.parametrize(
    ("changes", "grid", "says"),
    [
        ({"threads": (1024, 2, 1)}, (1, 1, 1), "more than 1024 threads"),
        ({"threads": (1, 1, 65)}, (1, 1, 1), "block.z is 65, must be 1 to 64"),
        ({"threads": (0, 1, 1)}, (1, 1, 1), "block.x is 0"),
        ({}, (1, 65536, 1), "grid.y is 65536, must be 1 to 65535"),
        ({"dynamic_shared_bytes": 164 << 10}, (1, 1, 1), "167936 bytes of dynamic shared memory; sm_80 has 166912"),
        ({"min_arch": 90}, (1, 1, 1), "needs sm_90; this is sm_80"),
        ({"entry": "absent"}, (1, 1, 1), "there is no kernel absent under these macros"),
        ({"entry": "removed"}, (1, 1, 1), "there is no kernel removed under these macros"),
        ({"defines": (("BROKEN", 1),)}, (1, 1, 1), "does not compile for the host\n(.*\n)*.*small.cu:12:.*undeclared"),
    ],
)
def test_launch_that_a_driver_would_refuse(
    launcher: HostLauncher, changes: dict[str, Any], grid: tuple[int, int, int], says: str
) -> None:
    fields = {"name": "k", "source": "small.cu", "entry": "small", "defines": (), "threads": (1, 1, 1)}
    with pytest.raises(HostCudaError, match=says):
        launch(launcher, Kernel(**fields | changes), grid, np.zeros(1, np.int32), np.int32(1))


def test_pointers_share_memory_as_their_arrays_do(launcher: HostLauncher) -> None:
    arena = np.arange(48, dtype=np.int32)
    # The output lies over the upper half of the input; each store is seen by later loads, as on the device.
    reverse = kernel("faults.cu", "block_order", (1, 1, 1))
    arguments = (Pointer(arena[8:40]), Pointer(arena, 4 * 40), np.int32(8), np.int32(0))
    launcher.launch(Launch(reverse, (8, 1, 1), arguments))
    assert arena.tolist() == [*range(8), *range(47, 39, -1), *range(16, 48)]
    # One byte beyond the union of the arrays is one too many, even inside the arena.
    arguments = (Pointer(arena[0:8]), Pointer(arena[8:16]), np.int32(8), np.int32(0))
    with pytest.raises(HostCudaError, match="the address is 0 bytes after the 32 bytes of argument 1"):
        launcher.launch(Launch(reverse, (9, 1, 1), (*arguments[:2], np.int32(9), np.int32(0))))


def test_views_keep_their_alignment(launcher: HostLauncher) -> None:
    arena, out = np.arange(68, dtype=np.int32), np.zeros(N, np.int32)
    wide = kernel("faults.cu", "load_misaligned", (N // 4, 1, 1))
    launch(launcher, wide, (1, 1, 1), out, arena[4:], np.int32(N), np.int32(0))
    assert np.array_equal(out, arena[:3:-1])
    for view in (Pointer(arena[1:65]), Pointer(arena, 4), Pointer(arena[2:66], 4)):
        with pytest.raises(HostCudaError, match="requires 16 byte alignment"):
            launch(launcher, wide, (1, 1, 1), out, view, np.int32(N), np.int32(0))


def test_empty_array_has_no_bytes(launcher: HostLauncher) -> None:
    with pytest.raises(HostCudaError, match="0 bytes after the 0 bytes of argument 0"):
        launch(launcher, kernel("correct.cu", "barriers", (1, 1, 1)), (1, 1, 1), np.zeros(0, np.int32), np.int32(1))


# ------------------------------------------------------------------------------------------------------ compilation


def test_objects_depend_on_headers_and_macros(launchers: dict[int, HostLauncher], tmp_path: Path) -> None:
    shutil.copy(KERNELS / "two_tiles.cu", tmp_path)
    (tmp_path / "scale.cuh").write_text('#include "number.cuh"\n')
    header = tmp_path / "number.cuh"
    header.write_text("#define SCALE 3\n")

    def result(launcher: HostLauncher, tile: int) -> list[int]:
        out = np.zeros(tile, np.int32)
        sized = Kernel(f"two_tiles_{tile}", "two_tiles.cu", "two_tiles", (("TILE", tile),), (tile, 1, 1))
        launch(launcher, sized, (1, 1, 1), out)
        return list(out.tolist())

    with HostLauncher(tmp_path) as launcher:
        # Both objects are in one process, and each has its own `mirrored`.
        for tile in (4, 64, 4):
            assert result(launcher, tile) == [3 * (tile - 1 - i) for i in range(tile)]
    header.write_text("#define SCALE 5\n")
    with HostLauncher(tmp_path) as launcher:
        assert result(launcher, 4) == [15, 10, 5, 0]


def test_cache_forgets_what_nobody_uses(tmp_path: Path) -> None:
    for name, days in (("old", 31), ("new", 29)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, 2 * (time.time() - days * 86400,))
    runner._prune(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "COMPILER", "no-such-compiler")
    assert missing_tools() == "there is no no-such-compiler"
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="there is no no-such-compiler"):
        require_tools()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="there is no no-such-compiler"):
        require_tools()
