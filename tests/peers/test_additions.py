"""ADD of LiteRT's optimized kernels over all pairs of codes, with scales at which V1 would give another code.

One code in some millions differs, so that random operators do not meet it.
"""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from tests.compare import assert_equal_bits

from .one_operator import TensorDef, build
from .runtimes import PEERS

# dtype, scales and zero points of a, b and y.
CASES = [
    ("int8", (0.24103023, 0.06967491, 0.3731674), (-50, 26, 8)),
    ("int8", (0.22548749, 0.3820236, 0.8952217), (31, 95, 64)),
    ("int8", (6.117916, 1.1908382, 7.0545807), (10, -9, 0)),
    ("uint8", (0.33442253, 0.025387313, 0.74486834), (86, 64, 98)),
    ("uint8", (0.24541385, 1.4634873, 3.278836), (182, 229, 238)),
    ("uint8", (2.1438951, 0.43454087, 3.9812376), (148, 190, 160)),
]


@pytest.mark.parametrize(("dtype", "scales", "zero_points"), CASES)
@pytest.mark.parametrize("rest", [0, 5])
def test_every_pair(dtype: str, scales: tuple[float, ...], zero_points: tuple[int, ...], rest: int) -> None:
    """rest: elements behind the last whole block, where V1 it is; the pairs that differ stand there, too."""
    codes = np.arange(256, dtype=np.uint8).view(dtype)
    a, b = (each.reshape(1, -1) for each in np.meshgrid(codes, codes, indexing="ij"))
    if rest:
        a, b = (np.concatenate([each, each[:, :rest]], axis=1) for each in (a, b))
    tensors = [
        TensorDef(a.shape, dtype, np.float32(scale), zero_point)
        for scale, zero_point in zip(scales, zero_points, strict=True)
    ]
    options = schema.AddOptionsT(potScaleInt16=False)
    content = build("ADD", tensors[:2], tensors[2:], options)
    results = {}
    for numerics in ("litert_ref", "litert_opt"):
        results[numerics] = gpuq.load(content, device="cpu", numerics=numerics)(a, b)
        assert_equal_bits(results[numerics], PEERS[numerics](content).run([a, b]).outputs[0], numerics)
    assert np.count_nonzero(results["litert_ref"] != results["litert_opt"]) > 0


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("a_shape", "b_shape"), [((1, 256, 1), (1, 1, 256)), ((1, 256, 1), (1, 1, 250))])
def test_one_element_for_a_row(dtype: str, a_shape: tuple[int, ...], b_shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = np.arange(256, dtype=np.uint8).view(dtype)
    a, b = codes.reshape(a_shape), codes[: b_shape[-1]].reshape(b_shape)
    full = np.broadcast_shapes(a_shape, b_shape)
    for _ in range(6):
        first = np.float32(2.0 ** rng.uniform(-3, 3))
        second, zeros = np.float32(first * 2.0 ** rng.uniform(-4, 4)), rng.integers(0, 100, 3)
        out = np.float32(max(first, second) * 1.3)
        content = build(
            "ADD",
            [TensorDef(a_shape, dtype, first, int(zeros[0])), TensorDef(b_shape, dtype, second, int(zeros[1]))],
            [TensorDef(full, dtype, out, int(zeros[2]))],
            schema.AddOptionsT(potScaleInt16=False),
        )
        got = gpuq.load(content, device="cpu", numerics="litert_opt")(a, b)
        assert_equal_bits(got, PEERS["litert_opt"](content).run([a, b]).outputs[0], f"{first} {second} {zeros} {seed}")
