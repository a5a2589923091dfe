"""Outputs as classes: the best of a vector of scores, or the shares of a map of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.commands.files import unreadable
from gpuq.errors import InputValueError
from gpuq.model.graph import Graph, Tensor
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.spec import FLOAT32, INT8, UINT8, shape_text
from gpuq.quant import dequantize

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Classes:
    """An output that speaks of classes.

    Attributes:
        output: its place among the outputs.
        count: how many classes there are.
        is_map: the output holds class numbers (of pixels), not one score per class.
    """

    output: int
    tensor: Tensor
    count: int
    is_map: bool


@dataclass(frozen=True)
class Ranked:
    """One class of one run.

    Attributes:
        score: of a vector the real value, of a map the share of pixels, 0 to 1.
        code: of a vector the score's code, None where the output is float; of a map the number of pixels.
    """

    index: int
    label: str | None
    score: float
    code: int | None


def find_classes(graph: Graph) -> list[Classes]:
    """The outputs that --top can speak about.

    Raises:
        InputValueError: none is a vector of scores or comes from ARG_MAX.
    """
    found = []
    for position, index in enumerate(graph.outputs):
        tensor = graph.tensors[index]
        arg_max = _arg_max_behind(graph, index)
        if arg_max is not None:
            found.append(Classes(position, tensor, arg_max.x_shape[arg_max.axis], True))
        elif tensor.dtype in (INT8, UINT8, FLOAT32) and tensor.shape and tensor.nbytes == _bytes_of_last(tensor):
            found.append(Classes(position, tensor, tensor.shape[-1], False))
    if not found:
        shapes = [f"{shape_text(graph.tensors[i].shape)} {graph.tensors[i].dtype}" for i in graph.outputs]
        raise InputValueError(f"--top needs a vector of scores or an ARG_MAX output; the model has {', '.join(shapes)}")
    return found


def read_labels(path: str) -> tuple[str, ...]:
    """One label per line; empty lines at the end do not count.

    Raises:
        InputValueError: no such file, or not UTF-8 text.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return tuple(stream.read().rstrip("\n").split("\n"))
    except OSError as error:
        raise unreadable("labels", path, error) from error
    except UnicodeDecodeError as error:
        raise InputValueError(f"labels {path!r} must be UTF-8 text: {error.reason} at byte {error.start}") from error


def check_labels(path: str, labels: Sequence[str], outputs: Sequence[Classes]) -> list[str]:
    """Remarks: labels that are too many may be those of another model.

    Raises:
        InputValueError: labels that are too few.
    """
    needed = max(classes.count for classes in outputs)
    if len(labels) < needed:
        raise InputValueError(f"labels {path!r} has {len(labels)} lines; the model has {needed} classes")
    if len(labels) > needed:
        return [f"{path}: {len(labels)} lines for {needed} classes; those behind line {needed} are not used"]
    return []


def rank(classes: Classes, output: Array, top: int, labels: Sequence[str] | None) -> list[Ranked]:
    """The best classes of one run, the best first; of equals the lowest number first, as ARG_MAX has it.

    Args:
        output: of this run.
    """
    if classes.is_map:
        numbers, counts = np.unique(output, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:top]
        return [
            Ranked(int(numbers[i]), _label(labels, int(numbers[i])), float(counts[i] / output.size), int(counts[i]))
            for i in order
        ]
    scores = output.reshape(-1)
    real = dequantize(scores, classes.tensor.quant) if classes.tensor.quant is not None else scores
    # By code where there is one: as int64, because -(-128) is -128 in int8.
    keys = -scores if scores.dtype.kind == "f" else -scores.astype(np.int64)
    return [
        Ranked(int(i), _label(labels, int(i)), float(real[i]), None if scores.dtype.kind == "f" else int(scores[i]))
        for i in np.argsort(keys, kind="stable")[:top]
    ]


def _label(labels: Sequence[str] | None, index: int) -> str | None:
    return None if labels is None else labels[index]


def _bytes_of_last(tensor: Tensor) -> int:
    return tensor.shape[-1] * tensor.dtype.itemsize


def _arg_max_behind(graph: Graph, index: int) -> ArgMaxSpec | None:
    """The ARG_MAX that a tensor comes from, through changes of shape only."""
    producers = {output: node for node in graph.nodes for output in node.outputs}
    while index in producers:
        node = producers[index]
        if isinstance(node.spec, ArgMaxSpec):
            return node.spec
        if not node.spec.is_view:
            return None
        index = node.inputs[0]
    return None
