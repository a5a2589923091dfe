"""UNIDIRECTIONAL_SEQUENCE_LSTM: TFLite Micro's layer against a definition in plain integers, which rounds twice or once;
checks of the Spec. The peers' tests hold the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpuq import profiles
from gpuq.cpu import unidirectional_sequence_lstm
from gpuq.cpu.plans import pack
from gpuq.errors import InputTypeError, InputValueError
from gpuq.model.tflite_reader import read
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.registry import reference, references
from gpuq.ops.unidirectional_sequence_lstm import (
    UnidirectionalSequenceLstmSpec,
    cell_bound,
    hidden_codes,
    next_cells,
    projection_bound,
)
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .exact import clamp, elementwise, scale_of, trunc_div, v1_real, v2_real, wrap
from .lstm_layers import Sizes, Variant, lstm_layer

ROUNDS = {"tflm": v1_real, "single": v2_real}


def between_sigmoids(position: int, step: int, one: int) -> int:
    """sigmoid of a non-negative number in steps of 1/24 by a table of 256 entries in Q16, and a line between them."""

    def sigmoid(number: int) -> int:
        def value(at: float) -> float:
            return 65536 / (1 + math.exp(-at / 24))

        middle = value(number + 0.5) - (value(number) + value(number + 1)) / 2
        return 65535 if number == 255 else round(value(number) + middle / 2)

    number, rest = divmod(position, step)
    return one * step if number >= 255 else sigmoid(number) * step + rest * (sigmoid(number + 1) - sigmoid(number))


def sigmoid(number: int) -> int:
    """Of Q3.12 in Q0.15."""
    value = between_sigmoids(abs(3 * number), 512, 0x7FFF * 2)
    return (value + 512 if number >= 0 else (1 << 25) - value + 511) >> 10


def tanh(number: int, fraction_bits: int) -> int:
    """Of a number with so many fraction bits in Q0.15."""
    left = 12 - fraction_bits
    position = (number * 3) << left if left >= 0 else (number * 3 + (1 << (-left - 1))) >> -left
    value = between_sigmoids(abs(position), 256, 0xFFFF)
    half = 1 << 23
    return (value - half + 128 if position >= 0 else half - value + 127) >> 8


def sat16(value: int) -> int:
    return clamp(value, -32768, 32767)


def defined(
    spec: UnidirectionalSequenceLstmSpec,
    rescale: Callable[[int, Fraction], int],
    x: np.ndarray,
    constants: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One run of TFLite Micro's layer from zero state: (output by item and step, output state, cells)."""
    w, r, biases = constants[:4], constants[4:8], constants[8:12]
    gate_scale, unit = Fraction(1, 1 << 12), Fraction(1, 1 << 15)
    cell_scale, state_scale = scale_of(spec.cell_quant.scale), scale_of(spec.state_quant.scale)
    zero_point = spec.state_quant.scalar_zero_point()
    fraction_bits = -spec.cell_shift
    y = np.zeros((spec.batch, spec.steps, spec.units), np.int8)
    hidden = np.full((spec.batch, spec.units), zero_point, np.int8)
    cells = np.zeros((spec.batch, spec.units), np.int16)
    for item in range(spec.batch):
        for step in range(spec.steps):
            row = x[step, item] if spec.time_major else x[item, step]
            before = hidden[item].astype(int)
            for unit_number in range(spec.units):
                gates = []
                for gate in range(4):
                    seen = int((row.astype(int) - spec.x_quant.scalar_zero_point()) @ w[gate][unit_number].astype(int))
                    back = int((before - zero_point) @ r[gate][unit_number].astype(int))
                    x_factor = scale_of(spec.x_quant.scale) * scale_of(spec.w_quants[gate].scale) / gate_scale
                    r_factor = state_scale * scale_of(spec.r_quants[gate].scale) / gate_scale
                    sums = sat16(rescale(wrap(seen + int(biases[gate][unit_number])), x_factor)) + sat16(
                        rescale(wrap(back), r_factor)
                    )
                    gates.append(tanh(sat16(sums), 12) if gate == 2 else sigmoid(sat16(sums)))
                i, f, g, o = gates
                kept = sat16(rescale(f * int(cells[item, unit_number]), unit))
                added = sat16(rescale(i * g, unit * unit / cell_scale))
                cell = sat16(kept + added)
                if spec.cell_clip > 0:
                    bound = clamp(trunc_div(*(Fraction(spec.cell_clip) / cell_scale).as_integer_ratio()), 0, 32767)
                    cell = clamp(cell, -bound, bound)
                cells[item, unit_number] = cell
                code = rescale(tanh(cell, fraction_bits) * o, unit * unit / state_scale) + zero_point
                hidden[item, unit_number] = clamp(code, -128, 127)
            y[item, step] = hidden[item]
    return y.swapaxes(0, 1) if spec.time_major else y, hidden, cells


