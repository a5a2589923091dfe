"""gpuq.cuda.conv2d_stem: what fits, packing, tables, choices, and the kernels themselves, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpuq.cuda.conv2d_stem import (
    KERNELS,
    PADDED_CHANNELS,
    SHARED_BYTES,
    TILES,
    choices,
    fits,
    fitting,
    pack,
    patch_of,
    places,
    shared_bytes,
    taps,
    words_of,
)
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, reference
from gpuq.ops.spec import UINT8
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
    """What a kernel is compiled for beside its tile and rule; aligned: x to its pixels' loads, y to 8-byte stores."""

    in_c: int
    unsigned: bool = False
    clamps: bool = False
    aligned: bool = False


KINDS = (
    Kind(in_c=3),
    Kind(in_c=1, unsigned=True, clamps=True),
    Kind(in_c=4, aligned=True, clamps=True),
    Kind(in_c=2, unsigned=True),
    Kind(in_c=2, aligned=True),
    Kind(in_c=3, unsigned=True, aligned=True, clamps=True),
    Kind(in_c=4, unsigned=True),
    Kind(in_c=1, aligned=True),
)
DEALT = dealt(len(KERNELS), len(KINDS))


def random_spec(rng: np.random.Generator, kind: Kind, rules: Rules) -> Conv2dSpec:
    """Windows of all shapes that fit into every tile, images from one pixel on."""
    out_c = 8 * int(rng.integers(1, 10)) if rng.random() < 0.3 else int(rng.integers(1, 71))
    kernel_h, kernel_w = (10, 8) if rng.random() < 0.05 else (int(size) for size in rng.integers(1, 8, 2))
    dilation_h, dilation_w = (int(rate) for rate in rng.choice([1, 1, 2, 3], 2))
    pads = [int(pad) for pad in rng.choice([0, 0, 1, 2, 5, 12], 4)]
    in_h = max(1, (kernel_h - 1) * dilation_h + 1 - pads[0] - pads[1]) + int(rng.choice([0, 1, 6, 21]))
    in_w = max(1, (kernel_w - 1) * dilation_w + 1 - pads[2] - pads[3]) + int(rng.choice([0, 1, 6, 21]))
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
    return Conv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=kind.in_c,
        out_c=out_c,
        window=window,
        **random_quants(rng, rules, kind.unsigned, kind.clamps, out_c, 0, window.taps * kind.in_c),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "rule", "kind"), DEALT, ids=[f"{KERNELS[row].name}-{RULES[rule]}-{kind}" for row, rule, kind in DEALT]
)
def test_kernel_equals_reference(launcher: HostLauncher, row: int, rule: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, row, rule, kind])
    rules, wanted, tile = RULES[rule], KINDS[kind], TILES[row]
    for case in range(cases(len(KINDS))):
        spec = random_spec(rng, wanted, rules)
        assert tile in fitting(spec)
        weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
        bias = random_bias(rng, spec.out_c)
        images = int(rng.integers(1, 4))
        x = random_codes(rng, (images, spec.in_h, spec.in_w, spec.in_c), spec.x_quant.dtype)
        layer = pack(spec, rules.rule, weights, bias)
        want = reference(spec, rules.rule, x, weights, bias)
        context = f"seed {seed}, row {row}, rule {rule}, kind {kind}, case {case}: {tile}, {spec}"
        check_layer(launcher, layer, tile, x, want, rng, context, align=8 if wanted.aligned else 1)


def plain(
    in_c: int = 3,
    out_c: int = 32,
    size: int = 32,
    kernel: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
    dilation: int = 1,
    **quants: Quant,
) -> Conv2dSpec:
    window = Window2d.padded(
        "same",
        size,
        size,
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=strides[0],
        stride_w=strides[1],
        dilation_h=dilation,
        dilation_w=dilation,
    )
    quants = {"x_quant": Quant(0.5, 3), "w_quant": Quant(0.25), "out_quant": Quant(2.0, -1)} | quants
    return Conv2dSpec(in_h=size, in_w=size, in_c=in_c, out_c=out_c, window=window, **quants)  # type: ignore[arg-type]


def weights_of(spec: Conv2dSpec) -> np.ndarray:
    """1, 2, 3, ... in OHWI order."""
    return np.arange(1, 1 + np.prod(spec.weights_shape), dtype=spec.w_quant.dtype).reshape(spec.weights_shape)


