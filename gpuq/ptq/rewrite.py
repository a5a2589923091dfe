"""A float network's file values rewritten with codes: constants quantized, activations typed, conversions put in.

Every float32 tensor may come in several versions: one for each Quant that an operator wants it in, and float32. The
version that its producer gives is its home; the others are converted from it, once each, by QUANTIZE and DEQUANTIZE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputValueError
from gpuq.model.tflite_file import RawModel, RawOperator, RawSignature, RawTensor
from gpuq.model.tflite_reader import packed
from gpuq.model.versions import operator_version
from gpuq.ops.spec import FLOAT32, INT8, INT16, INT32, INT64, UINT8
from gpuq.ptq.bias_correction import corrected_bias
from gpuq.ptq.scheme import MIN_DYNAMIC_WEIGHTS, SCHEMES, Mode, Scheme, Weights, data_input
from gpuq.quant import Quant, dequantize, quantize, quantize_bias, quantize_weights, widened_for_bias

Range = tuple[float, float]
Dtype = np.dtype[Any]

_TYPE_NAMES: Mapping[Dtype, str] = {dtype: dtype.name.upper() for dtype in (FLOAT32, INT8, UINT8, INT16, INT32, INT64)}


@dataclass(frozen=True)
class Rewritten:
    """A rewritten network.

    Attributes:
        model: its values, to be read or written as a file.
        origins: for each of its operators the number of the float network's operator; None for conversions.
        homes: for each float32 activation of the float network the tensor that its producer gives now.
    """

    model: RawModel
    origins: tuple[int | None, ...]
    homes: Mapping[int, int]


def activations(raw: RawModel) -> list[int]:
    """The float32 tensors that are computed or given, in the order of their appearance."""
    indices = [*raw.inputs, *(index for operator in raw.operators for index in operator.outputs)]
    return [index for index in indices if is_float(raw.tensors[index])]


def is_float(tensor: RawTensor) -> bool:
    return tensor.type_name == "FLOAT32"


def constant(tensor: RawTensor) -> npt.NDArray[np.float32]:
    """A float32 constant's value."""
    if tensor.data is None or not is_float(tensor):
        raise InputValueError(f"tensor {tensor.name!r} must be a float32 constant")
    return np.frombuffer(tensor.data.tobytes(), "<f4").reshape(tensor.shape)


def with_constant(tensor: RawTensor, values: npt.NDArray[Any]) -> RawTensor:
    """The tensor with another value of the same shape and dtype."""
    return replace(tensor, data=_bytes(np.asarray(values, np.float32)))


def can_quantize(raw: RawModel, operator: RawOperator) -> bool:
    """True of operators that have a scheme, work on float32 and, where they have weights, have them as constants."""
    scheme = SCHEMES.get(operator.name)
    if scheme is None:
        return False
    if (operator.options or {}).get("FusedActivationFunction", 0) in (4, 5):  # TANH, SIGN_BIT
        return False
    touched = [index for index in (*operator.inputs, *operator.outputs) if index >= 0]
    if not any(is_float(raw.tensors[index]) and raw.tensors[index].data is None for index in touched):
        return False
    if scheme.weights is None:
        return True
    positions = (scheme.weights.position, scheme.weights.bias)
    present = [operator.inputs[p] for p in positions if p < len(operator.inputs) and operator.inputs[p] >= 0]
    return all(is_float(raw.tensors[index]) and raw.tensors[index].data is not None for index in present)


def rewrite(
    raw: RawModel,
    dtypes: Mapping[int, Dtype],
    ranges: Mapping[int, Range],
    mode: Mode,
    *,
    interface: Dtype | None = None,
    per_tensor: bool = False,
    means: Mapping[int, npt.NDArray[np.float64]] = MappingProxyType({}),
) -> Rewritten:
    """The network with these operators quantized.

    Args:
        raw: a float network.
        dtypes: by operator number, the dtype of the activations of each that is to be quantized; see can_quantize.
        ranges: by tensor number, (minimum, maximum) of the float32 activations that these operators touch.
        mode: what becomes of weights.
        interface: the dtype of the network's float32 inputs and outputs; None leaves them float32.
        per_tensor: one scale for each weight tensor.
        means: by tensor number, the channel means of layers' inputs; where one is given, the bias is corrected for
            what rounding the weights does on average.

    Raises:
        InputValueError: a range that is missing or not finite, weights with NaN or Inf.
    """
    return _Rewriter(raw, dtypes, ranges, mode, interface, per_tensor, means).run()


