"""Builds a `.tflite` file with exactly one operator from a plain description.

    model = build(
        "RELU",
        inputs=[TensorDef((1, 4), np.int8, scale=0.5, zero_point=-3)],
        outputs=[TensorDef((1, 4), np.int8, scale=0.25, zero_point=-128)],
    )

A tensor with `data` is a constant of the file; one without is an input of the graph (or, among
`outputs`, what the operator computes); `None` is an absent optional input (index -1). The file
follows the conventions that readers rely on: buffer 0 is empty and belongs to every tensor without
data, others start at multiples of 16 bytes, the identifier is TFL3, a signature names inputs and
outputs, and the operator's version is the one that the converter would write for these types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TENSOR_TYPES: dict[str, int] = {
    "float32": schema.TensorType.FLOAT32,
    "int2": schema.TensorType.INT2,
    "int4": schema.TensorType.INT4,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}

PADDINGS: dict[str, int] = {"SAME": schema.Padding.SAME, "VALID": schema.Padding.VALID}

ACTIVATIONS: dict[str, int] = {
    "NONE": schema.ActivationFunctionType.NONE,
    "RELU": schema.ActivationFunctionType.RELU,
    "RELU6": schema.ActivationFunctionType.RELU6,
    "RELU_N1_TO_1": schema.ActivationFunctionType.RELU_N1_TO_1,
}


@dataclass(frozen=True)
class TensorDef:
    """One tensor of the file.

    scale, zero_point   one number, or one per channel along `axis`; scale None: no quantization
    axis                quantized_dimension, of meaning only with several scales
    data                the constant, of shape `shape` and type `dtype`; None for an activation
    bits                4, 2: the file packs the constant (int8, of numbers that fit) two or four to a byte
    """

    shape: tuple[int, ...]
    dtype: Any
    scale: float | np.floating | Sequence[float] | np.ndarray | None = None
    zero_point: int | Sequence[int] | np.ndarray = 0
    axis: int = 0
    data: np.ndarray | None = None
    name: str = ""
    bits: int = 8

    def __post_init__(self) -> None:
        if np.dtype(self.dtype).name not in TENSOR_TYPES:
            raise TypeError(f"no TFLite type for {np.dtype(self.dtype).name}")
        if self.data is not None and (self.data.shape != tuple(self.shape) or self.data.dtype != np.dtype(self.dtype)):
            raise ValueError(
                f"constant {self.data.dtype}{self.data.shape} in a tensor that says "
                f"{np.dtype(self.dtype)}{tuple(self.shape)}"
            )


def constant(values: Any, dtype: Any = np.int32, name: str = "") -> TensorDef:
    """A constant without quantization, such as axes, paddings or a shape."""
    data = np.array(values, dtype=dtype)
    return TensorDef(data.shape, dtype, data=data, name=name)


def build(
    op_name: str,
    inputs: Sequence[TensorDef | None],
    outputs: Sequence[TensorDef],
    options: Any = None,
    version: int | None = None,
) -> bytes:
    """The bytes of a model with one operator.

    op_name   a name of the BuiltinOperator enum, e.g. "CONV_2D"
    options   the operator's options object, e.g. `schema.Conv2DOptionsT`, or None
    version   the operator's version; None: the one that the converter would write
    """
    model = schema.ModelT()
    model.version = 3
    model.description = "one operator"

    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op_name)
    # Readers of files older than 2021 look here; larger codes are marked by the placeholder 127.
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = converter_version(op_name, inputs, outputs, options) if version is None else version
    model.operatorCodes = [code]

    model.buffers = [schema.BufferT()]  # buffer 0: empty, for every tensor without data
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = []

    def add(definition: TensorDef, default_name: str) -> int:
        graph.tensors.append(schema_tensor(definition, default_name, model.buffers))
        return len(graph.tensors) - 1

    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs = [
        -1 if definition is None else add(definition, f"operand_{i}") for i, definition in enumerate(inputs)
    ]
    operator.outputs = [add(definition, f"result_{i}") for i, definition in enumerate(outputs)]
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    graph.operators = [operator]

    graph.inputs = [
        index
        for index, definition in zip(operator.inputs, inputs, strict=True)
        if definition is not None and definition.data is None
    ]
    graph.outputs = list(operator.outputs)
    model.subgraphs = [graph]
    model.signatureDefs = [default_signature(graph)]

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data starts at a multiple of 16 bytes.

    The schema asks for it (force_align), the generated Python code forgets it, and runtimes read
    constants in place.
    """

    def Pack(self, builder: flatbuffers.Builder) -> int:
        content = self.data.tobytes()
        builder.StartVector(1, len(content), 16)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Bytes of numbers of so many bits, the first in the lowest."""
    count = 8 // bits
    padded = np.append(values, np.zeros(-values.size % count, np.uint8)).reshape(-1, count) & ((1 << bits) - 1)
    return np.bitwise_or.reduce(padded << np.arange(0, 8, bits, dtype=np.uint8), axis=1, dtype=np.uint8)


def schema_tensor(definition: TensorDef, default_name: str, buffers: list[Any]) -> Any:
    tensor = schema.TensorT()
    tensor.name = definition.name or default_name
    tensor.shape = np.array(definition.shape, np.int32)
    tensor.hasRank = True
    name = np.dtype(definition.dtype).name if definition.bits == 8 else f"int{definition.bits}"
    tensor.type = TENSOR_TYPES[name]
    tensor.buffer = 0
    if definition.data is not None:
        buffer = _Buffer()
        content = np.frombuffer(np.ascontiguousarray(definition.data).tobytes(), np.uint8)
        buffer.data = content if definition.bits == 8 else packed(content, definition.bits)
        buffers.append(buffer)
        tensor.buffer = len(buffers) - 1
    if definition.scale is not None:
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.atleast_1d(np.asarray(definition.scale, np.float32))
        zero_points = np.atleast_1d(np.asarray(definition.zero_point, np.int64))
        quantization.zeroPoint = np.ascontiguousarray(np.broadcast_to(zero_points, quantization.scale.shape))
        quantization.quantizedDimension = definition.axis
        tensor.quantization = quantization
    return tensor


def default_signature(graph: Any) -> Any:
    def maps(indices: Sequence[int], stem: str) -> list[Any]:
        result = []
        for i, index in enumerate(indices):
            entry = schema.TensorMapT()
            entry.name = f"{stem}_{i}"
            entry.tensorIndex = index
            result.append(entry)
        return result

    signature = schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.subgraphIndex = 0
    signature.inputs = maps(graph.inputs, "input")
    signature.outputs = maps(graph.outputs, "output")
    return signature


# Operators whose version says nothing else than "there is an int8 kernel": 1 for uint8, 2 for int8.
_INT8_IS_VERSION_2 = {
    "ADD",
    "ARG_MAX",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "DEQUANTIZE",
    "LOGISTIC",
    "MAX_POOL_2D",
    "MAXIMUM",
    "MEAN",
    "MINIMUM",
    "MUL",
    "PAD",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "SOFTMAX",
    "SQUARED_DIFFERENCE",
    "SUM",
    "TANH",
    "TRANSPOSE",
}

# The first version serves all types that are drawn.
_ALWAYS_VERSION_1 = {
    *("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    *(
        "ABS",
        "SQRT",
        "RSQRT",
        "NEG",
        "ELU",
        "HARD_SWISH",
        "LEAKY_RELU",
        "PRELU",
        "FLOOR_DIV",
        "DIV",
        "RELU_N1_TO_1",
        "RELU_0_TO_1",
        "L2_NORMALIZATION",
    ),
    *("BATCH_MATMUL", "EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "SELECT", "SELECT_V2"),
    *("SLICE", "SPLIT", "SPLIT_V", "PACK", "UNPACK", "GATHER_ND", "TILE", "REVERSE_V2", "CAST"),
    *("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "MIRROR_PAD", "PADV2"),
}


_INT16_VERSIONS = {
    "ADD": 4,
    "AVERAGE_POOL_2D": 3,
    "CONCATENATION": 3,
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 5,
    "DEQUANTIZE": 3,
    "FULLY_CONNECTED": 7,
    "LOGISTIC": 3,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MUL": 4,
    "PAD": 3,
    "QUANTIZE": 2,
    "RELU": 3,
    "RELU6": 3,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SOFTMAX": 3,
    "SUB": 5,
}


def _present(definition: TensorDef | None) -> TensorDef:
    assert definition is not None
    return definition


def converter_version(
    op_name: str, inputs: Sequence[TensorDef | None], outputs: Sequence[TensorDef], options: Any
) -> int:
    """The operator version that the TFLite converter writes (its op_version.cc).

    It tells which generation of kernels the file needs: runtimes refuse versions they do not know.
    """
    first = inputs[0]
    assert first is not None
    int8 = np.dtype(first.dtype) == np.int8
    if np.dtype(first.dtype) == np.int16 and op_name in _INT16_VERSIONS:
        if op_name == "FULLY_CONNECTED" and np.size(np.asarray(_present(inputs[1]).scale)) > 1:
            return 12
        return _INT16_VERSIONS[op_name]
    if op_name in _INT8_IS_VERSION_2:
        return 2 if int8 else 1
    if op_name == "CONV_2D":
        weights = inputs[1]
        assert weights is not None
        if weights.bits < 8:
            return 7
        if weights.shape[3] != first.shape[3]:
            return 6  # grouped
        return 3 if int8 else 1
    if op_name == "DEPTHWISE_CONV_2D":
        weights = inputs[1]
        assert weights is not None
        if weights.bits < 8:
            # The converter writes 7; LiteRT's reference resolver ends at 6, with a kernel that has int4.
            return 6
        dilated = options.dilationHFactor != 1 or options.dilationWFactor != 1
        return 3 if int8 else 2 if dilated else 1
    if op_name == "FULLY_CONNECTED":
        weights = inputs[1]
        assert weights is not None
        if weights.bits < 8:
            return {4: 10, 2: 14}[weights.bits]
        if int8 and np.size(np.asarray(weights.scale)) > 1:
            return 12
        if len(inputs) == 2:
            return 6
        if options.keepNumDims:
            return 5
        return 4 if int8 else 1
    if op_name == "SUB":
        return 3 if int8 else 1
    if op_name in ("RELU", "RELU6"):
        return 2
    if op_name == "QUANTIZE":
        return 1 if np.dtype(first.dtype) == np.float32 or int8 else 2
    if op_name == "RESIZE_BILINEAR":
        return 3 if options.halfPixelCenters else 2 if int8 else 1
    if op_name == "RESIZE_NEAREST_NEIGHBOR":
        return 3 if options.halfPixelCenters or options.alignCorners else 2 if int8 else 1
    if op_name == "STRIDED_SLICE":
        # The converter writes 6 where there are ellipses or new axes, which LiteRT's reference kernels have, but refuse.
        return 3 if np.dtype(first.dtype) == bool else 1
    if op_name == "GATHER":
        return 5 if options.batchDims else 3 if np.dtype(first.dtype) == bool else 1
    if op_name == "TRANSPOSE_CONV":
        return 4 if options.fusedActivationFunction else 3 if len(inputs) == 4 else 2 if int8 else 1
    if op_name == "BROADCAST_TO":
        return 3 if int8 else 2
    if op_name in _ALWAYS_VERSION_1:
        return 1
    raise ValueError(f"no version known for {op_name}")
