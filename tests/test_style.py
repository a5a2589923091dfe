"""The rules of the code itself: import contracts, lint, formatting, types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def check(*command: str) -> None:
    """Runs a tool in the checkout; its output is the failure's message."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_import_contracts() -> None:
    check("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")


def test_lint() -> None:
    check("-m", "ruff", "check", ".")


def test_format() -> None:
    check("-m", "ruff", "format", "--check", ".")


def test_types() -> None:
    check("-m", "mypy", "--strict", "gpuq")
