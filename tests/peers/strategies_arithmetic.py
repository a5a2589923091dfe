"""Random one-operator models of the operators that compute beyond strategies.py: the same care for ties and ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from .one_operator import ACTIVATIONS, PADDINGS, TensorDef, constant
from .strategies import (
    BOTH,
    INT8_ONLY,
    MAX_MACS,
    Case,
    Source,
    close,
    coarse,
    code_by_code,
    dyadic,
    largest_factor,
    layer,
    rescaling,
    shape,
)
from .strategies_movement import numbers

# ------------------------------------------------------------------------------------------- functions of one code


@st.composite
def tanh(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "TANH")
    dtype = source.pick("dtype", dtypes)
    zero_point = source.zero_point("in_zero_point", dtype)
    in_scale = source.note("in_scale", source.log2(*((-20, 2) if dtype == "int16" else (-14, 2))))
    if dtype == "int16" and source.flag("power"):
        in_scale = source.note("in_scale", np.float32(2.0 ** int(source.rng.choice([-11, -12]))))
    sample, x = code_by_code(source, dtype, zero_point)
    if dtype == "int16":
        one = TensorDef(sample, dtype, np.float32(1 / 32768), 0)
        return source.case([TensorDef(sample, dtype, in_scale, 0)], one, None, [x])
    # LiteRT takes any output parameters, TFLite Micro takes it that they are these.
    out_scale, out_zp = np.float32(1 / 128), 128 if dtype == "uint8" else 0
    if len(dtypes) > 1 and source.flag("any_output"):
        out_scale, out_zp = source.log2(-12, 1), source.zero_point("out_zero_point", dtype)
        if source.flag("tie"):
            # 1, which all large inputs give, is half a step away from a code, which no clamp cuts off.
            in_scale = source.note("in_scale", np.float32(max(in_scale, 0.25)))
            steps = int(source.rng.integers(1, 100))
            out_scale, middle = np.float32(1 / (steps + 0.5)), 128 if dtype == "uint8" else 0
            out_zp = source.note("out_zero_point", middle + int(source.rng.integers(-20, 20)))
        source.note("out_scale", out_scale)
    return source.case(
        [TensorDef(sample, dtype, in_scale, zero_point)], TensorDef(sample, dtype, out_scale, out_zp), None, [x]
    )


@st.composite
def elu(draw: DrawFn) -> Case:
    source = Source(draw, "ELU")
    zero_point = source.zero_point("in_zero_point", "int8")
    in_scale = source.note("in_scale", source.log2(-12, 4))
    sample, x = code_by_code(source, "int8", zero_point)
    # Codes within int32: beyond it the conversion is undefined.
    steps = dyadic(source, float(source.rng.uniform(-4, 2))) if source.flag("tie") else source.log2(-8, 8)
    out_scale = source.note("out_scale", np.float32(in_scale / np.float32(steps)))
    return source.case(
        [TensorDef(sample, "int8", in_scale, zero_point)],
        TensorDef(sample, "int8", out_scale, source.zero_point("out_zero_point", "int8")),
        None,
        [x],
    )


@st.composite
def hard_swish(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "HARD_SWISH")
    dtype = source.pick("dtype", dtypes)
    zero_point = source.zero_point("in_zero_point", dtype)
    sample, x = code_by_code(source, dtype, zero_point)
    in_scale = source.log2(-10, 3) if source.flag("typical") else source.log2(-20, 15)
    # in / 128 / out must stay below 1.
    out_scale = np.float32(in_scale * source.log2(-6.9, 4))
    return source.case(
        [TensorDef(sample, dtype, source.note("in_scale", in_scale), zero_point)],
        TensorDef(sample, dtype, source.note("out_scale", out_scale), source.zero_point("out_zero_point", dtype)),
        schema.HardSwishOptionsT(),
        [x],
    )


@st.composite
def root(draw: DrawFn, op: str, dtypes: Sequence[str] = INT8_ONLY) -> Case:
    """SQRT, RSQRT: of values from 0 on, or the runtimes stop."""
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    zero_point = source.zero_point("in_zero_point", dtype)
    sample, x = code_by_code(source, dtype, zero_point)
    x = np.maximum(x, zero_point).astype(dtype)
    in_scale = source.note("in_scale", source.log2(-10, 4))
    codes = 32767 if dtype == "int16" else 255
    largest = math.sqrt(codes * float(in_scale)) if op == "SQRT" else 1 / math.sqrt(float(in_scale))
    out_scale = source.note("out_scale", np.float32(largest / codes * float(source.log2(-3, 2))))
    return source.case(
        [TensorDef(sample, dtype, in_scale, zero_point)],
        TensorDef(sample, dtype, out_scale, source.zero_point("out_zero_point", dtype)),
        None,
        [x],
    )


@st.composite
def leaky_relu(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "LEAKY_RELU")
    dtype = source.pick("dtype", dtypes)
    zero_point = source.zero_point("in_zero_point", dtype)
    sample, x = code_by_code(source, dtype, zero_point)
    in_scale, out_scale, out_zp = rescaling(source, x, zero_point, dtype)
    kind = source.pick("alpha_kind", ["typical", "dyadic", "large", "zero", "one", "negative"])
    alpha = {
        "typical": lambda: source.rng.uniform(0.001, 0.9),
        "dyadic": lambda: dyadic(source, float(source.rng.uniform(-6, 1))),
        "large": lambda: source.rng.uniform(1, 4),
        "zero": lambda: 0.0,
        "one": lambda: 1.0,
        "negative": lambda: -dyadic(source, float(source.rng.uniform(-6, 1))),
    }[kind]()
    return source.case(
        [TensorDef(sample, dtype, in_scale, zero_point)],
        TensorDef(sample, dtype, out_scale, out_zp),
        schema.LeakyReluOptionsT(alpha=float(source.note("alpha", np.float32(alpha)))),
        [x],
    )


@st.composite
def neg(draw: DrawFn) -> Case:
    source = Source(draw, "NEG")
    dtype = source.pick("dtype", ["int8", "int16", "int32", "int64"])
    sample = shape(source)
    scale = source.log2(-10, 2) if dtype == "int8" else None
    tensor = TensorDef(sample, dtype, scale, 5 if dtype == "int8" else 0)
    x = numbers(source, (source.runs * sample[0], *sample[1:]), dtype)
    return source.case([tensor], tensor, schema.NegOptionsT(), [x])


# --------------------------------------------------------------------------------------------- two and three inputs


def operands(
    source: Source, count: int = 2, scalars: bool = True
) -> tuple[tuple[int, ...], list[tuple[int, ...]], list[bool]]:
    """The output's shape, the operands' shapes that broadcast to it, and which of them are constants.

    scalars: constants may leave dimensions out.
    """
    rank = source.integer("rank", 1, 4)
    full = (source.first, *(source.integer(f"d{i}", 1, 7) for i in range(1, rank)))
    shapes, fixed = [full], [False]
    for number in range(1, count):
        kind = source.pick(f"operand_{number}", ["input", "input broadcast", "constant", "constant broadcast"])
        part = list(full)
        if "broadcast" in kind:
            part = [1 if source.rng.random() < 0.4 else size for size in part]
            if kind == "constant broadcast" and scalars:
                part = part[int(source.rng.integers(0, rank)) :]
        shapes.append(tuple(part))
        fixed.append("constant" in kind)
    return full, shapes, fixed


def stacked(source: Source, part: tuple[int, ...], fixed: bool) -> tuple[int, ...]:
    """The shape of an operand's array: a constant's own, or that of all runs."""
    return part if fixed else (source.runs * part[0], *part[1:])


@st.composite
def prelu(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "PRELU")
    dtype = source.pick("dtype", dtypes)
    alpha_dtype = "int8" if dtype == "int16" else dtype
    full, (first, second), (_, fixed) = operands(source)
    z1, z2 = source.zero_point("zero_point_1", dtype), source.zero_point("zero_point_2", alpha_dtype)
    x = source.activations(first, dtype, z1)
    alpha = source.codes(stacked(source, second, fixed), alpha_dtype, z2)
    mode = source.pick("scales", ["typical", "dyadic", "dyadic", "any"])
    if mode == "dyadic":
        bits = int(source.rng.integers(0, 3))
        x, alpha = coarse(x, z1, bits), coarse(close(alpha, z2, 60), z2, bits)
    x_scale, alpha_scale = source.log2(-10, 2), source.log2(-9, -4)
    out_scale = np.float32(x_scale * source.log2(-2, 2))
    if mode == "dyadic":
        out_scale = np.float32(x_scale / np.float32(dyadic(source, float(source.rng.uniform(-3, 2)))))
        alpha_scale = np.float32(np.float32(dyadic(source, -6.0)) * out_scale / x_scale)
    elif mode == "any":
        out_scale = np.float32(x_scale * source.log2(-8, 8))
    source.note("scales", (x_scale, alpha_scale, out_scale))
    return source.case(
        [
            TensorDef(first, dtype, x_scale, z1),
            TensorDef(second, alpha_dtype, alpha_scale, z2, data=alpha if fixed else None),
        ],
        TensorDef(full, dtype, out_scale, source.zero_point("out_zero_point", dtype)),
        None,
        [x] if fixed else [x, alpha],
    )


@st.composite
def div(draw: DrawFn, dtypes: Sequence[str] = (*BOTH, "int16")) -> Case:
    """Factors with which the kernel's last shift is from 0 to 31 bits; no divisor is real 0."""
    source = Source(draw, "DIV")
    dtype = source.pick("dtype", dtypes)
    full, (first, second), (_, fixed) = operands(source)
    z1, z2 = source.zero_point("zero_point_1", dtype), source.zero_point("zero_point_2", dtype)
    a = source.activations(first, dtype, z1)
    b = source.codes(stacked(source, second, fixed), dtype, z2)
    if source.flag("coarse"):
        a, b = coarse(a, z1, 2), close(b, z2, 16)
    b = np.where(b == z2, z2 + (1 if z2 < np.iinfo(dtype).max else -1), b).astype(dtype)
    s1, s2 = source.log2(-8, 2), source.log2(-8, 2)
    power = 14 if dtype == "int16" else source.integer("power", 6, 14)
    steps = 2.0**power * (1 if source.flag("exact") else source.rng.uniform(1.01, 1.98))
    out_scale = np.float32(s1 / s2 / np.float32(steps))
    source.note("s", (s1, s2, out_scale))
    activation = source.pick("activation", list(ACTIVATIONS))
    return source.case(
        [TensorDef(first, dtype, s1, z1), TensorDef(second, dtype, s2, z2, data=b if fixed else None)],
        TensorDef(full, dtype, out_scale, source.zero_point("out_zero_point", dtype)),
        schema.DivOptionsT(fusedActivationFunction=ACTIVATIONS[activation]),
        [a] if fixed else [a, b],
    )


