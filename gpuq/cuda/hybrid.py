"""Dynamic range: float32 rows become int16 codes minus their zero points, dp2a sums them, float32 comes out.

Three kernels: quantize_rows.cu, a convolution of int16 that stores its int32 sums, hybrid_sums.cu.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda import conv2d_int16, depthwise_conv2d_int16
from gpuq.cuda.epilogue import round_up
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s, renamed
from gpuq.cuda.layer import Contiguous, Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import ACTIVATION_BOUNDS, Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.hybrid import (
    HybridConv2dSpec,
    HybridDepthwiseConv2dSpec,
    HybridFullyConnectedSpec,
    HybridSpec,
    check_weights,
)
from gpuq.ops.spec import INT32, INT64
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

THREADS = 256
LONG_ROW = 1024
"""Elements from which a row is a block's, and not a warp's."""

_CODES = Quant(1.0, dtype="int16")
_SUMS = {
    Rounding.HYBRID: "HYBRID",
    Rounding.HYBRID_STEPS: "STEPS",
    Rounding.HYBRID_BLOCK4: "BLOCK4",
    Rounding.QD8: "QD8",
}


def rows_kernel(kind: str, lanes: int) -> Kernel:
    """quantize_rows.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"quantize_rows_{kind.lower()}_{lanes}",
        source="quantize_rows.cu",
        entry="quantize_rows",
        defines=(("KIND", f"KIND_{kind}"), ("LANES", lanes), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


def sums_kernel(kind: str) -> Kernel:
    """hybrid_sums.cu."""
    return Kernel(
        name=f"hybrid_sums_{kind.lower()}",
        source="hybrid_sums.cu",
        entry="hybrid_sums",
        defines=(("KIND", f"KIND_{kind}"), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    *(rows_kernel(kind, lanes) for kind in ("SYMMETRIC", "ASYMMETRIC", "QD8") for lanes in (32, THREADS)),
    *(sums_kernel(kind) for kind in _SUMS.values()),
)


@dataclass(frozen=True, eq=False)
class HybridLayer(Contiguous):
    """A packed layer.

    Attributes:
        sums: the convolution of codes; its constants are this layer's too.
        w_scales, bias: float32 (O,).
        depth: elements of a row that shares a scale.
    """

    spec: HybridSpec
    rule: Rule
    sums: conv2d_int16.Conv2dInt16Layer | depthwise_conv2d_int16.DepthwiseConv2dInt16Layer
    w_scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    depth: int

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {**self.sums.constants, "w_scales": self.w_scales, "float_bias": self.bias}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return self.sums.x_shapes

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.sums.y_shape

    def choices(self, runs: int, traits: Traits) -> Sequence[Any]:
        return self.sums.choices(runs, traits)

    def workspace_bytes(self, runs: int, choice: Any) -> int:
        codes, sums, scales = self._parts(runs)
        return codes + sums + scales

    def _parts(self, runs: int) -> tuple[int, int, int]:
        """Bytes of codes, sums and scales."""
        elements = runs * math.prod(self.x_shapes[0])
        outputs = runs * math.prod(self.y_shape)
        return round_up(2 * elements, 16), round_up(4 * outputs, 16), round_up(4 * (elements // self.depth), 16)

    def launches(self, choice: Any, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), spec = inputs, self.spec
        runs = x.images
        rows = runs * math.prod(self.x_shapes[0]) // self.depth
        outputs = runs * math.prod(self.y_shape)
        codes_bytes, sums_bytes, _ = self._parts(runs)
        codes, sums, scales = (Slot("workspace", start) for start in (0, codes_bytes, codes_bytes + sums_bytes))
        kind = "QD8" if self.rule.rounding is Rounding.QD8 else "ASYMMETRIC" if spec.asymmetric else "SYMMETRIC"
        lanes = THREADS if self.depth >= LONG_ROW else 32
        low, high = ACTIVATION_BOUNDS[spec.activation]
        blocks = -(-outputs // THREADS)
        if max(blocks, rows) >= 1 << 31:
            raise spec.fail(f"{outputs} outputs of {rows} rows in one launch; use a smaller batch")
        middle = self.sums.launches(
            choice,
            [ImageLayout.contiguous(runs, *self.x_shapes[0], itemsize=2)],
            ImageLayout.contiguous(runs, *self.y_shape, itemsize=4),
        )
        return [
            Launch(
                rows_kernel(kind, lanes),
                (-(-rows // (THREADS // lanes)), 1, 1),
                (x.slot("x"), codes, scales, *int32s(rows, self.depth)),
            ),
            *(renamed(launch, {"x": codes, "y": sums}) for launch in middle),
            Launch(
                sums_kernel(_SUMS[self.rule.rounding]),
                (blocks, 1, 1),
                (
                    *(sums, scales, Slot("w_scales"), Slot("float_bias"), output.slot("y"), np.int64(outputs)),
                    *int32s(self.y_shape[2], outputs // self.y_shape[2] // rows),
                    np.float32(-math.inf if low is None else low),
                    np.float32(math.inf if high is None else high),
                ),
            ),
        ]


def pack(spec: HybridSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None) -> HybridLayer:
    """Packs a layer's constants.

    Args:
        weights: int8, as the spec's weights_shape says.
        bias: float32 (O,), or None.
    """
    assert isinstance(spec, HybridConv2dSpec | HybridDepthwiseConv2dSpec | HybridFullyConnectedSpec)
    check_weights(spec, weights, bias, spec.weights_shape)
    out_c = spec.output_shape[-1]
    quants: dict[str, Any] = dict(x_quant=_CODES, w_quant=Quant(1.0), out_quant=_CODES, bias_dtype=INT32)
    codes_rule = Rule(Rounding.V2)
    sums: conv2d_int16.Conv2dInt16Layer | depthwise_conv2d_int16.DepthwiseConv2dInt16Layer
    if isinstance(spec, HybridDepthwiseConv2dSpec):
        spec.require(rule.rounding is not Rounding.QD8, "XNNPACK has no depthwise convolutions of dynamic range")
        inner = DepthwiseConv2dSpec(
            in_h=spec.in_h,
            in_w=spec.in_w,
            in_c=spec.in_c,
            multiplier=spec.multiplier,
            window=spec.window,
            # The kind of bias that such layers have; there is none here.
            **{**quants, "bias_dtype": INT64},
        )
        sums = depthwise_conv2d_int16.pack(inner, codes_rule, weights, None, stores_sums=True)
        depth = spec.in_h * spec.in_w * spec.in_c
    else:
        height, width, window, groups = 1, 1, Window2d(kernel_h=1, kernel_w=1), 1
        depth = spec.in_c
        if isinstance(spec, HybridConv2dSpec):
            height, width, window, groups = spec.in_h, spec.in_w, spec.window, spec.groups
            # XNNPACK runs a pointwise convolution as a dense layer: there a row is a pixel.
            if not (rule.rounding is Rounding.QD8 and window.is_pointwise):
                depth = height * width * spec.in_c
        dense = Conv2dSpec(in_h=height, in_w=width, in_c=spec.in_c, out_c=out_c, window=window, groups=groups, **quants)
        rows = weights.reshape(dense.weights_shape)
        sums = conv2d_int16.pack(dense, codes_rule, rows, None, stores_sums=True)
    added = np.zeros(out_c, np.float32) if bias is None else np.ascontiguousarray(bias.reshape(-1), np.float32)
    w_scales = np.ascontiguousarray(np.broadcast_to(spec.w_quant.scales, out_c), np.float32)
    return HybridLayer(spec, rule, sums, w_scales, added, depth)
