"""BATCH_MATMUL and TRANSPOSE_CONV: loops over every product, and the CPU plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant, cpu
from gpuq.cpu import transpose_conv as cpu_transpose_conv
from gpuq.cpu.batch_matmul import BatchMatmulPlan
from gpuq.cuda import batch_matmul as cuda_batch_matmul
from gpuq.numerics import Product, Rounding, Rule, quantize_multiplier
from gpuq.ops.batch_matmul import BatchMatmulSpec
from gpuq.ops.registry import reference
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.window import Window2d

from . import exact
from .compare import assert_equal_bits
from .cuda_layers import launcher
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher
from .launching import launched
from .layers import codes, zero_point

__all__ = ["launcher"]

V1_F32, V1, V3 = Rule(Rounding.V1, Product.F32), Rule(Rounding.V1), Rule(Rounding.V3)


def quant(rng: np.random.Generator, dtype: str, low: float, high: float) -> Quant:
    return Quant(np.float32(2.0 ** rng.uniform(low, high)), zero_point(rng, dtype), dtype=dtype)


# ------------------------------------------------------------------------------------------------------ BATCH_MATMUL

MATRICES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 5), (5, 4)),
    ((2, 3, 5), (2, 5, 1)),
    ((2, 1, 7), (7, 4)),
    ((1, 2, 1, 5), (3, 1, 5, 2)),
    ((2, 3), (2, 3, 2)),
]


@pytest.mark.parametrize(("a_shape", "b_shape"), MATRICES)
@pytest.mark.parametrize("adj_x", [False, True])
@pytest.mark.parametrize("adj_y", [False, True])
def test_batch_matmul(a_shape: tuple[int, ...], b_shape: tuple[int, ...], adj_x: bool, adj_y: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_quant, b_quant = quant(rng, "int8", -6, 0), quant(rng, "int8", -6, 0)
    out_scale = np.float32(a_quant.scalar_scale() * b_quant.scalar_scale() * 2.0 ** rng.integers(4, 9))
    spec = BatchMatmulSpec(
        a_shape=(*a_shape[:-2], *a_shape[:-3:-1]) if adj_x else a_shape,
        b_shape=(*b_shape[:-2], *b_shape[:-3:-1]) if adj_y else b_shape,
        adj_x=adj_x,
        adj_y=adj_y,
        a_quant=a_quant,
        b_quant=b_quant,
        out_quant=Quant(out_scale, zero_point(rng, "int8")),
    )
    a, b = codes(rng, (3, *spec.a_shape), "int8"), codes(rng, (3, *spec.b_shape), "int8")
    real = exact.real_multiplier(a_quant.scalar_scale(), b_quant.scalar_scale(), float(out_scale), product_in_f32=True)
    want = np.empty((3, *spec.output_shape), np.int8)
    for run, *batch, row, column in np.ndindex(*want.shape):
        rank = len(batch)
        total = 0
        for k in range(a_shape[-1]):
            at = [
                # Batch dimensions count from the back, and those of 1 repeat.
                (run, *(0 if size == 1 else i for i, size in zip(batch[rank - len(x[:-2]) :], x[:-2], strict=True)))
                for x in (a_shape, b_shape)
            ]
            left = a[(*at[0], *((k, row) if adj_x else (row, k)))]
            right = b[(*at[1], *((column, k) if adj_y else (k, column)))]
            total += (int(left) - a_quant.scalar_zero_point()) * (int(right) - b_quant.scalar_zero_point())
        want[(run, *batch, row, column)] = exact.clamp(
            exact.v1_real(total, real) + spec.out_quant.scalar_zero_point(), -128, 127
        )
    assert_equal_bits(reference(spec, V1_F32, a, b), want, f"seed {seed}, {spec}")
    plan = cpu.pack(spec, V1_F32, [None, None])
    assert_equal_bits(launched(plan, [a.copy(), b.copy()], want.shape, np.int8, rng), want, f"seed {seed}, {spec}")
    plan = cpu.pack(spec, V1_F32, [None, b[1]])
    fixed = reference(spec, V1_F32, a, b[1:2])
    assert_equal_bits(launched(plan, [a.copy()], want.shape, np.int8, rng), fixed, f"seed {seed}, constant, {spec}")


@pytest.mark.parametrize("depth", [258, 260, 200_000])
def test_batch_matmul_of_large_sums_is_exact(depth: int, seed: int) -> None:
    """Partial sums at the edge of what float32 holds, and beyond even lane by lane; in the end they nearly cancel."""
    rng = np.random.default_rng(seed)
    spec = BatchMatmulSpec(
        a_shape=(16, depth),
        b_shape=(depth, 2),
        a_quant=Quant(1.0, -128),
        b_quant=Quant(1.0),
        out_quant=Quant(8.0),
    )
    a = rng.integers(120, 128, (1, 16, depth)).astype(np.int8)
    b = np.full((1, depth, 2), 127, np.int8)
    b[:, depth // 2 :] = -127
    # Sorted halves sum to within a few products of each other.
    a[:, :, depth // 2 :] = a[:, :, : depth // 2]
    a[:, :, 0] = rng.integers(118, 128, (1, 16))
    plan = cpu.pack(spec, V1_F32, [None, None])
    got = launched(plan, [a.copy(), b.copy()], (1, 16, 2), np.int8, rng)
    want = reference(spec, V1_F32, a, b)
    assert np.unique(want).size > 4, "sums must not saturate"
    assert_equal_bits(got, want, f"seed {seed}, {spec}")


def int16_matmul(depth: int, b_dtype: str, out_scale: float, rows: int = 5, columns: int = 3) -> BatchMatmulSpec:
    one = Quant(1.0, dtype="int16")
    return BatchMatmulSpec(
        a_shape=(rows, depth),
        b_shape=(columns, depth),
        adj_y=True,
        a_quant=one,
        b_quant=Quant(1.0, dtype=b_dtype),
        out_quant=Quant(out_scale, dtype="int16"),
    )


@pytest.mark.parametrize("b_dtype", ["int16", "int8"])
@pytest.mark.parametrize("depth", [1, 7, 600])
def test_batch_matmul_of_int16(launcher: HostLauncher, depth: int, b_dtype: str, seed: int) -> None:
    """Sums in Python integers by V3, on the CPU and by the CUDA kernel; long ones leave int32 and 53 bits of product."""
    rng = np.random.default_rng([seed, depth])
    low = np.iinfo(b_dtype).min
    spec = int16_matmul(depth, b_dtype, float(2.0 ** np.ceil(np.log2(-low * depth**0.5 / 3))) * 1.3, 70, 67)
    a = rng.integers(-32768, 32768, (2, *spec.a_shape)).astype(np.int16)
    b = rng.integers(low, -low, (2, *spec.b_shape)).astype(b_dtype)
    a[0, 0] = b[0, 0] = low
    sums = np.einsum("rmk,rnk->rmn", a.astype(object), b.astype(object))
    multiplier, shift = quantize_multiplier(1 / spec.out_quant.scalar_scale())
    reduced, right = (multiplier + (1 << 15)) >> 16, 15 - shift
    want = np.clip((sums * reduced + (1 << (right - 1))) >> right, -32768, 32767).astype(np.int16)
    assert np.unique(want).size > 1000
    assert_equal_bits(reference(spec, V3, a, b), want, f"seed {seed}, {spec}")
    plan = cpu.pack(spec, V3, [None, None])
    assert isinstance(plan, BatchMatmulPlan)
    assert plan._epilogue.is_fast
    assert_equal_bits(launched(plan, [a, b], want.shape, np.int16, rng), want, f"seed {seed}, {spec}")
    run_layer(launcher, cuda_batch_matmul.pack(spec, V3, [None, None]), [a, b], want, rng, spec, gaps=False, align=2)


def test_batch_matmul_refuses_factors_and_types_of_int16() -> None:
    spec = int16_matmul(2, "int16", 2.0**-7)
    for pack in (cpu.pack, cuda_batch_matmul.pack):
        with pytest.raises(InputValueError, match=r"below 2\^7"):
            pack(spec, V3, [None, None])
    with pytest.raises(InputTypeError, match="second input of int16"):
        replace(spec, a_quant=Quant(1.0), out_quant=Quant(1.0))
    with pytest.raises(InputValueError, match="b_quant must have zero point 0 beside int16, got 3"):
        replace(spec, b_quant=Quant(1.0, 3))


def test_batch_matmul_refuses() -> None:
    one = Quant(1.0)
    quants: dict[str, Any] = dict(a_quant=one, b_quant=one, out_quant=one)
    with pytest.raises(InputValueError, match="3 columns meet 4 rows"):
        BatchMatmulSpec(a_shape=(2, 3), b_shape=(4, 3), **quants)
    with pytest.raises(InputValueError, match="rank 2 or more"):
        BatchMatmulSpec(a_shape=(3,), b_shape=(3, 3), **quants)
    with pytest.raises(InputValueError, match="batch dimensions"):
        BatchMatmulSpec(a_shape=(2, 3, 3), b_shape=(3, 3, 3), **quants)
    with pytest.raises(InputTypeError, match="input of uint8"):
        BatchMatmulSpec(a_shape=(3, 3), b_shape=(3, 3), **(quants | dict(a_quant=Quant(1.0, dtype="uint8"))))


# ---------------------------------------------------------------------------------------------------- TRANSPOSE_CONV


def transpose_conv_case(rng: np.random.Generator, dtype: str, padding: str) -> tuple[Any, ...]:
    """(spec, x, weights, bias) of odd sizes."""
    kernel_h, kernel_w, stride_h, stride_w = (int(v) for v in rng.integers(1, (5, 4, 4, 3)))
    in_h, in_w, in_c, out_c = (int(v) for v in rng.integers(1, (5, 6, 5, 12)))
    out_h, out_w = in_h * stride_h, in_w * stride_w
    if padding == "valid":
        out_h, out_w = (in_h - 1) * stride_h + kernel_h, (in_w - 1) * stride_w + kernel_w
    per_channel = dtype == "int8" and rng.random() < 0.5 and out_c > 1
    weights = codes(rng, (out_c, kernel_h, kernel_w, in_c), dtype)
    scales = np.float32(2.0 ** rng.uniform(-9, -7, out_c if per_channel else 1))
    w_quant = Quant(scales, 0 if dtype == "int8" else zero_point(rng, dtype), 0 if per_channel else None, dtype)
    spec = TransposeConvSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_h=out_h,
        out_w=out_w,
        out_c=out_c,
        window=Window2d.padded(
            padding, out_h, out_w, kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w
        ),
        x_quant=quant(rng, dtype, -6, -4),
        w_quant=w_quant,
        out_quant=quant(rng, dtype, -6, -3),
        activation=rng.choice(np.array([None, "relu", "relu6"], object)),
        padding=padding,
    )
    bias = None if rng.random() < 0.3 else rng.integers(-3000, 3000, out_c).astype(np.int32)
    return spec, codes(rng, (3, in_h, in_w, in_c), dtype), weights, bias


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("dtype", "rule"),
    [
        ("int8", V1),
        ("uint8", V1_F32),
        ("int8", Rule(Rounding.V2)),
        ("int8", Rule(Rounding.V1U_BLOCK8)),
        ("uint8", Rule(Rounding.V1U_BLOCK16, Product.F32)),
    ],
)
@pytest.mark.parametrize("number", range(6))
def test_transpose_conv(padding: str, dtype: str, rule: Rule, number: int, seed: int) -> None:
    rng = np.random.default_rng([seed, number])
    spec, x, weights, bias = transpose_conv_case(rng, dtype, padding)
    in_blocks = rule.rounding in (Rounding.V1U_BLOCK8, Rounding.V1U_BLOCK16)
    if in_blocks:
        # One run is of three images; ties, and no clamp where they round otherwise.
        weights, bias = weights // 8 * 8, None if bias is None else bias // 64 * 64
        one = Quant(1.0, spec.w_quant.zero_points[0] // 8 * 8, dtype=dtype)
        out_quant = Quant(2.0**7, spec.out_quant.zero_point, dtype=dtype)
        x_quant = replace(spec.x_quant, scale=1.0)
        spec = replace(spec, images=3, activation=None, x_quant=x_quant, w_quant=one, out_quant=out_quant)
        x = x // 8 * 8 + np.asarray(x_quant.scalar_zero_point() % 8, x.dtype)
    window = spec.window
    acc = np.zeros((3, *spec.output_shape), np.int64)
    w_zeros = np.broadcast_to(spec.w_quant.zero_points, spec.out_c)
    # The scatter of the runtimes, element by element.
    for n, i, j, c in np.ndindex(*x.shape):
        value = int(x[n, i, j, c]) - spec.x_quant.scalar_zero_point()
        for o, kh, kw in np.ndindex(spec.out_c, window.kernel_h, window.kernel_w):
            row, column = i * window.stride_h - window.pad_top + kh, j * window.stride_w - window.pad_left + kw
            if 0 <= row < spec.out_h and 0 <= column < spec.out_w:
                acc[n, row, column, o] += value * (int(weights[o, kh, kw, c]) - int(w_zeros[o]))
    if bias is not None:
        acc += bias
    out_scale, zero = exact.scale_of(spec.out_quant.scalar_scale()), spec.out_quant.scalar_zero_point()
    low = zero if spec.activation else spec.out_quant.qmin
    high = exact.bound_code(6, out_scale, zero) if spec.activation == "relu6" else spec.out_quant.qmax
    want = np.empty(acc.shape, dtype)
    for index in np.ndindex(*acc.shape):
        scale = spec.w_quant.scales[index[-1] if spec.w_quant.is_per_channel else 0]
        real = exact.real_multiplier(
            spec.x_quant.scalar_scale(), scale, spec.out_quant.scalar_scale(), product_in_f32=dtype == "uint8"
        )
        if rule.rounding is Rounding.V1U_BLOCK16:
            requantize = exact.by_channel("v1u_block16", int(np.ravel_multi_index(index, acc.shape)), acc.size)
        else:
            requantize = exact.by_channel(rule.rounding.value, index[-1], spec.out_c)
        code = exact.clamp(requantize(int(acc[index]), real) + zero, low, min(high, spec.out_quant.qmax))
        want[index] = code
    assert_equal_bits(reference(spec, rule, x, weights, bias), want, f"seed {seed}, {spec}")
    plan = cpu.pack(spec, rule, [None, weights, bias])
    assert plan.name == "transpose_conv_sgemm"
    assert_equal_bits(launched(plan, [x.copy()], want.shape, dtype, rng), want, f"seed {seed}, {spec}")


@pytest.mark.parametrize("block_bytes", [1, 1 << 12])
def test_transpose_conv_by_blocks_of_rows(block_bytes: int, seed: int) -> None:
    """Blocks of one row, and of a few that do not divide the image."""
    with mock.patch.object(cpu_transpose_conv, "BLOCK_BYTES", block_bytes):
        for number in range(20):
            rng = np.random.default_rng([seed, number])
            spec, x, weights, bias = transpose_conv_case(rng, "int8", "same" if number % 2 else "valid")
            want = reference(spec, V1, x, weights, bias)
            plan = cpu.pack(spec, V1, [None, weights, bias])
            assert_equal_bits(launched(plan, [x.copy()], want.shape, "int8", rng), want, f"seed {seed}, {spec}")


def test_transpose_conv_of_a_large_image_takes_little_scratch() -> None:
    spec = TransposeConvSpec(
        in_h=256,
        in_w=256,
        in_c=32,
        out_h=512,
        out_w=512,
        out_c=16,
        window=Window2d.padded("same", 512, 512, kernel_h=4, kernel_w=4, stride_h=2, stride_w=2),
        x_quant=Quant(1.0),
        w_quant=Quant(1.0),
        out_quant=Quant(1.0),
    )
    plan = cpu.pack(spec, V1, [None, np.ones(spec.weights_shape, np.int8), None])
    sums = 8 * 512 * 512 * 16
    assert plan.workspace_bytes(5) < sums + (1 << 23)


def test_transpose_conv_by_hand() -> None:
    # A kernel of 1 2 3 with stride 2 writes [1 2 3+4 8 12] for the pixels 1 and 4.
    spec = TransposeConvSpec(
        in_h=1,
        in_w=2,
        in_c=1,
        out_h=1,
        out_w=5,
        out_c=1,
        window=Window2d(kernel_h=1, kernel_w=3, stride_w=2),
        x_quant=Quant(1.0),
        w_quant=Quant(1.0),
        out_quant=Quant(1.0, 10),
    )
    weights = np.array([1, 2, 3], np.int8).reshape(1, 1, 3, 1)
    x = np.array([1, 4], np.int8).reshape(1, 1, 2, 1)
    assert reference(spec, V1, x, weights).reshape(-1).tolist() == [11, 12, 17, 18, 22]
    assert spec.macs == 6


def test_transpose_conv_refuses() -> None:
    good: dict[str, Any] = dict(
        in_h=1,
        in_w=1,
        in_c=2,
        out_h=1,
        out_w=1,
        out_c=2,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=Quant(1.0),
        w_quant=Quant(1.0),
        out_quant=Quant(1.0),
    )
    for change, message in (
        (dict(out_h=0), "out_h=0"),
        (dict(window=Window2d(kernel_h=2, kernel_w=1, dilation_h=2)), "dilation is not defined"),
        (dict(w_quant=Quant([1.0, 1.0], axis=3)), "axis 3"),
        (dict(w_quant=Quant(1.0, 3)), "zero point 0"),
        (dict(images=0), "images=0"),
        (dict(padding="full"), "padding 'full' must be 'same' or 'valid'"),
    ):
        with pytest.raises(InputValueError, match=message):
            TransposeConvSpec(**(good | change))
    spec = TransposeConvSpec(**good)
    with pytest.raises(InputValueError, match="weights of shape"):
        cpu.pack(spec, V1, [None, np.zeros((2, 1, 1, 3), np.int8), None])
    with pytest.raises(InputValueError, match="weights must be constant"):
        cpu.pack(spec, V1, [None, None, None])
