"""`gpuq profile`: where the time of a network goes, step by step."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpuq.commands.files import check_output, load_model
from gpuq.commands.output import printable, table, write, write_json
from gpuq.errors import InputValueError
from gpuq.model.profile import Profile, profile
from gpuq.ops.spec import shape_text


@dataclass(frozen=True)
class ProfileOptions:
    """The arguments of `gpuq profile`.

    Attributes:
        batch: runs at once.
        repeats: launches of each step.
        fuse: see gpuq.load.
        plot: a .png to draw, or None.
    """

    model: str
    device: str
    profile: str
    batch: int
    repeats: int
    fuse: bool
    plot: str | None
    as_json: bool


def run_profile(options: ProfileOptions) -> int:
    """Times every step and the whole, and prints a table or JSON; 0.

    Raises:
        GpuqError: a model, batch or plot path that breaks a rule.
    """
    for name, value in (("--batch", options.batch), ("--repeats", options.repeats)):
        if value < 1:
            raise InputValueError(f"{name} {value} must be at least 1")
    pyplot = None
    if options.plot is not None:
        check_output(options.plot, (".png",))
        pyplot = _pyplot()
    model = load_model(options.model, device=options.device, numerics=options.profile, fuse=options.fuse)
    found = profile(model, options.batch, options.repeats)
    if pyplot is not None and options.plot is not None:
        _draw(pyplot, found, Path(options.plot), options.model)
    if options.as_json:
        write_json(_json(options, found))
    else:
        write(_text(options, found))
    return 0


def _text(options: ProfileOptions, found: Profile) -> str:
    head: list[object] = ["step", "operator", "kernel", "output", "us", "share", "GOPS", "GB/s", "of ceiling"]
    rows = [
        [
            step.number,
            step.op,
            step.kernel,
            shape_text(step.shape),
            f"{1e6 * step.seconds:.1f}",
            f"{step.seconds / found.sum_seconds:.1%}",
            f"{1e3 * step.tops:,.1f}" if step.macs else "-",
            f"{step.gigabytes_per_second:,.2f}",
            "-" if step.of_ceiling is None else f"{step.of_ceiling:.0%}",
        ]
        for step in found.steps
    ]
    images = found.batch / found.seconds
    ceilings = []
    if found.ceilings is not None:
        ceilings.append(
            f"ceilings measured on {found.device}: {found.ceilings.dp4a_tops:,.1f} TOPS of dp4a, "
            f"{found.ceilings.copy_gbs:,.0f} GB/s copied"
        )
    return "\n".join(
        [
            f"{printable(options.model)} on {found.device}, batch {found.batch}, numerics {options.profile}",
            table([head, *rows], "><<>>>>>>"),
            f"all steps together {1e3 * found.seconds:.3f} ms, {images:,.0f} runs a second; "
            f"one by one {1e3 * found.sum_seconds:.3f} ms",
            *ceilings,
        ]
    )


def _json(options: ProfileOptions, found: Profile) -> dict[str, Any]:
    return {
        "model": options.model,
        "device": found.device,
        "numerics": options.profile,
        "batch": found.batch,
        "seconds": found.seconds,
        "sum_seconds": found.sum_seconds,
        "ceilings": None if found.ceilings is None else asdict(found.ceilings),
        "steps": [
            asdict(step)
            | {
                "tops": step.tops,
                "gigabytes_per_second": step.gigabytes_per_second,
                "of_ceiling": step.of_ceiling,
            }
            for step in found.steps
        ],
    }


def _pyplot() -> Any:
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise InputValueError("--plot needs matplotlib: pip install matplotlib") from None


def _draw(pyplot: Any, found: Profile, path: Path, name: str) -> None:
    """A bar for each step, written whole or not at all."""
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.25 * len(found.steps)), layout="constrained")
    axes.barh([f"{step.number} {step.kernel}" for step in found.steps], [1e6 * step.seconds for step in found.steps])
    axes.invert_yaxis()
    axes.set_xlabel("microseconds")
    axes.set_title(f"{Path(name).name}, {found.device}, batch {found.batch}: {1e3 * found.seconds:.3f} ms")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=150)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        pyplot.close(figure)
