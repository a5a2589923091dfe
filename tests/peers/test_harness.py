"""The harness itself: wrong bits are seen and told, files follow the rules, refusals are errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.compare import assert_equal_bits
from tests.networks import small_network

from . import strategies, test_random_operators
from .expose import expose
from .one_operator import TensorDef, build, constant
from .runtimes import (
    LiteRTRef,
    PeerRefused,
    TFLiteMicro,
    computed_tensors,
    litert_outputs,
    litert_ref,
    read_model,
    tflm,
)


def relu_model() -> bytes:
    return build(
        "RELU",
        [TensorDef((1, 4), np.int8, scale=0.5, zero_point=-3)],
        [TensorDef((1, 4), np.int8, scale=0.25, zero_point=-128)],
    )


def test_one_wrong_bit_is_found_and_told() -> None:
    want = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    got = want.copy()
    got[1, 0, 2] ^= 8
    assert_equal_bits(want.copy(), want, "")
    with pytest.raises(AssertionError) as caught:
        assert_equal_bits(got, want, "CONV_2D seed=7")
    message = str(caught.value)
    assert "1 of 24 elements differ; first at [1, 0, 2]: got 6, expected 14" in message
    assert "largest difference 8" in message
    assert "CONV_2D seed=7" in message


def test_comparison_is_of_bits_not_of_values() -> None:
    nan = np.array([np.nan], np.float32)
    assert_equal_bits(nan, nan.copy(), "")
    pairs: list[tuple[np.ndarray, np.ndarray]] = [
        (np.zeros(1, np.float32), -np.zeros(1, np.float32)),
        (np.zeros(1, np.int8), np.zeros(1, np.uint8)),
        (np.zeros((1, 2), np.int8), np.zeros((2, 1), np.int8)),
    ]
    for got, want in pairs:
        with pytest.raises(AssertionError):
            assert_equal_bits(got, want, "")


def test_a_built_file_follows_the_conventions() -> None:
    weights = np.ones((3, 1, 1, 2), np.int8)
    content = build(
        "CONV_2D",
        [
            TensorDef((1, 4, 4, 2), np.int8, scale=0.5, zero_point=3),
            TensorDef(weights.shape, np.int8, scale=[0.1, 0.2, 0.3], axis=0, data=weights),
            TensorDef((3,), np.int32, scale=[0.05, 0.1, 0.15], data=np.arange(3, dtype=np.int32)),
        ],
        [TensorDef((1, 4, 4, 3), np.int8, scale=0.5)],
        schema.Conv2DOptionsT(strideH=1, strideW=1),
    )
    assert content[4:8] == b"TFL3"
    model = read_model(content)
    (graph,) = model.subgraphs
    assert model.buffers[0].data is None
    assert [tensor.buffer for tensor in graph.tensors] == [0, 1, 2, 0]
    assert list(graph.tensors[1].quantization.zeroPoint) == [0, 0, 0]
    assert model.operatorCodes[0].version == 3
    assert computed_tensors(content) == [3]
    # Runtimes read constants in place: each starts at a multiple of 16 bytes.
    for buffer in model.buffers[1:]:
        assert content.index(buffer.data.tobytes()) % 16 == 0


def test_peers_run_samples_one_by_one() -> None:
    x = np.array([[-128, -3, 5, 127], [0, 1, 2, 3]], np.int8)
    want = np.array([[-128, -128, -112, 127], [-122, -120, -118, -116]], np.int8)
    assert_equal_bits(litert_outputs(relu_model(), [x])[0], want, "LiteRT")
    assert_equal_bits(litert_ref(relu_model(), [x])[1], want, "LiteRT, tensor 1")
    assert_equal_bits(tflm(relu_model(), [x])[0], want, "TFLite Micro")


@pytest.mark.parametrize(("peer", "words"), [(LiteRTRef, r"concatenation\.cc"), (TFLiteMicro, "failed to allocate")])
def test_a_refusal_is_one_error_with_the_runtimes_words(peer: type, words: str) -> None:
    # int8 CONCATENATION must not rescale.
    content = build(
        "CONCATENATION",
        [TensorDef((1, 4), np.int8, scale=0.5), TensorDef((1, 4), np.int8, scale=0.25)],
        [TensorDef((1, 8), np.int8, scale=0.5)],
        schema.ConcatenationOptionsT(axis=1),
    )
    with pytest.raises(PeerRefused, match=words):
        peer(content)


def test_constants_must_be_what_their_tensor_says() -> None:
    assert constant([1, 2]).shape == (2,)
    with pytest.raises(ValueError, match="constant"):
        TensorDef((3,), np.int8, data=np.zeros(2, np.int8))
    with pytest.raises(TypeError, match="no TFLite type"):
        TensorDef((3,), np.complex64)


def test_random_cases_catch_a_wrong_element(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An implementation that is right but for one element of large results fails, with its case."""

    def load(content: bytes, numerics: str) -> object:
        def model(*inputs: np.ndarray) -> np.ndarray:
            (result,) = litert_outputs(content, inputs)
            if result.size > 20:
                result.reshape(-1)[-1] ^= 1
            return result

        return model

    monkeypatch.setenv("GPUQ_PEER_SCALE", "1")
    monkeypatch.setenv("GPUQ_PEER_FAILURES", str(tmp_path))
    monkeypatch.setattr(test_random_operators, "gpuq", SimpleNamespace(load=load))
    with pytest.raises(AssertionError, match=r"1 of .* elements differ(.|\n)*MAX_POOL_2D seed="):
        test_random_operators.check(strategies.pool("MAX_POOL_2D"), "litert_ref", 20)
    # The smallest case is left to be looked at: it still fails, and nothing smaller does.
    left = (tmp_path / "litert_ref-max_pool_2d.tflite").read_bytes()
    with np.load(tmp_path / "litert_ref-max_pool_2d.npz") as arrays:
        (result,) = litert_outputs(left, list(arrays.values()))
    assert 20 < result.size <= 40


def test_a_total_is_dealt_to_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    for profile, table in test_random_operators.TABLES.items():
        monkeypatch.delenv("GPUQ_PEER_CASES", raising=False)
        assert test_random_operators.examples_of(profile, "ADD") == table["ADD"][1]
        monkeypatch.setenv("GPUQ_PEER_CASES", "20000")
        assert 20_000 <= sum(test_random_operators.examples_of(profile, op) for op in table) < 20_100


def test_exposed_tensors_are_the_graphs_own() -> None:
    """Two operators that XNNPACK takes as one partition: the tensor between them comes out, unchanged."""
    content = small_network()
    exposed, indices = expose(content)
    assert indices == computed_tensors(content)
    assert len(indices) > 1
    shape = LiteRTRef(content).input_shapes[0]
    x = np.random.default_rng(3).integers(-128, 128, shape).astype(np.int8)
    whole, parts = litert_ref(content, [x]), LiteRTRef(exposed).run([x]).outputs
    for index, part in zip(indices, parts, strict=True):
        assert_equal_bits(part, whole[index], f"tensor {index}")


def test_random_cases_fail_when_the_peer_refuses_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """TFLite Micro has no uint8 kernels: nothing would be compared."""
    monkeypatch.setenv("GPUQ_PEER_SCALE", "1")
    monkeypatch.setattr(test_random_operators, "gpuq", SimpleNamespace(load=None))
    with pytest.raises(AssertionError, match="the peer refused 10 of 10"):
        test_random_operators.check(strategies.pool("MAX_POOL_2D", ["uint8"]), "tflm", 10)
