"""Random layers for CUDA kernels, dealt so that every kernel meets every rule; run on the CPU, thread by thread.

A kernel is compiled for a rule, a dtype, a way of loading; all of them times all rows of a KERNELS table would be
thousands of compilations. So each row of a table meets each rule once, and dtype, loads and clamps go round.

Environment:
    GPUQ_HOST_CASES: layers for each row and rule; 50, with which a row meets 300 layers. `make test-host` sets 300, and
        deals each row and rule all kinds of dtype and loads instead of one. Other tests draw as many times more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpuq.cuda.layer import Layer
from gpuq.cuda.layout import ImageLayout, ImageOperand
from gpuq.cuda.plans import CudaPlan
from gpuq.numerics import Product, Rounding, Rule
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .host_cuda.runner import HostLauncher, require_tools

CASES = int(os.environ.get("GPUQ_HOST_CASES", "50"))
EVERYTHING = CASES > 50


@dataclass(frozen=True)
class Rules:
    """A rule, and whether scales are such that V1 needs its general form (left shifts)."""

    rounding: Rounding
    general: bool = False

    @property
    def rule(self) -> Rule:
        return Rule(self.rounding, Product.ALL_F32 if self.rounding is Rounding.V4 else Product.F64)

    def __str__(self) -> str:
        return self.rounding.name + ("_LEFT" if self.general else "")


RULES = (
    Rules(Rounding.V1),
    Rules(Rounding.V1, general=True),
    Rules(Rounding.V1U),
    Rules(Rounding.V2),
    Rules(Rounding.V4),
    Rules(Rounding.V6),
)


def dealt(rows: int, kinds: int) -> list[tuple[int, int, int]]:
    """(row, rule, kind) for every row and rule; kinds go round, or all of them where everything is asked for."""
    if EVERYTHING:
        return [(row, rule, kind) for row in range(rows) for rule in range(len(RULES)) for kind in range(kinds)]
    return [(row, rule, (row + rule) % kinds) for row in range(rows) for rule in range(len(RULES))]


def cases(kinds: int) -> int:
    """Layers of one dealt test."""
    return -(-CASES // kinds) if EVERYTHING else CASES


def scaled(count: int) -> int:
    """So many cases, or as many more as GPUQ_HOST_CASES asks for."""
    return count * CASES // 50


@pytest.fixture(scope="module")
def launcher() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher(arch=80) as started:
        yield started


def random_quants(
    rng: np.random.Generator, rules: Rules, unsigned: bool, clamps: bool, out_c: int, axis: int, taps: int
) -> dict[str, Any]:
    """x_quant, w_quant, out_quant and activation of a layer whose codes spread, with ties among them.

    Args:
        clamps: the activation leaves out some codes.
        taps: of one output, which the sums' spread grows with.
    """
    dtype = "uint8" if unsigned else "int8"
    low, high = (0, 256) if unsigned else (-128, 128)
    # Sums of random codes spread over about 6,000 * sqrt(taps): this many bits beyond a code's.
    spread = np.log2(6000 / 64 * np.sqrt(taps))
    if rules.general:
        exponent = -spread + rng.uniform(0, 4 + spread, out_c)
    else:
        exponent = -spread + rng.normal(0, 1, out_c)
    if rng.random() < 0.4:
        exponent = np.floor(exponent)  # powers of two: ties
    w_scales = (2.0**exponent).astype(np.float32)
    if unsigned:
        w_quant = Quant(w_scales[0], int(rng.choice([128, rng.integers(0, 256)])), dtype=dtype)
    elif out_c > 1 and rng.random() < 0.7:
        if rng.random() < 0.3:
            w_scales[rng.integers(out_c)] = rng.choice([0.0, 2.0**-40])
        w_quant = Quant(w_scales, 0, axis=axis)
    else:
        w_quant = Quant(w_scales[0], 0)
    zero_point = int(rng.integers(low, high))
    activation = None
    out_scale = 0.5
    if clamps:
        activation, out_scale = "relu6", 0.5
        zero_point = int(rng.integers(low + 1, high))
    return {
        "x_quant": Quant(0.5, int(rng.choice([rng.integers(low, high), low, high - 1])), dtype=dtype),
        "w_quant": w_quant,
        "out_quant": Quant(out_scale, zero_point, dtype=dtype),
        "activation": activation,
    }


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Any codes, or the two extreme ones only; of floats small numbers."""
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    if rng.random() < 0.1:
        return rng.choice(np.array([info.min, info.max]), shape).astype(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def random_bias(rng: np.random.Generator, out_c: int) -> np.ndarray | None:
    """None, small ones, or, rarely, ones near the ends of int32, so that sums wrap."""
    if rng.random() < 0.2:
        return None
    bias = rng.integers(-(1 << 13), 1 << 13, out_c)
    if rng.random() < 0.05:
        bias[rng.integers(out_c)] = rng.choice([-(2**31), 2**31 - 1])
    return bias.astype(np.int32)


def embedded(rng: np.random.Generator, images: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray, ImageOperand]:
    """(memory, view, operand): images (N, H, W, C) within a larger array of noise, gaps in multiples of `step` bytes."""
    count, height, width, channels = images.shape
    gaps = rng.choice([0, 0, 0, step], 3)
    pixel = channels + int(gaps[0])
    row = width * pixel + int(gaps[1])
    image = height * row + int(gaps[2])
    offset = int(rng.choice([0, 0, step]))
    memory = random_codes(rng, (offset + count * image,), images.dtype)
    view = np.lib.stride_tricks.as_strided(memory[offset:], images.shape, (image, row, pixel, 1))
    view[...] = images
    return memory, view, ImageOperand(memory, ImageLayout(count, image, row, pixel, offset))


def check_layer(
    launcher: HostLauncher,
    layer: Layer,
    choice: Any,
    x: np.ndarray,
    want: np.ndarray,
    rng: np.random.Generator,
    context: object,
    align: int = 1,
) -> None:
    """Runs a layer by this choice, operands with gaps that must stay as they were, a workspace of noise.

    Args:
        align: operands keep to multiples of this, so that the kernel may load that many bytes.
    """
    runs = x.shape[0]
    # A fresh order of threads and blocks for each layer; two that must agree for every tenth.
    seeds = tuple(int(seed) for seed in rng.integers(1, 1 << 30, 2 if rng.random() < 0.1 else 1))
    plan = CudaPlan(layer, launcher.with_seeds(seeds), choice)
    x_memory, _, x_operand = embedded(rng, x.reshape(runs, *layer.x_shapes[0]), align)
    x_memory.flags.writeable = False
    y = random_codes(rng, (runs, *layer.y_shape), want.dtype)
    y_memory, y_view, y_operand = embedded(rng, y, int(rng.choice([1, 4, align])))
    expected = y_memory.copy()
    offset = y_operand.layout.offset
    np.lib.stride_tricks.as_strided(expected[offset:], y.shape, y_view.strides)[...] = want.reshape(y.shape)
    workspace = rng.integers(0, 256, max(4, plan.workspace_bytes(runs)), np.uint8)
    plan.launch([x_operand], [y_operand], workspace)
    assert_equal_bits(y_view, want.reshape(y.shape), context)
    assert_equal_bits(y_memory, expected, f"between the images: {context}")
