"""float32 operators, and plain integers, beside LiteRT's resolvers.

Under litert_ref the bits are equal, but for TANH, whose tanhf is the C library's. The optimized kernels and XNNPACK add
in orders of their own and have their own exponentials: within BOUND of the largest element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq.ops.float32.exponential import expf
from tests.compare import assert_equal_bits

from . import layers_each
from .one_operator import TensorDef, build, constant
from .runtimes import PEERS, PeerRefused

PROFILES = ("litert_ref", "litert_opt", "xnnpack")
BOUND = 128 * 2**-24
TANH_ULPS = 2
CASES = layers_each(6)

F = np.float32


@dataclass(frozen=True)
class Case:
    """One operator on random numbers."""

    op: str
    inputs: Sequence[TensorDef]
    output: TensorDef
    options: Any = None
    version: int = 1

    def model(self) -> bytes:
        return build(self.op, self.inputs, [self.output], self.options, self.version)

    def values(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Numbers for each input that is computed; divisors are not 0, roots not negative."""
        values = []
        for tensor in self.inputs:
            if tensor.data is not None:
                continue
            if np.dtype(tensor.dtype) == bool:
                values.append(rng.random(tensor.shape) < 0.5)
            elif np.dtype(tensor.dtype).kind == "i":
                integers = rng.integers(-(2**20), 2**20, tensor.shape)
                values.append(np.where(integers == 0, 7, integers).astype(tensor.dtype))
            else:
                reals = rng.normal(size=tensor.shape) * rng.choice([0.1, 1, 5])
                values.append((np.abs(reals) + 1e-3 if "SQRT" in self.op else reals).astype(F))
        return values


def options(name: str, **fields: Any) -> Any:
    made = getattr(schema, name)()
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def elementwise(rng: np.random.Generator) -> Iterator[Case]:
    shape = tuple(int(n) for n in rng.integers(1, 7, 3))
    x = TensorDef(shape, F)
    for op in ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "ELU", "ABS"):
        yield Case(op, [x], x)
    for op in ("SQRT", "RSQRT", "NEG"):
        yield Case(op, [x], x)
    yield Case("LEAKY_RELU", [x], x, options("LeakyReluOptionsT", alpha=float(rng.uniform(0, 1))))
    yield Case("SOFTMAX", [x], x, options("SoftmaxOptionsT", beta=float(rng.uniform(0.5, 2))))
    yield Case("L2_NORMALIZATION", [x], x, options("L2NormOptionsT"))
    other = [shape, shape[2:], (shape[0], 1, shape[2])][rng.integers(3)]
    for op in ("ADD", "SUB", "MUL", "DIV"):
        name = f"{op.capitalize()}OptionsT"
        fused = int(rng.integers(4))
        yield Case(op, [x, TensorDef(other, F)], x, options(name, fusedActivationFunction=fused))
        whole = [TensorDef(shape, np.int32), TensorDef(other, np.int32)]
        yield Case(op, whole, TensorDef(shape, np.int32), options(name))
    for op in ("FLOOR_DIV", "SQUARED_DIFFERENCE", "MAXIMUM", "MINIMUM"):
        for dtype in (F, np.int32):
            yield Case(op, [TensorDef(shape, dtype), TensorDef(other, dtype)], TensorDef(shape, dtype))
    yield Case("PRELU", [x, TensorDef(shape[2:], F)], x)
    yield Case("GREATER_EQUAL", [x, TensorDef(other, F)], TensorDef(shape, np.bool_))
    yield Case("SELECT_V2", [TensorDef(shape, np.bool_), x, x], x)


