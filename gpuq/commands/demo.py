"""`gpuq demo`: the shipped digits network over its held-out digits, every tensor against the obviously right path."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import gpuq
from gpuq import profiles
from gpuq.commands.files import load_model
from gpuq.commands.info import model_json
from gpuq.commands.output import write, write_json
from gpuq.model.graph import Graph, Node
from gpuq.ops.registry import constant_operands, reference
from gpuq.quant import Quant, dequantize, first_index
from gpuq.resources import resource

Array = npt.NDArray[Any]

PIXEL_MAX = 16
REPEATS = 5
SHOWN = 4
# From background to ink. The second for terminals without block characters.
BLOCKS, ASCII = " ░▒▓█", " .+#@"


@dataclass(frozen=True)
class Comparison:
    """Two results of the same network, tensor by tensor.

    Attributes:
        tensors, values: how many were compared.
        different: how many values differ.
        first: where they differ first and how, in words; None where they do not.
    """

    tensors: int
    values: int
    different: int
    first: str | None

    @property
    def equal(self) -> bool:
        return self.different == 0 and self.tensors > 0


def run_demo(*, device: str, profile: str, as_json: bool) -> int:
    """Runs, checks and times the shipped network; 0, or 1 where a single bit differs.

    Raises:
        GpuqError: no such device or profile.
        FileNotFoundError: this installation lacks the shipped files.
    """
    folder = resource("examples", "digits")
    model_path, data_path = folder / "digits_int8.tflite", folder / "digits_heldout.npz"
    with np.load(data_path, allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    model = load_model(str(model_path), device=device, numerics=profile)
    codes = gpuq.quantize(images.astype(np.float32) / np.float32(PIXEL_MAX), _quant(model.graph, model.graph.inputs[0]))

    output = model(codes)
    comparison = compare(model.graph, model.tensors(codes), reference_tensors(model, codes))
    rate = images_per_second(model, codes)
    guesses = output.argmax(axis=-1)
    correct = int((guesses == labels).sum())
    commands = next_commands(str(model_path), str(data_path))
    if as_json:
        write_json(
            {
                **model_json(str(model_path), model),
                "images": len(images),
                "correct": correct,
                "accuracy": correct / len(images),
                "images_per_second": rate,
                "batch": len(images),
                "repeats": REPEATS,
                "bit_exact": comparison.equal,
                "tensors": comparison.tensors,
                "values": comparison.values,
                "different": comparison.different,
                "first_difference": comparison.first,
                "next": commands,
            }
        )
        return 0 if comparison.equal else 1
    scores = dequantize(output, _quant(model.graph, model.graph.outputs[0]))
    wrong = np.flatnonzero(guesses != labels)[:1].tolist()
    shown = [*range(SHOWN - len(wrong)), *wrong]
    write(pictures([images[i, :, :, 0] for i in shown], [_caption(guesses[i], labels[i], scores[i]) for i in shown]))
    write()
    write(f"{len(images)} digits that training has not seen, on {model.device}, numerics {model.numerics}")
    write(f"  right: {correct} of {len(images)}, {correct / len(images):.2%}")
    write(f"  speed: {rate:,.0f} images/s (batch {len(images)}, median of {REPEATS} runs)")
    write(
        f"  bit-exact against reference: {'yes' if comparison.equal else 'NO'} "
        f"({comparison.tensors} tensors, {comparison.values:,} values)"
    )
    if comparison.first is not None:
        write(f"    {comparison.different:,} values differ; {comparison.first}")
    write("next:")
    for command in commands:
        write(f"  {command}")
    return 0 if comparison.equal else 1


def reference_tensors(model: gpuq.Model, *inputs: Array) -> dict[int, Array]:
    """Every tensor that an operator computes from the input, by its number: each node's reference(), nothing fast.

    Args:
        inputs: in the file's order, (N * first dimension, ...) in the inputs' dtypes, as for calling the model.

    Returns:
        Arrays with a run axis in front: (N, *shape of one run).
    """
    graph = model.graph
    known: dict[int, Array] = {}
    for index, value in zip(graph.inputs, inputs, strict=True):
        known[index] = value.reshape(-1, *graph.tensors[index].shape)
    constants = model.program.constants
    computed: dict[int, Array] = {}
    for node in graph.nodes:
        index = node.outputs[0]
        if index in constants:
            continue
        rule = profiles.resolve(model.numerics, node.spec)
        result = reference(node.spec, rule, *_operands(node, known, constants))
        known[index] = computed[index] = result.reshape(-1, *graph.tensors[index].shape)
    return computed


def compare(graph: Graph, got: Mapping[int, Array], want: Mapping[int, Array]) -> Comparison:
    """Tensors by number, all that `want` has; a missing tensor or another dtype differs in every value."""
    different, first = 0, None
    for index, expected in want.items():
        name = graph.tensors[index].name or f"#{index}"
        found = got.get(index)
        if found is None or found.dtype != expected.dtype or found.size != expected.size:
            different += expected.size
            first = first or f"{name}: {'missing' if found is None else f'{found.dtype} {found.shape}'}"
            continue
        # As bytes, because -0.0 and 0.0 are not the same bits, and NaN is equal to itself.
        found = np.ascontiguousarray(found).reshape(expected.shape)
        words = np.dtype(f"u{expected.dtype.itemsize}")
        unequal = found.view(words) != np.ascontiguousarray(expected).view(words)
        if unequal.any():
            different += int(unequal.sum())
            where = first_index(unequal)
            first = first or f"first in {name} at {where}: {found[where]}, the reference has {expected[where]}"
    return Comparison(len(want), sum(array.size for array in want.values()), different, first)


def images_per_second(model: gpuq.Model, codes: Array) -> float:
    """The median over some runs of all images in one batch."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model(codes)
        seconds.append(time.perf_counter() - start)
    return len(codes) / statistics.median(seconds)


