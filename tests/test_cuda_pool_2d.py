"""gpuq.cuda.pool_2d: both pools, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.pool_2d import pack
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops import average_pool_2d, max_pool_2d
from gpuq.ops.average_pool_2d import AveragePool2dSpec, Pool2dSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import random_quant, run_layer
from .host_cuda.runner import HostLauncher
from .layers import ACTIVATIONS

__all__ = ["launcher"]

EXACT = Rule(Rounding.EXACT)
REFERENCES: dict[type[Pool2dSpec], Any] = {
    AveragePool2dSpec: average_pool_2d.reference,
    MaxPool2dSpec: max_pool_2d.reference,
}


def random_window(rng: np.random.Generator, largest: int) -> tuple[Window2d, int, int]:
    """(window, image height, image width): pads of any size below the window's, images from one output pixel up."""
    fields: dict[str, int] = {}
    sizes = []
    for axis, before, after in (("h", "top", "bottom"), ("w", "left", "right")):
        kernel = int(rng.integers(1, largest + 1))
        pads = [int(pad) for pad in rng.integers(0, kernel, 2)]
        fields |= {f"kernel_{axis}": kernel, f"stride_{axis}": int(rng.integers(1, 4))}
        fields |= {f"pad_{before}": pads[0], f"pad_{after}": pads[1]}
        sizes.append(max(1, kernel - sum(pads)) + int(rng.integers(0, 6)))
    return Window2d(**fields), sizes[0], sizes[1]


@pytest.mark.slow
@pytest.mark.parametrize("align", [4, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("spec_type", list(REFERENCES), ids=lambda spec_type: spec_type.op)
def test_pools_equal_reference(
    launcher: HostLauncher, spec_type: type[Pool2dSpec], dtype: str, align: int, seed: int
) -> None:
    rng = np.random.default_rng([seed, align, dtype == "int8", list(REFERENCES).index(spec_type)])
    for case in range(scaled(120)):
        window, in_h, in_w = random_window(rng, 9 if rng.random() < 0.2 else 3)
        channels = 4 * int(rng.integers(1, 17)) if align == 4 else int(rng.integers(1, 68))
        quant = random_quant(rng, dtype, -6, 0)
        spec = spec_type(
            in_h=in_h,
            in_w=in_w,
            in_c=channels,
            window=window,
            x_quant=quant,
            out_quant=quant,
            activation=ACTIVATIONS[rng.integers(len(ACTIVATIONS))],
        )
        x = random_codes(rng, (int(rng.integers(1, 4)), in_h, in_w, channels), dtype)
        if rng.random() < 0.3:
            x //= 64  # few different codes: ties
        want = REFERENCES[spec_type](spec, EXACT, x)
        context = f"seed {seed}, case {case}: {spec}"
        names = run_layer(launcher, pack(spec, EXACT), [x], want, rng, context, align=align)
        assert align == 1 or names[0].endswith("_u32")


def plain(in_h: int, in_w: int, channels: int = 4, quant: Quant = Quant(0.5)) -> AveragePool2dSpec:
    window = Window2d(kernel_h=in_h, kernel_w=in_w)
    return AveragePool2dSpec(in_h=in_h, in_w=in_w, in_c=channels, window=window, x_quant=quant, out_quant=quant)


def test_means_of_every_sum(launcher: HostLauncher, seed: int) -> None:
    # All sums of three codes, 1 x 3 pixels: thirds and, with two equal ones, every remainder of both signs.
    rng = np.random.default_rng(seed)
    for in_w in (1, 2, 3, 7, 64):
        x = np.repeat(np.arange(-128, 128, dtype=np.int8), in_w).reshape(1, 1, in_w, 256)
        x[0, 0, 0] = rng.integers(-128, 128, 256)
        spec = plain(1, in_w, 256)
        want = average_pool_2d.reference(spec, EXACT, x)
        run_layer(launcher, pack(spec, EXACT), [x], want, rng, f"seed {seed}, {in_w} pixels")


def test_a_large_window_of_extreme_codes(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for code in (-128, 127):
        spec = plain(150, 130)
        x = np.full((1, 150, 130, 4), code, np.int8)
        want = average_pool_2d.reference(spec, EXACT, x)
        run_layer(launcher, pack(spec, EXACT), [x], want, rng, f"code {code}")
    # int16: 65,535 pixels are what an int32 holds.
    for code in (-32768, 32767):
        wide = replace(plain(3, 21845), x_quant=Quant(0.5, dtype="int16"), out_quant=Quant(0.5, dtype="int16"), in_c=1)
        y = np.full((1, 1, 1, 1), code, np.int16)
        run_layer(launcher, pack(wide, EXACT), [np.full((1, 3, 21845, 1), code, np.int16)], y, rng, f"code {code}")


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(InputValueError, match="AVERAGE_POOL_2D: a window of 16777216 pixels"):
        pack(plain(1 << 12, 1 << 12), EXACT)
    int16 = {name: Quant(0.5, dtype="int16") for name in ("x_quant", "out_quant")}
    with pytest.raises(InputValueError, match="AVERAGE_POOL_2D: a window of 65536 pixels"):
        pack(replace(plain(1, 65536), **int16), EXACT)
    # A maximum has no sums.
    pack(MaxPool2dSpec(in_h=1, in_w=65536, in_c=1, window=Window2d(kernel_h=1, kernel_w=65536), **int16), EXACT)
    layer = pack(plain(2, 2), EXACT)
    assert layer.workspace_bytes(1, layer.choices(1, Traits(80, 4))[0]) == 0
    many = ImageLayout.contiguous(1 << 31, 2, 2, 4)
    with pytest.raises(InputValueError, match="words in one launch"):
        layer.launches(layer.choices(1, Traits(80, 4))[0], [many], many)
