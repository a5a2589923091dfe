"""Writes the tables of README.md from bench/results/*.json, between markers; plots and summaries of a GPU's results.

    python bench/report.py [--check]
    python -m bench.report --plots FOLDER       # roofline and peers as PNG, beside the JSON; needs matplotlib
    python -m bench.report --summary FOLDER     # what gpu_session.sh found, as text

A table NAME comes from bench/results/NAME.json and stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.
--check writes nothing and fails where a table is not what its JSON gives.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write PNGs into this folder of results")
    parser.add_argument("--summary", type=Path, metavar="FOLDER", help="print what this folder of results holds")
    arguments = parser.parse_args()
    if arguments.plots or arguments.summary:
        if arguments.plots:
            print("\n".join(plots(arguments.plots)))
        if arguments.summary:
            print("\n".join(summary(arguments.summary)))
        return 0
    old = README.read_text()
    new = old
    for name, table in TABLES.items():
        path = REPOSITORY / "bench" / "results" / f"{name}.json"
        if path.exists():
            new = between_markers(new, name, table(json.loads(path.read_text())))
    if arguments.check:
        return int(new != old)
    if new != old:
        with tempfile.NamedTemporaryFile("w", dir=REPOSITORY, suffix=".tmp", delete=False) as file:
            file.write(new)
        os.replace(file.name, README)
    return 0


def between_markers(text: str, name: str, table: str) -> str:
    """The text with this table between the markers of this name."""
    first, last = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{README.name} lacks the markers {first} and {last}")
    return pattern.sub(lambda _: f"{first}\n{table}\n{last}", text)


def models_cpu(report: dict[str, Any]) -> str:
    """Whole networks at batch 8, one thread each: images per second and the ratio to each of LiteRT's resolvers."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "| model | gpuq, images/s | x BUILTIN_REF | x optimized | x XNNPACK (default) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["results"]:
        if row["batch"] != 8 or row["threads"] != 1 or "images_per_s" not in row["gpuq"]:
            continue
        speed = row["gpuq"]["images_per_s"]
        ratios = (ratio(speed, row[name]) for name in ("litert_ref", "litert_opt", "litert_xnnpack"))
        lines.append(f"| {row['model']} | {speed:,.0f} | {' | '.join(ratios)} |")
    lines += [
        "",
        "Batch 8, one thread each, random inputs; above 1 gpuq is faster. Only BUILTIN_REF gives the same bits; "
        "networks without it are built in memory, random weights and all, and have no file that LiteRT could load. "
        f"{machine['cpu']}, {machine['cores']} cores; {versions}; {machine['date'][:10]}. "
        "`make bench` measures it on your machine.",
    ]
    return "\n".join(lines)


def ratio(ours: float, other: dict[str, Any] | None) -> str:
    """How many times as fast as another runtime; "-" where there was none to compare with."""
    if other is None or "unavailable" in other:
        return "-"
    return "refused" if "error" in other else f"{ours / other['images_per_s']:,.2f}"


MODEL_PEERS = {
    "torch_bf16": "PyTorch bf16",
    "torch_compiled": "torch.compile",
    "litert_ref": "BUILTIN_REF",
    "litert_xnnpack": "XNNPACK",
}


