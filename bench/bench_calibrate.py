"""Calibration beside LiteRT's float interpreter, on one thread each: images a second, written as JSON.

    python -m bench.bench_calibrate [--images 256] [--device cpu] [--output FILE]

gpuq runs the network and observes every activation (min/max); LiteRT only runs it, one image an invoke, as its own
calibrators do. The float networks are those of the shared models, and the digits network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_models import REPOSITORY, machine, material, write_json
from gpuq.model.tflite_reader import read
from gpuq.ptq.calibration import watch
from gpuq.ptq.observers import MinMax
from gpuq.resources import resource

RESOLVERS = ("BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "AUTO")
REPEATS = 3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=None, help="default bench/results/calibrate_DEVICE.json")
    arguments = parser.parse_args(argv)
    paths = [resource("examples", "digits", "digits_float.tflite")]
    paths += sorted((material() / "models").glob("**/*_float.tflite"))
    rows = [row(path, arguments.images, arguments.device) for path in paths]
    for one in rows:
        peers = ", ".join(f"{name} {one['images_per_second'][name]:,.0f}" for name in RESOLVERS)
        print(f"{one['model']}: gpuq {one['images_per_second']['gpuq']:,.0f}, {peers} images/s")
    target = arguments.output or REPOSITORY / "bench" / "results" / f"calibrate_{arguments.device}.json"
    write_json(target, {"machine": machine("cpu"), "images": arguments.images, "rows": rows})
    return 0


def row(path: Path, images: int, device: str) -> dict[str, Any]:
    """One network: images a second of each, the best of REPEATS."""
    graph = read(path.read_bytes())
    shape = graph.tensors[graph.inputs[0]].shape
    x = np.random.default_rng(0).uniform(0, 1, (images, *shape[1:])).astype(np.float32)

    def calibrate() -> None:
        watch(graph, [x], {node.outputs[0]: [MinMax()] for node in graph.nodes}, device=device)

    speeds = {"gpuq": images / best(calibrate)}
    for name in RESOLVERS:
        speeds[name] = images / best(interpreter(path, name, x))
    return {"model": path.stem, "device": device, "images_per_second": speeds}


def best(call: Callable[[], None]) -> float:
    """Seconds of the quickest call."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def interpreter(path: Path, resolver: str, x: Any) -> Callable[[], None]:
    """One invoke for each image."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    runtime = Interpreter(str(path), experimental_op_resolver_type=getattr(OpResolverType, resolver), num_threads=1)
    runtime.allocate_tensors()
    index = runtime.get_input_details()[0]["index"]

    def run() -> None:
        for image in x:
            runtime.set_tensor(index, image[None])
            runtime.invoke()

    return run


if __name__ == "__main__":
    raise SystemExit(main())
