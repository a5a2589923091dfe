"""Whole networks: images per second and peak memory, gpuq beside LiteRT's three resolvers in one run.

    python bench/bench_models.py [--device cpu|cuda] [--models GLOB] [--batch 1 8] [--threads 1 2] [--seconds 2]

Every figure comes from a process of its own, so that peak memory and thread settings are its own too; the processes
of one model, batch and thread count follow each other, so that a ratio compares neighbours in time. Inputs are
random codes. LiteRT runs the batch as one tensor where the model can be resized, else sample by sample, whichever
is faster. gpuq's CPU path uses one thread whatever the setting. On a GPU, gpuq takes the batch from the host's memory
("host") or has it on the GPU ("device"), whichever is faster, and every call waits for its result. Prints a table of
ratios and writes JSON with machine and versions, whole, by atomic replace.

Models come from the folder GPUQ_MATERIAL (default: `shared` beside the checkout).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESOLVERS = {
    "litert_ref": "BUILTIN_REF",
    "litert_opt": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "litert_xnnpack": "BUILTIN",
}
RUNTIMES = ("gpuq", *RESOLVERS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--models", default="*", help="glob on the file's stem, for example 'mobilenet_v2*'")
    parser.add_argument("--batch", type=int, nargs="+", default=None, help="default 1 8; on a GPU 1 32 256")
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="of LiteRT; default 1 2; on a GPU 1")
    parser.add_argument("--seconds", type=float, default=2.0, help="at least this long per figure")
    parser.add_argument("--output", type=Path, default=None, help="JSON file; default bench/results/models_DEVICE.json")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return 0
    on_gpu = arguments.device == "cuda"
    batches = arguments.batch or ((1, 32, 256) if on_gpu else (1, 8))
    paths = find_models(arguments.models)
    results = []
    for path in paths:
        for batch in batches:
            for threads in arguments.threads or ((1,) if on_gpu else (1, 2)):
                row = {"model": path.stem, "batch": batch, "threads": threads}
                for runtime in RUNTIMES:
                    row[runtime] = run_child(runtime, arguments.device, path, batch, threads, arguments.seconds)
                print(row_text(row), flush=True)
                results.append(row)
    report = {"machine": machine(), "seconds": arguments.seconds, "results": results}
    target = arguments.output or REPOSITORY / "bench" / "results" / f"models_{arguments.device}.json"
    write_json(target, report)
    print(f"wrote {target}")
    return 0


def find_models(pattern: str) -> list[Path]:
    """Integer models of the material folder."""
    material = Path(os.environ.get("GPUQ_MATERIAL", REPOSITORY.parent / "shared"))
    paths = sorted(path for path in material.glob("models/*/*int8.tflite") if path.match(f"{pattern}.tflite"))
    if not paths:
        sys.exit(f"no models {pattern!r} under {material}/models; set GPUQ_MATERIAL")
    return paths


def run_child(runtime: str, device: str, path: Path, batch: int, threads: int, seconds: float) -> dict[str, Any]:
    """Measures in a fresh process; a runtime that refuses the model gives {"error": its words}."""
    task = {"runtime": runtime, "device": device, "path": str(path), "batch": batch, "threads": threads}
    task["seconds"] = seconds
    environment = os.environ | {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(runtime: str, device: str, path: str, batch: int, threads: int, seconds: float) -> dict[str, Any]:
    """Times one runtime in this process."""
    before = peak_bytes()
    if runtime == "gpuq":
        candidates = prepare_gpuq(device, path, batch)
    else:
        candidates = prepare_litert(runtime, path, batch, threads)
    best: dict[str, Any] = {}
    for mode, call in candidates.items():
        timed = timings(call, seconds)
        if not best or timed["median_s"] < best["median_s"]:
            best = {"mode": mode, **timed}
    best["images_per_s"] = batch / best["median_s"]
    best["peak_bytes"] = peak_bytes()
    best["peak_bytes_of_imports"] = before
    return best


def prepare_gpuq(device: str, path: str, batch: int) -> dict[str, Callable[[], Any]]:
    import numpy as np

    import gpuq

    model = gpuq.load(path, device=device)
    inputs = [
        random_codes(np.random.default_rng(0), (batch * detail["shape"][0], *detail["shape"][1:]), detail["dtype"])
        for detail in model.get_input_details()
    ]
    if device == "cpu":
        return {"batch": lambda: model(*inputs)}
    import cupy

    on_gpu = []
    for value in inputs:
        there = cupy.empty(value.shape, value.dtype)
        there.set(value)
        on_gpu.append(there)

    def call() -> None:
        model(*on_gpu)
        cupy.cuda.get_current_stream().synchronize()

    return {"host": lambda: model(*inputs), "device": call}


def prepare_litert(runtime: str, path: str, batch: int, threads: int) -> dict[str, Callable[[], Any]]:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    def interpreter() -> Any:
        return Interpreter(
            model_path=path,
            num_threads=threads,
            experimental_op_resolver_type=getattr(OpResolverType, RESOLVERS[runtime]),
        )

    def invoke(runner: Any, samples: list[list[Any]]) -> Callable[[], Any]:
        details, outputs = runner.get_input_details(), runner.get_output_details()

        def call() -> None:
            for sample in samples:
                for detail, value in zip(details, sample, strict=True):
                    runner.set_tensor(detail["index"], value)
                runner.invoke()
                for detail in outputs:
                    runner.get_tensor(detail["index"])

        return call

    single = interpreter()
    single.allocate_tensors()
    rng = np.random.default_rng(0)
    samples = [
        [random_codes(rng, tuple(detail["shape"]), detail["dtype"]) for detail in single.get_input_details()]
        for _ in range(batch)
    ]
    candidates = {"samples": invoke(single, samples)}
    if batch > 1:
        resized = interpreter()
        # A RESHAPE with a constant shape, for one, refuses another batch.
        with contextlib.suppress(RuntimeError, ValueError):
            for detail in resized.get_input_details():
                resized.resize_tensor_input(detail["index"], [batch * detail["shape"][0], *detail["shape"][1:]])
            resized.allocate_tensors()
            joined = [np.concatenate(column) for column in zip(*samples, strict=True)]
            call = invoke(resized, [joined])
            call()
            candidates["batch"] = call
    return candidates


def random_codes(rng: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    import numpy as np

    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def timings(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Median, p10 and p90 of at least five calls and at least this many seconds, after a warm-up."""
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    times.sort()
    return {
        "calls": len(times),
        "median_s": times[len(times) // 2],
        "p10_s": times[len(times) // 10],
        "p90_s": times[len(times) * 9 // 10],
    }


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {}
    for package in ("gpuq", "numpy", "ai-edge-litert"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def row_text(row: dict[str, Any]) -> str:
    """One line: gpuq's speed, and its ratio to each resolver (above 1: gpuq is faster)."""
    ours = row["gpuq"]
    text = f"{row['model']:<32} batch {row['batch']:>3}  threads {row['threads']}"
    if "error" in ours:
        return f"{text}  gpuq: {ours['error']}"
    text += f"  gpuq {ours['images_per_s']:>10.1f} images/s {ours['peak_bytes'] / 2**20:>6.0f} MiB"
    for name in RESOLVERS:
        other = row[name]
        if "error" in other:
            text += f"  | {name} refused"
        else:
            ratio = ours["images_per_s"] / other["images_per_s"]
            text += f"  | {name} x{ratio:.2f} ({other['peak_bytes'] / 2**20:.0f} MiB)"
    return text


def write_json(path: Path, report: dict[str, Any]) -> None:
    """The file appears whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    os.replace(file.name, path)


if __name__ == "__main__":
    sys.exit(main())