def models_cuda(report: dict[str, Any]) -> str:
    """Whole networks on a GPU: latency at the smallest batch, images per second and the peers at the largest."""
    rows = {(row["model"], row["batch"]): row for row in report["results"]}
    batches = sorted({batch for _, batch in rows})
    first, last = batches[0], batches[-1]
    speeds = " | ".join(f"N={batch}, images/s" for batch in batches)
    peers = " | ".join(f"x {text}" for text in MODEL_PEERS.values())
    lines = [
        f"| network | N={first}, ms | {speeds} | of the bound | {peers} |",
        f"| --- |{' ---: |' * (2 + len(batches) + len(MODEL_PEERS))}",
    ]
    for model in dict.fromkeys(row["model"] for row in report["results"]):
        found = [rows[model, batch]["gpuq"] for batch in batches]
        if not any("images_per_s" in each for each in found):
            continue
        largest = found[-1]
        speed, share = largest.get("images_per_s"), largest.get("share_of_bound")
        cells = [model, f"{1e3 * found[0]['median_s']:.3f}" if "median_s" in found[0] else "-"]
        cells += [f"{each['images_per_s']:,.0f}" if "images_per_s" in each else "-" for each in found]
        cells.append("-" if share is None else f"{share:.0%}")
        cells += ["-" if speed is None else ratio(speed, rows[model, last].get(name)) for name in MODEL_PEERS]
        lines.append(f"| {' | '.join(cells)} |")
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines += [
        "",
        f"At N={last}: the bound is each layer at the measured rate of dp4a or bandwidth of a copy, the slower one; "
        "beside its peers gpuq is faster above 1. PyTorch runs the same network in bfloat16, channels last, under a "
        "CUDA graph; LiteRT on one core of the host. BUILTIN_REF alone gives the same bits. Random inputs. "
        f"{machine.get('gpu')}, driver {machine.get('driver')}, {machine['cpu']}; {versions}; {machine['date'][:10]}. "
        "`python -m bench.bench_models --device cuda` measures it on your machine.",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------- convolutions on a GPU

CLASSES = ("big 3x3", "1x1 wide", "1x1 narrow", "depthwise", "stem", "odd")
PEERS = ("torch_bf16", "int_mm", "cudnn_int8")


class Measured:
    """The rows of a bench_conv2d.py report, by layer and batch."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.layers: dict[str, dict[str, Any]] = report["layers"]
        self.batches: list[int] = sorted({row["n"] for row in report["results"]})
        self._ours: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in report["results"]:
            self._ours.setdefault((row["layer"], row["n"]), []).append(row)
        self._peers = {(row["layer"], row["n"], row["peer"]): row for row in report["peers"]}

    def chosen(self, layer: str, batch: int) -> dict[str, Any] | None:
        """What gpuq runs; None where it was not measured."""
        rows = self._ours.get((layer, batch), [])
        return next((row for row in rows if row["is_chosen_by_model"]), None)

    def best(self, layer: str, batch: int) -> dict[str, Any] | None:
        """The fastest candidate that was measured."""
        rows = self._ours.get((layer, batch), [])
        return next((row for row in rows if row["is_best"]), None)

    def peer(self, layer: str, batch: int, name: str) -> dict[str, Any] | None:
        row = self._peers.get((layer, batch, name))
        return row if row and "median_s" in row else None

    def of_class(self, name: str) -> list[str]:
        return [layer for layer, about in self.layers.items() if name in about["classes"]]

    @property
    def machine_text(self) -> str:
        machine = self.report["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
        return f"{machine.get('gpu')}, driver {machine.get('driver')}; {versions}; {machine.get('date', '')[:10]}"


def conv2d_cuda(report: dict[str, Any]) -> str:
    """The layer classes: time at each batch by gpuq's own choice, rates at the largest, and PyTorch beside it."""
    found, ceilings = Measured(report), report["ceilings"]
    largest = found.batches[-1]
    times = " | ".join(f"N={batch}, us" for batch in found.batches)
    lines = [
        f"| class | layer | {times} | TOPS | GB/s | of the roof | x PyTorch bf16 |",
        f"| --- | --- | {' | '.join('---:' for _ in found.batches)} | ---: | ---: | ---: | ---: |",
    ]
    for name in CLASSES:
        for layer in found.of_class(name):
            rows = [found.chosen(layer, batch) for batch in found.batches]
            last, peer = rows[-1], found.peer(layer, largest, "torch_bf16")
            cells = [name, layer, *("-" if row is None else f"{1e6 * row['median_s']:,.1f}" for row in rows)]
            if last is None:
                cells += ["-"] * 4
            else:
                roof = last["share_roof"]
                cells += [f"{last['tops']:.1f}", f"{last['gbs']:,.0f}", "-" if roof is None else f"{roof:.0%}"]
                cells.append("-" if peer is None else f"{peer['median_s'] / last['median_s']:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    measured = ""
    if ceilings.get("dp4a_tops"):
        measured = f"measured ceilings {ceilings['dp4a_tops']:.0f} TOPS of dp4a and {ceilings['hbm_gbs']:,.0f} GB/s; "
    lines += [
        "",
        f"Exact {report['dtype']} layers ({report['numerics']}), every output checked; rates at N={largest}; the roof "
        f"is the slower of arithmetic and memory, {measured}above 1 gpuq is faster. Random inputs, cold caches. "
        f"{found.machine_text}. `python -m bench.bench_conv2d` measures it on your machine.",
    ]
    return "\n".join(lines)


def read_json(path: Path) -> Any:
    """The file's content; None where there is none, or half of one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


# ---- text


def summary(folder: Path) -> list[str]:
    """What gpu_session.sh left in its folder, in lines; what is missing is said to be."""
    lines: list[str] = []
    for title, part in (
        ("tests", tests_summary(folder / "gpu_tests.xml")),
        ("microbench", microbench_summary(read_json(folder / "microbench.json"))),
        ("sanitize", sanitize_summary(read_json(folder / "sanitize.json"))),
        ("models", models_summary(read_json(folder / "models_cuda.json"))),
        ("classes", classes_summary(read_json(folder / "conv2d_cuda.json"))),
        ("all candidates", choices_summary(read_json(folder / "conv2d_cuda_all.json"))),
    ):
        lines.append(f"---- {title}")
        lines += list(part) or ["nothing"]
    return lines


def tests_summary(path: Path) -> Iterator[str]:
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return
    counts = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    yield ", ".join(f"{count} {name}" for name, count in counts.items())
    failed = [case for suite in suites for case in suite.iter("testcase") if case.find("failure") is not None]
    for case in failed[:10]:
        failure = case.find("failure")
        message = " ".join((failure.get("message") or "").split()) if failure is not None else ""
        yield f"  {case.get('name')}: {message[:150]}"


def microbench_summary(report: dict[str, Any] | None) -> Iterator[str]:
    if report is None:
        return
    machine = report["machine"]
    yield f"{machine.get('gpu')}, {machine.get('multiprocessors')} SMs, driver {machine.get('driver')}"
    yield ", ".join(f"{name} {value:,.1f}" for name, value in report["ceilings"].items() if value is not None)
    rates = []
    for row in report["results"]:
        if "error" in row:
            yield f"{row['figure']}: {row['error'][:200]}"
        elif row["figure"] == "ceilings":
            continue  # the line above
        elif "per_clock_sm" in row:
            extra = "".join(f"/{row[key]}" for key in ("chains", "sharers") if key in row)
            value = row.get("warp_loads_per_clock_sm", row["per_clock_sm"])
            rates.append(f"{row['figure']}{extra} {value:.2f}")
        elif "gbs" in row:
            rates.append(f"{row['figure']} {row['gbs']:,.0f} GB/s")
        else:
            rates.append(f"{row['figure']} {row['microseconds']:.2f} us")
    yield "per clock and SM (loads: of a warp): " + ", ".join(rates)


def sanitize_summary(report: dict[str, Any] | None) -> Iterator[str]:
    for row in (report or {}).get("results", ()):
        yield f"{row['tool']:<10} {row['verdict'][:160]}"
        if row["failed"]:
            yield from (f"    {line[:160]}" for line in row["log"].splitlines()[-6:])


def problem_lines(report: dict[str, Any], most: int = 8) -> Iterator[str]:
    for problem in report["problems"][:most]:
        yield "! " + " ".join(f"{value}" for value in problem.values())[:200]
    if len(report["problems"]) > most:
        yield f"! and {len(report['problems']) - most} more"


def classes_summary(report: dict[str, Any] | None) -> Iterator[str]:
    """One line a layer: for each batch microseconds, share of the roof and the cost of a wrong choice; then peers."""
    if report is None:
        return
    found = Measured(report)
    yield "us, share of the roof, slowdown of the model's choice where it is not the best; peers: their time / ours"
    for name in CLASSES:
        for layer in found.of_class(name):
            parts = [f"{layer.replace('depthwise_conv2d', 'dw').replace('conv2d_', ''):<24}"]
            for batch in found.batches:
                best, chosen = found.best(layer, batch), found.chosen(layer, batch)
                if best is None:
                    parts.append(f"N{batch} -")
                    continue
                text = f"N{batch} {1e6 * best['median_s']:.1f}"
                if best["share_roof"] is not None:
                    text += f" {best['share_roof']:.0%}"
                if chosen and chosen is not best:
                    text += f" x{chosen['median_s'] / best['median_s']:.2f}"
                parts.append(text)
                for peer in PEERS:
                    row = found.peer(layer, batch, peer)
                    if row:
                        parts.append(f"{peer[:5]} {row['median_s'] / best['median_s']:.2f}")
            slower = slower_than_padded(found, layer)
            parts += [f"x{slower:.2f} of padded"] if slower else []
            yield "  ".join(parts)
    reasons = Counter(f"{row['peer']}: {row['unavailable'][:110]}" for row in report["peers"] if "unavailable" in row)
    yield from (f"unavailable {count} times, {reason}" for reason, count in reasons.most_common(5))
    yield from problem_lines(report)


def slower_than_padded(found: Measured, layer: str) -> float | None:
    """Time per MAC over that of the shape it could be padded to, at the largest batch."""
    padded = found.layers[layer]["padded"]
    if padded == layer or not found.batches:
        return None
    ours, theirs = found.best(layer, found.batches[-1]), found.best(padded, found.batches[-1])
    if ours is None or theirs is None:
        return None
    return float(ours["median_s"] / ours["macs"] / (theirs["median_s"] / theirs["macs"]))


def models_summary(report: dict[str, Any] | None) -> Iterator[str]:
    """One line a network: for each batch milliseconds, share of the bound, and the time of PyTorch over ours."""
    if report is None:
        return
    whole = "" if report["complete"] else "; cut short"
    yield f"ms, share of the bound; PyTorch's time / ours, bf16 and compiled; x BUILTIN_REF{whole}"
    reasons: Counter[str] = Counter()
    for model in dict.fromkeys(row["model"] for row in report["results"]):
        parts = [f"{model:<28}"]
        for row in (row for row in report["results"] if row["model"] == model):
            ours = row["gpuq"]
            if "images_per_s" not in ours:
                parts.append(f"N{row['batch']} -")
                reasons[f"gpuq: {ours.get('error', ours.get('unavailable'))[:150]}"] += 1
                continue
            text = f"N{row['batch']} {1e3 * ours['median_s']:.3f}"
            if ours.get("share_of_bound") is not None:
                text += f" {ours['share_of_bound']:.0%}"
            parts.append(text)
            for name in ("torch_bf16", "torch_compiled", "litert_ref"):
                other = row.get(name, {})
                if "images_per_s" in other:
                    parts.append(f"{name.removeprefix('torch_')} {ours['images_per_s'] / other['images_per_s']:,.2f}")
                elif other:
                    reasons[f"{name}: {other.get('error', other.get('unavailable'))[:110]}"] += 1
        yield "  ".join(parts)
    yield from (f"absent {count} times, {reason}" for reason, count in reasons.most_common(6))


def choices_summary(report: dict[str, Any] | None) -> Iterator[str]:
    """Which kernels win, how good gpuq's choices are, and what the layers of whole networks take."""
    if report is None:
        return
    found = Measured(report)
    whole = "complete" if report["complete"] else "cut short"
    yield f"{len(found.layers)} layers, {len(report['results'])} figures, {whole}"
    costs: list[tuple[float, str]] = []
    wins: Counter[str] = Counter()
    for layer in found.layers:
        for batch in found.batches:
            best, chosen = found.best(layer, batch), found.chosen(layer, batch)
            if best is None:
                continue
            wins[best["choice"]] += 1
            if chosen:
                cost = chosen["median_s"] / best["median_s"]
                costs.append((cost, f"{layer} N={batch}: {chosen['choice']} instead of {best['choice']}"))
    if costs:
        mean = math.exp(sum(math.log(cost) for cost, _ in costs) / len(costs))
        right = sum(cost <= 1.03 for cost, _ in costs)
        yield f"the model's choice: x{mean:.3f} of the best on average, within 3 % for {right} of {len(costs)}"
        yield from (f"  x{cost:.2f} {text}" for cost, text in sorted(costs, reverse=True)[:10] if cost > 1.03)
    yield "wins: " + ", ".join(f"{name} {count}" for name, count in wins.most_common(16))
    for network in sorted({name for about in found.layers.values() for name in about["networks"]}):
        parts = []
        for batch in found.batches:
            speed = network_speed(found, network, batch)
            if speed:
                parts.append(f"N{batch} {speed:,.0f}/s")
        if parts:
            yield f"{network}, layers with weights alone: {', '.join(parts)}"
    yield from problem_lines(report)


def network_speed(found: Measured, network: str, batch: int) -> float | None:
    """Images per second of all layers of a network one after the other; None where one was not measured."""
    from bench.layers import NETWORKS

    total = 0.0
    for layer in NETWORKS.get(network, ()):
        row = found.best(layer.name, batch)
        if row is None:
            return None
        total += row["median_s"]
    return batch / total if total else None


# ---- pictures


def plots(folder: Path) -> list[str]:
    """Draws what the folder's JSON allows.

    Returns:
        What was written, or why nothing was.
    """
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        return [f"no plots: {error}"]
    name = next((each for each in ("conv2d_cuda", "conv2d_cuda_all") if read_json(folder / f"{each}.json")), None)
    if name is None:
        return [f"no plots: no conv2d_cuda.json in {folder}"]
    report = read_json(folder / f"{name}.json")
    if not report["results"]:
        return [f"no plots: no results in {name}.json"]
    found = Measured(report)
    written = []
    for suffix, draw in (("roofline", draw_roofline), ("peers", draw_peers)):
        figure = draw(pyplot, found)
        path = folder / f"{name}_{suffix}.png"
        with tempfile.NamedTemporaryFile("wb", dir=folder, suffix=".tmp", delete=False) as file:
            figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
        os.replace(file.name, path)
        pyplot.close(figure)
        written.append(f"wrote {path}")
    return written


def draw_roofline(pyplot: Any, found: Measured) -> Any:
    """TOPS over operations per byte, every layer and batch, under the measured ceilings."""
    figure, axes = pyplot.subplots(figsize=(9, 6))
    rows = [row for row in found.report["results"] if row["is_best"]]
    for batch in found.batches:
        points = [(2 * row["macs"] / row["bytes"], row["tops"]) for row in rows if row["n"] == batch]
        if points:
            axes.scatter(*zip(*points, strict=True), s=18, alpha=0.7, label=f"N={batch}")
    dp4a, hbm = found.report["ceilings"].get("dp4a_tops"), found.report["ceilings"].get("hbm_gbs")
    if dp4a and hbm:
        intensities = [2.0 ** (step / 8) for step in range(-8, 96)]
        axes.plot(intensities, [min(dp4a, hbm * each / 1e3) for each in intensities], color="black", linewidth=1)
        axes.annotate(f"dp4a {dp4a:.0f} TOPS", (intensities[-1], dp4a), ha="right", va="bottom")
        axes.annotate(f"{hbm:,.0f} GB/s", (intensities[0], hbm * intensities[0] / 1e3), ha="left", va="bottom")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="TOPS", title=found.machine_text)
    axes.title.set_fontsize(8)
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    return figure


def draw_peers(pyplot: Any, found: Measured) -> Any:
    """TOPS of each layer of the classes at the largest batch, ours beside the peers'."""
    batch = found.batches[-1]
    names = [layer for name in CLASSES for layer in found.of_class(name) if found.best(layer, batch)]
    names = names or [layer for layer in found.layers if found.best(layer, batch)][:40]
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.42 * len(names)))
    kinds = ("gpuq", *PEERS)
    for place, kind in enumerate(kinds):
        values = []
        for layer in names:
            row = found.best(layer, batch) if kind == "gpuq" else found.peer(layer, batch, kind)
            values.append(row["tops"] if row else 0.0)
        offsets = [index + (place - 1.5) * 0.2 for index in range(len(names))]
        axes.barh(offsets, values, height=0.2, label=kind)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"TOPS at N={batch} (peers: without exact requantization)")
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.legend()
    return figure


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "models_cpu": models_cpu,
    "models_cuda": models_cuda,
    "conv2d_cuda": conv2d_cuda,
}

if __name__ == "__main__":
    sys.exit(main())
