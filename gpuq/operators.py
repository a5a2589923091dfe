"""Single operators on arrays: gpuq.conv2d(...) and the plans behind, which pack once and run often.

NumPy arrays are computed on the CPU and give NumPy arrays. CuPy arrays, and anything with DLPack or
__cuda_array_interface__ (a torch tensor), are computed on their GPU and give CuPy arrays, on the current stream of CuPy
or the one that is named, without waiting for the GPU. The bits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import cpu
from gpuq import quant as affine
from gpuq.cpu.blas import single_threaded
from gpuq.cuda import arrays
from gpuq.cuda.affine import affine_on_device
from gpuq.cuda.arrays import empty_array
from gpuq.cuda.launch import launcher
from gpuq.cuda.plans import CudaPlan, layer_of
from gpuq.devices import Device, resolve_device
from gpuq.errors import InputTypeError, InputValueError
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.spec import INT16, INT32, INT64, Spec, shape_text
from gpuq.ops.window import Window2d
from gpuq.plan import Plan
from gpuq.profiles import resolve
from gpuq.quant import Quant, RoundTripError
from gpuq.quant import dequantize as dequantize_numpy
from gpuq.quant import quantize as quantize_numpy
from gpuq.ranges import annotate

Pair = int | tuple[int, int]
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]


class OperatorPlan:
    """One operator with its constants packed on one device: call it with any batch, from any thread.

    Attributes:
        spec: what it computes.
        device: where.
        input_shape, output_shape: of one run, without the batch dimension.
    """

    def __init__(
        self, spec: Spec, plan: Plan, device: Device, input_shape: tuple[int, ...], x_dtype: Any, y_dtype: Any
    ) -> None:
        self.spec = spec
        self.device = device
        self.input_shape = input_shape
        self.output_shape = tuple(spec.output_shape)
        self._plan = plan
        self._dtypes = np.dtype(x_dtype), np.dtype(y_dtype)

    @property
    def name(self) -> str:
        """The kernel of a batch of one."""
        return self._plan.name

    def __call__(self, x: Any, *, out: Any = None, stream: Any = None) -> Any:
        """Runs the operator.

        Args:
            x: (N, *input_shape) codes, C-contiguous, on the plan's device.
            out: (N, *output_shape), C-contiguous, on the same device, apart from x; default: a new one of x's kind.
            stream: a CUDA stream (CuPy's, torch's, an address); default: CuPy's current one.

        Returns:
            out, or the new array.

        Raises:
            InputTypeError, InputValueError: an array of another device, dtype or shape, or a non-contiguous view.
        """
        if self.device.kind == "cpu":
            return self._on_cpu(x, out, stream)
        return self._on_gpu(x, out, stream)

    def _on_cpu(self, x: Any, out: Any, stream: Any) -> npt.NDArray[Any]:
        self._require(stream is None, "stream is for plans on a GPU, this one is on the CPU")
        if arrays.is_device_array(x):
            raise self._type_error(f"x is on a GPU and the plan on the CPU; make the plan with device='{_home(x)}'")
        runs = self._checked("x", x, np.ndarray, self.input_shape, self._dtypes[0])
        if out is None:
            out = np.empty((runs, *self.output_shape), self._dtypes[1])
        else:
            self._checked("out", out, np.ndarray, self.output_shape, self._dtypes[1], runs)
            self._require(not np.may_share_memory(x, out), "out must not overlap x")
        workspace = np.empty(self._plan.workspace_bytes(runs), np.uint8)
        with single_threaded(), annotate(self._plan.name):
            self._plan.launch([x], [out], workspace)
        return out  # type: ignore[no-any-return]

    def _on_gpu(self, x: Any, out: Any, stream: Any) -> Any:
        device = launcher(self.device.index)
        given = x
        x = self._shared("x", x, stream)
        runs = self._checked("x", x, type(x), self.input_shape, self._dtypes[0])
        device.check(f"{self.spec.op}: x", x)
        if out is None:
            y = empty_array(device, (runs, *self.output_shape), self._dtypes[1], stream)
        else:
            y = self._shared("out", out, stream)
            self._checked("out", y, type(x), self.output_shape, self._dtypes[1], runs)
            device.check(f"{self.spec.op}: out", y)
            apart = y.data.ptr + y.nbytes <= x.data.ptr or x.data.ptr + x.nbytes <= y.data.ptr
            self._require(apart, "out must not overlap x")
        workspace = device.empty(max(1, self._plan.workspace_bytes(runs)), stream)
        self._plan.launch([x], [y], workspace, stream)
        return arrays.like(given, y, stream) if out is None else out

    def _shared(self, what: str, value: Any, stream: Any) -> Any:
        if not arrays.is_device_array(value):
            where = "on the CPU" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
            raise self._type_error(
                f"{what} is {where} and the plan on {self.device}; move it there (cupy.asarray) or make the plan with "
                "device='cpu'"
            )
        return arrays.as_cupy(value, stream)

    def _checked(
        self, what: str, value: Any, kind: Any, shape: tuple[int, ...], dtype: np.dtype[Any], runs: int | None = None
    ) -> int:
        """The batch of an array, once dtype, shape and layout are what they must be."""
        if not isinstance(value, kind):
            raise self._type_error(f"{what} is a {type(value).__name__}; it must be an array")
        if value.dtype != dtype:
            raise self._type_error(f"{what} of {value.dtype} must be {dtype}; nothing is cast")
        wanted = shape_text(("N" if runs is None else runs, *shape))  # type: ignore[arg-type]
        fits = value.ndim == 1 + len(shape) and value.shape[1:] == shape and runs in (None, value.shape[0])
        self._require(fits, f"{what} of shape {shape_text(value.shape)} must be {wanted}")
        self._require(value.shape[0] >= 1, f"{what} of shape {shape_text(value.shape)} is empty; N must be at least 1")
        self._require(
            value.flags.c_contiguous,
            f"{what} has strides {value.strides}; it must be C-contiguous (numpy.ascontiguousarray)",
        )
        return int(value.shape[0])

    def _require(self, holds: bool, rule: str) -> None:
        self.spec.require(holds, rule)

    def _type_error(self, problem: str) -> InputTypeError:
        return InputTypeError(f"{self.spec.op}: {problem}")


def plan_conv2d(
    input_shape: Sequence[int],
    w: Any,
    bias: Any = None,
    *,
    x_quant: Quant,
    w_quant: Quant,
    out_quant: Quant,
    stride: Pair = 1,
    padding: Padding = "same",
    dilation: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    numerics: str = "litert_ref",
    device: str = "auto",
) -> OperatorPlan:
    """Prepares conv2d for inputs of one shape.

    Args:
        input_shape: (H, W, C) of one image.
        device: "auto" (a GPU that gpuq can use, else the CPU), "cpu", "cuda" or "cuda:N".

    The other arguments, the errors and the result are those of conv2d.

    Example:
        >>> plan = plan_conv2d((8, 8, 3), np.ones((4, 3, 3, 3), np.int8), x_quant=Quant(0.5), w_quant=Quant(0.1),
        ...                    out_quant=Quant(2.0), device="cpu")
        >>> plan(np.ones((2, 8, 8, 3), np.int8)).shape
        (2, 8, 8, 4)
    """
    height, width, channels = _image_shape("conv2d", input_shape)
    out_c, kernel_h, kernel_w, _ = _weights_shape("conv2d", w, "OHWI")
    spec = Conv2dSpec(
        in_h=height,
        in_w=width,
        in_c=channels,
        out_c=out_c,
        window=_window("conv2d", height, width, kernel_h, kernel_w, stride, padding, dilation),
        groups=groups,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        activation=activation,
        bias_dtype=_bias_dtype(x_quant, bias),
    )
    return _plan(spec, (w, bias), (height, width, channels), numerics, device)


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    x_quant: Quant,
    w_quant: Quant,
    out_quant: Quant,
    stride: Pair = 1,
    padding: Padding = "same",
    dilation: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    numerics: str = "litert_ref",
    out: Any = None,
    stream: Any = None,
) -> Any:
    """A quantized 2-D convolution with the bits of a named runtime. Packs the weights at every call: see plan_conv2d.

    Args:
        x: (N, H, W, C) int8, uint8 or (CPU only) int16 codes, C-contiguous; its device decides where the work is done.
        w: (O, KH, KW, C / groups) codes of x's dtype (int8 with int16), on the host or a device (from where it is
            copied, which waits).
        bias: (O,) int32 (with int16 also int64) in units of x_scale * w_scale, or None.
        x_quant, out_quant: per tensor. w_quant: per tensor, or one scale per output channel along axis 0 (int8).
        stride, dilation: of both axes, or (vertical, horizontal).
        padding: "same" or "valid" as TFLite has them, a number of pixels on all sides, or ((top, bottom), (left,
            right)).
        activation: None, "relu", "relu6" or "relu_n1_to_1".
        numerics: the runtime whose bits these are; see docs/numerics.md.
        out: where to write, (N, OH, OW, O); default: a new array.
        stream: a CUDA stream; default: CuPy's current one.

    Returns:
        (N, OH, OW, O) codes on x's device.

    Raises:
        InputTypeError, InputValueError: an argument breaks a rule; the message names operator, value and rule.
        DeviceError: the GPU cannot be used, or failed.

    Example:
        >>> x, w = np.ones((1, 4, 4, 3), np.int8), np.ones((8, 3, 3, 3), np.int8)
        >>> conv2d(x, w, x_quant=Quant(0.5), w_quant=Quant(0.1), out_quant=Quant(1.0)).shape
        (1, 4, 4, 8)
    """
    plan = plan_conv2d(
        _run_shape("conv2d", x),
        w,
        bias,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        activation=activation,
        numerics=numerics,
        device=_home(x),
    )
    return plan(x, out=out, stream=stream)


def plan_depthwise_conv2d(
    input_shape: Sequence[int],
    w: Any,
    bias: Any = None,
    *,
    x_quant: Quant,
    w_quant: Quant,
    out_quant: Quant,
    stride: Pair = 1,
    padding: Padding = "same",
    dilation: Pair = 1,
    activation: str | None = None,
    numerics: str = "litert_ref",
    device: str = "auto",
) -> OperatorPlan:
    """Prepares depthwise_conv2d for inputs of one shape; arguments as plan_conv2d and depthwise_conv2d."""
    height, width, channels = _image_shape("depthwise_conv2d", input_shape)
    one, kernel_h, kernel_w, out_c = _weights_shape("depthwise_conv2d", w, "1HWO")
    if one != 1 or channels < 1 or out_c % channels:
        raise InputValueError(
            f"depthwise_conv2d: weights {shape_text(np.shape(w))} must be 1xKHxKWxO, O a multiple of C={channels}"
        )
    spec = DepthwiseConv2dSpec(
        in_h=height,
        in_w=width,
        in_c=channels,
        multiplier=out_c // channels,
        window=_window("depthwise_conv2d", height, width, kernel_h, kernel_w, stride, padding, dilation),
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        activation=activation,
        has_bias=bias is not None,
        bias_dtype=_bias_dtype(x_quant, bias),
    )
    return _plan(spec, (w, bias), (height, width, channels), numerics, device)


def depthwise_conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    x_quant: Quant,
    w_quant: Quant,
    out_quant: Quant,
    stride: Pair = 1,
    padding: Padding = "same",
    dilation: Pair = 1,
    activation: str | None = None,
    numerics: str = "litert_ref",
    out: Any = None,
    stream: Any = None,
) -> Any:
    """A quantized depthwise convolution: output channel o sees input channel o * C // O only.

    Args:
        x: (N, H, W, C) int8, uint8 or (CPU only) int16 codes.
        w: (1, KH, KW, O) codes, O a multiple of C. w_quant: per tensor, or one scale per output channel along axis 3.

    The other arguments, the errors and the result (N, OH, OW, O) are those of conv2d.

    Example:
        >>> x, w = np.ones((1, 4, 4, 3), np.int8), np.ones((1, 3, 3, 6), np.int8)
        >>> depthwise_conv2d(x, w, x_quant=Quant(0.5), w_quant=Quant(0.1), out_quant=Quant(1.0), stride=2).shape
        (1, 2, 2, 6)
    """
    plan = plan_depthwise_conv2d(
        _run_shape("depthwise_conv2d", x),
        w,
        bias,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        stride=stride,
        padding=padding,
        dilation=dilation,
        activation=activation,
        numerics=numerics,
        device=_home(x),
    )
    return plan(x, out=out, stream=stream)


def plan_fully_connected(
    w: Any,
    bias: Any = None,
    *,
    x_quant: Quant,
    w_quant: Quant,
    out_quant: Quant,
    activation: str | None = None,
    numerics: str = "litert_ref",
    device: str = "auto",
) -> OperatorPlan:
    """Prepares fully_connected; arguments as plan_conv2d and fully_connected."""
    out_c, in_c = _weights_shape("fully_connected", w, "OI")
    spec = FullyConnectedSpec(
        in_c=in_c,
        out_c=out_c,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        activation=activation,
        has_bias=bias is not None,
        bias_dtype=_bias_dtype(x_quant, bias),
    )
    return _plan(spec, (w, bias), (in_c,), numerics, device)


def fully_connected(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    x_quant: Quant,
    w_quant: Quant,
    out_quant: Quant,
    activation: str | None = None,
    numerics: str = "litert_ref",
    out: Any = None,
    stream: Any = None,
) -> Any:
    """A quantized dense layer, x @ w.T + bias in codes.

    Args:
        x: (N, I) int8 or uint8 codes.
        w: (O, I) codes. w_quant: per tensor, or one scale per output along axis 0 (int8).

    The other arguments, the errors and the result (N, O) are those of conv2d.

    Example:
        >>> x, w = np.ones((5, 16), np.int8), np.ones((10, 16), np.int8)
        >>> fully_connected(x, w, x_quant=Quant(0.5), w_quant=Quant(0.1), out_quant=Quant(1.0)).shape
        (5, 10)
    """
    plan = plan_fully_connected(
        w,
        bias,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        activation=activation,
        numerics=numerics,
        device=_home(x),
    )
    return plan(x, out=out, stream=stream)


def plan_requantize(
    input_shape: Sequence[int], *, x_quant: Quant, out_quant: Quant, numerics: str = "litert_ref", device: str = "auto"
) -> OperatorPlan:
    """Prepares requantize for inputs (N, *input_shape); arguments as requantize."""
    shape = tuple(int(size) for size in input_shape)
    return _plan(QuantizeSpec(shape=shape, x_quant=x_quant, out_quant=out_quant), (), shape, numerics, device)


def requantize(
    x: Any, *, x_quant: Quant, out_quant: Quant, numerics: str = "litert_ref", out: Any = None, stream: Any = None
) -> Any:
    """Codes of one quantization as codes of another, as the runtime's QUANTIZE operator does it in integers.

    Args:
        x: int8 or uint8 codes, at least one dimension.
        x_quant, out_quant: int8 or uint8, per tensor.
        out, stream: as conv2d.

    Returns:
        Codes of out_quant's dtype, x's shape.

    Example:
        >>> requantize(np.array([2, -3], np.int8), x_quant=Quant(0.5), out_quant=Quant(0.25, 1))
        array([ 5, -5], dtype=int8)
    """
    plan = plan_requantize(
        _run_shape("requantize", x), x_quant=x_quant, out_quant=out_quant, numerics=numerics, device=_home(x)
    )
    return plan(x, out=out, stream=stream)


def quantize(values: Any, quant: Quant, *, narrow_range: bool = False, out: Any = None, stream: Any = None) -> Any:
    """Real values to codes: clamp(round(x / scale) + zero_point), the quotient in float32, ties away from zero.

    Args:
        values: floating point array of any shape; float64 is rounded to float32 first. Inf saturates. On a GPU:
            float32, C-contiguous.
        quant: scales must be positive; per tensor, or per channel along its axis.
        narrow_range: the lowest code is not used.
        out, stream: as conv2d.

    Returns:
        An array of the quant's dtype, same shape, same device.

    Raises:
        InputTypeError: values that are not floating point.
        InputValueError: a NaN (on a GPU, which nobody waits for, a NaN gives the lowest code), a zero scale,
            per-channel scales that do not fit the shape.

    Example:
        >>> quantize(np.array([0.3, -1.0]), Quant(0.5, 10))
        array([11,  8], dtype=int8)
    """
    if not arrays.is_device_array(values):
        return _filled("quantize", out, stream, quantize_numpy(values, quant, narrow_range=narrow_range))
    return affine_on_device("quantize", values, quant, narrow_range=narrow_range, out=out, stream=stream)


def quantize_weights(
    weights: Any,
    *,
    axis: int | None = 0,
    symmetric: bool = True,
    dtype: npt.DTypeLike = "int8",
    bits: int = 8,
) -> tuple[Any, Quant]:
    """Weights to codes by their own minima and maxima; see gpuq.quant.quantize_weights for the arguments.

    On a GPU: float32, C-contiguous; the codes stay there. Waits for the GPU, for the scales are known on the host.

    Returns:
        (codes, quant).
    """
    if not arrays.is_device_array(weights):
        return affine.quantize_weights(weights, axis=axis, symmetric=symmetric, dtype=dtype, bits=bits)
    host = arrays.as_numpy(weights)
    _, quant = affine.quantize_weights(host, axis=axis, symmetric=symmetric, dtype=dtype, bits=bits)
    return affine_on_device("quantize", weights, quant, narrow_range=symmetric), quant


def quantize_bias(bias: Any, x_quant: Quant, w_quant: Quant, *, dtype: npt.DTypeLike = "int32") -> tuple[Any, Quant]:
    """A bias to codes of scale x_scale * w_scale[o]; see gpuq.quant.quantize_bias.

    Of a vector on a GPU the codes are computed on the host, in float64, and copied back.

    Returns:
        (codes, quant).
    """
    if not arrays.is_device_array(bias):
        return affine.quantize_bias(bias, x_quant, w_quant, dtype=dtype)
    array = arrays.as_cupy(bias)
    codes, quant = affine.quantize_bias(arrays.as_numpy(array), x_quant, w_quant, dtype=dtype)
    copied = empty_array(launcher(int(array.device.id)), codes.shape, codes.dtype)
    copied.set(codes)
    return arrays.like(bias, copied), quant


def round_trip_error(values: Any, quant: Quant) -> RoundTripError:
    """Statistics of values - dequantize(quantize(values)); see gpuq.quant.round_trip_error. Of a copy on the host."""
    return affine.round_trip_error(arrays.as_numpy(values) if arrays.is_device_array(values) else values, quant)


def dequantize(codes: Any, quant: Quant, *, out: Any = None, stream: Any = None) -> Any:
    """Codes to real values: float32(scale * (q - zero_point)), the product in float64.

    Args:
        codes: array of the quant's dtype, any shape. On a GPU: C-contiguous.
        quant: per tensor, or per channel along its axis.
        out, stream: as conv2d.

    Returns:
        float32, same shape, same device.

    Example:
        >>> dequantize(np.array([11, 8], np.int8), Quant(0.5, 10))
        array([ 0.5, -1. ], dtype=float32)
    """
    if not arrays.is_device_array(codes):
        return _filled("dequantize", out, stream, dequantize_numpy(codes, quant))
    return affine_on_device("dequantize", codes, quant, out=out, stream=stream)


def _filled(op: str, out: Any, stream: Any, result: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The result, in `out` where there is one."""
    if stream is not None:
        raise InputValueError(f"{op}: stream is for arrays on a GPU, this one is on the CPU")
    if out is None:
        return result
    if not isinstance(out, np.ndarray):
        raise InputTypeError(f"{op}: out is a {type(out).__name__}; it must be a NumPy array as the input is")
    if out.dtype != result.dtype or out.shape != result.shape:
        raise InputValueError(f"{op}: out {out.dtype} {out.shape} must be {result.dtype} {result.shape}")
    out[...] = result
    return out


