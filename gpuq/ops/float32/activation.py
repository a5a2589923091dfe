"""Fused activations of float32 operators: clamps.

Source: LiteRT f67457790, tflite/kernels/kernel_util.h (CalculateActivationRange).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.numerics import ACTIVATION_BOUNDS
from gpuq.ops.spec import Spec


def check_activation(spec: Spec, activation: str | None) -> None:
    """Raises InputValueError unless it is one that clamps."""
    spec.require(activation in ACTIVATION_BOUNDS, f"activation {activation!r} must be one of {list(ACTIVATION_BOUNDS)}")


def clamp(activation: str | None, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values within the activation's bounds, float32."""
    low, high = ACTIVATION_BOUNDS[activation]
    if low is not None:
        values = np.maximum(values, np.float32(low))
    if high is not None:
        values = np.minimum(values, np.float32(high))
    return np.asarray(values, np.float32)
