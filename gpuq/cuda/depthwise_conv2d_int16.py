"""DEPTHWISE_CONV_2D of int16 activations with int8 weights on dp2a: pack(), choices(), launches of one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.depthwise_conv2d import tap_table, taps_weights
from gpuq.cuda.epilogue import Epilogue, epilogue_defines, pack_epilogue
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Rule
from gpuq.ops.conv2d import check_weights
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.spec import INT16

THREADS = 128


@dataclass(frozen=True)
class TapsTile:
    """Any window, four taps at a time; see kernels_cuda/depthwise_conv2d_taps_dp2a.cu.

    Attributes:
        width: output columns of a thread.
    """

    width: int

    @property
    def name(self) -> str:
        return f"depthwise_conv2d_taps_dp2a_w{self.width}"

    def kernel(
        self,
        vec: int = 4,
        sum64: bool = False,
        stores_sums: bool = False,
        epilogue: tuple[tuple[str, int | str], ...] = epilogue_defines("RULE_V3", INT16, clamps=True),
    ) -> Kernel:
        """The kernel compiled for one kind of layer; the defaults are the layers that matter most."""
        return Kernel(
            name=self.name,
            source="depthwise_conv2d_taps_dp2a.cu",
            entry="depthwise_conv2d_taps_dp2a",
            defines=(
                ("TILE_W", self.width),
                ("THREADS", THREADS),
                ("VEC", vec),
                ("SUM64", int(sum64)),
                ("STORES_SUMS", int(stores_sums)),
                *epilogue,
            ),
            threads=(THREADS, 1, 1),
        )


TAPS_TILES = (TapsTile(2), TapsTile(1))

KERNELS = tuple(tile.kernel(sum64=sum64) for tile in TAPS_TILES for sum64 in (False, True))
"""Every tile with sums of 32 bits, which few taps need, and of 64."""


@dataclass(frozen=True, eq=False)
class DepthwiseConv2dInt16Layer:
    """The constants of one layer; NumPy arrays.

    Attributes:
        weights: int8 (1, O, KH, KW).
        stores_sums: the output is the sums, int32.
    """

    spec: DepthwiseConv2dSpec
    weights: npt.NDArray[np.int8]
    epilogue: Epilogue
    stores_sums: bool = False
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        constants = dict(self.epilogue.constants(1, 4 * self.quads))
        constants |= {"taps": tap_table(self.spec), "taps_weights": taps_weights(self.weights)}
        object.__setattr__(self, "constants", constants)

    @property
    def quads(self) -> int:
        """Of an output pixel, four channels each."""
        return -(-self.spec.out_c // 4)

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.spec.in_h, self.spec.in_w, self.spec.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return (*self.spec.window.output_hw(self.spec.in_h, self.spec.in_w), self.spec.out_c)

    def choices(self, runs: int, traits: Traits) -> Sequence[TapsTile]:
        # Two columns share what they load of the weights, as long as every multiprocessor has threads enough.
        out_h, out_w, _ = self.y_shape
        threads = runs * out_h * -(-out_w // 2) * self.quads
        return TAPS_TILES if out_w > 1 and threads >= 512 * traits.multiprocessors else TAPS_TILES[::-1]

    def workspace_bytes(self, runs: int, choice: TapsTile) -> int:
        return 0

    def launches(self, choice: TapsTile, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), y, spec, window = inputs, output, self.spec, self.spec.window
        out_h, out_w, out_c = spec.output_shape
        columns = -(-out_w // choice.width)
        items = x.images * out_h * columns * self.quads
        if items >= 1 << 31:
            raise spec.fail(f"{items} threads in one launch; the limit is 2^31 - 1, use a smaller batch")
        four = spec.multiplier == 1 and spec.in_c % 4 == 0 and x.alignment(8) == 8
        together = out_c % 4 == 0 and y.alignment(8) == 8
        return [
            Launch(
                choice.kernel(4 if four else 1, self.epilogue.sum64, self.stores_sums, self.epilogue.defines),
                (-(-items // THREADS), 1, 1),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    *int32s(x.row_pitch, x.pixel_pitch),
                    *(Slot("taps_weights"), Slot("taps"), Slot("bias"), Slot("factors"), y.slot("y")),
                    np.int64(y.image_pitch),
                    *int32s(y.row_pitch, y.pixel_pitch, spec.in_h, spec.in_w, spec.in_c, spec.multiplier),
                    *int32s(out_h, out_w, window.stride_h, window.stride_w, window.pad_top, window.pad_left),
                    *int32s(self.quads, -(-window.taps // 4), columns, items),
                    *int32s(self.epilogue.act_min, self.epilogue.act_max, together),
                ),
            )
        ]


def pack(
    spec: DepthwiseConv2dSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    stores_sums: bool = False,
) -> DepthwiseConv2dInt16Layer:
    """Packs a layer's constants.

    Args:
        weights: 1HWO codes.
        bias: (O,) of the spec's bias_dtype, or None.
        stores_sums: the layer's output is its sums, int32.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    by_channel = np.moveaxis(weights[0].astype(np.int64), 2, 0)
    epilogue = pack_epilogue(spec, rule, by_channel.reshape(spec.out_c, -1), bias)
    by_channel[epilogue.constant] = 0
    return DepthwiseConv2dInt16Layer(spec, by_channel[None].astype(np.int8), epilogue, stores_sums)