@pytest.mark.parametrize(
    ("in_c", "row", "masks"),
    [
        (1, [[1, 2, 3, 4], [5, 0, 0, 0]], [[1, 1, 1, 1], [1, 0, 0, 0]]),
        (2, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 0]], [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]),
        (3, [[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0]], [[1, 1, 1, 0]] * 5),
        (4, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], [[1, 1, 1, 1]] * 5),
    ],
)
def test_kernel_columns_share_words(in_c: int, row: list[list[int]], masks: list[list[int]]) -> None:
    spec = plain(in_c, out_c=1, kernel=(1, 5))
    layer = pack(spec, Rule(Rounding.V1), weights_of(spec), None)
    assert layer.weights.shape == (len(masks), PADDED_CHANNELS, 4)
    assert layer.weights[: len(row), 0].tolist() == row
    assert not layer.weights[:, 1:].any()
    table = layer.constants[f"taps_{TILES[0].size}"]
    assert table[:-1, 1].copy().view(np.int8).reshape(-1, 4).tolist() == masks


def test_packing_on_paper() -> None:
    # Weights 1 to 3 and 4 to 6, x zero point 3: bias - 3 * 6 and bias - 3 * 15; then nothing but zeros.
    spec = plain(out_c=2, kernel=(1, 1), out_quant=Quant(0.5, 7))
    layer = pack(spec, Rule(Rounding.V1), weights_of(spec), np.array([100, 200], np.int32))
    assert layer.weights[0, :3].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0]]
    assert layer.constants["bias"].shape == (PADDED_CHANNELS,)
    assert layer.constants["bias"][:3].tolist() == [82, 155, 0]
    # 0.5 * 0.25 / 0.5 = 0.25 = 2^30 * 2^(-1 - 31): right by 1, half 1, zero point 7 * 2; and 2 * 2^30 - 2^32 = -2^31.
    assert layer.epilogue.rule == "RULE_V1_RIGHT"
    assert layer.constants["factors"][:3].tolist() == [[-(1 << 31), 1, -(1 << 31), 15]] * 2 + [[0, 0, 0, 0]]
    assert layer.window_factor == 0
    assert (layer.x_shapes, layer.y_shape) == (((32, 32, 3),), (32, 32, 2))
    assert layer.workspace_bytes(5, TILES[0]) == 0


def test_weights_with_a_zero_point_need_window_sums() -> None:
    quants = {"x_quant": Quant(0.5, 3, dtype="uint8"), "w_quant": Quant(0.25, 130, dtype="uint8")}
    spec = plain(out_quant=Quant(2.0, 9, dtype="uint8"), **quants)
    layer = pack(spec, Rule(Rounding.V1), np.full(spec.weights_shape, 131, UINT8), None)
    # As int8 the weights are 3 and their zero point 2; K = 27 taps of 1 for the bias: -3 * 27.
    assert layer.weights.max() == 3
    assert layer.window_factor == -2
    assert layer.constants["bias"][0] == -81


def test_channels_of_one_code_are_packed_as_zeros() -> None:
    spec = plain(out_c=3, w_quant=Quant(np.array([0.25, 0.0, 2.0**-45], np.float32), 0, axis=0))
    layer = pack(spec, Rule(Rounding.V1), np.full(spec.weights_shape, 5, np.int8), np.array([7, 8, 9], np.int32))
    assert layer.epilogue.constant.tolist() == [False, True, True]
    assert layer.weights[0, :3, 0].tolist() == [5, 0, 0]
    assert layer.constants["bias"][1:3].tolist() == [0, 0]


