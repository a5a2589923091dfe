"""TRANSPOSE_CONV as convolutions: output pixels of one phase modulo the strides are a CONV_2D of the input.

Of output row s * q + p, with stride s and phase p, only the taps kh count for which p + pad - kh is a multiple of s;
with kh = first + s * t they see input row q + d - t, d = (p + pad - first) / s. Turned round, that is a convolution of
stride 1 over as many rows, whose window begins d - (taps - 1) rows after q: pads where that is before the image, input
left out where it is behind its first row. Each phase writes its pixels into the output, s apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda import conv2d, conv2d_int16
from gpuq.cuda.conv2d import Conv2dLayer
from gpuq.cuda.conv2d_int16 import Conv2dInt16Layer
from gpuq.cuda.kernel import Launch, Slot, renamed
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.spec import INT16
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.window import Window2d


@dataclass(frozen=True)
class Phase:
    """One phase along one dimension.

    Attributes:
        start, count: first output element, and how many, a stride apart.
        taps: kernel elements in the order of the input; none: nothing but the bias.
        skip: input elements before the first that is seen.
        size: input elements seen.
        pad_before, pad_after: of the convolution.
    """

    start: int
    count: int
    taps: tuple[int, ...]
    skip: int
    size: int
    pad_before: int
    pad_after: int


def phases(inputs: int, outputs: int, kernel: int, stride: int, pad: int) -> list[Phase]:
    """Those of one dimension that have output elements."""
    found = []
    for start in range(min(stride, outputs)):
        count = -(-(outputs - start) // stride)
        first = (start + pad) % stride
        taps = tuple(range(first, kernel, stride))[::-1]
        # Where the window of the first output begins, in the input; without taps anywhere.
        begin = (start + pad - first) // stride - (len(taps) - 1) if taps else 0
        end = begin + count + max(1, len(taps)) - 1
        skip, stop = min(max(0, begin), inputs - 1), min(inputs, max(end, 1))
        stop = max(stop, skip + 1)
        # A window that begins behind the last input element, or ends before the first, sees pads alone.
        if begin > skip or end < stop:
            taps, skip, stop, begin, end = (), 0, min(inputs, count), 0, count
        found.append(Phase(start, count, taps, skip, stop - skip, skip - begin, end - stop))
    return found


@dataclass(frozen=True)
class TransposeConvChoice:
    """One choice for each phase."""

    parts: tuple[Any, ...]

    @property
    def name(self) -> str:
        return f"{self.parts[0].name}_phases{len(self.parts)}"


@dataclass(frozen=True, eq=False)
class TransposeConvLayer:
    """A packed layer: a convolution for each phase of rows and columns."""

    spec: TransposeConvSpec
    parts: tuple[tuple[Phase, Phase, Conv2dLayer | Conv2dInt16Layer], ...]
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        constants = {
            f"{number}/{name}": array
            for number, (_, _, layer) in enumerate(self.parts)
            for name, array in layer.constants.items()
        }
        object.__setattr__(self, "constants", constants)

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.spec.in_h, self.spec.in_w, self.spec.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.spec.out_h, self.spec.out_w, self.spec.out_c

    def choices(self, runs: int, traits: Traits) -> Sequence[TransposeConvChoice]:
        return (TransposeConvChoice(tuple(layer.choices(runs, traits)[0] for _, _, layer in self.parts)),)

    def workspace_bytes(self, runs: int, choice: TransposeConvChoice) -> int:
        # One after the other, in the same scratch.
        return max(
            layer.workspace_bytes(runs, part) for (_, _, layer), part in zip(self.parts, choice.parts, strict=True)
        )

    def launches(
        self, choice: TransposeConvChoice, inputs: Sequence[ImageLayout], output: ImageLayout
    ) -> Sequence[Launch]:
        (x,), window = inputs, self.spec.window
        launches: list[Launch] = []
        for number, ((row, column, layer), part) in enumerate(zip(self.parts, choice.parts, strict=True)):
            seen = replace(x, offset=x.offset + row.skip * x.row_pitch + column.skip * x.pixel_pitch)
            made = replace(
                output,
                offset=output.offset + row.start * output.row_pitch + column.start * output.pixel_pitch,
                row_pitch=window.stride_h * output.row_pitch,
                pixel_pitch=window.stride_w * output.pixel_pitch,
            )
            own = layer.launches(part, [seen], made)
            there = {name: Slot(f"{number}/{name}") for name in layer.constants}
            launches += [renamed(launch, there) for launch in own]
        return launches


def pack(
    spec: TransposeConvSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None
) -> TransposeConvLayer:
    """Packs a layer's constants.

    Args:
        weights: OHWI codes.
        bias: (O,) of the spec's bias_dtype, or None.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    if rule.rounding is Rounding.V1U_BLOCK16:
        # Blocks of elements, not of channels.
        act_min, _ = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
        cuts_negative = act_min >= spec.out_quant.scalar_zero_point()
        rounding = numerics.of_channels(rule.rounding, spec.run_elements, cuts_negative=cuts_negative)
        if rounding is Rounding.V1U_BLOCK16:
            raise spec.fail(f"{spec.run_elements} elements under rule {rounding.value}: there is no CUDA kernel for it")
        rule = replace(rule, rounding=rounding)
    window = spec.window
    rows = phases(spec.in_h, spec.out_h, window.kernel_h, window.stride_h, window.pad_top)
    columns = phases(spec.in_w, spec.out_w, window.kernel_w, window.stride_w, window.pad_left)
    parts = []
    for row in rows:
        for column in columns:
            if row.taps and column.taps:
                taps = np.ascontiguousarray(weights[:, row.taps][:, :, column.taps])
            else:
                # The weights' real 0, at one tap.
                shape = (spec.out_c, max(1, len(row.taps)), max(1, len(column.taps)), spec.in_c)
                zero_points = np.broadcast_to(spec.w_quant.zero_points.reshape(-1, 1, 1, 1), shape)
                taps = np.ascontiguousarray(zero_points, weights.dtype)
            part = Conv2dSpec(
                in_h=row.size,
                in_w=column.size,
                in_c=spec.in_c,
                out_c=spec.out_c,
                window=Window2d(
                    kernel_h=taps.shape[1],
                    kernel_w=taps.shape[2],
                    pad_top=row.pad_before,
                    pad_bottom=row.pad_after,
                    pad_left=column.pad_before,
                    pad_right=column.pad_after,
                ),
                x_quant=spec.x_quant,
                w_quant=spec.w_quant,
                out_quant=spec.out_quant,
                activation=spec.activation,
                bias_dtype=spec.bias_dtype,
            )
            pack_part = conv2d_int16.pack if spec.activation_dtype == INT16 else conv2d.pack
            parts.append((row, column, pack_part(part, rule, taps, bias)))
    return TransposeConvLayer(spec, tuple(parts))
