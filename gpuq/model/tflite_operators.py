"""From one operator of a .tflite to its checked Spec: one small function per operator, one table of them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputTypeError, InputValueError, ModelLimit
from gpuq.model.graph import Tensor
from gpuq.model.tflite_file import MAX_ENTRIES, RawOperator
from gpuq.ops.add import AddSpec
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.relu import Relu6Spec, ReluSpec
from gpuq.ops.reshape import ExpandDimsSpec, ReshapeSpec, SqueezeSpec
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import FLOAT32, INT32, Shape, Spec, shape_text
from gpuq.ops.sub import SubSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

# A fused TANH or SIGN_BIT is ignored by the quantized kernels of all runtimes: they clamp to the dtype only
# (CalculateActivationRangeQuantized, LiteRT tflite/kernels/kernel_util.cc).
_ACTIVATIONS = {0: None, 1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: None, 5: None}
_PADDINGS = {0: "same", 1: "valid"}

# Pixels from a window's first tap to its last, where that is more than the image: borders are memory.
MAX_REACH = 1024


@dataclass(frozen=True)
class OperatorView:
    """What a converter sees of one operator: its tensors, with shapes as inferred so far, and its options.

    All look-ups raise InputValueError (the file breaks a rule) or InputTypeError (gpuq lacks this kind).
    """

    raw: RawOperator
    tensors: Sequence[Tensor]

    def fail(self, rule: str) -> InputValueError:
        return InputValueError(f"{self.raw.name}: {rule}")

    def check_input_count(self) -> None:
        """No input too many, for it would be ignored; none too few."""
        fewest, most = INPUT_COUNTS.get(self.raw.name, (1, 1))
        count = len(self.raw.inputs)
        if not fewest <= count <= most:
            allowed = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise self.fail(f"has {count} inputs, it must have {allowed}")

    def has(self, position: int) -> bool:
        """True when this optional input is there."""
        return position < len(self.raw.inputs) and self.raw.inputs[position] >= 0

    def x(self, position: int = 0) -> Tensor:
        """An input that must be there."""
        if not self.has(position):
            raise self.fail(f"input {position} is missing")
        return self.tensors[self.raw.inputs[position]]

    @property
    def out(self) -> Tensor:
        """The only output."""
        if len(self.raw.outputs) != 1:
            raise self.fail(f"has {len(self.raw.outputs)} outputs, it must have 1")
        return self.tensors[self.raw.outputs[0]]

    def quant(self, tensor: Tensor) -> Quant:
        """The quantization of a tensor that must have one."""
        if tensor.quant is None:
            lack = "" if tensor.dtype.kind == "f" else " without quantization parameters"
            raise InputTypeError(f"{self.raw.name}: {tensor.dtype} tensors{lack} are not supported")
        return tensor.quant

    def image(self, position: int = 0) -> tuple[int, int, int, int]:
        """(N, H, W, C) of an input of rank 4."""
        shape = self.x(position).shape
        if len(shape) != 4:
            raise self.fail(f"input {shape_text(shape)} must have rank 4 (NHWC)")
        n, h, w, c = shape
        return n, h, w, c

    def constant(self, position: int, what: str) -> npt.NDArray[Any]:
        """The value of an input that must be known when the model is loaded."""
        data = self.x(position).data
        if data is None:
            raise InputTypeError(f"{self.raw.name}: {what} computed at run time is not supported")
        return data

    def integers(self, position: int, what: str) -> tuple[int, ...]:
        """A constant input of integers, flattened."""
        data = self.constant(position, what)
        if data.dtype.kind != "i":
            raise InputTypeError(f"{self.raw.name}: {what} of {data.dtype} is not supported; it must be int32 or int64")
        return tuple(int(value) for value in data.reshape(-1))

    def option(self, field: str) -> Any:
        """An option that the operator must have."""
        if self.raw.options is None:
            raise self.fail("its options are missing from the file")
        return self.raw.options[field]

    @property
    def activation(self) -> str | None:
        number = self.option("FusedActivationFunction")
        if number not in _ACTIVATIONS:
            raise self.fail(f"fused activation {number} is not in the schema")
        return _ACTIVATIONS[number]

    def window(self, kernel_h: int, kernel_w: int, *, dilated: bool = True) -> Window2d:
        """The sliding window that the options describe, over input 0."""
        _, in_h, in_w, _ = self.image()
        padding = self.option("Padding")
        if padding not in _PADDINGS:
            raise self.fail(f"padding {padding} is not in the schema")
        dilation_h = self.option("DilationHFactor") if dilated else 1
        dilation_w = self.option("DilationWFactor") if dilated else 1
        for kernel, dilation, size in ((kernel_h, dilation_h, in_h), (kernel_w, dilation_w, in_w)):
            if (kernel - 1) * dilation > max(MAX_REACH, size):
                raise InputTypeError(
                    f"{self.raw.name}: a window of {kernel} with dilation {dilation} reaches beyond {MAX_REACH} "
                    "pixels, which is not supported"
                )
        return Window2d.padded(
            _PADDINGS[padding],
            in_h,
            in_w,
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=self.option("StrideH"),
            stride_w=self.option("StrideW"),
            dilation_h=dilation_h,
            dilation_w=dilation_w,
        )

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front; negative ones count from the back."""
        if not -rank <= axis < rank:
            raise self.fail(f"axis {axis} of a tensor of rank {rank}")
        return axis % rank

    def weights_and_bias(self) -> None:
        """Checks what the Specs cannot see of weights and bias."""
        self.quant(self.x())  # of a float layer say that, not what follows for its bias
        self.constant(1, "weights")
        if self.has(2):
            bias = self.constant(2, "bias")
            if bias.dtype != INT32:
                raise InputTypeError(f"{self.raw.name}: bias of {bias.dtype} is not supported; it must be int32")
            quant = self.x(2).quant
            if quant is not None and quant.zero_points.any():
                raise self.fail(f"bias zero point {quant.zero_point} must be 0")


