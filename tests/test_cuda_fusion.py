"""Operators in the kernel of the convolution before them, run thread by thread on the CPU: every kernel, every chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from gpuq.cuda import conv2d, conv2d_stem, depthwise_conv2d, fusion
from gpuq.cuda.conv2d import DIRECT_TILES, IGEMM_TILES, Conv2dChoice
from gpuq.cuda.depthwise_conv2d import DepthwiseConv2dChoice
from gpuq.cuda.fusion import Follower
from gpuq.cuda.layout import ImageOperand
from gpuq.cuda.plans import CudaPlan
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.add import AddSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.registry import reference
from gpuq.ops.relu import ReluSpec
from gpuq.ops.sub import SubSpec
from gpuq.quant import Quant

from . import test_cuda_conv2d as dense
from . import test_cuda_conv2d_stem as stem
from . import test_cuda_depthwise_conv2d as depthwise
from .compare import assert_equal_bits
from .cuda_layers import EVERYTHING, Rules, embedded, launcher, random_bias, random_codes, scaled
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

V1 = Rule(Rounding.V1)


@dataclass(frozen=True)
class Kernels:
    """Choices of one operator, and random layers for them.

    Attributes:
        spec: of a generator.
        align: bytes that every address is a multiple of.
    """

    pack: Callable[..., Any]
    spec: Callable[[np.random.Generator], Any]
    choice: Any
    align: int


def dense_kernels(choice: Conv2dChoice, kind: dense.Kind, rules: Rules) -> Kernels:
    return Kernels(conv2d.pack, partial(dense.random_spec, kind=kind, rules=rules), choice, kind.vec)


V1_RIGHT, V1_LEFT = Rules(Rounding.V1), Rules(Rounding.V1, general=True)
WORDS, BYTES = dense.Kind(unsigned=False, vec=16), dense.Kind(unsigned=True, vec=1, clamps=True)
ROWS = {
    "igemm": dense_kernels(Conv2dChoice(IGEMM_TILES[0]), WORDS, V1_RIGHT),
    "igemm_u8": dense_kernels(Conv2dChoice(IGEMM_TILES[-1]), BYTES, V1_LEFT),
    "igemm_split": dense_kernels(Conv2dChoice(IGEMM_TILES[-1], 2), dense.Kind(unsigned=False, vec=16), V1_RIGHT),
    "direct": dense_kernels(Conv2dChoice(DIRECT_TILES[0]), WORDS, V1_RIGHT),
    "stem": Kernels(
        conv2d_stem.pack,
        partial(stem.random_spec, kind=stem.Kind(in_c=3, aligned=True), rules=V1_RIGHT),
        conv2d_stem.TILES[1],
        8,
    ),
    "stem_u8": Kernels(
        conv2d_stem.pack,
        partial(stem.random_spec, kind=stem.Kind(in_c=1, unsigned=True), rules=V1_RIGHT),
        conv2d_stem.TILES[-1],
        1,
    ),
    "rows": Kernels(
        depthwise_conv2d.pack,
        partial(
            depthwise.random_spec,
            tile=depthwise.ROWS_TILES[0],
            kind=depthwise.Kind(unsigned=False, vec=4),
            rules=V1_RIGHT,
        ),
        DepthwiseConv2dChoice(depthwise.ROWS_TILES[0], 2),
        4,
    ),
    "taps_u8": Kernels(
        depthwise_conv2d.pack,
        partial(
            depthwise.random_spec,
            tile=depthwise.TAPS_TILES[0],
            kind=depthwise.Kind(unsigned=True, vec=1),
            rules=V1_RIGHT,
        ),
        DepthwiseConv2dChoice(depthwise.TAPS_TILES[0]),
        1,
    ),
}


def near(rng: np.random.Generator, quant: Quant, **more: Any) -> Quant:
    """Another quantization of about the same range."""
    low, high = (0, 256) if quant.dtype == np.uint8 else (-128, 128)
    return Quant(
        float(np.float32(quant.scalar_scale() * 2 ** rng.uniform(-1, 2))),
        int(rng.integers(low, high)),
        dtype=quant.dtype.name,
    )


def residual(rng: np.random.Generator, quant: Quant, shape: tuple[int, ...], kind: type[AddSpec | SubSpec]) -> Follower:
    """A sum whose operand of the chain has the smaller or the larger scale, the first or the second place."""
    other, operand = near(rng, quant), int(rng.integers(2))
    quants = (quant, other) if operand == 0 else (other, quant)
    activation = rng.choice([None, "relu"])  # type: ignore[arg-type]
    spec = kind(
        a_shape=shape,
        b_shape=shape,
        a_quant=quants[0],
        b_quant=quants[1],
        out_quant=near(rng, quant),
        activation=activation,
    )
    return Follower(spec, V1, operand)


def relu(rng: np.random.Generator, quant: Quant, shape: tuple[int, ...]) -> Follower:
    return Follower(
        ReluSpec(shape=shape, x_quant=quant, out_quant=near(rng, quant)), Rule(Rounding.V1, Product.ALL_F32)
    )


def chain(rng: np.random.Generator, what: str, quant: Quant, shape: tuple[int, ...]) -> list[Follower]:
    """The followers of these letters: add, subtract, relu, quantize, logistic."""
    found: list[Follower] = []
    for letter in what:
        if letter == "a":
            found.append(residual(rng, quant, shape, AddSpec))
        elif letter == "s":
            found.append(residual(rng, quant, shape, SubSpec))
        elif letter == "r":
            found.append(relu(rng, quant, shape))
        elif letter == "q":
            found.append(Follower(QuantizeSpec(shape=shape, x_quant=quant, out_quant=near(rng, quant)), V1))
        else:
            out = Quant(1 / 256, 0 if quant.dtype == np.uint8 else -128, dtype=quant.dtype.name)
            spec = LogisticSpec(shape=shape, x_quant=quant, out_quant=out)
            found.append(Follower(spec, Rule(Rounding.TABLE_F32)))
        quant = found[-1].spec.out_quant  # type: ignore[attr-defined]
    return found


CHAINS = {
    "igemm": "a",
    "igemm_u8": "rsq",
    "igemm_split": "ra",
    "direct": "l",
    "stem": "ar",
    "stem_u8": "q",
    "rows": "ra",
    "taps_u8": "r",
}
"""Every kernel and every kind of chain once; `make test-host` runs all of both."""
DEALT = [(row, what) for row in ROWS for what in (sorted(set(CHAINS.values())) if EVERYTHING else [CHAINS[row]])]


def expected(y: np.ndarray, followers: Sequence[Follower], other: np.ndarray | None) -> np.ndarray:
    for follower in followers:
        operands = [y]
        if fusion.is_sum(follower.spec):
            assert other is not None
            operands.insert(1 - follower.operand, other)
        y = reference(follower.spec, follower.rule, *operands).reshape(y.shape)
    return y


@pytest.mark.slow
@pytest.mark.parametrize(("row", "what"), DEALT)
def test_kernel_equals_reference(launcher: HostLauncher, row: str, what: str, seed: int) -> None:
    rng, kernels = np.random.default_rng([seed, *row.encode(), *what.encode()]), ROWS[row]
    # The chain's constants, and what follows from them, are part of what is compiled: one chain for all layers.
    followers: list[Follower] = []
    kinds: set[tuple[Any, ...]] = set()
    for case in range(max(2, scaled(25))):
        spec = kernels.spec(rng)
        weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
        bias = random_bias(rng, spec.out_c)
        images = int(rng.integers(1, 4))
        # Few kinds of kernels, many chains.
        for _ in range(1000):
            followers = chain(rng, what, spec.out_quant, (1, *spec.output_shape))
            packed = fusion.pack(followers)
            if packed.defines in kinds or len(kinds) < (6 if EVERYTHING else 2):
                kinds.add(packed.defines)
                break
        x = random_codes(rng, (images, spec.in_h, spec.in_w, spec.in_c), spec.x_quant.dtype)
        own = reference(spec, V1, x, weights, bias)
        other = random_codes(rng, own.shape, own.dtype) if packed.has_residual else None
        want = expected(own, followers, other)
        layer = kernels.pack(spec, V1, weights, bias, packed)
        context = f"seed {seed}, case {case}: {kernels.choice}, {what}, {spec}, {followers}"
        plan = CudaPlan(layer, launcher.with_seeds((int(rng.integers(1, 1 << 30)),)), kernels.choice)
        _, _, x_operand = embedded(rng, x, kernels.align)
        # The residual's pixels lie as far apart as the output's.
        gaps = int(rng.integers(1 << 30))
        y_memory, y_view, y_operand = embedded(
            np.random.default_rng(gaps), random_codes(rng, want.shape, want.dtype), kernels.align
        )
        kept = y_memory.copy()
        np.lib.stride_tricks.as_strided(kept[y_operand.layout.offset :], want.shape, y_view.strides)[...] = want
        inputs = [x_operand]
        if other is not None:
            memory, _, operand = embedded(np.random.default_rng(gaps), other, kernels.align)
            # ... but need not begin at a word.
            shifted = np.concatenate([memory[:1], memory])[1:] if rng.random() < 0.5 else memory
            layout = replace(operand.layout, misalignment=launcher.misalignment(shifted))
            inputs.append(ImageOperand(shifted, layout))
        plan.launch(inputs, [y_operand], rng.integers(0, 256, max(4, plan.workspace_bytes(images)), np.uint8))
        assert_equal_bits(y_view, want, context)
        assert_equal_bits(y_memory, kept, f"between the images: {context}")


def test_packing_on_paper() -> None:
    shape = (1, 1, 1, 4)
    larger, smaller = Quant(0.5, 3), Quant(0.25, -2)
    spec = AddSpec(a_shape=shape, b_shape=shape, a_quant=larger, b_quant=smaller, out_quant=Quant(0.5, 7))
    packed = fusion.pack([Follower(spec, V1)])
    # Scales over twice the larger: 1/2 of code * 2^20 is exact, 1/4 too.
    assert dict(packed.defines) == {
        "FUSED_SUM": 1,
        "SUM_RULE": "RULE_V1_RIGHT",
        "SUM_CLAMP": 0,
        "SUM_A_TABLE": 0,
        "SUM_B_TABLE": 0,
    }
    assert packed.words[:7].tolist() == [1 << 19, -3 << 19, 1 << 18, 2 << 18, 7, -128, 127]
    assert packed.has_residual
    turned = fusion.pack([Follower(spec, V1, operand=1)])
    assert turned.words[:4].tolist() == [1 << 18, 2 << 18, 1 << 19, -3 << 19]


def test_functions_of_one_code_are_composed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, 1, 1, 256)
    codes = np.arange(-128, 128).astype(np.int8).reshape(shape)
    followers = chain(rng, "rql", Quant(0.1, 5), shape)
    packed = fusion.pack(followers)
    assert packed.defines == (("FUSED_MAP", 1),)
    table = packed.words[12:].view(np.int8)
    assert_equal_bits(table[codes.view(np.uint8)], expected(codes, followers, None), f"seed {seed}")
    # Before a sum, they become part of its values: the kernel looks up once.
    before = fusion.pack(chain(rng, "ra", Quant(0.1, 5), shape))
    assert dict(before.defines)["SUM_A_TABLE"] == 1
    assert "FUSED_MAP" not in dict(before.defines)


def test_what_changes_nothing_is_left_out() -> None:
    shape = (1, 1, 1, 4)
    same = QuantizeSpec(shape=shape, x_quant=Quant(0.5, 3), out_quant=Quant(0.5, 3))
    assert fusion.pack([Follower(same, V1)]).defines == ()
