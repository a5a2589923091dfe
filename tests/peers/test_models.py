"""Whole networks, bit for bit: every tensor beside each of LiteRT's resolvers, outputs beside TFLite Micro.

GPUQ_PEER_INPUTS is how many of the random inputs each network gets beside LiteRT's optimized kernels and XNNPACK (3 by
default; all 20 in `make test-peers`).

The models and pictures are data that is not part of the checkout: GPUQ_MATERIAL names their
folder (with `MATERIAL.md`, `models/` and `images/`), `../shared` beside the checkout by default.
Without it these tests are skipped, in CI they fail.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpuq
from tests.compare import assert_equal_bits
from tests.networks import moving_network

from .expose import expose
from .runtimes import (
    PEERS,
    LiteRTRef,
    PeerRefused,
    Run,
    TFLiteMicro,
    computed_tensors,
    litert_ref,
    read_model,
    samples,
)

CHECKOUT = Path(__file__).resolve().parents[2]
MATERIAL = Path(os.environ.get("GPUQ_MATERIAL", CHECKOUT.parent / "shared"))

RANDOM_INPUTS = 20
PEER_INPUTS = min(RANDOM_INPUTS, int(os.environ.get("GPUQ_PEER_INPUTS", "3")))
BATCHED_TENSORS = 2
"""Samples whose intermediate tensors are also compared as one batch."""


@dataclass(frozen=True)
class Network:
    """One model file and what it takes.

    pictures  it looks at pictures, so that real ones are among its inputs
    litert    LiteRT's reference kernels run it
    tflm      TFLite Micro runs it
    parts     tests that its random inputs are spread over: the slow ones run in parallel
    """

    file: str
    pictures: bool = False
    litert: bool = True
    tflm: bool = True
    parts: int = 1


NETWORKS = [
    # The slowest first, so that parallel workers end together.
    Network("coral/deeplabv3_mnv2_dm05_uint8", pictures=True, tflm=False, parts=4),
    Network("coral/mobilenet_v2_224_uint8", pictures=True, tflm=False),
    Network("coral/mobilenet_v2_224_int8", pictures=True),
    Network("coral/mobilenet_v1_0.25_128_uint8", pictures=True, tflm=False),
    Network("mlperf_tiny/resnet8_cifar10_int8", pictures=True),
    Network("mlperf_tiny/vww_mobilenet_int8", pictures=True),
    Network("mlperf_tiny/kws_dscnn_int8"),
    Network("mlperf_tiny/ad_autoencoder_int8"),
    Network("mlperf_tiny/wakeword_int8"),
    # A bias quantized along axis 3, which a vector does not have: LiteRT refuses the file.
    Network("tflm/person_detect_int8", pictures=True, litert=False),
    Network("tflm/micro_speech_int8"),
    Network("tflm/hello_world_int8"),
]


@pytest.fixture(scope="module", autouse=True)
def _material() -> None:
    if (MATERIAL / "MATERIAL.md").is_file():
        return
    reason = f"no test material in {MATERIAL}; set GPUQ_MATERIAL to its folder"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def read(network: Network) -> bytes:
    return (MATERIAL / "models" / f"{network.file}.tflite").read_bytes()


def input_of(model: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape (of one sample, batch 1 in front) and dtype of the only input."""
    graph = read_model(model).subgraphs[0]
    (index,) = graph.inputs
    tensor = graph.tensors[index]
    dtypes = {3: np.dtype(np.uint8), 9: np.dtype(np.int8)}
    return tuple(int(d) for d in tensor.shape), dtypes[tensor.type]