Converted = tuple[Spec, Shape]
"""A Spec and the output's shape of one run."""


def _conv2d(view: OperatorView) -> Converted:
    n, in_h, in_w, in_c = view.image()
    view.weights_and_bias()
    weights = view.x(1)
    if len(weights.shape) != 4:
        raise view.fail(f"weights {shape_text(weights.shape)} must have rank 4 (OHWI)")
    out_c, kernel_h, kernel_w, group_c = weights.shape
    if in_c % group_c:
        raise view.fail(
            f"input C={in_c} (NHWC {shape_text(view.x().shape)}) must be a multiple of weights "
            f"I={group_c} (OHWI {shape_text(weights.shape)})"
        )
    spec = Conv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_c=out_c,
        window=view.window(kernel_h, kernel_w),
        groups=in_c // group_c,
        x_quant=view.quant(view.x()),
        w_quant=view.quant(weights),
        out_quant=view.quant(view.out),
        activation=view.activation,
    )
    _check_bias_shape(view, out_c)
    return spec, (n, *spec.output_shape)


def _check_bias_shape(view: OperatorView, out_c: int) -> None:
    if view.has(2) and math.prod(view.x(2).shape) != out_c:
        raise view.fail(f"bias {shape_text(view.x(2).shape)} must have O={out_c} elements")


def _depthwise_conv2d(view: OperatorView) -> Converted:
    n, in_h, in_w, in_c = view.image()
    view.weights_and_bias()
    weights = view.x(1)
    if len(weights.shape) != 4 or weights.shape[0] != 1:
        raise view.fail(f"weights {shape_text(weights.shape)} must be 1HWO")
    _, kernel_h, kernel_w, out_c = weights.shape
    # The runtimes ignore the file's depth_multiplier in favour of the shapes.
    if out_c % in_c:
        raise view.fail(f"weights O={out_c} must be a multiple of input C={in_c}")
    spec = DepthwiseConv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        multiplier=out_c // in_c,
        window=view.window(kernel_h, kernel_w),
        x_quant=view.quant(view.x()),
        w_quant=view.quant(weights),
        out_quant=view.quant(view.out),
        activation=view.activation,
        has_bias=view.has(2),
    )
    _check_bias_shape(view, out_c)
    return spec, (n, *spec.output_shape)


