"""gpuq.cuda.elementwise: quantize, dequantize and tables, run thread by thread on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuq import quant as affine
from gpuq.cuda.elementwise import CODE_DTYPES, AffineLayer, AffineMap, MapLayer, pack
from gpuq.cuda.kernel import Launch, Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.plans import CudaPlan
from gpuq.errors import InputTypeError, InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.quantize import QuantizeSpec, reference
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import launcher, scaled
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]


def placed(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, misalignment: int) -> np.ndarray:
    """An array of noise that starts so many bytes into its allocation."""
    dtype = np.dtype(dtype)
    room = rng.integers(0, 256, misalignment + int(np.prod(shape)) * dtype.itemsize).astype(np.uint8)
    return room[misalignment:].view(dtype).reshape(shape)


def random_values(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Values around the codes' range, many on ties, some huge or infinite."""
    values = rng.normal(0, 150 * scale, shape)
    ties = rng.random(shape) < 0.4
    values[ties] = (np.round(values[ties] / scale) + 0.5) * scale
    with np.errstate(over="ignore"):
        extreme = rng.random(shape) < 0.05
        values[extreme] *= 2.0 ** rng.integers(10, 140)
        values = values.astype(np.float32)
    values[rng.random(shape) < 0.02] = rng.choice([np.inf, -np.inf, 0.0, -0.0])
    return values


def random_quant(rng: np.random.Generator, dtype: str, shape: tuple[int, ...], axis: int | None) -> Quant:
    info = np.iinfo(dtype)
    low, high = max(info.min, -(1 << 20)), min(info.max, 1 << 20)
    count = 1 if axis is None else shape[axis]
    scales = 2.0 ** rng.uniform(-12, 6, count)
    if rng.random() < 0.5:
        scales = 2.0 ** np.floor(np.log2(scales))
    points = rng.integers(low, high + 1, count)
    if rng.random() < 0.2:
        points[:] = rng.choice([info.min, info.max])
    return Quant(scales, points, axis if count > 1 else None, dtype)


def bound(map_: AffineMap, launcher: HostLauncher, x: np.ndarray, y: np.ndarray) -> Launch:
    memory = launcher.upload(map_.constants) | {"x": Pointer(x), "y": Pointer(y)}
    return map_.launch(x.size, launcher.misalignment(x), launcher.misalignment(y)).bound(memory)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["quantize", "dequantize"])
@pytest.mark.parametrize("dtype", CODE_DTYPES)
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "any"])
def test_affine_maps(launcher: HostLauncher, op: str, dtype: str, per_channel: bool, aligned: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, CODE_DTYPES.index(dtype), per_channel, aligned])
    size = np.dtype(dtype).itemsize
    for case in range(scaled(75)):
        shape = tuple(int(n) for n in rng.integers(1, 9, rng.integers(1, 5)))
        axis = int(rng.integers(-len(shape), len(shape))) if per_channel else None
        quant = random_quant(rng, dtype, shape, axis)
        narrow = bool(rng.integers(2))
        # Any address that the elements themselves allow.
        starts = (0, 0) if aligned else (4 * int(rng.integers(4)), size * int(rng.integers(16 // size)))
        codes = placed(rng, shape, dtype, starts[1])
        values = placed(rng, shape, np.float32, starts[0])
        map_ = AffineMap.of(op, quant, shape, narrow_range=narrow and op == "quantize")
        context = f"seed {seed}, case {case}: {quant} of {shape} at {starts}"
        if op == "quantize":
            values[...] = random_values(rng, shape, float(quant.scales.mean()))
            launcher.launch(bound(map_, launcher, values, codes))
            assert_equal_bits(codes, affine.quantize(values, quant, narrow_range=narrow), context)
        else:
            launcher.launch(bound(map_, launcher, codes, values))
            assert_equal_bits(values, affine.dequantize(codes, quant), context)


def test_nan_gives_the_lowest_code(launcher: HostLauncher) -> None:
    values, codes = np.full(5, np.nan, np.float32), np.zeros(5, np.int8)
    launcher.launch(bound(AffineMap("quantize", Quant(0.5, 7)), launcher, values, codes))
    assert codes.tolist() == [-128] * 5


@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8")], ids=str)
@pytest.mark.parametrize("start", [0, 5])
def test_requantize_by_table(launcher: HostLauncher, dtypes: tuple[str, str], start: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for rounding in (Rounding.V1, Rounding.V2):
        for size in (1, 15, 16, 5000, *rng.integers(1, 100, scaled(25)).tolist()):
            spec = QuantizeSpec(
                shape=(size,),
                x_quant=Quant(0.3, 5, dtype=dtypes[0]),
                out_quant=Quant(2.0 ** rng.uniform(-4, 2), 9, dtype=dtypes[1]),
            )
            layer = pack(spec, Rule(rounding))
            assert isinstance(layer, MapLayer)
            x = placed(rng, (3, size), dtypes[0], start)
            y = placed(rng, (3, size), dtypes[1], start)
            CudaPlan(layer, launcher).launch([x], [y], np.zeros(4, np.uint8))
            assert_equal_bits(y, reference(spec, Rule(rounding), x), f"seed {seed}, {spec}")


def test_layers_of_networks(launcher: HostLauncher) -> None:
    quantize = pack(QuantizeSpec(shape=(2, 3), x_quant=None, out_quant=Quant(0.5, 1)), Rule(Rounding.AFFINE_F32))
    dequantize = pack(DequantizeSpec(shape=(2, 3), x_quant=Quant(0.5, 1)), Rule(Rounding.AFFINE_F32))
    x = np.linspace(-3, 3, 30, dtype=np.float32).reshape(5, 2, 3)
    codes, back = np.zeros(x.shape, np.int8), np.zeros(x.shape, np.float32)
    for layer, source, target in ((quantize, x, codes), (dequantize, codes, back)):
        assert isinstance(layer, AffineLayer)
        plan = CudaPlan(layer, launcher)
        assert plan.workspace_bytes(5) == 0
        plan.launch([source], [target], np.zeros(4, np.uint8))
    assert_equal_bits(codes, affine.quantize(x, Quant(0.5, 1)), "quantize")
    assert_equal_bits(back, affine.dequantize(codes, Quant(0.5, 1)), "dequantize")
    assert [quantize.choices(1, Traits(80, 4))[0].name, dequantize.choices(1, Traits(80, 4))[0].name] == [
        "quantize_f32_int8",
        "dequantize_f32_int8",
    ]


def test_maps_are_checked() -> None:
    with pytest.raises(InputValueError, match="do not fit an array of shape"):
        AffineMap.of("quantize", Quant([0.5, 0.25], 0, axis=0), (3, 2))
    with pytest.raises(InputTypeError, match="int64 are not supported on a GPU"):
        AffineMap("dequantize", Quant(0.5, dtype="int64"))
    assert AffineMap.of("dequantize", Quant([0.5] * 3, 0, axis=1), (2, 3, 4, 5)).inner == 20
    assert AffineMap.of("dequantize", Quant([0.5] * 5, 0, axis=-1), (2, 3, 4, 5)).inner == 1
