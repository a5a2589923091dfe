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
from gpuq.model.tflite_writer import save
from gpuq.operators import (
    OperatorPlan,
    conv2d,
    depthwise_conv2d,
    dequantize,
    fully_connected,
    plan_conv2d,
    plan_depthwise_conv2d,
    plan_fully_connected,
    plan_requantize,
    quantize,
    quantize_bias,
    quantize_weights,
    requantize,
    round_trip_error,
)
from gpuq.ptq.quantize import quantize_model
from gpuq.quant import Quant, RoundTripError

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
    "OperatorPlan",
    "Quant",
    "RoundTripError",
    "Session",
    "UnsupportedModel",
    "conv2d",
    "depthwise_conv2d",
    "dequantize",
    "fully_connected",
    "load",
    "plan_conv2d",
    "plan_depthwise_conv2d",
    "plan_fully_connected",
    "plan_requantize",
    "quantize",
    "quantize_bias",
    "quantize_model",
    "quantize_weights",
    "requantize",
    "round_trip_error",
    "save",
]
