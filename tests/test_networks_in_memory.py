"""bench/networks.py: sizes as published, codes in a useful range, and on the CPU the bits of reference()."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from bench import layers, networks
from gpuq import profiles
from gpuq.devices import Device
from gpuq.model.graph import Graph
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.ops.registry import reference

from .compare import assert_equal_bits
from .host_cuda.runner import HostLauncher, require_tools

SMALL: dict[str, Any] = {"resolution": 34, "width": 0.25}
ON_GPUS = [name for name in networks.NETWORKS if not name.endswith("_int16x8")]


@lru_cache(maxsize=1)
def whole(name: str) -> Graph:
    return networks.NETWORKS[name]()


def on_cpu(graph: Graph) -> Model:
    return Model(plan_program(graph, Device("cpu"), "litert_ref"))


def images(graph: Graph, runs: int, seed: int) -> np.ndarray:
    image = graph.tensors[graph.inputs[0]]
    codes = np.iinfo(image.dtype)
    return np.random.default_rng(seed).integers(
        codes.min, codes.max, (runs, *image.shape[1:]), image.dtype, endpoint=True
    )


def walked(graph: Graph, x: np.ndarray) -> dict[int, np.ndarray]:
    """Every tensor by reference(), node by node."""
    values: dict[int, np.ndarray] = {graph.inputs[0]: x}
    for node in graph.nodes:
        operands = [values[index] if index in values else graph.tensors[index].data for index in node.inputs]
        found = reference(node.spec, profiles.resolve("litert_ref", node.spec), *operands)
        _, *shape = graph.tensors[node.outputs[0]].shape
        values[node.outputs[0]] = found.reshape(-1, *shape)
    return values


@pytest.mark.parametrize(
    ("name", "macs", "parameters"),
    [
        # Published: 4.1 G and 25.5 M, 569 M and 4.2 M, 300 M and 3.5 M, 385 M (407 M with what is no MAC) and 4.65 M,
        # the latter with normalization's own parameters, which are folded here.
        ("resnet50", 4_089_184_256, 25_530_472),
        ("mobilenet_v1", 568_741_376, 4_222_057),
        ("mobilenet_v2", 300_775_552, 3_489_097),
        ("efficientnet_lite0", 385_187_552, 4_631_000),
    ],
)
def test_sizes_are_the_published_ones(name: str, macs: int, parameters: int) -> None:
    graph = whole(name)
    assert (graph.macs, networks.parameters(graph)) == (macs, parameters)
    # The layers that bench_conv2d measures one by one are the same, but for the pads of ResNet's first.
    ours: Counter[tuple[Any, ...]] = Counter()
    for node in graph.nodes:
        if node.spec.has_weights:
            spec: Any = node.spec
            ours[spec.op == "DEPTHWISE_CONV_2D", spec.in_c, spec.out_c, spec.output_shape, spec.macs] += 1
    assert ours == Counter(
        (each.kind == layers.DEPTHWISE, each.in_c, each.out_c, each.y_shape, each.macs)
        for each in layers.NETWORKS[name]
    )
    program = on_cpu(graph).program
    assert sum(step.macs for step in program.steps) == macs
    assert program.constant_bytes > parameters


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "efficientnet_lite0", "mobilenet_v2_int16x8"])
def test_codes_spread_and_depend_on_the_image(name: str, seed: int) -> None:
    graph = whole(name)
    tensors = on_cpu(graph).tensors(images(graph, 2, seed))
    for node in graph.nodes:
        codes = tensors[node.outputs[0]]
        where = f"{name}, node {node.index} {node.spec.op}, seed {seed}"
        assert codes[0].tobytes() != codes[1].tobytes(), where
        if node.spec.op == "SOFTMAX":
            assert len(np.unique(codes)) > 4, where
            continue
        limits = np.iinfo(codes.dtype)
        assert codes.std() > (limits.max - limits.min) / 17, where
        assert np.mean(codes == limits.max) < 0.05, where
        # Of what is rectified, half.
        assert np.mean(codes == (0 if codes.dtype == np.int16 else limits.min)) < 0.7, where


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_tensor_of_a_small_one_equals_reference(name: str, seed: int) -> None:
    graph = networks.NETWORKS[name](**SMALL)
    assert graph.macs < 20_000_000
    x = images(graph, 2, seed)
    model = on_cpu(graph)
    found, wanted = model.tensors(x), walked(graph, x)
    assert set(found) == {index for node in graph.nodes for index in node.outputs}
    for index, got in found.items():
        assert_equal_bits(got, wanted[index], f"{name}, tensor {index} {graph.tensors[index].name}, seed {seed}")
    assert_equal_bits(model(x), wanted[graph.outputs[0]], f"{name}, output, seed {seed}")


@pytest.fixture(scope="module")
def launcher() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher(seeds=(1,)) as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_GPUS)
def test_the_cuda_path_gives_the_same(launcher: HostLauncher, name: str, seed: int) -> None:
    """Every kernel of a small one, run on the CPU thread by thread."""
    graph = networks.NETWORKS[name](**SMALL)
    x = images(graph, 1, seed)
    ours, cpu = Model(plan_program(graph, Device("cuda"), "litert_ref", launcher)), on_cpu(graph)
    wanted = cpu.tensors(x)
    for index, got in ours.tensors(x).items():
        assert_equal_bits(got, wanted[index], f"{name}, tensor {index} {graph.tensors[index].name}, seed {seed}")
    assert_equal_bits(ours(x), cpu(x), f"{name}, output, seed {seed}")


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("resnet50", dict(PAD=2, CONV_2D=53, MAX_POOL_2D=1, ADD=16, MEAN=1, FULLY_CONNECTED=1, SOFTMAX=1)),
        ("mobilenet_v1", dict(CONV_2D=15, DEPTHWISE_CONV_2D=13, AVERAGE_POOL_2D=1, RESHAPE=1, SOFTMAX=1)),
        ("mobilenet_v2", dict(CONV_2D=36, DEPTHWISE_CONV_2D=17, ADD=10, MEAN=1, RESHAPE=1, SOFTMAX=1)),
        (
            "efficientnet_lite0",
            dict(CONV_2D=33, DEPTHWISE_CONV_2D=16, ADD=9, AVERAGE_POOL_2D=1, RESHAPE=1, FULLY_CONNECTED=1, SOFTMAX=1),
        ),
    ],
)
def test_operators_are_those_of_the_converter(name: str, operators: dict[str, int]) -> None:
    assert Counter(node.spec.op for node in networks.NETWORKS[name](resolution=32).nodes) == operators


def test_the_same_weights_each_time() -> None:
    one, other = (networks.mobilenet_v1(**SMALL) for _ in range(2))
    for a, b in zip(one.tensors, other.tensors, strict=True):
        assert (a.name, a.shape, a.quant) == (b.name, b.shape, b.quant)
        assert (a.data is None) == (b.data is None)
        assert a.data is None or (a.data.tobytes() == b.data.tobytes() and not a.data.flags.writeable)


def test_widths() -> None:
    assert [networks.rounded(channels * 0.35) for channels in (16, 24, 32, 64, 96, 160, 320)] == [
        *(8, 8, 16, 24, 32, 56, 112)
    ]
    graph = networks.mobilenet_v2(96, 0.35)
    # Published for 0.35 at 96 x 96: 11 M MACs, 1.66 M parameters (1000 classes, with normalization's).
    assert (graph.macs // 10**6, round(networks.parameters(graph) / 1e6, 2)) == (11, 1.67)
