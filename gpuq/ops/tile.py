"""TILE and BROADCAST_TO: elements repeated.

Sources: LiteRT tflite/kernels/{tile,broadcast_to}.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import Shape, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class TileSpec(MovementSpec):
    """The whole tensor again and again. See MovementSpec for the other fields.

    Args:
        multiples: how often along each dimension, at least once.
    """

    op: ClassVar[str] = "TILE"

    multiples: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            len(self.multiples) == self.rank, f"{len(self.multiples)} multiples for a tensor of rank {self.rank}"
        )
        self.require(all(count >= 1 for count in self.multiples), f"multiples {self.multiples} must be positive")

    @property
    def output_shape(self) -> Shape:
        return tuple(size * count for size, count in zip(self.x_shape, self.multiples, strict=True))


@dataclass(frozen=True, kw_only=True)
class BroadcastToSpec(MovementSpec):
    """Dimensions of 1 repeated, dimensions put in front. See MovementSpec for the other fields.

    Args:
        out_shape: a shape that x_shape broadcasts to by NumPy's rules.
    """

    op: ClassVar[str] = "BROADCAST_TO"

    out_shape: Shape

    def __post_init__(self) -> None:
        super().__post_init__()
        padded = (1,) * (len(self.out_shape) - self.rank) + self.x_shape
        self.require(
            len(padded) == len(self.out_shape)
            and all(size in (1, wanted) for size, wanted in zip(padded, self.out_shape, strict=True)),
            f"{shape_text(self.x_shape)} does not broadcast to {shape_text(self.out_shape)}",
        )

    @property
    def output_shape(self) -> Shape:
        return self.out_shape


def tile(spec: TileSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape): (N, *output_shape)."""
    return np.tile(run_shape(x, spec.x_shape), (1, *spec.multiples))


def broadcast_to(spec: BroadcastToSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) as a view (N, *output_shape)."""
    wide = run_shape(x, (1,) * (len(spec.out_shape) - spec.rank) + spec.x_shape)
    return np.broadcast_to(wide, (wide.shape[0], *spec.out_shape))
