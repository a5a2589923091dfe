"""Holds BLAS to one thread while gpuq computes.

The products are small: BLAS threads that wait for each other on a busy machine were measured up to ten times slower
than one thread. Sharing the batch among Python threads is no way out, for the calls between two hand-overs of the
interpreter's lock are as short; use the other cores by running several processes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_users = 0
_limiter: Any = None


@contextmanager
def single_threaded() -> Iterator[None]:
    """BLAS uses one thread from the first caller's entry to the last one's exit, then what it used before.

    The setting belongs to the process; counting callers keeps one thread from restoring it under another.
    """
    global _users, _limiter
    with _lock:
        if _users == 0:
            _limiter = _controller().limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limiter.restore_original_limits()


_found: ThreadpoolController | None = None


def _controller() -> ThreadpoolController:
    """What threadpoolctl finds among the loaded libraries; looking takes milliseconds, so once."""
    global _found
    if _found is None:
        _found = ThreadpoolController()
    return _found
