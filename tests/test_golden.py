"""The bits of whole networks, from release to release: SHA-256 of outputs on fixed inputs, on every path.

A digest changes only together with an entry in CHANGELOG.md that says which bits changed and why. To write
golden.json anew: `python -m tests.test_golden`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gpuq
from gpuq.model.model import Model
from gpuq.resources import resource

from . import test_cuda_networks as networks
from .host_cuda.runner import HostLauncher, require_tools

GOLDEN = Path(__file__).with_name("golden.json")
RUNS = 2
MODELS = ("digits_int8", *networks.SMALL_MODELS, *networks.LARGER_MODELS, *networks.LARGEST_MODELS)
# Whole networks thread by thread on the CPU take their time; the others' tensors are compared in test_cuda_networks.py.
ON_HOST_CUDA = ("digits_int8", "kws_dscnn_int8", "hello_world_int8", "ad_autoencoder_int8")


def profiles(name: str) -> tuple[str, ...]:
    """The runtimes that run this model."""
    if name == "person_detect_int8":
        return ("tflm",)
    return ("litert_ref",) if "uint8" in name or name == "mobilenet_v2_224_int8" else ("litert_ref", "tflm")


def content_of(name: str, material: Path | None) -> bytes:
    if name == "digits_int8":
        return resource("examples", "digits", "digits_int8.tflite").read_bytes()
    assert material is not None
    return networks.model_of(material, name)


def digest(model: Model) -> str:
    """Of all outputs of RUNS runs: dtype, shape and bytes."""
    outputs = model(*networks.inputs(model, RUNS, seed=20261123))
    sha = hashlib.sha256()
    for out in outputs if isinstance(outputs, tuple) else (outputs,):
        sha.update(f"{out.dtype} {out.shape} ".encode() + np.ascontiguousarray(out).tobytes())
    return sha.hexdigest()


CASES = [(name, profile) for name in MODELS for profile in profiles(name)]


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_cpu(name: str, profile: str, request: pytest.FixtureRequest) -> None:
    material = None if name == "digits_int8" else request.getfixturevalue("material")
    model = gpuq.load(content_of(name, material), device="cpu", numerics=profile)
    assert digest(model) == json.loads(GOLDEN.read_text())[f"{name} {profile}"]


@pytest.fixture(scope="module")
def launcher() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher(seeds=(1,)) as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize(("name", "profile"), [case for case in CASES if case[0] in ON_HOST_CUDA])
def test_cuda_on_the_cpu(name: str, profile: str, launcher: HostLauncher, request: pytest.FixtureRequest) -> None:
    material = None if name == "digits_int8" else request.getfixturevalue("material")
    model = networks.on_cuda(content_of(name, material), launcher, profile)
    assert digest(model) == json.loads(GOLDEN.read_text())[f"{name} {profile}"]


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "profile"), CASES)
def test_gpu(name: str, profile: str, request: pytest.FixtureRequest) -> None:
    reason = gpuq.cuda.unavailable(0)
    if reason:
        pytest.skip(f"no GPU: {reason}")
    material = None if name == "digits_int8" else request.getfixturevalue("material")
    model = gpuq.load(content_of(name, material), device="cuda", numerics=profile)
    assert digest(model) == json.loads(GOLDEN.read_text())[f"{name} {profile}"]


def main() -> None:
    """Writes golden.json from the CPU path."""
    material = Path(os.environ.get("GPUQ_MATERIAL") or Path(__file__).resolve().parents[2] / "shared")
    digests = {
        f"{name} {profile}": digest(gpuq.load(content_of(name, material), device="cpu", numerics=profile))
        for name, profile in CASES
    }
    temporary = GOLDEN.with_suffix(".tmp")
    temporary.write_text(json.dumps(digests, indent=2) + "\n")
    temporary.replace(GOLDEN)


if __name__ == "__main__":
    main()
