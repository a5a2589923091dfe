"""CONCATENATION: copies, and uint8 inputs rescaled in float32."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.concatenation import ConcatenationSpec, reference, rescaled

from . import exact
from .compare import assert_equal_bits
from .layers import codes

EXACT, AFFINE = Rule(Rounding.EXACT), Rule(Rounding.AFFINE_F32)
QUANT = Quant(0.1, 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_copies(axis: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [tuple(size if i == axis else 2 for i in range(3)) for size in (1, 3, 2)]
    spec = ConcatenationSpec(x_shapes=tuple(shapes), axis=axis, x_quants=(QUANT,) * 3, out_quant=QUANT)
    parts = [codes(rng, (4, *shape), "int8") for shape in shapes]
    want = np.concatenate(parts, axis + 1)
    assert spec.output_shape == want.shape[1:]
    assert_equal_bits(reference(spec, EXACT, *parts), want, f"axis {axis}, seed {seed}")
    # A constant is one run that all runs share.
    shared = np.concatenate([parts[0], np.repeat(parts[1][:1], 4, 0), parts[2]], axis + 1)
    assert_equal_bits(reference(spec, EXACT, parts[0], parts[1][:1], parts[2]), shared, f"axis {axis}, seed {seed}")


def test_rescale_by_hand() -> None:
    # 0.5 to 0.25 doubles: k = 0.5 * (1 / 0.25) = 2, c = -10 * 2 = -20; q * 2 - 20 + 7, clamped to 0 ... 255.
    got = rescaled(np.array([10, 11, 0, 255], np.uint8), Quant(0.5, 10, dtype="uint8"), Quant(0.25, 7, dtype="uint8"))
    assert got.tolist() == [7, 9, 0, 255]
    # A quarter: ties away from zero, before the zero point: (12 - 10) / 4 = 0.5 -> 1, (8 - 10) / 4 = -0.5 -> -1.
    got = rescaled(np.array([12, 8, 11, 9], np.uint8), Quant(0.25, 10, dtype="uint8"), Quant(1.0, 7, dtype="uint8"))
    assert got.tolist() == [8, 6, 7, 7]


def test_rescale_is_float32_step_by_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = np.arange(256, dtype=np.uint8)
    for _ in range(60):
        x_quant, out_quant = (
            Quant(2.0 ** rng.uniform(-8, 2), int(rng.integers(1, 256)), dtype="uint8") for _ in range(2)
        )
        inverse = exact.f32(1 / exact.scale_of(out_quant.scalar_scale()))
        factor = exact.f32(exact.scale_of(x_quant.scalar_scale()) * inverse)
        offset = exact.f32(-x_quant.scalar_zero_point() * factor)
        values = [exact.round_away(exact.f32(exact.f32(Fraction(int(q)) * factor) + offset)) for q in every]
        want = np.clip(np.array(values) + out_quant.scalar_zero_point(), 0, 255).astype(np.uint8)
        assert_equal_bits(rescaled(every, x_quant, out_quant), want, f"seed {seed}, {x_quant} to {out_quant}")


def test_rescale_next_to_ties(seed: int) -> None:
    """Factors with which some code lands within a rounding of a half: the order of the float32 steps decides."""
    rng = np.random.default_rng(seed)
    every = np.arange(256, dtype=np.uint8)
    out_quant = Quant(1.0, 100, dtype="uint8")
    other_order = 0
    for _ in range(150):
        distance, zero_point = int(rng.integers(3, 200)), int(rng.integers(1, 256))
        x_quant = Quant((int(rng.integers(0, 100)) + 0.5) / distance, zero_point, dtype="uint8")
        factor = exact.scale_of(x_quant.scalar_scale())
        offset = exact.f32(-zero_point * factor)
        values = [exact.round_away(exact.f32(exact.f32(int(q) * factor) + offset)) for q in every]
        other_order += values != [exact.round_away(exact.f32((int(q) - zero_point) * factor)) for q in every]
        want = np.clip(np.array(values) + 100, 0, 255).astype(np.uint8)
        assert_equal_bits(rescaled(every, x_quant, out_quant), want, f"seed {seed}, {x_quant}")
    assert other_order, "the examples must tell the order of operations"


@pytest.mark.parametrize(("scale", "out_scale"), [(1e30, 1e-30), (1.0, 1e-45)])
def test_refuses_a_ratio_that_is_no_float32(scale: float, out_scale: float) -> None:
    # The factor would be infinite, and the result of Inf - Inf is what the compiler makes of it.
    x_quant, out_quant = Quant(scale, 10, dtype="uint8"), Quant(out_scale, 7, dtype="uint8")
    with pytest.raises(InputValueError, match="CONCATENATION: .*scale"):
        ConcatenationSpec(x_shapes=((2,),), axis=0, x_quants=(x_quant,), out_quant=out_quant)


def test_rescale_by_almost_nothing() -> None:
    got = rescaled(np.array([0, 255], np.uint8), Quant(1e-45, 10, dtype="uint8"), Quant(1e30, 7, dtype="uint8"))
    assert got.tolist() == [7, 7]


def test_only_unlike_uint8_inputs_are_rescaled() -> None:
    like, unlike = Quant(0.25, 7, dtype="uint8"), Quant(0.5, 10, dtype="uint8")
    spec = ConcatenationSpec(x_shapes=((2,), (2,)), axis=0, x_quants=(like, unlike), out_quant=like)
    x = np.array([[10, 11]], np.uint8)
    assert reference(spec, AFFINE, x, x).tolist() == [[10, 11, 7, 9]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x_shapes=(), x_quants=()), InputValueError, "at least one"),
        (dict(x_quants=(QUANT,)), InputValueError, "at least one"),
        (dict(axis=2), InputValueError, "axis 2"),
        (dict(x_shapes=((2, 3), (3, 3))), InputValueError, "2x3 and 3x3 differ"),
        (dict(x_shapes=((2, 3), (2,))), InputValueError, "differ"),
        (dict(x_quants=(QUANT, Quant(0.2, 3))), InputValueError, "output's scale"),
        (dict(x_quants=(QUANT, Quant(0.1, 3, dtype="uint8"))), InputTypeError, "uint8"),
        (dict(out_quant=Quant(0.1, dtype="int16")), InputTypeError, "int16"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = dict(x_shapes=((2, 3), (2, 1)), axis=1, x_quants=(QUANT, QUANT), out_quant=QUANT)
    ConcatenationSpec(**good)
    with pytest.raises(error, match=message):
        ConcatenationSpec(**(good | change))