def random_inputs(network: Network, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """RANDOM_INPUTS samples: noise, smooth noise (nearer to what networks see), and extremes."""
    rng = np.random.default_rng(list(network.file.encode()))
    info = np.iinfo(dtype)
    size = (RANDOM_INPUTS, *shape[1:])
    inputs = rng.integers(info.min, info.max + 1, size).astype(dtype)
    for i in range(10, RANDOM_INPUTS - 3):
        # A random walk along every axis, stretched over all codes.
        walk = rng.normal(size=size[1:])
        for axis in range(walk.ndim):
            walk = np.cumsum(walk, axis=axis)
        walk = (walk - walk.min()) / max(float(np.ptp(walk)), 1e-9)
        inputs[i] = np.rint(walk * (int(info.max) - int(info.min)) + int(info.min)).astype(dtype)
    inputs[-3] = info.min
    inputs[-2] = info.max
    inputs[-1] = rng.choice(np.array([info.min, info.max]), size[1:])
    return inputs


def picture_inputs(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The real pictures in the network's size: codes p for uint8, p - 128 for int8."""
    _, height, width, channels = shape
    files = sorted(path for path in (MATERIAL / "images").iterdir() if path.suffix in (".bmp", ".jpg"))
    assert files, f"no pictures in {MATERIAL / 'images'}"
    pictures = []
    for path in files:
        with Image.open(path) as image:
            resized = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
        pictures.append(np.asarray(resized, np.int64).reshape(shape[1:]))
    return (np.stack(pictures) + int(np.iinfo(dtype).min)).astype(dtype)


def inputs_of(network: Network, model: bytes, part: int | None) -> np.ndarray:
    """The part-th share of the random inputs, or the pictures (part None)."""
    shape, dtype = input_of(model)
    if part is None:
        return picture_inputs(shape, dtype)
    share = RANDOM_INPUTS // network.parts
    return random_inputs(network, shape, dtype)[part * share : (part + 1) * share]


def as_tuple(result: np.ndarray | tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def cases(profile: str) -> list[Any]:
    """(network, part) for every network that the profile's peer runs."""
    return [
        pytest.param(network, part, id=f"{network.file}-{'pictures' if part is None else f'random{part}'}")
        for network in NETWORKS
        if getattr(network, profile)
        for part in [*range(network.parts), *([None] if network.pictures else [])]
    ]


def test_material_is_what_it_says() -> None:
    """Every quantized model of MATERIAL.md is compared here, and each file is the one listed."""
    listed = re.findall(
        r"^\| models/(\S+)\.tflite \|.*\| ([0-9a-f]{16}) \|$",
        (MATERIAL / "MATERIAL.md").read_text(),
        re.MULTILINE,
    )
    quantized = {file: digest for file, digest in listed if file.endswith("int8")}
    assert {network.file for network in NETWORKS} == set(quantized)
    for network in NETWORKS:
        assert hashlib.sha256(read(network)).hexdigest()[:16] == quantized[network.file]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "part"), cases("litert"))
def test_litert_ref(network: Network, part: int | None) -> None:
    """Every tensor that any operator computes, sample by sample; then outputs of the batch."""
    content = read(network)
    inputs = inputs_of(network, content, part)
    peer = LiteRTRef(content)
    model = gpuq.load(content, numerics="litert_ref")
    names = dict(describe_tensors(content))
    runs: list[Run] = []
    for i, sample in enumerate(samples(peer, [inputs])):
        run = peer.run(sample)
        got = model.tensors(*sample)
        assert set(got) == set(names), "not exactly the outputs of all operators"
        for index, name in names.items():
            context = f"{network.file}, litert_ref, sample {i} of part {part}, {name}"
            assert_equal_bits(got[index], run.tensors[index], context)
        # Only what the batch is compared with below: the tensors of all samples would be gigabytes.
        runs.append(run if i < BATCHED_TENSORS else Run(run.outputs, {}))

    batch = model.tensors(inputs[:BATCHED_TENSORS])
    for index, name in names.items():
        want = np.concatenate([run.tensors[index] for run in runs[:BATCHED_TENSORS]])
        context = f"{network.file}, litert_ref, {BATCHED_TENSORS} samples as one batch, {name}"
        assert_equal_bits(batch[index], want, context)
    compare_outputs(model, inputs, runs, f"{network.file}, litert_ref, all samples as one batch")


def optimized_inputs(network: Network, model: bytes) -> np.ndarray:
    """PEER_INPUTS of the random inputs, spread over their kinds, and a picture."""
    shape, dtype = input_of(model)
    chosen = np.linspace(0, RANDOM_INPUTS - 1, PEER_INPUTS).astype(int)
    inputs = random_inputs(network, shape, dtype)[chosen]
    return np.concatenate([inputs, picture_inputs(shape, dtype)[:1]]) if network.pictures else inputs


@pytest.mark.slow
@pytest.mark.parametrize("network", [network for network in NETWORKS if network.litert], ids=lambda n: n.file)
@pytest.mark.parametrize("numerics", ["litert_opt", "xnnpack"])
def test_litert_optimized(network: Network, numerics: str) -> None:
    """Outputs, and every tensor that any operator computes, which the exposed graph gives out."""
    content = read(network)
    exposed, indices = expose(content)
    inputs = optimized_inputs(network, content)
    peer, peer_of_all = PEERS[numerics](content), PEERS[numerics](exposed)
    model = gpuq.load(content, numerics=numerics)
    names = dict(describe_tensors(content))
    runs: list[Run] = []
    for i, sample in enumerate(samples(peer, [inputs])):
        context = f"{network.file}, {numerics}, sample {i}"
        got, want = model.tensors(*sample), peer_of_all.run(sample).outputs
        for index, tensor in zip(indices, want, strict=True):
            assert_equal_bits(got[index], tensor, f"{context}, {names[index]}")
        runs.append(Run(peer.run(sample).outputs, {}))
    compare_outputs(model, inputs, runs, f"{network.file}, {numerics}, all samples as one batch")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "part"), cases("tflm"))
