"""The CUDA kernels on a real GPU: the random layers that the CPU runs thread by thread, and what only a GPU has.

Without a GPU every test here is skipped, with the reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq.cuda import conv2d, conv2d_gemm, conv2d_stem, depthwise_conv2d, unavailable
from gpuq.cuda.layer import Layer
from gpuq.cuda.layout import ImageOperand
from gpuq.cuda.plans import CudaPlan, layer_of
from gpuq.errors import InputTypeError, InputValueError
from gpuq.numerics import Rule
from gpuq.ops import conv2d as conv2d_op
from gpuq.ops import depthwise_conv2d as depthwise_op
from gpuq.ops import fully_connected as fully_connected_op
from gpuq.ops.spec import Spec
from gpuq.resources import resource

from . import test_cuda_conv2d as conv2d_tests
from . import test_cuda_conv2d_stem as stem_tests
from . import test_cuda_depthwise_conv2d as depthwise_tests
from . import test_cuda_fully_connected as fully_connected_tests
from . import test_cuda_networks
from .compare import assert_equal_bits
from .cuda_layers import RULES, embedded, random_bias, random_codes
from .memory import leaked_blocks

pytestmark = pytest.mark.gpu

LAYERS_EACH = 6

# The rows of the KERNELS tables as choices; a split convolution runs requantize_sums, the row that is no tile.
CONV2D_CHOICES = conv2d_tests.CHOICES
DEPTHWISE_TILES = (*depthwise_conv2d.ROWS_TILES, *depthwise_conv2d.TAPS_TILES)


class Gpu:
    """GPU 0 as these tests use it."""

    def __init__(self) -> None:
        reason = unavailable(0)
        if reason:
            pytest.skip(f"no GPU: {reason}")
        import cupy

        from gpuq.cuda.launch import launcher

        self.cupy: Any = cupy
        self.launcher = launcher(0)

    def upload(self, array: np.ndarray) -> Any:
        there = self.cupy.empty(array.shape, array.dtype)
        there.set(np.ascontiguousarray(array))
        self.cupy.cuda.get_current_stream().synchronize()
        return there

    def operand(self, operand: ImageOperand) -> ImageOperand:
        return replace(operand, array=self.upload(operand.array))


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return Gpu()


def check(
    gpu: Gpu,
    layer: Layer,
    choice: Any,
    x: np.ndarray,
    want: np.ndarray,
    rng: np.random.Generator,
    context: object,
    align: int = 1,
) -> None:
    """As cuda_layers.check_layer: operands with gaps that must stay as they were, a workspace of noise."""
    runs = x.shape[0]
    plan = CudaPlan(layer, gpu.launcher, choice)
    _, _, x_operand = embedded(rng, x.reshape(runs, *(1, 1, *x.shape[1:])[-3:]), align)
    y = random_codes(rng, (runs, *layer.y_shape), want.dtype)
    y_memory, y_view, y_operand = embedded(rng, y, int(rng.choice([1, 4, align])))
    expected = y_memory.copy()
    offset = y_operand.layout.offset
    np.lib.stride_tricks.as_strided(expected[offset:], y.shape, y_view.strides)[...] = want.reshape(y.shape)
    workspace = gpu.upload(rng.integers(0, 256, max(4, plan.workspace_bytes(runs)), np.uint8))
    x_there, y_there = gpu.operand(x_operand), gpu.operand(y_operand)
    plan.launch([x_there], [y_there], workspace)
    got = y_there.array.get()
    view = np.lib.stride_tricks.as_strided(got[offset:], y.shape, y_view.strides)
    assert_equal_bits(view, want.reshape(y.shape), context)
    assert_equal_bits(got, expected, f"between the images: {context}")


def random_x(rng: np.random.Generator, spec: Any, runs: int) -> np.ndarray:
    return random_codes(rng, (runs, spec.in_h, spec.in_w, spec.in_c), spec.x_quant.dtype)


@pytest.mark.parametrize("kind", range(len(conv2d_tests.KINDS)))
@pytest.mark.parametrize("row", range(len(CONV2D_CHOICES)), ids=[choice.name for choice in CONV2D_CHOICES])
def test_conv2d(gpu: Gpu, row: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, row, kind])
    rules, wanted, choice = RULES[(row + kind) % len(RULES)], conv2d_tests.KINDS[kind], CONV2D_CHOICES[row]
    for case in range(LAYERS_EACH):
        spec = conv2d_tests.random_spec(rng, wanted, rules)
        weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
        bias = random_bias(rng, spec.out_c)
        x = random_x(rng, spec, int(rng.integers(1, 20)))
        layer = conv2d.pack(spec, rules.rule, weights, bias)
        if choice.tile in conv2d.IGEMM_TILES:
            choice = replace(choice, splits=min(wanted.splits, layer.padded_k // conv2d_gemm.PADDED_K))
        want = conv2d_op.reference(spec, rules.rule, x, weights, bias)
        context = f"seed {seed}, row {row}, kind {kind}, case {case}: {choice}, {spec}"
        check(gpu, layer, choice, x, want, rng, context, wanted.vec)


@pytest.mark.parametrize("kind", range(len(stem_tests.KINDS)))
@pytest.mark.parametrize("row", range(len(conv2d_stem.TILES)), ids=[each.name for each in conv2d_stem.KERNELS])
def test_conv2d_stem(gpu: Gpu, row: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, row, kind])
    rules, wanted, tile = RULES[(row + kind) % len(RULES)], stem_tests.KINDS[kind], conv2d_stem.TILES[row]
    for case in range(LAYERS_EACH):
        spec = stem_tests.random_spec(rng, wanted, rules)
        weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
        bias = random_bias(rng, spec.out_c)
        x = random_x(rng, spec, int(rng.integers(1, 20)))
        layer = conv2d_stem.pack(spec, rules.rule, weights, bias)
        want = conv2d_op.reference(spec, rules.rule, x, weights, bias)
        context = f"seed {seed}, row {row}, kind {kind}, case {case}: {tile}, {spec}"
        check(gpu, layer, tile, x, want, rng, context, 8 if wanted.aligned else 1)


@pytest.mark.parametrize("kind", range(len(depthwise_tests.KINDS)))
@pytest.mark.parametrize("row", range(len(DEPTHWISE_TILES)), ids=[tile.name for tile in DEPTHWISE_TILES])
def test_depthwise_conv2d(gpu: Gpu, row: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, row, kind])
    rules, wanted, tile = RULES[(row + kind) % len(RULES)], depthwise_tests.KINDS[kind], DEPTHWISE_TILES[row]
    for case in range(LAYERS_EACH):
        spec = depthwise_tests.random_spec(rng, tile, wanted, rules)
        weights = depthwise_tests.random_weights(rng, spec, wanted.terms)
        bias = random_bias(rng, spec.out_c)
        x = random_x(rng, spec, int(rng.integers(1, 20)))
        layer = depthwise_conv2d.pack(spec, rules.rule, weights, bias)
        rows = int(rng.integers(1, 10)) if isinstance(tile, depthwise_conv2d.RowsTile) else 1
        choice = depthwise_conv2d.DepthwiseConv2dChoice(tile, rows)
        want = depthwise_op.reference(spec, rules.rule, x, weights, bias)
        context = f"seed {seed}, row {row}, kind {kind}, case {case}: {choice}, {spec}"
        check(gpu, layer, choice, x, want, rng, context, wanted.vec)


@pytest.mark.parametrize("kind", range(len(fully_connected_tests.KINDS)))
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_fully_connected(gpu: Gpu, rules: Any, kind: int, seed: int) -> None:
    rng = np.random.default_rng([seed, RULES.index(rules), kind])
    unsigned, vec, clamps, _ = fully_connected_tests.KINDS[kind]
    for case in range(LAYERS_EACH):
        spec = fully_connected_tests.random_spec(rng, unsigned, vec, clamps, rules)
        weights = random_codes(rng, spec.weights_shape, spec.w_quant.dtype)
        bias = random_bias(rng, spec.out_c)
        x = random_codes(rng, (int(rng.integers(1, 300)), spec.in_c), spec.x_quant.dtype)
        layer = layer_of(spec, rules.rule, [None, weights, bias])
        found = layer.choices(x.shape[0], gpu.launcher.traits)
        want = fully_connected_op.reference(spec, rules.rule, x, weights, bias)
        for choice in (found[0], found[int(rng.integers(len(found)))]):
            check(gpu, layer, choice, x, want, rng, f"seed {seed}, case {case}: {choice}, {spec}", vec)


# ---- what only a GPU has


def some_layers(rng: np.random.Generator) -> list[tuple[Spec, Rule, list[Any]]]:
    """One layer of each operator: (spec, rule, constants)."""
    rules = RULES[0]
    specs: list[Any] = [
        conv2d_tests.plain(in_c=48, out_c=40, size=15),
        stem_tests.random_spec(rng, stem_tests.KINDS[0], rules),
        depthwise_tests.plain(in_c=32, size=15, stride=2),
        fully_connected_tests.random_spec(rng, False, 16, False, rules),
    ]
    return [
        (
            spec,
            rules.rule,
            [None, random_codes(rng, spec.weights_shape, spec.w_quant.dtype), random_bias(rng, spec.out_c)],
        )
        for spec in specs
    ]


def shape_of(spec: Any) -> tuple[int, ...]:
    return (spec.in_h, spec.in_w, spec.in_c) if hasattr(spec, "in_h") else (spec.in_c,)


@pytest.mark.parametrize("runs", [2, 33, 256])
def test_a_batch_is_so_many_single_runs(gpu: Gpu, runs: int, seed: int) -> None:
    rng = np.random.default_rng([seed, runs])
    for spec, rule, constants in some_layers(rng):
        plan = CudaPlan(layer_of(spec, rule, constants), gpu.launcher)
        x = random_codes(rng, (runs, *shape_of(spec)), spec.x_quant.dtype)  # type: ignore[attr-defined]
        workspace = gpu.upload(
            rng.integers(0, 256, max(4, plan.workspace_bytes(runs), plan.workspace_bytes(1)), np.uint8)
        )
        batch = gpu.upload(random_codes(rng, (runs, *spec.output_shape), x.dtype))  # type: ignore[attr-defined]
        plan.launch([gpu.upload(x)], [batch], workspace)
        single = gpu.upload(random_codes(rng, batch.shape, x.dtype))
        for number in range(runs):
            plan.launch([gpu.upload(x[number])], [single[number]], workspace)
        assert_equal_bits(batch.get(), single.get(), f"seed {seed}, {runs} runs: {spec}")


def test_a_stream_of_its_own(gpu: Gpu, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream = gpu.cupy.cuda.Stream(non_blocking=True)
    for spec, rule, constants in some_layers(rng):
        plan = CudaPlan(layer_of(spec, rule, constants), gpu.launcher)
        x = random_codes(rng, (7, *shape_of(spec)), spec.x_quant.dtype)  # type: ignore[attr-defined]
        workspace, there = gpu.cupy.empty(max(4, plan.workspace_bytes(7)), np.uint8), gpu.upload(x)
        results = []
        # The object and its address are the same stream.
        for each in (None, stream, stream.ptr):
            y = gpu.upload(random_codes(rng, (7, *spec.output_shape), x.dtype))  # type: ignore[attr-defined]
            plan.launch([there], [y], workspace, each)
            stream.synchronize()
            gpu.cupy.cuda.get_current_stream().synchronize()
            results.append(y.get())
        assert_equal_bits(results[1], results[0], spec)
        assert_equal_bits(results[2], results[0], spec)


def test_a_captured_launch_replays(gpu: Gpu, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream = gpu.cupy.cuda.Stream(non_blocking=True)
    for spec, rule, constants in some_layers(rng):
        plan = CudaPlan(layer_of(spec, rule, constants), gpu.launcher)
        first, second = (
            random_codes(rng, (3, *shape_of(spec)), spec.x_quant.dtype)  # type: ignore[attr-defined]
            for _ in range(2)
        )
        workspace = gpu.cupy.empty(max(4, plan.workspace_bytes(3)), np.uint8)
        x, y = gpu.upload(first), gpu.upload(random_codes(rng, (3, *spec.output_shape), first.dtype))
        plan.launch([x], [y], workspace, stream)
        stream.synchronize()
        with stream:
            stream.begin_capture()
            plan.launch([x], [y], workspace, stream)
            graph = stream.end_capture()
        wanted = []
        for image in (second, first):
            x.set(image)
            gpu.cupy.cuda.get_current_stream().synchronize()
            graph.launch(stream)
            stream.synchronize()
            wanted.append(y.get())
        plan.launch([gpu.upload(second)], [y], workspace)
        assert_equal_bits(wanted[0], y.get(), f"seed {seed}: {spec}")
        plan.launch([gpu.upload(first)], [y], workspace)
        assert_equal_bits(wanted[1], y.get(), f"seed {seed}: {spec}")


def test_arrays_on_the_cpu_are_refused(gpu: Gpu, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec, rule, constants = some_layers(rng)[0]
    plan = CudaPlan(layer_of(spec, rule, constants), gpu.launcher)
    x = random_codes(rng, (1, *shape_of(spec)), np.int8)
    y = np.empty((1, *spec.output_shape), np.int8)  # type: ignore[attr-defined]
    workspace = gpu.cupy.empty(max(4, plan.workspace_bytes(1)), np.uint8)
    with pytest.raises(InputTypeError, match="ndarray; it must be an array on cuda:0"):
        plan.launch([x], [gpu.upload(y)], workspace)
    with pytest.raises(InputTypeError, match="ndarray; it must be an array on cuda:0"):
        plan.launch([gpu.upload(x)], [y], workspace)


# ---- whole networks


def networks() -> list[str]:
    return [
        *("digits_int8", "digits_int16x8", "digits_dynamic_range", "digits_float", "kws_dscnn_dynamic_range"),
        *test_cuda_networks.SMALL_MODELS,
        *test_cuda_networks.LARGER_MODELS,
        *test_cuda_networks.LARGEST_MODELS,
    ]


@pytest.mark.parametrize("name", networks())
def test_network(gpu: Gpu, name: str, request: pytest.FixtureRequest, seed: int) -> None:
    """Every tensor equals the CPU's; a batch is as many runs; arrays of the GPU give what arrays of the host give."""
    if name.startswith("digits_"):
        content = resource("examples", "digits", f"{name}.tflite").read_bytes()
    elif name == "kws_dscnn_dynamic_range":
        folder = request.getfixturevalue("material") / "models" / "mlperf_tiny"
        content = (folder / f"{name}.tflite").read_bytes()
    else:
        content = test_cuda_networks.model_of(request.getfixturevalue("material"), name)
    numerics = "tflm" if name == "person_detect_int8" else "litert_ref"
    ours, cpu = (gpuq.load(content, device=device, numerics=numerics) for device in ("cuda", "cpu"))
    given = test_cuda_networks.inputs(cpu, 3, seed)
    want = cpu.tensors(*given)
    for index, got in ours.tensors(*given).items():
        assert_equal_bits(got, want[index], f"tensor {index} {cpu.graph.tensors[index].name!r}, seed {seed}")
    results, wanted, on_gpu = (
        found if isinstance(found, tuple) else (found,)
        for found in (ours(*given), cpu(*given), ours(*(gpu.upload(x) for x in given)))
    )
    for got, there, result in zip(results, on_gpu, wanted, strict=True):
        assert_equal_bits(got, result, f"seed {seed}")
        assert_equal_bits(there.get(), result, f"on the GPU, seed {seed}")
    batches = list(ours.run_batches([tuple(given)] * 5))
    for found in batches:
        got = found[0] if isinstance(found, tuple) else found
        assert_equal_bits(got, wanted[0], f"run_batches, seed {seed}")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_joined_operators_and_tensors_in_place(gpu: Gpu, dtype: str, seed: int) -> None:
    test_cuda_networks.test_joined_operators_and_tensors_in_place(gpu.launcher, dtype, seed)


