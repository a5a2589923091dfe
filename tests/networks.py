"""Builds .tflite files of many operators, and changes files that exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .peers.one_operator import PADDINGS, TensorDef, constant, converter_version, default_signature, schema_tensor

Change = Callable[[Any], None]


class Network:
    """A file in the making: tensors and operators are added in the order of execution, by their numbers."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "network"
        self.model.operatorCodes = []
        self.model.buffers = [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self._definitions: list[TensorDef | None] = []

    def tensor(self, definition: TensorDef, *, is_variable: bool = False) -> int:
        """The number of a new tensor."""
        number = len(self.graph.tensors)
        tensor = schema_tensor(definition, f"tensor_{number}", self.model.buffers)
        tensor.isVariable = is_variable
        self.graph.tensors.append(tensor)
        self._definitions.append(definition)
        return number

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        output: TensorDef | int | None,
        options: Any = None,
        *,
        version: int | None = None,
    ) -> int:
        """Adds an operator; the number of its output, -1 where it has none."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        number = output if isinstance(output, int) else -1 if output is None else self.tensor(output)
        known = [None if i < 0 else self._definitions[i] for i in inputs]
        if version is None and known[:1] not in ([], [None]) and number >= 0:
            try:
                version = converter_version(name, known, [self._definitions[number]], options)
            except ValueError:  # an operator that the builder of one-operator models does not know
                version = None
        version = version or 1
        code.version = version
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), [] if number < 0 else [number]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(operator)
        return number

    def handle(self, name: str) -> int:
        """Adds VAR_HANDLE; the number of the handle."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = f"handle_{len(self.graph.tensors)}", [], schema.TensorType.RESOURCE
        self.graph.tensors.append(tensor)
        self._definitions.append(None)
        number = len(self.graph.tensors) - 1
        return self.operator("VAR_HANDLE", [], number, schema.VarHandleOptionsT(container="", sharedName=name))

    def read(self, handle: int, definition: TensorDef) -> int:
        """Adds READ_VARIABLE; the number of the value."""
        return self.operator("READ_VARIABLE", [handle], definition, schema.ReadVariableOptionsT())

    def assign(self, handle: int, value: int) -> None:
        """Adds ASSIGN_VARIABLE."""
        self.operator("ASSIGN_VARIABLE", [handle, value], None, schema.AssignVariableOptionsT())

    def call_once(self, initial: Mapping[str, TensorDef]) -> None:
        """Adds CALL_ONCE, and the subgraph that assigns these constants to variables by their names."""
        number = len(self.model.subgraphs)
        self.operator("CALL_ONCE", [], None, schema.CallOnceOptionsT(initSubgraphIndex=number))
        main, definitions = self.graph, self._definitions
        self.graph, self._definitions = schema.SubGraphT(), []
        self.graph.name, self.graph.inputs, self.graph.outputs = f"initialize_{number}", [], []
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs.append(self.graph)
        for name, definition in initial.items():
            self.assign(self.handle(name), self.tensor(definition))
        self.graph, self._definitions = main, definitions

    def build(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file's bytes."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        self.model.signatureDefs = [default_signature(self.graph)]
        return packed(self.model)


def packed(model: Any) -> bytes:
    """The bytes of a model of plain schema objects."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def edited(content: bytes, change: Change) -> bytes:
    """The file with `change` applied to its schema objects (a ModelT)."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    change(model)
    return packed(model)


def int8(shape: Sequence[int], scale: float = 0.5, zero_point: int = 0, **more: Any) -> TensorDef:
    """An int8 activation, or with `data` a constant."""
    return TensorDef(tuple(shape), np.int8, scale, zero_point, **more)


def small_network(batch: int = 1) -> bytes:
    """Convolution, depthwise, a residual addition, a view, a dense layer and a softmax: 6x6x3 to 5 probabilities."""
    rng = np.random.default_rng(7)

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def bias(count: int, scale: Any) -> TensorDef:
        return TensorDef((count,), np.int32, scale, 0, data=rng.integers(-2000, 2000, count).astype(np.int32))

    net = Network()
    x = net.tensor(int8((batch, 6, 6, 3), 0.05, 12, name="image"))
    scales = np.linspace(0.002, 0.004, 4).astype(np.float32)
    conv = net.operator(
        "CONV_2D",
        [
            x,
            net.tensor(TensorDef((4, 3, 3, 3), np.int8, scales, 0, data=codes(4, 3, 3, 3))),
            net.tensor(bias(4, np.float32(0.05) * scales)),
        ],
        int8((batch, 3, 3, 4), 0.04, -10),
        schema.Conv2DOptionsT(padding=PADDINGS["SAME"], strideH=2, strideW=2, dilationHFactor=1, dilationWFactor=1),
    )
    depthwise = net.operator(
        "DEPTHWISE_CONV_2D",
        [
            conv,
            net.tensor(TensorDef((1, 3, 3, 4), np.int8, scales, 0, axis=3, data=codes(1, 3, 3, 4))),
            net.tensor(bias(4, np.float32(0.04) * scales)),
        ],
        int8((batch, 3, 3, 4), 0.03, -128),
        schema.DepthwiseConv2DOptionsT(
            padding=PADDINGS["SAME"],
            strideH=1,
            strideW=1,
            depthMultiplier=1,
            dilationHFactor=1,
            dilationWFactor=1,
            fusedActivationFunction=schema.ActivationFunctionType.RELU6,
        ),
    )
    added = net.operator("ADD", [conv, depthwise], int8((batch, 3, 3, 4), 0.05, -20), schema.AddOptionsT())
    flat = net.operator(
        "RESHAPE", [added, net.tensor(constant([-1, 36]))], int8((batch, 36), 0.05, -20), schema.ReshapeOptionsT()
    )
    dense = net.operator(
        "FULLY_CONNECTED",
        [flat, net.tensor(int8((5, 36), 0.01, 0, data=codes(5, 36))), net.tensor(bias(5, 0.0005))],
        int8((batch, 5), 0.1, 3),
        schema.FullyConnectedOptionsT(),
    )
    out = net.operator("SOFTMAX", [dense], int8((batch, 5), 1 / 256, -128), schema.SoftmaxOptionsT(beta=1.0))
    return net.build([x], [out])


def streaming_network(*, initial: bool = True) -> bytes:
    """A frame of 4 features in; a window of the last 5 frames, kept in a variable, convolved and classified.

    A second variable counts: what it holds, plus 1, is an output. initial False: no CALL_ONCE.
    """
    rng = np.random.default_rng(11)
    net = Network()
    frame = net.tensor(int8((1, 1, 1, 4), 0.05, -4, name="frame"))
    if initial:
        past = rng.integers(-128, 128, (1, 4, 1, 4)).astype(np.int8)
        count = np.full((1, 2), -7, np.int8)
        net.call_once({"past": int8(past.shape, 0.05, -4, data=past), "count": int8((1, 2), 1.0, -9, data=count)})
    handle, counter = net.handle("past"), net.handle("count")
    old = net.read(handle, int8((1, 4, 1, 4), 0.05, -4))
    window = net.operator(
        "CONCATENATION", [old, frame], int8((1, 5, 1, 4), 0.05, -4), schema.ConcatenationOptionsT(axis=1)
    )
    bounds = [net.tensor(constant(values)) for values in ([0, 1, 0, 0], [1, 5, 1, 4], [1, 1, 1, 1])]
    kept = net.operator("STRIDED_SLICE", [window, *bounds], int8((1, 4, 1, 4), 0.05, -4), schema.StridedSliceOptionsT())
    net.assign(handle, kept)
    weights = rng.integers(-127, 128, (6, 3, 1, 4)).astype(np.int8)
    bias = rng.integers(-500, 500, 6).astype(np.int32)
    conv = net.operator(
        "CONV_2D",
        [
            window,
            net.tensor(int8(weights.shape, 0.01, data=weights)),
            net.tensor(TensorDef((6,), np.int32, 0.0005, 0, data=bias)),
        ],
        int8((1, 3, 1, 6), 0.06, -20),
        schema.Conv2DOptionsT(padding=PADDINGS["VALID"], strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1),
    )
    pooled = net.operator(
        "MEAN", [conv, net.tensor(constant([1, 2]))], int8((1, 6), 0.06, -20), schema.ReducerOptionsT()
    )
    out = net.operator("SOFTMAX", [pooled], int8((1, 6), 1 / 256, -128), schema.SoftmaxOptionsT(beta=1.0))
    one = net.tensor(int8((1, 2), 1.0, data=np.ones((1, 2), np.int8)))
    counted = net.operator(
        "ADD", [net.read(counter, int8((1, 2), 1.0, -9)), one], int8((1, 2), 1.0, -9), schema.AddOptionsT()
    )
    net.assign(counter, counted)
    return net.build([frame], [out, counted])


def moving_network() -> bytes:
    """Operators with constants of all kinds that say where elements go, one after the other, and some that compute."""
    net = Network()

    def fixed(values: Any) -> int:
        return net.tensor(constant(values))

    x = net.tensor(int8((1, 4, 6, 4)))
    y = net.operator("TRANSPOSE", [x, fixed([0, 2, 1, 3])], int8((1, 6, 4, 4)), schema.TransposeOptionsT())
    y = net.operator("SPACE_TO_DEPTH", [y], int8((1, 3, 2, 16)), schema.SpaceToDepthOptionsT(blockSize=2))
    y = net.operator(
        "STRIDED_SLICE",
        [y, fixed([0, 2, 0, -1]), fixed([1, 0, 2, 0]), fixed([1, -1, 1, -2])],
        int8((1, 2, 2, 8)),
        schema.StridedSliceOptionsT(beginMask=1, endMask=4),
    )
    y = net.operator("SLICE", [y, fixed([0, 0, 0, 1]), fixed([1, 2, -1, 4])], int8((1, 2, 2, 4)))
    parts = [net.tensor(int8((1, 2, 2, 2))) for _ in range(2)]
    net.operator("SPLIT", [fixed(3), y], parts[0], schema.SplitOptionsT(numSplits=2), version=1)
    net.graph.operators[-1].outputs = parts
    y = net.operator("PACK", parts, int8((1, 2, 2, 2, 2)), schema.PackOptionsT(axis=1, valuesCount=2))
    y = net.operator("GATHER", [y, fixed([1, 0, 1])], int8((1, 3, 2, 2, 2)), schema.GatherOptionsT(axis=1))
    y = net.operator("RESHAPE", [y, fixed([1, 6, 2, 2])], int8((1, 6, 2, 2)), schema.ReshapeOptionsT())
    y = net.operator("TILE", [y, fixed([1, 1, 2, 1])], int8((1, 6, 4, 2)))
    y = net.operator(
        "MIRROR_PAD", [y, fixed([[0, 0], [1, 1], [0, 0], [0, 0]])], int8((1, 8, 4, 2)), schema.MirrorPadOptionsT(mode=0)
    )
    y = net.operator("SPACE_TO_BATCH_ND", [y, fixed([2, 2]), fixed([[0, 0], [0, 2]])], int8((4, 4, 3, 2)), version=1)
    y = net.operator("BATCH_TO_SPACE_ND", [y, fixed([2, 2]), fixed([[0, 0], [0, 2]])], int8((1, 8, 4, 2)), version=1)
    weights = net.tensor(int8((3, 2, 2, 2), 0.01, data=np.arange(24, dtype=np.int8).reshape(3, 2, 2, 2)))
    options = schema.TransposeConvOptionsT(strideH=2, strideW=2)
    y = net.operator("TRANSPOSE_CONV", [fixed([1, 16, 8, 3]), weights, y], int8((1, 16, 8, 3)), options)
    y = net.operator("BATCH_MATMUL", [y, y], int8((1, 16, 8, 8), 200.0), schema.BatchMatMulOptionsT(adjY=True))
    y = net.operator("LEAKY_RELU", [y], int8((1, 16, 8, 8), 200.0), schema.LeakyReluOptionsT(alpha=0.1))
    y = net.operator("REDUCE_MAX", [y, fixed([1, 2])], int8((1, 8), 200.0), schema.ReducerOptionsT())
    return net.build([x], [y])
