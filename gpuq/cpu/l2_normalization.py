"""L2_NORMALIZATION in float64, exact: products of codes and 31-bit multipliers stay below 2^53."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.l2_normalization import OUTPUT_BITS, L2NormalizationSpec
from gpuq.ops.spec import INT8

BLOCK_ELEMENTS = 1 << 16


class L2NormalizationPlan:
    """Rows in blocks that stay in the cache."""

    def __init__(self, spec: L2NormalizationSpec, rule: Rule) -> None:
        self.spec = spec
        self._rounds_once = rule.rounding is Rounding.FIXED_POINT_SINGLE
        self.name = "l2_normalization_float"
        self.constant_bytes = 0
        # int8 takes the 2^7 of the output's scale into the shift, uint8 into the value.
        self._bits = OUTPUT_BITS if spec.x_quant.dtype == INT8 else 0
        self._raise = OUTPUT_BITS - self._bits
        self._rows = max(1, BLOCK_ELEMENTS // spec.depth)

    def workspace_bytes(self, runs: int) -> int:
        return 0

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        x, y = (array.reshape(-1, self.spec.depth) for array in (inputs[0], outputs[0]))
        for first in range(0, x.shape[0], self._rows):
            self._normalize(x[first : first + self._rows], y[first : first + self._rows])

    def _normalize(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        out = self.spec.out_quant
        t = x.astype(np.float64)
        t -= self.spec.x_quant.scalar_zero_point()
        squares = np.einsum("rd,rd->r", t, t)[:, None].astype(np.int64)
        multiplier, shift = fixed_point.inverse_square_root(squares)
        shift = shift + self._bits
        # V2 rounds once, ties up. V1: the high product rounds ties up, the right shift rounds ties away from zero; a
        # left shift comes first.
        first_shift = shift if self._rounds_once else np.maximum(shift, 0)
        t *= np.ldexp(multiplier.astype(np.float64), first_shift + self._raise - 31)
        t += 0.5
        np.floor(t, out=t)
        if not self._rounds_once:
            t *= np.ldexp(1.0, np.minimum(shift, 0))
            t += np.copysign(0.5, t)
            np.trunc(t, out=t)
        t += out.scalar_zero_point()
        np.clip(t, out.qmin, out.qmax, out=t)
        np.copyto(y, t, casting="unsafe")