@pytest.mark.parametrize("profile", ROUNDS)
def test_tflite_micro_is_the_definition(profile: str, seed: int) -> None:
    """`tflm` also equals the runtime, in the peers' tests: what the definition says there, it says of `single`."""
    for number in range(10):
        rng = np.random.default_rng([seed, number])
        batch, steps, in_c, units = (int(n) for n in rng.integers(1, 5, 4))
        variant = Variant(time_major=bool(number % 2))
        content = lstm_layer(rng, variant, Sizes(batch, steps, in_c, units, units))
        graph = read(content)
        (node,) = graph.nodes
        spec = node.spec
        assert isinstance(spec, UnidirectionalSequenceLstmSpec)
        constants: list[Any] = [graph.tensors[index].data for index in node.inputs[3:15]]
        x = rng.integers(-128, 128, spec.x_shape).astype(np.int8)
        hidden = np.full(spec.output_shapes[1], spec.state_quant.scalar_zero_point(), np.int8)
        cells = np.zeros(spec.output_shapes[2], np.int16)
        got = references(spec, profiles.resolve(profile, spec), x[None], hidden[None], cells[None], *constants)
        for what, one, want in zip(
            ("output", "state", "cells"), got, defined(spec, ROUNDS[profile], x, constants), strict=True
        ):
            assert_equal_bits(one[0], want, f"{what}, case {number}, seed {seed}")


