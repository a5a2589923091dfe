"""What a device does at most, measured on it: the rate of dp4a, and the bandwidth of a copy.

Not read from a data sheet: NVIDIA publishes no rate for dp4a, and clocks depend on power and cooling. Both kernels
(kernels_cuda/ceilings.cu) run for a few milliseconds, on random data.
"""

from __future__ import annotations

import statistics
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuq.cuda.kernel import Kernel, Launch, Pointer
from gpuq.cuda.launcher import Launcher
from gpuq.errors import DeviceOutOfMemory

THREADS = 256
# A block of 256 threads four times a multiprocessor fits on every architecture at once.
BLOCKS_PER_MULTIPROCESSOR = 4
CHAINS, DP4A_UNROLL, COPY_UNROLL = 8, 8, 4
# About 2 ms of one multiprocessor's 64 instructions a clock.
DP4A_ITERATIONS = 4096
# Of each buffer: ten times any L2 cache. Half as much, and so on, where memory is short.
COPY_BYTES, MIN_COPY_BYTES = 1 << 29, 1 << 24
COPIES, SAMPLES = 4, 7

DP4A = Kernel(
    "ceiling_rate_dp4a",
    "ceilings.cu",
    "dp4a_rate",
    (("THREADS", THREADS), ("CHAINS", CHAINS), ("UNROLL", DP4A_UNROLL)),
    (THREADS, 1, 1),
)
COPY = Kernel(
    "ceiling_copy_u128",
    "ceilings.cu",
    "copy_words",
    (("THREADS", THREADS), ("CHAINS", CHAINS), ("UNROLL", COPY_UNROLL)),
    (THREADS, 1, 1),
)
KERNELS = (DP4A, COPY)


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device.

    Attributes:
        dp4a_tops: 10^12 operations a second, two for each multiply-accumulate.
        copy_gbs: 10^9 bytes a second to and from the device's memory, read and written ones together.
    """

    dp4a_tops: float
    copy_gbs: float

    def seconds(self, macs: int, nbytes: int) -> float:
        """The least time of so many multiply-accumulates and bytes moved: the slower of both."""
        return max(2e-12 * macs / self.dp4a_tops, 1e-9 * nbytes / self.copy_gbs)


_measured: weakref.WeakKeyDictionary[Launcher, Ceilings] = weakref.WeakKeyDictionary()


def ceilings(launcher: Launcher) -> Ceilings:
    """The device's ceilings, measured once in a process; takes some tenths of a second and, for that long, 1 GiB.

    Raises:
        DeviceOutOfMemory: there are not even 32 MiB.
    """
    found = _measured.get(launcher)
    if found is None:
        launcher.prepare(KERNELS)
        found = _measured[launcher] = Ceilings(dp4a_tops=_dp4a_tops(launcher), copy_gbs=_copy_gbs(launcher))
    return found


def dp4a_launch(operands: Pointer, sums: Pointer, blocks: int, iterations: int) -> Launch:
    """See ceilings.cu."""
    return Launch(DP4A, (blocks, 1, 1), (operands, sums, np.int32(iterations)))


def copy_launch(source: Pointer, target: Pointer, size: int) -> Launch:
    """Copies this many bytes, a multiple of 16."""
    words = size // 16
    return Launch(COPY, (-(-words // (THREADS * COPY_UNROLL)), 1, 1), (source, target, np.int64(words)))


def _dp4a_tops(launcher: Launcher) -> float:
    blocks = BLOCKS_PER_MULTIPROCESSOR * launcher.traits.multiprocessors
    operands = np.random.default_rng(0).integers(0, 256, 32 * THREADS, np.uint8)
    there, sums = launcher.empty(operands.nbytes), launcher.empty(4 * THREADS * blocks)
    launcher.write(there, operands)
    launch = dp4a_launch(Pointer(there), Pointer(sums), blocks, DP4A_ITERATIONS)
    instructions = blocks * THREADS * DP4A_ITERATIONS * DP4A_UNROLL * CHAINS
    # Four multiplications and four additions each.
    return 8e-12 * instructions / _seconds(launcher, [launch])


def _copy_gbs(launcher: Launcher) -> float:
    size = COPY_BYTES
    while True:
        try:
            source, target = launcher.empty(size), launcher.empty(size)
            break
        except DeviceOutOfMemory:
            if size <= MIN_COPY_BYTES:
                raise
            size //= 2
    random = np.random.default_rng(0).integers(0, 256, min(size, 1 << 22), np.uint8)
    launcher.write(source[: random.size], random)
    done = random.size
    while done < size:
        more = min(done, size - done)
        launcher.write(source[done : done + more], source[:more])
        done += more
    launch = copy_launch(Pointer(source), Pointer(target), size)
    return 2e-9 * size * COPIES / _seconds(launcher, [launch] * COPIES)


def _seconds(launcher: Launcher, launches: Sequence[Launch]) -> float:
    """Of all launches together, the median; the first run, in which clocks rise, does not count."""
    replay = launcher.record(launches)
    replay()
    samples = []
    for _ in range(SAMPLES):
        start = launcher.clock()
        replay()
        samples.append(launcher.seconds(start, launcher.clock()))
    return statistics.median(samples)