def test_tflm(network: Network, part: int | None) -> None:
    """Outputs, sample by sample and as one batch."""
    content = read(network)
    inputs = inputs_of(network, content, part)
    peer = TFLiteMicro(content)
    model = gpuq.load(content, numerics="tflm")
    runs = []
    for i, sample in enumerate(samples(peer, [inputs])):
        run = peer.run(sample)
        for k, (got, want) in enumerate(zip(as_tuple(model(*sample)), run.outputs, strict=True)):
            assert_equal_bits(got, want, f"{network.file}, tflm, sample {i}, output {k}")
        runs.append(run)
    compare_outputs(model, inputs, runs, f"{network.file}, tflm, all samples as one batch")


def test_litert_refuses_person_detect() -> None:
    """Why that network has no LiteRT column; should it ever run there, it belongs in it."""
    (network,) = (network for network in NETWORKS if not network.litert)
    with pytest.raises(PeerRefused):
        LiteRTRef(read(network))


def compare_outputs(model: gpuq.Model, inputs: np.ndarray, runs: list[Run], context: str) -> None:
    """All samples as one batch against the runs one by one."""
    outputs = as_tuple(model(inputs))
    assert len(outputs) == len(runs[0].outputs)
    for k, got in enumerate(outputs):
        want = np.concatenate([run.outputs[k] for run in runs])
        assert_equal_bits(got, want, f"{context}, output {k}")


def describe_tensors(content: bytes) -> list[tuple[int, str]]:
    """Each computed tensor with its operator, in the order of execution."""
    graph = read_model(content).subgraphs[0]
    listed = [
        (int(index), f"operator {i}, tensor {index} {graph.tensors[index].name!r}")
        for i, operator in enumerate(graph.operators)
        for index in operator.outputs
    ]
    assert sorted(index for index, _ in listed) == computed_tensors(content)
    return listed


def test_a_network_of_movements(seed: int) -> None:
    """Operators that move elements, and some that compute: every tensor of a batch of five runs."""
    content = moving_network()
    x = np.random.default_rng(seed).integers(-128, 128, (5, 4, 6, 4)).astype(np.int8)
    want = litert_ref(content, [x])
    got = gpuq.load(content, device="cpu").tensors(x)
    assert set(got) == set(want)
    for index, tensor in want.items():
        assert_equal_bits(got[index], tensor, f"tensor {index}, seed {seed}")
    assert np.unique(want[max(want)]).size > 3, "codes must not saturate"
