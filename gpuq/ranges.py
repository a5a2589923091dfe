"""NVTX ranges for Nsight; no-ops where nvtx does not exist (macOS)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

try:
    import nvtx
except ImportError:
    nvtx = None


def annotate(name: str) -> AbstractContextManager[Any]:
    """A range with this name around a with-block."""
    if nvtx is None:
        return nullcontext()
    context: AbstractContextManager[Any] = nvtx.annotate(name, domain="gpuq")
    return context
