"""gpuq.cuda.depthwise_conv2d: packing, tables, choices, and the kernels, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpuq.cuda.depthwise_conv2d import (
    MOST_TERMS,
    OUTSIDE,
    ROWS_TILES,
    TAPS_TILES,
    DepthwiseConv2dChoice,
    RowsTile,
    choices,
    int8_terms,
    pack,
    rows_per_thread,
    rows_weights,
    tap_table,
    taps_weights,
)
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec, reference
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
    """What a kernel is compiled for beside its tile and rule.

    Attributes:
        terms: int8 terms of the weights; more than one only if unsigned.
    """

    unsigned: bool
    vec: int
    clamps: bool = False
    terms: int = 1


KINDS = (
    Kind(unsigned=False, vec=4),
    Kind(unsigned=True, vec=1, clamps=True, terms=2),
    Kind(unsigned=False, vec=1, clamps=True),
    Kind(unsigned=True, vec=4, terms=2),
    Kind(unsigned=True, vec=1),
    Kind(unsigned=True, vec=4, clamps=True, terms=3),
)
TILES = (*ROWS_TILES, *TAPS_TILES)
DEALT = dealt(len(TILES), len(KINDS))
W_ZERO_POINTS = {1: 128, 2: 7, 3: 0}
"""A zero point for which weights of all codes need so many terms."""


def kind_of(tile: object, kind: int) -> Kind:
    """The kind, with as many terms as the tile takes."""
    most = tile.most_terms if isinstance(tile, RowsTile) else MOST_TERMS
    return replace(KINDS[kind], terms=min(KINDS[kind].terms, most))


def random_window(rng: np.random.Generator, tile: object) -> Window2d:
    pads = [int(pad) for pad in rng.choice([0, 0, 1, 1, 2, 7], 4)]
    if isinstance(tile, RowsTile):
        kernel, strides, dilations = [tile.kernel_size] * 2, [tile.stride] * 2, [1, 1]
    else:
        kernel = [int(size) for size in (rng.integers(1, 8), rng.integers(1, 6))]
        if rng.random() < 0.2:
            kernel[int(rng.integers(2))] = 1
        strides, dilations = ([int(size) for size in rng.integers(1, 4, 2)] for _ in range(2))
    return Window2d(
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=strides[0],
        stride_w=strides[1],
        dilation_h=dilations[0],
        dilation_w=dilations[1],
        pad_top=pads[0],
        pad_bottom=pads[1],
        pad_left=pads[2],
        pad_right=pads[3],
    )


def random_size(rng: np.random.Generator, kernel: int, dilation: int, pads: int) -> int:
    """Pixels along one axis: the fewest that the window fits into, often a few more, sometimes many."""
    return max(1, (kernel - 1) * dilation + 1 - pads) + int(rng.choice([0, *range(9), 17]))


def random_spec(rng: np.random.Generator, tile: object, kind: Kind, rules: Rules) -> DepthwiseConv2dSpec:
    window = random_window(rng, tile)
    multiplier = 1
    if not isinstance(tile, RowsTile) and kind.vec == 1:
        multiplier = int(rng.integers(1, 6))
    if kind.vec == 4:
        in_c = 4 * int(rng.integers(1, 17))
    else:
        in_c = int(rng.choice([c for c in range(1, 68) if c % 4 or multiplier > 1])) // multiplier + 1
        in_c += multiplier == 1 and in_c % 4 == 0
    quants = random_quants(rng, rules, kind.unsigned, kind.clamps, in_c * multiplier, 3, window.taps)
    if kind.unsigned:
        scale = quants["w_quant"].scales[0]
        quants["w_quant"] = Quant(scale, W_ZERO_POINTS[kind.terms], dtype="uint8")
    return DepthwiseConv2dSpec(
        in_h=random_size(rng, window.kernel_h, window.dilation_h, window.pad_top + window.pad_bottom),
        in_w=random_size(rng, window.kernel_w, window.dilation_w, window.pad_left + window.pad_right),
        in_c=in_c,
        multiplier=multiplier,
        window=window,
        **quants,
    )


def random_weights(rng: np.random.Generator, spec: DepthwiseConv2dSpec, terms: int) -> np.ndarray:
    """All codes, for unsigned weights the largest among them: it needs most terms."""
    weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
    if terms > 1:
        weights.flat[rng.integers(weights.size)] = 255
    return weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "rule", "kind"), DEALT, ids=[f"{TILES[row].name}-{RULES[rule]}-{kind}" for row, rule, kind in DEALT]
)
def test_kernel_equals_reference(launcher: HostLauncher, row: int, rule: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, row, rule, kind])
    rules, tile = RULES[rule], TILES[row]
    wanted = kind_of(tile, kind)
    for case in range(cases(len(KINDS))):
        spec = random_spec(rng, tile, wanted, rules)
        weights = random_weights(rng, spec, wanted.terms)
        bias = random_bias(rng, spec.out_c)
        images = int(rng.integers(1, 4))
        x = random_codes(rng, (images, spec.in_h, spec.in_w, spec.in_c), spec.x_quant.dtype)
        layer = pack(spec, rules.rule, weights, bias)
        rows = int(rng.integers(1, 10)) if isinstance(tile, RowsTile) else 1
        choice = DepthwiseConv2dChoice(tile, rows)
        want = reference(spec, rules.rule, x, weights, bias)
        context = f"seed {seed}, row {row}, rule {rule}, kind {kind}, case {case}: {choice}, {spec}"
        check_layer(launcher, layer, choice, x, want, rng, context, align=wanted.vec)


def plain(
    in_c: int = 8, size: int = 14, kernel: int = 3, stride: int = 1, multiplier: int = 1, **more: object
) -> DepthwiseConv2dSpec:
    window = Window2d.padded("same", size, size, kernel_h=kernel, kernel_w=kernel, stride_h=stride, stride_w=stride)
    quants = {"x_quant": Quant(0.5, 3), "w_quant": Quant(0.25), "out_quant": Quant(2.0, -1)} | more
    return DepthwiseConv2dSpec(
        in_h=size,
        in_w=size,
        in_c=in_c,
        multiplier=multiplier,
        window=window,
        **quants,  # type: ignore[arg-type]
    )


def word(*taps: int) -> int:
    return int.from_bytes(np.array(taps, np.int8).tobytes(), "little", signed=True)


def test_every_kind_is_what_it_says() -> None:
    rng = np.random.default_rng(0)
    for number in range(len(KINDS)):
        for tile in TILES:
            kind = kind_of(tile, number)
            for _ in range(20):
                spec = random_spec(rng, tile, kind, RULES[0])
                assert (spec.multiplier == 1 and spec.in_c % 4 == 0) == (kind.vec == 4)
                terms = pack(spec, RULES[0].rule, random_weights(rng, spec, kind.terms), None).terms
                assert terms == kind.terms


def test_packing_on_paper() -> None:
    # Five channels, weights 9 * c + tap: two words. Channel 4 is alone in the second.
    spec = plain(in_c=5)
    weights = np.arange(45).reshape(5, 3, 3).transpose(1, 2, 0)[None].astype(np.int8)
    layer = pack(spec, Rule(Rounding.V1), weights, np.arange(5, dtype=np.int32))
    rows = layer.constants["rows_weights"]
    assert rows.shape == (2, 1, 3, 4)
    assert rows[0, 0, 0].tolist() == [word(0, 1, 2, 0), word(9, 10, 11, 0), word(18, 19, 20, 0), word(27, 28, 29, 0)]
    assert rows[1, 0, 2].tolist() == [word(42, 43, 44, 0), 0, 0, 0]
    taps = layer.constants["taps_weights"]
    assert taps.shape == (2, 3, 1, 4)
    assert taps[0, 1, 0].tolist() == [
        word(4, 5, 6, 7),
        word(13, 14, 15, 16),
        word(22, 23, 24, 25),
        word(31, 32, 33, 34),
    ]
    assert taps[1, 2, 0].tolist() == [word(44, 0, 0, 0), 0, 0, 0]
    # Bias minus the zero point 3 times 36 + 81 * c, and padding to whole words.
    assert layer.constants["bias"].tolist() == [-108, -350, -592, -834, -1076, 0, 0, 0]
    assert layer.constants["factors"].shape == (8, 4)
    assert not layer.constants["factors"][5:].any()


def test_fifth_taps_of_four_rows_make_a_word() -> None:
    weights = np.arange(25, dtype=np.int8).reshape(1, 1, 5, 5)
    packed = rows_weights(weights)
    assert packed.shape == (1, 1, 7, 4)
    assert packed[0, 0, :, 0].tolist() == [
        *(word(5 * row, 5 * row + 1, 5 * row + 2, 5 * row + 3) for row in range(5)),
        word(4, 9, 14, 19),
        word(24, 0, 0, 0),
    ]
    assert not packed[..., 1:].any()


def test_terms() -> None:
    values = np.array([[-255, -128], [127, 254]])
    assert int8_terms(values).tolist() == [[[-128, -128], [127, 127]], [[-127, 0], [0, 127]]]
    assert int8_terms(np.array([255])).tolist() == [[127], [127], [1]]
    assert int8_terms(np.array([127, -128])).tolist() == [[127, -128]]
    assert int8_terms(np.zeros(2, np.int64)).shape == (1, 2)
    # Terms follow each other for each four taps, or for each word.
    two = np.stack([np.full((4, 5, 5), 1), np.full((4, 5, 5), 2)]).astype(np.int8)
    assert taps_weights(two)[0, :2].tolist() == [[[word(1, 1, 1, 1)] * 4, [word(2, 2, 2, 2)] * 4]] * 2
    assert rows_weights(two)[0, :, 5].tolist() == [[word(1, 1, 1, 1)] * 4, [word(2, 2, 2, 2)] * 4]


def test_channels_of_one_code_are_packed_as_zeros() -> None:
    scales = np.array([0.25, 0.0, 2.0**-45], np.float32)
    spec = plain(in_c=3, w_quant=Quant(scales, 0, axis=3))
    weights = np.full(spec.weights_shape, 5, np.int8)
    layer = pack(spec, Rule(Rounding.V1), weights, np.array([7, 8, 9], np.int32))
    assert layer.epilogue.constant.tolist() == [False, True, True]
    assert layer.constants["rows_weights"][0, 0, 0].tolist() == [word(5, 5, 5, 0), 0, 0, 0]
    assert layer.constants["bias"][1:].tolist() == [0, 0, 0]


def test_tap_table() -> None:
    window = Window2d(kernel_h=2, kernel_w=3, dilation_h=2, dilation_w=3)
    table = tap_table(
        DepthwiseConv2dSpec(
            in_h=9,
            in_w=9,
            in_c=1,
            window=window,
            x_quant=Quant(0.5, 3),
            w_quant=Quant(0.25),
            out_quant=Quant(2.0, -1),
        )
    )
    assert table.tolist() == [[[0, 0, 0, 2], [0, 3, 6, 0]], [[2, 2, OUTSIDE, OUTSIDE], [3, 6, 0, 0]]]


def test_rows_per_thread_are_even() -> None:
    assert rows_per_thread(1) == [1]
    assert rows_per_thread(7) == [1, 2, 4, 7]
    assert rows_per_thread(14) == [1, 2, 4, 7, 14]
    assert rows_per_thread(112) == [1, 2, 4, 8, 16, 28]


def test_choices_are_pure_and_fit_the_layer() -> None:
    spec = plain(in_c=32, size=112)
    found = choices(spec, 1, 256, 132)
    assert choices(spec, 1, 256, 132) is found
    assert len(set(found)) == len(found)
    assert len({choice.name for choice in found}) == len(found)
    # Many pixels: wide strips, walked far down.
    assert found[0].name == "depthwise_conv2d_rows_dp4a_3x3s1_w4_rows28"
    # Few: as many threads as possible.
    few = choices(plain(in_c=16, size=7), 1, 1, 132)[0]
    assert few.rows <= 2
    tiles = {choice.tile for choice in found}
    assert tiles == {*ROWS_TILES[:2], *TAPS_TILES}
    # Weights of several terms do not fit into the widest tiles' registers.
    wide = plain(kernel=5)
    assert any(choice.tile == ROWS_TILES[4] for choice in choices(wide, 1, 4, 132))
    assert all(choice.tile != ROWS_TILES[4] for choice in choices(wide, 2, 4, 132))
    other = (
        plain(multiplier=2),
        plain(kernel=4),
        plain(stride=3),
        DepthwiseConv2dSpec(
            in_h=9,
            in_w=9,
            in_c=4,
            window=Window2d(kernel_h=3, kernel_w=3, dilation_w=2),
            x_quant=Quant(0.5, 3),
            w_quant=Quant(0.25),
            out_quant=Quant(2.0, -1),
        ),
    )
    for each in other:
        assert {choice.tile for choice in choices(each, 1, 4, 132)} == set(TAPS_TILES)


def test_too_many_threads_are_refused() -> None:
    spec = plain(in_c=4)
    layer = pack(spec, Rule(Rounding.V1), np.zeros(spec.weights_shape, np.int8), None)
    many = 1 + (1 << 31) // (14 * 14)
    layout = ImageLayout.contiguous(many, 14, 14, 4)
    with pytest.raises(InputValueError, match="threads in one launch"):
        layer.launches(DepthwiseConv2dChoice(TAPS_TILES[1]), [layout], layout)


def test_loads_follow_channels_and_alignment() -> None:
    def vec(in_c: int, misalignment: int = 0, multiplier: int = 1) -> object:
        spec = plain(in_c=in_c, multiplier=multiplier)
        layer = pack(spec, Rule(Rounding.V1), np.zeros(spec.weights_shape, np.int8), None)
        x = ImageLayout.contiguous(1, 14, 14, in_c, misalignment)
        y = ImageLayout.contiguous(1, 14, 14, in_c * multiplier)
        (launch,) = layer.launches(layer.choices(1, Traits(80, 4))[0], [x], y)
        return dict(launch.kernel.defines)["VEC"]

    assert [vec(8), vec(8, misalignment=4), vec(8, misalignment=2), vec(6), vec(8, multiplier=2)] == [4, 4, 1, 1, 1]
