"""gpuq.cuda.softmax: rows of every length, run thread by thread on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuq.cuda.kernel import Kernel, Launch, Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.softmax import pack
from gpuq.numerics import Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.softmax import SoftmaxSpec, reference
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher, require_tools

__all__ = ["launcher"]

FIXED = Rule(Rounding.FIXED_POINT)
FOLDER = Path(__file__).parent / "host_cuda" / "kernels"


def spec_of(depth: int, dtype: str, scale: float, beta: float = 1.0) -> SoftmaxSpec:
    return SoftmaxSpec(
        depth=depth,
        x_quant=Quant(scale, 3, dtype=dtype),
        out_quant=Quant(1 / 256, np.iinfo(dtype).min, dtype=dtype),
        beta=beta,
    )


@pytest.mark.slow
@pytest.mark.parametrize("align", [4, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_rows_equal_reference(launcher: HostLauncher, dtype: str, align: int, seed: int) -> None:
    rng = np.random.default_rng([seed, align, dtype == "int8"])
    for case in range(scaled(120)):
        largest = 70 if case % 10 else 1500
        depth = align * int(rng.integers(1, largest // align + 1))
        scale = float(np.float32(2.0 ** rng.uniform(-12, 2)))
        spec = spec_of(depth, dtype, scale, float(rng.choice([1.0, 0.5, 3.7])))
        x = random_codes(rng, (int(rng.integers(1, 10)), depth), dtype)
        if rng.random() < 0.4:
            x //= 16  # near one another: nothing underflows
        want = reference(spec, FIXED, x)
        context = f"seed {seed}, case {case}: {spec}"
        names = run_layer(launcher, pack(spec, FIXED), [x], want, rng, context, align=align)
        assert align == 1 or names == ["softmax_warp_u32"]


def test_long_rows_and_sums_that_saturate(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for dtype in ("int8", "uint8"):
        for depth in (511, 512, 1001, 4095, 4096, 4097, 10_000):
            spec = spec_of(depth, dtype, 0.1)
            low = np.iinfo(dtype).min
            near = rng.integers(low, low + 4, (2, depth)).astype(dtype)
            for x in (np.full((2, depth), 7, dtype), near, random_codes(rng, (2, depth), dtype)):
                want = reference(spec, FIXED, x)
                run_layer(launcher, pack(spec, FIXED), [x], want, rng, f"seed {seed}, {spec}")


def test_sums_of_one_lane_saturate(launcher: HostLauncher, seed: int) -> None:
    # 8192 equal codes a lane: their 2^32 must not wrap to nothing.
    spec = spec_of(32 * 8192, "int8", 0.1)
    x = np.full((1, spec.depth), 5, np.int8)
    want = reference(spec, FIXED, x)
    assert set(want.reshape(-1).tolist()) == {-128}
    run_layer(launcher, pack(spec, FIXED), [x], want, np.random.default_rng(seed), "equal codes")


def test_reciprocals(seed: int) -> None:
    """kernels_cuda/fixed_point.cuh against gpuq/ops/fixed_point.py."""
    require_tools()
    rng = np.random.default_rng(seed)
    powers = np.concatenate([(1 << k) + np.arange(-3, 4) for k in range(2, 31)])
    x = np.concatenate([powers, [1, 2, (1 << 31) - 1], rng.integers(1, 1 << 31, 200_000)])
    x = np.concatenate([x, rng.integers(1, 1 << 31, 200_000) >> rng.integers(0, 31, 200_000)])
    x = x[x > 0].astype(np.int32)
    kernel = Kernel("fixed_point_reciprocals", "fixed_point_reciprocals.cu", "fixed_point_reciprocals", (), (32, 1, 1))
    found, bits = np.zeros(x.size, np.int32), np.zeros(x.size, np.int32)
    arguments = (Pointer(x), Pointer(found), Pointer(bits), np.int64(x.size), np.int32(12))
    with HostLauncher(folder=FOLDER) as launcher:
        launcher.launch(Launch(kernel, (2, 1, 1), arguments), seeds=(1,))
    want, want_bits = fixed_point.reciprocal(x.astype(np.int64), 12)
    assert_equal_bits(found, want.astype(np.int32), f"seed {seed}")
    assert_equal_bits(bits, want_bits.astype(np.int32), f"seed {seed}: bits")


def test_every_difference_and_every_sum(launcher: HostLauncher, seed: int) -> None:
    # Two codes of each difference; then n equal ones, whose sum is n, for the reciprocal's whole range.
    rng = np.random.default_rng(seed)
    for scale in (2.0**-12, 0.01, 0.1, 1.0, 2.0**-25, 1e30):
        spec = spec_of(2, "uint8", scale)
        x = np.stack([np.full(256, 255), np.arange(256)], axis=1).astype(np.uint8)
        run_layer(launcher, pack(spec, FIXED), [x], reference(spec, FIXED, x), rng, f"scale {scale}")
    for equal in range(1, 516, 3):
        spec = spec_of(520, "int8", 0.5)
        x = np.full((1, 520), -128, np.int8)
        x[:, :equal] = 127
        x[:, equal] = 126
        run_layer(launcher, pack(spec, FIXED), [x], reference(spec, FIXED, x), rng, f"{equal} equal codes")


def test_tables_on_paper() -> None:
    # exp(0) is 1 in Q0.31, saturated, and 2^19 in the sum. With scale 1, 1 is 2^30 shifted left by 27 bits; the last
    # difference that counts is 31 * 2^26 / 2^27, truncated: 15.
    exps, in_sum = pack(spec_of(3, "int8", 1.0), FIXED).tables.tolist()
    assert (exps[0], in_sum[0]) == ((1 << 31) - 1, 1 << 19)
    assert abs(exps[1] - 2**31 * np.exp(-1.0)) < 2**31 * 1e-6
    assert min(exps[:16]) > 0
    assert exps[16:] == in_sum[16:] == [0] * 240
    layer = pack(spec_of(3, "int8", 1.0), FIXED)
    assert layer.workspace_bytes(1, layer.choices(1, Traits(80, 4))[0]) == 0
