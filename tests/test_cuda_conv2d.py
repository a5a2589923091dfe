"""gpuq.cuda.conv2d: packing, tables, choice of tile, and the kernel itself, run thread by thread on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from gpuq.cuda import conv2d as cuda_conv2d
from gpuq.cuda.conv2d import TILE_K, TILES, Choice, Constants, choose, k_table, launches, pack, workspace_bytes
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.operand import ImageOperand
from gpuq.errors import InputValueError
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, reference
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .host_cuda.runner import HostLauncher, require_tools


@dataclass(frozen=True)
class Combination:
    """What a kernel is compiled for; each costs a compilation, so they are dealt out, not multiplied."""

    rounding: Rounding
    unsigned: bool
    vec: int
    splits: int = 1


# Every rule, every way of loading, both dtypes (uint8 brings window sums), both outputs.
COMBINATIONS = (
    Combination(Rounding.V1, unsigned=False, vec=16),
    Combination(Rounding.V1, unsigned=False, vec=1, splits=2),
    Combination(Rounding.V1, unsigned=True, vec=8),
    Combination(Rounding.V1U, unsigned=False, vec=4),
    Combination(Rounding.V2, unsigned=True, vec=1),
    Combination(Rounding.V4, unsigned=False, vec=8),
    Combination(Rounding.V6, unsigned=True, vec=16, splits=2),
)
PER_KERNEL = 5
# Every tile meets every other combination, and every combination every other tile.
DEALT = [
    (tile, number) for row, tile in enumerate(TILES) for number in range(len(COMBINATIONS)) if (row + number) % 2 == 0
]


@pytest.fixture(scope="module")
def launcher() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher() as started:
        yield started


def channels(rng: np.random.Generator, vec: int) -> int:
    """Channels of a group for which the kernel loads this many bytes at once."""
    if vec == 1:
        return int(rng.choice([c for c in range(1, 68) if c % 4]))
    return vec * int(rng.choice([k for k in range(1, 6) if vec == 16 or k % 2 == 1]))


def random_spec(rng: np.random.Generator, combination: Combination) -> Conv2dSpec:
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    group_in, group_out = channels(rng, combination.vec), int(rng.integers(1, 45))
    kernel_h, kernel_w = (int(size) for size in rng.integers(1, 4, 2))
    dilation_h, dilation_w = (int(rate) for rate in rng.integers(1, 3, 2))
    in_h = (kernel_h - 1) * dilation_h + int(rng.integers(1, 8))
    in_w = (kernel_w - 1) * dilation_w + int(rng.integers(1, 8))
    dtype = "uint8" if combination.unsigned else "int8"
    low, high = (0, 256) if combination.unsigned else (-128, 128)
    out_c = groups * group_out
    if combination.unsigned:
        w_quant = Quant(0.01, int(rng.integers(0, 256)), dtype=dtype)
    elif out_c > 1 and rng.random() < 0.7:
        w_quant = Quant(2.0 ** rng.uniform(-14, -5, out_c), 0, axis=0)
    else:
        w_quant = Quant(2.0 ** rng.uniform(-12, -5), 0)
    return Conv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=groups * group_in,
        out_c=out_c,
        window=Window2d.padded(
            str(rng.choice(["same", "valid"])),
            in_h,
            in_w,
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=int(rng.integers(1, 4)),
            stride_w=int(rng.integers(1, 4)),
            dilation_h=dilation_h,
            dilation_w=dilation_w,
        ),
        groups=groups,
        x_quant=Quant(0.05, int(rng.integers(low, high)), dtype=dtype),
        w_quant=w_quant,
        out_quant=Quant(0.07, int(rng.integers(low, high)), dtype=dtype),
        activation=[None, "relu", "relu6"][int(rng.integers(3))],
    )


def check(
    launcher: HostLauncher, spec: Conv2dSpec, rule: Rule, choice: Choice, rng: np.random.Generator, context: str
) -> None:
    """One random layer through packing and launches, into an image with gaps that must stay as they were."""
    info = np.iinfo(spec.x_quant.dtype)
    images = int(rng.integers(1, 4))
    x = rng.integers(info.min, info.max + 1, (images, spec.in_h, spec.in_w, spec.in_c)).astype(spec.x_quant.dtype)
    weights = rng.integers(info.min, info.max + 1, spec.weights_shape).astype(spec.w_quant.dtype)
    bias = None if rng.random() < 0.2 else rng.integers(-(1 << 16), 1 << 16, spec.out_c).astype(np.int32)
    packed = pack(spec, rule, weights, bias)
    choice = Choice(choice.tile, min(choice.splits, packed.k_tiles))
    out_h, out_w, out_c = spec.output_shape
    gap = int(rng.choice([0, 0, 3, 8]))
    before = rng.integers(info.min, info.max + 1, (images, out_h, out_w, out_c + gap)).astype(x.dtype)
    after = before.copy()
    pitch = out_c + gap
    y = ImageOperand(after, images, 0, out_h * out_w * pitch, out_w * pitch, pitch)
    scratch = np.zeros(max(4, workspace_bytes(spec, images, choice)), np.uint8).view(np.int32)
    constants = Constants.upload(packed, np.array)
    for launch in launches(packed, constants, ImageOperand.contiguous(x, *x.shape[1:]), y, choice, Pointer(scratch)):
        launcher.launch(launch)
    context = f"{context}: {choice}, {packed.rule}, {spec}"
    assert_equal_bits(after[..., :out_c], reference(spec, rule, x, weights, bias), context)
    assert_equal_bits(after[..., out_c:], before[..., out_c:], f"gap of {context}")


@pytest.mark.slow
@pytest.mark.parametrize(("tile", "number"), DEALT, ids=[f"{tile.bm}x{tile.bn}x{TILE_K}-{n}" for tile, n in DEALT])
def test_kernel_equals_reference(launcher: HostLauncher, tile: cuda_conv2d.Tile, number: int, seed: int) -> None:
    combination = COMBINATIONS[number]
    product = Product.ALL_F32 if combination.rounding is Rounding.V4 else Product.F64
    rng = np.random.default_rng([seed, number, TILES.index(tile)])
    for case in range(PER_KERNEL):
        spec = random_spec(rng, combination)
        check(
            launcher,
            spec,
            Rule(combination.rounding, product),
            Choice(tile, combination.splits),
            rng,
            f"seed {seed}, {number}, case {case}",
        )


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
    packed = pack(spec, Rule(Rounding.V1), weights, np.array([100, 200], np.int32))
    assert packed.weights.shape == (1, 128, TILE_K)
    assert packed.weights[0, :3, :4].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0]]
    assert packed.weights.astype(np.int64).sum() == 21
    assert packed.bias[:3].tolist() == [82, 155, 0]
    # 0.5 * 0.25 / 0.5 = 0.25 = 2^30 * 2^(-1 - 31): right by 1, half 1, zero point 7 * 2.
    assert packed.rule == "RULE_V1_RIGHT"
    assert packed.factors[:3].tolist() == [[1 << 30, 1, 15], [1 << 30, 1, 15], [0, 0, 0]]
    assert packed.window_factor == 0


def test_weights_with_a_zero_point_need_window_sums() -> None:
    quants = {"x_quant": Quant(0.5, 3, dtype="uint8"), "w_quant": Quant(0.25, 130, dtype="uint8")}
    spec = plain(out_quant=Quant(2.0, 9, dtype="uint8"), **quants)
    weights = np.full(spec.weights_shape, 131, np.uint8)
    packed = pack(spec, Rule(Rounding.V1), weights, None)
    # As int8 the weights are 3 and their zero point 2; K = 144 taps: -3 * 144 * 3 + 144 * 3 * 2 = -432.
    assert packed.window_factor == -2
    assert packed.bias[0] == -432


def test_k_table() -> None:
    spec = plain(in_c=5, kernel=2)
    table = k_table(spec, 1)
    # Five channels are two words a tap: four and one valid; four taps, then padding to a whole tile.
    assert table[:4].tolist() == [[0, 0, 0, 4], [0, 0, 4, 1], [0, 1, 0, 4], [0, 1, 4, 1]]
    assert table.shape == (TILE_K // 4, 4)
    assert table[7].tolist() == [1, 1, 4, 1]
    assert k_table(plain(in_c=16), 16)[:3].tolist() == [[0, 0, 0, 16], [0, 1, 0, 16], [0, 2, 0, 16]]


def test_choice_is_pure_and_fits_the_grid() -> None:
    spec = plain(in_c=512, out_c=512, size=7)
    # 49 pixels and 512 channels are few blocks for 132 multiprocessors: smaller tiles, or K split.
    small = choose(spec, 1, 132)
    assert choose(spec, 1, 132) is small
    assert small.splits > 1 or small.tile.bm * small.tile.bn < 128 * 128
    large = choose(spec, 256, 132)
    assert large.splits == 1
    assert large.tile.bm * large.tile.bn >= 128 * 64


def test_too_many_pixels_are_refused() -> None:
    spec = plain()
    packed = pack(spec, Rule(Rounding.V1), np.zeros(spec.weights_shape, np.int8), None)
    x = np.zeros((1, 14, 14, 16), np.int8)
    y = np.zeros((1, 14, 14, 32), np.int8)
    many = ImageOperand(x, 1 << 24, 0, 0, 14 * 16, 16)
    with pytest.raises(InputValueError, match="CONV_2D: .* output pixels"):
        launches(
            packed,
            Constants.upload(packed, np.array),
            many,
            ImageOperand.contiguous(y, 14, 14, 32),
            Choice(TILES[0]),
            Pointer(y),
        )


def test_alignment_of_operands_decides_the_loads() -> None:
    x = np.zeros(4096, np.int8)
    assert ImageOperand(x, 1, 0, 1024, 128, 16).alignment() == 16
    assert ImageOperand(x, 1, 8, 1024, 128, 16).alignment() == 8
    assert ImageOperand(x, 1, 0, 1024, 132, 12).alignment() == 4
    assert ImageOperand(x, 1, 0, 1023, 128, 16).alignment() == 1