def near_ties(rng: np.random.Generator, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a gate's value and a number whose product is next to a tie of a division by 2^shift, or on it."""
    gates, numbers = rng.integers(0, 32768, 1 << 22), rng.integers(-32768, 32768, 1 << 22)
    half = 1 << (shift - 1)
    chosen = np.isin(gates * numbers % (1 << shift), (half - 1, half))
    return gates[chosen], numbers[chosen]


@pytest.mark.parametrize("profile", ROUNDS)
def test_products_of_gates_at_ties(profile: str, seed: int) -> None:
    """Cells and outputs of the definition's steps, where its two roundings differ."""
    rng = np.random.default_rng(seed)
    layer = spec(cell_quant=Quant(2.0**-15, 0, dtype="int16"), state_quant=Quant(2.0**-14, 0))
    rule, rescale = profiles.resolve(profile, layer), ROUNDS[profile]
    unit = Fraction(1, 1 << 15)
    gates, numbers = near_ties(rng, 15)
    assert len(gates) > 50
    none = np.zeros_like(gates)
    want = elementwise(lambda gate, number: sat16(rescale(gate * number, unit)), gates, numbers)
    assert_equal_bits(next_cells(layer, rule, none, gates, none, numbers), want, f"kept, {profile}, seed {seed}")
    assert_equal_bits(next_cells(layer, rule, gates, none, numbers, none), want, f"added, {profile}, seed {seed}")
    twice = elementwise(lambda gate, number: v1_real(gate * number, unit), gates, numbers)
    once = elementwise(lambda gate, number: v2_real(gate * number, unit), gates, numbers)
    assert (twice != once).any()
    # Small cells, whose tanh is about 1: products of 2^16 steps an output code.
    cells = rng.integers(-300, 300, 1 << 18)
    opened = rng.integers(0, 32768, cells.size)
    tanhs = np.array([tanh(cell, 15) for cell in range(-300, 300)])[cells + 300]
    chosen = np.isin(opened * tanhs % (1 << 16), ((1 << 15) - 1, 1 << 15))
    opened, cells, tanhs = opened[chosen], cells[chosen], tanhs[chosen]
    want = elementwise(lambda o, t: clamp(rescale(o * t, unit * unit * (1 << 14)), -128, 127), opened, tanhs)
    got = hidden_codes(layer, rule, opened, cells)
    assert_equal_bits(got, want, f"outputs, {profile}, seed {seed}")


@pytest.mark.parametrize("profile", ["litert_ref", "tflm", "single"])
def test_cpu_plan_equals_reference(profile: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From random states, in blocks of runs; old and new states in one memory or two."""
    for number, flags in enumerate(itertools.product((False, True), repeat=5)):
        variant = Variant(*flags)
        if profile != "litert_ref" and (variant.cifg or variant.is_extended):
            continue
        rng = np.random.default_rng([seed, number])
        graph = read(lstm_layer(rng, variant))
        (node,) = graph.nodes
        layer = node.spec
        assert isinstance(layer, UnidirectionalSequenceLstmSpec)
        operands = [graph.tensors[index].data if index >= 0 else None for index in node.inputs]
        rule, runs = profiles.resolve(profile, layer), 5
        x, hidden = (
            rng.integers(-128, 128, (runs, *each)).astype(np.int8) for each in (layer.x_shape, layer.output_shapes[1])
        )
        cells = rng.integers(-32768, 32768, (runs, *layer.output_shapes[2])).astype(np.int16)
        want = references(layer, rule, x, hidden, cells, *operands[3:])
        monkeypatch.setattr(unidirectional_sequence_lstm, "BLOCK", 2 * layer.steps * layer.batch * layer.units * 4)
        plan = pack(layer, rule, operands)
        assert plan.name == "unidirectional_sequence_lstm_gemm"
        assert plan.constant_bytes > 0
        got = [np.full((runs, *shape), 1, one.dtype) for shape, one in zip(layer.output_shapes, want, strict=True)]
        if number % 2:
            got[1:] = hidden, cells
        plan.launch([x, hidden, cells], got, np.empty(plan.workspace_bytes(runs), np.uint8))
        for what, one, expected in zip(("output", "state", "cells"), got, want, strict=True):
            assert_equal_bits(one, expected, f"{what}, {variant}, {profile}, seed {seed}")


def test_rules() -> None:
    for profile, rule in (
        ("litert_ref", Rule(Rounding.V1, Product.ALL_F32)),
        ("xnnpack", Rule(Rounding.V1, Product.ALL_F32)),
        ("tflm", Rule(Rounding.INTERPOLATED)),
        ("single", Rule(Rounding.INTERPOLATED_SINGLE)),
    ):
        assert profiles.resolve(profile, spec()) == rule


def spec(**changes: Any) -> UnidirectionalSequenceLstmSpec:
    codes, weights = Quant(0.01, 3), Quant(0.01, 0)
    base = UnidirectionalSequenceLstmSpec(
        batch=1,
        steps=2,
        in_c=3,
        units=4,
        out_c=4,
        x_quant=codes,
        state_quant=codes,
        out_quant=codes,
        hidden_quant=codes,
        cell_quant=Quant(2.0**-11, 0, dtype="int16"),
        w_quants=(weights,) * 4,
        r_quants=(weights,) * 4,
    )
    return replace(base, **changes)


def zero_constants() -> list[Any]:
    """The constants of spec()."""
    return [np.zeros((4, 3), np.int8)] * 4 + [np.zeros((4, 4), np.int8)] * 4 + [np.zeros(4, np.int32)] * 4


NUMBERS = Quant(0.01, 0, dtype="int16")


def test_clips() -> None:
    """A bound below one step is none in LiteRT, and 0 in TFLite Micro; any other ends at the largest number."""
    for clip, steps, micro in ((0.0, None, None), (2.0**-12, None, 0), (1.0, 2048, 2048), (3e38, 32767, 32767)):
        layer = spec(cell_clip=clip)
        bounds = [cell_bound(layer, profiles.resolve(profile, layer)) for profile in ("litert_ref", "tflm")]
        assert bounds == [steps, micro]
    for clip, codes in ((0.0, None), (0.009, None), (0.5, 50), (1e38, 127)):
        layer = spec(projection_quant=Quant(0.1, 0), projection_clip=clip)
        assert projection_bound(layer) == codes
        assert projection_bound(spec(projection_clip=clip)) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cell_quant": Quant(0.001, 0, dtype="int16")}, "a scale of 2\\^-15 to 2\\^-9"),
        ({"cell_quant": Quant(2.0**-8, 0, dtype="int16")}, "a scale of 2\\^-15 to 2\\^-9"),
        ({"w_quants": (None, *[Quant(0.1, 0)] * 3)}, "recurrent weights have half an input gate"),
        ({"w_quants": (Quant(0.1, 1),) * 4}, "input weights must have zero point 0"),
        ({"peephole_quants": (None, NUMBERS, NUMBERS)}, "peepholes have half an input gate"),
        ({"peephole_quants": (NUMBERS,) * 3, "out_c": 5, "projection_quant": Quant(0.1, 0)}, "more outputs .5. than"),
        ({"out_c": 3}, "3 outputs of 4 cells need a projection"),
        ({"norm_quants": (NUMBERS,) * 4}, "needs the scales of what it normalizes"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"cell_clip": -1.0}, "a clip of -1.0 must be at least 0"),
    ],
)
def test_errors(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputValueError, match=match):
        spec(**changes)


def test_dtypes() -> None:
    with pytest.raises(InputTypeError, match="peepholes of int8 is not supported; it must be int16"):
        spec(peephole_quants=(Quant(0.1, 0),) * 3)
    with pytest.raises(InputTypeError, match="cell state of int8"):
        spec(cell_quant=Quant(2.0**-11, 0))


def test_constants_have_the_shapes_of_the_layer(seed: int) -> None:
    layer = spec()
    x, hidden = np.zeros((1, 1, 2, 3), np.int8), np.zeros((1, 1, 4), np.int8)
    rule, cells = profiles.resolve("litert_ref", layer), np.zeros((1, 1, 4), np.int16)
    constants = zero_constants()
    references(layer, rule, x, hidden, cells, *constants)
    for position, wrong, match in (
        (1, constants[4], "input weights of shape .4, 4. must have shape .4, 3."),
        (5, None, "recurrent weights must be there for all gates"),
        (9, constants[9].astype(np.int16), "biases of int16"),
    ):
        changed = [wrong if number == position else constant for number, constant in enumerate(constants)]
        with pytest.raises((InputValueError, InputTypeError), match=match):
            reference(layer, rule, x, hidden, cells, *changed)
    with pytest.raises(InputValueError, match="peepholes must be there"):
        references(layer, rule, x, hidden, cells, *constants, np.zeros(4, np.int16), None, None)
