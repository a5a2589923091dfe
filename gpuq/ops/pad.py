"""PAD, PADV2, MIRROR_PAD: the input framed by codes of real 0 (the output's zero point), by a value, by itself.

Sources: LiteRT tflite/kernels/{pad,mirror_pad}.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import INT8, INT16, UINT8, Shape, Spec, run_shape
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class PadSpec(Spec):
    """Elements before and after each dimension.

    Args:
        x_shape: shape of one run.
        pads: (before, after) of each dimension of x_shape.
        out_quant: int8, uint8 or int16, per tensor; its zero point is the value of the frame. Codes are copied.
    """

    op: ClassVar[str] = "PAD"

    x_shape: Shape
    pads: tuple[tuple[int, int], ...]
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.out_quant.dtype, INT8, UINT8, INT16)
        self.require(not self.out_quant.is_per_channel, "the output must be quantized per tensor")
        self.require(
            len(self.pads) == len(self.x_shape), f"{len(self.pads)} pairs of pads for {len(self.x_shape)} dimensions"
        )
        self.require(all(pad >= 0 for pair in self.pads for pad in pair), f"pads {self.pads} must not be negative")

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.out_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return tuple(before + size + after for size, (before, after) in zip(self.x_shape, self.pads, strict=True))


@dataclass(frozen=True, kw_only=True)
class FrameSpec(MovementSpec):
    """A frame around elements of any kind. See MovementSpec for the other fields.

    Args:
        pads: (before, after) of each dimension of x_shape.
    """

    pads: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(len(self.pads) == self.rank, f"{len(self.pads)} pairs of pads for {self.rank} dimensions")
        self.require(all(pad >= 0 for pair in self.pads for pad in pair), f"pads {self.pads} must not be negative")

    @property
    def output_shape(self) -> Shape:
        return tuple(before + size + after for size, (before, after) in zip(self.x_shape, self.pads, strict=True))


@dataclass(frozen=True, kw_only=True)
class PadV2Spec(FrameSpec):
    """A frame of one value. See FrameSpec for the other fields.

    Args:
        value: of the frame, in the dtype: a code where the tensor holds codes.
    """

    op: ClassVar[str] = "PADV2"

    value: float


@dataclass(frozen=True, kw_only=True)
class MirrorPadSpec(FrameSpec):
    """A frame of the elements next to it, in reverse. See FrameSpec for the other fields.

    Args:
        symmetric: the outermost element is repeated (SYMMETRIC), or is the mirror itself (REFLECT).
    """

    op: ClassVar[str] = "MIRROR_PAD"

    symmetric: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for size, pair in zip(self.x_shape, self.pads, strict=True):
            most = size if self.symmetric else size - 1
            self.require(max(pair) <= most, f"pads {pair} of a dimension of {size} must be at most {most}")


def reference(spec: PadSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) codes framed: (N, *output_shape) codes."""
    codes = run_shape(x, spec.x_shape)
    return np.pad(codes, ((0, 0), *spec.pads), constant_values=spec.out_quant.scalar_zero_point())


def padv2_reference(spec: PadV2Spec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) framed: (N, *output_shape)."""
    return np.pad(run_shape(x, spec.x_shape), ((0, 0), *spec.pads), constant_values=spec.value)


def mirror_pad_reference(spec: MirrorPadSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) framed: (N, *output_shape)."""
    codes, pads = run_shape(x, spec.x_shape), ((0, 0), *spec.pads)
    return np.pad(codes, pads, mode="symmetric") if spec.symmetric else np.pad(codes, pads, mode="reflect")
