"""kernels_cuda/requantize.cuh, compiled by the host's compiler, against gpuq/numerics.py: ties, extremes, random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuq import numerics
from gpuq.cuda.epilogue import pack_factors
from gpuq.cuda.kernel import Kernel, Launch, Pointer
from gpuq.numerics import Rounding

from .compare import assert_equal_bits
from .host_cuda.runner import HostLauncher, require_tools

FOLDER = Path(__file__).parent / "host_cuda" / "kernels"
RANDOM = 10_000_000 // 6
INT32 = np.iinfo(np.int32)


def run(rule: str, acc: np.ndarray, factors: np.ndarray, zero_point: int) -> np.ndarray:
    require_tools()
    kernel = Kernel(
        name=f"requantize_rules_{rule}",
        source="requantize_rules.cu",
        entry="requantize_rules",
        defines=(("RULE", rule), ("SUM", "long long" if acc.dtype == np.int64 else "int")),
        threads=(32, 1, 1),
    )
    codes = np.zeros(acc.size, np.int32)
    arguments = (Pointer(acc), Pointer(factors), Pointer(codes), np.int64(acc.size), np.int32(zero_point))
    with HostLauncher(folder=FOLDER) as launcher:
        launcher.launch(Launch(kernel, (2, 1, 1), arguments), seeds=(1,))
    return codes


def sums_and_shifts(rng: np.random.Generator, lowest: int, highest: int) -> tuple[np.ndarray, ...]:
    """(acc, multiplier, shift): random ones of every magnitude, ties of both signs, extremes."""
    shift = rng.integers(lowest, highest + 1, RANDOM)
    acc = rng.integers(INT32.min, INT32.max + 1, RANDOM) >> rng.integers(0, 31, RANDOM)
    multiplier = rng.integers(1 << 30, 1 << 31, RANDOM)
    # With m = 2^30, h is acc / 2: acc = (2 k + 1) * 2^right lies on a tie of the right shift.
    rights = np.repeat(np.arange(0, 31), 201)
    ties = np.clip((2 * np.tile(np.arange(-100, 101), 31) + 1) << rights, INT32.min, INT32.max)
    ends = np.array([INT32.min, INT32.min + 1, -1, 0, 1, INT32.max - 1, INT32.max])
    edges = np.array(np.meshgrid(ends, [1 << 30, (1 << 31) - 1], np.arange(lowest, highest + 1))).reshape(3, -1)
    return (
        np.concatenate([acc, ties, edges[0]]),
        np.concatenate([multiplier, np.full(ties.size, 1 << 30), edges[1]]),
        np.concatenate([shift, np.clip(-rights, lowest, highest), edges[2]]),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "requantize", "highest"),
    [
        ("RULE_V1", numerics.requantize_v1, 30),
        ("RULE_V1U", numerics.requantize_v1u, 30),
        ("RULE_V2", numerics.requantize_v2, 30),
    ],
)
def test_fixed_point_rules(rule: str, requantize: Any, highest: int, seed: int) -> None:
    acc, multiplier, shift = sums_and_shifts(np.random.default_rng(seed), -31, highest)
    factors = np.stack([multiplier, shift], axis=1).astype(np.int32)
    got = run(rule, acc.astype(np.int32), factors, 0)
    want = numerics.wrap_int32(requantize(acc, multiplier, shift)).astype(np.int32)
    assert_equal_bits(got, want, f"{rule} seed {seed}")


@pytest.mark.slow
def test_v3_on_64_bit_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(1 << 47), 1 << 47, RANDOM) >> rng.integers(0, 46, RANDOM)
    multiplier, shift = rng.integers(1 << 30, 1 << 31, RANDOM), rng.integers(-31, 8, RANDOM)
    multiplier[: RANDOM // 4] = 0x7FFF0000 + rng.integers(-2, 3, RANDOM // 4)
    got = run("RULE_V3", acc, np.stack([multiplier, shift], axis=1).astype(np.int32), 0)
    assert_equal_bits(got, numerics.requantize_v3(acc, multiplier, shift).astype(np.int32), f"seed {seed}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "dtype", "requantize"),
    [
        ("RULE_V4", np.float32, numerics.requantize_v4),
        ("RULE_V4_INT28", np.float32, numerics.requantize_v4_int28),
        ("RULE_V6", np.float64, numerics.requantize_v6),
    ],
)
def test_floating_point_rules(rule: str, dtype: type, requantize: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(INT32.min, INT32.max + 1, RANDOM) >> rng.integers(0, 31, RANDOM)
    reals = (2.0 ** rng.uniform(-32, 8, RANDOM)).astype(dtype)
    reals[: RANDOM // 2] = 2.0 ** rng.integers(-20, 1, RANDOM // 2)  # exact ties
    want = np.clip(requantize(acc, reals), INT32.min, INT32.max).astype(np.int32)
    assert_equal_bits(run(rule, acc.astype(np.int32), reals, 0), want, f"{rule} seed {seed}")


@pytest.mark.slow
def test_right_shifts_with_zero_points_folded(seed: int) -> None:
    """V1_RIGHT as packing makes it, dead channels included, equals V1 for every sum within the channel's bound."""
    rng = np.random.default_rng(seed)
    channels, per_channel = 20_000, 60
    reals = 2.0 ** rng.uniform(-34, -1, channels)
    bias = rng.integers(-(1 << 18), 1 << 18, channels)
    bounds = rng.integers(0, 1 << 20, channels)
    bounds[::7] = 0
    reals[1::5] = 2.0 ** rng.integers(-20, -1, reals[1::5].size)  # multiplier 2^30: ties, and sums around zero
    bias[1::5], bounds[1::5] = 0, 40
    zero_point = int(rng.integers(-128, 128))
    keep = np.ones(channels, bool)
    for channel in range(channels):  # the layers that pack to V1_RIGHT are those all of whose channels do
        one = slice(channel, channel + 1)
        _, macro, _ = pack_factors(Rounding.V1, reals[one], bias[one], bounds[one], zero_point)
        keep[channel] = macro == "RULE_V1_RIGHT"
    assert keep.mean() > 0.8, "most channels must be of the fast kind"
    reals, bias, bounds = reals[keep], bias[keep], bounds[keep]
    factors, macro, constant = pack_factors(Rounding.V1, reals, bias, bounds, zero_point)
    assert macro == "RULE_V1_RIGHT"
    inside = rng.integers(-bounds, bounds + 1, (per_channel, bounds.size))
    inside[0], inside[1] = -bounds, bounds
    acc = bias + inside
    want = numerics.requantize(acc, Rounding.V1, reals).reshape(-1) + zero_point
    # Channels of one code are packed so that their sums are 0.
    acc = np.where(constant, 0, acc).astype(np.int32).reshape(-1)
    got = run(macro, acc, np.tile(factors, (per_channel, 1)), zero_point)
    assert_equal_bits(got, want.astype(np.int32), f"seed {seed}")
