"""From a float network and calibration data to an integer one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuq import profiles
from gpuq.errors import InputTypeError, InputValueError, UnsupportedModel
from gpuq.model.graph import Graph
from gpuq.model.tflite_file import RawModel, parse
from gpuq.model.tflite_reader import build
from gpuq.model.tflite_writer import encode
from gpuq.ops.spec import INT8, INT16, UINT8
from gpuq.ptq.calibration import ChannelMeans, Sample, Watcher, WholeBatches, inputs_of, watch
from gpuq.ptq.equalization import equalize
from gpuq.ptq.observers import MovingAverageMinMax, Observer, observer
from gpuq.ptq.rewrite import Dtype, Range, Rewritten, activations, can_quantize, rewrite
from gpuq.ptq.scheme import SCHEMES, Mode, data_input, mode_of
from gpuq.ptq.sensitivity import Sensitivity, half_of_the_noise, rank

INTERFACES: Mapping[str, Dtype | None] = {"float": None, "int8": INT8, "uint8": UINT8, "int16": INT16}

RANKING_RUNS = 64
"""Runs of the calibration data that the sensitivity of operators is measured on."""

REFERENCE = "litert_ref"
"""The profile whose runtime must run what is quantized; what it lacks in codes stays float32."""


@dataclass(frozen=True)
class Settings:
    """How to quantize a network.

    Attributes:
        mode: one of MODES.
        observer: how ranges are chosen: "minmax", "moving-average", "percentile:P", "mse" or "entropy".
        input_output: "float", "int8", "uint8" or "int16": the dtype of the network's float32 inputs and outputs.
        per_tensor: one scale for each weight tensor, not one per output channel.
        equalize: scale weights' channels against each other first.
        bias_correction: take what rounding the weights adds on average off the biases.
        keep_int16: how many of the most sensitive operators get int16 activations in a network of int8.
    """

    mode: str = "int8"
    observer: str = "minmax"
    input_output: str = "float"
    per_tensor: bool = False
    equalize: bool = False
    bias_correction: bool = False
    keep_int16: int = 0

    def check(self) -> Mode:
        """Raises InputValueError for settings that do not go together."""
        mode = mode_of(self.mode)
        observer(self.observer)
        if self.input_output not in INTERFACES:
            raise InputValueError(f"input_output {self.input_output!r} must be one of {', '.join(INTERFACES)}")
        if self.keep_int16 < 0:
            raise InputValueError(f"keep_int16 {self.keep_int16} must be 0 or more")
        if mode.activations is None:
            given = {
                "input_output": self.input_output != "float",
                "keep_int16": self.keep_int16 > 0,
                "bias_correction": self.bias_correction,
            }
            for name, is_given in given.items():
                if is_given:
                    raise InputValueError(f"{name} needs integer activations; mode {self.mode!r} has float32 ones")
        elif self.keep_int16 and mode.activations != INT8:
            raise InputValueError(f"keep_int16 needs a mode with int8 activations, not {self.mode!r}")
        return mode


@dataclass(frozen=True)
class Quantized:
    """A quantized network, and how it came about.

    Attributes:
        graph: the network.
        ranges: (minimum, maximum) of the float network's activations, by their names.
        left_float: numbers and names of the float network's operators that stay float32.
        kept_int16: numbers of those with int16 activations.
        sensitivities: of its operators, the most sensitive first; empty unless they were asked for.
        runs: of calibration.
        equalized: pairs of layers.
    """

    graph: Graph
    ranges: Mapping[str, Range]
    left_float: tuple[tuple[int, str], ...]
    kept_int16: tuple[int, ...]
    sensitivities: tuple[Sensitivity, ...]
    runs: int
    equalized: int

    @property
    def suggested_int16(self) -> int:
        """How many of the most sensitive operators make half of the noise."""
        return half_of_the_noise(self.sensitivities)


def quantize_model(
    model: str | os.PathLike[str] | bytes | Graph,
    calibration: Iterable[Sample] | None = None,
    *,
    mode: str = "int8",
    observer: str = "minmax",
    input_output: str = "float",
    per_tensor: bool = False,
    equalize: bool = False,
    bias_correction: bool = False,
    keep_int16: int = 0,
    device: str = "auto",
) -> Graph:
    """A float network as an integer one; `gpuq.save` writes it as a .tflite.

    Args:
        model: a float .tflite (a path, or its bytes) or its Graph.
        calibration: batches of typical inputs: arrays (N, ...), sequences of one array per input, or mappings by the
            inputs' names; read once. Not needed for "dynamic-range".
        mode: "int8", "uint8" (legacy, per tensor), "int16x8", "dynamic-range" or "int4-weights".
        observer: how activations' ranges are chosen from what they were: "minmax", "moving-average", "percentile:99.9",
            "mse" or "entropy".
        input_output: "float", or the dtype of codes that the network takes and gives: "int8", "uint8", "int16".
        per_tensor: one scale for each weight tensor, not one per output channel.
        equalize: cross-layer range equalization before anything else.
        bias_correction: from the calibration data.
        keep_int16: how many of the most sensitive operators get int16 activations.
        device: what calibration runs on: "cpu", "cuda", "cuda:N", "litert" (LiteRT's interpreter, pip install
            'gpuq[litert]'), or "auto": the first that is here of a GPU, LiteRT and the CPU.

    Raises:
        InputTypeError, InputValueError: settings or samples that break a rule; no calibration data.
        ModelError: a model that gpuq cannot read.

    >>> import gpuq
    >>> graph = gpuq.quantize_model("float.tflite", [images], mode="int8")  # doctest: +SKIP
    """
    settings = Settings(mode, observer, input_output, per_tensor, equalize, bias_correction, keep_int16)
    return quantize_with(settings, raw_model(model), calibration, device=device).graph


def raw_model(model: str | os.PathLike[str] | bytes | Graph) -> RawModel:
    """A network's file values."""
    if isinstance(model, Graph):
        return encode(model)
    return parse(bytes(model) if isinstance(model, bytes | bytearray | memoryview) else Path(model).read_bytes())


