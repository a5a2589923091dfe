"""quantize() and dequantize() of whole device arrays, with the checks that the driver does not make."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gpuq.cuda import arrays
from gpuq.cuda.elementwise import AffineMap
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.launch import launcher
from gpuq.errors import InputTypeError, InputValueError
from gpuq.ops.spec import FLOAT32
from gpuq.quant import Quant


def affine_on_device(
    op: str, x: Any, quant: Quant, *, narrow_range: bool = False, out: Any = None, stream: Any = None
) -> Any:
    """Quantizes or dequantizes an array on its GPU.

    Args:
        op: "quantize" (float32 to codes; NaN gives the lowest code) or "dequantize" (codes to float32).
        x: C-contiguous, any shape.
        out: where to write; default: a new array of x's kind.
        stream: see gpuq.cuda.launch.as_stream.

    Raises:
        InputTypeError, InputValueError: a wrong dtype, shape or device, a view, scales that do not fit, a zero scale.
    """
    x_dtype, y_dtype = (FLOAT32, quant.dtype) if op == "quantize" else (quant.dtype, FLOAT32)
    if op == "quantize" and np.any(quant.scales == 0):
        raise InputValueError("quantize: scale 0 cannot quantize; it must be positive")
    given, x = x, arrays.as_cupy(x, stream)
    if x.dtype != x_dtype:
        raise InputTypeError(f"{op}: x of {x.dtype} must be {x_dtype} on a GPU; nothing is cast")
    device = launcher(int(x.device.id))
    device.check(f"{op}: x", x)
    affine = AffineMap.of(op, quant, x.shape, narrow_range=narrow_range)
    if out is None:
        y = arrays.empty_array(device, x.shape, y_dtype, stream)
    else:
        if not arrays.is_device_array(out):
            raise InputTypeError(f"{op}: out is on the CPU and x on cuda:{device.device}")
        y = arrays.as_cupy(out, stream)
        device.check(f"{op}: out", y)
        if y.dtype != y_dtype or y.shape != x.shape:
            raise InputValueError(f"{op}: out {y.dtype} {y.shape} must be {y_dtype} {x.shape}")
    if x.size:
        launch = affine.launch(x.size, device.misalignment(x), device.misalignment(y))
        device.prepare([launch.kernel])
        memory = _constants(device.device, quant) | {"x": Pointer(x), "y": Pointer(y)}
        device.launch(launch.bound(memory), stream)
    return arrays.like(given, y, stream) if out is None else out


@lru_cache(maxsize=256)
def _constants(device: int, quant: Quant) -> dict[str, Pointer]:
    """Scales and zero points on this GPU."""
    return launcher(device).upload(AffineMap("quantize", quant).constants)