@pytest.mark.parametrize(("profile", "dtype"), [("litert_ref", "int16"), ("tflm", "int8")])
def test_state_in_sessions(gpu: Gpu, profile: str, dtype: str, seed: int) -> None:
    pytest.importorskip("ai_edge_litert")
    from .test_cuda_svdf import test_sessions

    test_sessions(gpu.launcher, profile, dtype, seed)


@pytest.mark.parametrize("case", range(8))
def test_lstm_in_sessions(gpu: Gpu, case: int, seed: int) -> None:
    pytest.importorskip("ai_edge_litert")
    from .test_cuda_lstm import SESSIONS, test_sessions

    test_sessions(gpu.launcher, *SESSIONS[case], seed)


def test_detectors(gpu: Gpu, seed: int) -> None:
    pytest.importorskip("ai_edge_litert")
    from .test_cuda_detection import test_models

    test_models(gpu.launcher, "litert_ref", seed)


def test_refused_data(gpu: Gpu) -> None:
    pytest.importorskip("ai_edge_litert", reason="networks are built with it")
    from . import test_cuda_status as status

    model = gpuq.load(status.looking_up(), device="cuda")
    for given, text in ((status.OUTSIDE, status.INDEX), (status.BY_ZERO, status.DIVISOR)):
        with pytest.raises(InputValueError, match=text):
            model(*given)
        status.check_good(model)
        batches = model.run_batches([status.GOOD, given])
        next(batches)
        with pytest.raises(InputValueError, match=text):
            next(batches)
    rows, _ = model(*(gpu.upload(x) for x in status.OUTSIDE))
    assert rows.get().tolist() == [[[4, 5], [0, 1]], [[2, 3], [4, 5]]]


