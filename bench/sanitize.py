"""Every kernel that a small layer can choose, under compute-sanitizer: memory, races, uninitialised reads, barriers.

    python -m bench.sanitize [--tools memcheck racecheck initcheck synccheck] [--budget SECONDS] [--output FILE]
    python -m bench.sanitize --child [--budget SECONDS]     # the layers alone, without the sanitizer

Each array has an allocation of its own (CuPy's pool is off), so that one byte beyond it is an error. The layers'
outputs are compared with reference() too. A tool that is missing, or that refuses the GPU, is recorded as unavailable.

Exit status: 0; 1 if a tool found an error or an output was wrong; 2 without a GPU (only with --child).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_conv2d import kernels_of
from bench.bench_models import write_json
from bench.gpu import CupyGpu, machine
from bench.layers import CONV, DEPTHWISE, Layer, dense
from gpuq.cuda import compile as compiling
from gpuq.cuda import probe
from gpuq.cuda.kernel import Kernel
from gpuq.cuda.layer import Traits
from gpuq.cuda.plans import CudaPlan, layer_of
from gpuq.errors import GpuqError
from gpuq.ops import conv2d, depthwise_conv2d, fully_connected

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
ERROR_STATUS = 86
WRONG_STATUS = 1
RUNS = 2
# Where NVIDIA's packages put it, beside the PATH.
FOLDERS = ("/usr/local/cuda/bin", "/opt/cuda/bin", "/usr/local/cuda/compute-sanitizer")

SMALL: tuple[tuple[Layer, str], ...] = (
    (Layer(CONV, 9, 7, 16, 36, 3, 3), "int8"),
    (Layer(CONV, 7, 9, 32, 40, 1, 1), "int8"),
    (Layer(CONV, 8, 8, 5, 7, 3, 3, 2), "uint8"),
    (Layer(CONV, 9, 9, 24, 20, 3, 3, 1, 2, 2), "int8"),
    (Layer(CONV, 5, 5, 272, 24, 1, 1), "int8"),
    (Layer(CONV, 17, 15, 3, 16, 3, 3, 2), "int8"),
    (Layer(CONV, 19, 18, 3, 20, 7, 7, 2), "uint8"),
    (Layer(CONV, 16, 10, 1, 24, 10, 4, 2), "int8"),
    (Layer(DEPTHWISE, 9, 11, 32, 32, 3, 3), "int8"),
    (Layer(DEPTHWISE, 9, 11, 20, 20, 3, 3, 2), "uint8"),
    (Layer(DEPTHWISE, 9, 8, 7, 7, 5, 5), "int8"),
    (Layer(DEPTHWISE, 10, 9, 24, 24, 5, 5, 2), "int8"),
    (dense(70, 12), "int8"),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--budget", type=float, default=120, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "bench" / "results" / "sanitize.json")
    parser.add_argument("--child", action="store_true", help="run the layers; no sanitizer")
    arguments = parser.parse_args(argv)
    deadline = time.monotonic() + arguments.budget
    if arguments.child:
        return child(deadline)
    precompile()
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(arguments.tools):
        # What earlier tools left over is shared by those that are left.
        share = (deadline - time.monotonic()) / (len(arguments.tools) - number)
        row = run_tool(name, share)
        rows.append(row)
        print(f"{name:<10} {row['verdict']}", flush=True)
        write_json(arguments.output, {"machine": machine(), "results": rows})
    return int(any(row["failed"] for row in rows))


def precompile() -> None:
    """Fills the disk cache with what the layers launch, in threads: under a sanitizer nothing should compile."""
    found = probe()
    if found.problem or find_sanitizer() is None:
        return
    major, minor = found.gpus[0].compute_capability
    # How many multiprocessors there are decides the order of choices, not which there are.
    kernels: dict[Kernel, None] = {}
    try:
        for layer, _, packed, choice in cases(Traits(10 * major + minor, 132)):
            kernels |= dict.fromkeys(kernels_of(layer, packed, RUNS, choice))
        compiling.compile_many(list(kernels), compiling.device_arch(10 * major + minor))
    except Exception as error:  # the layers compile what is missing themselves, or show what is wrong with it
        print(f"not compiled beforehand: {error}", flush=True)


def find_sanitizer() -> str | None:
    """The path of compute-sanitizer."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return shutil.which("compute-sanitizer", path=os.pathsep.join([*folders, *FOLDERS]))


