"""What a GPU can do at most: integer instructions, shared memory, L2 cache, device memory, launches.

    python -m bench.microbench [--output FILE] [--device 0] [--budget SECONDS] [--list]

The ceilings that benches divide by are gpuq's own, as `gpuq profile` measures them (gpuq/cuda/ceilings.py). The rest is
in bench/kernels/; the tests count the instructions in their loops' machine code. Operands are random.

| figure                   | how                                                                                 |
|--------------------------|-------------------------------------------------------------------------------------|
| dp4a, copy: the ceilings | gpuq.cuda.ceilings                                                                  |
| per clock and SM         | one block of 1024 threads a multiprocessor, by the clocks that each block counts    |
| TOPS, per second         | the same kernel on the whole GPU for milliseconds, by events                        |
| device memory, GB/s      | of buffers far larger than the L2 cache; memcpy: bytes read plus bytes written      |
| L2 cache, GB/s           | a quarter of it read again and again past the L1 cache                              |
| launches, microseconds   | empty kernels in a CUDA graph; a small layer launched from Python, one by one       |

JSON with machine and versions, written whole after each figure.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_models import write_json
from bench.gpu import NOTHING, READ, THREADS, CupyGpu, kernel, machine, quantiles
from bench.layers import conv
from gpuq.cuda import ceilings as device_ceilings
from gpuq.cuda.kernel import Kernel
from gpuq.cuda.plans import CudaPlan, layer_of
from gpuq.errors import GpuqError

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK = 1024
LOOP_STEPS = 64
SHARED_UNROLL = 8
GIB = 1 << 30


@dataclass(frozen=True)
class Alu:
    """One instruction.

    Attributes:
        number: OP_... in kernels/alu.cu.
        opcode: how SASS names it.
        operations: multiplications and additions that one thread does with it.
    """

    name: str
    number: int
    opcode: str
    operations: int

    def kernel(self, chains: int) -> Kernel:
        return kernel(
            "alu.cu",
            "alu",
            f"alu_{self.name}_{chains}",
            BLOCK,
            OPERATION=self.number,
            CHAINS=chains,
            UNROLL=LOOP_STEPS // chains,
        )


ALUS = (
    Alu("dp4a", 0, "IDP.4A", 8),
    Alu("pack", 1, "I2IP", 0),
    Alu("mad_wide", 2, "IMAD.WIDE", 2),
    Alu("mad", 3, "IMAD", 2),
    Alu("prmt", 4, "PRMT", 0),
    Alu("dp2a", 5, "IDP.2A", 4),
)
CHAINS = {"dp4a": (8, 16, 4, 2, 1)}
SHARERS = (1, 4, 8)


def shared_kernel(sharers: int) -> Kernel:
    """16-byte loads; this many neighbouring lanes read the same address."""
    return kernel(
        "shared.cu",
        "shared_loads",
        f"shared_loads_{sharers}",
        BLOCK,
        SHARERS=sharers,
        UNROLL=SHARED_UNROLL,
        THREADS=BLOCK,
    )


def kernels() -> list[Kernel]:
    """Everything that a run compiles."""
    alus = [alu.kernel(chains) for alu in ALUS for chains in CHAINS.get(alu.name, (8,))]
    return [*alus, *map(shared_kernel, SHARERS), READ, NOTHING]


class Bench:
    """The figures of one GPU."""

    def __init__(self, gpu: CupyGpu) -> None:
        self.gpu = gpu
        self.multiprocessors = gpu.launcher.traits.multiprocessors

    def figures(self) -> Iterator[dict[str, Any]]:
        """Rows in order of their worth; each is measured when it is asked for."""
        yield self.ceilings()
        yield self.alu(ALUS[0], 8)
        yield self.memcpy()
        yield self.read()
        yield self.l2()
        yield self.launch_in_graph()
        yield self.launch_from_python()
        for alu in ALUS[1:]:
            yield self.alu(alu, 8)
        for sharers in SHARERS:
            yield self.shared(sharers)
        for chains in CHAINS["dp4a"][1:]:
            yield self.alu(ALUS[0], chains)
        yield self.write()

    def _clocked(self, which: Kernel, steps: int, iterations: int) -> dict[str, Any]:
        """Rates of a kernel that counts its own clocks; `steps` instructions of a thread an iteration."""
        gpu, blocks = self.gpu, 2 * self.multiprocessors
        out, clocks = gpu.empty(4 * BLOCK * blocks), gpu.empty(8 * blocks)

        def run(blocks: int, iterations: int) -> None:
            gpu.run(which, (blocks, 1, 1), out, clocks, np.int32(iterations), np.int32(7))

        run(self.multiprocessors, 64)
        run(self.multiprocessors, iterations)
        counted = gpu.host(clocks).view(np.int64)[: self.multiprocessors]
        per_clock = BLOCK * steps * iterations / float(np.median(counted))
        # Two full blocks a multiprocessor, long enough that clocks settle and the launch does not count.
        run(blocks, 8 * iterations)
        samples = [gpu.elapsed(lambda: run(blocks, 8 * iterations)) for _ in range(7)]
        times = quantiles(samples)
        total = BLOCK * blocks * steps * 8 * iterations
        return {
            "per_clock_sm": per_clock,
            "per_s": total / times["median_s"],
            # Where one block a multiprocessor is enough for the full rate; elsewhere two of them do more a clock.
            "mhz": total / times["median_s"] / per_clock / self.multiprocessors / 1e6,
            **times,
        }

    def alu(self, alu: Alu, chains: int) -> dict[str, Any]:
        found = self._clocked(alu.kernel(chains), LOOP_STEPS, 2048)
        row: dict[str, Any] = {"figure": alu.name, "chains": chains, "opcode": alu.opcode, **found}
        if chains < 8:
            del row["mhz"]
        if alu.operations:
            row["tops"] = found["per_s"] * alu.operations / 1e12
        return row

    def shared(self, sharers: int) -> dict[str, Any]:
        found = self._clocked(shared_kernel(sharers), SHARED_UNROLL, 2048)
        # Instructions of a warp, and what all its lanes get; lanes that share an address get the same bytes.
        return {
            "figure": "shared_loads",
            "sharers": sharers,
            "opcode": "LDS.128",
            "warp_loads_per_clock_sm": found["per_clock_sm"] / 32,
            "distinct_bytes_per_clock_sm": found["per_clock_sm"] * 16 / sharers,
            **found,
        }

    def _buffer_bytes(self) -> int:
        whole = 16 * THREADS * 4 * 1056
        return max(1, min(2 * GIB, self.gpu.memory_bytes // 8) // whole) * whole

    def ceilings(self) -> dict[str, Any]:
        found = device_ceilings.ceilings(self.gpu.launcher)
        return {"figure": "ceilings", "tops": found.dp4a_tops, "gbs": found.copy_gbs}

    def memcpy(self) -> dict[str, Any]:
        gpu, size = self.gpu, self._buffer_bytes()
        source, target = gpu.random(size), gpu.empty(size)

        def run() -> None:
            target.data.copy_from_device_async(source.data, size, gpu.stream)

        run()
        times = quantiles([gpu.elapsed(run) for _ in range(15)])
        return {"figure": "memcpy", "bytes": 2 * size, "gbs": 2 * size / times["median_s"] / 1e9, **times}

    def _read(self, figure: str, size: int, passes: int, blocks: int) -> dict[str, Any]:
        gpu, words = self.gpu, size // 16
        source, out = gpu.random(size), gpu.empty(4 * blocks * THREADS)

        def run() -> None:
            gpu.run(READ, (blocks, 1, 1), source, out, np.int64(words), np.int32(passes))

        run()
        times = quantiles([gpu.elapsed(run) for _ in range(15)])
        total = size * passes
        return {"figure": figure, "bytes": total, "gbs": total / times["median_s"] / 1e9, **times}

    def read(self) -> dict[str, Any]:
        return self._read("read", self._buffer_bytes(), 1, 1056)

    def l2(self) -> dict[str, Any]:
        blocks = 8 * self.multiprocessors
        step = blocks * THREADS * 4 * 16
        return self._read("l2_read", max(1, self.gpu.l2_bytes // 4 // step) * step, 64, blocks)

    def write(self) -> dict[str, Any]:
        gpu, size = self.gpu, self._buffer_bytes()
        target = gpu.empty(size)
        gpu.poison(target, 0x5A)
        times = quantiles([gpu.elapsed(lambda: gpu.poison(target, 0x5A)) for _ in range(15)])
        return {"figure": "memset", "bytes": size, "gbs": size / times["median_s"] / 1e9, **times}

    def launch_in_graph(self) -> dict[str, Any]:
        count = 500
        times = quantiles(self.gpu.seconds(lambda _: self.gpu.run(NOTHING, (1, 1, 1)), count, 21))
        return {"figure": "launch_in_graph", "microseconds": times["median_s"] * 1e6, "launches": count, **times}

    def launch_from_python(self) -> dict[str, Any]:
        """One small layer launched as the executor does it, checks of arguments included, one after the other."""
        gpu = self.gpu
        layer = conv(7, 64, 64, 1)
        spec = layer.spec()
        plan = CudaPlan(layer_of(spec, layer.rule(), [None, *layer.constants()]), gpu.launcher)
        x, y = gpu.upload(layer.images(1)), gpu.empty(int(np.prod(layer.y_shape)))
        workspace = gpu.empty(max(1, plan.workspace_bytes(1)))
        plan.launch([x], [y], workspace, gpu.stream)
        count, samples = 500, []
        for _ in range(7):
            gpu.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                plan.launch([x], [y], workspace, gpu.stream)
            gpu.synchronize()
            samples.append((time.perf_counter() - start) / count)
        times = quantiles(samples)
        return {"figure": "launch_from_python", "microseconds": times["median_s"] * 1e6, "launches": count, **times}


def ceilings(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """What layers are compared with: TOPS of dp4a, GB/s of a copy and of the L2 cache."""

    def figure(name: str, key: str) -> float | None:
        return next((row[key] for row in rows if row.get("figure") == name and key in row), None)

    return {
        "dp4a_tops": figure("ceilings", "tops"),
        "hbm_gbs": figure("ceilings", "gbs"),
        "l2_gbs": figure("l2_read", "gbs"),
        "launch_us": figure("launch_in_graph", "microseconds"),
    }


def row_text(row: dict[str, Any]) -> str:
    name = row["figure"] + "".join(f" {key} {row[key]}" for key in ("chains", "sharers") if key in row)
    if "error" in row:
        return f"{name:<24} {row['error']}"
    parts = []
    for key, unit in (
        ("tops", "TOPS"),
        ("gbs", "GB/s"),
        ("per_clock_sm", "/clk/SM"),
        ("warp_loads_per_clock_sm", "warp loads/clk/SM"),
        ("distinct_bytes_per_clock_sm", "distinct B/clk/SM"),
        ("microseconds", "us"),
        ("mhz", "MHz"),
    ):
        if key in row:
            parts.append(f"{row[key]:,.2f} {unit}")
    return f"{name:<24} {'  '.join(parts)}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "bench" / "results" / "microbench.json")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--budget", type=float, default=60, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--list", action="store_true", help="print the kernels and end; needs no GPU")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(each.name for each in kernels()))
        return 0
    start = time.monotonic()
    try:
        gpu = CupyGpu(arguments.device)
    except GpuqError as error:
        print(f"microbench: {error}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    about = machine(gpu)
    status = 0
    figures = Bench(gpu).figures()
    while time.monotonic() - start < arguments.budget:
        try:
            row = next(figures, None)
        except Exception as error:  # what comes after a failed figure is lost, what came before is kept
            row, status = {"figure": "failed", "error": f"{type(error).__name__}: {error}"}, 1
        if row is None:
            break
        rows.append(row)
        print(row_text(row), flush=True)
        write_json(arguments.output, {"machine": about, "ceilings": ceilings(rows), "results": rows})
        if status:
            break
    if rows:
        clocks = [row["mhz"] for row in rows if "mhz" in row]
        print(f"clock {statistics.median(clocks):,.0f} MHz; wrote {arguments.output}" if clocks else "")
    return status


if __name__ == "__main__":
    sys.exit(main())
