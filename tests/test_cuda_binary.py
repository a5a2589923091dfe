"""gpuq.cuda.binary: ADD, SUB and MUL of every broadcasting, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuq import numerics
from gpuq.cuda.binary import BinaryLayer, pack, pack_pairs
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.errors import InputValueError
from gpuq.numerics import Bounds, Product, Rounding, Rule
from gpuq.ops import add, mul, registry, sub
from gpuq.ops.add import AddSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.comparison import LessSpec
from gpuq.ops.leaky_relu import PreluSpec
from gpuq.ops.maximum_minimum import MaximumSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.sub import SubSpec
from gpuq.quant import Quant

from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import random_quant, run_layer
from .host_cuda.runner import HostLauncher
from .layers import ACTIVATIONS

__all__ = ["launcher"]

REFERENCES: dict[type[BinarySpec], Any] = {
    AddSpec: add.reference,
    SubSpec: sub.reference,
    MulSpec: mul.reference,
}
RULES = (
    Rule(Rounding.V1, Product.F64),
    Rule(Rounding.V1, Product.ALL_F32),
    Rule(Rounding.V1U, Product.F64),
    Rule(Rounding.V2, Product.F64),
)
RULE_NAMES = ("V1", "V1_F32", "V1U", "V2")


def random_spec(
    rng: np.random.Generator, spec_type: type[BinarySpec], dtype: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> BinarySpec:
    """Scales so that most codes do not saturate; in a tenth of the cases any that the Spec allows."""
    a_quant, b_quant = random_quant(rng, dtype, -3, 1), random_quant(rng, dtype, -3, 1)
    a_scale, b_scale = a_quant.scalar_scale(), b_quant.scalar_scale()
    spread = 64 * a_scale * b_scale if spec_type is MulSpec else 1.5 * max(a_scale, b_scale)
    exponent = np.log2(spread) + (rng.uniform(-7, 7) if rng.random() < 0.1 else rng.uniform(-1, 1))
    if rng.random() < 0.4:
        exponent = np.floor(exponent)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return spec_type(
        a_shape=shapes[0],
        b_shape=shapes[1],
        a_quant=a_quant,
        b_quant=b_quant,
        out_quant=Quant(float(np.float32(2.0**exponent)), int(rng.integers(low, high + 1)), dtype=dtype),
        activation=ACTIVATIONS[rng.integers(len(ACTIVATIONS))],
    )


def replace_scale(quant: Quant, scale: float) -> Quant:
    return Quant(scale, quant.scalar_zero_point(), dtype=quant.dtype)


def random_channels(rng: np.random.Generator, align: int) -> int:
    return align * int(rng.integers(1, 64 // align + 1)) if align > 1 else int(rng.integers(1, 68))


def check(
    launcher: HostLauncher,
    rng: np.random.Generator,
    spec: BinarySpec,
    rule: Rule,
    context: str,
    *,
    constant: str = "",
    align: int = 1,
    gaps: bool = True,
) -> list[str]:
    runs = int(rng.integers(1, 4))
    codes = {
        name: random_codes(rng, (1 if name == constant else runs, *shape), spec.activation_dtype)
        for name, shape in (("a", spec.a_shape), ("b", spec.b_shape))
    }
    if constant == "" and rng.random() < 0.2:
        codes["b"] = codes["b"][:1]  # one run for every run of a
    want = REFERENCES[type(spec)](spec, rule, codes["a"], codes["b"])
    layer = pack(spec, rule, **{constant: codes[constant][0]} if constant else {})
    inputs = [operand for name, operand in codes.items() if name != constant]
    return run_layer(launcher, layer, inputs, want, rng, f"{context}: {rule}, {spec}", align=align, gaps=gaps)


# A dtype, layouts and a rule together are one compilation and more; each meets each of the others over the operators.
WAYS = [(16, False, "int8"), (16, True, "uint8"), (4, False, "uint8"), (4, True, "int8"), (1, False, "int8")]
DEALT = [
    (spec_type, way, rule)
    for i, spec_type in enumerate(REFERENCES)
    for j, way in enumerate(WAYS)
    for rule in sorted({(i + j) % 4, 0})
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec_type", "way", "rule"), DEALT, ids=[f"{kind.op}-{way}-{RULE_NAMES[rule]}" for kind, way, rule in DEALT]
)
def test_equal_shapes(
    launcher: HostLauncher, spec_type: type[BinarySpec], way: tuple[int, bool, str], rule: int, seed: int
) -> None:
    align, gaps, dtype = way
    rng = np.random.default_rng([seed, rule, align, gaps, dtype == "int8", list(REFERENCES).index(spec_type)])
    names = set()
    for case in range(scaled(50)):
        shape = (*(int(n) for n in rng.integers(1, 7, rng.integers(0, 4))), random_channels(rng, align))
        if align > 1 and not gaps and case % 3 == 0:
            shape = (int(rng.integers(1, 900)),)  # a tail that is no whole chunk
        spec = random_spec(rng, spec_type, dtype, (shape, shape))
        constant = str(rng.choice(["", "", "a", "b"]))
        runs_align = align if len(shape) > 1 or shape[0] % align == 0 else 1
        names |= set(
            check(
                launcher,
                rng,
                spec,
                RULES[rule],
                f"seed {seed}, case {case}",
                constant=constant,
                align=runs_align,
                gaps=gaps,
            )
        )
    assert any(name.endswith(f"_u{8 * align}") for name in names)


def broadcast_shapes(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Any two shapes of rank 0 to 6 that broadcast."""
    rank = int(rng.integers(0, 7))
    largest = (1, 67, 13, 9, 5, 4, 3)[rank]
    full = [int(n) for n in rng.integers(1, largest + 1, rank)]
    if rank and rng.random() < 0.5:
        full[-1] = 4 * int(rng.integers(1, 9))
    shapes = []
    for _ in range(2):
        own = [1 if rng.random() < 0.4 else n for n in full]
        while own and rng.random() < 0.2:
            own.pop(0)
        shapes.append(tuple(own))
    return shapes[0], shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("spec_type", list(REFERENCES), ids=lambda spec_type: spec_type.op)
