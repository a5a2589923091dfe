"""`gpuq quantize`: an integer network of a float one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpuq.commands.dataset import Feed, Reading, open_feeds
from gpuq.commands.files import check_output, unreadable
from gpuq.commands.images import parse_normalization
from gpuq.commands.output import Progress, indented, note, printable, table, write, write_json
from gpuq.errors import InputTypeError, InputValueError, ModelError
from gpuq.model.tflite_reader import build
from gpuq.model.tflite_writer import save
from gpuq.ptq.quantize import Quantized, Settings, quantize_with, raw_model
from gpuq.ptq.rewrite import can_quantize


@dataclass(frozen=True)
class QuantizeOptions:
    """The arguments of `gpuq quantize`.

    Attributes:
        files: INPUTs for calibration, for a model with one input.
        named: NAME=FILE, for any model.
        output: the .tflite to write.
        batch: samples per call.
        mean, std: as typed, or None.
    """

    model: str
    files: Sequence[str]
    named: Sequence[str]
    output: str
    mode: str
    observer: str
    input_output: str
    per_tensor: bool
    equalize: bool
    bias_correction: bool
    sensitivity: bool
    keep_int16: int
    device: str
    batch: int
    mean: str | None
    std: str | None
    as_json: bool

    @property
    def settings(self) -> Settings:
        return Settings(
            mode=self.mode,
            observer=self.observer,
            input_output=self.input_output,
            per_tensor=self.per_tensor,
            equalize=self.equalize,
            bias_correction=self.bias_correction,
            keep_int16=self.keep_int16,
        )


def run_quantize(options: QuantizeOptions) -> int:
    """Quantizes the model, writes it and says what became of it; 0.

    Everything that can be refused without computing is refused first; the output appears whole or not at all.

    Raises:
        GpuqError: settings, a model, data or an output path that break a rule.
        OSError: the output cannot be written.
    """
    settings = options.settings
    mode = settings.check()
    if options.batch < 1:
        raise InputValueError(f"--batch {options.batch} must be at least 1")
    check_output(options.output, (".tflite",))
    try:
        raw = raw_model(options.model)
        graph = build(raw)
    except OSError as error:
        raise unreadable("model", options.model, error) from error
    except ModelError as error:
        error.args = (f"{os.path.basename(options.model)}: {error}",)
        raise
    if not any(can_quantize(raw, operator) for operator in raw.operators):
        raise InputValueError(f"model {options.model!r} has no float32 operator that could be quantized")
    feeds: list[Feed] = []
    if mode.activations is not None:
        if not options.files and not options.named:
            raise InputTypeError(f"mode {options.mode!r} needs calibration data: --calibrate INPUT ...")
        feeds = open_feeds(graph, options.files, options.named, Reading(parse_normalization(options.mean, options.std)))
        for source in (source for feed in feeds for source in feed.sources):
            if source.remark:
                note(source.remark)
    elif options.files or options.named:
        note(f"mode {options.mode} needs no calibration data; it is not read")
    result = _quantize(options, settings, raw, feeds)
    save(result.graph, options.output)
    if options.as_json:
        write_json(_json(options, result))
    else:
        write(_text(options, result))
    return 0


def _quantize(options: QuantizeOptions, settings: Settings, raw: Any, feeds: Sequence[Feed]) -> Quantized:
    runs = feeds[0].runs if feeds else 0
    layers = sum(can_quantize(raw, operator) for operator in raw.operators)
    with Progress("calibrating", runs) as calibrating, Progress("ranking", layers) as ranking:
        bars = {"calibrating": calibrating, "ranking": ranking}
        return quantize_with(
            settings,
            raw,
            _batches(feeds, options.batch) if feeds else None,
            with_sensitivities=options.sensitivity,
            device=options.device,
            progress=lambda what, count: bars[what].advance(count),
        )


def _batches(feeds: Sequence[Feed], batch: int) -> Iterator[tuple[Any, ...]]:
    runs = feeds[0].runs
    for start in range(0, runs, batch):
        yield tuple(feed.read(start, min(start + batch, runs)) for feed in feeds)


def _json(options: QuantizeOptions, result: Quantized) -> dict[str, Any]:
    return {
        "model": options.model,
        "output": options.output,
        "bytes": {"model": os.path.getsize(options.model), "output": os.path.getsize(options.output)},
        "settings": asdict(options.settings),
        "calibration_runs": result.runs,
        "equalized_pairs": result.equalized,
        "left_float": [{"operator": index, "name": name} for index, name in result.left_float],
        "int16_operators": list(result.kept_int16),
        "ranges": {name: list(pair) for name, pair in result.ranges.items()},
        "sensitivities": [asdict(one) for one in result.sensitivities],
        "suggested_int16": result.suggested_int16,
    }


def _text(options: QuantizeOptions, result: Quantized) -> str:
    before, after = os.path.getsize(options.model), os.path.getsize(options.output)
    lines = [
        f"{printable(options.output)}: {options.mode}, {after:,} bytes ({after / before:.0%} of the float file)",
    ]
    if result.runs:
        lines.append(f"calibrated on {result.runs} samples, observer {options.observer}")
    if options.equalize:
        lines.append(f"equalized {result.equalized} pairs of layers")
    if result.kept_int16:
        lines.append("int16 activations: operators " + ", ".join(f"#{index}" for index in result.kept_int16))
    if result.left_float:
        lines.append("left float: " + ", ".join(f"#{index} {name}" for index, name in result.left_float))
    if options.sensitivity and result.sensitivities:
        rows: list[Sequence[object]] = [("operator", "", "SQNR dB", "share of noise", "output")]
        total = sum(one.noise for one in result.sensitivities)
        for one in result.sensitivities:
            share = one.noise / total if total else 0.0
            rows.append((f"#{one.operator}", one.name, f"{one.sqnr_db:.1f}", f"{share:.1%}", _short(one.tensor)))
        lines += ["each operator quantized alone, the most sensitive first:", indented(table(rows, "<<>><"))]
        lines.append(
            f"the first {result.suggested_int16} make half of the noise: --keep-int16 {result.suggested_int16}"
        )
    return "\n".join(lines)


def _short(name: str, width: int = 60) -> str:
    return name if len(name) <= width else f"...{name[3 - width :]}"
