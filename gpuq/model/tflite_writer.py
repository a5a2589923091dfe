"""From a Graph to the bytes of a .tflite: the reverse of tflite_file and tflite_reader, by the same tables."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite
from flatbuffers import flexbuffers

from gpuq.errors import InputValueError, ModelLimit
from gpuq.model.graph import Graph
from gpuq.model.tflite_file import (
    CUSTOM_OPERATORS,
    OPERATOR_NAMES,
    OPTION_FIELDS,
    TYPE_NAMES,
    RawModel,
    RawOperator,
    RawSignature,
    RawSubgraph,
    RawTensor,
)
from gpuq.model.tflite_reader import packed

SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Of constants, as the runtimes want those that they map."""

_OPERATOR_CODES = {name: number for number, name in OPERATOR_NAMES.items()}
_TYPE_CODES = {name: number for number, name in TYPE_NAMES.items()}
_LARGEST_OLD_CODE = 127


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes a network as a .tflite; the file is replaced at once or not at all.

    Raises:
        InputValueError: see write.
        OSError: the file cannot be written.
    """
    content = write(graph)
    target = Path(path)
    # In the same folder, because os.replace is atomic only within a file system.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write(graph: Graph) -> bytes:
    """A network as the bytes of a .tflite; reading them gives an equal Graph.

    Raises:
        InputValueError: a Graph that was put together by hand: it has no operators of a file.
        ModelLimit: more than the 2 GB that a flatbuffer holds.
    """
    return serialize(encode(graph))


def encode(graph: Graph) -> RawModel:
    """A network as a file's values, constants included."""
    source = graph.source
    if source is None:
        raise InputValueError("write: this Graph comes from no file; read one, or quantize one")
    tensors = []
    for raw, tensor in zip(source.tensors, graph.tensors, strict=False):
        if tensor.data is None or tensor.index in graph.folded:
            tensors.append(raw)
            continue
        values = tensor.data if tensor.bits == 8 else packed(tensor.data, tensor.bits)
        tensors.append(replace(raw, data=_little_endian(values)))
    for what, indices in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if any(index >= len(tensors) for index in indices):
            raise InputValueError(f"write: the graph's {what} {indices} name a variable; the file has none as a tensor")
    return replace(
        source,
        tensors=tuple(tensors),
        inputs=graph.inputs,
        outputs=graph.outputs,
        signatures=tuple(RawSignature(s.key, s.inputs, s.outputs) for s in graph.signatures),
    )


def serialize(raw: RawModel) -> bytes:
    """A file's values as bytes; `parse` is the reverse.

    Equal constants share a buffer. Options that gpuq does not read are not there to be written.
    """
    try:
        return _Writer().model(raw)
    except flatbuffers.builder.BuilderSizeError as error:
        raise ModelLimit("the model is larger than the 2 GB that a .tflite holds") from error


