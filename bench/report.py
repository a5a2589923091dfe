"""Writes the tables of README.md from bench/results/*.json, between markers.

    python bench/report.py [--check]

A table NAME comes from bench/results/NAME.json and stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.
--check writes nothing and fails where a table is not what its JSON gives.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
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
    """Whole models at batch 8, one thread each: images per second and the ratio to each of LiteRT's resolvers."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "| model | gpuq, images/s | x BUILTIN_REF | x optimized | x XNNPACK (default) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["results"]:
        if row["batch"] != 8 or row["threads"] != 1 or "error" in row["gpuq"]:
            continue
        speed = row["gpuq"]["images_per_s"]
        ratios = (ratio(speed, row[name]) for name in ("litert_ref", "litert_opt", "litert_xnnpack"))
        lines.append(f"| {row['model']} | {speed:,.0f} | {' | '.join(ratios)} |")
    lines += [
        "",
        "Batch 8, one thread each, random inputs; above 1 gpuq is faster. Only BUILTIN_REF gives the same bits. "
        f"{machine['cpu']}, {machine['cores']} cores; {versions}; {machine['date'][:10]}. "
        "`make bench` measures it on your machine.",
    ]
    return "\n".join(lines)


def ratio(ours: float, other: dict[str, Any]) -> str:
    return "refused" if "error" in other else f"{ours / other['images_per_s']:.2f}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"models_cpu": models_cpu}

if __name__ == "__main__":
    sys.exit(main())