def _fully_connected(view: OperatorView) -> Converted:
    view.weights_and_bias()
    weights = view.x(1)
    if view.option("WeightsFormat") != 0:
        raise InputTypeError("FULLY_CONNECTED: shuffled weights are not supported")
    if len(weights.shape) != 2:
        raise view.fail(f"weights {shape_text(weights.shape)} must have rank 2 (O, I)")
    out_c, in_c = weights.shape
    x_shape = view.x().shape
    elements = math.prod(x_shape)
    keeps = bool(view.option("KeepNumDims"))
    if elements % in_c or (keeps and x_shape[-1:] != (in_c,)):
        raise view.fail(f"input {shape_text(x_shape)} does not fall into rows of weights I={in_c}")
    spec = FullyConnectedSpec(
        in_c=in_c,
        out_c=out_c,
        x_quant=view.quant(view.x()),
        w_quant=view.quant(weights),
        out_quant=view.quant(view.out),
        activation=view.activation,
    )
    _check_bias_shape(view, out_c)
    return spec, (*x_shape[:-1], out_c) if keeps else (elements // in_c, out_c)


def _binary(spec_type: type[BinarySpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        spec = spec_type(
            a_shape=view.x(0).shape,
            b_shape=view.x(1).shape,
            a_quant=view.quant(view.x(0)),
            b_quant=view.quant(view.x(1)),
            out_quant=view.quant(view.out),
            activation=view.activation,
        )
        return spec, spec.output_shape

    return convert


def _pool(spec_type: type[AveragePool2dSpec] | type[MaxPool2dSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        n, in_h, in_w, in_c = view.image()
        spec = spec_type(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            window=view.window(view.option("FilterHeight"), view.option("FilterWidth"), dilated=False),
            x_quant=view.quant(view.x()),
            out_quant=view.quant(view.out),
            activation=view.activation,
        )
        return spec, (n, *spec.output_shape)

    return convert


def _mean(view: OperatorView) -> Converted:
    shape = view.x().shape
    axes = {view.axis(axis, len(shape)) for axis in view.integers(1, "axes")}
    spec = MeanSpec(
        x_shape=shape,
        axes=tuple(sorted(axes)),
        keep_dims=bool(view.option("KeepDims")),
        x_quant=view.quant(view.x()),
        out_quant=view.quant(view.out),
    )
    return spec, spec.output_shape


def _softmax(view: OperatorView) -> Converted:
    shape = view.x().shape
    if not shape:
        raise view.fail("input must have rank 1 or more")
    spec = SoftmaxSpec(
        depth=shape[-1],
        x_quant=view.quant(view.x()),
        out_quant=view.quant(view.out),
        beta=view.option("Beta"),
    )
    return spec, shape


def _reshape(view: OperatorView) -> Converted:
    x = view.x()
    target = list(view.integers(1, "shape") if view.has(1) else view.option("NewShape"))
    elements = math.prod(x.shape)
    if target.count(-1) == 1:
        known = math.prod(size for size in target if size != -1)
        if known <= 0 or elements % known:
            raise view.fail(f"{elements} elements of {shape_text(x.shape)} do not fit shape {target}")
        target[target.index(-1)] = elements // known
    if any(size < 1 for size in target):
        raise view.fail(f"shape {target} must be positive, with at most one -1")
    spec = ReshapeSpec(x_shape=x.shape, out_shape=tuple(target), dtype=x.dtype)
    return spec, spec.out_shape


def _squeeze(view: OperatorView) -> Converted:
    x = view.x()
    dims = {view.axis(axis, len(x.shape)) for axis in view.option("SqueezeDims")}
    if any(x.shape[axis] != 1 for axis in dims):
        raise view.fail(f"dimensions {sorted(dims)} of {shape_text(x.shape)} must be 1")
    chosen = dims or {axis for axis, size in enumerate(x.shape) if size == 1}
    out_shape = tuple(size for axis, size in enumerate(x.shape) if axis not in chosen)
    return SqueezeSpec(x_shape=x.shape, out_shape=out_shape, dtype=x.dtype), out_shape


def _expand_dims(view: OperatorView) -> Converted:
    x = view.x()
    axes = view.integers(1, "axis")
    if len(axes) != 1:
        raise view.fail(f"axis must be one value, got {len(axes)}")
    axis = view.axis(axes[0], len(x.shape) + 1)
    out_shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return ExpandDimsSpec(x_shape=x.shape, out_shape=out_shape, dtype=x.dtype), out_shape


def _pad(view: OperatorView) -> Converted:
    x = view.x()
    pads = np.array(view.integers(1, "paddings"), np.int64)
    if view.x(1).shape != (len(x.shape), 2):
        raise view.fail(f"paddings {shape_text(view.x(1).shape)} must have shape {len(x.shape)}x2")
    if view.out.dtype != x.dtype:
        raise view.fail(f"output of {view.out.dtype} must have the input's dtype {x.dtype}")
    pairs = tuple((int(before), int(after)) for before, after in pads.reshape(-1, 2))
    spec = PadSpec(x_shape=x.shape, pads=pairs, out_quant=view.quant(view.out))
    return spec, spec.output_shape


def _concatenation(view: OperatorView) -> Converted:
    inputs = [view.x(position) for position in range(len(view.raw.inputs))]
    if not inputs:
        raise view.fail("needs at least one input")
    if view.activation is not None:
        raise InputTypeError(f"CONCATENATION: fused activation {view.activation} is not supported")
    spec = ConcatenationSpec(
        x_shapes=tuple(x.shape for x in inputs),
        axis=view.axis(view.option("Axis"), len(inputs[0].shape)),
        x_quants=tuple(view.quant(x) for x in inputs),
        out_quant=view.quant(view.out),
    )
    return spec, spec.output_shape


def _quantize(view: OperatorView) -> Converted:
    x = view.x()
    spec = QuantizeSpec(
        shape=x.shape,
        x_quant=None if x.dtype == FLOAT32 else view.quant(x),
        out_quant=view.quant(view.out),
    )
    return spec, x.shape


def _dequantize(view: OperatorView) -> Converted:
    x = view.x()
    if view.out.dtype != FLOAT32:
        raise InputTypeError(f"DEQUANTIZE: output of {view.out.dtype} is not supported; it must be float32")
    return DequantizeSpec(shape=x.shape, x_quant=view.quant(x)), x.shape


def _relu(spec_type: type[ReluSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        x = view.x()
        return spec_type(shape=x.shape, x_quant=view.quant(x), out_quant=view.quant(view.out)), x.shape

    return convert


def _logistic(view: OperatorView) -> Converted:
    x = view.x()
    return LogisticSpec(shape=x.shape, x_quant=view.quant(x), out_quant=view.quant(view.out)), x.shape


def _resize(
    spec_type: type[ResizeBilinearSpec] | type[ResizeNearestNeighborSpec],
) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        n, in_h, in_w, in_c = view.image()
        size = view.integers(1, "size")
        if len(size) != 2:
            raise view.fail(f"size {size} must be (height, width)")
        if view.quant(view.x()) != view.quant(view.out):
            raise view.fail("input and output must have equal scale and zero point")
        spec = spec_type(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_h=size[0],
            out_w=size[1],
            align_corners=bool(view.option("AlignCorners")),
            half_pixel_centers=bool(view.option("HalfPixelCenters")),
            dtype=view.x().dtype,
        )
        return spec, (n, *spec.output_shape)

    return convert


def _arg_max(view: OperatorView) -> Converted:
    x = view.x()
    axes = view.integers(1, "axis")
    if len(axes) != 1:
        raise view.fail(f"axis must be one value, got {len(axes)}")
    spec = ArgMaxSpec(x_shape=x.shape, axis=view.axis(axes[0], len(x.shape)), dtype=x.dtype, out_dtype=view.out.dtype)
    return spec, spec.output_shape


CONVERTERS: Mapping[str, Callable[[OperatorView], Converted]] = MappingProxyType(
    {
        "ADD": _binary(AddSpec),
        "ARG_MAX": _arg_max,
        "AVERAGE_POOL_2D": _pool(AveragePool2dSpec),
        "CONCATENATION": _concatenation,
        "CONV_2D": _conv2d,
        "DEPTHWISE_CONV_2D": _depthwise_conv2d,
        "DEQUANTIZE": _dequantize,
        "EXPAND_DIMS": _expand_dims,
        "FULLY_CONNECTED": _fully_connected,
        "LOGISTIC": _logistic,
        "MAX_POOL_2D": _pool(MaxPool2dSpec),
        "MEAN": _mean,
        "MUL": _binary(MulSpec),
        "PAD": _pad,
        "QUANTIZE": _quantize,
        "RELU": _relu(ReluSpec),
        "RELU6": _relu(Relu6Spec),
        "RESHAPE": _reshape,
        "RESIZE_BILINEAR": _resize(ResizeBilinearSpec),
        "RESIZE_NEAREST_NEIGHBOR": _resize(ResizeNearestNeighborSpec),
        "SOFTMAX": _softmax,
        "SQUEEZE": _squeeze,
        "SUB": _binary(SubSpec),
    }
)


INPUT_COUNTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), (2, 3)),
        **dict.fromkeys(("ADD", "MUL", "SUB", "ARG_MAX", "EXPAND_DIMS", "MEAN", "PAD"), (2, 2)),
        **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (2, 2)),
        **dict.fromkeys(("CONCATENATION", "PACK"), (1, MAX_ENTRIES)),
        "RESHAPE": (1, 2),
        "STRIDED_SLICE": (4, 4),
    }
)
"""The fewest and most inputs of an operator; (1, 1) for those that are not listed."""


# Operators whose further inputs (axes, sizes, pads, shapes) are constants that went into the Spec.
ONE_DATA_INPUT = frozenset(
    ("ARG_MAX", "EXPAND_DIMS", "MEAN", "PAD", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
)


# Operators that only run on what is known when the model is loaded.
FOLDED = frozenset(("PACK", "SHAPE", "STRIDED_SLICE"))


def fold(view: OperatorView, max_elements: int) -> npt.NDArray[Any] | None:
    """The value of an operator that only computes with shapes; None where it needs run-time data.

    SHAPE always folds: the shapes of one run are known. PACK and STRIDED_SLICE fold when all inputs are known,
    which is how converters build the target of a RESHAPE.

    Raises:
        ModelLimit: a PACK of more than max_elements.
    """
    name = view.raw.name
    if name == "SHAPE":
        return np.array(view.x().shape, np.int64 if view.out.dtype == np.int64 else np.int32)
    if name not in FOLDED:
        return None
    values = [data for position in range(len(view.raw.inputs)) if (data := view.x(position).data) is not None]
    if len(values) < len(view.raw.inputs):
        return None
    if name == "PACK":
        shape = values[0].shape
        if any(value.shape != shape for value in values):
            raise view.fail(f"inputs {[shape_text(value.shape) for value in values[:4]]} must have one shape")
        axis = view.axis(view.option("Axis"), len(shape) + 1)
        if values[0].size * len(values) > max_elements:
            raise ModelLimit(f"PACK gives {values[0].size * len(values)} elements; the limit is {max_elements}")
        return np.stack(values, axis=axis)
    return _strided_slice(view)


def _strided_slice(view: OperatorView) -> npt.NDArray[Any]:
    data = view.constant(0, "input")
    if view.option("EllipsisMask") or view.option("NewAxisMask"):
        raise InputTypeError("STRIDED_SLICE: ellipsis and new axes are not supported")
    begins, ends, strides = (
        view.integers(position, what) for position, what in ((1, "begin"), (2, "end"), (3, "strides"))
    )
    if not len(begins) == len(ends) == len(strides) <= data.ndim:
        raise view.fail(f"{len(begins)} begins, {len(ends)} ends and {len(strides)} strides for rank {data.ndim}")
    index: list[int | slice] = []
    for axis, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        if stride == 0:
            raise view.fail("strides must not be 0")
        if view.option("ShrinkAxisMask") >> axis & 1:
            if not -data.shape[axis] <= begin < data.shape[axis]:
                raise view.fail(f"index {begin} of a dimension of {data.shape[axis]}")
            index.append(begin)
        else:
            first = None if view.option("BeginMask") >> axis & 1 else begin
            last = None if view.option("EndMask") >> axis & 1 else end
            index.append(slice(first, last, stride))
    return np.asarray(data[tuple(index)])
