"""`gpuq run`: a network over a data set of arrays and pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import gpuq
from gpuq.commands.classes import Classes, Ranked, check_labels, find_classes, rank, read_labels
from gpuq.commands.dataset import Feed, Reading, open_feeds
from gpuq.commands.files import check_output, load_model, write_arrays
from gpuq.commands.images import parse_normalization
from gpuq.commands.info import model_json, tensor_json
from gpuq.commands.output import Progress, indented, note, printable, table, write, write_json
from gpuq.errors import InputTypeError, InputValueError
from gpuq.model.graph import Graph, Tensor
from gpuq.ops.spec import shape_text
from gpuq.quant import dequantize

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RunOptions:
    """The arguments of `gpuq run`.

    Attributes:
        files: INPUTs, for a model with one input.
        named: NAME=FILE, for any model.
        output: where to write the outputs, or None.
        batch: runs per call.
        top: how many classes to name per run, or None.
        labels: a file of class names, or None.
        mean, std: as typed, or None.
        quantize: floating-point arrays are real values to be quantized.
        memory_limit: bytes, or None.
    """

    model: str
    files: Sequence[str]
    named: Sequence[str]
    output: str | None
    device: str
    profile: str
    batch: int
    top: int | None
    labels: str | None
    mean: str | None
    std: str | None
    quantize: bool
    memory_limit: int | None
    as_json: bool


@dataclass(frozen=True)
class Ranking:
    """The best classes of one output of one run."""

    run: int
    name: str
    classes: Classes
    best: list[Ranked]


def run_run(options: RunOptions) -> int:
    """Runs the model over all inputs, in order, and prints or writes what it gives; 0.

    Everything that can be refused without computing is refused first.

    Raises:
        GpuqError: a model, input, label file or output path that breaks a rule.
        OSError: the output cannot be written.
    """
    _check(options)
    reading = Reading(parse_normalization(options.mean, options.std), options.quantize)
    model = load_model(
        options.model, device=options.device, numerics=options.profile, memory_limit=options.memory_limit
    )
    if options.output is not None and options.output.endswith(".npy") and len(model.graph.outputs) > 1:
        raise InputTypeError(
            f"output {options.output!r}: the model has {len(model.graph.outputs)} outputs; the name must end in .npz"
        )
    vectors = find_classes(model.graph) if options.top is not None else []
    labels, remarks = None, []
    if options.labels is not None:
        labels = read_labels(options.labels)
        remarks += check_labels(options.labels, labels, vectors)
    feeds = open_feeds(model.graph, options.files, options.named, reading)
    remarks += [source.remark for feed in feeds for source in feed.sources if source.remark]
    for text in remarks:
        note(text)

    start = time.perf_counter()
    outputs = run_all(model, feeds, options.batch)
    seconds = time.perf_counter() - start

    names = output_names(model.graph)
    if options.output is not None:
        write_arrays(options.output, dict(zip(names, outputs, strict=True)))
    rankings = _rankings(feeds[0], vectors, outputs, options.top, labels)
    if options.as_json:
        write_json(_json(options, model, feeds, names, outputs, rankings, remarks, seconds))
    else:
        write(_text(options, model, feeds, names, outputs, rankings, seconds))
    return 0


def run_all(model: gpuq.Model, feeds: Sequence[Feed], batch: int) -> list[Array]:
    """Every output over all runs, in the order of the inputs: (runs * first dimension, ...)."""
    runs = feeds[0].runs
    outputs: list[Array] = []
    spans = [(start, min(start + batch, runs)) for start in range(0, runs, batch)]
    batches = (tuple(feed.read(start, stop) for feed in feeds) for start, stop in spans)
    with Progress("running", runs) as progress:
        for (start, stop), result in zip(spans, model.run_batches(batches), strict=True):
            parts = result if isinstance(result, tuple) else (result,)
            if not outputs:
                outputs = [np.empty((runs * (len(part) // stop), *part.shape[1:]), part.dtype) for part in parts]
            for output, part in zip(outputs, parts, strict=True):
                rows = len(output) // runs
                output[start * rows : stop * rows] = part
            progress.advance(stop - start)
    return outputs


def output_names(graph: Graph) -> list[str]:
    """The outputs' names in the file; where they are empty or not unique, numbered ones."""
    names = [graph.tensors[index].name for index in graph.outputs]
    if "" in names or len(set(names)) < len(names):
        return [f"output_{position}" for position in range(len(names))]
    return names


def _check(options: RunOptions) -> None:
    if options.output is not None:
        check_output(options.output)
    if options.batch < 1:
        raise InputValueError(f"--batch {options.batch} must be at least 1")
    if options.top is not None and options.top < 1:
        raise InputValueError(f"--top {options.top} must be at least 1")
    if options.labels is not None and options.top is None:
        raise InputValueError(f"--labels {options.labels!r} names the classes of --top K; say K")


