"""Whole networks on the CUDA path, every kernel run on the CPU: packing, plans, arena, order, batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gpuq
from gpuq.cuda.launcher import Launcher
from gpuq.devices import Device
from gpuq.errors import UnsupportedModel
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read
from gpuq.ops.hard_swish import HardSwishSpec
from gpuq.ops.maximum_minimum import MaximumSpec
from gpuq.ops.reduce import ReduceMaxSpec
from gpuq.ops.slices import SplitSpec
from gpuq.ops.space import SpaceToDepthSpec
from gpuq.ops.transpose import TransposeSpec
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.window import Window2d
from gpuq.resources import resource

from .compare import assert_equal_bits
from .cuda_layers import EVERYTHING
from .host_cuda.runner import HostLauncher, require_tools


@pytest.fixture(scope="module")
def launcher() -> Iterator[HostLauncher]:
    require_tools()
    # One order of threads: every kernel has met several in its own tests.
    with HostLauncher(seeds=(1,)) as started:
        yield started


def on_cuda(content: bytes, launcher: HostLauncher, numerics: str = "litert_ref") -> Model:
    return Model(plan_program(read(content), Device("cuda"), numerics, launcher))


def inputs(model: Model, runs: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for detail in model.get_input_details():
        shape = (runs * detail["shape"][0], *detail["shape"][1:])
        if detail["dtype"] is np.float32:
            found.append(rng.normal(size=shape).astype(np.float32))
        else:
            info = np.iinfo(detail["dtype"])
            found.append(rng.integers(info.min, info.max + 1, shape).astype(detail["dtype"]))
    return found


def check(content: bytes, launcher: HostLauncher, runs: int, seed: int, numerics: str = "litert_ref") -> None:
    """Every tensor of the CUDA path equals the CPU path's."""
    ours, cpu = on_cuda(content, launcher, numerics), gpuq.load(content, device="cpu", numerics=numerics)
    given = inputs(cpu, runs, seed)
    want = cpu.tensors(*given)
    for index, got in ours.tensors(*given).items():
        tensor = cpu.graph.tensors[index]
        assert_equal_bits(got, want[index], f"tensor {index} {tensor.name!r}, {runs} runs, seed {seed}\n{ours.program}")
    outputs, wanted = (found if isinstance(found, tuple) else (found,) for found in (ours(*given), cpu(*given)))
    for got, result in zip(outputs, wanted, strict=True):
        assert_equal_bits(got, result, f"output, {runs} runs, seed {seed}")


@pytest.mark.parametrize("name", ["digits_int8", "digits_int16x8"])
@pytest.mark.parametrize("runs", [1, 3])
def test_digits(launcher: HostLauncher, name: str, runs: int, seed: int) -> None:
    path = resource("examples", "digits", f"{name}.tflite")
    check(path.read_bytes(), launcher, runs, seed)


