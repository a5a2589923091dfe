"""How commands speak: text and JSON on stdout, notes and progress on stderr.

Names and descriptions come from files that nobody vouches for. Everything printed goes through `printable`, so that
no file can move the cursor, recolour a terminal or break a line.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PROGRESS_AFTER_SECONDS = 1.0


def printable(value: object) -> str:
    """The value's text on one line, each character that a terminal would obey written as an escape."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def encodable(text: str, stream: TextIO) -> str:
    """The text with characters that the stream's encoding lacks written as escapes."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write(text: str = "") -> None:
    """Prints lines on stdout."""
    print(encodable(text, sys.stdout))


def write_json(value: Any) -> None:
    """Prints one JSON document on stdout; NaN and infinities, which JSON lacks, become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def note(text: str) -> None:
    """Prints a remark on stderr, where it mixes with no result."""
    print(encodable(f"gpuq: note: {printable(text)}", sys.stderr), file=sys.stderr)


def table(rows: Sequence[Sequence[object]], align: str) -> str:
    """Rows as columns two spaces apart.

    Args:
        align: one character a column, "<" or ">".
    """
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(align))]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in texts
    )


def indented(text: str) -> str:
    """Every line two spaces in."""
    return "\n".join(f"  {line}" for line in text.splitlines())


class Progress:
    """A bar on stderr, shown only on a terminal and only once the work has taken a second.

    >>> with Progress("running", 3) as progress:
    ...     progress.advance(3)
    """

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Says that this much more is done."""
        self._done += count
        unfinished = self._done < self._total
        if self._bar is None and unfinished and time.monotonic() - self._start > PROGRESS_AFTER_SECONDS:
            self._bar = self._open()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def _open(self) -> RichProgress | None:
        if not sys.stderr.isatty():
            return None
        # rich takes a tenth of a second to import: only who sees the bar pays for it.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        bar.add_task(self._what, total=self._total)
        bar.start()
        return bar


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
