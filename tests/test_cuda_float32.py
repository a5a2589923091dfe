"""float32 on the CUDA kernels, run thread by thread on the CPU: the bits of the reference, special values among them."""

from __future__ import annotations

import numpy as np
import pytest

from gpuq.cuda import arg_max, batch_matmul, numbers, resize, transpose_conv
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.layout import ImageLayout
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.float32.elementwise import UNARY_SPECS
from gpuq.ops.float32.exponential import expm1, tanhf
from gpuq.ops.float32.weighted import FloatBatchMatmulSpec, FloatTransposeConvSpec
from gpuq.ops.registry import reference
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.spec import FLOAT32, INT32, INT64
from gpuq.ops.window import Window2d

from .compare import assert_equal_bits
from .cuda_layers import launcher, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

F = np.float32
IN_ORDER = Rule(Rounding.FLOAT32)
SPECIAL = np.array([0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 9.02, 17.4, -17.4, -40.1, -88], F)


def test_exponentials_are_the_nearest_float32(seed: int) -> None:
    # All 286 million float32 values from 1e-9 to 18.5 were compared once; here some of each power of two.
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.uniform(1, 2, (40, 5000)), rng.integers(-30, 5, (40, 1))).astype(F)
    exact = x.astype(np.longdouble)
    assert_equal_bits(tanhf(x), np.tanh(exact).astype(F), f"seed {seed}")
    assert_equal_bits(tanhf(-x), -np.tanh(exact).astype(F), f"seed {seed}")
    assert_equal_bits(expm1(-x.astype(np.float64)).astype(F), np.expm1(-exact).astype(F), f"seed {seed}")


@pytest.mark.parametrize("op", ["TANH", "ELU"])
def test_unary(launcher: HostLauncher, op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.normal(size=2000), rng.integers(-30, 7, 2000)).astype(F)
    x = np.concatenate([SPECIAL, x])[None]
    spec = UNARY_SPECS[op](shape=x.shape[1:])
    layer = numbers.pack(spec, IN_ORDER, [None])
    run_layer(launcher, layer, [x], reference(spec, IN_ORDER, x), rng, f"seed {seed}")
    # Of what is not a number no bits are promised.
    y = np.zeros(1, F)
    spec = UNARY_SPECS[op](shape=(1,))
    one = ImageLayout.contiguous(1, 1, 1, 1, itemsize=4)
    layer = numbers.pack(spec, IN_ORDER, [None])
    assert layer is not None
    (launch,) = layer.launches(layer.choices(1, launcher.traits)[0], [one], one)
    launcher.launch(launch.bound({"x": Pointer(np.array([np.nan], F)), "y": Pointer(y)}))
    assert np.isnan(y).all()
    assert np.isnan(reference(spec, IN_ORDER, np.array([[np.nan]], F))).all()


