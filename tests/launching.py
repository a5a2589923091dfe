"""Launches one plan the hard way: no byte more than it asked for, everything it may not read full of noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuq.plan import Plan

GUARD = 256


def launched(
    plan: Plan, inputs: Sequence[np.ndarray], shape: Sequence[int], dtype: Any, rng: np.random.Generator
) -> np.ndarray:
    """The output, (N, ...) of this shape and dtype, of one launch over N runs.

    The workspace is exactly as long as the plan says (a view beyond it raises), workspace and output hold random bytes
    beforehand, so that an uninitialised read shows, and neither the inputs nor the bytes around both may change.
    """
    size = plan.workspace_bytes(shape[0])
    room = noise(rng, size + 2 * GUARD)
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    out_room = noise(rng, nbytes + 2 * GUARD)
    guards = [room[:GUARD], room[GUARD + size :], out_room[:GUARD], out_room[GUARD + nbytes :]]
    before = [guard.copy() for guard in guards]
    originals = [x.copy() for x in inputs]
    for x in inputs:
        x.flags.writeable = False
    out = out_room[GUARD : GUARD + nbytes].view(dtype).reshape(shape)
    plan.launch(inputs, [out], room[GUARD : GUARD + size])
    for guard, was in zip(guards, before, strict=True):
        assert np.array_equal(guard, was), f"{plan.name} wrote outside its workspace or output: {plan.spec}"
    for x, original in zip(inputs, originals, strict=True):
        assert np.array_equal(x, original), f"{plan.name} changed its input: {plan.spec}"
    return out


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random bytes: as float32 they are numbers of every magnitude, and NaN."""
    return rng.integers(0, 256, size).astype(np.uint8)