def _little_endian(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return np.frombuffer(little.tobytes(), np.uint8)


class _Writer:
    """One flatbuffer. Children come before the tables that refer to them, as flatbuffers are built."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1 << 16)
        self._buffers: dict[bytes, int] = {b"": 0}
        self._codes: dict[tuple[str, int], int] = {}

    def model(self, raw: RawModel) -> bytes:
        graphs: list[RawSubgraph] = [raw, *(raw.initializers[number] for number in sorted(raw.initializers))]
        subgraphs = self._tables([self._subgraph(graph) for graph in graphs])
        signatures = self._tables([self._signature(signature) for signature in raw.signatures])
        codes = self._tables([self._operator_code(name, version) for name, version in self._codes])
        buffers = self._tables([self._buffer(data) for data in self._buffers])
        description = self._builder.CreateString(raw.description)
        model = self._table(
            "Model",
            Version=SCHEMA_VERSION,
            OperatorCodes=codes,
            Subgraphs=subgraphs,
            Description=description,
            Buffers=buffers,
            SignatureDefs=signatures,
        )
        self._builder.Finish(model, b"TFL3")
        return bytes(self._builder.Output())

    def _table(self, name: str, **fields: Any) -> int:
        """A table by its class in `tflite`; fields are numbers, or offsets of what has been written."""
        getattr(tflite, f"{name}Start")(self._builder)
        for field, value in fields.items():
            if value is not None:
                getattr(tflite, f"{name}Add{field}")(self._builder, value)
        return int(getattr(tflite, f"{name}End")(self._builder))

    def _tables(self, offsets: Sequence[int]) -> int:
        """A vector of tables."""
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def _numbers(self, values: Sequence[int] | npt.NDArray[Any], dtype: npt.DTypeLike = np.int32) -> int:
        """A vector of numbers."""
        return int(self._builder.CreateNumpyVector(np.asarray(values, dtype)))

    def _buffer(self, data: bytes) -> int:
        if not data:
            return self._table("Buffer")
        builder = self._builder
        builder.StartVector(1, len(data), ALIGNMENT)
        builder.head = builder.Head() - len(data)
        builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
        return self._table("Buffer", Data=builder.EndVector())

    def _buffer_index(self, tensor: RawTensor) -> int:
        data = b"" if tensor.data is None else tensor.data.tobytes()
        return self._buffers.setdefault(data, len(self._buffers))

    def _operator_code(self, name: str, version: int) -> int:
        custom = None
        number = _OPERATOR_CODES.get(name)
        if name in CUSTOM_OPERATORS or name.startswith("CUSTOM "):
            custom, number = self._builder.CreateString(name.removeprefix("CUSTOM ")), _OPERATOR_CODES["CUSTOM"]
        if number is None:
            raise InputValueError(f"write: operator {name!r} is not in the schema")
        return self._table(
            "OperatorCode",
            DeprecatedBuiltinCode=min(number, _LARGEST_OLD_CODE),
            BuiltinCode=number,
            CustomCode=custom,
            Version=version,
        )

    def _subgraph(self, graph: RawSubgraph) -> int:
        tensors = self._tables([self._tensor(tensor) for tensor in graph.tensors])
        operators = self._tables([self._operator(operator) for operator in graph.operators])
        inputs, outputs = self._numbers(graph.inputs), self._numbers(graph.outputs)
        return self._table("SubGraph", Tensors=tensors, Inputs=inputs, Outputs=outputs, Operators=operators)

    def _tensor(self, tensor: RawTensor) -> int:
        if tensor.type_name not in _TYPE_CODES:
            raise InputValueError(f"write: tensor {tensor.name!r} of {tensor.type_name} is not in the schema")
        if tensor.is_sparse or tensor.has_quantization_details:
            raise InputValueError(f"write: tensor {tensor.name!r} is sparse or has custom quantization")
        name = self._builder.CreateString(tensor.name)
        shape = self._numbers(tensor.shape)
        signature = self._numbers(tensor.shape_signature) if tensor.shape_signature else None
        quantization = None
        if tensor.scales.size:
            scales = self._numbers(tensor.scales, np.float32)
            zero_points = self._numbers(tensor.zero_points, np.int64) if tensor.zero_points.size else None
            quantization = self._table(
                "QuantizationParameters",
                Scale=scales,
                ZeroPoint=zero_points,
                QuantizedDimension=tensor.quantized_dimension,
            )
        return self._table(
            "Tensor",
            Shape=shape,
            Type=_TYPE_CODES[tensor.type_name],
            Buffer=self._buffer_index(tensor),
            Name=name,
            Quantization=quantization,
            IsVariable=tensor.is_variable,
            ShapeSignature=signature,
        )

    def _operator(self, operator: RawOperator) -> int:
        code = self._codes.setdefault((operator.name, operator.version), len(self._codes))
        inputs, outputs = self._numbers(operator.inputs), self._numbers(operator.outputs)
        intermediates = self._numbers(operator.intermediates) if operator.intermediates else None
        options, kind, custom = None, None, None
        if operator.name in CUSTOM_OPERATORS and operator.options is not None:
            custom = self._builder.CreateByteVector(flexbuffers.Dumps(dict(operator.options)))
        elif operator.options is not None:
            class_name, fields = OPTION_FIELDS[operator.name]
            options = self._options(class_name, fields.split(), operator.options)
            kind = getattr(tflite.BuiltinOptions, class_name)
        return self._table(
            "Operator",
            OpcodeIndex=code,
            Inputs=inputs,
            Outputs=outputs,
            BuiltinOptionsType=kind,
            BuiltinOptions=options,
            CustomOptions=custom,
            Intermediates=intermediates,
        )

    def _options(self, class_name: str, fields: Sequence[str], options: Mapping[str, Any]) -> int:
        written: dict[str, Any] = {}
        for field in fields:
            name = field.removesuffix("AsNumpy")
            value = options[name]
            convert: Callable[[Any], Any] | None = None
            if field.endswith("AsNumpy"):
                convert = self._numbers
            elif isinstance(value, str):
                convert = self._builder.CreateString
            written[name] = value if convert is None else convert(value)
        return self._table(class_name, **written)

    def _signature(self, signature: RawSignature) -> int:
        def maps(entries: Sequence[tuple[str, int]]) -> int:
            names = [(self._builder.CreateString(name), index) for name, index in entries]
            return self._tables([self._table("TensorMap", Name=name, TensorIndex=index) for name, index in names])

        inputs, outputs = maps(signature.inputs), maps(signature.outputs)
        key = self._builder.CreateString(signature.key)
        return self._table("SignatureDef", Inputs=inputs, Outputs=outputs, SignatureKey=key, SubgraphIndex=0)
