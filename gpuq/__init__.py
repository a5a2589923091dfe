"""gpuq runs integer-quantized networks with exactly the bits of the runtime they ship on."""

from importlib.metadata import PackageNotFoundError, version

from gpuq.errors import (
    DeviceError,
    DeviceLost,
    DeviceNotAvailable,
    DeviceOutOfMemory,
    GpuqError,
    InputTypeError,
    InputValueError,
    KernelCompileError,
    MalformedModel,
    ModelError,
    ModelLimit,
    UnsupportedModel,
)
from gpuq.model.model import Model, Session, load
from gpuq.model.tflite_reader import Limits
from gpuq.quant import (
    Quant,
    RoundTripError,
    dequantize,
    quantize,
    quantize_bias,
    quantize_weights,
    round_trip_error,
)

try:
    __version__ = version("gpuq")
except PackageNotFoundError:  # running from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "DeviceError",
    "DeviceLost",
    "DeviceNotAvailable",
    "DeviceOutOfMemory",
    "GpuqError",
    "InputTypeError",
    "InputValueError",
    "KernelCompileError",
    "Limits",
    "MalformedModel",
    "Model",
    "ModelError",
    "ModelLimit",
    "Quant",
    "RoundTripError",
    "Session",
    "UnsupportedModel",
    "dequantize",
    "load",
    "quantize",
    "quantize_bias",
    "quantize_weights",
    "round_trip_error",
]
