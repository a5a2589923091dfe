"""Whole networks: latency, images per second and peak memory, gpuq beside what a user would run otherwise, in one run.

    python -m bench.bench_models [--device cpu|cuda] [--models GLOB] [--batch 1 8] [--threads 1 2] [--seconds 2]
                                 [--budget SECONDS] [--output FILE]

Models come from the folder GPUQ_MATERIAL (default: `shared` beside the checkout), from examples/digits, and from
bench/networks.py, which builds networks in memory that no file is shipped of; some are there with int8 and with int16
activations. Inputs are random codes. Beside gpuq run:

| runtime        | what it is                                                                                          |
|----------------|-----------------------------------------------------------------------------------------------------|
| litert_*       | LiteRT's three resolvers on the host's CPU; not for networks in memory, which have no file          |
| torch_bf16     | on a GPU: the same network in PyTorch, bfloat16, channels last, under a CUDA graph; other bits      |
| torch_compiled | the same by torch.compile                                                                           |

Every runtime has a process of its own, so that peak memory and thread settings are its own too; on the CPU, so has
every batch, and the processes of one model, batch and thread count follow each other, so that a ratio compares
neighbours in time. LiteRT runs the batch as one tensor where the model can be resized, else sample by sample, whichever
is faster. gpuq's CPU path uses one thread whatever the setting.

On a GPU, gpuq takes the batch from the host's memory ("host") or has it on the GPU ("device"), whichever is faster, and
every call waits for its result. `bound_s` is the least time of the network layer by layer: of each step the slower of
arithmetic at the measured rate of dp4a and memory traffic at the measured bandwidth of a copy (gpuq/cuda/ceilings.py,
in the same process); `share_of_bound` is that over the median. On the CPU no ceiling is measured, and both are null.
LiteRT runs samples one by one there, whatever the batch. gpuq and torch_bf16 come first for all networks,
torch_compiled last: what is left out when the budget ends says so.

Prints a table of ratios and writes JSON with machine and versions, whole, by atomic replace, after each figure.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fnmatch
import importlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DIGITS = REPOSITORY / "examples" / "digits"
RESOLVERS = {
    "litert_ref": "BUILTIN_REF",
    "litert_opt": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "litert_xnnpack": "BUILTIN",
}
TORCH = ("torch_bf16", "torch_compiled")
# Who is measured one after the other for a model, before the next model's turn.
PASSES = {"cpu": (("gpuq", *RESOLVERS),), "cuda": (("gpuq", "torch_bf16"), tuple(RESOLVERS), ("torch_compiled",))}
NO_FILE = "built in memory: there is no file to load"
LATE = {"unavailable": "not measured: no time left"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--models", default="*", help="glob on the file's stem or network's name: 'mobilenet_v2*'")
    parser.add_argument("--batch", type=int, nargs="+", default=None, help="default 1 8; on a GPU 1 32 256")
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="of LiteRT; default 1 2; on a GPU 1")
    parser.add_argument("--seconds", type=float, default=2.0, help="at least this long per figure")
    parser.add_argument("--budget", type=float, default=math.inf, metavar="SECONDS", help="of all; default: no end")
    parser.add_argument("--keep", action="store_true", help="keep the file's rows of other models, if of this machine")
    parser.add_argument("--output", type=Path, default=None, help="JSON file; default bench/results/models_DEVICE.json")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        for result in measure(**json.loads(arguments.child)):
            print(json.dumps(result), flush=True)
        return 0
    deadline = time.monotonic() + arguments.budget
    if arguments.device == "cuda":
        from gpuq.cuda import unavailable

        problem = unavailable(0)
        if problem:
            print(f"bench_models: cuda:0: {problem}", file=sys.stderr)
            return 2
    device, on_gpu = arguments.device, arguments.device == "cuda"
    batches = sorted(arguments.batch or ((1, 32, 256) if on_gpu else (1, 8)))
    models = find_models(arguments.models)
    if not models:
        sys.exit(f"no models {arguments.models!r} in memory or under {material()}/models; set GPUQ_MATERIAL")
    runtimes = [runtime for names in PASSES[device] for runtime in names]
    # What one process measures: on the CPU one batch, for the sake of its peak memory; on a GPU, which takes seconds to
    # start with, all of them.
    groups: list[list[dict[str, Any]]] = []
    for model in models:
        for batch_group in [batches] if on_gpu else [[batch] for batch in batches]:
            for threads in arguments.threads or ((1,) if on_gpu else (1, 2)):
                about = {"model": Path(model).stem, "source": model_source(model), "threads": threads}
                nothing = dict.fromkeys(runtimes, LATE)
                groups.append([about | {"batch": batch} | nothing for batch in batch_group])
    target = arguments.output or REPOSITORY / "bench" / "results" / f"models_{device}.json"
    report = {"machine": machine(device), "device": device, "seconds": arguments.seconds, "complete": False}
    kept = kept_rows(target, report, {Path(model).stem for model in models}) if arguments.keep else []
    report["results"] = [*kept, *(row for group in groups for row in group)]
    paths = {Path(model).stem: model for model in models}
    for names in PASSES[device]:
        for group in groups:
            model = paths[group[0]["model"]]
            for runtime in names:
                fill(group, runtime, device, model, arguments.seconds, deadline)
                write_json(target, report)
            for row in group:
                print(row_text(row), flush=True)
    report["complete"] = all(row[name] != LATE for group in groups for row in group for name in runtimes)
    write_json(target, report)
    print(f"wrote {target}")
    return 0


def kept_rows(target: Path, report: dict[str, Any], measured: set[str]) -> list[dict[str, Any]]:
    """Rows of a file that are not measured now; none of another machine, other versions, or other settings."""

    def conditions(of: dict[str, Any]) -> tuple[Any, ...]:
        return {**of["machine"], "date": ""}, of.get("device", report["device"]), of["seconds"]

    try:
        before = json.loads(target.read_text())
    except OSError:
        return []
    if conditions(before) != conditions(report):
        sys.exit(f"{target} was measured on another machine or with other versions or settings; leave out --keep")
    return [row for row in before["results"] if row["model"] not in measured]


def material() -> Path:
    """The folder of shared models."""
    return Path(os.environ.get("GPUQ_MATERIAL", REPOSITORY.parent / "shared"))


def find_models(pattern: str) -> list[str]:
    """Names of networks in memory, then paths of integer models, that match a glob."""
    from bench.networks import NETWORKS

    files = [*material().glob("models/*/*int8.tflite"), *DIGITS.glob("digits_int*.tflite")]
    paths = sorted(path for path in files if path.match(f"{pattern}.tflite"))
    return [*fnmatch.filter(NETWORKS, pattern), *map(str, paths)]


def model_source(model: str) -> str:
    """Where a model of find_models() comes from."""
    return "file" if model.endswith(".tflite") else "memory"


def graph_of(model: str) -> Any:
    """The Graph of a model of find_models()."""
    from bench.networks import NETWORKS
    from gpuq.model.tflite_reader import read

    return read(Path(model).read_bytes()) if model_source(model) == "file" else NETWORKS[model]()


def fill(rows: list[dict[str, Any]], runtime: str, device: str, model: str, seconds: float, deadline: float) -> None:
    """Measures one runtime in a fresh process, at each row's batch.

    A runtime that refuses the model gives {"error": its words}; one that is not there {"unavailable": why}.
    """
    if runtime in RESOLVERS and model_source(model) == "memory":
        for row in rows:
            row[runtime] = {"unavailable": NO_FILE}
        return
    batches = [row["batch"] for row in rows]
    one_by_one = device == "cuda" and runtime in RESOLVERS
    if one_by_one:
        # On the host a batch of 256 would take the reference kernels minutes, at the same rate.
        batches = [1]
    found = run_child(runtime, device, model, batches, rows[0]["threads"], seconds, deadline - time.monotonic())
    for row, result in zip(rows, found * len(rows) if one_by_one else found, strict=True):
        row[runtime] = result


def run_child(
    runtime: str, device: str, model: str, batches: Sequence[int], threads: int, seconds: float, left: float
) -> list[dict[str, Any]]:
    """The figures of a process, one for each batch.

    Args:
        left: seconds until it is ended.
    """
    if left <= 0:
        return [LATE] * len(batches)
    task = {"runtime": runtime, "device": device, "model": model, "batches": list(batches), "threads": threads}
    task["seconds"] = seconds
    environment = os.environ | {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "bench.bench_models", "--child", json.dumps(task)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as problems:
        try:
            status = subprocess.run(
                command,
                stdout=out,
                stderr=problems,
                env=environment,
                check=False,
                timeout=None if math.isinf(left) else left,
            ).returncode
            missing = {"error": f"exit {status}"}
        except subprocess.TimeoutExpired:
            missing = LATE
        out.seek(0)
        problems.seek(0)
        found = [json.loads(line) for line in out.read().splitlines() if line.startswith("{") and line.endswith("}")]
        words = problems.read().strip().splitlines()
    if "error" in missing and words:
        missing = {"error": words[-1]}
    return [*found, *[missing] * (len(batches) - len(found))]


def measure(
    runtime: str, device: str, model: str, batches: Sequence[int], threads: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Times one runtime in this process, at one batch after the other."""
    before = peak_bytes()
    if runtime == "gpuq":
        prepare = prepare_gpuq(device, model)
    elif runtime in TORCH:
        prepare = prepare_torch(runtime, model)
    else:
        prepare = prepare_litert(runtime, model, threads)
    for batch in batches:
        try:
            candidates, facts = prepare(batch)
            best: dict[str, Any] = {}
            for mode, call in candidates.items():
                timed = timings(call, seconds)
                if not best or timed["median_s"] < best["median_s"]:
                    best = {"mode": mode, **timed}
        except Exception as error:
            name = type(error).__name__
            absent = isinstance(error, ImportError) or name == "Unavailable"
            text = " ".join(f"{name}: {error}".split())[:600]
            yield {"unavailable" if absent else "error": text.removeprefix("Unavailable: ")}
            continue
        best |= {"batch": batch, "images_per_s": batch / best["median_s"], **facts}
        if "bound_s" in facts:
            bound_s = facts["bound_s"]
            best["share_of_bound"] = None if bound_s is None else bound_s / best["median_s"]
        best["peak_bytes"] = peak_bytes()
        best["peak_bytes_of_imports"] = before
        yield best


