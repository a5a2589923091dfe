"""Streaming networks beside the runtimes: state lasts from one invoke to the next."""

from __future__ import annotations

import numpy as np
import pytest

import gpuq
from tests.compare import assert_equal_bits
from tests.networks import Network, streaming_network

from .one_operator import TensorDef
from .runtimes import PEERS, PeerRefused

INVOKES = 5


def frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (INVOKES, 1, 1, 4)).astype(np.int8)


@pytest.mark.parametrize("numerics", PEERS)
def test_session_equals_the_interpreter(numerics: str, seed: int) -> None:
    peer = PEERS[numerics](streaming_network())
    session = gpuq.load(streaming_network(), device="cpu", numerics=numerics).session()
    for number, frame in enumerate(frames(seed)):
        want = peer.run([frame[None]]).outputs
        for output, (got, expected) in enumerate(zip(session(frame[None]), want, strict=True)):
            assert_equal_bits(got, expected, f"output {output} of invoke {number}, {numerics}, seed {seed}")


def test_variables_that_nothing_has_assigned(seed: int) -> None:
    """TFLite Micro starts from the zero point; LiteRT stops."""
    content = streaming_network(initial=False)
    peer, session = PEERS["tflm"](content), gpuq.load(content, device="cpu", numerics="tflm").session()
    for number, frame in enumerate(frames(seed)):
        for got, want in zip(session(frame[None]), peer.run([frame[None]]).outputs, strict=True):
            assert_equal_bits(got, want, f"invoke {number}, seed {seed}")
    with pytest.raises(PeerRefused, match="READ_VARIABLE"):
        PEERS["litert_ref"](content).run([frames(seed)[:1]])
    for numerics in ("litert_ref", "litert_opt", "xnnpack"):
        with pytest.raises(gpuq.UnsupportedModel, match=r"READ_VARIABLE on int8, before anything.*\(2 operators: "):
            gpuq.load(content, device="cpu", numerics=numerics)


MICRO = ("int8", "int16", "int32", "float32")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "float32", "bool"])
def test_variables_of_every_type(dtype: str, seed: int) -> None:
    """The input comes out of a variable one invoke later, whatever its bits."""
    rng = np.random.default_rng(seed)
    given = rng.integers(0, 2 if dtype == "bool" else 120, (INVOKES, 2, 3)).astype(dtype)
    quantized = {"scale": 0.5, "zero_point": 7} if dtype in ("int8", "uint8") else {}
    definition = TensorDef((2, 3), dtype, **quantized)
    net = Network()
    x = net.tensor(definition)
    net.call_once({"v": TensorDef((2, 3), dtype, data=given[-1], **quantized)})
    handle = net.handle("v")
    out = net.read(handle, definition)
    net.assign(handle, x)
    content = net.build([x], [out])
    for numerics, peer in PEERS.items():
        if numerics == "tflm" and dtype not in MICRO:
            continue
        runtime, session = peer(content), gpuq.load(content, device="cpu", numerics=numerics).session()
        for number, value in enumerate(given):
            (want,) = runtime.run([value]).outputs
            assert_equal_bits(session(value), want, f"invoke {number}, {numerics}, {dtype}, seed {seed}")
            assert_equal_bits(want, given[number - 1], f"invoke {number}, {numerics}, {dtype}, seed {seed}")
