"""The bytes of a .tflite as plain Python values: every offset and length checked, nothing interpreted.

The `tflite` package decodes flatbuffers without verifying them: a corrupt file makes it raise struct.error,
IndexError and others from anywhere. All reading therefore happens here, inside one guard that turns them into
MalformedModel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite
from flatbuffers import flexbuffers

from gpuq.errors import MalformedModel, ModelLimit, UnsupportedModel

# The largest counts that are read at all: a flatbuffer may list one table many times, and a small file must not turn
# into minutes of reading.
MAX_ENTRIES = 20_000
MAX_OPERANDS = 2_000
MAX_SCALES = 1 << 17
MAX_SIGNATURES = 100
MAX_RANK = 32


def _enum_names(enum: type) -> Mapping[int, str]:
    return MappingProxyType({value: name for name, value in vars(enum).items() if isinstance(value, int)})


# With values newer than the `tflite` package, from LiteRT's schema.
OPERATOR_NAMES = {**_enum_names(tflite.BuiltinOperator), 209: "STABLEHLO_CASE"}
TYPE_NAMES = {
    **_enum_names(tflite.TensorType),
    19: "INT2",
    20: "UINT4",
    21: "FLOAT8_E4M3FN",
    22: "FLOAT8_E5M2",
}

# The option fields that gpuq reads and writes, by operator: (class in `tflite`, its fields; vectors end in AsNumpy).
OPTION_FIELDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "CONV_2D": (
            "Conv2DOptions",
            "Padding StrideW StrideH FusedActivationFunction DilationWFactor DilationHFactor QuantizedBiasType",
        ),
        "DEPTHWISE_CONV_2D": (
            "DepthwiseConv2DOptions",
            "Padding StrideW StrideH DepthMultiplier FusedActivationFunction DilationWFactor DilationHFactor",
        ),
        "FULLY_CONNECTED": (
            "FullyConnectedOptions",
            "FusedActivationFunction WeightsFormat KeepNumDims AsymmetricQuantizeInputs QuantizedBiasType",
        ),
        "ADD": ("AddOptions", "FusedActivationFunction PotScaleInt16"),
        "SUB": ("SubOptions", "FusedActivationFunction PotScaleInt16"),
        "MUL": ("MulOptions", "FusedActivationFunction"),
        "DIV": ("DivOptions", "FusedActivationFunction"),
        "AVERAGE_POOL_2D": (
            "Pool2DOptions",
            "Padding StrideW StrideH FilterWidth FilterHeight FusedActivationFunction",
        ),
        "MAX_POOL_2D": (
            "Pool2DOptions",
            "Padding StrideW StrideH FilterWidth FilterHeight FusedActivationFunction",
        ),
        "TRANSPOSE_CONV": ("TransposeConvOptions", "Padding StrideW StrideH FusedActivationFunction"),
        "BATCH_MATMUL": ("BatchMatMulOptions", "AdjX AdjY AsymmetricQuantizeInputs"),
        "UNIDIRECTIONAL_SEQUENCE_LSTM": (
            "UnidirectionalSequenceLSTMOptions",
            "FusedActivationFunction CellClip ProjClip TimeMajor AsymmetricQuantizeInputs DiagonalRecurrentTensors",
        ),
        "SVDF": ("SVDFOptions", "Rank FusedActivationFunction AsymmetricQuantizeInputs"),
        "LEAKY_RELU": ("LeakyReluOptions", "Alpha"),
        "L2_NORMALIZATION": ("L2NormOptions", "FusedActivationFunction"),
        **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), ("ReducerOptions", "KeepDims")),
        "SOFTMAX": ("SoftmaxOptions", "Beta"),
        "RESHAPE": ("ReshapeOptions", "NewShapeAsNumpy"),
        "SQUEEZE": ("SqueezeOptions", "SqueezeDimsAsNumpy"),
        "CONCATENATION": ("ConcatenationOptions", "Axis FusedActivationFunction"),
        "RESIZE_BILINEAR": ("ResizeBilinearOptions", "AlignCorners HalfPixelCenters"),
        "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", "AlignCorners HalfPixelCenters"),
        "SHAPE": ("ShapeOptions", "OutType"),
        "PACK": ("PackOptions", "ValuesCount Axis"),
        "UNPACK": ("UnpackOptions", "Num Axis"),
        "SPLIT": ("SplitOptions", "NumSplits"),
        "SPLIT_V": ("SplitVOptions", "NumSplits"),
        "ARG_MAX": ("ArgMaxOptions", "OutputType"),
        "CAST": ("CastOptions", "InDataType OutDataType"),
        "GATHER": ("GatherOptions", "Axis BatchDims"),
        "SPACE_TO_DEPTH": ("SpaceToDepthOptions", "BlockSize"),
        "DEPTH_TO_SPACE": ("DepthToSpaceOptions", "BlockSize"),
        "MIRROR_PAD": ("MirrorPadOptions", "Mode"),
        "VAR_HANDLE": ("VarHandleOptions", "Container SharedName"),
        "CALL_ONCE": ("CallOnceOptions", "InitSubgraphIndex"),
        "STRIDED_SLICE": (
            "StridedSliceOptions",
            "BeginMask EndMask EllipsisMask NewAxisMask ShrinkAxisMask Offset",
        ),
    }
)


CUSTOM_OPERATORS = ("TFLite_Detection_PostProcess",)
"""Custom operators that gpuq reads, by their code; their options are a flexbuffer map."""


@dataclass(frozen=True)
class RawTensor:
    """One tensor as the file has it; data is None where its buffer is empty.

    Attributes:
        initial: the bytes that a variable starts with, where the file says so.
    """

    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    type_name: str
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    quantized_dimension: int
    has_quantization_details: bool
    is_sparse: bool
    is_variable: bool
    data: npt.NDArray[np.uint8] | None
    initial: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class RawOperator:
    """One operator as the file has it; options is None where the file has none of the operator's own kind."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] | None
    version: int = 1
    intermediates: tuple[int, ...] = ()

    def option(self, field: str) -> Any:
        """An option that the operator must have."""
        if self.options is None:
            raise MalformedModel(f"{self.name} (operator #{self.index}): its options are missing from the file")
        return self.options[field]


