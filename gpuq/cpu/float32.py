"""float32 operators: reference() on blocks of runs that stay in a core's cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.reference import ReferencePlan
from gpuq.ops.float32.weighted import FloatConv2dSpec

# Bytes of taps and outputs of a block: measured on ResNet-8 and a MobileNet, flat from 1 to 8 MiB; beyond that the
# gathered taps leave the cache, and a convolution takes three times as long.
BLOCK_BYTES = 1 << 21


class BlockedPlan(ReferencePlan):
    """A ReferencePlan that takes a few runs at a time."""

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        runs = outputs[0].shape[0]
        taps = math.prod(self.spec.weights_shape[1:]) if isinstance(self.spec, FloatConv2dSpec) else 1
        bytes_per_run = 4 * (math.prod(outputs[0].shape[1:-1]) * taps + math.prod(outputs[0].shape[1:]))
        block = max(1, BLOCK_BYTES // bytes_per_run)
        for first in range(0, runs, block):
            last = min(runs, first + block)
            parts = [x if x.shape[0] != runs else x[first:last] for x in inputs]
            super().launch(parts, [outputs[0][first:last]], workspace, stream)
