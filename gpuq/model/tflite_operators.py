"""From one operator of a .tflite to its checked Spec: one small function per operator, one table of them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputTypeError, InputValueError
from gpuq.model.graph import Tensor
from gpuq.model.tflite_file import MAX_ENTRIES, RawOperator
from gpuq.ops.abs_neg import AbsSpec, NegSpec
from gpuq.ops.add import AddSpec
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.batch_matmul import BatchMatmulSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.cast import CastSpec
from gpuq.ops.comparison import COMPARISONS, ComparisonSpec
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.elu import EluSpec
from gpuq.ops.float32.pool_2d import FloatAveragePool2dSpec, FloatMaxPool2dSpec
from gpuq.ops.float32.softmax import FloatRelu6Spec, FloatReluSpec, FloatSoftmaxSpec
from gpuq.ops.float32.weighted import FloatDepthwiseConv2dSpec, FloatFullyConnectedSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.gather import GatherNdSpec, GatherSpec
from gpuq.ops.hard_swish import HardSwishSpec
from gpuq.ops.hybrid import HybridConv2dSpec, HybridDepthwiseConv2dSpec, HybridFullyConnectedSpec
from gpuq.ops.l2_normalization import L2NormalizationSpec
from gpuq.ops.leaky_relu import LeakyReluSpec, PreluSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.maximum_minimum import MaximumSpec, MinimumSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.pack import PackSpec
from gpuq.ops.pad import MirrorPadSpec, PadSpec, PadV2Spec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.reduce import ReduceMaxSpec, ReduceMinSpec, SumSpec
from gpuq.ops.relu import Relu0To1Spec, Relu6Spec, ReluN1To1Spec, ReluSpec
from gpuq.ops.reshape import ExpandDimsSpec, ReshapeSpec, SqueezeSpec
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec
from gpuq.ops.select import SelectSpec, SelectV2Spec
from gpuq.ops.slices import ReverseV2Spec, SliceSpec, SplitSpec, SplitVSpec, StridedSliceSpec, UnpackSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.space import BatchToSpaceNdSpec, DepthToSpaceSpec, SpaceToBatchNdSpec, SpaceToDepthSpec
from gpuq.ops.spec import FLOAT32, INT8, INT16, INT32, INT64, UINT8, Shape, Spec, shape_text
from gpuq.ops.sqrt import RsqrtSpec, SqrtSpec
from gpuq.ops.squared_difference import SquaredDifferenceSpec
from gpuq.ops.sub import SubSpec
from gpuq.ops.tanh import TanhSpec
from gpuq.ops.tile import BroadcastToSpec, TileSpec
from gpuq.ops.transpose import TransposeSpec
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.unary import UnarySpec
from gpuq.ops.variable import AssignVariableSpec, ReadVariableSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

# A fused TANH or SIGN_BIT is ignored by the quantized kernels of all runtimes: they clamp to the dtype only
# (CalculateActivationRangeQuantized, LiteRT tflite/kernels/kernel_util.cc).
_ACTIVATIONS = {0: None, 1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: None, 5: None}
# TensorType 0 (FLOAT32) stands for a field that is left out.
_BIAS_TYPES: Mapping[int, np.dtype[Any]] = {0: INT64, 2: INT32, 4: INT64}
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

    @property
    def is_float(self) -> bool:
        """The data is float32 on both sides."""
        return self.x().dtype == FLOAT32 and self.out.dtype == FLOAT32

    @property
    def float_activation(self) -> str | None:
        """As activation; float32 kernels compute what the quantized ones ignore."""
        if self.option("FusedActivationFunction") in (4, 5):
            raise InputTypeError(f"{self.raw.name}: a fused TANH or SIGN_BIT on float32 is not supported")
        return self.activation

    def window(
        self, kernel_h: int, kernel_w: int, *, dilated: bool = True, image: tuple[int, int] | None = None
    ) -> Window2d:
        """The sliding window that the options describe, over an image (H, W); default: input 0's."""
        in_h, in_w = self.image()[1:3] if image is None else image
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

    def axes(self, values: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes counted from the front, sorted, without repeats."""
        return tuple(sorted({self.axis(axis, rank) for axis in values}))

    def one_integer(self, position: int, what: str) -> int:
        """A constant input of one integer."""
        values = self.integers(position, what)
        if len(values) != 1:
            raise self.fail(f"{what} must be one value, got {len(values)}")
        return values[0]

    def pairs(self, position: int, what: str) -> tuple[tuple[int, int], ...]:
        """A constant input of shape (rows, 2)."""
        shape = self.x(position).shape
        values = self.integers(position, what)
        if len(shape) != 2 or shape[1] != 2:
            raise self.fail(f"{what} {shape_text(shape)} must have shape Rx2")
        return tuple(zip(values[::2], values[1::2], strict=True))

    def moved(self, position: int = 0) -> dict[str, Any]:
        """x_shape and dtype of an operator that moves elements of this input."""
        x = self.x(position)
        for index in self.raw.outputs:
            if self.tensors[index].dtype != x.dtype:
                raise self.fail(f"output of {self.tensors[index].dtype} must have the input's dtype {x.dtype}")
        return {"x_shape": x.shape, "dtype": x.dtype}

    def bias_dtype(self, x: int = 0) -> np.dtype[Any]:
        """The dtype of bias and sums: int32 for bytes; for int16 int64, unless the options say int32."""
        if self.x(x).dtype != INT16:
            return INT32
        number = 0 if self.raw.name == "DEPTHWISE_CONV_2D" else self.option("QuantizedBiasType")
        if number not in _BIAS_TYPES:
            raise self.fail(f"quantized_bias_type {number} must be int32 or int64")
        if number and not self.has(2):
            raise InputTypeError(f"{self.raw.name}: quantized_bias_type without a bias is not supported")
        return _BIAS_TYPES[number]

    def weights_and_bias(self, x: int = 0, bias_position: int = 2) -> None:
        """Checks what the Specs cannot see of weights and bias."""
        if self.is_float:
            self.float_weights_and_bias()
            return
        self.quant(self.x(x))  # of a float layer say that, not what follows for its bias
        self.constant(1, "weights")
        if self.has(bias_position):
            bias = self.constant(bias_position, "bias")
            wanted = self.bias_dtype(x)
            if bias.dtype != wanted:
                raise InputTypeError(f"{self.raw.name}: bias of {bias.dtype} is not supported; it must be {wanted}")
            quant = self.x(bias_position).quant
            if quant is not None and quant.zero_points.any():
                raise self.fail(f"bias zero point {quant.zero_point} must be 0")

    def float_weights_and_bias(self) -> None:
        """As weights_and_bias, of a layer whose data is float32: int8 or float32 weights, float32 bias."""
        self.constant(1, "weights")
        weights = self.x(1)
        if weights.dtype not in (INT8, FLOAT32) or (weights.dtype == FLOAT32 and self.raw.name == "CONV_2D"):
            raise InputTypeError(f"{self.raw.name}: float32 tensors with weights of {weights.dtype} are not supported")
        if weights.bits < 8:
            raise InputTypeError(
                f"{self.raw.name}: float32 tensors with weights of int{weights.bits} are not supported"
            )
        if self.has(2):
            bias = self.constant(2, "bias")
            if bias.dtype != FLOAT32:
                raise InputTypeError(
                    f"{self.raw.name}: bias of {bias.dtype} beside float32 tensors is not supported; it must be float32"
                )
        elif self.raw.name != "FULLY_CONNECTED":
            raise InputTypeError(f"{self.raw.name}: float32 tensors without a bias are not supported")


Converted = tuple[Spec, Shape]
"""A Spec and the output's shape of one run; operators with several outputs have one of each for every output."""


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
    if view.is_float:
        hybrid = HybridConv2dSpec(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_c=out_c,
            window=view.window(kernel_h, kernel_w),
            groups=in_c // group_c,
            w_quant=view.quant(weights),
            activation=view.float_activation,
        )
        _check_bias_shape(view, out_c)
        return hybrid, (n, *hybrid.output_shape)
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
        weight_bits=weights.bits,
        bias_dtype=view.bias_dtype(),
    )
    _check_bias_shape(view, out_c)
    return spec, (n, *spec.output_shape)