def test_broadcasting(launcher: HostLauncher, spec_type: type[BinarySpec], dtype: str, seed: int) -> None:
    rng = np.random.default_rng([seed, 7, dtype == "int8", list(REFERENCES).index(spec_type)])
    for case in range(scaled(120)):
        shapes = broadcast_shapes(rng)
        # With one activation, one rule and a table for b alone: what is compiled here is the walk.
        spec = random_spec(rng, spec_type, dtype, shapes)
        a_quant = replace_scale(spec.a_quant, 0.7 * spec.b_quant.scalar_scale())
        spec = replace(spec, a_quant=spec.b_quant, b_quant=a_quant, activation="relu")
        check(
            launcher,
            rng,
            spec,
            RULES[0],
            f"seed {seed}, case {case}",
            constant=str(rng.choice(["", "a", "b"])),
            gaps=bool(rng.integers(2)),
        )


@pytest.mark.slow
@pytest.mark.parametrize("spec_type", list(REFERENCES), ids=lambda spec_type: spec_type.op)
def test_a_vector_for_every_pixel(launcher: HostLauncher, spec_type: type[BinarySpec], seed: int) -> None:
    rng = np.random.default_rng([seed, 8, list(REFERENCES).index(spec_type)])
    for align in (16, 4):
        for case in range(scaled(25)):
            channels = random_channels(rng, align)
            image = (int(rng.integers(1, 6)), int(rng.integers(1, 6)), channels)
            vector = ((channels,), (1, 1, channels), (image[0], 1, channels))[case % 3]
            shapes = (image, vector) if rng.random() < 0.7 else (vector, image)
            spec = random_spec(rng, spec_type, "int8", shapes)
            check(launcher, rng, spec, RULES[0], f"seed {seed}, case {case}", align=align, gaps=case % 2 == 0)


def plain(spec_type: type[BinarySpec] = AddSpec, **more: Any) -> BinarySpec:
    one = Quant(1.0, 2)
    return spec_type(**(dict(a_shape=(5,), b_shape=(5,), a_quant=one, b_quant=one, out_quant=one) | more))


