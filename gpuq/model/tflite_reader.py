"""From the bytes of a .tflite to a Graph, with every problem of the model named in one error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputTypeError, InputValueError, MalformedModel, ModelLimit, UnsupportedModel
from gpuq.model.converters import DATA_INPUTS, INPUT_COUNTS, SHAPE_ARITHMETIC, converter, shape_value
from gpuq.model.converters.view import Joint, OperatorView
from gpuq.model.graph import Graph, Node, Signature, Tensor
from gpuq.model.tflite_file import RawModel, RawOperator, RawTensor, parse
from gpuq.model.variables import with_variables
from gpuq.numerics import Rounding, Rule
from gpuq.ops.registry import constant_operands, reference
from gpuq.ops.spec import Spec, shape_text
from gpuq.quant import QUANTIZED_DTYPES, Quant

_DTYPES: dict[str, npt.DTypeLike] = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "INT32": np.int32,
    "UINT32": np.uint32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
}


# Types of weights (input 1) that share bytes, with their bits, and the operators that have them. They are unpacked.
PACKED_BITS = MappingProxyType({"INT4": 4, "INT2": 2})
PACKED_WEIGHTS = MappingProxyType(
    {"INT4": ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), "INT2": ("FULLY_CONNECTED",)}
)

# Elements of what is computed while the model is read: it is only there to build shapes.
MAX_SHAPE_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The largest model that is loaded; checked before anything is allocated.

    Attributes:
        file_bytes: size of the file.
        elements: elements of one tensor.
        macs: multiply-accumulates of one run.
    """

    file_bytes: int = 1 << 31
    elements: int = 1 << 31
    macs: int = 1 << 44


def read(content: bytes, limits: Limits = Limits()) -> Graph:
    """Reads a .tflite.

    Raises:
        MalformedModel: the file or one of its operators breaks a rule.
        UnsupportedModel: operators, types or quantization that gpuq lacks; the message names all of them, with counts.
        ModelLimit: the model is larger than the limits.
    """
    if len(content) > limits.file_bytes:
        raise ModelLimit(f"the file has {len(content)} bytes; the limit is {limits.file_bytes}")
    return build(parse(content), limits)


def build(raw: RawModel, limits: Limits = Limits()) -> Graph:
    """As read, from a file's values.

    Raises:
        MalformedModel, UnsupportedModel, ModelLimit: as read.
    """
    source, raw = raw, with_variables(raw)
    _check_indices(raw)
    problems = _Problems(raw.tensors)
    tensors = _tensors(raw, limits)
    nodes: list[Node] = []
    folded: list[int] = []
    for operator in raw.operators:
        _convert(operator, raw, tensors, nodes, folded, problems, limits)
    problems.raise_if_any()
    _check_ends(raw, tensors)
    graph = Graph(
        description=raw.description,
        tensors=tuple(tensors),
        nodes=tuple(nodes),
        inputs=raw.inputs,
        outputs=raw.outputs,
        signatures=tuple(Signature(s.key, s.inputs, s.outputs) for s in raw.signatures),
        folded=tuple(folded),
        source=_without_constants(source, tensors),
    )
    if graph.macs > limits.macs:
        raise ModelLimit(f"the model has {graph.macs} multiply-accumulates; the limit is {limits.macs}")
    return graph


def _without_constants(raw: RawModel, tensors: Sequence[Tensor]) -> RawModel:
    """The file's values without the constants that these tensors hold, and without views that keep the file."""

    def stripped(raw_tensor: RawTensor, *, held: bool) -> RawTensor:
        data = None if held or raw_tensor.data is None else raw_tensor.data.copy()
        return replace(raw_tensor, data=data)

    return replace(
        raw,
        tensors=tuple(
            stripped(raw_tensor, held=tensor.data is not None)
            for raw_tensor, tensor in zip(raw.tensors, tensors, strict=False)
        ),
        initializers={
            number: replace(graph, tensors=tuple(stripped(tensor, held=False) for tensor in graph.tensors))
            for number, graph in raw.initializers.items()
        },
    )


