"""Steps whose kernels may meet data that their operator refuses: an index outside its dimension, a divisor of 0.

A kernel cannot raise. Each such step has a word in the workspace: 0 before a call, then the largest reason that its
kernel found, which goes on with data that does no harm. Whoever waits for the call reads the words, and raises.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.cuda.kernel import Kernel, Launch, Pointer
from gpuq.cuda.layer import OnlyWayLayer
from gpuq.errors import InputValueError

THREADS = 128


def clear_kernel() -> Kernel:
    """clear_status.cu; its head says what the arguments mean."""
    return Kernel("clear_status", "clear_status.cu", "clear_status", (("THREADS", THREADS),), (THREADS, 1, 1))


KERNELS = (clear_kernel(),)


class CheckingLayer(OnlyWayLayer):
    """Base of layers with a kernel that checks its data; its word is the Slot "status"."""

    def refusal(self, reason: int) -> InputValueError:
        """The error for what the kernel has set its word to."""
        raise NotImplementedError


def clear_launch(words: Any) -> Launch:
    """What comes before the steps of a call.

    Args:
        words: int32, on the device.
    """
    return Launch(clear_kernel(), (1, 1, 1), (Pointer(words), np.int32(words.size)))