def test_every_pair_of_codes(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for spec_type in REFERENCES:
        spec = random_spec(rng, spec_type, "int8", ((256, 1), (1, 256)))
        codes = np.arange(-128, 128, dtype=np.int8)
        a, b = codes.reshape(1, 256, 1), codes.reshape(1, 1, 256)
        want = REFERENCES[spec_type](spec, RULES[0], a, b)
        run_layer(launcher, pack(spec, RULES[0]), [a, b], want, rng, f"seed {seed}, {spec}")


def test_any_two_functions_of_a_code(launcher: HostLauncher, seed: int) -> None:
    # No rule needs both tables, for the operand with the larger scale never needs one; the kernel has them.
    rng = np.random.default_rng(seed)
    for spec in (plain(a_shape=(3, 37), b_shape=(37,)), plain(MulSpec, a_shape=(3, 37), b_shape=(3, 37))):
        layer = pack(spec, RULES[0])
        values = [rng.integers(-(1 << 13), 1 << 13, 256, np.int32) for _ in range(2)]
        factors = np.array([[1 << 30, -18 if isinstance(spec, MulSpec) else -6]], np.int32)
        layer = BinaryLayer(spec, (values[0], values[1]), factors, "RULE_V1", Bounds.AWAY, (None, None))
        assert layer.affine == (None, None)
        a, b = random_codes(rng, (2, 3, 37), "int8"), random_codes(rng, (2, *spec.b_shape), "int8")
        found = values[0][a.view(np.uint8)].astype(np.int64), values[1][b.view(np.uint8)].astype(np.int64)
        other = found[1].reshape(2, -1, 37)
        both = found[0] * other if isinstance(spec, MulSpec) else found[0] + other
        codes = numerics.requantize_v1(both, *factors[0]) + 2
        want = np.clip(codes, -128, 127).astype(np.int8)
        run_layer(launcher, layer, [a, b], want, rng, f"seed {seed}, {spec}")


def test_what_needs_a_table() -> None:
    # Products never do; of a sum the operand with the larger scale does not: it is worth (q - zp) * 2^19.
    layer = pack(plain(MulSpec), RULES[0])
    assert layer.affine == ((1, -2), (1, -2))
    assert set(layer.constants) == {"factors"}
    layer = pack(plain(b_quant=Quant(0.3)), RULES[0])
    assert layer.affine == ((1 << 19, -2 << 19), None)
    assert set(layer.constants) == {"factors", "b_table"}
    layer = pack(plain(SubSpec), RULES[0])
    assert layer.affine == ((1 << 19, -2 << 19), (-1 << 19, 2 << 19))


def test_constants_are_no_inputs() -> None:
    layer = pack(plain(a_shape=(3, 2, 5)), RULES[0], b=np.zeros(5, np.int8))
    assert layer.x_shapes == ((3, 2, 5),)
    assert layer.y_shape == (3, 2, 5)
    assert layer.constants["b"].shape == (5,)
    assert pack(plain(a_shape=(2, 3, 2, 5), b_shape=()), RULES[0]).x_shapes == ((6, 2, 5), (1, 1, 1))


def launch_of(layer: BinaryLayer, *inputs: ImageLayout, y: ImageLayout) -> Any:
    return layer.launches(layer.choices(1, Traits(80, 4))[0], inputs, y)[0]


def test_equal_shapes_without_gaps_are_one_row() -> None:
    layer = pack(plain(a_shape=(4, 3, 5), b_shape=(4, 3, 5)), RULES[0])
    whole = ImageLayout.contiguous(7, 4, 3, 5)
    launch = launch_of(layer, whole, whole, y=whole)
    assert launch.kernel.name == "sum_codes_u128"
    assert dict(launch.kernel.defines)["DIMENSIONS"] == 0
    # Into a concatenation along channels: pixels are rows, images are not looked at.
    wide = ImageLayout(7, 4 * 3 * 12, 3 * 12, 12, offset=4)
    launch = launch_of(layer, whole, whole, y=wide)
    assert launch.kernel.name == "sum_codes_rows_u8"
    assert dict(launch.kernel.defines)["DIMENSIONS"] == 2


def test_nothing_to_do_and_too_much() -> None:
    layer = pack(plain(a_shape=(0, 5)), RULES[0])
    empty = ImageLayout.contiguous(2, 1, 0, 5)
    assert not layer.launches(layer.choices(1, Traits(80, 4))[0], (empty, ImageLayout.contiguous(2, 1, 1, 5)), empty)
    layer = pack(plain(), RULES[0])
    many = ImageLayout.contiguous(1 << 33, 1, 1, 5, misalignment=1)
    with pytest.raises(InputValueError, match="ADD: .* words in one launch"):
        launch_of(layer, many, many, y=many)


def test_more_than_six_dimensions_are_refused() -> None:
    layer = pack(plain(a_shape=(1,) * 7, b_shape=(1,)), RULES[0])
    one = ImageLayout.contiguous(1, 1, 1, 1)
    with pytest.raises(InputValueError, match="ADD: 7 dimensions"):
        launch_of(layer, one, one, y=one)


def test_unused_memory_is_null() -> None:
    layer = pack(plain(MulSpec), RULES[0])
    whole = ImageLayout.contiguous(1, 1, 1, 5)
    assert launch_of(layer, whole, whole, y=whole).arguments[1] == Pointer(None)


PAIRS: dict[str, Any] = {
    "maximum": lambda shapes, quants: MaximumSpec(dtype=quants[0].dtype, **shapes),
    "less": lambda shapes, quants: LessSpec(dtype=quants[0].dtype, a_quant=quants[0], b_quant=quants[1], **shapes),
    "prelu": lambda shapes, quants: PreluSpec(
        a_quant=quants[0], b_quant=quants[1], out_quant=replace_scale(quants[0], 0.25), **shapes
    ),
}


@pytest.mark.parametrize("rounding", [Rounding.V1_EARLY_SHIFT_BLOCK16, Rounding.V1_FLOOR_BLOCK8])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_sums_in_blocks(launcher: HostLauncher, dtype: str, rounding: Rounding, seed: int) -> None:
    """Whole rows, rows shorter than a block, and rows with a rest; output scales so small that one unit shows."""
    rng = np.random.default_rng([seed, dtype == "int8"])
    rule = Rule(rounding)
    whole_or_short = ((3, 64), (64,)), ((64,), (3, 1)), ((5, 3), (3,)), ((4,), (4,))
    with_a_rest = ((7, 37), (7, 37)), ((3, 37), (37,)), ((3, 37), (3, 1)), ((), (21,)), ((2, 1, 3, 17), (2, 5, 1, 17))
    for shapes in (*whole_or_short, *with_a_rest, *(pair[::-1] for pair in with_a_rest)):
        for case in range(4):
            a_quant, b_quant = random_quant(rng, dtype, -1, 1), random_quant(rng, dtype, -3, -1)
            largest = max(a_quant.scalar_scale(), b_quant.scalar_scale())
            out_quant = Quant(np.float32(largest * 2.0**-18), a_quant.scalar_zero_point(), dtype=dtype)
            spec = AddSpec(a_shape=shapes[0], b_shape=shapes[1], a_quant=a_quant, b_quant=b_quant, out_quant=out_quant)
            # Codes next to the zero points, so that sums of few units are not clamped.
            a, b = (
                np.clip(rng.integers(-1, 2, (2, *shape)) + quant.scalar_zero_point(), quant.qmin, quant.qmax).astype(
                    dtype
                )
                for shape, quant in zip(shapes, (a_quant, b_quant), strict=True)
            )
            inputs, constants = [a, b], [None, None]
            if case % 2:
                constant = int(rng.integers(2))
                constants[constant] = inputs[constant][0]
                inputs[constant] = inputs[constant][:1]
            want = add.reference(spec, rule, *inputs)
            layer = pack(spec, rule, *constants)
            given = [each for each, fixed in zip(inputs, constants, strict=True) if fixed is None]
            run_layer(launcher, layer, given, want, rng, f"seed {seed}: {rule}, {spec}", gaps=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_tables_of_pairs(launcher: HostLauncher, name: str, dtype: str, seed: int) -> None:
    rng = np.random.default_rng([seed, list(PAIRS).index(name), dtype == "int8"])
    rule = Rule(Rounding.EXACT) if name == "maximum" else Rule(Rounding.V1, Product.ALL_F32)
    for case in range(scaled(20)):
        channels = random_channels(rng, 16 if case % 2 else 1)
        shape = (*(int(n) for n in rng.integers(1, 5, 2)), channels)
        other = (shape, (channels,), (1, 1, 1))[case % 3]
        quants = random_quant(rng, dtype, -6, -2), random_quant(rng, dtype, -6, -2)
        spec = PAIRS[name]({"a_shape": shape, "b_shape": other}, quants)
        runs = int(rng.integers(1, 4))
        a, b = (random_codes(rng, (runs, *each), dtype) for each in (shape, other))
        constant = rng.random() < 0.4
        if constant:
            b = b[:1]
        want = registry.reference(spec, rule, a, b).view(np.uint8)
        layer = pack_pairs(spec, rule, None, b[0] if constant else None)
        inputs = [a] if constant else [a, b]
        align = 16 if channels % 16 == 0 and other == shape else 1
        names = run_layer(launcher, layer, inputs, want, rng, f"seed {seed}, case {case}: {spec}", align=align)
        assert all(each.startswith("pair_codes") for each in names)
