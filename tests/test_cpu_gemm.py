"""gpuq.cpu.gemm: float32 products of integers, exact at the edge of what float32 holds."""

from __future__ import annotations

import numpy as np
import pytest

from gpuq.cpu.gemm import EXACT_FLOAT32, ExactGemm

from .compare import assert_equal_bits
from .launching import noise


def multiplied(gemm: ExactGemm, x: np.ndarray, outputs: int) -> np.ndarray:
    """The product as int64, from scratch full of noise."""
    rng = np.random.default_rng(0)
    part = noise(rng, 4 * x.shape[0] * outputs).view(np.float32).reshape(-1, outputs)
    total = noise(rng, 8 * x.shape[0] * outputs).view(np.float64).reshape(-1, outputs)
    got = gemm(x.astype(np.float32), part, total)
    assert got.dtype == gemm.sum_dtype
    return got.astype(np.int64)


def check(x: np.ndarray, weights: np.ndarray, x_max: int, context: str) -> ExactGemm:
    gemm = ExactGemm.pack(weights, x_max)
    want = x.astype(np.int64) @ weights
    assert_equal_bits(gemm.bounds, np.abs(weights).sum(axis=0) * x_max, f"bounds, {context}")
    assert np.all(np.abs(want) <= gemm.bounds)
    got = multiplied(gemm, x, weights.shape[1])
    assert_equal_bits(got, want, f"{len(gemm.chunks)} chunks, {context}")
    return gemm


def test_chunk_edge() -> None:
    # 1024 taps of 128 * 128 are exactly 2^24, which float32 still holds; one more unit of weight is another chunk.
    weights = np.full((1024, 2), -128)
    x = np.full((3, 1024), -128)
    assert len(check(x, weights, 128, "exactly 2^24").chunks) == 1
    more = np.concatenate([weights, [[0, 1]]])
    wider = np.concatenate([x, [[127]] * 3], axis=1)
    gemm = check(wider, more, 128, "one unit above 2^24")
    assert [(first, last) for first, last, _ in gemm.chunks] == [(0, 1024), (1024, 1025)]
    assert gemm.sum_dtype == np.float64


def test_chunks_follow_the_heaviest_output_channel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # The first column alone would allow one chunk; the second cuts at 514 taps of 255 (514 * 255 * 128 < 2^24).
    weights = np.stack([rng.integers(-1, 2, 2000), np.full(2000, 255)], axis=1)
    gemm = check(rng.integers(-128, 128, (4, 2000)), weights, 128, f"seed {seed}")
    assert [last - first for first, last, _ in gemm.chunks] == [514, 514, 514, 458]


def test_taps_without_weight_cost_nothing() -> None:
    weights = np.zeros((5000, 1), np.int64)
    weights[::1000] = 127
    assert len(check(np.full((1, 5000), 127), weights, 128, "sparse").chunks) == 1
    assert len(check(np.full((2, 70), -128), np.zeros((70, 3), np.int64), 128, "all zero").chunks) == 1


@pytest.mark.parametrize("taps", [1, 1039, 1041, 4097, 70_000])
@pytest.mark.parametrize(("x_code", "weight"), [(-128, -127), (127, 127), (-128, 127), (127, -127), (-128, 255)])
def test_worst_cases(taps: int, x_code: int, weight: int) -> None:
    """All products of one sign: odd totals far beyond 2^24 that float32 cannot hold."""
    check(np.full((2, taps), x_code), np.full((taps, 1), weight), 128, f"{taps} taps of {x_code} * {weight}")


def test_random_codes_of_all_depths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for taps in (1, 2, 63, 257, 1040, 5000, 20_000):
        for low, high in ((-127, 128), (-255, 256)):
            weights = rng.integers(low, high, (taps, 5))
            context = f"seed {seed}, {taps} taps, weights from {low}"
            check(rng.integers(-128, 128, (3, taps)), weights, 128, context)
            check(rng.choice([-128, 127], (3, taps)), np.sign(weights) * (high - 1), 128, f"{context}, extremes")


def test_pack_covers_every_tap_once(seed: int) -> None:
    weights = np.random.default_rng(seed).integers(-255, 256, (3000, 3))
    gemm = ExactGemm.pack(weights, 128)
    assert_equal_bits(np.concatenate([part for _, _, part in gemm.chunks]), weights.astype(np.float32), f"seed {seed}")
    for first, last, part in gemm.chunks:
        assert np.abs(weights[first:last]).sum(axis=0).max() * 128 <= EXACT_FLOAT32
        assert part.flags.c_contiguous
    assert gemm.constant_bytes == weights.size * 4
