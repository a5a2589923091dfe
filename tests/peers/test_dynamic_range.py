"""Dynamic range beside LiteRT's resolvers: a whole network. Its operators are in test_random_operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gpuq

from .expose import expose
from .runtimes import PEERS

PROFILES = ("litert_ref", "litert_opt", "xnnpack")

# Largest difference of the probabilities: the float32 layers of the last two are in another order of sums, and a value
# next to a tie then takes another code in the next layer.
BOUNDS = {"litert_ref": 0.0, "litert_opt": 2e-6, "xnnpack": 1e-3}


@pytest.mark.parametrize("profile", PROFILES)
def test_kws_network(material: Path, profile: str) -> None:
    """20 inputs of four ranges, as one batch; all tensors equal in litert_ref, and all but the tail in litert_opt."""
    content = (material / "models" / "mlperf_tiny" / "kws_dscnn_dynamic_range.tflite").read_bytes()
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(20, 49, 10, 1)) * np.tile([1, 30, 0.01, 5], 5).reshape(-1, 1, 1, 1)).astype(np.float32)
    exposed, indices = expose(content)
    peer = PEERS[profile](exposed)
    model = gpuq.load(content, device="cpu", numerics=profile)
    tensors, outputs = model.tensors(x), model(x)
    for i in range(20):
        want = dict(zip(indices, peer.run([x[i : i + 1]]).outputs, strict=True))
        for index in indices[: {"litert_ref": None, "litert_opt": -2, "xnnpack": 1}[profile]]:
            assert np.array_equal(tensors[index][i], want[index][0]), f"{profile}, input {i}, tensor {index}"
        difference = np.abs(outputs[i] - want[model.graph.outputs[0]][0]).max()
        assert difference <= BOUNDS[profile], f"{profile}, input {i}: {difference}"
