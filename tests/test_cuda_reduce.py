"""gpuq.cuda.reduce: over every set of dimensions, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.reduce import QUADS, ReduceChoice, ReduceLayer, pack
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops import registry
from gpuq.ops.mean import MeanSpec, reference
from gpuq.ops.reduce import ReduceMaxSpec, ReduceMinSpec, SumSpec
from gpuq.quant import Quant

from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import random_quant, run_layer
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

V1 = Rule(Rounding.V1)


class Fixed(ReduceLayer):
    """A layer with one choice."""

    quads = 0

    def choices(self, runs: int, traits: Traits) -> tuple[ReduceChoice, ...]:
        return (ReduceChoice(self.quads),)


def fixed(spec: MeanSpec, quads: int) -> ReduceLayer:
    made = pack(spec, V1)
    layer = Fixed(**{field.name: getattr(made, field.name) for field in fields(made)})
    object.__setattr__(layer, "quads", quads)
    return layer


def random_spec(
    rng: np.random.Generator, dtype: str, shape: tuple[int, ...], axes: tuple[int, ...], keep_dims: bool
) -> MeanSpec:
    """Scales so that most codes do not saturate; some are any."""
    x_quant, out_quant = random_quant(rng, dtype, -6, 0), random_quant(rng, dtype)
    if rng.random() < 0.8:
        scale = x_quant.scalar_scale() * (1.0 if rng.random() < 0.5 else 2.0 ** rng.uniform(-5, 2))
        out_quant = Quant(float(np.float32(scale)), out_quant.scalar_zero_point(), dtype=dtype)
    return MeanSpec(x_shape=shape, axes=axes, keep_dims=keep_dims, x_quant=x_quant, out_quant=out_quant)


@pytest.mark.slow
@pytest.mark.parametrize("quads", QUADS)
@pytest.mark.parametrize("align", [4, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_means_of_images(launcher: HostLauncher, dtype: str, align: int, quads: int, seed: int) -> None:
    rng = np.random.default_rng([seed, quads, align, dtype == "int8"])
    for case in range(scaled(60)):
        channels = 4 * int(rng.integers(1, 50)) if align == 4 else int(rng.integers(1, 68))
        shape = (int(rng.integers(1, 12)), int(rng.integers(1, 12)), channels)
        axes = ((0, 1), (0, 1), (1,), (0,), ())[rng.integers(5)]
        spec = random_spec(rng, dtype, shape, axes, bool(rng.integers(2)))
        x = random_codes(rng, (int(rng.integers(1, 4)), *shape), dtype)
        want = reference(spec, V1, x)
        run_layer(launcher, fixed(spec, quads), [x], want, rng, f"seed {seed}, case {case}: {spec}", align=align)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_means_over_any_axes(launcher: HostLauncher, dtype: str, seed: int) -> None:
    rng = np.random.default_rng([seed, dtype == "int8"])
    kernels = set()
    for case in range(scaled(250)):
        shape = tuple(int(n) for n in rng.integers(1, 6, rng.integers(1, 7)))
        axes = tuple(axis for axis in range(len(shape)) if rng.random() < 0.5)
        if case % 10 == 5:
            # As many loops as there can be.
            shape = tuple(int(n) for n in rng.integers(2, 4, 6))
            axes = ((0, 2, 4), (1, 3, 5), (1, 3), (1, 3, 4, 5), (0, 2, 4, 5))[case // 10 % 5]
        spec = random_spec(rng, dtype, shape, axes, bool(rng.integers(2)))
        x = random_codes(rng, (int(rng.integers(1, 4)), *shape), dtype)
        want = reference(spec, V1, x)
        kernels |= set(
            run_layer(
                launcher, pack(spec, V1), [x], want, rng, f"seed {seed}, case {case}: {spec}", gaps=bool(case % 2)
            )
        )
    assert "reduce_sum_any_u8" in kernels


def test_many_elements(launcher: HostLauncher, seed: int) -> None:
    # Sums of extreme codes; and, with zero point -128, n * zp.
    rng = np.random.default_rng(seed)
    for axes, shape in (((0, 1), (130, 121, 4)), ((0, 1, 2), (3, 41, 40))):
        spec = random_spec(rng, "int8", shape, axes, False)
        for code in (-128, 127):
            x = np.full((1, *shape), code, np.int8)
            changed = replace(spec, x_quant=Quant(0.5, -128), out_quant=Quant(1.0, 3))
            run_layer(launcher, pack(changed, V1), [x], reference(changed, V1, x), rng, f"{code}")


def test_choices_follow_the_outputs() -> None:
    spec = MeanSpec(x_shape=(7, 7, 1024), axes=(0, 1), keep_dims=False, x_quant=Quant(0.5), out_quant=Quant(0.5))
    layer = pack(spec, V1)
    traits = Traits(90, 132)
    assert [choice.quads for choice in layer.choices(1, traits)] == [8, 32]
    assert [choice.quads for choice in layer.choices(256, traits)] == [32, 8]
    assert layer.choices(1, traits)[0].name == "reduce_columns_32"
    assert layer.workspace_bytes(1, layer.choices(1, traits)[0]) == 0


def test_what_cannot_be_is_refused() -> None:
    spec = MeanSpec(x_shape=(2, 3), axes=(1,), keep_dims=True, x_quant=Quant(0.5), out_quant=Quant(0.5))
    many = ImageLayout.contiguous(1 << 31, 1, 2, 3)
    deep = pack(replace(spec, x_shape=(1,) * 7), V1)
    with pytest.raises(InputValueError, match="7 dimensions"):
        deep.launches(ReduceChoice(8), [many], many)
    layer = pack(spec, V1)
    with pytest.raises(InputValueError, match="MEAN: .* outputs in one launch"):
        layer.launches(ReduceChoice(8), [many], ImageLayout.contiguous(1 << 31, 1, 2, 1))
    empty = ReduceLayer(replace(spec, x_shape=(0, 3)), "SUM", False)
    with pytest.raises(InputValueError, match="nothing can be made"):
        empty.launches(ReduceChoice(8), [many], many)


@pytest.mark.slow
@pytest.mark.parametrize("spec_type", [SumSpec, ReduceMaxSpec, ReduceMinSpec])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_sums_and_extremes(launcher: HostLauncher, spec_type: Any, dtype: str, seed: int) -> None:
    rng = np.random.default_rng([seed, dtype == "int8"])
    for case in range(scaled(40)):
        channels = 4 * int(rng.integers(1, 20)) if case % 2 else int(rng.integers(1, 34))
        shape = (*(int(n) for n in rng.integers(1, 9, rng.integers(1, 4))), channels)
        axes = tuple(axis for axis in range(len(shape)) if rng.random() < (0.1 if axis == len(shape) - 1 else 0.6))
        common = {"x_shape": shape, "axes": axes, "keep_dims": bool(rng.integers(2))}
        rule = V1
        if spec_type is SumSpec:
            x_quant, out_quant = random_quant(rng, dtype, -6, 0), random_quant(rng, dtype, -4, 6)
            spec = SumSpec(**common, x_quant=x_quant, out_quant=out_quant)
            if dtype == "int8" and case % 3 == 0:
                rule = Rule(Rounding.V1_BYTES)
        else:
            spec = spec_type(**common, dtype=np.dtype(dtype))
        x = random_codes(rng, (int(rng.integers(1, 4)), *shape), dtype)
        want = registry.reference(spec, rule, x)
        context = f"seed {seed}, case {case}: {rule}, {spec}"
        run_layer(launcher, pack(spec, rule), [x], want, rng, context, align=4 if case % 2 else 1)


def test_other_numbers_are_refused() -> None:
    spec = ReduceMaxSpec(x_shape=(4,), axes=(0,), keep_dims=False, dtype=np.dtype(np.int32))
    with pytest.raises(InputValueError, match="REDUCE_MAX: there is no CUDA kernel for int32"):
        pack(spec, Rule(Rounding.EXACT))
