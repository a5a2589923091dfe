"""gpuq.cuda.arg_max: along every dimension, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuq.cuda.arg_max import pack
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.arg_max import ArgMaxSpec, reference

from .compare import assert_equal_bits
from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import placed
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

EXACT = Rule(Rounding.EXACT)


def check(
    launcher: HostLauncher, rng: np.random.Generator, spec: ArgMaxSpec, x: np.ndarray, align: int, context: str
) -> str:
    """The kernel's name. The output lies between guards that must stay."""
    layer = pack(spec, EXACT)
    memory, _, layout = placed(rng, x.reshape(-1, *layer.x_shapes[0]), align, gaps=bool(rng.integers(2)))
    memory.flags.writeable = False
    want = reference(spec, EXACT, x)
    y = rng.integers(-100, 100, want.size + 4).astype(want.dtype)
    expected = y.copy()
    expected[2:-2] = want.reshape(-1)
    output = ImageLayout.contiguous(x.shape[0], *layer.y_shape)
    output = replace(output, offset=2 * y.itemsize)
    layout = replace(layout, misalignment=launcher.misalignment(memory))
    (launch,) = layer.launches(layer.choices(1, launcher.traits)[0], [layout], output)
    launcher.launch(launch.bound({"x": Pointer(memory), "y": Pointer(y)}))
    assert_equal_bits(y, expected, context)
    return launch.kernel.name


@pytest.mark.slow
@pytest.mark.parametrize("out_dtype", ["int32", "int64"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_any_axis(launcher: HostLauncher, dtype: str, out_dtype: str, seed: int) -> None:
    rng = np.random.default_rng([seed, dtype == "int8", out_dtype == "int32"])
    names = set()
    for case in range(scaled(300)):
        rank = int(rng.integers(1, 7))
        shape = [int(n) for n in rng.integers(1, (0, 67, 13, 9, 5, 4, 3)[rank] + 1, rank)]
        axis = int(rng.integers(rank))
        align = 1
        if case % 3:
            axis, align = rank - 1, (1, 4)[case % 2]
            shape[-1] = align * int(rng.integers(64 // align, 300 // align))
        spec = ArgMaxSpec(x_shape=tuple(shape), axis=axis, dtype=np.dtype(dtype), out_dtype=np.dtype(out_dtype))
        x = random_codes(rng, (int(rng.integers(1, 4)), *shape), dtype)
        if rng.random() < 0.5:
            x //= 32  # equal codes: the first one wins
        names.add(check(launcher, rng, spec, x, align, f"seed {seed}, case {case}: {spec}"))
    assert names == {f"arg_max_{way}_{out_dtype}" for way in ("any_u8", "warp_u8", "warp_u32")}


def test_equal_rows_and_each_position(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for length in (64, 200, 1001):
        spec = ArgMaxSpec(x_shape=(length,), axis=0, dtype=np.dtype(np.int8), out_dtype=np.dtype(np.int32))
        for code in (-128, 0, 127):
            check(launcher, rng, spec, np.full((3, length), code, np.int8), 1, f"{length} times {code}")
        x = np.full((length, length), -128, np.int8) if length < 1001 else np.zeros((5, length), np.int8)
        np.fill_diagonal(x, 127)
        check(launcher, rng, spec, x, 4 if length % 4 == 0 else 1, f"each position of {length}")


def test_nothing_to_do_and_too_much() -> None:
    spec = ArgMaxSpec(x_shape=(2, 3), axis=1, dtype=np.dtype(np.int8), out_dtype=np.dtype(np.int64))
    layer = pack(spec, EXACT)
    choice = layer.choices(1, Traits(80, 4))[0]
    assert (layer.constants, layer.y_shape, layer.workspace_bytes(1, choice)) == ({}, (1, 1, 2), 0)
    many = ImageLayout.contiguous(1 << 30, 1, 2, 3)
    with pytest.raises(InputValueError, match="ARG_MAX: .* outputs in one launch"):
        layer.launches(choice, [many], many)
    empty = pack(replace(spec, x_shape=(0, 3)), EXACT)
    one = ImageLayout.contiguous(1, 1, 1, 1)
    assert not empty.launches(choice, [one], one)
    with pytest.raises(InputValueError, match="ARG_MAX: 7 dimensions"):
        pack(replace(spec, x_shape=(1,) * 7), EXACT).launches(choice, [one], one)
