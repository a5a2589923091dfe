"""What a converter sees of one operator of a .tflite: its tensors and options, checked as they are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputTypeError, InputValueError
from gpuq.model.graph import Tensor
from gpuq.model.tflite_file import RawOperator
from gpuq.ops.spec import FLOAT32, INT8, INT16, INT32, INT64, Shape, Spec, shape_text
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

# A fused TANH or SIGN_BIT is ignored by the quantized kernels of all runtimes: they clamp to the dtype only
# (CalculateActivationRangeQuantized, LiteRT tflite/kernels/kernel_util.cc).
_ACTIVATIONS = {0: None, 1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: None, 5: None}


# TensorType 0 (FLOAT32) stands for a field that is left out.
# Operators whose int16 kernels have one type of bias, whatever the options say.
_INT64_BIAS = ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_BIAS_TYPES: Mapping[int, np.dtype[Any]] = {0: INT64, 2: INT32, 4: INT64}


PADDINGS = {0: "same", 1: "valid"}


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

    def check_input_count(self, fewest: int, most: int) -> None:
        """No input too many, for it would be ignored; none too few."""
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
        if padding not in PADDINGS:
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
            PADDINGS[padding],
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
        number = 0 if self.raw.name in _INT64_BIAS else self.option("QuantizedBiasType")
        if number not in _BIAS_TYPES:
            raise self.fail(f"quantized_bias_type {number} must be int32 or int64")
        if number and not self.has(2):
            raise InputTypeError(f"{self.raw.name}: quantized_bias_type without a bias is not supported")
        return _BIAS_TYPES[number]

    def weights_and_bias(self, x: int = 0, bias_position: int = 2) -> None:
        """Checks what the Specs cannot see of weights and bias."""
        if self.x(x).dtype == FLOAT32 and self.out.dtype == FLOAT32:
            self.float_weights_and_bias(bias_position)
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

    def float_weights_and_bias(self, bias_position: int) -> None:
        """As weights_and_bias, of a layer whose data is float32: int8 or float32 weights, float32 bias."""
        self.constant(1, "weights")
        weights = self.x(1)
        if weights.dtype not in (INT8, FLOAT32) or (weights.dtype == INT8 and self.raw.name == "TRANSPOSE_CONV"):
            raise InputTypeError(f"{self.raw.name}: float32 tensors with weights of {weights.dtype} are not supported")
        if weights.bits < 8:
            raise InputTypeError(
                f"{self.raw.name}: float32 tensors with weights of int{weights.bits} are not supported"
            )
        if self.has(bias_position):
            bias = self.constant(bias_position, "bias")
            if bias.dtype != FLOAT32:
                raise InputTypeError(
                    f"{self.raw.name}: bias of {bias.dtype} beside float32 tensors is not supported; it must be float32"
                )
        elif self.raw.name not in ("FULLY_CONNECTED", "TRANSPOSE_CONV"):
            raise InputTypeError(f"{self.raw.name}: float32 tensors without a bias are not supported")


Converted = tuple[Spec, Shape]
"""A Spec and the output's shape of one run; operators with several outputs have one of each for every output."""


@dataclass(frozen=True)
class Joint:
    """One Spec that computes all of an operator's outputs.

    Attributes:
        shapes: of one run, of each output.
        states: the variable tensors that it reads, and writes as its last outputs.
    """

    spec: Spec
    shapes: tuple[Shape, ...]
    states: tuple[int, ...] = ()