def test_arg_max(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = set()
    for case in range(scaled(60)):
        rank = int(rng.integers(1, 5))
        shape = [int(n) for n in rng.integers(1, 6, rank)]
        axis = int(rng.integers(rank))
        if case % 2:
            axis, shape[-1] = rank - 1, int(rng.integers(60, 200))
        spec = ArgMaxSpec(x_shape=tuple(shape), axis=axis, dtype=FLOAT32, out_dtype=(INT32, INT64)[case % 4 // 2])
        x = rng.normal(size=(int(rng.integers(1, 4)), *shape)).astype(F)
        if rng.random() < 0.5:
            x = np.round(x)  # equal ones, -0 among them: the first one wins
        if rng.random() < 0.4:
            x.reshape(-1)[rng.integers(x.size, size=3)] = rng.choice([np.inf, -np.inf, np.nan, -np.nan], 3)
        want = reference(spec, Rule(Rounding.EXACT), x)
        layer = arg_max.pack(spec, Rule(Rounding.EXACT))
        names |= set(run_layer(launcher, layer, [x], want, rng, f"seed {seed}, case {case}: {spec}", gaps=False))
    assert {name.rsplit("_", 1)[0] for name in names} == {"arg_max_any_f32", "arg_max_warp_f32"}


def test_batch_matmul(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(scaled(24)):
        rows, depth, columns = (int(n) for n in rng.integers(1, (12, 80)[case % 4 == 0], 3))
        adj_x, adj_y = (bool(flag) for flag in rng.integers(0, 2, 2))
        batch = [int(n) for n in rng.integers(1, 4, int(rng.integers(0, 3)))]
        shapes = [(depth, rows) if adj_x else (rows, depth), (columns, depth) if adj_y else (depth, columns)]
        lead = [[n if rng.random() < 0.6 else 1 for n in batch] for _ in shapes]
        a_shape, b_shape = ((*before, *shape) for before, shape in zip(lead, shapes, strict=True))
        spec = FloatBatchMatmulSpec(a_shape=a_shape, b_shape=b_shape, adj_x=adj_x, adj_y=adj_y)
        runs = int(rng.integers(1, 4))
        a, b = (rng.normal(size=(runs, *shape)).astype(F) for shape in (a_shape, b_shape))
        if rng.random() < 0.4:
            a *= F(0)  # products of either zero, and sums that stay -0
        constants: list[np.ndarray | None] = [None, None]
        if rng.random() < 0.4:
            which = int(rng.integers(2))
            constants[which] = (a, b)[which][0]
            a, b = (constants[0][None], b) if constants[0] is not None else (a, b[:1])
        given = [x for x, constant in zip((a, b), constants, strict=True) if constant is None]
        want = reference(spec, IN_ORDER, a, b)
        layer = batch_matmul.pack(spec, IN_ORDER, constants)
        run_layer(launcher, layer, given, want, rng, f"seed {seed}, case {case}: {spec}", gaps=False)


def random_transpose_conv(rng: np.random.Generator) -> FloatTransposeConvSpec:
    kernel_h, kernel_w, stride_h, stride_w = (int(n) for n in rng.integers(1, 5, 4))
    in_h, in_w, in_c, out_c = (int(n) for n in rng.integers(1, 7, 4))
    pads = {f"pad_{side}": int(rng.integers(3)) for side in ("top", "left")}
    return FloatTransposeConvSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_h=max(1, (in_h - 1) * stride_h + kernel_h - int(rng.integers(4))),
        out_w=max(1, (in_w - 1) * stride_w + kernel_w - int(rng.integers(4))),
        out_c=out_c,
        window=Window2d(kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w, **pads),
        activation=(None, "relu", "relu6")[rng.integers(3)],
    )


def test_transpose_conv(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(scaled(20)):
        spec = random_transpose_conv(rng)
        weights = rng.normal(size=spec.weights_shape).astype(F)
        bias = rng.normal(size=spec.out_c).astype(F) if rng.random() < 0.7 else None
        x = rng.normal(size=(int(rng.integers(1, 4)), spec.in_h, spec.in_w, spec.in_c)).astype(F)
        want = reference(spec, IN_ORDER, x, weights, bias)
        layer = transpose_conv.pack(spec, IN_ORDER, weights, bias)
        run_layer(launcher, layer, [x], want, rng, f"seed {seed}, case {case}: {spec}")
    weights[0, 0, 0, 0] = np.inf
    with pytest.raises(InputValueError, match="TRANSPOSE_CONV: on a GPU weights must be finite"):
        transpose_conv.pack(spec, IN_ORDER, weights, bias)


def test_transposed_pixels_without_taps_see_no_input(launcher: HostLauncher) -> None:
    # A window of 1 at a stride of 2: every other pixel is nothing but the bias, whatever the input holds.
    window = Window2d(kernel_h=1, kernel_w=1, stride_h=2, stride_w=2)
    spec = FloatTransposeConvSpec(in_h=2, in_w=2, in_c=1, out_h=3, out_w=3, out_c=1, window=window)
    x = np.array([np.inf, 1, -np.inf, 2], F).reshape(1, 2, 2, 1)
    weights, bias = np.ones((1, 1, 1, 1), F), np.array([3], F)
    want = np.array([np.inf, 3, 4, 3, 3, 3, -np.inf, 3, 5], F).reshape(1, 3, 3, 1)
    assert_equal_bits(reference(spec, IN_ORDER, x, weights, bias), want, "reference")
    layer = transpose_conv.pack(spec, IN_ORDER, weights, bias)
    run_layer(launcher, layer, [x], want, np.random.default_rng(1), "without taps", gaps=False)


def test_resize_bilinear(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(scaled(40)):
        in_h, in_w, in_c, out_h, out_w = (int(n) for n in rng.integers(1, 12, 5))
        corners, centers = ((False, False), (True, False), (False, True))[case % 3]
        spec = ResizeBilinearSpec(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_h=out_h,
            out_w=out_w,
            align_corners=corners,
            half_pixel_centers=centers,
            dtype=FLOAT32,
        )
        x = rng.normal(size=(int(rng.integers(1, 4)), in_h, in_w, in_c)).astype(F)
        layer = resize.pack(spec, IN_ORDER)
        want = reference(spec, IN_ORDER, x)
        names = run_layer(launcher, layer, [x], want, rng, f"seed {seed}, case {case}: {spec}")
        assert names == ["resize_bilinear_f32"]