@dataclass(frozen=True)
class RawSignature:
    key: str
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RawSubgraph:
    tensors: tuple[RawTensor, ...]
    operators: tuple[RawOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class RawModel(RawSubgraph):
    """A file's first subgraph.

    Attributes:
        initializers: the subgraphs that its CALL_ONCE operators name, by number.
    """

    description: str
    signatures: tuple[RawSignature, ...]
    initializers: Mapping[int, RawSubgraph]


def parse(content: bytes) -> RawModel:
    """Reads a .tflite.

    Raises:
        MalformedModel: not a .tflite, truncated, or with offsets that lead nowhere.
        UnsupportedModel: subgraphs beside the first that CALL_ONCE does not name.
        ModelLimit: more tensors, operators, operands or dimensions than the MAX_ constants say.
    """
    if len(content) < 8 or content[4:8] != b"TFL3":
        raise MalformedModel(
            f"not a .tflite file: bytes 4 to 8 are {content[4:8]!r}, they must be b'TFL3' ({len(content)} bytes in all)"
        )
    try:
        return _parse(content)
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise MalformedModel(f"the file is truncated or corrupt: {error}") from error


def _parse(content: bytes) -> RawModel:
    model = tflite.Model.GetRootAs(content, 0)
    count = _counted(model.SubgraphsLength(), "subgraphs")
    if count == 0:
        raise UnsupportedModel("the model has 0 subgraphs; gpuq runs the first")
    strings: dict[bytes, str] = {}
    buffers = [_buffer(content, model.Buffers(i)) for i in range(_counted(model.BuffersLength(), "buffers"))]
    codes = [
        (_operator_name(model.OperatorCodes(i), strings), int(model.OperatorCodes(i).Version()))
        for i in range(_counted(model.OperatorCodesLength(), "operator codes"))
    ]

    def subgraph(number: int) -> RawSubgraph:
        graph = _present(model.Subgraphs(number), f"subgraph {number}")
        return RawSubgraph(
            tensors=tuple(
                _tensor(_present(graph.Tensors(i), f"tensor {i}"), i, buffers, strings)
                for i in range(_counted(graph.TensorsLength(), "tensors"))
            ),
            operators=tuple(
                _operator(_present(graph.Operators(i), f"operator {i}"), i, codes)
                for i in range(_counted(graph.OperatorsLength(), "operators"))
            ),
            inputs=_integers(graph, "Inputs"),
            outputs=_integers(graph, "Outputs"),
        )

    main = subgraph(0)
    called = {operator.option("InitSubgraphIndex") for operator in main.operators if operator.name == "CALL_ONCE"}
    for number in called:
        if not 1 <= number < count:
            raise MalformedModel(f"CALL_ONCE names subgraph {number}; it must be one of 1 to {count - 1}")
    if called != set(range(1, count)):
        raise UnsupportedModel(
            f"the model has {count} subgraphs; gpuq runs the first, and others only as CALL_ONCE names them"
        )
    return RawModel(
        tensors=main.tensors,
        operators=main.operators,
        inputs=main.inputs,
        outputs=main.outputs,
        description=_text(model.Description(), strings),
        initializers={number: subgraph(number) for number in sorted(called)},
        signatures=tuple(
            _signature(_present(model.SignatureDefs(i), f"signature {i}"), strings)
            for i in range(_counted(model.SignatureDefsLength(), "signatures", MAX_SIGNATURES))
        ),
    )


def _present(value: Any, what: str) -> Any:
    if value is None:
        raise MalformedModel(f"{what} is missing from the file")
    return value


def _counted(count: int, what: str, limit: int = MAX_ENTRIES) -> int:
    if count > limit:
        raise ModelLimit(f"the model has {count} {what}; the limit is {limit}")
    return count


def _text(raw: bytes | None, strings: dict[bytes, str]) -> str:
    """A string of the file; a flatbuffer may refer to one from many tables, so one copy is kept in `strings`."""
    raw = raw or b""
    if raw not in strings:
        strings[raw] = raw.decode("utf-8", errors="replace")
    return strings[raw]


def _integers(table: Any, field: str, limit: int = MAX_ENTRIES) -> tuple[int, ...]:
    """A vector of integers; empty where the file has none."""
    if getattr(table, f"{field}IsNone")():
        return ()
    _counted(getattr(table, f"{field}Length")(), f"{field} entries", limit)
    return tuple(int(value) for value in getattr(table, f"{field}AsNumpy")())


def _numbers(table: Any, field: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    if getattr(table, f"{field}IsNone")():
        return np.zeros(0, dtype)
    _counted(getattr(table, f"{field}Length")(), f"{field} entries", MAX_SCALES)
    return np.array(getattr(table, f"{field}AsNumpy")(), dtype)


def _buffer(content: bytes, buffer: Any) -> npt.NDArray[np.uint8] | None:
    """A view into the file; None where the buffer is empty."""
    if buffer is None:
        return None
    # Files beyond 2 GB keep their buffers behind the flatbuffer; offsets 0 and 1 mean that this one does not.
    if buffer.Offset() > 1:
        first, size = buffer.Offset(), buffer.Size()
        if first + size > len(content):
            raise MalformedModel(f"a buffer at {first} of {size} bytes ends beyond the file's {len(content)} bytes")
        return np.frombuffer(content, np.uint8, size, first) if size else None
    if buffer.DataIsNone() or buffer.DataLength() == 0:
        return None
    data: npt.NDArray[np.uint8] = buffer.DataAsNumpy()
    return data


def _tensor(
    tensor: Any, index: int, buffers: list[npt.NDArray[np.uint8] | None], strings: dict[bytes, str]
) -> RawTensor:
    buffer = tensor.Buffer()
    if buffer >= max(len(buffers), 1):
        raise MalformedModel(f"tensor {index} refers to buffer {buffer} of {len(buffers)}")
    quantization = tensor.Quantization()
    no_quantization = quantization is None
    shape = _integers(tensor, "Shape", MAX_RANK)
    scales = np.zeros(0, np.float32) if no_quantization else _numbers(quantization, "Scale", np.float32)
    if scales.size > max(1, *shape, 1):
        raise MalformedModel(f"tensor {index} has {scales.size} scales, more than any of its dimensions {shape}")
    return RawTensor(
        name=_text(tensor.Name(), strings),
        shape=shape,
        shape_signature=_integers(tensor, "ShapeSignature", MAX_RANK),
        type_name=TYPE_NAMES.get(tensor.Type(), f"type {tensor.Type()}"),
        scales=scales,
        zero_points=np.zeros(0, np.int64) if no_quantization else _numbers(quantization, "ZeroPoint", np.int64),
        quantized_dimension=0 if no_quantization else int(quantization.QuantizedDimension()),
        has_quantization_details=not no_quantization and quantization.DetailsType() != 0,
        is_sparse=tensor.Sparsity() is not None,
        is_variable=bool(tensor.IsVariable()),
        data=buffers[buffer] if buffers else None,
    )


def _operator_name(code: Any, strings: dict[bytes, str]) -> str:
    _present(code, "an operator code")
    # Codes beyond 127 do not fit the older field; the larger of the two is meant.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = OPERATOR_NAMES.get(number, f"operator {number}")
    if name != "CUSTOM":
        return name
    custom = _text(code.CustomCode(), strings)
    return custom if custom in CUSTOM_OPERATORS else f"CUSTOM {custom}"


def _operator(operator: Any, index: int, codes: list[tuple[str, int]]) -> RawOperator:
    code = operator.OpcodeIndex()
    if code >= len(codes):
        raise MalformedModel(f"operator {index} refers to operator code {code} of {len(codes)}")
    name, version = codes[code]
    return RawOperator(
        index=index,
        name=name,
        inputs=_integers(operator, "Inputs", MAX_OPERANDS),
        outputs=_integers(operator, "Outputs", MAX_OPERANDS),
        options=_options(operator, name),
        version=version,
        intermediates=_integers(operator, "Intermediates", MAX_OPERANDS),
    )


def _options(operator: Any, name: str) -> Mapping[str, Any] | None:
    if name in CUSTOM_OPERATORS:
        return _custom_options(operator)
    if name not in OPTION_FIELDS:
        return None
    class_name, fields = OPTION_FIELDS[name]
    table = operator.BuiltinOptions()
    if table is None or operator.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, class_name):
        return None
    options = getattr(tflite, class_name)()
    options.Init(table.Bytes, table.Pos)
    values: dict[str, Any] = {}
    for field in fields.split():
        if field.endswith("AsNumpy"):
            values[field.removesuffix("AsNumpy")] = _integers(options, field.removesuffix("AsNumpy"))
        else:
            read: Callable[[], Any] = getattr(options, field)
            value = read()
            # Only strings are None where they are left out.
            value = b"" if value is None else value
            values[field] = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    return values


def _custom_options(operator: Any) -> Mapping[str, Any] | None:
    """A flexbuffer map of numbers."""
    if operator.CustomOptionsIsNone() or operator.CustomOptionsLength() == 0:
        return None
    options = flexbuffers.Loads(operator.CustomOptionsAsNumpy().tobytes())
    if not isinstance(options, dict) or not all(isinstance(value, bool | int | float) for value in options.values()):
        raise MalformedModel(f"custom options {options!r} must be a map of numbers")
    return options


def _signature(signature: Any, strings: dict[bytes, str]) -> RawSignature:
    def entries(kind: str) -> tuple[tuple[str, int], ...]:
        count = _counted(getattr(signature, f"{kind}Length")(), "signature entries", MAX_OPERANDS)
        maps = (_present(getattr(signature, kind)(i), "a signature entry") for i in range(count))
        return tuple((_text(entry.Name(), strings), int(entry.TensorIndex())) for entry in maps)

    return RawSignature(_text(signature.SignatureKey(), strings), entries("Inputs"), entries("Outputs"))
