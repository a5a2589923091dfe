"""What an operator's CUDA module gives: one packed layer, its candidate kernels, and the launches of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from gpuq.cuda.kernel import Launch
from gpuq.cuda.layout import ImageLayout
from gpuq.ops.spec import Spec


@dataclass(frozen=True)
class Traits:
    """What a choice may depend on.

    Attributes:
        arch: compute capability as 10 * major + minor.
    """

    arch: int
    multiprocessors: int


class Choice(Protocol):
    """One way to run a layer: a row of a KERNELS table, and how the work is cut."""

    @property
    def name(self) -> str:
        """The kernel's name."""
        ...


@dataclass(frozen=True)
class OnlyChoice:
    """Of a layer with one way to run: the rest follows from the operands' addresses and strides."""

    name: str


class OnlyWayLayer:
    """Base of the layers with one way to run and no scratch."""

    @property
    def name(self) -> str:
        """The kernel's name."""
        raise NotImplementedError

    def choices(self, runs: int, traits: Traits) -> Sequence[OnlyChoice]:
        return (OnlyChoice(self.name),)

    def workspace_bytes(self, runs: int, choice: OnlyChoice) -> int:
        return 0


class Contiguous:
    """Mixin of layers whose operands are contiguous memory.

    Those of the other layers may lie within a larger tensor, with gaps between pixels, rows and images.
    """


class SeveralOutputs(Contiguous):
    """Mixin of layers with more than one output.

    The first is what other layers have, "y"; those behind it are Slots "y1", "y2", ... State that a kernel updates is
    an input and an output, whose memory may be the same or not.
    """

    @property
    def y_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(H, W, C) of one run of each output."""
        raise NotImplementedError

    @property
    def y_shape(self) -> tuple[int, int, int]:
        """The first output's."""
        return self.y_shapes[0]


class Layer(Protocol):
    """A packed layer with one output (more: see SeveralOutputs): plain values, nothing on a device yet."""

    @property
    def spec(self) -> Spec: ...

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        """Arrays by the name of their Slot."""
        ...

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(H, W, C) of one run of each input; (1, 1, elements) where the shape does not matter."""
        ...

    @property
    def y_shape(self) -> tuple[int, int, int]:
        """The same of its output."""
        ...

    def choices(self, runs: int, traits: Traits) -> Sequence[Any]:
        """Every Choice that can run this batch, the one expected to be fastest first. Pure and cached."""
        ...

    def workspace_bytes(self, runs: int, choice: Any) -> int:
        """Scratch that the choice needs."""
        ...

    def launches(self, choice: Any, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        """What one call launches, in order; memory as Slots.

        Inputs are "x", "x1", "x2", ..., the output is "y", scratch "workspace", and constants have their names.
        """
        ...


def y_shapes(layer: Layer) -> tuple[tuple[int, int, int], ...]:
    """(H, W, C) of one run of each output of any layer."""
    return layer.y_shapes if isinstance(layer, SeveralOutputs) else (layer.y_shape,)


def slot_name(kind: str, number: int) -> str:
    """The Slot of an input ("x") or output ("y") by its number: "x", "x1", "x2", ..."""
    return f"{kind}{number or ''}"
