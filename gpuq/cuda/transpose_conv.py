"""TRANSPOSE_CONV as convolutions: output pixels of one phase modulo the strides are a CONV_2D of the input.

Of output row s * q + p, with stride s and phase p, only the taps kh count for which p + pad - kh is a multiple of s;
with kh = first + s * t they see input row q + d - t, d = (p + pad - first) / s. Turned round, that is a convolution of
stride 1 over as many rows, whose window begins d - (taps - 1) rows after q: pads where that is before the image, input
left out where it is behind its first row. Each phase writes its pixels into the output, s apart. Taps come in the order
in which the reference kernels meet an output pixel, so that sums of float32 have their bits, too.

Rule v1u_block16 goes by the place of an element in its run: phases take V1U, and what is behind the last whole block is
made again by V1 (transpose_conv_rest.cu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda import conv2d, conv2d_int16, float32
from gpuq.cuda.conv2d import Conv2dLayer
from gpuq.cuda.conv2d_int16 import Conv2dInt16Layer
from gpuq.cuda.epilogue import epilogue_defines
from gpuq.cuda.float32 import FloatConv2dLayer
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s, renamed
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.float32 import weighted
from gpuq.ops.float32.weighted import FloatConv2dSpec, FloatTransposeConvSpec
from gpuq.ops.spec import INT16, UINT8
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.window import Window2d

Part = Conv2dLayer | Conv2dInt16Layer | FloatConv2dLayer


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


THREADS = 128
BLOCK = 16
"""Elements of a whole block of rule v1u_block16."""


def rest_kernel() -> Kernel:
    """transpose_conv_rest.cu; its head says what the arguments mean."""
    return Kernel(
        name="transpose_conv_rest_u8",
        source="transpose_conv_rest.cu",
        entry="transpose_conv_rest",
        defines=(("THREADS", THREADS), *epilogue_defines("RULE_V1", UINT8, clamps=True)),
        threads=(THREADS, 1, 1),
    )


KERNELS = (rest_kernel(),)


@dataclass(frozen=True, eq=False)
class Rest:
    """The elements of a run behind its last whole block, by V1.

    Attributes:
        weights: OHWI codes.
        bias: (O,).
        factor: (multiplier, shift).
        bounds: of the activation, in codes.
    """

    spec: TransposeConvSpec
    weights: npt.NDArray[np.uint8]
    bias: npt.NDArray[np.int32]
    factor: tuple[int, int]
    bounds: tuple[int, int]

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"rest/weights": self.weights, "rest/bias": self.bias}

    def launch(self, x: ImageLayout, y: ImageLayout) -> Launch:
        """Behind those of the phases."""
        spec, window = self.spec, self.spec.window
        rest = spec.run_elements % BLOCK
        elements = x.images // spec.images * rest
        blocks = -(-elements * 32 // THREADS)
        if max(4 * blocks, spec.run_elements) >= 1 << 31:
            raise spec.fail(f"{elements} elements in one launch; the limit is 2^31 - 1, use a smaller batch")
        quants = (spec.x_quant, spec.w_quant, spec.out_quant)
        return Launch(
            rest_kernel(),
            (blocks, 1, 1),
            (
                x.slot("x"),
                np.int64(x.image_pitch),
                *int32s(x.row_pitch, x.pixel_pitch),
                Slot("rest/weights"),
                Slot("rest/bias"),
                y.slot("y"),
                np.int64(y.image_pitch),
                *int32s(y.row_pitch, y.pixel_pitch, elements),
                *int32s(spec.run_elements - rest, rest, spec.images),
                *int32s(spec.in_h, spec.in_w, spec.in_c, spec.out_h, spec.out_w, spec.out_c),
                *int32s(window.kernel_h, window.kernel_w, window.stride_h, window.stride_w),
                *int32s(window.pad_top, window.pad_left, *self.factor),
                *int32s(*(quant.scalar_zero_point() for quant in quants), *self.bounds),
            ),
        )


@dataclass(frozen=True, eq=False)
class TransposeConvLayer:
    """A packed layer: a convolution for each phase of rows and columns."""

    spec: TransposeConvSpec | FloatTransposeConvSpec
    parts: tuple[tuple[Phase, Phase, Part], ...]
    rest: Rest | None = None
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        constants = {
            f"{number}/{name}": array
            for number, (_, _, layer) in enumerate(self.parts)
            for name, array in layer.constants.items()
        }
        object.__setattr__(self, "constants", constants | (dict(self.rest.constants) if self.rest else {}))

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
        return launches if self.rest is None else [*launches, self.rest.launch(x, output)]


def pack(
    spec: TransposeConvSpec | FloatTransposeConvSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
) -> TransposeConvLayer:
    """Packs a layer's constants.

    Args:
        weights: OHWI codes, or float32.
        bias: (O,) of the spec's bias_dtype, or float32; or None.
    """
    rest = None
    if isinstance(spec, FloatTransposeConvSpec):
        weighted.check_weights(spec, weights, bias)
        # Phases multiply them by pixels outside the image, which are 0.
        spec.require(bool(np.isfinite(weights).all()), "on a GPU weights must be finite")
    else:
        check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
        rule, rest = _by_place(spec, rule, weights, bias)
    window = spec.window
    rows = phases(spec.in_h, spec.out_h, window.kernel_h, window.stride_h, window.pad_top)
    columns = phases(spec.in_w, spec.out_w, window.kernel_w, window.stride_w, window.pad_left)
    parts = []
    for row in rows:
        for column in columns:
            taps = np.ascontiguousarray(weights[:, row.taps][:, :, column.taps])
            parts.append((row, column, _part(spec, rule, row, column, taps, bias)))
    return TransposeConvLayer(spec, tuple(parts), rest)


def _by_place(
    spec: TransposeConvSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None
) -> tuple[Rule, Rest | None]:
    """(the rule of the phases, what is made again behind them)."""
    if rule.rounding is not Rounding.V1U_BLOCK16:
        return rule, None
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    cuts_negative = act_min >= spec.out_quant.scalar_zero_point()
    rounding = numerics.of_channels(rule.rounding, spec.run_elements, cuts_negative=cuts_negative)
    if rounding is not Rounding.V1U_BLOCK16:
        return replace(rule, rounding=rounding), None
    (real,) = numerics.real_multipliers(
        spec.x_quant.scalar_scale(), spec.w_quant.scales, spec.out_quant.scalar_scale(), rule.product
    )
    own_bias = np.zeros(spec.out_c, np.int32) if bias is None else np.ascontiguousarray(bias.reshape(-1))
    factor = numerics.quantize_multiplier(real)
    rest = Rest(spec, np.ascontiguousarray(weights), own_bias, factor, (act_min, act_max))
    return replace(rule, rounding=Rounding.V1U), rest


def _part(
    spec: TransposeConvSpec | FloatTransposeConvSpec,
    rule: Rule,
    row: Phase,
    column: Phase,
    taps: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
) -> Part:
    """The convolution of one phase; taps: its own weights, perhaps none."""
    window = Window2d(
        kernel_h=max(1, len(row.taps)),
        kernel_w=max(1, len(column.taps)),
        pad_top=row.pad_before,
        pad_bottom=row.pad_after,
        pad_left=column.pad_before,
        pad_right=column.pad_after,
    )
    if isinstance(spec, FloatTransposeConvSpec):
        geometry = FloatConv2dSpec(
            in_h=row.size,
            in_w=column.size,
            in_c=spec.in_c,
            out_c=spec.out_c,
            window=window,
            activation=spec.activation,
        )
        return float32.conv2d_layer(geometry, geometry, taps, bias)
    part = Conv2dSpec(
        in_h=row.size,
        in_w=column.size,
        in_c=spec.in_c,
        out_c=spec.out_c,
        window=window,
        x_quant=spec.x_quant,
        w_quant=spec.w_quant,
        out_quant=spec.out_quant,
        activation=spec.activation,
        bias_dtype=spec.bias_dtype,
    )
    if not taps.size:
        # The weights' real 0, at one tap of each dimension that has none.
        zero_points = np.broadcast_to(spec.w_quant.zero_points.reshape(-1, 1, 1, 1), part.weights_shape)
        taps = np.ascontiguousarray(zero_points, taps.dtype)
    pack_part = conv2d_int16.pack if spec.activation_dtype == INT16 else conv2d.pack
    return pack_part(part, rule, taps, bias)
