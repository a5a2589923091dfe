"""A network as plain frozen values: tensors, and nodes that hold checked Specs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.model.tflite_file import RawModel
from gpuq.ops.spec import Shape, Spec
from gpuq.quant import Quant


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file.

    Attributes:
        index: its number in the file.
        shape: of one run of the network, as the file says.
        shape_signature: the shape with -1 where the converter left a dimension open.
        quant: None for tensors that are not quantized.
        data: the value of a constant, read-only; None for activations.
        is_variable: state that lasts from run to run.
        bits: 4 or 2 where the file packs so small numbers into bytes, of a constant that is int8 here; else 8.
        initial: the value that state starts with, read-only; None: the zero point of int8, else 0.
    """

    index: int
    name: str
    shape: Shape
    shape_signature: Shape
    dtype: np.dtype[Any]
    quant: Quant | None
    data: npt.NDArray[Any] | None = None
    is_variable: bool = False
    bits: int = 8
    initial: npt.NDArray[Any] | None = None

    @property
    def batch_shape(self) -> str:
        """The shape with N for the batch, as users give and get it: Nx224x224x3."""
        first, *rest = self.shape or (1,)
        return "x".join(["N" if first == 1 else f"{first}N", *map(str, rest)])

    @property
    def nbytes(self) -> int:
        """Bytes of one run."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Node:
    """One operator: its Spec, and the tensors it reads and writes.

    Attributes:
        index: its number in the file.
        inputs: the tensors that reference() takes, in the file's order (axes, sizes and the like are in the Spec); -1
            where an optional input is left out.
        outputs: tensor numbers.
    """

    index: int
    spec: Spec
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """A named way to call the network: names of inputs and outputs, each with its tensor."""

    key: str
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Graph:
    """A network that gpuq can run.

    Attributes:
        tensors: all tensors of the file, by their numbers; behind them its resource variables.
        nodes: in the order of execution; operators folded at load time are gone.
        inputs, outputs: tensor numbers.
        folded: tensors whose values were computed at load time (SHAPE and what follows from it).
        source: the file's operators and tensors as they were read, without the constants that `tensors` holds.
    """

    description: str
    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signatures: tuple[Signature, ...] = ()
    folded: tuple[int, ...] = ()
    source: RawModel | None = field(default=None, repr=False, compare=False)

    @property
    def variables(self) -> Iterator[Tensor]:
        """Tensors that hold state."""
        return (tensor for tensor in self.tensors if tensor.is_variable)

    def node_macs(self, node: Node) -> int:
        """Multiply-accumulates of one run of a node."""
        if not node.spec.macs:
            return 0
        # A Spec counts one image or row; the file's shape may hold several.
        return node.spec.macs * math.prod(self.tensors[node.outputs[0]].shape) // math.prod(node.spec.output_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run of the network."""
        return sum(self.node_macs(node) for node in self.nodes)
