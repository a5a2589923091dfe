"""gpuq.cpu.epilogue: each fast form gives numerics.requantize and the clamp, and steps aside where it would not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuq import Quant, numerics
from gpuq.cpu.epilogue import Epilogue
from gpuq.numerics import Rounding, Rule

from . import exact
from .compare import assert_equal_bits
from .exact import INT32_MAX, INT32_MIN
from .launching import noise

V1, V4, V6 = Rule(Rounding.V1), Rule(Rounding.V4), Rule(Rounding.V6)
ONE_FLOOR = [Rule(rounding) for rounding in (Rounding.V1, Rounding.V1U, Rounding.V2, Rounding.V1U_BLOCK8)]
OUTPUTS = [
    Quant(0.1, 0),
    Quant(0.1, -128),
    Quant(0.1, -127),  # one code below the zero point: the sign of a tie shows
    Quant(0.1, 127),
    Quant(0.1, 17),
    Quant(0.1, 0, dtype="uint8"),
    Quant(0.1, 140, dtype="uint8"),
    Quant(0.1, 255, dtype="uint8"),
]


def epilogue(
    rule: Rule,
    reals: Any,
    bounds: Any,
    *,
    bias: Any = 0,
    out: Quant = OUTPUTS[0],
    activation: str | None = None,
    repeat: int = 1,
) -> Epilogue:
    act_min, act_max = numerics.activation_range(activation, out)
    reals = np.atleast_1d(np.asarray(reals, np.float64))
    return Epilogue(
        rule=rule,
        reals=reals,
        bias=np.broadcast_to(np.asarray(bias, np.int64), reals.shape),
        bounds=np.broadcast_to(np.asarray(bounds, np.int64), reals.shape),
        out_quant=out,
        act_min=act_min,
        act_max=act_max,
        repeat=repeat,
    )


def check(
    rule: Rule, reals: Any, acc: np.ndarray, context: object, bias: Any = 0, bounds: Any = None
) -> set[tuple[bool, int]]:
    """Compares over outputs and activations. acc is (pixels, O) with one real factor per channel.

    Returns:
        (is_fast, slow_channels) of all that were made.
    """
    chosen = set()
    largest = np.abs(acc).max(axis=0) if bounds is None else bounds
    # float32 sums are what one exact chunk gives; they hold integers up to 2^24. Else sums share the scratch.
    dtype = np.float32 if np.abs(acc).max() <= 1 << 24 else np.float64
    for out in OUTPUTS:
        for activation in (None, "relu", "relu6", "relu_n1_to_1"):
            act_min, act_max = numerics.activation_range(activation, out)
            wrapped = numerics.wrap_int32(acc.astype(np.int64) + np.asarray(bias))
            codes = numerics.requantize(wrapped, rule.rounding, np.asarray(reals)) + out.scalar_zero_point()
            want = np.clip(codes, act_min, act_max).astype(out.dtype)
            for repeat in {1, acc.shape[0]}:
                made = epilogue(rule, reals, largest, bias=bias, out=out, activation=activation, repeat=repeat)
                chosen.add((made.is_fast, made.slow_channels))
                got = np.empty(acc.shape, out.dtype)
                sums = acc.astype(dtype)
                scratch = noise(np.random.default_rng(1), 8 * acc.size).view(np.float64).reshape(acc.shape)
                made(sums, got, sums if dtype == np.float64 else scratch)
                how = f"fast {made.is_fast}, {made.slow_channels} slow channels, repeat {repeat}"
                where = f"{how}, {rule.rounding}, factors {reals}, {out}, {activation}, bias {bias}"
                assert_equal_bits(got, want, f"{where}, {context}")
    return chosen


def column(values: Any) -> np.ndarray:
    return np.asarray(values, np.int64).reshape(-1, 1)


FAST, GENERAL = {(True, 0)}, {(False, 1)}


@pytest.mark.parametrize(
    ("rule", "right"),
    [(rule, right) for rule in ONE_FLOOR[:3] for right in range(0, 32, 1 if rule == V1 else 5)],
    ids=lambda value: value.rounding.value if isinstance(value, Rule) else None,
)
@pytest.mark.parametrize("quarters", [2, 3])
def test_ties_of_both_signs(right: int, quarters: int, rule: Rule) -> None:
    """A factor of quarters / 4 * 2^-right: half-way cases of either rounding, their neighbours, both signs."""
    steps = np.arange(-300, 301)
    around = (steps[:, None] << right) + np.array([-2, -1, 0, 1, 2])
    acc = around[np.abs(around) < 1 << 30]
    chosen = check(rule, [np.ldexp(quarters / 4, -right)], column(acc), f"right shift {right}")
    # float64 must serve where the shifts of networks lie, and cannot where terms have more than 53 bits.
    if right <= 9:
        assert chosen == FAST
    if 14 <= right <= 22:
        assert chosen >= GENERAL


@pytest.mark.parametrize("rule", ONE_FLOOR[:3], ids=lambda rule: rule.rounding.value)
def test_random(seed: int, rule: Rule) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        # As a network has it: results of a few hundred codes; the larger the sums, the smaller the factor.
        bits = int(rng.integers(8, 31))
        real = 2.0 ** rng.uniform(5, 9) / 2.0**bits
        acc = rng.integers(-(1 << bits), 1 << bits, (100, 1))
        chosen = check(rule, [real], acc, f"seed {seed}, {bits} bits")
        assert bits > 16 or chosen == FAST


def test_v1_left_shifts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for left in range(31):
        real = float(np.ldexp(rng.uniform(0.5, 1), left))
        small = np.concatenate([np.arange(-150, 151), [-(1 << 20), 1 << 20]])
        check(V1, [real], column(small), f"seed {seed}, left shift {left}")
        # Sums that leave int32 once shifted wrap: 2^30 * 2 is -2^31.
        limit = 1 << (31 - left)
        edge = np.array([limit - 1, limit, limit + 1, limit // 2, -limit // 2, -limit, 1 - limit])
        wide = np.concatenate([edge, rng.integers(INT32_MIN + 1, INT32_MAX, 50)])
        check(V1, [real], column(wide[np.abs(wide) < 1 << 31]), f"seed {seed}, left shift {left}, wrapping")


@pytest.mark.parametrize("rule", ONE_FLOOR, ids=lambda rule: rule.rounding.value)
def test_mixed_channels(seed: int, rule: Rule) -> None:
    """Channels without a factor, with left shifts, none, and right shifts side by side, each with its bias."""
    rng = np.random.default_rng(seed)
    reals = np.array([0.0, 3.7, 0.6, 1.0, 0.25, 1 / 300, 0.0, 2.0**-12, 2.0**-15, 2.0**-31, 2.0**-32])
    for bias_bits in (3, 10, 20):
        bias = rng.integers(-(1 << bias_bits), 1 << bias_bits, reals.size)
        acc = rng.integers(-(1 << 14), 1 << 14, (300, reals.size))
        acc[:100] = rng.integers(-20, 20, (100, reals.size)) - bias
        context = f"seed {seed}, bias of {bias_bits} bits"
        for count in (reals.size, 7, 1):
            assert check(rule, reals[:count], acc[:, :count], context, bias=bias[:count]) <= {
                (True, slow) for slow in range(count)
            }, context
        check(V6, reals, acc, context, bias=bias)


def test_v1_slow_channels_beside_fast_ones() -> None:
    # 2^-20 has terms of more than 53 bits, and sums up to 2^26 give codes from -64 to 64: one channel of three.
    reals = np.array([0.5, 2.0**-20, 0.25])
    acc = np.array([[10, 1 << 26, -7], [-11, -(1 << 26), 6], [3, (1 << 19) + (1 << 20), 2], [1, -(1 << 19), 0]])
    assert (True, 1) in check(V1, reals, acc, "one slow channel", bias=np.array([1, 0, -1]))
    # Most channels slow: all go the general way.
    assert check(V1, reals[[1, 1, 0]], acc[:, [1, 1, 0]], "two slow channels") >= {(False, 3)}


def test_v1_dead_channels_are_constants() -> None:
    # A channel whose sums all end at one code costs nothing, whatever its shift: here the bias alone decides, and
    # 2^27 * 2^-25 = 4 plus or minus 0.001.
    reals, bias = np.array([2.0**-25, 0.5]), np.array([1 << 27, 0])
    acc = np.array([[30_000, 5], [-30_000, -5], [0, 0]])
    assert check(V1, reals, acc, "dead channel", bias=bias) == FAST
    # Two codes within the bound: no longer dead. 3.5 * 2^25 is the tie between 3 and 4.
    near = np.array([(7 << 24), 0])
    assert (True, 1) in check(V1, reals, acc, "nearly dead channel", bias=near)


def test_v1_biases_that_cancel(seed: int) -> None:
    """Sums and bias are large and nearly opposite: products of either alone may have more bits than float64 holds."""
    rng = np.random.default_rng(seed)
    chosen = set()
    for bits in range(8, 31):
        for _ in range(4):
            right = int(rng.integers(0, 8))
            # A multiplier next to 2^30: ties of the halves, moved by very little.
            multiplier = (1 << 30) + int(rng.integers(0, 4))
            near = np.concatenate([np.arange(-200, 201), np.arange(-200, 201) << right])
            bias = int(rng.integers(1 << bits, 2 << bits)) * int(rng.choice([-1, 1]))
            acc = near - bias
            acc = column(acc[np.abs(acc) + abs(bias) < 1 << 31])
            real = float(np.ldexp(multiplier, -31 - right))
            if acc.size:
                chosen |= check(V1, [real], acc, f"seed {seed}, right shift {right}", bias=bias)
    assert chosen == FAST | GENERAL


@pytest.mark.parametrize(
    ("acc", "multiplier", "want"),
    [
        # Found by search: acc * m lies a few dozen of its 2^55 units below a rounding boundary; float64 cannot see it.
        (292335712, 1294068265, 10),
        (1153499349, 2045849619, 65),
    ],
)
def test_v1_beyond_float64(acc: int, multiplier: int, want: int) -> None:
    assert exact.v1(acc, multiplier, -24) == want
    assert exact.v1(acc + 1, multiplier, -24) == want + 1
    real = float(np.ldexp(multiplier, -24 - 31))
    assert check(V1, [real], column([acc, -acc, acc + 1, acc - 1]), "right shift 24") >= GENERAL


def test_blocks_have_two_ways() -> None:
    """Eight channels take ties up, the ninth away from zero; a slow one in either part stays what it is."""
    reals = np.full(9, 0.25)
    acc = np.tile(np.arange(-40, 41)[:, None], (1, 9))
    assert check(Rule(Rounding.V1U_BLOCK8), reals, acc, "one channel behind a block") == FAST
    made = epilogue(Rule(Rounding.V1U_BLOCK8), reals, 40)
    out = np.empty((1, 9), np.int8)
    made(np.full((1, 9), -6, np.float32), out, np.empty((1, 9)))
    assert out.tolist() == [[-1] * 8 + [-2]]
    wide = acc.astype(np.int64) << 19
    wide[0] = [-(1 << 20) * 3 >> 1] * 9
    for slow in ([2], [8], [2, 8]):
        reals[:] = 0.5
        reals[slow] = 2.0**-20
        assert (True, len(slow)) in check(Rule(Rounding.V1U_BLOCK8), reals, wide, f"slow {slow}")


def test_v4_ties_and_neighbours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for power in range(31):
        acc = (np.arange(-200, 201)[:, None] << power) + np.array([-1, 0, 1])
        acc = acc[np.abs(acc) < 1 << 30]
        for real in (0.5**power / 2, 0.5**power * 1.5, 0.5**power * float(rng.uniform(0.5, 2))):
            for bias in (3, (1 << 24) + 1):
                assert check(V4, [real], column(acc - bias), f"seed {seed}", bias=bias) == FAST


def test_v4_of_any_magnitude(seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(1 << 30), 1 << 30, (300, 5)) >> rng.integers(0, 30, (300, 5))
    for power in range(-45, 8, 3):
        bias = rng.integers(-(1 << 26), 1 << 26, 5)
        check(V4, 2.0 ** (power + rng.random(5)), acc, f"seed {seed}, factor near 2^{power}", bias=bias)


def test_v6_ties_and_neighbours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for power in range(31):
        acc = (np.arange(-200, 201)[:, None] << power) + np.array([-1, 0, 1])
        acc = acc[np.abs(acc) < 1 << 30]
        for real in (0.5**power / 2, 0.5**power * 1.5, 0.5**power * float(rng.uniform(0.5, 2))):
            assert check(V6, [real], column(acc), f"seed {seed}") == FAST


def test_v6_next_to_a_tie() -> None:
    # Adding one half to the float64 just below a half gives 1: C's round() does not.
    for half in (0.5, 1.5, 2.5, 63.5):
        for real in (np.nextafter(half, 0), half, np.nextafter(half, 99)):
            assert check(V6, [float(real)], column([-1, 1, 0, 2, -2]), "next to a tie") == FAST


def test_v6_of_any_magnitude(seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(1 << 30), 1 << 30, (300, 1)) >> rng.integers(0, 30, (300, 1))
    for power in range(-45, 30, 3):
        check(V6, [2.0 ** (power + rng.random())], acc, f"seed {seed}, factor near 2^{power}")


@pytest.mark.parametrize("rule", [*ONE_FLOOR, V4, V6], ids=lambda rule: rule.rounding.value)
@pytest.mark.parametrize("real", [2.0**-25, 3.1e-8, 0.0])
def test_accumulators_beyond_int32_wrap(rule: Rule, real: float) -> None:
    sums = np.array([(1 << 31) - 1, 1 << 31, -(1 << 31), -(1 << 31) - 1, (1 << 32) + 5, -(1 << 33) - 7, 3])
    for bias in (0, INT32_MAX, INT32_MIN):
        assert check(rule, [real], column(sums), "beyond int32", bias=bias) == GENERAL
    # The last bound whose sums are int32 values, and the first beyond: 2^31 - 1 + 1 is -2^31.
    limit = (1 << 31) - 1
    check(rule, [real], column([limit, -limit, 0]), "the last int32")
    assert check(rule, [real], column([limit, -limit, 0]), "one beyond", bias=1) == GENERAL
    # Channel by channel: one that wraps beside one that does not.
    pair = np.array([[limit, 3], [-limit, -4]])
    check(rule, [real, 0.5], pair, "one of two wraps", bias=np.array([2, 0]))


def test_writes_into_a_slice_of_channels() -> None:
    # Groups write every so many channels of the output: the rest of a row belongs to others.
    out = np.full((4, 6), 99, np.int8)
    for reals in ([0.5, 0.5], [0.5, 2.0**-31]):
        made = epilogue(V1, reals, 100)
        made(np.full((4, 2), 10, np.float32), out[:, 2:4], np.empty((4, 2)))
        assert out.tolist() == [[99, 99, 5, 5 if reals[1] == 0.5 else 0, 99, 99]] * 4
