"""gpuq.cuda.conv2d: packing, tables, choices, and the kernels themselves, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpuq.cuda.conv2d import DIRECT_TILES, IGEMM_TILES, Conv2dChoice, choices, pack
from gpuq.cuda.conv2d_gemm import PADDED_K, k_table
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, reference
from gpuq.ops.window import Window2d
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


@dataclass(frozen=True)
class Kind:
    """What a kernel is compiled for beside its tile and rule."""

    unsigned: bool
    vec: int
    clamps: bool = False
    splits: int = 1


KINDS = (
    Kind(unsigned=False, vec=16),
    Kind(unsigned=True, vec=1, clamps=True),
    Kind(unsigned=False, vec=4, clamps=True, splits=3),
    Kind(unsigned=True, vec=16, splits=2),
    Kind(unsigned=False, vec=1),
    Kind(unsigned=True, vec=8, clamps=True),
)
CHOICES = tuple(Conv2dChoice(tile) for tile in (*IGEMM_TILES, *DIRECT_TILES))
DEALT = dealt(len(CHOICES), len(KINDS))


def channels(rng: np.random.Generator, vec: int) -> int:
    """Channels of a group for which the kernel loads this many bytes at once."""
    if vec == 1:
        return int(rng.choice([c for c in range(1, 68) if c % 4]))
    return vec * int(rng.choice([k for k in range(1, 5) if vec == 16 or k % 2 == 1]))


def random_spec(rng: np.random.Generator, kind: Kind, rules: Rules) -> Conv2dSpec:
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    group_in, out_c = channels(rng, kind.vec), groups * int(rng.integers(1, 45))
    kernel_h, kernel_w = (int(size) for size in rng.integers(1, 4, 2))
    dilation_h, dilation_w = (int(rate) for rate in rng.integers(1, 3, 2))
    pads = [int(pad) for pad in rng.choice([0, 0, 1, 2, 5], 4)]
    in_h = max(1, (kernel_h - 1) * dilation_h + 1 - pads[0] - pads[1]) + int(rng.integers(0, 7))
    in_w = max(1, (kernel_w - 1) * dilation_w + 1 - pads[2] - pads[3]) + int(rng.integers(0, 7))
    window = Window2d(
        kernel_h=kernel_h,
        kernel_w=kernel_w,
        stride_h=int(rng.integers(1, 4)),
        stride_w=int(rng.integers(1, 4)),
        dilation_h=dilation_h,
        dilation_w=dilation_w,
        pad_top=pads[0],
        pad_bottom=pads[1],
        pad_left=pads[2],
        pad_right=pads[3],
    )
    taps = window.taps * group_in
    return Conv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=groups * group_in,
        out_c=out_c,
        window=window,
        groups=groups,
        **random_quants(rng, rules, kind.unsigned, kind.clamps, out_c, 0, taps),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "rule", "kind"), DEALT, ids=[f"{CHOICES[row].name}-{RULES[rule]}-{kind}" for row, rule, kind in DEALT]
)
def test_kernel_equals_reference(launcher: HostLauncher, row: int, rule: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, row, rule, kind])
    rules, wanted, choice = RULES[rule], KINDS[kind], CHOICES[row]
    for case in range(cases(len(KINDS))):
        spec = random_spec(rng, wanted, rules)
        weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
        bias = random_bias(rng, spec.out_c)
        images = int(rng.integers(1, 4))
        x = random_codes(rng, (images, spec.in_h, spec.in_w, spec.in_c), spec.x_quant.dtype)
        layer = pack(spec, rules.rule, weights, bias)
        if choice in CHOICES[: len(IGEMM_TILES)]:
            choice = replace(choice, splits=min(wanted.splits, layer.padded_k // PADDED_K))
        want = reference(spec, rules.rule, x, weights, bias)
        context = f"seed {seed}, row {row}, rule {rule}, kind {kind}, case {case}: {choice}, {spec}"
        check_layer(launcher, layer, choice, x, want, rng, context, align=wanted.vec)


def plain(in_c: int = 16, out_c: int = 32, size: int = 14, kernel: int = 3, **more: object) -> Conv2dSpec:
    window = Window2d.padded("same", size, size, kernel_h=kernel, kernel_w=kernel)
    quants = {"x_quant": Quant(0.5, 3), "w_quant": Quant(0.25), "out_quant": Quant(2.0, -1)} | more
    return Conv2dSpec(in_h=size, in_w=size, in_c=in_c, out_c=out_c, window=window, **quants)  # type: ignore[arg-type]


def test_packing_on_paper() -> None:
    # One pixel, three channels, weights 1 2 3 and 4 5 6, x zero point 3: bias - 3 * 6 and bias - 3 * 15.
    spec = Conv2dSpec(
        in_h=1,
        in_w=1,
        in_c=3,
        out_c=2,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=Quant(0.5, 3),
        w_quant=Quant(0.25),
        out_quant=Quant(0.5, 7),
    )
    weights = np.arange(1, 7, dtype=np.int8).reshape(2, 1, 1, 3)
    layer = pack(spec, Rule(Rounding.V1), weights, np.array([100, 200], np.int32))
    assert layer.weights.shape == (1, 128, PADDED_K)
    assert layer.weights[0, :3, :4].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0]]
    assert layer.weights.astype(np.int64).sum() == 21
    assert layer.constants["bias"][:3].tolist() == [82, 155, 0]
    # 0.5 * 0.25 / 0.5 = 0.25 = 2^30 * 2^(-1 - 31): right by 1, half 1, zero point 7 * 2; and 2 * 2^30 - 2^32 = -2^31.
    assert layer.epilogue.rule == "RULE_V1_RIGHT"
    factor = [-(1 << 31), 1, -(1 << 31), 15]
    assert layer.constants["factors"][:3].tolist() == [factor, factor, [0, 0, 0, 0]]
    assert layer.window_factor == 0


def test_weights_with_a_zero_point_need_window_sums() -> None:
    quants = {"x_quant": Quant(0.5, 3, dtype="uint8"), "w_quant": Quant(0.25, 130, dtype="uint8")}
    spec = plain(out_quant=Quant(2.0, 9, dtype="uint8"), **quants)
    weights = np.full(spec.weights_shape, 131, np.uint8)
    layer = pack(spec, Rule(Rounding.V1), weights, None)
    # As int8 the weights are 3 and their zero point 2; K = 144 taps of 1 for the bias: -3 * 144.
    assert layer.weights.max() == 3
    assert layer.window_factor == -2
    assert layer.constants["bias"][0] == -432


def test_channels_of_one_code_are_packed_as_zeros() -> None:
    scales = np.array([0.25, 0.0, 2.0**-45], np.float32)
    spec = plain(out_c=3, w_quant=Quant(scales, 0, axis=0), out_quant=Quant(2.0, -1))
    weights = np.full(spec.weights_shape, 5, np.int8)
    layer = pack(spec, Rule(Rounding.V1), weights, np.array([7, 8, 9], np.int32))
    assert layer.epilogue.rule == "RULE_V1_RIGHT"
    assert layer.epilogue.constant.tolist() == [False, True, True]
    assert layer.weights[0, :3, 0].tolist() == [5, 0, 0]
    assert layer.constants["bias"][1:3].tolist() == [0, 0]
    assert layer.constants["factors"][1:3].tolist() == [[0, 0, -(1 << 31), -1]] * 2


def test_k_table() -> None:
    spec = plain(in_c=5, kernel=2)
    table = k_table(spec, 1)
    # Five channels are two words a tap: four and one valid; four taps, then padding to a whole tile.
    assert table[:4].tolist() == [[0, 0, 0, 4], [0, 0, 4, 1], [0, 1, 0, 4], [0, 1, 4, 1]]
    assert table.shape == (PADDED_K // 4, 4)
    assert table[7].tolist() == [1, 1, 4, 1]
    assert not table[8:].any()
    assert k_table(plain(in_c=16), 16)[:3].tolist() == [[0, 0, 0, 16], [0, 1, 0, 16], [0, 2, 0, 16]]


def test_choices_are_pure_and_fit_the_grid() -> None:
    spec = plain(in_c=512, out_c=512, size=7)
    # 49 pixels and 512 channels are few blocks for 132 multiprocessors: smaller tiles, K split, or no tiles.
    found = choices(spec, 1, 132)
    assert choices(spec, 1, 132) is found
    assert len(set(found)) == len(found)
    assert found[0] != Conv2dChoice(IGEMM_TILES[0])
    best = choices(spec, 256, 132)[0]
    assert best.splits == 1
    assert best.tile in IGEMM_TILES[:3]
    tiny = choices(plain(in_c=16, out_c=16, size=4), 1, 132)[0]
    assert tiny.tile in DIRECT_TILES


def test_too_many_pixels_are_refused() -> None:
    spec = plain()
    layer = pack(spec, Rule(Rounding.V1), np.zeros(spec.weights_shape, np.int8), None)
    many = ImageLayout(1 << 24, 0, 14 * 16, 16)
    with pytest.raises(InputValueError, match="CONV_2D: .* output pixels"):
        layer.launches(Conv2dChoice(IGEMM_TILES[0]), [many], many)


def test_workspace_holds_the_sums_of_every_split() -> None:
    spec = plain()
    layer = pack(spec, Rule(Rounding.V1), np.zeros(spec.weights_shape, np.int8), None)
    assert layer.workspace_bytes(3, Conv2dChoice(IGEMM_TILES[0])) == 0
    assert layer.workspace_bytes(3, Conv2dChoice(IGEMM_TILES[0], 4)) == 4 * 4 * 3 * 14 * 14 * 32
    assert layer.choices(1, Traits(80, 4)) is choices(spec, 1, 4)


def test_alignment_of_operands_decides_the_loads() -> None:
    assert ImageLayout(1, 1024, 128, 16).alignment() == 16
    assert ImageLayout(1, 1024, 128, 16, offset=8).alignment() == 8
    assert ImageLayout(1, 1024, 128, 16, offset=8, misalignment=8).alignment() == 16
    assert ImageLayout(1, 1024, 132, 12).alignment() == 4
    assert ImageLayout(1, 1023, 128, 16).alignment() == 1
