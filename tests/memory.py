"""What calls leave behind: every object of Python's is at least one block, an array too."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

CALLS = 10_000


def leaked_blocks(call: Callable[[], Any], calls: int = CALLS) -> int:
    """Blocks that each quarter of the calls leaves behind at least; the interpreter's own tables grow now and then."""
    for _ in range(20):
        call()
    left = []
    for _ in range(4):
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(calls // 4):
            call()
        gc.collect()
        left.append(sys.getallocatedblocks() - before)
    return min(left)
