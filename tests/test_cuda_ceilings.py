"""gpuq.cuda.ceilings: the kernels do what is counted, and rates follow from times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gpuq.cuda import ceilings, unavailable
from gpuq.cuda.ceilings import CHAINS, DP4A_UNROLL, THREADS, Ceilings, copy_launch, dp4a_launch
from gpuq.cuda.kernel import Launch, Pointer
from gpuq.cuda.launch import launcher as cupy_launcher
from gpuq.errors import DeviceOutOfMemory

from .compare import assert_equal_bits
from .host_cuda.runner import HostLauncher, require_tools


@pytest.fixture(scope="module")
def launcher() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher(seeds=(1,)) as started:
        yield started


def test_every_dp4a_is_done(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    operands = rng.integers(-128, 128, (THREADS, 8, 4)).astype(np.int8)
    blocks, iterations = 2, 3
    sums = np.zeros((blocks, THREADS), np.int32)
    launcher.launch(dp4a_launch(Pointer(operands), Pointer(sums), blocks, iterations))
    wide = operands.astype(np.int64)
    total = np.full(THREADS, sum(range(CHAINS)), np.int64)
    for u in range(DP4A_UNROLL):
        for c in range(CHAINS):
            total += iterations * (wide[:, c % 4] * wide[:, 4 + (c // 4 + u) % 4]).sum(axis=1)
    assert_equal_bits(sums, np.broadcast_to(total.astype(np.int32), sums.shape), f"seed {seed}")


@pytest.mark.parametrize("words", [1, 1023, 1024, 2500])
def test_every_word_is_copied_and_none_beside(launcher: HostLauncher, words: int, seed: int) -> None:
    source = np.random.default_rng(seed).integers(0, 256, 16 * words, np.uint8)
    target = np.zeros(16 * words + 64, np.uint8)
    launcher.launch(copy_launch(Pointer(source), Pointer(target), source.nbytes))
    assert_equal_bits(target[: source.nbytes], source, f"{words} words, seed {seed}")
    assert not target[source.nbytes :].any()


class Counted(HostLauncher):
    """Counts instead of launching: every launch takes a millisecond."""

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.memory, self.now = memory, 0.0
        self.launches: list[Launch] = []

    def empty(self, size: int, stream: object = None) -> np.ndarray:
        if size > self.memory:
            raise DeviceOutOfMemory(f"{size} bytes")
        return super().empty(size)

    def prepare(self, kernels: object) -> None: ...

    def launch(self, launch: Launch, stream: object = None, *, seeds: object = None) -> None:
        self.launches.append(launch)
        self.now += 1e-3

    def clock(self, stream: object = None) -> float:
        return self.now


def test_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "MIN_COPY_BYTES", 1 << 20)
    launcher = Counted(memory=5 << 20)
    found = ceilings.ceilings(launcher)
    # 16 blocks of 256 threads, 4096 times 64 dp4a of 8 operations, in a millisecond.
    assert found.dp4a_tops == pytest.approx(16 * 256 * 4096 * 64 * 8 / 1e-3 / 1e12)
    # 512 MiB halved until it fits into 5 MiB; read and written.
    assert found.copy_gbs == pytest.approx(2 * (1 << 22) / 1e-3 / 1e9)
    (source, _, words) = next(each.arguments for each in launcher.launches if each.kernel is ceilings.COPY)
    assert words == 1 << 18
    assert isinstance(source, Pointer)
    assert np.bincount(source.array, minlength=256).min() > 15_000, "random bytes to the end"
    launched = len(launcher.launches)
    assert ceilings.ceilings(launcher) is found
    assert len(launcher.launches) == launched, "measured once in a process"
    with pytest.raises(DeviceOutOfMemory):
        ceilings.ceilings(Counted(memory=1 << 19))


def test_bounds() -> None:
    found = Ceilings(dp4a_tops=100.0, copy_gbs=4000.0)
    assert found.seconds(macs=50_000_000_000, nbytes=1) == pytest.approx(1e-3)
    assert found.seconds(macs=1, nbytes=8_000_000_000) == pytest.approx(2e-3)
    assert found.seconds(macs=0, nbytes=0) == 0


@pytest.mark.skipif(unavailable(0) is not None, reason="no GPU")
@pytest.mark.gpu
def test_a_gpus_ceilings() -> None:
    """Of an order that any GPU since 2018 has, and the same again."""
    one = ceilings.ceilings(cupy_launcher(0))
    assert 1 < one.dp4a_tops < 2000
    assert 50 < one.copy_gbs < 20_000
    ceilings._measured.clear()
    again = ceilings.ceilings(cupy_launcher(0))
    assert again.dp4a_tops == pytest.approx(one.dp4a_tops, rel=0.25)
    assert again.copy_gbs == pytest.approx(one.copy_gbs, rel=0.25)
