"""Real TFLite runtimes beside gpuq: what they compute is what gpuq must compute, bit for bit."""

from __future__ import annotations

import os


def layers_each(default: int) -> int:
    """How many random layers a test of an operator with a file of its own draws: ten times as many where GPUQ_PEER_CASES
    asks for a long run.
    """
    return default * (10 if os.environ.get("GPUQ_PEER_CASES") else 1)