def test_small_network_in_parts(launcher: HostLauncher, seed: int) -> None:
    # Here and not above: the tests on a GPU take this file's networks, where LiteRT may be missing.
    from .networks import small_network

    program = on_cuda(small_network(), launcher).program
    limit = program.constant_bytes + 2 * program.arena_bytes + program.workspace_bytes(2)
    model, cpu = Model(program, limit), gpuq.load(small_network(), device="cpu")
    assert model.largest_batch == 2
    (x,) = inputs(cpu, 5, seed)
    assert_equal_bits(model(x), cpu(x), f"seed {seed}")
    batches = [x[:1], x[:3], x, x[3:]]
    for got, batch in zip(model.run_batches(batches), batches, strict=True):
        assert_equal_bits(got, cpu(batch), f"seed {seed}")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_joined_operators_and_tensors_in_place(launcher: Launcher, dtype: str, seed: int) -> None:
    # What the planner joins and places, on the kernels themselves; the plans are tested in test_fusion.
    from .test_fusion import Net

    rng = np.random.default_rng(seed)
    net = Net(rng, dtype)
    x = net.tensor((1, 7, 6, 4), net.quant(0.05, 3))
    stem = net.conv(net.pad(x, (0, 0), (1, 1), (0, 2), (0, 0)), 8, 3)
    block = net.relu(net.sum(net.conv(stem, 8), stem))
    block = net.sum(block, net.conv(net.conv(block, 8, 3, depthwise=True), 8), out=net.quant(0.07, -9))
    dense = net.concat(3, net.conv(block, 8, out=net.of(x)), net.conv(block, 4, out=net.of(x)))
    dense = net.concat(3, dense, net.conv(dense, 5))
    pooled = net.pool(net.pad(dense, (0, 0), (1, 0), (0, 1), (0, 0)), average=True)
    first = net.conv(dense, 6)
    second = net.conv(pooled, 6)
    heads = [net.reshape(each, 1, int(np.prod(net.shape(each))) // 2, 2) for each in (first, second)]
    out = net.logistic(net.concat(1, *heads))
    graph = net.graph((x,), (out, net.dense(net.reshape(second, 1, int(np.prod(net.shape(second)))), 10)))
    cpu = Model(plan_program(graph, Device("cpu"), "litert_ref"))
    ours = Model(plan_program(graph, Device("cuda"), "litert_ref", launcher))
    assert len(ours.program.steps) < len(cpu.program.steps) - 6
    for runs in (1, 3):
        (given,) = inputs(cpu, runs, seed)
        for got, want in zip(ours(given), cpu(given), strict=True):
            assert_equal_bits(got, want, f"{runs} runs, seed {seed}\n{ours.program}")
        want_tensors = cpu.tensors(given)
        for index, got in ours.tensors(given).items():
            assert_equal_bits(got, want_tensors[index], f"tensor {index}, {runs} runs, seed {seed}")


@pytest.mark.slow
def test_operators_beside_convolutions(launcher: HostLauncher, seed: int) -> None:
    from .test_fusion import Net

    net = Net(np.random.default_rng(seed))
    x = net.tensor((1, 6, 4, 4), net.quant(0.05, 3))
    quant, int8 = net.of(x), np.dtype(np.int8)
    stem = net.conv(x, 8, 3)
    swish = HardSwishSpec(shape=net.shape(stem), x_quant=quant, out_quant=quant)
    stem = net.add_node(swish, (stem,), net.shape(stem), quant)
    halves = []
    for start in (0, 4):
        half = SplitSpec(
            x_shape=(1, 6, 4, 8),
            dtype=int8,
            starts=(0, 0, 0, start),
            strides=(1,) * 4,
            sizes=(1, 6, 4, 4),
            out_shape=(1, 6, 4, 4),
        )
        halves.append(net.add_node(half, (stem,), (1, 6, 4, 4), quant))
    larger = MaximumSpec(a_shape=(1, 6, 4, 4), b_shape=(1, 6, 4, 4), dtype=int8)
    larger_of = net.add_node(larger, (halves[0], halves[1]), (1, 6, 4, 4), quant)
    deep = net.add_node(SpaceToDepthSpec(x_shape=(1, 6, 4, 4), dtype=int8, block=2), (larger_of,), (1, 3, 2, 16), quant)
    window = Window2d(kernel_h=3, kernel_w=3, stride_h=2, stride_w=2)
    up = TransposeConvSpec(
        in_h=3,
        in_w=2,
        in_c=16,
        out_h=6,
        out_w=4,
        out_c=4,
        window=window,
        x_quant=quant,
        w_quant=net.quant(0.02, 0),
        out_quant=quant,
    )
    raised = net.add_node(up, (deep, net.weights(up.weights_shape), -1), (1, 6, 4, 4), quant)
    turned = net.add_node(
        TransposeSpec(x_shape=(1, 6, 4, 4), dtype=int8, perm=(0, 3, 1, 2)), (raised,), (1, 4, 6, 4), quant
    )
    most = net.add_node(
        ReduceMaxSpec(x_shape=(1, 4, 6, 4), axes=(2, 3), keep_dims=False, dtype=int8), (turned,), (1, 4), quant
    )
    graph = net.graph((x,), (net.dense(most, 5), turned))
    cpu = Model(plan_program(graph, Device("cpu"), "litert_ref"))
    ours = Model(plan_program(graph, Device("cuda"), "litert_ref", launcher))
    assert ours.program.steps[0].op == "CONV_2D+HARD_SWISH"
    (given,) = inputs(cpu, 3, seed)
    for got, want in zip(ours(given), cpu(given), strict=True):
        assert_equal_bits(got, want, f"seed {seed}\n{ours.program}")
    wanted = cpu.tensors(given)
    for index, got in ours.tensors(given).items():
        assert_equal_bits(got, wanted[index], f"tensor {index}, seed {seed}")


SMALL_MODELS = ("resnet8_cifar10_int8", "kws_dscnn_int8", "vww_mobilenet_int8", "hello_world_int8", "micro_speech_int8")
LARGER_MODELS = ("mobilenet_v1_0.25_128_uint8", "person_detect_int8", "ad_autoencoder_int8", "wakeword_int8")
# A minute and more: part of `make test-host`.
LARGEST_MODELS = ("mobilenet_v2_224_int8", "mobilenet_v2_224_uint8", "deeplabv3_mnv2_dm05_uint8")


def model_of(material: Path, name: str) -> bytes:
    (path,) = material.glob(f"models/*/{name}.tflite")
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_MODELS)
def test_real_models(launcher: HostLauncher, material: Path, name: str, seed: int) -> None:
    check(model_of(material, name), launcher, 1, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LARGER_MODELS, *(LARGEST_MODELS if EVERYTHING else ())])