def run_tool(name: str, seconds: float) -> dict[str, Any]:
    """One tool over the layers.

    Returns:
        {"tool", "verdict", "failed", "errors", "layers", "log"}; errors is None where the tool did not get to run.
    """
    row: dict[str, Any] = {"tool": name, "errors": None, "layers": 0, "failed": False, "log": ""}
    program = find_sanitizer()
    if program is None:
        return row | {"verdict": "unavailable: there is no compute-sanitizer"}
    if seconds < 5:
        return row | {"verdict": "unavailable: no time left"}
    # The layers stop by themselves, so that the tool can still report.
    command = [program, "--tool", name, "--error-exitcode", str(ERROR_STATUS), "--print-limit", "20"]
    command += [sys.executable, "-m", "bench.sanitize", "--child", "--budget", str(max(3.0, 0.6 * seconds))]
    late = False
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
        status, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        parts = [
            part.decode(errors="replace") if isinstance(part, bytes) else part or ""
            for part in (error.stdout, error.stderr)
        ]
        status, output, late = -1, "".join(parts), True
    except OSError as error:
        return row | {"verdict": f"unavailable: {error}"}
    return row | judged(status, output, late)


def judged(status: int, output: str, late: bool = False) -> dict[str, Any]:
    """What a tool's exit status and output say."""
    summaries = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", output)
    errors = sum(int(first or second) for first, second in summaries) if summaries else None
    layers = len(re.findall(r"^ok ", output, re.MULTILINE))
    wrong = re.findall(r"^wrong .*", output, re.MULTILINE)
    interesting = [line for line in output.splitlines() if not line.startswith("ok ")]
    found = {"errors": errors, "layers": layers, "log": "\n".join(interesting)[-6000:], "failed": False}
    if wrong:
        return found | {"verdict": f"{len(wrong)} outputs wrong: {wrong[0]}", "failed": True}
    if errors or status == ERROR_STATUS:
        return found | {"verdict": f"{errors} errors in {layers} runs", "failed": True}
    if late:
        return found | {"verdict": f"no error seen, cut short after {layers} runs"}
    if status == 0 and layers:
        return found | {"verdict": f"no error in {layers} runs"}
    last = next((line for line in reversed(interesting) if line.strip()), f"exit status {status}")
    return found | {"verdict": f"unavailable: {last.strip()[:200]}"}


def cases(traits: Any) -> Iterator[tuple[Layer, str, Any, Any]]:
    """(layer, dtype, packed, choice): every choice of every small layer, the layers' first choices first."""
    packed = []
    for layer, dtype in SMALL:
        try:
            packed.append(
                (layer, dtype, layer_of(layer.spec(dtype), layer.rule(dtype), [None, *layer.constants(dtype)]))
            )
        except GpuqError as error:
            print(f"left out {layer.name} {dtype}: {error}", flush=True)
    found = [list(each.choices(RUNS, traits)) for _, _, each in packed]
    for rank in range(max(map(len, found), default=0)):
        for (layer, dtype, each), choices in zip(packed, found, strict=True):
            if rank < len(choices):
                yield layer, dtype, each, choices[rank]


def child(deadline: float) -> int:
    """Runs and checks the layers in this process."""
    try:
        gpu = CupyGpu()
    except GpuqError as error:
        print(f"sanitize: {error}", file=sys.stderr)
        return 2
    import cupy

    cupy.cuda.set_allocator(None)
    return check_all(gpu, gpu.launcher.traits, deadline)


def check_all(gpu: Any, traits: Any, deadline: float) -> int:
    """Prints "ok" or "wrong" for each case until the deadline."""
    status = 0
    for layer, dtype, packed, choice in cases(traits):
        if time.monotonic() > deadline:
            break
        weights, bias = layer.constants(dtype)
        images = layer.images(RUNS, dtype)
        spec, rule = layer.spec(dtype), layer.rule(dtype)
        module = {"CONV_2D": conv2d, "DEPTHWISE_CONV_2D": depthwise_conv2d, "FULLY_CONNECTED": fully_connected}[spec.op]
        want = module.reference(spec, rule, images, weights, bias)  # type: ignore[attr-defined]
        plan = CudaPlan(packed, gpu.launcher, choice)
        x, wanted = gpu.upload(images), gpu.upload(want)
        # Neither is written beforehand: a byte that is read before it is written is what initcheck looks for.
        y, workspace = gpu.empty(want.nbytes), gpu.empty(max(4, plan.workspace_bytes(RUNS)))
        plan.launch([x], [y], workspace, getattr(gpu, "stream", None))
        gpu.synchronize()
        different = gpu.differences(y, wanted, np.arange(RUNS, dtype=np.int32))
        if different:
            status = WRONG_STATUS
        print(f"{'wrong' if different else 'ok'} {layer.name} {dtype} {choice.name}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