def _rankings(
    feed: Feed, vectors: Sequence[Classes], outputs: Sequence[Array], top: int | None, labels: Sequence[str] | None
) -> list[Ranking]:
    """Run by run, for each run its outputs in order."""
    if top is None:
        return []
    found = []
    for run in range(feed.runs):
        for classes in vectors:
            output = outputs[classes.output]
            rows = len(output) // feed.runs
            best = rank(classes, output[run * rows : (run + 1) * rows], top, labels)
            found.append(Ranking(run, feed.name(run), classes, best))
    return found


def _text(
    options: RunOptions,
    model: gpuq.Model,
    feeds: Sequence[Feed],
    names: Sequence[str],
    outputs: Sequence[Array],
    rankings: Sequence[Ranking],
    seconds: float,
) -> str:
    runs = feeds[0].runs
    lines = [
        f"{printable(options.model)}: {runs} sample{'s' if runs > 1 else ''} on {model.device}, "
        f"numerics {model.numerics}, batch {min(options.batch, runs)}, {seconds:.2f} s"
    ]
    if options.top is None:
        lines.append(indented(_statistics_table(model.graph, names, outputs)))
    for ranking in rankings:
        several = f", output {ranking.classes.tensor.name}" if len(outputs) > 1 else ""
        lines += [printable(f"{ranking.name}{several}"), indented(_ranking_table(ranking))]
    if options.output is not None:
        written = ", ".join(f"{shape_text(output.shape)} {output.dtype}" for output in outputs)
        lines.append(f"wrote {printable(options.output)}: {written}")
    return "\n".join(lines)


def _ranking_table(ranking: Ranking) -> str:
    if ranking.classes.is_map:
        head: tuple[object, ...] = ("class", "label", "pixels", "share")
        rows = [(one.index, one.label or "-", str(one.code), f"{one.score:.2%}") for one in ranking.best]
    else:
        head = ("class", "label", "code", "score")
        rows = [
            (one.index, one.label or "-", "-" if one.code is None else str(one.code), f"{one.score:.6g}")
            for one in ranking.best
        ]
    return table([head, *rows], "><>>")


def statistics(tensor: Tensor, output: Array) -> dict[str, Any]:
    """The least, largest and mean of an output's numbers, and of the real values that its codes stand for."""
    found: dict[str, Any] = {
        "min": output.min().item(),
        "max": output.max().item(),
        "mean": float(output.mean(dtype=np.float64)),
    }
    if tensor.quant is not None:
        ends = np.array([found["min"], found["max"]], tensor.dtype)
        low, high = dequantize(ends, tensor.quant)
        mean = tensor.quant.scalar_scale() * (found["mean"] - tensor.quant.scalar_zero_point())
        found["real"] = {"min": float(low), "max": float(high), "mean": mean}
    return found


def _statistics_table(graph: Graph, names: Sequence[str], outputs: Sequence[Array]) -> str:
    rows: list[tuple[object, ...]] = [("output", "shape", "dtype", "", "min", "max", "mean")]
    for name, index, output in zip(names, graph.outputs, outputs, strict=True):
        found = statistics(graph.tensors[index], output)
        real = found.get("real")
        what = "values" if real is None else "codes"
        rows.append((name, shape_text(output.shape), output.dtype, what, *_three(found)))
        if real is not None:
            rows.append(("", "", "", "real", *_three(real)))
    return table(rows, "<<<<>>>")


def _three(found: dict[str, Any]) -> tuple[str, str, str]:
    return f"{found['min']:.6g}", f"{found['max']:.6g}", f"{found['mean']:.6g}"


def _json(
    options: RunOptions,
    model: gpuq.Model,
    feeds: Sequence[Feed],
    names: Sequence[str],
    outputs: Sequence[Array],
    rankings: Sequence[Ranking],
    remarks: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    return {
        **model_json(options.model, model),
        "samples": feeds[0].runs,
        "batch": options.batch,
        "seconds": seconds,
        "inputs": [
            {
                "input": feed.tensor.name,
                "files": [
                    {"file": source.path, "rows": source.rows, "taken_as": source.taken_as} for source in feed.sources
                ],
            }
            for feed in feeds
        ],
        "outputs": [
            {
                **tensor_json(model.graph.tensors[index]),
                "name": name,
                "shape": list(output.shape),
                **statistics(model.graph.tensors[index], output),
            }
            for name, index, output in zip(names, model.graph.outputs, outputs, strict=True)
        ],
        "top": None if options.top is None else [_ranking_json(ranking) for ranking in rankings],
        "written": options.output,
        "notes": list(remarks),
    }


def _ranking_json(ranking: Ranking) -> dict[str, Any]:
    """A map's classes have pixels and a share, a vector's a code and a score."""
    code, score = ("pixels", "share") if ranking.classes.is_map else ("code", "score")
    return {
        "sample": ranking.run,
        "input": ranking.name,
        "output": ranking.classes.tensor.name,
        "classes": [{"class": one.index, "label": one.label, code: one.code, score: one.score} for one in ranking.best],
    }