def _plan(
    spec: Conv2dSpec | DepthwiseConv2dSpec | FullyConnectedSpec | QuantizeSpec,
    constants: Sequence[Any],
    input_shape: tuple[int, ...],
    profile: str,
    device: str,
) -> OperatorPlan:
    rule = resolve(profile, spec)
    where = resolve_device(device)
    hosts: list[npt.NDArray[Any] | None] = [None]
    if not isinstance(spec, QuantizeSpec):
        w, bias = constants
        hosts += [_on_host(spec, "w", w, spec.w_quant.dtype), _on_host(spec, "bias", bias, spec.bias_dtype)]
    plan: Plan
    if where.kind == "cpu":
        plan = cpu.pack(spec, rule, hosts)
    else:
        plan = CudaPlan(layer_of(spec, rule, hosts), launcher(where.index))
    return OperatorPlan(spec, plan, where, input_shape, spec.activation_dtype, spec.out_quant.dtype)


def _on_host(spec: Spec, what: str, value: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """A constant as a NumPy array of codes; its dtype is checked, never cast."""
    if value is None:
        return None
    if arrays.is_device_array(value):
        value = arrays.as_numpy(value)
    if not isinstance(value, np.ndarray):
        raise InputTypeError(f"{spec.op}: {what} is a {type(value).__name__}; it must be an array")
    spec.require_dtype(what, value.dtype, dtype)
    return value


def _bias_dtype(x_quant: Quant, bias: Any) -> np.dtype[Any]:
    """int32 for bytes; for int16 what the bias is, int64 without one."""
    if x_quant.dtype != INT16:
        return INT32
    return INT64 if bias is None else np.dtype(getattr(bias, "dtype", INT64))


def _home(x: Any) -> str:
    """The device of an array, by name."""
    return f"cuda:{arrays.as_cupy(x).device.id}" if arrays.is_device_array(x) else "cpu"


def _run_shape(op: str, x: Any) -> tuple[int, ...]:
    shape = getattr(x, "shape", None)
    if shape is None:
        raise InputTypeError(f"{op}: x is a {type(x).__name__}; it must be an array")
    if len(shape) < 1:
        raise InputValueError(f"{op}: x is a scalar; it must have at least one dimension")
    return tuple(int(size) for size in shape[1:])


def _image_shape(op: str, shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise InputValueError(f"{op}: one input of shape {shape_text(shape)} must be HxWxC (a batch: NxHxWxC)")
    height, width, channels = (int(size) for size in shape)
    return height, width, channels


def _weights_shape(op: str, w: Any, layout: str) -> tuple[int, ...]:
    shape = getattr(w, "shape", None)
    if shape is None:
        raise InputTypeError(f"{op}: w is a {type(w).__name__}; it must be an array")
    if len(shape) != len(layout):
        raise InputValueError(
            f"{op}: weights of shape {shape_text(shape)} must have {len(layout)} dimensions, {layout}"
        )
    return tuple(int(size) for size in shape)


def _window(
    op: str, height: int, width: int, kernel_h: int, kernel_w: int, stride: Pair, padding: Padding, dilation: Pair
) -> Window2d:
    (stride_h, stride_w), (dilation_h, dilation_w) = _pair(op, "stride", stride), _pair(op, "dilation", dilation)
    fields = {
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": stride_h,
        "stride_w": stride_w,
        "dilation_h": dilation_h,
        "dilation_w": dilation_w,
    }
    if isinstance(padding, str):
        return Window2d.padded(padding, height, width, **fields)
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    try:
        (top, bottom), (left, right) = padding
    except (TypeError, ValueError):
        raise InputValueError(
            f"{op}: padding {padding!r} must be 'same', 'valid', a number, or ((top, bottom), (left, right))"
        ) from None
    return Window2d(**fields, pad_top=top, pad_bottom=bottom, pad_left=left, pad_right=right)


def _pair(op: str, what: str, value: Pair) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    try:
        vertical, horizontal = value
    except (TypeError, ValueError):
        raise InputValueError(f"{op}: {what} {value!r} must be a number or (vertical, horizontal)") from None
    return vertical, horizontal