def _check_bias_shape(view: OperatorView, out_c: int, position: int = 2) -> None:
    if view.has(position) and math.prod(view.x(position).shape) != out_c:
        raise view.fail(f"bias {shape_text(view.x(position).shape)} must have O={out_c} elements")


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
    if view.is_float:
        geometry: dict[str, Any] = dict(
            in_h=in_h, in_w=in_w, in_c=in_c, multiplier=out_c // in_c, window=view.window(kernel_h, kernel_w)
        )
        _check_bias_shape(view, out_c)
        if weights.dtype == FLOAT32:
            plain = FloatDepthwiseConv2dSpec(**geometry, activation=view.float_activation)
            return plain, (n, *plain.output_shape)
        hybrid = HybridDepthwiseConv2dSpec(**geometry, w_quant=view.quant(weights), activation=view.float_activation)
        return hybrid, (n, *hybrid.output_shape)
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
        weight_bits=weights.bits,
        has_bias=view.has(2),
        bias_dtype=view.bias_dtype(),
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
    spec: Spec
    if not view.is_float:
        spec = FullyConnectedSpec(
            in_c=in_c,
            out_c=out_c,
            x_quant=view.quant(view.x()),
            w_quant=view.quant(weights),
            out_quant=view.quant(view.out),
            activation=view.activation,
            weight_bits=weights.bits,
            has_bias=view.has(2),
            bias_dtype=view.bias_dtype(),
        )
    elif weights.dtype == FLOAT32:
        spec = FloatFullyConnectedSpec(in_c=in_c, out_c=out_c, activation=view.float_activation)
    else:
        spec = HybridFullyConnectedSpec(
            in_c=in_c,
            out_c=out_c,
            w_quant=view.quant(weights),
            activation=view.float_activation,
            asymmetric_inputs=bool(view.option("AsymmetricQuantizeInputs")),
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
            pot_scale_int16=view.x().dtype == INT16 and spec_type is not MulSpec and bool(view.option("PotScaleInt16")),
        )
        return spec, spec.output_shape

    return convert


