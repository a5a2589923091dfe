"""How long a network's first call compiles: kernels of each batch, with an empty cache and with a full one.

    python bench/bench_compile.py MODEL.tflite [...] [--arch 90] [--batch 1 256]

Needs NVRTC and no GPU. Prints a table, and with --output writes JSON, whole, by atomic replace.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_models import machine, write_json
from gpuq.cuda.compile import ARCHS, compile_many
from gpuq.cuda.kernel import Kernel, Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.plans import CudaPlan
from gpuq.devices import Device
from gpuq.model.planner import Operand, Program, plan_program
from gpuq.model.tflite_reader import read


class Planning:
    """As much of a launcher as planning takes: choices are those of an H200's multiprocessors."""

    def __init__(self, arch: int) -> None:
        self.traits = Traits(arch, 132)

    def upload(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Pointer]:
        return {name: Pointer(array) for name, array in arrays.items()}


def kernels_of(program: Program, runs: int) -> list[Kernel]:
    """Every kernel that a batch of this size launches, once."""

    def layout(operand: Operand, shape: tuple[int, int, int]) -> ImageLayout:
        return operand.inside.layout(runs, shape) if operand.inside else ImageLayout.contiguous(runs, *shape)

    found: dict[Kernel, None] = {}
    for step in program.steps:
        assert isinstance(step.plan, CudaPlan)
        layer = step.plan.layer
        inputs = [layout(operand, shape) for operand, shape in zip(step.inputs, layer.x_shapes, strict=True)]
        for launch in layer.launches(step.plan.choice(runs), inputs, layout(step.outputs[0], layer.y_shape)):
            found[launch.kernel] = None
    return list(found)


def measure(path: Path, arch: int, runs: int) -> dict[str, Any]:
    """One row."""
    planner: Any = Planning(arch)
    program = plan_program(read(path.read_bytes()), Device("cuda"), "litert_ref", planner)
    kernels = kernels_of(program, runs)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPUQ_CACHE_DIR"] = folder
        for _ in ("empty", "full"):
            start = time.perf_counter()
            compile_many(kernels, arch)
            seconds.append(time.perf_counter() - start)
    return {
        "model": path.stem,
        "batch": runs,
        "arch": arch,
        "steps": len(program.steps),
        "kernels": len(kernels),
        "cold_s": seconds[0],
        "cached_s": seconds[1],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--arch", type=int, default=90, choices=ARCHS)
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 256))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = [measure(path, arguments.arch, runs) for path in arguments.models for runs in arguments.batch]
    print(f"{'model':<32} {'batch':>5} {'kernels':>7} {'cold':>9} {'cached':>9}")
    for row in rows:
        head = f"{row['model']:<32} {row['batch']:>5} {row['kernels']:>7}"
        print(f"{head} {row['cold_s']:>7.2f} s {row['cached_s']:>7.3f} s")
    if arguments.output:
        write_json(arguments.output, {"machine": machine(), "results": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