def pictures(images: Sequence[Array], captions: Sequence[str]) -> str:
    """Small images (H, W) of 0..16 side by side, two characters a pixel, each with its caption below."""
    ramp = BLOCKS if _can_print(BLOCKS) else ASCII
    height, width = images[0].shape
    lines = []
    for row in range(height):
        cells = ("".join(ramp[int(p) * (len(ramp) - 1) // PIXEL_MAX] * 2 for p in image[row]) for image in images)
        lines.append("   ".join(cells).rstrip())
    lines.append("   ".join(caption.center(2 * width) for caption in captions).rstrip())
    return "\n".join(lines)


def next_commands(model_path: str, data_path: str) -> list[str]:
    """What to try next, ready to paste into a shell."""
    model, data = shlex.quote(model_path), shlex.quote(f"{data_path}:images")
    return [
        f"gpuq info {model} --steps",
        f"gpuq run {model} {data} --std {PIXEL_MAX} --output probabilities.npy",
        "gpuq doctor",
    ]


def _quant(graph: Graph, index: int) -> Quant:
    quant = graph.tensors[index].quant
    if quant is None:
        raise gpuq.UnsupportedModel(f"the demo needs a quantized network; {graph.tensors[index].name!r} has no scale")
    return quant


def _operands(node: Node, known: Mapping[int, Array], constants: Mapping[int, Array]) -> list[Array | None]:
    """What reference() takes: activations with a run axis, constants as one run that broadcasts, weights as stored."""
    stored = [None if index in known else constants.get(index) for index in node.inputs]
    prepared = constant_operands(node.spec, stored)
    return [known.get(index, constant) for index, constant in zip(node.inputs, prepared, strict=True)]


def _caption(guess: int, label: int, scores: Array) -> str:
    if guess == label:
        return f"{guess}  {scores[guess]:.1%}"
    return f"{guess}? it is {label}"


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