Prepare = Callable[[int], tuple[dict[str, Callable[[], Any]], dict[str, Any]]]
"""For a batch the ways to call it, and what else the figure's JSON says."""


def prepare_gpuq(device: str, model: str) -> Prepare:
    import numpy as np

    from gpuq.devices import resolve_device
    from gpuq.model.model import Model
    from gpuq.model.planner import plan_program
    from gpuq.model.profile import measured_ceilings, step_bytes

    loaded = Model(plan_program(graph_of(model), resolve_device(device), "litert_ref"))
    limits = measured_ceilings(loaded.program)

    def prepare(batch: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
        rng = np.random.default_rng(0)
        inputs = [
            random_codes(rng, (batch * detail["shape"][0], *detail["shape"][1:]), detail["dtype"])
            for detail in loaded.get_input_details()
        ]
        if limits is None:
            return {"batch": lambda: loaded(*inputs)}, {"ceilings": None, "bound_s": None}
        import cupy

        on_gpu = []
        for value in inputs:
            there = cupy.empty(value.shape, value.dtype)
            there.set(value)
            on_gpu.append(there)

        def call() -> None:
            loaded(*on_gpu)
            cupy.cuda.get_current_stream().synchronize()

        steps = loaded.program.steps
        bound_s = sum(limits.seconds(step.macs * batch, step_bytes(step, batch)) for step in steps)
        facts = {"ceilings": dataclasses.asdict(limits), "bound_s": bound_s}
        return {"host": lambda: loaded(*inputs), "device": call}, facts

    return prepare


def prepare_torch(runtime: str, model: str) -> Prepare:
    from bench.torch_network import prepare

    graph = graph_of(model)
    return lambda batch: ({"device": prepare(graph, batch, compiled=runtime == "torch_compiled")}, {})


def prepare_litert(runtime: str, path: str, threads: int) -> Prepare:
    return lambda batch: (litert_calls(runtime, path, batch, threads), {})


def litert_calls(runtime: str, path: str, batch: int, threads: int) -> dict[str, Callable[[], Any]]:
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


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures were measured on and with."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    # As imported: in a checkout it need not be installed.
    versions = {"gpuq": importlib.import_module("gpuq").__version__}
    packages = ("numpy", "ai-edge-litert")
    for package in (*packages, "torch", "cupy-cuda13x", "cupy-cuda12x") if device == "cuda" else packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    found = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if device == "cuda":
        from bench.gpu import driver_version
        from gpuq.cuda import probe

        found |= {"gpu": probe().gpus[0].name, "driver": driver_version()}
    return found


def row_text(row: dict[str, Any]) -> str:
    """One line: gpuq's speed, and its ratio to each other runtime (above 1: gpuq is faster)."""
    ours = row["gpuq"]
    text = f"{row['model']:<32} batch {row['batch']:>3}  threads {row['threads']}"
    if "images_per_s" not in ours:
        return f"{text}  gpuq: {reason(ours)}"
    text += f"  gpuq {ours['images_per_s']:>10.1f} images/s {1e3 * ours['median_s']:>9.3f} ms"
    text += f" {ours['peak_bytes'] / 2**20:>6.0f} MiB"
    if ours["share_of_bound"] is not None:
        text += f" {ours['share_of_bound']:.0%} of the bound"
    for name in (*RESOLVERS, *TORCH):
        other = row.get(name)
        if other is None or other == LATE:
            continue
        if "images_per_s" not in other:
            text += f"  | {name} {'refused' if 'error' in other else 'not there'}"
        else:
            ratio = ours["images_per_s"] / other["images_per_s"]
            text += f"  | {name} x{ratio:.2f} ({other['peak_bytes'] / 2**20:.0f} MiB)"
    return text


def reason(result: dict[str, Any]) -> str:
    """Why there is no figure."""
    return str(result.get("error", result.get("unavailable")))


def write_json(path: Path, report: dict[str, Any]) -> None:
    """The file appears whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    os.replace(file.name, path)


if __name__ == "__main__":
    sys.exit(main())