def quantize_with(
    settings: Settings,
    raw: RawModel,
    calibration: Iterable[Sample] | None,
    *,
    with_sensitivities: bool = False,
    device: str = "auto",
    progress: Callable[[str, int], None] | None = None,
) -> Quantized:
    """As quantize_model, with all that is learned on the way.

    Args:
        with_sensitivities: rank the operators.
        progress: is told ("calibrating", runs) and ("ranking", operators) as work is done.
    """
    mode = settings.check()
    if not any(can_quantize(raw, operator) for operator in raw.operators):
        raise InputValueError("quantize: the network has no float32 operator that could be quantized")
    return _Quantizer(settings, mode, raw, device, progress).run(calibration, with_sensitivities)


@dataclass
class _Quantizer:
    settings: Settings
    mode: Mode
    raw: RawModel
    device: str
    progress: Callable[[str, int], None] | None
    ranges: dict[int, Range] = field(default_factory=dict)
    means: dict[int, Any] = field(default_factory=dict)
    kept: list[tuple[Any, ...]] = field(default_factory=list)

    def run(self, calibration: Iterable[Sample] | None, with_sensitivities: bool) -> Quantized:
        equalized = 0
        if self.settings.equalize:
            self.raw, equalized = equalize(self.raw)
        graph = build(self.raw)
        dtypes = self._dtypes()
        runs = 0
        ranking: list[Sensitivity] = []
        if self.mode.activations is not None:
            runs = self._calibrate(graph, calibration, dtypes)
            dtypes = self._runnable(dtypes)
            if with_sensitivities or self.settings.keep_int16:
                ranking = self._rank(dtypes)
        kept = tuple(sorted(one.operator for one in ranking[: self.settings.keep_int16]))
        wanted = dtypes | dict.fromkeys(kept, INT16)
        final = self._runnable(wanted)
        rewritten = self._rewrite(final)
        result = build(rewritten.model)
        names = {operator.index: operator.name for operator in self.raw.operators}
        return Quantized(
            graph=result,
            ranges={self.raw.tensors[index].name: given for index, given in self.ranges.items()},
            left_float=tuple(
                (index, names[index])
                for index in names
                if index not in final and self.mode.activations is not None and self._touches_float(index)
            ),
            kept_int16=tuple(index for index in kept if final.get(index) == INT16),
            sensitivities=tuple(ranking),
            runs=runs,
            equalized=equalized,
        )

    def _dtypes(self) -> dict[int, Dtype]:
        if self.mode.activations is None:
            return {}
        dtype = self.mode.activations
        return {operator.index: dtype for operator in self.raw.operators if can_quantize(self.raw, operator)}

    def _touches_float(self, index: int) -> bool:
        operator = next(operator for operator in self.raw.operators if operator.index == index)
        return any(self.raw.tensors[output].type_name == "FLOAT32" for output in operator.outputs)

    def _calibrate(self, graph: Graph, calibration: Iterable[Sample] | None, dtypes: Mapping[int, Dtype]) -> int:
        if calibration is None:
            raise InputTypeError(f"quantize: mode {self.settings.mode!r} needs calibration data")
        observers: dict[int, Observer] = {index: observer(self.settings.observer) for index in activations(self.raw)}
        watchers: dict[int, list[Watcher]] = {
            index: [WholeBatches(one) if isinstance(one, MovingAverageMinMax) else one]
            for index, one in observers.items()
        }
        means: dict[int, ChannelMeans] = {}
        if self.settings.bias_correction:
            for operator in self.raw.operators:
                if operator.index in dtypes and SCHEMES[operator.name].weights is not None:
                    index = operator.inputs[data_input(operator)]
                    if index not in means:
                        means[index] = ChannelMeans()
                        watchers[index].append(means[index])
        tell = self.progress
        runs = watch(
            graph,
            self._keeping(graph, calibration),
            watchers,
            device=self.device,
            progress=None if tell is None else lambda count: tell("calibrating", count),
        )
        self.ranges = {index: one.range() for index, one in observers.items()}
        self.means = {index: one.means for index, one in means.items()}
        return runs

    def _keeping(self, graph: Graph, calibration: Iterable[Sample]) -> Iterator[tuple[Any, ...]]:
        """The samples; the first ones stay for the ranking."""
        rows = [graph.tensors[index].shape[0] for index in graph.inputs]
        left = RANKING_RUNS
        for sample in calibration:
            arrays = inputs_of(graph, sample)
            if left > 0 and all(getattr(array, "shape", ()) for array in arrays):
                self.kept.append(tuple(array[: left * row] for array, row in zip(arrays, rows, strict=True)))
                left -= int(self.kept[-1][0].shape[0]) // max(1, rows[0])
            yield arrays

    def _rank(self, dtypes: Mapping[int, Dtype]) -> list[Sensitivity]:
        tell = self.progress
        return rank(
            self.raw,
            dtypes,
            self.ranges,
            self.mode,
            self.kept,
            device=self.device,
            per_tensor=self.settings.per_tensor,
            progress=None if tell is None else lambda count: tell("ranking", count),
        )

    def _rewrite(self, dtypes: Mapping[int, Dtype]) -> Rewritten:
        return rewrite(
            self.raw,
            dtypes,
            self.ranges,
            self.mode,
            interface=INTERFACES[self.settings.input_output],
            per_tensor=self.settings.per_tensor,
            means=self.means,
        )

    def _runnable(self, dtypes: Mapping[int, Dtype]) -> dict[int, Dtype]:
        """Those operators that the reference runtime runs in their dtype; the others fall back, from int16 to the
        mode's dtype, from that to float32.
        """
        found = dict(dtypes)
        while True:
            rewritten = self._rewrite(found)
            refused = _refused(rewritten)
            fallen = [origin for origin in refused if origin in found]
            if not fallen:
                return found
            for origin in fallen:
                was = found.pop(origin)
                if was != self.mode.activations and self.mode.activations is not None:
                    found[origin] = self.mode.activations


def _refused(rewritten: Rewritten) -> list[int]:
    """The float network's operators whose quantized form cannot be read, or which the runtime lacks."""
    try:
        graph = build(rewritten.model)
    except UnsupportedModel as error:
        refused = [rewritten.origins[index] for index in error.operators]
    else:
        refused = []
        for node in graph.nodes:
            row = profiles.find_row(REFERENCE, node.spec)
            scheme = SCHEMES.get(node.spec.op)
            unwanted = scheme is not None and not scheme.in_int16 and node.spec.activation_dtype == INT16
            if row is None or row.rule is None or unwanted:
                refused.append(rewritten.origins[node.index])
    return [origin for origin in refused if origin is not None]