def test_patch_of_a_stride_of_two() -> None:
    # 3x3 kernel, 8x16 pixels: 17 rows; even columns 0 to 32, odd ones 1 to 33, of which the last is one too many.
    tile, spec = TILES[1], plain(strides=(2, 2))
    patch = patch_of(spec, tile)
    assert (patch.rows, patch.phases, patch.width, patch.row_words) == (17, 2, 17, 34)
    table = places(spec, tile)
    assert table[:34, 1].tolist() == [*range(0, 34, 2), *range(1, 35, 2)]
    assert table[34 * 5 + 18].tolist() == [5, 3]
    assert table.shape[0] == patch.words(tile) == 17 * 34 // 256 * 256 + 256
    assert not table[17 * 34 :].any()
    # Columns 0, 1, 2 of the kernel: the first even one, the first odd one, the second even one; rows 34 words apart.
    assert (taps(spec, tile)[:5, 0] // 4).tolist() == [0, 17, 1, 34, 51]
    assert taps(spec, tile).shape == (10, 2)


@pytest.mark.parametrize("in_c", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel_w", [1, 2, 3, 7, 9])
def test_every_tap_finds_its_pixel(in_c: int, stride: int, dilation: int, kernel_w: int) -> None:
    spec = plain(in_c, kernel=(2, kernel_w), strides=(2, stride), dilation=dilation)
    words = words_of(spec)
    for tile in TILES:
        table = places(spec, tile)
        for k, (start, _) in enumerate(taps(spec, tile)[:-1]):
            row, column = k // words.groups * dilation, k % words.groups * words.taps * dilation
            for oh in range(tile.bh):
                at = start // 4 + oh * 2 * patch_of(spec, tile).row_words
                found = table[at : at + tile.bw]
                assert (found[:, 0] == 2 * oh + row).all()
                assert (found[:, 1] == stride * np.arange(tile.bw) + column).all()


def test_what_fits() -> None:
    assert fits(plain())
    assert fits(plain(kernel=(7, 7), strides=(2, 2), size=224, out_c=64))
    assert fits(plain(1, kernel=(10, 4), strides=(2, 2)))
    assert not fits(plain(5))
    assert not fits(replace(plain(4), groups=2))
    # One channel of a long recording: the window alone is too much, whatever the tile.
    wide = plain(1, kernel=(1, 4000), size=4096)
    assert not fits(wide)
    with pytest.raises(InputValueError, match="CONV_2D: .* stem"):
        pack(wide, Rule(Rounding.V1), np.zeros(wide.weights_shape, np.int8), None)
    # 15 x 15 words by 64 channels are more than 44 KiB, by 16 channels they are not.
    large = plain(4, kernel=(15, 15))
    assert fits(large)
    assert TILES[0] not in fitting(large)
    for tile in TILES:
        assert (shared_bytes(large, tile) <= SHARED_BYTES) == (tile in fitting(large))
    # Weights, taps and one more, patch: bytes.
    assert shared_bytes(plain(), TILES[0]) == 4 * 9 * 64 + 8 * 10 + 4 * 512
    layer = pack(large, Rule(Rounding.V1), np.zeros(large.weights_shape, np.int8), None)
    assert f"taps_{TILES[0].size}" not in layer.constants


def test_far_dilation_of_one_column_does_not_matter() -> None:
    window = Window2d(kernel_h=1, kernel_w=1, dilation_h=1 << 30, dilation_w=1 << 30)
    assert fits(replace(plain(1), window=window))


def test_choices_are_pure_and_fit() -> None:
    spec = plain(kernel=(3, 3), strides=(2, 2), size=224)
    found = choices(spec, 256, 132)
    assert choices(spec, 256, 132) is found
    assert sorted(tile.name for tile in found) == sorted(tile.name for tile in TILES)
    assert found[0].size == "8x16x32"
    assert choices(plain(size=224, out_c=64, strides=(2, 2), kernel=(7, 7)), 256, 132)[0].size == "8x16x64"
    assert choices(plain(out_c=16), 1024, 132)[0].size == "8x16x16"
    # One small image: many small blocks rather than a few large ones.
    assert {tile.size for tile in choices(plain(out_c=16), 1, 132)[:2]} == {"4x16x32", "4x8x16"}
    assert set(choices(plain(4, kernel=(15, 15)), 1, 132)) == set(fitting(plain(4, kernel=(15, 15))))


def test_layouts_decide_loads_and_stores() -> None:
    spec = plain(4, out_c=24)
    layer = pack(spec, Rule(Rounding.V1), np.zeros(spec.weights_shape, np.int8), None)
    assert layer.choices(1, Traits(80, 4)) is choices(spec, 1, 4)
    x = ImageLayout.contiguous(1, 32, 32, 4)
    y = ImageLayout.contiguous(1, 32, 32, 24)

    def vec_and_store(x: ImageLayout, y: ImageLayout) -> tuple[object, int]:
        (launch,) = layer.launches(TILES[0], [x], y)
        return dict(launch.kernel.defines)["VEC"], int(launch.arguments[-1])  # type: ignore[call-overload]

    assert vec_and_store(x, y) == (4, 8)
    assert vec_and_store(replace(x, offset=2), replace(y, offset=4)) == (1, 4)
    assert vec_and_store(replace(x, row_pitch=130), replace(y, row_pitch=32 * 24 + 1)) == (1, 1)


def test_too_many_blocks_are_refused() -> None:
    spec = plain()
    layer = pack(spec, Rule(Rounding.V1), np.zeros(spec.weights_shape, np.int8), None)
    many = ImageLayout(1 << 28, 0, 32 * 3, 3)
    with pytest.raises(InputValueError, match="CONV_2D: .* blocks"):
        layer.launches(TILES[0], [many], many)
