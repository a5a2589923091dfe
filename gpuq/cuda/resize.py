"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR: positions and weights from the host, pixels from the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import OnlyChoice, Traits
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Rounding, Rule
from gpuq.ops.resize_bilinear import ResizeBilinearSpec, ResizeSpec, float_positions, integer_positions
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec, nearest_indices
from gpuq.ops.spec import UINT8

THREADS = 256


def resize_kernel(*, linear: bool, unsigned: bool = False, vec: int = 4) -> Kernel:
    """resize.cu; its head says what the arguments mean."""
    way = ("bilinear_f32" if unsigned else "bilinear_s32") if linear else "nearest"
    return Kernel(
        name=f"resize_{way}_u{8 * vec}",
        source="resize.cu",
        entry="resize",
        defines=(
            ("LINEAR", int(linear)),
            ("X_UNSIGNED", int(unsigned)),
            ("VEC", vec),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    *(resize_kernel(linear=False, vec=vec) for vec in (16, 4, 1)),
    *(resize_kernel(linear=True, unsigned=unsigned, vec=vec) for unsigned in (False, True) for vec in (4, 1)),
)


@dataclass(frozen=True, eq=False)
class ResizeLayer:
    """A packed layer.

    Attributes:
        rows, columns: int32, where each output row and column lies on the input; see kernels_cuda/resize.cu.
    """

    spec: ResizeSpec
    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", {"rows": self.rows, "columns": self.columns})

    @property
    def is_linear(self) -> bool:
        """Bilinear, not nearest."""
        return isinstance(self.spec, ResizeBilinearSpec)

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.spec.in_h, self.spec.in_w, self.spec.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.spec.out_h, self.spec.out_w, self.spec.in_c

    def choices(self, runs: int, traits: Traits) -> Sequence[OnlyChoice]:
        return (OnlyChoice("resize_bilinear" if self.is_linear else "resize_nearest"),)

    def workspace_bytes(self, runs: int, choice: OnlyChoice) -> int:
        return 0

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, x = self.spec, inputs[0]
        shared = alignment(spec.in_c, x.alignment(), output.alignment(), largest=4 if self.is_linear else 16)
        vec = 16 if shared == 16 else 4 if shared >= 4 else 1
        chunks = -(-spec.in_c // max(vec, 4))
        threads = x.images * spec.out_h * spec.out_w * chunks
        if threads >= 1 << 31:
            raise spec.fail(f"{threads} words in one launch; the limit is 2^31 - 1, use a smaller batch")
        return [
            Launch(
                # The nearest pixel's bytes mean nothing.
                resize_kernel(
                    linear=self.is_linear, unsigned=self.is_linear and spec.activation_dtype == UINT8, vec=vec
                ),
                (-(-threads // THREADS), 1, 1),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    *int32s(x.row_pitch, x.pixel_pitch),
                    Slot("rows"),
                    Slot("columns"),
                    output.slot("y"),
                    np.int64(output.image_pitch),
                    *int32s(output.row_pitch, output.pixel_pitch),
                    *int32s(threads, spec.in_c, chunks, spec.out_h, spec.out_w),
                ),
            )
        ]


def _places(spec: ResizeBilinearSpec, in_size: int, out_size: int) -> npt.NDArray[np.int32]:
    """(out_size, 4): lower and upper index, weights of the upper and of the lower one."""
    if spec.dtype == UINT8:
        lower, upper, weight = float_positions(spec, in_size, out_size)
        rest = np.float32(1) - weight
        bits = [np.ascontiguousarray(each, np.float32).view(np.int32) for each in (weight, rest)]
        return np.stack([lower.astype(np.int32), upper.astype(np.int32), *bits], axis=1)
    lower, upper, steps = integer_positions(spec, in_size, out_size)
    return np.stack([lower, upper, steps, 1024 - steps], axis=1).astype(np.int32)


def pack(spec: ResizeBilinearSpec | ResizeNearestNeighborSpec, rule: Rule) -> ResizeLayer:
    """The tables of a layer."""
    if rule.rounding not in (Rounding.EXACT, Rounding.AFFINE_F32):
        raise spec.fail(f"there is no CUDA kernel for rule {rule.rounding.value}")
    if isinstance(spec, ResizeBilinearSpec):
        return ResizeLayer(spec, _places(spec, spec.in_h, spec.out_h), _places(spec, spec.in_w, spec.out_w))
    rows, columns = nearest_indices(spec, spec.in_h, spec.out_h), nearest_indices(spec, spec.in_w, spec.out_w)
    return ResizeLayer(spec, rows.astype(np.int32), columns.astype(np.int32))
