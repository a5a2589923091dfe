"""The scripts in examples/ run as a user would run them."""

from __future__ import annotations

import subprocess
import sys

from gpuq.resources import resource


def test_quantize_digits() -> None:
    script = resource("examples", "quantize_digits.py")
    done = subprocess.run([sys.executable, str(script), "--device", "cpu"], capture_output=True, text=True, check=True)
    rows = [line.rsplit(maxsplit=3) for line in done.stdout.splitlines()[1:]]
    accuracy = {row[0].strip(): float(row[2].rstrip("%")) for row in rows}
    assert len(accuracy) == 10
    assert accuracy["int8"] >= accuracy["float"] - 0.2
    assert min(accuracy.values()) > 95
