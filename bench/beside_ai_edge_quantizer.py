"""gpuq's quantization beside ai-edge-quantizer's: scales, zero points, and images calibrated a second, as JSON.

    pip install ai-edge-quantizer==0.10.0
    python -m bench.beside_ai_edge_quantizer [--images 64] [--output FILE]

Both calibrate the shared float networks and the digits network on the same image, min/max, int8 per channel
(`static_wi8_ai8`), and each gets --images images for its speed, the writing of files not counted. Activations are
compared by their names: the distance of two scales is in units in the last place of float32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import gpuq
from bench.bench_calibrate import observe
from bench.bench_models import REPOSITORY, machine, material, write_json
from gpuq.model.graph import Graph, Signature
from gpuq.model.tflite_reader import read
from gpuq.resources import resource

DEVICES = ("litert", "cpu")
NAMES = ("{}", "{}_quantized")
"""What ai-edge-quantizer calls an activation of the float network."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / "bench" / "results" / "ai_edge_quantizer.json", help="JSON"
    )
    arguments = parser.parse_args(argv)
    paths = [resource("examples", "digits", "digits_float.tflite")]
    paths += sorted((material() / "models").glob("**/*_float.tflite"))
    rows = [row(path, arguments.images) for path in paths]
    for one in rows:
        print(one)
    write_json(arguments.output, {"machine": machine("cpu"), "images": arguments.images, "rows": rows})
    return 0


def row(path: Path, images: int) -> dict[str, Any]:
    """One network."""
    graph = read(path.read_bytes())
    shape = graph.tensors[graph.inputs[0]].shape
    x = np.random.default_rng(0).uniform(0, 1, (images, *shape[1:])).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        signed = _with_signature(graph)
        name = Path(folder, path.name)
        gpuq.save(signed, name)
        quantizer, seconds = _theirs(name, signed.signatures[0], x)
        theirs = read(quantizer)
    found: dict[str, Any] = {"model": path.stem, "images_per_second": {"ai-edge-quantizer": images / seconds}}
    for device in DEVICES:
        ours = gpuq.quantize_model(path, [x[:1]], device=device)
        speed = images / _seconds(lambda device=device: observe(graph, x, device))
        found["images_per_second"][f"gpuq {device}"] = speed
        found[device] = distance(ours, theirs)
    return found


def distance(ours: Graph, theirs: Graph) -> dict[str, int]:
    """How far apart activations' parameters are."""
    known = {tensor.name: tensor.quant for tensor in theirs.tensors if tensor.data is None}
    found = dict.fromkeys(("activations", "without a namesake", "zero points that differ", "scales that differ"), 0)
    found["scales apart, ulp"] = 0
    for tensor in ours.tensors:
        if tensor.quant is None or tensor.data is not None:
            continue
        name = tensor.name.removesuffix("_int8")
        quant = next((known[form.format(name)] for form in NAMES if known.get(form.format(name))), None)
        if quant is None:
            found["without a namesake"] += 1
            continue
        bits = [int(np.float32(each.scale).view(np.int32)) for each in (tensor.quant, quant)]
        found["activations"] += 1
        found["scales apart, ulp"] = max(found["scales apart, ulp"], abs(bits[0] - bits[1]))
        found["scales that differ"] += bits[0] != bits[1]
        found["zero points that differ"] += tensor.quant.zero_point != quant.zero_point
    return found


def _theirs(path: Path, signature: Signature, x: Any) -> tuple[bytes, float]:
    """(their file, calibrated on the first image; seconds for all images, the file not counted)."""
    from ai_edge_quantizer import quantizer, recipe

    def calibrated(images: Any) -> tuple[Any, Any]:
        made = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        samples = [{signature.inputs[0][0]: image[None]} for image in images]
        return made, made.calibrate({signature.key: samples})

    made, ranges = calibrated(x[:1])
    return bytes(made.quantize(ranges).quantized_model), _seconds(lambda: calibrated(x))


def _with_signature(graph: Graph) -> Graph:
    """ai-edge-quantizer finds inputs by a signature."""
    if graph.signatures:
        return graph
    ends = (
        tuple((f"{kind}{number}", index) for number, index in enumerate(where))
        for kind, where in (("x", graph.inputs), ("y", graph.outputs))
    )
    return replace(graph, signatures=(Signature("serving_default", *ends),))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