def test_larger_models(launcher: HostLauncher, material: Path, name: str, seed: int) -> None:
    check(model_of(material, name), launcher, 1, seed, "tflm" if name == "person_detect_int8" else "litert_ref")


@pytest.mark.slow
@pytest.mark.parametrize("numerics", ["litert_opt", "xnnpack", "tflm", "single"])
@pytest.mark.parametrize(
    "name",
    [*SMALL_MODELS, *LARGER_MODELS, *LARGEST_MODELS]
    if EVERYTHING
    else ["resnet8_cifar10_int8", "wakeword_int8", "micro_speech_int8"],
)
def test_real_models_of_every_profile(
    launcher: HostLauncher, material: Path, name: str, numerics: str, seed: int
) -> None:
    content = model_of(material, name)
    try:
        gpuq.load(content, device="cpu", numerics=numerics)
    except UnsupportedModel:
        # What a runtime does not run: legacy uint8 in TFLite Micro.
        assert name.endswith("uint8")
        assert numerics in ("tflm", "single")
        return
    check(content, launcher, 1, seed, numerics)


@pytest.mark.parametrize("name", ["digits_dynamic_range", "digits_float"])
def test_float_networks(launcher: HostLauncher, name: str, seed: int) -> None:
    check(resource("examples", "digits", f"{name}.tflite").read_bytes(), launcher, 2, seed)


def test_open_orders_of_sums_stay_near(launcher: HostLauncher, seed: int) -> None:
    # litert_opt leaves the order of float32 convolutions open: BLAS's on the CPU, the reference kernels' on a GPU.
    content = resource("examples", "digits", "digits_float.tflite").read_bytes()
    ours, cpu = on_cuda(content, launcher, "litert_opt"), gpuq.load(content, device="cpu", numerics="litert_opt")
    x = inputs(cpu, 3, seed)
    np.testing.assert_allclose(ours(*x), cpu(*x), atol=2e-6, err_msg=f"seed {seed}")


@pytest.mark.parametrize("numerics", ["litert_ref", "litert_opt", "xnnpack"])
def test_a_speech_network_of_dynamic_range(material: Path, launcher: HostLauncher, numerics: str, seed: int) -> None:
    content = (material / "models" / "mlperf_tiny" / "kws_dscnn_dynamic_range.tflite").read_bytes()
    check(content, launcher, 2, seed, numerics)