def test_float_operators(gpu: Gpu, seed: int) -> None:
    pytest.importorskip("ai_edge_litert", reason="networks are built with it")
    from .peers import test_float32 as floats

    ran = 0
    for number, draw in enumerate((floats.elementwise, floats.reductions, floats.movements, floats.layers)):
        rng = np.random.default_rng([seed, number])
        for case in draw(rng):
            model, values, profile = case.model(), case.values(rng), "xnnpack" if case.op == "ELU" else "litert_ref"
            want = gpuq.load(model, device="cpu", numerics=profile)(*values)
            got = gpuq.load(model, device="cuda", numerics=profile)(*values)
            assert_equal_bits(got, want, f"{case.op} {[tensor.shape for tensor in case.inputs]}, seed {seed}")
            ran += 1
    assert ran > 40


def test_calls_leave_nothing_behind(gpu: Gpu, seed: int) -> None:
    content = resource("examples", "digits", "digits_int8.tflite").read_bytes()
    model = gpuq.load(content, device="cuda")
    x = gpu.upload(random_codes(np.random.default_rng(seed), (1, 8, 8, 1), np.int8))
    pool = gpu.cupy.get_default_memory_pool()
    model(x)
    used = pool.used_bytes()
    assert leaked_blocks(lambda: model(x)) < 50
    gpu.cupy.cuda.get_current_stream().synchronize()
    assert pool.used_bytes() <= used