def _pool(spec_type: type[AveragePool2dSpec] | type[MaxPool2dSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        n, in_h, in_w, in_c = view.image()
        if view.is_float:
            plain = (FloatAveragePool2dSpec if spec_type is AveragePool2dSpec else FloatMaxPool2dSpec)(
                in_h=in_h,
                in_w=in_w,
                in_c=in_c,
                window=view.window(view.option("FilterHeight"), view.option("FilterWidth"), dilated=False),
                activation=view.float_activation,
            )
            return plain, (n, *plain.output_shape)
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


def _reduce_codes(spec_type: type[MeanSpec] | type[SumSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        shape = view.x().shape
        spec = spec_type(
            x_shape=shape,
            axes=view.axes(view.integers(1, "axes"), len(shape)),
            keep_dims=bool(view.option("KeepDims")),
            x_quant=view.quant(view.x()),
            out_quant=view.quant(view.out),
        )
        return spec, spec.output_shape

    return convert


def _reduce_extreme(spec_type: type[ReduceMaxSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        shape = view.x().shape
        if view.x().dtype in (INT8, UINT8) and view.x().quant != view.out.quant:
            raise view.fail("input and output must have equal scale and zero point")
        spec = spec_type(
            **view.moved(),
            axes=view.axes(view.integers(1, "axes"), len(shape)),
            keep_dims=bool(view.option("KeepDims")),
        )
        return spec, spec.output_shape

    return convert


def _softmax(view: OperatorView) -> Converted:
    shape = view.x().shape
    if not shape:
        raise view.fail("input must have rank 1 or more")
    if view.is_float:
        return FloatSoftmaxSpec(depth=shape[-1], beta=view.option("Beta")), shape
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


_FLOAT_UNARY: Mapping[type[UnarySpec], type[FloatReluSpec]] = {ReluSpec: FloatReluSpec, Relu6Spec: FloatRelu6Spec}


def _unary(spec_type: type[UnarySpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        x = view.x()
        if view.is_float and spec_type in _FLOAT_UNARY:
            return _FLOAT_UNARY[spec_type](shape=x.shape), x.shape
        return spec_type(shape=x.shape, x_quant=view.quant(x), out_quant=view.quant(view.out)), x.shape

    return convert


def _leaky_relu(view: OperatorView) -> Converted:
    x = view.x()
    spec = LeakyReluSpec(
        shape=x.shape, x_quant=view.quant(x), out_quant=view.quant(view.out), alpha=float(view.option("Alpha"))
    )
    return spec, x.shape


def _neg(view: OperatorView) -> Converted:
    moved = view.moved()
    return NegSpec(shape=moved["x_shape"], dtype=moved["dtype"]), moved["x_shape"]


def _l2_normalization(view: OperatorView) -> Converted:
    shape = view.x().shape
    if not shape:
        raise view.fail("input must have rank 1 or more")
    if view.activation is not None:
        raise InputTypeError(f"L2_NORMALIZATION: fused activation {view.activation} is not supported")
    spec = L2NormalizationSpec(depth=shape[-1], x_quant=view.quant(view.x()), out_quant=view.quant(view.out))
    return spec, shape


def _codes(spec_type: type[PreluSpec] | type[SquaredDifferenceSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        spec = spec_type(
            a_shape=view.x(0).shape,
            b_shape=view.x(1).shape,
            a_quant=view.quant(view.x(0)),
            b_quant=view.quant(view.x(1)),
            out_quant=view.quant(view.out),
        )
        if isinstance(spec, PreluSpec) and spec.output_shape != spec.a_shape:
            raise view.fail(f"alpha {shape_text(spec.b_shape)} must broadcast to input {shape_text(spec.a_shape)}")
        return spec, spec.output_shape

    return convert


def _maximum(spec_type: type[MaximumSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        dtype = view.moved()["dtype"]
        if view.x(1).dtype != dtype:
            raise view.fail(f"inputs of {dtype} and {view.x(1).dtype} must have one dtype")
        spec = spec_type(a_shape=view.x(0).shape, b_shape=view.x(1).shape, dtype=dtype)
        return spec, spec.output_shape

    return convert


def _comparison(spec_type: type[ComparisonSpec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        a, b = view.x(0), view.x(1)
        if a.dtype != b.dtype:
            raise view.fail(f"inputs of {a.dtype} and {b.dtype} must have one dtype")
        if view.out.dtype != np.bool_:
            raise view.fail(f"output of {view.out.dtype} must be bool")
        quantized = a.dtype in (INT8, UINT8)
        spec = spec_type(
            a_shape=a.shape,
            b_shape=b.shape,
            dtype=a.dtype,
            a_quant=view.quant(a) if quantized else None,
            b_quant=view.quant(b) if quantized else None,
        )
        return spec, spec.output_shape

    return convert


def _select(spec_type: type[SelectV2Spec]) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        condition, a, b = (view.x(position) for position in range(3))
        if condition.dtype != np.bool_ or b.dtype != a.dtype:
            raise view.fail(f"inputs of {condition.dtype}, {a.dtype} and {b.dtype} must be bool and two of one dtype")
        shape = condition.shape
        if spec_type is SelectSpec and len(shape) == 1 and len(a.shape) > 1:
            shape += (1,) * (len(a.shape) - 1)
        spec = spec_type(condition_shape=shape, a_shape=a.shape, b_shape=b.shape, dtype=view.moved(position=1)["dtype"])
        return spec, spec.output_shape

    return convert


def _batch_matmul(view: OperatorView) -> Converted:
    spec = BatchMatmulSpec(
        a_shape=view.x(0).shape,
        b_shape=view.x(1).shape,
        adj_x=bool(view.option("AdjX")),
        adj_y=bool(view.option("AdjY")),
        a_quant=view.quant(view.x(0)),
        b_quant=view.quant(view.x(1)),
        out_quant=view.quant(view.out),
    )
    return spec, spec.output_shape


def _transpose_conv(view: OperatorView) -> Converted:
    n, in_h, in_w, in_c = view.image(2)
    view.weights_and_bias(x=2, bias_position=3)
    weights = view.x(1)
    if len(weights.shape) != 4:
        raise view.fail(f"weights {shape_text(weights.shape)} must have rank 4 (OHWI)")
    out_c, kernel_h, kernel_w, weights_c = weights.shape
    if weights_c != in_c:
        raise view.fail(f"weights I={weights_c} (OHWI {shape_text(weights.shape)}) must equal input C={in_c}")
    size = view.integers(0, "output shape")
    if len(size) != 4 or (size[0], size[3]) != (n, out_c):
        raise view.fail(f"output shape {size} must be NHWC with N={n} and C={out_c}")
    spec = TransposeConvSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_h=size[1],
        out_w=size[2],
        out_c=out_c,
        window=view.window(kernel_h, kernel_w, dilated=False, image=(size[1], size[2])),
        x_quant=view.quant(view.x(2)),
        w_quant=view.quant(weights),
        out_quant=view.quant(view.out),
        activation=view.activation,
        padding=_PADDINGS[view.option("Padding")],
        images=n,
    )
    _check_bias_shape(view, out_c, 3)
    return spec, (n, *spec.output_shape)


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
    axis = view.axis(view.one_integer(1, "axis"), len(x.shape))
    spec = ArgMaxSpec(x_shape=x.shape, axis=axis, dtype=x.dtype, out_dtype=view.out.dtype)
    return spec, spec.output_shape


def _transpose(view: OperatorView) -> Converted:
    rank = len(view.x().shape)
    perm = tuple(view.axis(axis, rank) for axis in view.integers(1, "perm"))
    spec = TransposeSpec(**view.moved(), perm=perm)
    return spec, spec.output_shape


def _slice(view: OperatorView) -> Converted:
    shape = view.x().shape
    starts, sizes = view.integers(1, "begin"), view.integers(2, "size")
    if not len(starts) == len(sizes) == len(shape):
        raise view.fail(f"{len(starts)} begins and {len(sizes)} sizes for rank {len(shape)}")
    counts = tuple(
        whole - start if size == -1 else size for whole, start, size in zip(shape, starts, sizes, strict=True)
    )
    spec = SliceSpec(**view.moved(), starts=starts, strides=(1,) * len(shape), sizes=counts, out_shape=counts)
    return spec, counts


def _strided_slice(view: OperatorView) -> Converted:
    shape = view.x().shape
    begins, ends, strides = (
        view.integers(position, what) for position, what in ((1, "begin"), (2, "end"), (3, "strides"))
    )
    counts = f"{len(begins)} begins, {len(ends)} ends and {len(strides)} strides for rank {len(shape)}"
    if not len(begins) == len(ends) == len(strides):
        raise view.fail(counts)

    def marked(mask: str, entry: int) -> bool:
        return bool(view.option(mask) >> entry & 1)

    entries = range(len(begins))
    ellipses = [entry for entry in entries if marked("EllipsisMask", entry)]
    added = [entry for entry in entries if marked("NewAxisMask", entry) and entry not in ellipses]
    left = len(shape) - (len(begins) - len(ellipses) - len(added))
    if left < 0:
        raise view.fail(counts)
    if len(ellipses) > 1:
        raise view.fail(f"{len(ellipses)} ellipses; there can be one")
    if ellipses and left == 0:
        # The runtimes let it stand for one dimension all the same.
        raise InputTypeError("STRIDED_SLICE: an ellipsis that stands for no dimension is not supported")
    starts: list[int] = []
    steps: list[int] = []
    sizes: list[int] = []
    out_shape: list[int] = []

    def take(start: int, step: int, size: int, *, keep: bool = True) -> None:
        starts.append(start)
        steps.append(step)
        sizes.append(size)
        if keep:
            out_shape.append(size)

    for entry in entries:
        whole = shape[len(starts)] if len(starts) < len(shape) else 0
        begin, end, stride = begins[entry], ends[entry], strides[entry]
        if entry in ellipses:
            for size in shape[len(starts) : len(starts) + left]:
                take(0, 1, size)
        elif entry in added:
            out_shape.append(1)
        elif stride == 0:
            raise view.fail("strides must not be 0")
        elif marked("ShrinkAxisMask", entry):
            if not -whole <= begin < whole:
                raise view.fail(f"index {begin} of a dimension of {whole}")
            take(begin % whole, 1, 1, keep=False)
        else:
            chosen = range(whole)[
                slice(
                    None if marked("BeginMask", entry) else begin,
                    None if marked("EndMask", entry) else begin + end if view.option("Offset") else end,
                    stride,
                )
            ]
            take(chosen.start, stride, len(chosen))
    for size in shape[len(starts) :]:
        take(0, 1, size)
    spec = StridedSliceSpec(
        **view.moved(), starts=tuple(starts), strides=tuple(steps), sizes=tuple(sizes), out_shape=tuple(out_shape)
    )
    return spec, spec.out_shape


def _reverse_v2(view: OperatorView) -> Converted:
    shape = view.x().shape
    axes = view.axes(view.integers(1, "axis"), len(shape))
    spec = ReverseV2Spec(
        **view.moved(),
        starts=tuple(size - 1 if i in axes else 0 for i, size in enumerate(shape)),
        strides=tuple(-1 if i in axes else 1 for i in range(len(shape))),
        sizes=shape,
        out_shape=shape,
    )
    return spec, shape


def _part(
    view: OperatorView, spec_type: type[StridedSliceSpec], position: int, axis: int, start: int, size: int
) -> StridedSliceSpec:
    """size elements from start on along one dimension, all of the others."""
    moved = view.moved(position)
    shape = moved["x_shape"]
    sizes = (*shape[:axis], size, *shape[axis + 1 :])
    return spec_type(
        **moved,
        starts=tuple(start if i == axis else 0 for i in range(len(shape))),
        strides=(1,) * len(shape),
        sizes=sizes,
        out_shape=sizes if spec_type is not UnpackSpec else shape[:axis] + shape[axis + 1 :],
    )


def _parts(
    view: OperatorView, spec_type: type[StridedSliceSpec], position: int, axis: int, sizes: Sequence[int]
) -> list[Converted]:
    """Consecutive parts along one dimension, one for each output."""
    if len(sizes) != len(view.raw.outputs):
        raise view.fail(f"{len(sizes)} parts for {len(view.raw.outputs)} outputs")
    starts = np.cumsum([0, *sizes]).tolist()
    specs = [_part(view, spec_type, position, axis, start, size) for start, size in zip(starts, sizes, strict=False)]
    return [(spec, spec.out_shape) for spec in specs]


def _split(view: OperatorView) -> list[Converted]:
    shape = view.x(1).shape
    axis = view.axis(view.one_integer(0, "axis"), len(shape))
    count = len(view.raw.outputs)
    if count == 0 or shape[axis] % count:
        raise view.fail(f"dimension {axis} of {shape_text(shape)} does not divide into {count} parts")
    return _parts(view, SplitSpec, 1, axis, [shape[axis] // count] * count)


def _split_v(view: OperatorView) -> list[Converted]:
    shape = view.x().shape
    axis = view.axis(view.one_integer(2, "axis"), len(shape))
    sizes = list(view.integers(1, "sizes"))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = shape[axis] - sum(size for size in sizes if size != -1)
    if any(size < 1 for size in sizes) or sum(sizes) != shape[axis]:
        raise view.fail(f"sizes {sizes[:8]} must be positive and add up to {shape[axis]}, with at most one -1")
    return _parts(view, SplitVSpec, 0, axis, sizes)


def _unpack(view: OperatorView) -> list[Converted]:
    shape = view.x().shape
    axis = view.axis(view.option("Axis"), len(shape))
    if shape[axis] != len(view.raw.outputs):
        raise view.fail(f"{shape[axis]} parts for {len(view.raw.outputs)} outputs")
    return _parts(view, UnpackSpec, 0, axis, [1] * shape[axis])


def _pack(view: OperatorView) -> Converted:
    inputs = [view.x(position) for position in range(len(view.raw.inputs))]
    moved = view.moved()
    if any(x.shape != inputs[0].shape for x in inputs):
        raise view.fail(f"inputs {[shape_text(x.shape) for x in inputs[:4]]} must have one shape")
    if any(x.dtype != inputs[0].dtype for x in inputs):
        raise view.fail("inputs must have one dtype")
    if inputs[0].dtype in (INT8, UINT8) and any(x.quant != view.out.quant for x in inputs):
        raise view.fail("inputs must have the output's scale and zero point")
    axis = view.axis(view.option("Axis"), len(inputs[0].shape) + 1)
    spec = PackSpec(**moved, count=len(inputs), axis=axis)
    return spec, spec.output_shape


def _gather(view: OperatorView) -> Converted:
    moved, indices = view.moved(), view.x(1)
    axis = view.axis(view.option("Axis"), len(moved["x_shape"]))
    batch_dims = view.option("BatchDims")
    spec = GatherSpec(
        **moved,
        indices_shape=indices.shape,
        indices_dtype=indices.dtype,
        axis=axis,
        batch_dims=batch_dims + len(indices.shape) if batch_dims < 0 else batch_dims,
    )
    if indices.data is not None:
        spec.check_indices(indices.data)
    return spec, spec.output_shape


def _gather_nd(view: OperatorView) -> Converted:
    indices = view.x(1)
    spec = GatherNdSpec(**view.moved(), indices_shape=indices.shape, indices_dtype=indices.dtype)
    if indices.data is not None:
        spec.check_indices(indices.data)
    return spec, spec.output_shape


def _tile(view: OperatorView) -> Converted:
    spec = TileSpec(**view.moved(), multiples=view.integers(1, "multiples"))
    return spec, spec.output_shape


def _broadcast_to(view: OperatorView) -> Converted:
    spec = BroadcastToSpec(**view.moved(), out_shape=view.integers(1, "shape"))
    return spec, spec.output_shape


def _space_to_depth(
    spec_type: type[SpaceToDepthSpec] | type[DepthToSpaceSpec],
) -> Callable[[OperatorView], Converted]:
    def convert(view: OperatorView) -> Converted:
        spec = spec_type(**view.moved(), block=view.option("BlockSize"))
        return spec, spec.output_shape

    return convert


def _space_to_batch_nd(view: OperatorView) -> Converted:
    moved = view.moved()
    codes = moved["dtype"] in (INT8, UINT8)
    spec = SpaceToBatchNdSpec(
        **moved,
        block=view.integers(1, "block shape"),
        pads=view.pairs(2, "paddings"),
        fill=view.quant(view.out).scalar_zero_point() if codes else 0,
    )
    return spec, spec.output_shape


def _batch_to_space_nd(view: OperatorView) -> Converted:
    spec = BatchToSpaceNdSpec(**view.moved(), block=view.integers(1, "block shape"), crops=view.pairs(2, "crops"))
    return spec, spec.output_shape


def _padv2(view: OperatorView) -> Converted:
    value = view.constant(2, "value")
    if value.size != 1 or value.dtype != view.x().dtype:
        raise view.fail(f"value {value.dtype} {shape_text(value.shape)} must be one {view.x().dtype}")
    if value.dtype in (INT8, UINT8) and view.x(2).quant != view.out.quant:
        raise view.fail("value must have the output's scale and zero point")
    spec = PadV2Spec(**view.moved(), pads=view.pairs(1, "paddings"), value=value.reshape(-1)[0].item())
    return spec, spec.output_shape


_MIRROR_MODES = {0: False, 1: True}  # REFLECT, SYMMETRIC


def _mirror_pad(view: OperatorView) -> Converted:
    mode = view.option("Mode")
    if mode not in _MIRROR_MODES:
        raise view.fail(f"mode {mode} is not in the schema")
    spec = MirrorPadSpec(**view.moved(), pads=view.pairs(1, "paddings"), symmetric=_MIRROR_MODES[mode])
    return spec, spec.output_shape


def _cast(view: OperatorView) -> Converted:
    x = view.x()
    return CastSpec(shape=x.shape, dtype=x.dtype, out_dtype=view.out.dtype), x.shape


def _read_variable(view: OperatorView) -> Converted:
    variable, shape = view.x(), view.out.shape
    if not variable.is_variable:
        raise InputTypeError("READ_VARIABLE: a handle that does not come from VAR_HANDLE is not supported")
    # No dimensions: a scalar, or a shape that the file leaves to the variable.
    spec = ReadVariableSpec(**view.moved(), out_shape=shape or variable.shape, is_assigned=view.option("IsAssigned"))
    return spec, spec.output_shape


def _assign_variable(view: OperatorView) -> Converted:
    if len(view.raw.inputs) != 1 or not view.raw.outputs or not view.out.is_variable:
        raise InputTypeError("ASSIGN_VARIABLE: a handle that does not come from VAR_HANDLE is not supported")
    value, variable = view.x(), view.out
    if value.shape != variable.shape:
        raise view.fail(f"value {shape_text(value.shape)} must have the variable's shape {shape_text(variable.shape)}")
    spec = AssignVariableSpec(**view.moved())
    return spec, spec.output_shape


CONVERTERS: Mapping[str, Callable[[OperatorView], Converted | list[Converted]]] = MappingProxyType(
    {
        "ABS": _unary(AbsSpec),
        "ADD": _binary(AddSpec),
        "ARG_MAX": _arg_max,
        "ASSIGN_VARIABLE": _assign_variable,
        "AVERAGE_POOL_2D": _pool(AveragePool2dSpec),
        "BATCH_MATMUL": _batch_matmul,
        "BATCH_TO_SPACE_ND": _batch_to_space_nd,
        "BROADCAST_TO": _broadcast_to,
        "CAST": _cast,
        "CONCATENATION": _concatenation,
        "CONV_2D": _conv2d,
        "DEPTHWISE_CONV_2D": _depthwise_conv2d,
        "DEPTH_TO_SPACE": _space_to_depth(DepthToSpaceSpec),
        "DEQUANTIZE": _dequantize,
        "ELU": _unary(EluSpec),
        "EXPAND_DIMS": _expand_dims,
        "FULLY_CONNECTED": _fully_connected,
        "GATHER": _gather,
        "GATHER_ND": _gather_nd,
        "HARD_SWISH": _unary(HardSwishSpec),
        "L2_NORMALIZATION": _l2_normalization,
        "LEAKY_RELU": _leaky_relu,
        "LOGISTIC": _unary(LogisticSpec),
        "MAXIMUM": _maximum(MaximumSpec),
        "MAX_POOL_2D": _pool(MaxPool2dSpec),
        "MEAN": _reduce_codes(MeanSpec),
        "MINIMUM": _maximum(MinimumSpec),
        "MIRROR_PAD": _mirror_pad,
        "MUL": _binary(MulSpec),
        "NEG": _neg,
        "PACK": _pack,
        "PAD": _pad,
        "PADV2": _padv2,
        "PRELU": _codes(PreluSpec),
        "QUANTIZE": _quantize,
        "READ_VARIABLE": _read_variable,
        "REDUCE_MAX": _reduce_extreme(ReduceMaxSpec),
        "REDUCE_MIN": _reduce_extreme(ReduceMinSpec),
        "RELU": _unary(ReluSpec),
        "RELU6": _unary(Relu6Spec),
        "RELU_0_TO_1": _unary(Relu0To1Spec),
        "RELU_N1_TO_1": _unary(ReluN1To1Spec),
        "RESHAPE": _reshape,
        "RESIZE_BILINEAR": _resize(ResizeBilinearSpec),
        "RESIZE_NEAREST_NEIGHBOR": _resize(ResizeNearestNeighborSpec),
        "REVERSE_V2": _reverse_v2,
        "RSQRT": _unary(RsqrtSpec),
        "SELECT": _select(SelectSpec),
        "SELECT_V2": _select(SelectV2Spec),
        "SLICE": _slice,
        "SOFTMAX": _softmax,
        "SPACE_TO_BATCH_ND": _space_to_batch_nd,
        "SPACE_TO_DEPTH": _space_to_depth(SpaceToDepthSpec),
        "SPLIT": _split,
        "SPLIT_V": _split_v,
        "SQRT": _unary(SqrtSpec),
        "SQUARED_DIFFERENCE": _codes(SquaredDifferenceSpec),
        "SQUEEZE": _squeeze,
        "STRIDED_SLICE": _strided_slice,
        "SUB": _binary(SubSpec),
        "SUM": _reduce_codes(SumSpec),
        "TANH": _unary(TanhSpec),
        "TILE": _tile,
        "TRANSPOSE": _transpose,
        "TRANSPOSE_CONV": _transpose_conv,
        "UNPACK": _unpack,
        **{spec_type.op: _comparison(spec_type) for spec_type in COMPARISONS},
    }
)


_TWO_INPUTS = (
    *("ADD", "MUL", "SUB", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU", "BATCH_MATMUL"),
    *("ARG_MAX", "EXPAND_DIMS", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "PAD", "MIRROR_PAD", "TRANSPOSE", "SPLIT"),
    *("GATHER", "GATHER_ND", "TILE", "BROADCAST_TO", "REVERSE_V2", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    *(spec_type.op for spec_type in COMPARISONS),
)

INPUT_COUNTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), (2, 3)),
        **dict.fromkeys(_TWO_INPUTS, (2, 2)),
        **dict.fromkeys(("SELECT", "SELECT_V2", "SLICE", "SPLIT_V", "PADV2"), (3, 3)),
        **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), (3, 3)),
        **dict.fromkeys(("CONCATENATION", "PACK"), (1, MAX_ENTRIES)),
        "ASSIGN_VARIABLE": (1, 2),
        "RESHAPE": (1, 2),
        "STRIDED_SLICE": (4, 4),
        "TRANSPOSE_CONV": (3, 4),
    }
)
"""The fewest and most inputs of an operator; (1, 1) for those that are not listed."""


_FIRST_INPUT = (
    *("ARG_MAX", "EXPAND_DIMS", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "PAD", "PADV2", "MIRROR_PAD", "RESHAPE"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "REVERSE_V2", "SPLIT_V"),
    *("TILE", "BROADCAST_TO", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
)

DATA_INPUTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {**dict.fromkeys(_FIRST_INPUT, (0,)), "SPLIT": (1,), "TRANSPOSE_CONV": (2, 1, 3)}
)
"""The inputs that reference() takes, in its order; the others (axes, sizes, pads) are constants that went into the
Spec. Operators that are not listed take all in the file's order.
"""


# Operators that converters build shapes with: computed while the model is read where all inputs are known, for the
# shapes of what follows hang on them.
SHAPE_ARITHMETIC = frozenset(
    ("PACK", "UNPACK", "STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V", "GATHER", "CAST", "TILE", "MAXIMUM", "MINIMUM")
)


def shape_value(view: OperatorView) -> npt.NDArray[Any] | None:
    """What SHAPE gives: the shapes of one run are known; None for other operators."""
    if view.raw.name != "SHAPE":
        return None
    return np.array(view.x().shape, np.int64 if view.out.dtype == np.int64 else np.int32)