def reductions(rng: np.random.Generator) -> Iterator[Case]:
    n, h, w, c = (int(v) for v in rng.integers(1, 9, 4))
    x = TensorDef((n, h, w, c), F)
    for op in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        axes = sorted(int(axis) for axis in rng.choice(4, rng.integers(1, 4), replace=False))
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        yield Case(op, [x, constant(axes)], TensorDef(shape, F), options("ReducerOptionsT", keepDims=True))
    yield Case("ARG_MAX", [x, constant([3])], TensorDef((n, h, w), np.int32), options("ArgMaxOptionsT", outputType=2))
    kernel = (int(rng.integers(1, h + 1)), int(rng.integers(1, w + 1)))
    for op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        yield Case(
            op,
            [x],
            TensorDef((n, -(-h // 2), w, c), F),
            options("Pool2DOptionsT", padding=0, strideH=2, strideW=1, filterHeight=kernel[0], filterWidth=kernel[1]),
        )


def movements(rng: np.random.Generator) -> Iterator[Case]:
    n, h, w, c = (int(v) for v in rng.integers(1, 9, 4))
    x = TensorDef((n, h, w, c), F)
    pads = [[0, 0], [int(rng.integers(3)), 1], [2, int(rng.integers(3))], [0, 0]]
    framed = tuple(size + sum(pair) for size, pair in zip(x.shape, pads, strict=True))
    yield Case("PAD", [x, constant(pads)], TensorDef(framed, F), options("PadOptionsT"))
    for dtype in (F, np.int32):
        part = TensorDef((n, h, w, c), dtype)
        yield Case(
            "CONCATENATION",
            [part, part],
            TensorDef((n, h, w, 2 * c), dtype),
            options("ConcatenationOptionsT", axis=3),
        )
    out_h, out_w = (int(v) for v in rng.integers(1, 16, 2))
    for align, half in ((False, False), (True, False), (False, True)):
        for op, name in (("BILINEAR", "ResizeBilinear"), ("NEAREST_NEIGHBOR", "ResizeNearestNeighbor")):
            yield Case(
                f"RESIZE_{op}",
                [x, constant([out_h, out_w])],
                TensorDef((n, out_h, out_w, c), F),
                options(f"{name}OptionsT", alignCorners=align, halfPixelCenters=half),
                version=3,
            )


def layers(rng: np.random.Generator) -> Iterator[Case]:
    n, h, w, c = (int(v) for v in rng.integers(1, 9, 4))
    out_c, kernel_h, kernel_w, stride = (int(v) for v in rng.integers(1, 4, 4))
    x = TensorDef((n, h, w, c), F)
    window = dict(padding=0, strideH=stride, strideW=stride, fusedActivationFunction=int(rng.integers(4)))
    dilated = window | dict(dilationHFactor=1, dilationWFactor=1)
    out = (n, -(-h // stride), -(-w // stride))

    def weights(*shape: int) -> TensorDef:
        return TensorDef(shape, F, data=rng.normal(size=shape).astype(F))

    yield Case(
        "CONV_2D",
        [x, weights(out_c, kernel_h, kernel_w, c), weights(out_c)],
        TensorDef((*out, out_c), F),
        options("Conv2DOptionsT", **dilated),
    )
    yield Case(
        "DEPTHWISE_CONV_2D",
        [x, weights(1, kernel_h, kernel_w, c * out_c), weights(c * out_c)],
        TensorDef((*out, c * out_c), F),
        options("DepthwiseConv2DOptionsT", **dilated, depthMultiplier=out_c),
    )
    large = (n, h * stride, w * stride, out_c)
    del window["fusedActivationFunction"]
    yield Case(
        "TRANSPOSE_CONV",
        [constant(large), weights(out_c, kernel_h, kernel_w, c), x],
        TensorDef(large, F),
        options("TransposeConvOptionsT", **window),
    )
    yield Case(
        "FULLY_CONNECTED",
        [TensorDef((n, h * w), F), weights(out_c, h * w), weights(out_c)],
        TensorDef((n, out_c), F),
        options("FullyConnectedOptionsT"),
    )
    yield Case(
        "BATCH_MATMUL",
        [TensorDef((n, h, w), F), TensorDef((n, c, w), F)],
        TensorDef((n, h, c), F),
        options("BatchMatMulOptionsT", adjY=True),
    )


@pytest.mark.parametrize("draw", [elementwise, reductions, movements, layers])
@pytest.mark.parametrize("profile", PROFILES)
def test_operators(profile: str, draw: Any, seed: int) -> None:
    for number in range(CASES):
        rng = np.random.default_rng([seed, number])
        for case in draw(rng):
            model, values = case.model(), case.values(rng)
            where = f"{case.op} {[t.shape for t in case.inputs]}, {profile}, case {number}, seed {seed}"
            try:
                want = PEERS[profile](model).run(values).outputs[0]
            except PeerRefused:
                with pytest.raises(gpuq.UnsupportedModel):
                    gpuq.load(model, device="cpu", numerics=profile)
                continue
            got = gpuq.load(model, device="cpu", numerics=profile)(*values)
            assert got.dtype == want.dtype, where
            if case.op == "TANH":
                largest = np.abs((got - want) / np.spacing(np.abs(want))).max()
                assert largest <= TANH_ULPS or profile != "litert_ref", f"{where}: {largest} ulps"
            elif profile == "litert_ref" or want.dtype != F:
                assert_equal_bits(got, want, where)
                continue
            assert np.abs(got - want).max() <= BOUND * max(1, np.abs(want).max()), where


@pytest.mark.parametrize("name", ["resnet8_cifar10_float", "vww_mobilenet_float"])
def test_float_networks(material: Path, name: str, seed: int) -> None:
    """Every tensor equal under litert_ref, outputs within a millionth under the others."""
    content = (material / "models" / "mlperf_tiny" / f"{name}.tflite").read_bytes()
    for profile in PROFILES:
        model = gpuq.load(content, device="cpu", numerics=profile)
        shape = model.graph.tensors[model.graph.inputs[0]].shape
        x = np.random.default_rng(seed).uniform(0, 1, (2, *shape[1:])).astype(F)
        tensors, outputs = model.tensors(x), model(x)
        peer = PEERS[profile](content)
        for i in range(2):
            run = peer.run([x[i : i + 1]])
            assert np.abs(outputs[i] - run.outputs[0][0]).max() <= 2e-6, f"{name}, {profile}, input {i}, seed {seed}"
            if profile == "litert_ref":
                for index, want in run.tensors.items():
                    assert_equal_bits(tensors[index][i : i + 1], want, f"{name}, tensor {index}, seed {seed}")


def test_expf_of_special_values() -> None:
    assert expf(np.array([0, np.inf, -np.inf, 200, -200], F)).tolist() == [1, np.inf, 0, np.inf, 0]
    assert np.isnan(expf(np.array([np.nan], F)))