@st.composite
def floor_div(draw: DrawFn, dtypes: Sequence[str] = ("int8", "int16", "int32")) -> Case:
    """Numbers as they are; no divisor is 0, and the lowest number, which -1 takes out of the type, is not there."""
    source = Source(draw, "FLOOR_DIV")
    dtype = source.pick("dtype", dtypes)
    full, (first, second), (_, fixed) = operands(source)
    a, b = (numbers(source, stacked(source, part, held), dtype) for part, held in ((first, False), (second, fixed)))
    a = np.maximum(a, np.iinfo(dtype).min + 1)
    b = np.where(b == 0, 1, b // source.integer("smaller", 1, 100) | 1).astype(dtype)
    return source.case(
        [TensorDef(first, dtype), TensorDef(second, dtype, data=b if fixed else None)],
        TensorDef(full, dtype),
        schema.FloorDivOptionsT(),
        [a] if fixed else [a, b],
    )


@st.composite
def power_of_two(draw: DrawFn, op: str) -> Case:
    """ADD and SUB of int16 whose file has pot_scale_int16: one input's scale is the output's, ADD broadcasts nothing."""
    source = Source(draw, op)
    full, (first, second), (_, fixed) = operands(source)
    if op == "ADD":
        first = second = full
    out = source.integer("out", -20, 4)
    shifts = [0, -source.integer("shift", 0, 15)]
    if source.flag("second"):
        shifts.reverse()
    arrays = [source.activations(first, "int16"), source.codes(stacked(source, second, fixed), "int16")]
    activation = source.pick("activation", list(ACTIVATIONS))
    options = (schema.AddOptionsT if op == "ADD" else schema.SubOptionsT)(
        fusedActivationFunction=ACTIVATIONS[activation], potScaleInt16=True
    )
    return source.case(
        [
            TensorDef(part, "int16", 2.0 ** (out + shift), data=array if held else None)
            for part, shift, array, held in zip((first, second), shifts, arrays, (False, fixed), strict=True)
        ],
        TensorDef(full, "int16", 2.0**out),
        options,
        arrays[: 1 if fixed else 2],
    )


@st.composite
def maximum(draw: DrawFn, op: str, dtypes: Sequence[str] = ("int8", "uint8", "int32", "int64")) -> Case:
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    full, shapes, fixed = operands(source)
    quantized = dtype in BOTH
    scale = source.log2(-10, 2) if quantized else None
    zero_point = source.zero_point("zero_point", dtype) if quantized else 0
    arrays = [numbers(source, stacked(source, part, held), dtype) for part, held in zip(shapes, fixed, strict=True)]
    return source.case(
        [
            TensorDef(part, dtype, scale, zero_point, data=array if held else None)
            for part, array, held in zip(shapes, arrays, fixed, strict=True)
        ],
        TensorDef(full, dtype, scale, zero_point),
        schema.MaximumMinimumOptionsT(),
        [array for array, held in zip(arrays, fixed, strict=True) if not held],
    )


@st.composite
def squared_difference(draw: DrawFn, dtypes: Sequence[str] = INT8_ONLY) -> Case:
    source = Source(draw, "SQUARED_DIFFERENCE")
    dtype = source.pick("dtype", dtypes)
    full, (first, second), (_, fixed) = operands(source)
    z1, z2 = source.zero_point("zero_point_1", dtype), source.zero_point("zero_point_2", dtype)
    a = source.activations(first, dtype, z1)
    b = source.codes(stacked(source, second, fixed), dtype, z2)
    s1 = source.log2(-10, 2)
    mode = source.pick("scales", ["typical", "dyadic", "any"])
    s2 = np.float32(s1 * (np.float32(2.0 ** source.rng.integers(-2, 3)) if mode == "dyadic" else source.log2(-3, 3)))
    larger = float(max(s1, s2))
    # (2 max)^2 / (2^14 out) must be below 1; of int16 (2 max)^2 / out.
    extra = 0 if dtype == "int16" else 14
    steps = source.log2(-10, 12) if mode == "any" else source.log2(4, 11)
    if dtype == "int16":
        steps = np.float32(steps * 256)
    if mode == "dyadic":
        s1, s2 = (np.float32(2.0 ** np.rint(np.log2(s))) for s in (s1, s2))
        larger, steps = float(max(s1, s2)), np.float32(1 / dyadic(source, -8.0))
    out_scale = np.float32(max(larger * larger * float(steps), 4.01 * larger * larger / 2**extra))
    source.note("s", (s1, s2, out_scale))
    return source.case(
        [
            TensorDef(first, dtype, s1, z1),
            TensorDef(second, dtype, s2, z2, data=b if fixed else None),
        ],
        TensorDef(full, dtype, out_scale, source.zero_point("out_zero_point", dtype)),
        schema.SquaredDifferenceOptionsT(),
        [a] if fixed else [a, b],
    )


_COMPARISONS = {
    "EQUAL": schema.EqualOptionsT,
    "NOT_EQUAL": schema.NotEqualOptionsT,
    "GREATER": schema.GreaterOptionsT,
    "GREATER_EQUAL": schema.GreaterEqualOptionsT,
    "LESS": schema.LessOptionsT,
    "LESS_EQUAL": schema.LessEqualOptionsT,
}


@st.composite
def comparison(draw: DrawFn, dtypes: Sequence[str] = ("int8", "uint8", "int32", "int64", "bool")) -> Case:
    op = draw(st.sampled_from(list(_COMPARISONS)))
    source = Source(draw, op)
    dtype = source.pick("dtype", [kind for kind in dtypes if kind != "bool" or ("EQUAL" in op[-5:] and op[0] in "EN")])
    full, shapes, fixed = operands(source)
    scales: list[Any] = [None, None]
    zeros = [0, 0]
    # NOT_EQUAL writes nothing for int16 without scales.
    if dtype in BOTH or (dtype == "int16" and (op == "NOT_EQUAL" or source.flag("scales"))):
        s1 = source.log2(-14, -0.01)
        s2 = min(np.float32(s1 * 2.0 ** source.rng.choice([0, 0, 1, -1, 0.3])), np.float32(0.99))
        scales = [source.note("s1", s1), source.note("s2", s2)]
        zeros = [source.zero_point(f"zero_point_{i}", dtype) for i in (1, 2)]
    sizes = [stacked(source, part, held) for part, held in zip(shapes, fixed, strict=True)]
    arrays = [numbers(source, size, dtype) for size in sizes]
    if dtype != "bool" and source.flag("alike"):
        arrays = [(array % (100 if dtype == "int16" else 4)).astype(dtype) for array in arrays]
    return source.case(
        [
            TensorDef(part, dtype, scale, zero, data=array if held else None)
            for part, scale, zero, array, held in zip(shapes, scales, zeros, arrays, fixed, strict=True)
        ],
        TensorDef(full, bool),
        _COMPARISONS[op](),
        [array for array, held in zip(arrays, fixed, strict=True) if not held],
    )


@st.composite
def select(draw: DrawFn, op: str, dtypes: Sequence[str] = ("int8", "uint8", "int32", "int64")) -> Case:
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    if op == "SELECT":
        full = shape(source, 6)
        shapes = [source.pick("condition", [full, full[:1]]), full, full]
        fixed = [False, False, source.flag("constant")]
    else:
        full, shapes, fixed = operands(source, 3)
        order = source.draw("order", st.permutations(range(3)))
        shapes, fixed = [shapes[i] for i in order], [fixed[i] for i in order]
    kinds = ["bool", dtype, dtype]
    scale = source.log2(-10, 2) if dtype in BOTH else None
    arrays = [
        numbers(source, stacked(source, part, held), kind)
        for part, held, kind in zip(shapes, fixed, kinds, strict=True)
    ]
    return source.case(
        [
            TensorDef(part, kind, None if kind == "bool" else scale, data=array if held else None)
            for part, kind, array, held in zip(shapes, kinds, arrays, fixed, strict=True)
        ],
        TensorDef(full, dtype, scale),
        schema.SelectOptionsT() if op == "SELECT" else schema.SelectV2OptionsT(),
        [array for array, held in zip(arrays, fixed, strict=True) if not held],
    )


# ------------------------------------------------------------------------------------------------------- reductions


def reduction(source: Source) -> tuple[tuple[int, ...], list[int], bool, tuple[int, ...], TensorDef]:
    """Shape, axes, whether they are kept, the output's shape, and the constant that names the axes."""
    rank = source.integer("rank", 2, 4)
    sample = (source.first, *(source.integer(f"d{i}", 1, 12) for i in range(1, rank)))
    axes = source.draw("axes", st.sets(st.integers(0, rank - 1), min_size=1).map(sorted))
    keep_dims = source.flag("keep_dims")
    if not keep_dims and len(axes) == rank:
        axes = axes[1:]  # a scalar has no dimension to stack runs along
    spelled = [axis - rank if source.rng.random() < 0.3 else axis for axis in axes]
    source.rng.shuffle(spelled)
    out_shape = tuple(1 if i in axes else d for i, d in enumerate(sample) if keep_dims or i not in axes)
    return sample, axes, keep_dims, out_shape, constant(source.note("spelled", spelled))


@st.composite
def total(draw: DrawFn, dtypes: Sequence[str] = BOTH, with_bytes: bool = False, in_float: bool = False) -> Case:
    """with_bytes: int8 codes are taken for unsigned bytes, so that parameters follow the spread of those.

    in_float: results are converted from float32, and must fit an int32.
    """
    source = Source(draw, "SUM")
    dtype = source.pick("dtype", dtypes)
    sample, axes, keep_dims, out_shape, axis = reduction(source)
    zero_point = source.zero_point("in_zero_point", dtype)
    x = source.activations(sample, dtype, zero_point)
    seen = x.view(np.uint8) if with_bytes else x
    count = math.prod(sample[i] for i in axes)
    farthest = 32768.0 if dtype == "int16" else 255.0
    sums = seen.astype(np.int64).sum(axis=tuple(i for i in axes if i > 0)) - zero_point * (count - 1)
    in_scale, out_scale, out_zp = rescaling(
        source, sums, zero_point, "uint8" if with_bytes and dtype == "int8" else dtype
    )
    if with_bytes and dtype == "int8":
        out_zp = min(out_zp, 127)
    if in_float:
        out_scale = source.note("raised", np.float32(max(out_scale, in_scale * farthest * count / 2.0**30)))
    return source.case(
        [TensorDef(sample, dtype, in_scale, zero_point), axis],
        TensorDef(out_shape, dtype, out_scale, out_zp),
        schema.ReducerOptionsT(keepDims=keep_dims),
        [x],
    )


@st.composite
def extreme(draw: DrawFn, op: str, dtypes: Sequence[str] = ("int8", "uint8", "int32", "int64")) -> Case:
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    sample, _, keep_dims, out_shape, axis = reduction(source)
    scale = source.log2(-10, 2) if dtype in BOTH else None
    zero_point = source.zero_point("zero_point", dtype) if dtype in BOTH else 0
    x = numbers(source, (source.runs * sample[0], *sample[1:]), dtype)
    return source.case(
        [TensorDef(sample, dtype, scale, zero_point), axis],
        TensorDef(out_shape, dtype, scale, zero_point),
        schema.ReducerOptionsT(keepDims=keep_dims),
        [x],
    )


@st.composite
def l2_normalization(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "L2_NORMALIZATION")
    dtype = source.pick("dtype", dtypes)
    depth = source.draw("depth", st.one_of(st.integers(1, 8), st.integers(1, 300)))
    sample = (*source.pick("leading", [(source.first,), (source.first, 3), (source.first, 2, 2)]), depth)
    zero_point = source.zero_point("in_zero_point", dtype)
    x = source.activations(sample, dtype, zero_point)
    if source.flag("small"):
        x = close(x, zero_point, source.integer("farthest", 0, 3))
    return source.case(
        [TensorDef(sample, dtype, source.log2(-10, 2), zero_point)],
        TensorDef(sample, dtype, 1 / 128, 128 if dtype == "uint8" else 0),
        schema.L2NormOptionsT(),
        [x],
    )


# --------------------------------------------------------------------------------------------------------- products


@st.composite
def batch_matmul(draw: DrawFn, pairs: Sequence[tuple[str, str]] = (("int8", "int8"),)) -> Case:
    """pairs: dtypes of both operands; the result has the first's."""
    source = Source(draw, "BATCH_MATMUL")
    dtype, other_dtype = source.pick("dtypes", pairs)
    batch = source.draw("batch", st.lists(st.integers(1, 3), min_size=1, max_size=2))
    batch = (source.first, *batch[1:])
    m, n = source.integer("m", 1, 9), source.integer("n", 1, 9)
    k = source.draw("k", st.one_of(st.integers(1, 20), st.integers(1, 300)))
    adj_x, adj_y = source.flag("adj_x"), source.flag("adj_y")
    a_shape = (*batch, *((k, m) if adj_x else (m, k)))
    # The runs lie along the first dimension of both inputs; further ones may broadcast.
    other = [size if i == 0 or source.rng.random() < 0.7 else 1 for i, size in enumerate(batch)]
    b_shape = (*other, *((n, k) if adj_y else (k, n)))
    fixed = source.flag("constant")
    z1 = source.zero_point("zero_point_1", dtype)
    z2 = source.zero_point("zero_point_2", other_dtype) if dtype == "int8" else 0
    a = source.activations(a_shape, dtype, z1)
    b = source.codes(stacked(source, b_shape, fixed), other_dtype, z2)
    mode = source.pick("multiplier", ["typical", "dyadic", "dyadic", "any"])
    if mode == "dyadic":
        bits = int(source.rng.integers(0, 3))
        a, b = coarse(a, z1, bits), coarse(b, z2, bits)
    s1, s2 = source.log2(-10, 2), source.log2(-10, 0)
    spread = max(float(a.std()) * float(b.std()) * math.sqrt(k), 1.0)
    about = float(np.log2(source.rng.uniform(15, 60) * (256 if dtype == "int16" else 1) / spread))
    about = min(about, 4.0) if dtype == "int16" else about  # factors of int64 sums end at 2^7
    if mode == "dyadic":
        out_scale = np.float32(np.float32(s1 * s2) / np.float32(dyadic(source, about)))
    else:
        out_scale = np.float32(
            s1 * s2 / np.float32(2.0 ** (about if mode == "typical" else source.rng.uniform(-30, 4)))
        )
    source.note("s", (s1, s2, out_scale))
    return source.case(
        [
            TensorDef(a_shape, dtype, s1, z1),
            TensorDef(b_shape, other_dtype, s2, z2, data=b if fixed else None),
        ],
        TensorDef((*batch, m, n), dtype, out_scale, source.zero_point("out_zero_point", dtype)),
        schema.BatchMatMulOptionsT(adjX=adj_x, adjY=adj_y),
        [a] if fixed else [a, b],
    )


@st.composite
def transpose_conv(draw: DrawFn, dtypes: Sequence[str] = BOTH, xnnpack: bool = False) -> Case:
    """xnnpack: what XNNPACK defines, see largest_factor."""
    source = Source(draw, "TRANSPOSE_CONV")
    dtype = source.pick("dtype", dtypes)
    padding = source.pick("padding", ["SAME", "VALID"])
    kernel, stride, size, out_size = [], [], [], []
    for axis in "hw":
        kernel.append(source.integer(f"k{axis}", 1, 5))
        stride.append(source.integer(f"stride_{axis}", 1, 3))
        size.append(source.integer(axis, 1, 7))
        if padding == "SAME":
            # Any output of which a SAME convolution makes the input.
            low = (size[-1] - 1) * stride[-1] + 1
            out_size.append(source.integer(f"out_{axis}", low, size[-1] * stride[-1]))
        else:
            least = (size[-1] - 1) * stride[-1] + kernel[-1]
            out_size.append(source.integer(f"out_{axis}", least, least + stride[-1] - 1))
    in_c = source.integer("in_c", 1, 12)
    taps = kernel[0] * kernel[1] * in_c
    out_c = source.integer("out_c", 1, max(1, min(12, MAX_MACS // (size[0] * size[1] * taps))))
    per_channel = dtype != "uint8" and source.flag("per_channel") and out_c > 1
    activation = source.pick("activation", list(ACTIVATIONS))
    bias_mode = source.pick("bias", ["centred", "none", "zero", "noise", "extreme"])
    in_zp, out_zp = source.zero_point("in_zero_point", dtype), source.zero_point("out_zero_point", dtype)
    w_zp = source.zero_point("w_zero_point", dtype) if dtype == "uint8" else 0
    x = source.activations((source.first, *size, in_c), dtype, in_zp)
    w_dtype = "int8" if dtype == "int16" else dtype
    w = source.codes((out_c, *kernel, in_c), w_dtype, w_zp)
    largest = largest_factor(dtype, xnnpack, dtype == "int16")
    drawn = layer(source, x, in_zp, w, w_zp, 0, per_channel, bias_mode, largest, xnnpack, dtype == "int16")
    out_shape = (source.first, *out_size, out_c)
    inputs: list[TensorDef | None] = [
        constant(out_shape),
        TensorDef(w.shape, w_dtype, drawn.w_scale, w_zp, axis=0, data=drawn.w),
        TensorDef((source.first, *x.shape[1:]), dtype, drawn.x_scale, in_zp),
    ]
    if drawn.bias is not None:
        inputs.append(TensorDef((out_c,), drawn.bias.dtype, drawn.bias_scale, 0, data=drawn.bias))
    return source.case(
        inputs,
        TensorDef(out_shape, dtype, drawn.out_scale, out_zp),
        schema.TransposeConvOptionsT(
            padding=PADDINGS[padding],
            strideH=stride[0],
            strideW=stride[1],
            fusedActivationFunction=ACTIVATIONS[activation],
        ),
        [drawn.x],
    )
