"""The plan of operators whose reference() is fast enough as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.registry import constant_operands, references
from gpuq.ops.spec import Spec


class ReferencePlan:
    """Calls reference(); constant operands are one run that broadcasts over all, those left out (a bias) come last."""

    def __init__(self, spec: Spec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> None:
        self.spec = spec
        self.name = f"{spec.op.lower()}_reference"
        self._rule = rule
        self._constants = constant_operands(spec, constants)
        self.constant_bytes = sum(constant.nbytes for constant in self._constants if constant is not None)

    def workspace_bytes(self, runs: int) -> int:
        return 0

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        activations = iter(inputs)
        operands = [next(activations, None) if constant is None else constant for constant in self._constants]
        # Of constants alone (a constant for a variable) there is one run.
        values = references(self.spec, self._rule, *operands)
        for output, value in zip(outputs, values, strict=True):
            runs, *shape = output.shape
            output[...] = value.reshape(runs if inputs else 1, *shape)
