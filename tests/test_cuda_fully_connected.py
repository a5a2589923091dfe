"""gpuq.cuda.fully_connected: the convolution's kernels on rows, few and many, short and longer than 2^16."""

from __future__ import annotations

import numpy as np
import pytest

from gpuq.cuda.conv2d import DIRECT_TILES, IGEMM_TILES, Conv2dChoice
from gpuq.cuda.conv2d_gemm import PADDED_K, IgemmTile
from gpuq.cuda.fully_connected import pack
from gpuq.cuda.layer import Traits
from gpuq.numerics import Bounds, Product, Rounding, Rule
from gpuq.ops.fully_connected import FullyConnectedSpec, reference
from gpuq.quant import Quant

from .cuda_layers import (
    RULES,
    Rules,
    cases,
    check_layer,
    dealt,
    launcher,
    random_bias,
    random_codes,
    random_quants,
)
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

# (uint8, bytes of one load, clamps, splits of K)
KINDS = ((False, 16, False, 1), (True, 1, False, 1), (False, 4, True, 2), (False, 1, True, 1), (True, 16, True, 3))
CHOICES = (*(Conv2dChoice(tile) for tile in DIRECT_TILES), Conv2dChoice(IGEMM_TILES[-1]), Conv2dChoice(IGEMM_TILES[0]))
DEALT = dealt(len(CHOICES), len(KINDS))


def random_spec(
    rng: np.random.Generator, unsigned: bool, vec: int, clamps: bool, rules: Rules, in_c: int | None = None
) -> FullyConnectedSpec:
    in_c = in_c or (vec * int(rng.integers(1, 40)) if vec > 1 else int(rng.integers(1, 300)))
    out_c = int(rng.integers(1, 68))
    quants = random_quants(rng, rules, unsigned, clamps, out_c, 0, in_c)
    if not unsigned and rng.random() < 0.3:
        # int8 weights with a zero point: FULLY_CONNECTED alone has them.
        scale = float(quants["w_quant"].scales.max())
        quants["w_quant"] = Quant(scale or 0.01, int(rng.integers(-128, 128)))
    return FullyConnectedSpec(in_c=in_c, out_c=out_c, **quants)


def check(
    launcher: HostLauncher,
    spec: FullyConnectedSpec,
    rule: Rule,
    choice: Conv2dChoice,
    rng: np.random.Generator,
    context: str,
    align: int,
) -> None:
    weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
    bias = random_bias(rng, spec.out_c)
    x = random_codes(rng, (int(rng.integers(1, 40)) if spec.in_c < 1000 else 2, spec.in_c), spec.x_quant.dtype)
    layer = pack(spec, rule, weights, bias)
    if isinstance(choice.tile, IgemmTile):
        choice = Conv2dChoice(choice.tile, min(choice.splits, layer.conv2d.padded_k // PADDED_K))
    want = reference(spec, rule, x, weights, bias)
    check_layer(launcher, layer, choice, x, want, rng, f"{context}: {choice}, {spec}", align)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "rule", "kind"), DEALT, ids=[f"{CHOICES[row].name}-{RULES[rule]}-{kind}" for row, rule, kind in DEALT]
)
def test_kernel_equals_reference(launcher: HostLauncher, row: int, rule: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, row, rule, kind])
    unsigned, vec, clamps, splits = KINDS[kind]
    # The kernels are the convolution's, which have met their layers in its own tests.
    for case in range(-(-cases(len(KINDS)) // 4)):
        spec = random_spec(rng, unsigned, vec, clamps, RULES[rule])
        choice = Conv2dChoice(CHOICES[row].tile, splits)
        context = f"seed {seed}, row {row}, rule {rule}, kind {kind}, case {case}"
        check(launcher, spec, RULES[rule].rule, choice, rng, context, vec)


@pytest.mark.parametrize("choice", CHOICES[:3], ids=lambda choice: choice.name)
@pytest.mark.parametrize("in_c", [(1 << 16) + 16, 140_000])
def test_sums_of_more_than_2_to_the_16_taps(launcher: HostLauncher, choice: Conv2dChoice, in_c: int, seed: int) -> None:
    rng = np.random.default_rng([seed, in_c])
    # Codes and weights of one sign: the sums wrap modulo 2^32.
    spec = FullyConnectedSpec(
        in_c=in_c, out_c=3, x_quant=Quant(0.5, 127), w_quant=Quant(2.0**-20), out_quant=Quant(0.5)
    )
    weights = np.full(spec.weights_shape, -128, np.int8)
    weights[1] = 127
    x = np.full((2, in_c), -128, np.int8)
    layer = pack(spec, Rule(Rounding.V6), weights, None)
    want = reference(spec, Rule(Rounding.V6), x, weights)
    check_layer(launcher, layer, choice, x, want, rng, f"seed {seed}: {choice}", align=16)
    check(launcher, random_spec(rng, False, 16, False, RULES[0], in_c), Rule(Rounding.V1), choice, rng, "", 16)


@pytest.mark.parametrize("choice", [CHOICES[0], CHOICES[-1]], ids=lambda choice: choice.name)
def test_sums_of_28_bits(launcher: HostLauncher, choice: Conv2dChoice, seed: int) -> None:
    rng, rule = np.random.default_rng(seed), Rule(Rounding.V4_INT28, Product.ALL_F32, Bounds.EVEN)
    for near in (1 << 10, (1 << 27) - 3000, (1 << 31) - 3000):
        spec = FullyConnectedSpec(
            in_c=6,
            out_c=4,
            x_quant=Quant(0.5),
            w_quant=Quant(0.5),
            out_quant=Quant(2.0**-2 * near / 100),
            weight_bits=4,
        )
        x, weights = random_codes(rng, (5, 6), np.int8), rng.integers(-8, 8, (4, 6)).astype(np.int8)
        bias = (near + rng.integers(0, 3000, 4)).astype(np.int32)
        layer = pack(spec, rule, weights, bias)
        assert layer.conv2d.epilogue.rule == ("RULE_V4" if near == 1 << 10 else "RULE_V4_INT28")
        want = reference(spec, rule, x, weights, bias)
        check_layer(launcher, layer, choice, x, want, rng, f"seed {seed}, {near}: {choice}")


def test_vectors_are_not_tiled() -> None:
    spec = FullyConnectedSpec(in_c=1280, out_c=1001, x_quant=Quant(0.5), w_quant=Quant(0.1), out_quant=Quant(0.5))
    layer = pack(spec, Rule(Rounding.V6), np.zeros(spec.weights_shape, np.int8), None)
    assert layer.choices(1, Traits(90, 132))[0].tile in DIRECT_TILES
    assert layer.choices(4096, Traits(90, 132))[0].tile in IGEMM_TILES[:3]
    assert layer.x_shapes == ((1, 1, 1280),)
    assert layer.y_shape == (1, 1, 1001)
