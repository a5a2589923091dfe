"""RESIZE_BILINEAR over bands of output rows: the reference's products and sums, in its order, on cached blocks.

Rows are blended once per input column, then columns are gathered and blended: the same products, since the row
weight is the first factor of each. Integer weights of bytes work in int32: a code is below 2^8, and a weight in 1/1024
within [-512, 1536], in 1/2048 within [0, 2048], so that the four products of one output sum to less than 2^31; int16
works in int64. Where a rule multiplies a pixel's two weights first, columns are gathered from codes, and corners added
in that rule's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.scratch import Scratch, aligned
from gpuq.numerics import Rounding, Rule
from gpuq.ops.resize_bilinear import (
    ResizeBilinearSpec,
    float_positions,
    integer_positions,
    q11_positions,
)
from gpuq.ops.spec import INT8, INT16, UINT8

BAND_BYTES = 1 << 19


class ResizeBilinearPlan:
    """Positions and weights computed once; see the module."""

    def __init__(self, spec: ResizeBilinearSpec, rule: Rule) -> None:
        self.spec = spec
        self.name = "resize_bilinear_bands"
        way = _Q11 if rule.rounding is Rounding.Q11 else _WAYS[spec.dtype]
        positions, self._dtype, self._finish = way.positions, np.dtype(way.dtype), way.finish
        if rule.rounding is Rounding.EXACT_UP:
            self._finish = _round_up_to_int8
        self._by_pixel = rule.rounding is Rounding.AFFINE_F32_PIXEL
        one = self._dtype.type(way.one)
        self._y0, self._y1, y_weight = positions(spec, spec.in_h, spec.out_h)
        self._x0, self._x1, x_weight = positions(spec, spec.in_w, spec.out_w)
        upper_y, upper_x = y_weight.astype(self._dtype), x_weight.astype(self._dtype)
        self._wy0, self._wy1 = (one - upper_y)[:, None, None], upper_y[:, None, None]
        # Column weights repeated over the channels: full-length inner loops.
        self._wx0, self._wx1 = (
            np.repeat(weight, spec.in_c).reshape(spec.out_w, spec.in_c) for weight in (one - upper_x, upper_x)
        )
        self._rows = max(1, min(spec.out_h, BAND_BYTES // (self._dtype.itemsize * spec.out_w * spec.in_c)))
        self.constant_bytes = self._wx0.nbytes + self._wx1.nbytes

    def workspace_bytes(self, runs: int) -> int:
        item = self._dtype.itemsize
        row_in, row_out = (item * self._rows * width * self.spec.in_c for width in (self.spec.in_w, self.spec.out_w))
        return max(2 * aligned(row_in) + 2 * aligned(row_out), 3 * aligned(row_out))

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        spec = self.spec
        x = inputs[0].reshape(-1, spec.in_h, spec.in_w, spec.in_c)
        y = outputs[0].reshape(-1, *spec.output_shape)
        for image in range(x.shape[0]):
            for first in range(0, spec.out_h, self._rows):
                band = slice(first, min(first + self._rows, spec.out_h))
                blend = self._blend_by_pixel if self._by_pixel else self._blend
                blend(x[image], y[image, band], band, Scratch(workspace))

    def _blend(self, image: npt.NDArray[Any], out: npt.NDArray[Any], band: slice, scratch: Scratch) -> None:
        rows = (band.stop - band.start, self.spec.in_w, self.spec.in_c)
        top, bottom = scratch.take(rows, self._dtype), scratch.take(rows, self._dtype)
        np.multiply(image[self._y0[band]], self._wy0[band], out=top)
        np.multiply(image[self._y1[band]], self._wy1[band], out=bottom)
        total, product = scratch.take(out.shape, self._dtype), scratch.take(out.shape, self._dtype)
        corners = (
            (top, self._x0, self._wx0),
            (bottom, self._x0, self._wx0),
            (top, self._x1, self._wx1),
            (bottom, self._x1, self._wx1),
        )
        for number, (row, columns, weights) in enumerate(corners):
            target = product if number else total
            np.take(row, columns, axis=1, out=target, mode="clip")
            target *= weights
            if number:
                total += product
        self._finish(total)
        np.copyto(out, total, casting="unsafe")

    def _blend_by_pixel(self, image: npt.NDArray[Any], out: npt.NDArray[Any], band: slice, scratch: Scratch) -> None:
        total, product, weights = (scratch.take(out.shape, self._dtype) for _ in range(3))
        corners = (
            (self._y0, self._wy0, self._x0, self._wx0),
            (self._y0, self._wy0, self._x1, self._wx1),
            (self._y1, self._wy1, self._x0, self._wx0),
            (self._y1, self._wy1, self._x1, self._wx1),
        )
        for number, (rows, row_weights, columns, column_weights) in enumerate(corners):
            target = product if number else total
            np.multiply(row_weights[band], column_weights, out=weights)
            np.multiply(np.take(image[rows[band]], columns, axis=1), weights, out=target)
            if number:
                total += product
        self._finish(total)
        np.copyto(out, total, casting="unsafe")


def _round_to_int8(total: npt.NDArray[Any]) -> None:
    """total / 2^20, ties away from zero, in place."""
    total += (total >> 31) + (1 << 19)
    total >>= 20


def _round_to_int16(total: npt.NDArray[Any]) -> None:
    """As _round_to_int8, of int64 sums."""
    total += (total >> 63) + (1 << 19)
    total >>= 20


def _round_to_uint8(total: npt.NDArray[Any]) -> None:
    """total + 0.5, in place; the cast that follows truncates."""
    total += np.float32(0.5)


def _round_up_to_int8(total: npt.NDArray[Any]) -> None:
    """total / 2^20, ties up, in place."""
    total += 1 << 19
    total >>= 20


def _round_q11(total: npt.NDArray[Any]) -> None:
    """total / 2^22, ties up, in place."""
    total += 1 << 21
    total >>= 22


@dataclass(frozen=True)
class _Way:
    """Positions and weights, the weight of 1, the dtype of products and sums, and how a sum becomes a code."""

    positions: Callable[[ResizeBilinearSpec, int, int], tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]
    one: int
    dtype: type[np.generic]
    finish: Callable[[npt.NDArray[Any]], None]


_INT8 = _Way(integer_positions, 1024, np.int32, _round_to_int8)
_INT16 = _Way(integer_positions, 1024, np.int64, _round_to_int16)
_UINT8 = _Way(float_positions, 1, np.float32, _round_to_uint8)
_Q11 = _Way(q11_positions, 2048, np.int32, _round_q11)
_WAYS = {INT8: _INT8, INT16: _INT16, UINT8: _UINT8}