class _Scales:
    """One Quant for each (tensor, dtype) that operators touch; those that must share a scale share it.

    Their range is the union of the ranges of all, unless a kernel fixes the scale of one.
    """

    def __init__(self, raw: RawModel, dtypes: Mapping[int, Dtype], ranges: Mapping[int, Range]) -> None:
        self._raw = raw
        self._ranges = ranges
        self._parents: dict[tuple[int, Dtype], tuple[int, Dtype]] = {}
        self._fixed: dict[tuple[int, Dtype], Quant] = {}
        self._members: dict[tuple[int, Dtype], list[int]] = {}
        for operator in raw.operators:
            if operator.index in dtypes:
                self._constrain(operator, SCHEMES[operator.name], dtypes[operator.index])

    def quant(self, tensor: int, dtype: Dtype) -> Quant:
        """The Quant of a tensor in a dtype."""
        root = self._root((tensor, dtype))
        if root in self._fixed:
            return self._fixed[root]
        low, high = 0.0, 0.0
        for member in self._members.get(root, [tensor]):
            lowest, highest = self._range(member)
            low, high = min(low, lowest), max(high, highest)
        return Quant.from_range(low, high, dtype=dtype, symmetric=dtype == INT16)

    def _range(self, tensor: int) -> Range:
        raw = self._raw.tensors[tensor]
        if raw.data is not None:
            values = constant(raw)
            return float(values.min()), float(values.max())
        if tensor not in self._ranges:
            raise InputValueError(f"quantize: tensor {raw.name!r} has no range; calibration must give it one")
        return self._ranges[tensor]

    def _constrain(self, operator: RawOperator, scheme: Scheme, dtype: Dtype) -> None:
        outputs = [(index, dtype) for index in operator.outputs if is_float(self._raw.tensors[index])]
        if dtype in scheme.output:
            for key in outputs:
                self._fixed[self._root(key)] = scheme.output[dtype]
        if not scheme.shares_scale:
            return
        inputs = [(index, dtype) for index in operator.inputs if index >= 0 and is_float(self._raw.tensors[index])]
        fixed = [self._fixed.get(self._root(key)) for key in inputs]
        # Values of one fixed scale keep it as they move. Where they meet others, the others' range decides, and they
        # are converted.
        together = inputs if all(quant == fixed[0] for quant in fixed) else []
        if not together:
            together = [key for key, quant in zip(inputs, fixed, strict=True) if quant is None]
        for key in (*together, *outputs):
            self._join(outputs[0], key)

    def _root(self, key: tuple[int, Dtype]) -> tuple[int, Dtype]:
        while key in self._parents:
            key = self._parents[key]
        return key

    def _join(self, a: tuple[int, Dtype], b: tuple[int, Dtype]) -> None:
        a, b = self._root(a), self._root(b)
        if a == b:
            return
        self._parents[b] = a
        self._members[a] = self._members.pop(a, [a[0]]) + self._members.pop(b, [b[0]])
        if b in self._fixed:
            self._fixed[a] = self._fixed.pop(b)


@dataclass(frozen=True)
class _Codes:
    """Quantized weights."""

    codes: npt.NDArray[Any]
    quant: Quant
    bits: int = 8

    def dequantized(self) -> npt.NDArray[np.float32]:
        return dequantize(self.codes, self.quant)


