"""AVERAGE_POOL_2D and MAX_POOL_2D: four channels of a pixel in every thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.codes import code_defines, type_name
from gpuq.cuda.kernel import Kernel, Launch, int32s
from gpuq.cuda.layer import OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Bounds, Rule
from gpuq.ops.average_pool_2d import AveragePool2dSpec, Pool2dSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.spec import INT8, INT16

THREADS = 256


def pool_kernel(*, average: bool, dtype: np.dtype[Any] = INT8, vec: int = 4) -> Kernel:
    """pool_2d.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"{'average' if average else 'max'}_pool_2d_u{8 * vec}{type_name(dtype)}",
        source="pool_2d.cu",
        entry="pool_2d",
        defines=(
            ("AVERAGE", int(average)),
            *code_defines(dtype),
            ("VEC", vec),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


KERNELS = tuple(
    pool_kernel(average=average, dtype=dtype, vec=vec)
    for dtype in (INT8, INT16)
    for average in (True, False)
    for vec in (4, 1)
)


@dataclass(frozen=True, eq=False)
class PoolLayer(OnlyWayLayer):
    """A pool; it has no constants."""

    spec: Pool2dSpec
    bounds: Bounds = Bounds.AWAY

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.spec.in_h, self.spec.in_w, self.spec.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        out_h, out_w, channels = self.spec.output_shape
        return out_h, out_w, channels

    @property
    def name(self) -> str:
        return "average_pool_2d" if isinstance(self.spec, AveragePool2dSpec) else "max_pool_2d"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, window, x = self.spec, self.spec.window, inputs[0]
        out_h, out_w, channels = self.y_shape
        threads = x.images * out_h * out_w * -(-channels // 4)
        if threads >= 1 << 31:
            raise spec.fail(f"{threads} words in one launch; the limit is 2^31 - 1, use a smaller batch")
        four = 4 * spec.activation_dtype.itemsize
        vec = 4 if channels % 4 == 0 and x.alignment(four) == output.alignment(four) == four else 1
        kernel = pool_kernel(average=isinstance(spec, AveragePool2dSpec), dtype=spec.activation_dtype, vec=vec)
        return [
            Launch(
                kernel,
                (-(-threads // THREADS), 1, 1),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    *int32s(x.row_pitch, x.pixel_pitch),
                    output.slot("y"),
                    np.int64(output.image_pitch),
                    *int32s(output.row_pitch, output.pixel_pitch),
                    *int32s(threads, spec.in_h, spec.in_w, channels, out_h, out_w),
                    *int32s(window.kernel_h, window.kernel_w, window.stride_h, window.stride_w),
                    *int32s(window.pad_top, window.pad_left),
                    *int32s(*numerics.activation_range(spec.activation, spec.out_quant, self.bounds)),
                ),
            )
        ]


def pack(spec: AveragePool2dSpec | MaxPool2dSpec, rule: Rule) -> PoolLayer:
    """Checks that a mean's sums, and half of the count with them, are int32; there is nothing to pack."""
    pixels = min(spec.window.kernel_h, spec.in_h) * min(spec.window.kernel_w, spec.in_w)
    codes = np.iinfo(spec.activation_dtype)
    most = pixels * max(-int(codes.min), int(codes.max)) + pixels // 2
    if isinstance(spec, AveragePool2dSpec) and most >= 1 << 31:
        raise spec.fail(f"a window of {pixels} pixels has sums beyond int32")
    return PoolLayer(spec, rule.bounds)
