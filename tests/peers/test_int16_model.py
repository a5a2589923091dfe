"""The digits network with int16 activations: every tensor beside LiteRT's resolvers, the output beside TFLite Micro."""

from __future__ import annotations

import numpy as np
import pytest

import gpuq
from gpuq.resources import resource
from tests.compare import assert_equal_bits

from .expose import expose
from .runtimes import PEERS, run_samples


def inputs() -> np.ndarray:
    """20 inputs: 10 random ones, and 10 digits of 0 to 16 as codes of 1/32767."""
    rng = np.random.default_rng(23)
    pixels = np.load(resource("examples", "digits", "digits_heldout.npz"))["images"][:10]
    digits = np.rint(pixels.astype(np.float64) / 16 * 32767)
    return np.concatenate([rng.integers(-32768, 32768, digits.shape), digits]).astype(np.int16)


@pytest.mark.parametrize("numerics", PEERS)
def test_digits(numerics: str) -> None:
    content = resource("examples", "digits", "digits_int16x8.tflite").read_bytes()
    x = inputs()
    if numerics != "tflm":
        content, _ = expose(content)
    want = run_samples(PEERS[numerics](content), [x]).outputs
    got = gpuq.load(content, numerics=numerics)(x)
    got = got if isinstance(got, tuple) else (got,)
    assert len(got) == len(want) == (1 if numerics == "tflm" else 14)
    for index, (mine, theirs) in enumerate(zip(got, want, strict=True)):
        assert_equal_bits(mine, theirs, f"{numerics}, output {index}")
