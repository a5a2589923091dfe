"""Writing a .tflite: what was read is written and read again; LiteRT gives the same bits; files appear whole."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuq
from gpuq.errors import InputValueError
from gpuq.model.graph import Graph
from gpuq.model.tflite_file import parse
from gpuq.model.tflite_reader import packed, read, unpacked
from gpuq.model.tflite_writer import serialize, write
from gpuq.resources import resource

from .compare import assert_equal_bits
from .networks import moving_network, small_network, streaming_network
from .peers.runtimes import PEERS, PeerRefused, run_samples
from .peers.strategies import Case
from .peers.test_random_operators import LITERT

EXAMPLES = ("digits_int8", "digits_int16x8", "digits_dynamic_range", "digits_float")
MODELS = (
    "mlperf_tiny/resnet8_cifar10_int8",
    "mlperf_tiny/resnet8_cifar10_float",
    "mlperf_tiny/wakeword_int8",
    "tflm/person_detect_int8",
    "coral/deeplabv3_mnv2_dm05_uint8",
)


def example(name: str) -> bytes:
    return resource("examples", "digits", f"{name}.tflite").read_bytes()


def assert_same(got: Graph, want: Graph) -> None:
    """Equal in all but the file that they came from."""
    for field in ("description", "nodes", "inputs", "outputs", "signatures", "folded"):
        assert getattr(got, field) == getattr(want, field), field
    assert len(got.tensors) == len(want.tensors)
    for a, b in zip(got.tensors, want.tensors, strict=True):
        assert replace(a, data=None, initial=None) == replace(b, data=None, initial=None)
        for x, y in ((a.data, b.data), (a.initial, b.initial)):
            assert (x is None) == (y is None), a.name
            if x is not None and y is not None:
                assert_equal_bits(x, y, a.name)


def assert_round_trip(content: bytes) -> bytes:
    graph = read(content)
    written = write(graph)
    assert_same(read(written), graph)
    assert serialize(parse(written)) == written
    return written


@pytest.mark.parametrize("name", EXAMPLES)
def test_shipped_networks(name: str, seed: int) -> None:
    """LiteRT gives the bits of the original file."""
    content = example(name)
    written = assert_round_trip(content)
    want, got = PEERS["litert_ref"](content), PEERS["litert_ref"](written)
    tensor = read(content).tensors[read(content).inputs[0]]
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, tensor.shape).astype(np.float32)
    x = x if tensor.quant is None else tensor.quant.quantize(x)
    assert_equal_bits(got.run([x]).outputs[0], want.run([x]).outputs[0], f"{name}, seed {seed}")


@pytest.mark.parametrize("name", MODELS)
def test_real_networks(material: Path, name: str) -> None:
    assert_round_trip((material / "models" / f"{name}.tflite").read_bytes())


@pytest.mark.parametrize("make", [small_network, streaming_network, moving_network])
def test_networks_with_state_and_folded_shapes(make: object) -> None:
    assert_round_trip(make())  # type: ignore[operator]


@pytest.mark.parametrize("name", sorted(LITERT))
def test_random_operators(name: str) -> None:
    """Every kind of operator: what is written, LiteRT runs with the same bits."""
    make, _ = LITERT[name]

    @settings(max_examples=3, suppress_health_check=list(HealthCheck), database=None)
    @given(make())
    def check(case: Case) -> None:
        written = assert_round_trip(case.model)
        try:
            want = run_samples(PEERS["litert_ref"](case.model), case.inputs).outputs
        except PeerRefused:
            return
        got = run_samples(PEERS["litert_ref"](written), case.inputs).outputs
        for one, other in zip(got, want, strict=True):
            assert_equal_bits(one, other, case)

    check()


def test_every_buffer_is_aligned_and_equal_ones_are_shared() -> None:
    content = example("digits_int8")
    written = write(read(content))
    for tensor in read(written).tensors:
        if tensor.data is not None and tensor.data.nbytes >= 16:
            assert written.find(tensor.data.tobytes()) % 16 == 0, tensor.name
    raw = parse(content)
    largest = max((tensor.data.tobytes() for tensor in raw.tensors if tensor.data is not None), key=len)
    twice = serialize(replace(raw, tensors=(*raw.tensors, *raw.tensors)))
    assert twice.count(largest) == 1


def test_other_outputs_are_written() -> None:
    graph = read(example("digits_int8"))
    inner = graph.nodes[3].outputs[0]
    written = read(write(replace(graph, outputs=(inner,), signatures=())))
    assert written.outputs == (inner,)


def test_graphs_put_together_by_hand_are_refused() -> None:
    graph = replace(read(example("digits_int8")), source=None)
    with pytest.raises(InputValueError, match="comes from no file"):
        write(graph)


def test_save_replaces_the_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    graph = read(example("digits_int8"))

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="No space"):
            gpuq.save(graph, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    gpuq.save(graph, path)
    assert_same(read(path.read_bytes()), graph)


@given(st.data(), st.sampled_from([4, 2]), st.integers(0, 40))
def test_packed_is_the_reverse_of_unpacked(data: st.DataObject, bits: int, elements: int) -> None:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    values = np.array(data.draw(st.lists(st.integers(low, high), min_size=elements, max_size=elements)), np.int8)
    assert_equal_bits(unpacked(packed(values, bits), bits, elements), values, bits)