class _Problems:
    """Collects everything unsupported, so that one error tells all: operators, and tensors to find them by."""

    def __init__(self, tensors: Sequence[RawTensor]) -> None:
        self._tensors = tensors
        self._found: dict[str, list[tuple[int, int | None]]] = {}

    def add(self, problem: str, operator: RawOperator, tensor: int | None = None) -> None:
        """Args: tensor: the number of the one that it is about; None: the operator's first output."""
        shown = tensor if tensor is not None else next(iter(operator.outputs), None)
        self._found.setdefault(problem, []).append((operator.index, shown))

    @property
    def found(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        if not self._found:
            return
        lines = []
        for problem, places in self._found.items():
            shown = ", ".join(
                f"#{index}" if tensor is None else f"#{index} {self._tensors[tensor].name!r}"
                for index, tensor in places
            )
            lines.append(f"{problem} ({len(places)} operator{'s' if len(places) > 1 else ''}: {shown})")
        raise UnsupportedModel(
            "not supported: " + "; ".join(lines),
            sorted({index for places in self._found.values() for index, _ in places}),
        )


def _check_indices(raw: RawModel) -> None:
    """Every tensor number exists; data flows forward; nothing is written twice."""
    count = len(raw.tensors)

    def check(what: str, indices: Sequence[int], lowest: int = 0) -> None:
        for index in indices:
            if not lowest <= index < count:
                raise MalformedModel(f"{what} refers to tensor {index}; there are {count}")

    check("the model's inputs", raw.inputs)
    check("the model's outputs", raw.outputs)
    if len(set(raw.inputs)) != len(raw.inputs):
        raise MalformedModel(f"the model's inputs {raw.inputs} name a tensor twice")
    if not raw.outputs:
        raise MalformedModel("the model has no outputs")
    for signature in raw.signatures:
        check(f"signature {signature.key!r}", [index for _, index in (*signature.inputs, *signature.outputs)])
    known = {i for i, tensor in enumerate(raw.tensors) if tensor.data is not None or tensor.is_variable}
    written = set(raw.inputs)
    for operator in raw.operators:
        check(f"{operator.name} (operator #{operator.index})", operator.inputs, lowest=-1)
        check(f"{operator.name} (operator #{operator.index})", operator.outputs)
        check(f"{operator.name} (operator #{operator.index})", operator.intermediates, lowest=-1)
        for index in operator.inputs:
            if index >= 0 and index not in known and index not in written:
                raise MalformedModel(
                    f"{operator.name} (operator #{operator.index}) reads tensor {index} before anything has written it"
                )
        for index in operator.outputs:
            if operator.name == "ASSIGN_VARIABLE" and raw.tensors[index].is_variable:
                continue
            if index in written or index in known:
                raise MalformedModel(
                    f"{operator.name} (operator #{operator.index}) writes tensor {index}, "
                    "which is an input, a constant, or already written"
                )
            written.add(index)
    for index in raw.outputs:
        if index not in known and index not in written:
            raise MalformedModel(f"the model's output, tensor {index}, is never written")


def _check_ends(raw: RawModel, tensors: list[Tensor]) -> None:
    """What callers give and get, and state: kinds that NumPy has, and that can be set."""
    for what, indices in (("input", raw.inputs), ("output", raw.outputs)):
        for index in indices:
            problem = _tensor_problem(raw.tensors[index], tensors[index])
            if problem:
                raise UnsupportedModel(f"not supported: {what} {tensors[index].name!r} of {problem}")
    for index in raw.inputs:
        if tensors[index].data is not None:
            raise UnsupportedModel(f"not supported: input {tensors[index].name!r} that is a constant")
    for tensor in tensors:
        if tensor.is_variable and tensor.data is not None:
            raise UnsupportedModel(f"not supported: variable {tensor.name!r} that is a constant")
        if tensor.is_variable and tensor.quant is not None and tensor.quant.is_per_channel:
            raise UnsupportedModel(f"not supported: variable {tensor.name!r} that is not quantized per tensor")


def _tensors(raw: RawModel, limits: Limits) -> list[Tensor]:
    tensors = []
    shared: dict[tuple[int, np.dtype[Any]], npt.NDArray[Any]] = {}
    for index, tensor in enumerate(raw.tensors):
        where = f"tensor {index} {tensor.name!r}"
        if any(size < 0 for size in tensor.shape):
            raise MalformedModel(f"{where}: shape {tensor.shape} has a negative dimension")
        if math.prod(tensor.shape) > limits.elements:
            raise ModelLimit(f"{where}: {math.prod(tensor.shape)} elements; the limit is {limits.elements}")
        # Types that NumPy lacks (STRING, ...) stay as void: operators that touch them are reported. So are those that
        # touch packed constants, unless as weights: they are unpacked.
        is_packed = tensor.type_name in PACKED_BITS and tensor.data is not None
        dtype = np.dtype(np.int8 if is_packed else _DTYPES.get(tensor.type_name, np.void))
        tensors.append(
            Tensor(
                index=index,
                name=tensor.name,
                shape=tensor.shape,
                shape_signature=tensor.shape_signature or tensor.shape,
                dtype=dtype,
                quant=_quant(tensor, dtype, where),
                data=_data(tensor, dtype, where, shared),
                is_variable=tensor.is_variable,
                bits=PACKED_BITS[tensor.type_name] if is_packed else 8,
                initial=_data(replace(tensor, data=tensor.initial), dtype, where, shared),
            )
        )
    return tensors


def _quant(tensor: RawTensor, dtype: np.dtype[Any], where: str) -> Quant | None:
    if tensor.scales.size == 0 or tensor.has_quantization_details or dtype not in QUANTIZED_DTYPES:
        return None
    zero_points = tensor.zero_points if tensor.zero_points.size else np.zeros(1, np.int64)
    try:
        return Quant(tensor.scales, zero_points, tensor.quantized_dimension, dtype)
    except InputValueError as error:
        raise MalformedModel(f"{where}: {error}") from error


def _data(
    tensor: RawTensor,
    dtype: np.dtype[Any],
    where: str,
    shared: dict[tuple[int, np.dtype[Any]], npt.NDArray[Any]],
) -> npt.NDArray[Any] | None:
    """A constant's value; tensors of one buffer and dtype share it."""
    if tensor.data is None or dtype.kind == "V" or tensor.is_sparse:
        return None
    bits = PACKED_BITS.get(tensor.type_name)
    elements = math.prod(tensor.shape)
    expected = -(-elements * bits // 8) if bits else elements * dtype.itemsize
    if tensor.data.size != expected:
        kind = f"int{bits}" if bits else dtype
        raise MalformedModel(
            f"{where}: its buffer has {tensor.data.size} bytes, {shape_text(tensor.shape)} of {kind} needs {expected}"
        )
    if bits:
        return unpacked(tensor.data, bits, elements).reshape(tensor.shape)
    key = (id(tensor.data), dtype)
    if key not in shared:
        # A copy is aligned, and does not keep the whole file in memory.
        data = np.frombuffer(tensor.data.tobytes(), dtype.newbyteorder("<")).astype(dtype, copy=False)
        data.flags.writeable = False
        shared[key] = data
    return shared[key].reshape(tensor.shape)


def unpacked(packed: npt.NDArray[np.uint8], bits: int, elements: int) -> npt.NDArray[np.int8]:
    """Two's complement numbers of 4 or 2 bits as int8, those in the lowest bits of each byte first; read-only.

    Source: UnpackPackedIntToInt8, LiteRT tflite/kernels/internal/portable_tensor_utils.cc.
    """
    # Each number's bits become the highest of a byte, which spread its sign on their way down.
    raised = packed[:, None] << np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    values = (raised.reshape(-1)[:elements].view(np.int8) >> (8 - bits)).astype(np.int8)
    values.flags.writeable = False
    return values


def packed(values: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """What `unpacked` takes: numbers of 4 or 2 bits, the first in the lowest bits of each byte."""
    per_byte = 8 // bits
    fields = values.reshape(-1).astype(np.uint8) & np.uint8((1 << bits) - 1)
    fields = np.pad(fields, (0, -fields.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(fields << shifts, axis=1), np.uint8)


def _convert(
    operator: RawOperator,
    raw: RawModel,
    tensors: list[Tensor],
    nodes: list[Node],
    folded: list[int],
    problems: _Problems,
    limits: Limits,
) -> None:
    """Appends the operator's node, or records why there is none; tensors get the shapes that follow."""
    where = f"operator #{operator.index}"
    for position, index in enumerate((*operator.inputs, *operator.outputs)):
        if index < 0:
            continue
        takers = PACKED_WEIGHTS.get(raw.tensors[index].type_name, ())
        takes_packed = position == 1 and operator.name in takers
        problem = _tensor_problem(raw.tensors[index], tensors[index], takes_packed=takes_packed)
        if problem:
            problems.add(f"{operator.name}: {problem}", operator, index)
            return
    positions = DATA_INPUTS.get(operator.name, range(len(operator.inputs)))
    inputs = tuple(operator.inputs[position] for position in positions if position < len(operator.inputs))
    view = OperatorView(operator, tensors)
    try:
        convert = converter(view)
        if convert is not None or operator.name == "SHAPE":
            view.check_input_count(*INPUT_COUNTS.get(operator.name, (1, 1)))
        shape = shape_value(view)
        if shape is not None:
            _set_value(tensors, folded, view.out.index, shape)
            return
        if convert is None:
            problems.add(operator.name, operator)
            return
        converted = convert(view)
        if isinstance(converted, Joint):
            written = operator.outputs + converted.states
            for index, out_shape in zip(written, converted.shapes, strict=True):
                tensors[index] = replace(tensors[index], shape=out_shape)
            for state in converted.states:
                if _reads(raw, state) > 1:
                    problems.add(f"{operator.name}: a state that other operators read", operator, state)
                    return
            nodes.append(Node(operator.index, converted.spec, inputs, written))
            return
        pieces = converted if isinstance(converted, list) else [converted]
        outputs = operator.outputs if isinstance(converted, list) else (view.out.index,)
    except InputTypeError as error:
        problems.add(str(error), operator)
        return
    except InputValueError as error:
        # Behind an unsupported operator shapes are only what the file claims: blame the operator, not the file.
        if problems.found:
            return
        raise MalformedModel(f"{where}: {error}") from error
    for index, (spec, out_shape) in zip(outputs, pieces, strict=True):
        elements = math.prod(out_shape)
        if elements > limits.elements:
            raise ModelLimit(f"{where}: {operator.name} gives {elements} elements; the limit is {limits.elements}")
        value = None
        if operator.name in SHAPE_ARITHMETIC and elements <= MAX_SHAPE_ELEMENTS:
            value = _known(spec, [tensors[i].data if i >= 0 else None for i in inputs])
        if value is not None:
            _set_value(tensors, folded, index, value.reshape(out_shape))
            continue
        # The shape that follows from the inputs counts, as in the runtimes; converters leave stale ones behind.
        tensors[index] = replace(tensors[index], shape=out_shape)
        nodes.append(Node(operator.index, spec, inputs, (index,)))


def _reads(raw: RawModel, index: int) -> int:
    """How often a tensor is read, as an output too."""
    return sum(operator.inputs.count(index) for operator in raw.operators) + raw.outputs.count(index)


def _known(spec: Spec, operands: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    """The value of an operator that moves or compares what is known; None where it needs run-time data."""
    if any(operand is None for operand in operands):
        return None
    return reference(spec, Rule(Rounding.EXACT), *constant_operands(spec, operands))


def _set_value(tensors: list[Tensor], folded: list[int], index: int, value: npt.NDArray[Any]) -> None:
    """Makes a tensor that an operator computes a constant."""
    value = np.array(value)
    value.flags.writeable = False
    tensors[index] = replace(tensors[index], shape=value.shape, dtype=value.dtype, data=value)
    folded.append(index)


def _tensor_problem(raw: RawTensor, tensor: Tensor, *, takes_packed: bool = False) -> str | None:
    if tensor.dtype.kind == "V" or (raw.type_name in PACKED_BITS and not takes_packed):
        return f"type {raw.type_name}"
    if raw.has_quantization_details:
        return "custom or blockwise quantization"
    if raw.is_sparse:
        return "sparse weights"
    if tensor.data is None and any(size < 1 for size in tensor.shape):
        return f"an open or empty shape {tensor.shape}"
    return None
