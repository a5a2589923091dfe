"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR: positions and weights from the host, pixels from the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq.cuda.codes import code_defines, type_name
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Rounding, Rule
from gpuq.ops.resize_bilinear import ResizeBilinearSpec, ResizeSpec, float_positions, integer_positions, q11_positions
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec, nearest_indices
from gpuq.ops.spec import FLOAT32, INT8, INT16, UINT8

THREADS = 256


class Blend(NamedTuple):
    """How resize.cu blends: its macro, its part of a kernel's name, and what pixels may be."""

    macro: str
    name: str
    dtypes: tuple[np.dtype[Any], ...]


BLENDS = {
    Rounding.EXACT: Blend("BLEND_EXACT", "s32", (INT8, INT16)),
    Rounding.EXACT_UP: Blend("BLEND_EXACT_UP", "s32_up", (INT8,)),
    Rounding.Q11: Blend("BLEND_Q11", "q11", (INT8, UINT8)),
    Rounding.AFFINE_F32: Blend("BLEND_F32", "f32", (UINT8,)),
    Rounding.AFFINE_F32_PIXEL: Blend("BLEND_F32_PIXEL", "f32_pixel", (UINT8,)),
    Rounding.FLOAT32: Blend("BLEND_VALUES", "values", (FLOAT32,)),
}
"""By the rule of RESIZE_BILINEAR."""


def resize_kernel(rounding: Rounding | None = None, *, dtype: np.dtype[Any] = INT8, vec: int = 4) -> Kernel:
    """resize.cu; its head says what the arguments mean. Without a rule the nearest pixel."""
    way, blend, load = "nearest", BLENDS[rounding or Rounding.EXACT], f"u{8 * vec}"
    if dtype == FLOAT32:
        way, load = "bilinear", "f32"
    elif rounding is not None:
        both = dtype == UINT8 and len(blend.dtypes) > 1
        way = f"bilinear_{blend.name}" + ("_unsigned" if both else type_name(dtype))
    return Kernel(
        name=f"resize_{way}_{load}",
        source="resize.cu",
        entry="resize",
        defines=(
            ("LINEAR", int(rounding is not None)),
            ("BLEND", blend.macro),
            *code_defines(INT8 if dtype == FLOAT32 else dtype),
            ("VEC", vec),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    *(resize_kernel(vec=vec) for vec in (16, 4, 1)),
    *(
        resize_kernel(rounding, dtype=dtype, vec=vec)
        for rounding, blend in BLENDS.items()
        for dtype in blend.dtypes
        for vec in ((1,) if dtype == FLOAT32 else (4, 1))
    ),
)


@dataclass(frozen=True, eq=False)
class ResizeLayer(OnlyWayLayer):
    """A packed layer.

    Attributes:
        rows, columns: int32, where each output row and column lies on the input; see kernels_cuda/resize.cu.
        rounding: how pixels are blended; None of the nearest one.
    """

    spec: ResizeSpec
    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    rounding: Rounding | None
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", {"rows": self.rows, "columns": self.columns})

    @property
    def is_linear(self) -> bool:
        """Bilinear, not nearest."""
        return self.rounding is not None

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.spec.in_h, self.spec.in_w, self.spec.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.spec.out_h, self.spec.out_w, self.spec.in_c

    @property
    def name(self) -> str:
        return "resize_bilinear" if self.is_linear else "resize_nearest"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, x = self.spec, inputs[0]
        size = spec.activation_dtype.itemsize
        # Of the nearest pixel bytes are copied, whatever they mean.
        channels, unit, dtype = (
            (spec.in_c, size, spec.activation_dtype) if self.is_linear else (spec.in_c * size, 1, INT8)
        )
        largest = 4 * unit if self.is_linear else 16
        shared = alignment(channels * unit, x.alignment(), output.alignment(), largest=largest) // unit
        vec = 16 if shared == 16 else 4 if shared >= 4 else 1
        chunks = -(-channels // max(vec, 4))
        if self.is_linear and dtype == FLOAT32:
            vec, chunks = 1, channels
        threads = x.images * spec.out_h * spec.out_w * chunks
        if threads >= 1 << 31:
            raise spec.fail(f"{threads} words in one launch; the limit is 2^31 - 1, use a smaller batch")
        return [
            Launch(
                resize_kernel(self.rounding, dtype=dtype, vec=vec),
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
                    *int32s(threads, channels, chunks, spec.out_h, spec.out_w),
                ),
            )
        ]


def _places(spec: ResizeBilinearSpec, rounding: Rounding, in_size: int, out_size: int) -> npt.NDArray[np.int32]:
    """(out_size, 4): lower and upper index, weights of the upper and of the lower one."""
    if rounding in (Rounding.AFFINE_F32, Rounding.AFFINE_F32_PIXEL, Rounding.FLOAT32):
        lower, upper, weight = float_positions(spec, in_size, out_size)
        rest = np.float32(1) - weight
        bits = [np.ascontiguousarray(each, np.float32).view(np.int32) for each in (weight, rest)]
        return np.stack([lower.astype(np.int32), upper.astype(np.int32), *bits], axis=1)
    is_q11 = rounding is Rounding.Q11
    lower, upper, steps = (q11_positions if is_q11 else integer_positions)(spec, in_size, out_size)
    return np.stack([lower, upper, steps, (2048 if is_q11 else 1024) - steps], axis=1).astype(np.int32)


def pack(spec: ResizeBilinearSpec | ResizeNearestNeighborSpec, rule: Rule) -> ResizeLayer:
    """The tables of a layer."""
    rounding = rule.rounding
    if isinstance(spec, ResizeBilinearSpec):
        if rounding not in BLENDS or spec.dtype not in BLENDS[rounding].dtypes:
            raise spec.fail(f"there is no CUDA kernel for rule {rounding.value}")
        rows, columns = (
            _places(spec, rounding, *sizes) for sizes in ((spec.in_h, spec.out_h), (spec.in_w, spec.out_w))
        )
        return ResizeLayer(spec, rows, columns, rounding)
    if rounding is not Rounding.EXACT:
        raise spec.fail(f"there is no CUDA kernel for rule {rounding.value}")
    lines, pixels = nearest_indices(spec, spec.in_h, spec.out_h), nearest_indices(spec, spec.in_w, spec.out_w)
    return ResizeLayer(spec, lines.astype(np.int32), pixels.astype(np.int32), None)
