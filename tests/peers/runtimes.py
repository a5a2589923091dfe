"""The peers: LiteRT's reference kernels and TFLite Micro, one run after another.

A file's shapes are those of one run (its first dimension is nearly always 1). N runs, stacked
along axis 0 of each input, are N independent runs whose results are concatenated along axis 0,
which is what gpuq promises for a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro import runtime as tflm_runtime


class PeerRefused(Exception):
    """The peer does not take this model or cannot run it; the message is the runtime's own."""


@dataclass(frozen=True)
class Run:
    """What was computed: outputs in the file's order, every operator's outputs by tensor index."""

    outputs: tuple[np.ndarray, ...]
    tensors: dict[int, np.ndarray]


def read_model(model: bytes) -> schema.ModelT:
    """The file as the schema's plain objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))


def only_graph(model: bytes) -> schema.SubGraphT:
    """The subgraph that runs: the first, others are there for CALL_ONCE."""
    graph, *initializers = read_model(model).subgraphs
    assert not any(len(other.outputs) for other in initializers)
    return graph


def computed_tensors(model: bytes) -> list[int]:
    """Indices of all tensors that some operator has as output, ascending; handles of variables have no value."""
    graph = only_graph(model)
    written = sorted(int(index) for operator in graph.operators for index in operator.outputs)
    return [index for index in written if graph.tensors[index].type != schema.TensorType.RESOURCE]


class LiteRT:
    """LiteRT with the kernels of one resolver, one thread, all tensors kept.

    With XNNPACK (the default resolver) a tensor inside a partition is not kept: see `expose.py`.
    """

    def __init__(self, model: bytes, resolver: OpResolverType) -> None:
        try:
            with warnings.catch_warnings():
                # That keeping all tensors costs memory.
                warnings.simplefilter("ignore", UserWarning)
                self._interpreter = Interpreter(
                    model_content=model,
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=True,
                    num_threads=1,
                )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise PeerRefused(str(error)) from error
        details = self._interpreter.get_input_details()
        self.input_shapes = [tuple(int(d) for d in detail["shape"]) for detail in details]
        self._inputs = [int(detail["index"]) for detail in details]
        outputs = self._interpreter.get_output_details()
        self._outputs = [int(detail["index"]) for detail in outputs]
        self._computed = computed_tensors(model)

    def run(self, inputs: Sequence[np.ndarray]) -> Run:
        """One run on inputs of exactly the file's shapes."""
        for index, array in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, array)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise PeerRefused(str(error)) from error
        tensors = {index: self._interpreter.get_tensor(index) for index in self._computed}
        return Run(tuple(tensors[index] for index in self._outputs), tensors)


class TFLiteMicro:
    """TFLite Micro as its wheel builds it (portable kernels). It shows outputs only.

    Its refusals say little; the reason is on stderr.
    """

    def __init__(self, model: bytes) -> None:
        graph = only_graph(model)
        shapes = [tuple(int(d) for d in tensor.shape) for tensor in graph.tensors]
        self.input_shapes = [shapes[index] for index in graph.inputs]
        self._output_count = len(graph.outputs)
        # Room for every tensor at once in 8 bytes an element, and for what the kernels keep.
        elements = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
        arena = (1 << 18) + (1 << 14) * len(graph.operators) + 8 * elements
        try:
            self._interpreter = tflm_runtime.Interpreter.from_bytes(model, arena_size=arena)
        except (RuntimeError, ValueError) as error:
            raise PeerRefused(str(error)) from error

    def run(self, inputs: Sequence[np.ndarray]) -> Run:
        """One run on inputs of exactly the file's shapes."""
        try:
            for i, array in enumerate(inputs):
                self._interpreter.set_input(array, i)
            self._interpreter.invoke()
            # Copies: the runtime hands out its own memory, which the next run overwrites.
            outputs = [np.array(self._interpreter.get_output(i)) for i in range(self._output_count)]
        except (RuntimeError, ValueError) as error:
            raise PeerRefused(str(error)) from error
        return Run(tuple(outputs), {})


LiteRTRef = partial(LiteRT, resolver=OpResolverType.BUILTIN_REF)
LiteRTOpt = partial(LiteRT, resolver=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
LiteRTDefault = partial(LiteRT, resolver=OpResolverType.BUILTIN)

Peer = LiteRT | TFLiteMicro

PEERS: dict[str, Callable[[bytes], Peer]] = {
    "litert_ref": LiteRTRef,
    "litert_opt": LiteRTOpt,
    "xnnpack": LiteRTDefault,
    "tflm": TFLiteMicro,
}
"""The peer of each of gpuq's numerics profiles, but for `single`, which no wheel runs."""


def samples(peer: Peer, inputs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The inputs of each run, cut from arrays that are stacked along axis 0."""
    counts = {array.shape[0] / shape[0] for array, shape in zip(inputs, peer.input_shapes, strict=True)}
    if len(counts) != 1 or not (count := counts.pop()).is_integer():
        raise ValueError(f"{[a.shape for a in inputs]} is no batch of {peer.input_shapes}")
    parts = [np.split(array, int(count)) for array in inputs]
    return [list(sample) for sample in zip(*parts, strict=True)]


def run_samples(peer: Peer, inputs: Sequence[np.ndarray]) -> Run:
    """All runs of a batch, one after another, results concatenated along axis 0."""
    runs = [peer.run(sample) for sample in samples(peer, inputs)]
    return Run(
        tuple(np.concatenate(parts) for parts in zip(*(run.outputs for run in runs), strict=True)),
        {index: np.concatenate([run.tensors[index] for run in runs]) for index in runs[0].tensors},
    )


def litert_ref(model: bytes, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Every tensor that an operator computes, by index, from LiteRT's reference kernels."""
    return run_samples(LiteRTRef(model), inputs).tensors


def litert_outputs(model: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The model's outputs from LiteRT's reference kernels, in the file's order."""
    return list(run_samples(LiteRTRef(model), inputs).outputs)


def tflm(model: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The model's outputs from TFLite Micro, in the file's order."""
    return list(run_samples(TFLiteMicro(model), inputs).outputs)
