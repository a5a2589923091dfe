"""gpuq.cuda.transpose_conv: phases by hand and in every size, and whole layers, run thread by thread on the CPU."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from gpuq import Quant
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.transpose_conv import Phase, pack, phases
from gpuq.errors import InputValueError
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.transpose_conv import TransposeConvSpec, reference
from gpuq.ops.window import Window2d

from .cuda_layers import Rules, launcher, random_bias, random_codes, random_quants, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]


def test_phases_on_paper() -> None:
    # Four elements made of two, kernel 3, stride 2, as SAME does it: even outputs see taps 2 and 0, odd ones tap 1.
    assert phases(2, 4, 3, 2, 0) == [
        Phase(start=0, count=2, taps=(2, 0), skip=0, size=2, pad_before=1, pad_after=0),
        Phase(start=1, count=2, taps=(1,), skip=0, size=2, pad_before=0, pad_after=0),
    ]


def test_phases_are_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in itertools.product(range(1, 5), range(1, 10), range(1, 5), range(1, 4), range(4)):
        inputs, outputs, kernel, stride, pad = case
        x, w = rng.integers(-9, 10, inputs), rng.integers(-9, 10, kernel)
        want = np.zeros(outputs, int)
        for i, k in itertools.product(range(inputs), range(kernel)):
            if 0 <= i * stride - pad + k < outputs:
                want[i * stride - pad + k] += x[i] * w[k]
        got = np.full(outputs, 999)
        for phase in phases(*case):
            taps = w[list(phase.taps)] if phase.taps else np.zeros(1, int)
            seen = np.pad(x[phase.skip : phase.skip + phase.size], (phase.pad_before, phase.pad_after))
            got[phase.start :: stride] = np.correlate(seen, taps, "valid")
        assert got.tolist() == want.tolist(), (case, seed)


@pytest.mark.slow
@pytest.mark.parametrize("unsigned", [False, True])
def test_equals_reference(launcher: HostLauncher, unsigned: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, unsigned])
    rules = Rules(Rounding.V1)
    for case in range(scaled(30)):
        kernel_h, kernel_w, stride_h, stride_w = (int(n) for n in rng.integers(1, 5, 4))
        in_h, in_w = (int(n) for n in rng.integers(1, 7, 2))
        in_c, out_c = (4, 8) if case % 2 else (int(rng.integers(1, 7)), int(rng.integers(1, 7)))
        pads = {f"pad_{side}": int(rng.integers(3)) for side in ("top", "left")}
        spec = TransposeConvSpec(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_h=max(1, (in_h - 1) * stride_h + kernel_h - int(rng.integers(4))),
            out_w=max(1, (in_w - 1) * stride_w + kernel_w - int(rng.integers(4))),
            out_c=out_c,
            window=Window2d(kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w, **pads),
            **random_quants(rng, rules, unsigned, False, out_c, 0, kernel_h * kernel_w * in_c),
        )
        weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
        bias = random_bias(rng, out_c)
        x = random_codes(rng, (int(rng.integers(1, 3)), in_h, in_w, in_c), spec.x_quant.dtype)
        want = reference(spec, rules.rule, x, weights, bias)
        layer = pack(spec, rules.rule, weights, bias)
        run_layer(launcher, layer, [x], want, rng, f"seed {seed}, case {case}: {spec}", align=4 if case % 2 else 1)


def uint8_spec(out_h: int, out_c: int, images: int = 1, activation: str | None = None) -> TransposeConvSpec:
    quant = Quant(1.0, dtype="uint8")
    return TransposeConvSpec(
        in_h=out_h,
        in_w=1,
        in_c=1,
        out_h=out_h,
        out_w=1,
        out_c=out_c,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=quant,
        w_quant=quant,
        out_quant=Quant(4.0, 128, dtype="uint8"),
        activation=activation,
        images=images,
    )


def test_blocks_of_elements_are_no_blocks_of_channels() -> None:
    rule = Rule(Rounding.V1U_BLOCK16, Product.F32)

    def macro(spec: TransposeConvSpec) -> str:
        layer = pack(spec, rule, np.ones(spec.weights_shape, np.uint8), None)
        return str(layer.parts[0][2].epilogue.rule)

    # 4 * 4 elements of 4 channels are a block, and so are two images of 8; 15 elements are none.
    assert [macro(uint8_spec(4, 4)), macro(uint8_spec(2, 4, images=2)), macro(uint8_spec(15, 1))] == [
        "RULE_V1U",
        "RULE_V1U",
        "RULE_V1_RIGHT",
    ]
    assert macro(uint8_spec(3, 6, activation="relu")) == "RULE_V1_RIGHT"
    # 18 elements, and 17 channels of one pixel: a block each and a rest.
    assert [macro(uint8_spec(3, 6)), macro(uint8_spec(1, 17))] == ["RULE_V1U", "RULE_V1U"]
    layer = pack(uint8_spec(3, 6), rule, np.ones((6, 1, 1, 1), np.uint8), None)
    one = ImageLayout.contiguous(1, 3, 1, 6)
    names = [launch.kernel.name for launch in layer.launches(layer.choices(1, Traits(80, 4))[0], [one], one)]
    assert names[-1] == "transpose_conv_rest_u8"
    assert layer.rest is not None
    with pytest.raises(InputValueError, match="TRANSPOSE_CONV: .* elements in one launch"):
        layer.rest.launch(replace(one, images=1 << 30), one)


@pytest.mark.slow
def test_what_is_behind_the_last_whole_block(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rule, others = Rule(Rounding.V1U_BLOCK16, Product.F32), 0
    for case in range(scaled(40)):
        kernel_h, kernel_w, stride_h, stride_w, images = (int(n) for n in rng.integers(1, 4, 5))
        in_h, in_w, in_c, out_c = (int(n) for n in rng.integers(1, 6, 4))
        in_c = int(rng.choice([in_c, 33, 70]))
        spec = TransposeConvSpec(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_h=in_h * stride_h,
            out_w=in_w * stride_w,
            out_c=out_c,
            window=Window2d(
                kernel_h=kernel_h,
                kernel_w=kernel_w,
                stride_h=stride_h,
                stride_w=stride_w,
                pad_top=int(rng.integers(kernel_h)),
                pad_left=int(rng.integers(kernel_w)),
            ),
            # Sums of small codes at a scale of 1 / 2 or 1 / 4: ties, and negative ones half of the time.
            x_quant=Quant(0.5, 2, dtype="uint8"),
            w_quant=Quant(0.5, 2, dtype="uint8"),
            out_quant=Quant(float(rng.choice([0.5, 1.0])), 128, dtype="uint8"),
            images=images,
        )
        weights = rng.integers(0, 5, spec.weights_shape).astype(np.uint8)
        bias = rng.integers(-40, 40, out_c).astype(np.int32)
        x = rng.integers(0, 5, (images * int(rng.integers(1, 3)), in_h, in_w, in_c)).astype(np.uint8)
        want = reference(spec, rule, x, weights, bias)
        layer = pack(spec, rule, weights, bias)
        others += layer.rest is not None and bool((reference(spec, Rule(Rounding.V1U), x, weights, bias) != want).any())
        run_layer(launcher, layer, [x], want, rng, f"seed {seed}, case {case}: {spec}")
    assert others, "no rest differs from V1U"