class _Rewriter:
    """Builds the new network operator by operator; see rewrite."""

    def __init__(
        self,
        raw: RawModel,
        dtypes: Mapping[int, Dtype],
        ranges: Mapping[int, Range],
        mode: Mode,
        interface: Dtype | None,
        per_tensor: bool,
        means: Mapping[int, npt.NDArray[np.float64]],
    ) -> None:
        self._raw = raw
        self._dtypes = dtypes
        self._mode = mode
        self._interface = interface
        self._per_tensor = per_tensor
        self._means = means
        self._scales = _Scales(raw, dtypes, ranges)
        self._producers = {index: operator for operator in raw.operators for index in operator.outputs}
        self._tensors: list[RawTensor] = []
        self._operators: list[RawOperator] = []
        self._origins: list[int | None] = []
        self._home: dict[int, Quant | None] = {}
        self._versions: dict[tuple[int, Quant | None], int] = {}

    def run(self) -> Rewritten:
        raw = self._raw
        inputs = [self._given(index) for index in raw.inputs]
        for operator in raw.operators:
            self._rewrite(operator)
        outputs = [self._taken(index) for index in raw.outputs]
        ends = dict(zip((*raw.inputs, *raw.outputs), (*inputs, *outputs), strict=True))
        model = replace(
            raw,
            tensors=tuple(self._tensors),
            operators=tuple(
                replace(operator, version=operator_version(operator, self._tensors)) for operator in self._operators
            ),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            signatures=tuple(
                RawSignature(
                    signature.key,
                    tuple((name, ends[index]) for name, index in signature.inputs),
                    tuple((name, ends[index]) for name, index in signature.outputs),
                )
                for signature in raw.signatures
            ),
        )
        homes = {index: self._versions[index, quant] for index, quant in self._home.items()}
        return Rewritten(model, tuple(self._origins), homes)

    # ------------------------------------------------------------------------------------------------ operators

    def _rewrite(self, operator: RawOperator) -> None:
        dtype = self._dtypes.get(operator.index)
        scheme = SCHEMES.get(operator.name)
        options = operator.options
        if dtype is None or scheme is None:
            if scheme is not None and self._is_dynamic(operator, scheme.weights):
                inputs = self._dynamic(operator, scheme)
                if operator.name == "FULLY_CONNECTED" and options is not None:
                    # Asymmetric codes lose less, and convolutions have them anyway.
                    options = {**options, "AsymmetricQuantizeInputs": True}
            else:
                inputs = [self._plain(index) for index in operator.inputs]
            outputs = [self._output(index, None) for index in operator.outputs]
        else:
            outputs = [self._output(index, dtype) for index in operator.outputs]
            inputs = self._quantized(operator, scheme, dtype)
        self._append(replace(operator, inputs=tuple(inputs), outputs=tuple(outputs), options=options), operator.index)

    def _append(self, operator: RawOperator, origin: int | None) -> None:
        self._operators.append(replace(operator, index=len(self._operators)))
        self._origins.append(origin)

    def _quantized(self, operator: RawOperator, scheme: Scheme, dtype: Dtype) -> list[int]:
        raw = self._raw.tensors
        # Where a fixed scale meets others, inputs are wanted in the output's scale.
        shared = self._scales.quant(operator.outputs[0], dtype) if scheme.shares_scale else None
        weights = scheme.weights
        inputs: list[int] = []
        for position, index in enumerate(operator.inputs):
            if weights is not None and position in (weights.position, weights.bias):
                inputs.append(-1)
            elif index < 0 or not is_float(raw[index]):
                inputs.append(self._plain(index))
            else:
                narrow = dtype == INT16 and position == scheme.int8_beside_int16
                quant = self._scales.quant(index, INT8 if narrow else dtype)
                inputs.append(self._version(index, shared or quant))
        if weights is not None:
            x_quant = self._scales.quant(operator.inputs[data_input(operator)], dtype)
            self._set_constants(operator, weights, x_quant, inputs)
        return inputs

    def _set_constants(self, operator: RawOperator, weights: Weights, x_quant: Quant, inputs: list[int]) -> None:
        """Puts quantized weights and bias into the inputs."""
        tensor = self._raw.tensors[operator.inputs[weights.position]]
        values = constant(tensor)
        quantized = self._quantize_weights(weights, values, x_quant)
        position = weights.bias
        has_bias = position < len(inputs) and operator.inputs[position] >= 0
        means = self._means.get(operator.inputs[data_input(operator)])
        # Convolutions get a bias always: some runtimes crash without.
        if has_bias or means is not None or operator.name != "FULLY_CONNECTED":
            given = constant(self._raw.tensors[operator.inputs[position]]).reshape(-1) if has_bias else None
            bias = np.zeros(tensor.shape[weights.axis]) if given is None else given.astype(np.float64)
            name = self._raw.tensors[operator.inputs[position]].name if has_bias else f"{tensor.name}_bias"
            if means is not None:
                bias = corrected_bias(operator, values, quantized.dequantized(), means, bias)
            wide = widened_for_bias(quantized.quant, bias, x_quant)
            if wide != quantized.quant:
                codes = quantize(values, wide, narrow_range=wide.dtype == INT8)
                quantized = replace(quantized, codes=codes, quant=wide)
            dtype = INT64 if x_quant.dtype == INT16 else INT32
            while len(inputs) <= position:
                inputs.append(-1)
            inputs[position] = self._add(name, *quantize_bias(bias, x_quant, quantized.quant, dtype=dtype))
        inputs[weights.position] = self._add(tensor.name, quantized.codes, quantized.quant, quantized.bits)

    def _quantize_weights(self, weights: Weights, values: npt.NDArray[np.float32], x_quant: Quant) -> _Codes:
        """By the mode; layers that are kept at int16 always have int8 weights."""
        is_int16 = x_quant.dtype == INT16
        if self._mode.weights == UINT8 and not is_int16:
            return _Codes(*quantize_weights(values, axis=None, symmetric=False, dtype=UINT8))
        bits = self._mode.weight_bits if weights.takes_int4 and not is_int16 else 8
        axis = None if self._per_tensor else weights.axis
        return _Codes(*quantize_weights(values, axis=axis, bits=bits), bits)

    def _is_dynamic(self, operator: RawOperator, weights: Weights | None) -> bool:
        if self._mode.activations is not None or weights is None or not weights.is_dynamic:
            return False
        return can_quantize(self._raw, operator) and (
            math.prod(self._raw.tensors[operator.inputs[weights.position]].shape) >= MIN_DYNAMIC_WEIGHTS
        )

    def _dynamic(self, operator: RawOperator, scheme: Scheme) -> list[int]:
        weights = scheme.weights
        assert weights is not None
        inputs = [-1 if p == weights.position else self._plain(i) for p, i in enumerate(operator.inputs)]
        tensor = self._raw.tensors[operator.inputs[weights.position]]
        codes, quant = quantize_weights(constant(tensor), axis=None if self._per_tensor else weights.axis)
        inputs[weights.position] = self._add(tensor.name, codes, quant)
        if operator.name != "FULLY_CONNECTED" and (weights.bias >= len(inputs) or inputs[weights.bias] < 0):
            del inputs[weights.bias :]
            inputs.append(self._add(f"{tensor.name}_bias", np.zeros(tensor.shape[weights.axis], np.float32), None))
        return inputs

    # ---------------------------------------------------------------------------------------- tensors' versions

    def _given(self, index: int) -> int:
        """An input of the network."""
        if not is_float(self._raw.tensors[index]):
            return self._plain(index)
        return self._new_home(index, self._interface_quant(index))

    def _taken(self, index: int) -> int:
        """An output of the network."""
        if not is_float(self._raw.tensors[index]) or self._raw.tensors[index].data is not None:
            return self._plain(index)
        return self._version(index, self._interface_quant(index))

    def _output(self, index: int, dtype: Dtype | None) -> int:
        """What an operator gives."""
        if not is_float(self._raw.tensors[index]):
            return self._plain(index)
        return self._new_home(index, None if dtype is None else self._scales.quant(index, dtype))

    def _interface_quant(self, index: int) -> Quant | None:
        """The Quant of an input or output of the network; None: float32."""
        if self._interface is None:
            return None
        producer = self._producers.get(index)
        if producer is None:
            # As the operators take it, so that int8 and uint8 inputs of one network mean the same.
            takers = (operator for operator in self._raw.operators if index in operator.inputs)
            dtype = next((self._dtypes[operator.index] for operator in takers if operator.index in self._dtypes), None)
        else:
            dtype = self._dtypes.get(producer.index)
            scheme = SCHEMES.get(producer.name)
            if scheme is not None and self._interface in scheme.output:
                return scheme.output[self._interface]
        if dtype is None:
            return self._scales.quant(index, self._interface)
        quant = self._scales.quant(index, dtype)
        if dtype == self._interface:
            return quant
        if {dtype, self._interface} == {INT8, UINT8}:
            shift = 128 if self._interface == UINT8 else -128
            return Quant(quant.scalar_scale(), quant.scalar_zero_point() + shift, dtype=self._interface)
        return self._scales.quant(index, self._interface)

    def _plain(self, index: int) -> int:
        """A tensor as it is: float32 values where it has such, other types untouched; -1 stays."""
        if index < 0:
            return -1
        if is_float(self._raw.tensors[index]):
            return self._version(index, None)
        if (index, None) not in self._versions:
            self._versions[index, None] = self._append_tensor(self._raw.tensors[index])
        return self._versions[index, None]

    def _new_home(self, index: int, quant: Quant | None) -> int:
        self._home[index] = quant
        self._versions[index, quant] = self._typed(index, quant)
        return self._versions[index, quant]

    def _version(self, index: int, quant: Quant | None) -> int:
        """The number of a float32 tensor in a Quant, or as float32 values (None)."""
        key = (index, quant)
        if key in self._versions:
            return self._versions[key]
        tensor = self._raw.tensors[index]
        if tensor.data is not None:
            if quant is None:
                self._versions[key] = self._append_tensor(tensor)
            else:
                self._versions[key] = self._add(tensor.name, quantize(constant(tensor), quant), quant)
            return self._versions[key]
        given = self._home[index]
        if quant is not None and quant.dtype == UINT8 and given is not None and given.dtype == INT16:
            # QUANTIZE has no kernel from int16 to uint8.
            given = Quant(quant.scalar_scale(), quant.scalar_zero_point() - 128, dtype=INT8)
        home = self._version(index, given)
        self._versions[key] = self._typed(index, quant)
        name = "DEQUANTIZE" if quant is None else "QUANTIZE"
        self._append(RawOperator(0, name, (home,), (self._versions[key],), None), None)
        return self._versions[key]

    def _typed(self, index: int, quant: Quant | None) -> int:
        """A new tensor for a version of an activation. What users see of the network keeps the name."""
        tensor = self._raw.tensors[index]
        is_end = index in self._raw.inputs or index in self._raw.outputs
        keeps_name = quant == self._interface_quant(index) if is_end else quant == self._home[index]
        dtype = FLOAT32 if quant is None else quant.dtype
        name = tensor.name if keeps_name else f"{tensor.name}_{dtype}"
        return self._append_tensor(replace(_described(tensor, dtype, quant), name=name))

    def _add(self, name: str, values: npt.NDArray[Any], quant: Quant | None, bits: int = 8) -> int:
        """A new constant."""
        empty = np.zeros(0, np.float32)
        tensor = RawTensor(
            name=name,
            shape=values.shape,
            shape_signature=(),
            type_name="",
            scales=empty,
            zero_points=empty.astype(np.int64),
            quantized_dimension=0,
            has_quantization_details=False,
            is_sparse=False,
            is_variable=False,
            data=_bytes(values if bits == 8 else packed(values, bits)),
        )
        tensor = _described(tensor, values.dtype, quant)
        return self._append_tensor(tensor if bits == 8 else replace(tensor, type_name=f"INT{bits}"))

    def _append_tensor(self, tensor: RawTensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _described(tensor: RawTensor, dtype: Dtype, quant: Quant | None) -> RawTensor:
    empty = np.zeros(0, np.float32)
    return replace(
        tensor,
        type_name=_TYPE_NAMES[dtype],
        scales=empty if quant is None else quant.scales,
        zero_points=empty.astype(np.int64) if quant is None else quant.zero_points,
        quantized_dimension=0 if quant is None or quant.axis is None else quant.axis,
    )


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """An array as little-endian bytes."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return np.frombuffer(little.tobytes(), np.uint8)
