"""Which operators cost the most accuracy: each is quantized alone, and the outputs are compared with float ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.model.graph import Graph
from gpuq.model.tflite_file import RawModel
from gpuq.model.tflite_reader import build
from gpuq.ptq.rewrite import Dtype, Range, rewrite
from gpuq.ptq.runners import quick_model
from gpuq.ptq.scheme import Mode


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one operator alone does to the network's outputs.

    Attributes:
        operator: its number in the float network.
        name: of the operator.
        tensor: the name of its output.
        sqnr_db: of all outputs together: 10 log10(sum of squares of float's / sum of squares of the difference).
    """

    operator: int
    name: str
    tensor: str
    sqnr_db: float

    @property
    def noise(self) -> float:
        """Noise to signal, as power."""
        return float(10 ** (-self.sqnr_db / 10))


def rank(
    raw: RawModel,
    dtypes: Mapping[int, Dtype],
    ranges: Mapping[int, Range],
    mode: Mode,
    samples: Sequence[tuple[Any, ...]],
    *,
    device: str = "auto",
    per_tensor: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Sensitivity]:
    """Every operator that is to be quantized, the most sensitive first.

    Args:
        raw, dtypes, ranges, mode, per_tensor: as rewrite takes them.
        samples: inputs, batch by batch.
        progress: is told 1 after each operator.
    """
    exact = _outputs(build(raw), samples, device)
    found = []
    for operator in raw.operators:
        if operator.index not in dtypes:
            continue
        alone = rewrite(raw, {operator.index: dtypes[operator.index]}, ranges, mode, per_tensor=per_tensor)
        found.append(
            Sensitivity(
                operator.index,
                operator.name,
                raw.tensors[operator.outputs[0]].name,
                sqnr_db(exact, _outputs(build(alone.model), samples, device)),
            )
        )
        if progress is not None:
            progress(1)
    return sorted(found, key=lambda one: (one.sqnr_db, one.operator))


def sqnr_db(exact: Sequence[npt.NDArray[Any]], given: Sequence[npt.NDArray[Any]]) -> float:
    """Signal to quantization noise in dB over all arrays; inf where they are equal."""
    signal = noise = 0.0
    for a, b in zip(exact, given, strict=True):
        wide = a.astype(np.float64)
        signal += float((wide**2).sum())
        noise += float(((wide - b.astype(np.float64)) ** 2).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal else float("-inf")


def half_of_the_noise(ranking: Sequence[Sensitivity]) -> int:
    """How many of the most sensitive operators make half of the noise of all, or more."""
    total = sum(one.noise for one in ranking)
    reached = 0.0
    for count, one in enumerate(ranking, 1):
        reached += one.noise
        if reached >= total / 2:
            return count
    return 0


def _outputs(graph: Graph, samples: Sequence[tuple[Any, ...]], device: str) -> list[npt.NDArray[Any]]:
    model = quick_model(graph, device)
    results: list[npt.NDArray[Any]] = []
    for sample in samples:
        values = model(*sample)
        parts = values if isinstance(values, tuple) else (values,)
        results.extend(part.get() if hasattr(part, "get") else part for part in parts)
    return results
