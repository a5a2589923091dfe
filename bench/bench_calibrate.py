"""Calibration beside LiteRT's float interpreter, on one core each: images a second, written as JSON.

    python -m bench.bench_calibrate [--images 1024] [--device cuda] [--output FILE]

gpuq runs the network and observes every activation (min/max), set-up included: through LiteRT's interpreter
("litert", what it takes on a CPU), with its own operators ("cpu"), and on the GPU that --device names. LiteRT only runs
the network, one image an invoke and --batch images an invoke, ready to go and with nobody looking; it is left out where
it is not installed. The float networks are those of the shared models, and the digits network.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_models import REPOSITORY, machine, material, write_json
from gpuq.model.graph import Graph
from gpuq.model.tflite_reader import read
from gpuq.ptq.calibration import watch
from gpuq.ptq.observers import MinMax
from gpuq.resources import resource

RESOLVERS = ("BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "AUTO")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256, help="images of LiteRT's larger invokes (default: 256)")
    parser.add_argument("--repeats", type=int, default=5, help="of which the fastest counts (default: 5)")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU (default: cpu)")
    parser.add_argument("--output", type=Path, default=None, help="default bench/results/calibrate_DEVICE.json")
    arguments = parser.parse_args(argv)
    if arguments.images % arguments.batch:
        parser.error(f"--images {arguments.images} must be a multiple of --batch {arguments.batch}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    devices = ["litert"] if importlib.util.find_spec("ai_edge_litert") else []
    devices += ["cpu"] if arguments.device == "cpu" else ["cpu", arguments.device]
    paths = [resource("examples", "digits", "digits_float.tflite")]
    paths += sorted((material() / "models").glob("**/*_float.tflite"))
    rows = [row(path, arguments.images, arguments.batch, devices, arguments.repeats) for path in paths]
    for one in rows:
        speeds = ", ".join(f"{name} {speed:,.0f}" for name, speed in one["images_per_second"].items())
        print(f"{one['model']}: {speeds} images/s")
    target = arguments.output or REPOSITORY / "bench" / "results" / f"calibrate_{arguments.device}.json"
    write_json(target, {"machine": machine(arguments.device), "images": arguments.images, "rows": rows})
    return 0


def row(path: Path, images: int, batch: int, devices: Sequence[str], repeats: int) -> dict[str, Any]:
    """One network: images a second of each, the best of all repeats, in turn so that each meets the same machine."""
    graph = read(path.read_bytes())
    shape = graph.tensors[graph.inputs[0]].shape
    x = np.random.default_rng(0).uniform(0, 1, (images, *shape[1:])).astype(np.float32)

    calls = {f"gpuq {device}": partial(observe, graph, x, device) for device in devices}
    for name in RESOLVERS if "litert" in devices else ():
        for size in (1, batch):
            calls[f"LiteRT {name}, {size} an invoke"] = interpreter(path, name, x, size)
    seconds = {name: min(times) for name, times in timed(calls, repeats).items()}
    return {"model": path.stem, "images_per_second": {name: images / each for name, each in seconds.items()}}


def observe(graph: Graph, x: Any, device: str) -> None:
    """Calibrates on these images, the extremes of every activation."""
    watch(graph, [x], {node.outputs[0]: [MinMax()] for node in graph.nodes}, device=device)


def timed(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, in as many rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def interpreter(path: Path, resolver: str, x: Any, batch: int) -> Callable[[], None]:
    """All images, a batch an invoke."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    runtime = Interpreter(str(path), experimental_op_resolver_type=getattr(OpResolverType, resolver), num_threads=1)
    index = runtime.get_input_details()[0]["index"]
    runtime.resize_tensor_input(index, [batch, *x.shape[1:]])
    runtime.allocate_tensors()

    def run() -> None:
        for first in range(0, len(x), batch):
            runtime.set_tensor(index, x[first : first + batch])
            runtime.invoke()

    return run


if __name__ == "__main__":
    raise SystemExit(main())
