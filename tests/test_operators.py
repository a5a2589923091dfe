"""gpuq.conv2d and its kin: the CPU's results, the GPU's way through a stand-in for CuPy, and every refusal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import Quant, cuda
from gpuq.cuda import affine, launch
from gpuq.cuda.kernel import Kernel, Launch, Pointer, Slot
from gpuq.errors import DeviceError, DeviceLost, DeviceNotAvailable, DeviceOutOfMemory, InputTypeError, InputValueError
from gpuq.ops.registry import reference
from gpuq.profiles import PROFILES, resolve

from . import fake_cupy
from .compare import assert_equal_bits
from .fake_cupy import CUDADriverError, FakeCupy, Stream, Tensor
from .host_cuda.runner import HostLauncher, require_tools

QUANTS = {"x_quant": Quant(0.5, 3), "w_quant": Quant(2.0**-7), "out_quant": Quant(0.5, -1)}


@pytest.fixture(scope="module")
def host() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher() as started:
        yield started


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, host: HostLauncher) -> Iterator[FakeCupy]:
    yield fake_cupy.install(monkeypatch, host, gpus=2)
    launch.launcher.cache_clear()
    affine._constants.cache_clear()


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def codes(rng: np.random.Generator, *shape: int, dtype: str = "int8") -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


# (function, arguments behind x, shape of x, keywords)
def calls(
    rng: np.random.Generator,
) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...], dict[str, Any]]]:
    bias = rng.integers(-999, 999, 6).astype(np.int32)
    return {
        "conv2d": (gpuq.conv2d, (codes(rng, 6, 3, 3, 8), bias), (2, 7, 6, 8), {"stride": 2, **QUANTS}),
        "groups": (
            gpuq.conv2d,
            (codes(rng, 6, 3, 2, 4), bias),
            (1, 7, 6, 8),
            {"groups": 2, "padding": ((1, 0), (2, 3)), "dilation": (2, 1), "activation": "relu6", **QUANTS},
        ),
        "depthwise": (gpuq.depthwise_conv2d, (codes(rng, 1, 3, 3, 6), bias), (2, 5, 5, 6), {"padding": 1, **QUANTS}),
        "fully_connected": (gpuq.fully_connected, (codes(rng, 6, 20), bias), (3, 20), QUANTS),
        "requantize": (gpuq.requantize, (), (4, 5), {"x_quant": Quant(0.5, 3), "out_quant": Quant(0.2, 7)}),
    }


NAMES = tuple(calls(np.random.default_rng(0)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("numerics", list(PROFILES))
def test_numpy_arrays(name: str, numerics: str, rng: np.random.Generator) -> None:
    call, constants, shape, keywords = calls(rng)[name]
    x = codes(rng, *shape)
    got = call(x, *constants, numerics=numerics, **keywords)
    assert type(got) is np.ndarray
    plan = plan_of(name, constants, shape, keywords | {"numerics": numerics, "device": "cpu"})
    want = reference(plan.spec, resolve(numerics, plan.spec), x, *constants)
    assert_equal_bits(got, want.reshape(got.shape), name)
    out = np.zeros_like(got)
    assert call(x, *constants, numerics=numerics, out=out, **keywords) is out
    assert_equal_bits(out, got, "out=")
    assert_equal_bits(plan(x), got, "plan")
    assert plan(x[:1]).shape == (1, *plan.output_shape)
    assert plan.input_shape == shape[1:]


def plan_of(name: str, constants: tuple[Any, ...], shape: tuple[int, ...], keywords: dict[str, Any]) -> Any:
    if name == "requantize":
        return gpuq.plan_requantize(shape[1:], **keywords)
    if name == "fully_connected":
        return gpuq.plan_fully_connected(*constants, **keywords)
    make = gpuq.plan_depthwise_conv2d if name == "depthwise" else gpuq.plan_conv2d
    return make(shape[1:], *constants, **keywords)


@pytest.mark.parametrize("name", NAMES)
def test_device_arrays(name: str, gpu: FakeCupy, rng: np.random.Generator) -> None:
    call, constants, shape, keywords = calls(rng)[name]
    x = codes(rng, *shape)
    want = call(x, *constants, **keywords)
    got = call(gpu.asarray(x), *constants, **keywords)
    assert isinstance(got, fake_cupy.ndarray)
    assert_equal_bits(got.get(), want, "CuPy")
    assert gpu.launched, "no kernel ran"
    # Constants may be on the GPU, too.
    on_gpu = [gpu.asarray(constant) for constant in constants]
    assert_equal_bits(call(gpu.asarray(x), *on_gpu, **keywords).get(), want, "constants on the GPU")
    out = gpu.empty(want.shape, want.dtype)
    assert call(gpu.asarray(x), *constants, out=out, **keywords) is out
    assert_equal_bits(out.get(), want, "out=")


def test_streams(gpu: FakeCupy, rng: np.random.Generator) -> None:
    plan = gpuq.plan_fully_connected(codes(rng, 6, 20), **QUANTS, device="cuda:1")
    x = codes(rng, 3, 20)
    want = gpuq.fully_connected(x, rng_weights := codes(rng, 6, 20), **QUANTS)
    plan = gpuq.plan_fully_connected(rng_weights, **QUANTS, device="cuda:1")
    with gpu.cuda.Device(1):
        on_gpu = gpu.asarray(x)
    gpu.launched.clear()

    class TorchStream:
        cuda_stream = 11

    class Protocol:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 12

    for stream, address in ((None, 0), (Stream(9), 9), (10, 10), (TorchStream(), 11), (Protocol(), 12)):
        assert_equal_bits(plan(on_gpu, stream=stream).get(), want, str(stream))
        assert gpu.launched.pop()[1:] == (address, 1)
    with Stream(13):
        plan(on_gpu)
    assert gpu.launched.pop()[1] == 13
    for bad in ("0", True, 1.5):
        with pytest.raises(InputTypeError, match="stream is a .* it must be a CUDA stream or its address"):
            plan(on_gpu, stream=bad)


def test_tensors_of_other_libraries(gpu: FakeCupy, rng: np.random.Generator) -> None:
    weights, x = codes(rng, 6, 20), codes(rng, 3, 20)
    want = gpuq.fully_connected(x, weights, **QUANTS)
    tensor, out = Tensor(gpu.asarray(x)), Tensor(gpu.empty((3, 6), np.int8))
    got = gpuq.fully_connected(tensor, Tensor(gpu.asarray(weights)), **QUANTS, stream=7)
    assert isinstance(got, fake_cupy.ndarray)
    assert_equal_bits(got.get(), want, "DLPack")
    assert tensor.streams[-1] == 7, "the producer must be told which stream will read"
    assert gpuq.fully_connected(tensor, weights, **QUANTS, out=out) is out
    assert_equal_bits(out.array.get(), want, "out=")

    class Stubborn(Tensor):
        def __dlpack__(self, stream: int | None = None) -> Any:
            raise BufferError("Can't export tensors that require gradient")

    with pytest.raises(InputTypeError, match="Stubborn cannot be shared with CuPy: .* require gradient"):
        gpuq.fully_connected(Stubborn(gpu.asarray(x)), weights, **QUANTS)


def test_quantize_on_both_devices(gpu: FakeCupy, rng: np.random.Generator) -> None:
    values = rng.normal(0, 20, (3, 5)).astype(np.float32)
    for quant in (Quant(0.5, 3), Quant([0.5, 0.25, 1.0], [0, 0, 5], axis=0), Quant(0.1, 9, dtype="uint8")):
        want = gpuq.quantize(values, quant, narrow_range=True)
        got = gpuq.quantize(gpu.asarray(values), quant, narrow_range=True)
        assert_equal_bits(got.get(), want, str(quant))
        assert_equal_bits(gpuq.dequantize(got, quant).get(), gpuq.dequantize(want, quant), str(quant))
        out = np.zeros_like(want)
        assert gpuq.quantize(values, quant, narrow_range=True, out=out) is out
        assert_equal_bits(out, want, "out=")
        device_out = gpu.empty(want.shape, want.dtype)
        assert gpuq.quantize(gpu.asarray(values), quant, narrow_range=True, out=device_out) is device_out
        assert_equal_bits(device_out.get(), want, "out=")
    assert gpuq.quantize(gpu.empty((0, 4), np.float32), Quant(0.5)).shape == (0, 4)


def test_many_threads_share_a_plan(gpu: FakeCupy, rng: np.random.Generator) -> None:
    weights = codes(rng, 6, 20)
    plan = gpuq.plan_fully_connected(weights, **QUANTS, device="cpu")
    inputs = [codes(rng, 1 + i % 3, 20) for i in range(8)]
    want = [gpuq.fully_connected(x, weights, **QUANTS) for x in inputs]
    got: list[Any] = [None] * 8

    def work(i: int) -> None:
        for _ in range(20):
            got[i] = plan(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert_equal_bits(got[i], want[i], i)


# ---- refusals ----


def conv(x: Any, w: Any, **more: Any) -> Any:
    return gpuq.conv2d(x, w, **(QUANTS | more))


def test_refusals_of_arguments(rng: np.random.Generator) -> None:
    x, w = codes(rng, 1, 8, 8, 4), codes(rng, 6, 3, 3, 4)
    refusals: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (InputTypeError, "x is a list; it must be an array", lambda: conv([1, 2], w)),
        (InputTypeError, "w is a list; it must be an array", lambda: conv(x, [1, 2])),
        (InputTypeError, "x of float32 must be int8; nothing is cast", lambda: conv(x.astype(np.float32), w)),
        (InputTypeError, "w of uint8 is not supported; it must be int8", lambda: conv(x, w.view(np.uint8))),
        (
            InputTypeError,
            "bias of int64 is not supported; it must be int32",
            lambda: conv(x, w, bias=np.zeros(6, np.int64)),
        ),
        (InputValueError, "bias of shape .5,. must have O=6 elements", lambda: conv(x, w, bias=np.zeros(5, np.int32))),
        (InputValueError, "one input of shape 8x4 must be HxWxC", lambda: conv(x[0], w)),
        (InputValueError, "weights of shape 6x3x3 must have 4 dimensions, OHWI", lambda: conv(x, w[..., 0])),
        (InputValueError, "strides .* it must be C-contiguous", lambda: conv(x[:, :, ::2], w)),
        (InputValueError, "weights of shape .* must have shape", lambda: conv(x, w[..., :3])),
        (
            InputValueError,
            "5 weight scales along axis 0 must be O=6",
            lambda: conv(x, w, w_quant=Quant([0.1] * 5, 0, axis=0)),
        ),
        (InputValueError, "padding 'full' must be 'same' or 'valid'", lambda: conv(x, w, padding="full")),
        (InputValueError, "padding .1, 2. must be 'same', 'valid', a number", lambda: conv(x, w, padding=(1, 2))),
        (InputValueError, "stride .1, 2, 3. must be a number or", lambda: conv(x, w, stride=(1, 2, 3))),
        (InputValueError, "stride_h=0 must be at least 1", lambda: conv(x, w, stride=0)),
        (InputValueError, "numerics|profile", lambda: conv(x, w, numerics="nobody")),
        (InputValueError, "0x8x8x4 is empty; N must be at least 1", lambda: conv(x[:0], w)),
        (InputValueError, "out must not overlap x", lambda: conv(x, codes(rng, 4, 3, 3, 4), out=x)),
        (
            InputValueError,
            "out of shape 1x8x8x5 must be 1x8x8x6",
            lambda: conv(x, w, out=np.zeros((1, 8, 8, 5), np.int8)),
        ),
        (InputTypeError, "out of uint8 must be int8", lambda: conv(x, w, out=np.zeros((1, 8, 8, 6), np.uint8))),
        (InputValueError, "stream is for plans on a GPU", lambda: conv(x, w, stream=1)),
        (
            InputValueError,
            "1xKHxKWxO, O a multiple of C=4",
            lambda: gpuq.depthwise_conv2d(x, codes(rng, 1, 3, 3, 6), **QUANTS),
        ),
        (InputValueError, "stream is for arrays on a GPU", lambda: gpuq.quantize(np.ones(3), Quant(1), stream=1)),
        (InputValueError, "x is a scalar", lambda: gpuq.requantize(np.int8(3), x_quant=Quant(1), out_quant=Quant(1))),
    ]
    for error, message, call in refusals:
        with pytest.raises(error, match=message):
            call()


def test_refusals_between_devices(gpu: FakeCupy, rng: np.random.Generator) -> None:
    x, w = codes(rng, 3, 20), codes(rng, 6, 20)
    on_gpu = gpu.asarray(x)
    with gpu.cuda.Device(1):
        on_other = gpu.asarray(x)
    here, there = (gpuq.plan_fully_connected(w, **QUANTS, device=device) for device in ("cpu", "cuda:0"))
    with pytest.raises(InputTypeError, match="FULLY_CONNECTED: x is on the CPU and the plan on cuda:0; move it there"):
        there(x)
    with pytest.raises(
        InputTypeError, match="x is on a GPU and the plan on the CPU; make the plan with device='cuda:0'"
    ):
        here(on_gpu)
    with pytest.raises(InputValueError, match="x is on cuda:1; it must be on cuda:0"):
        there(on_other)
    with pytest.raises(InputTypeError, match="out is on the CPU and the plan on cuda:0"):
        there(on_gpu, out=np.zeros((3, 6), np.int8))
    with pytest.raises(InputTypeError, match="out is on the CPU and x on cuda:0"):
        gpuq.dequantize(on_gpu, Quant(1), out=np.zeros((3, 20), np.float32))
    with pytest.raises(InputValueError, match="must be C-contiguous"):
        there(gpu.asarray(codes(rng, 3, 40))[:, ::2])
    with pytest.raises(InputTypeError, match="x of uint8 must be int8"):
        there(on_gpu.view(np.uint8))
    with pytest.raises(InputTypeError, match="x of float64 must be float32 on a GPU"):
        gpuq.quantize(gpu.asarray(np.ones(3)), Quant(1))
    with pytest.raises(DeviceNotAvailable, match="there is no GPU 5; this machine has 2"):
        gpuq.plan_fully_connected(w, **QUANTS, device="cuda:5")
    assert gpuq.plan_fully_connected(w, **QUANTS).device.kind == "cuda"


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(cuda, "unavailable", lambda index: "CuPy finds no CUDA driver or no GPU")
    assert gpuq.plan_fully_connected(codes(rng, 6, 20), **QUANTS).device.kind == "cpu"
    with pytest.raises(DeviceNotAvailable, match="device 'cuda': CuPy finds no CUDA driver"):
        gpuq.plan_fully_connected(codes(rng, 6, 20), **QUANTS, device="cuda")


def test_what_the_driver_says(gpu: FakeCupy, rng: np.random.Generator) -> None:
    plan = gpuq.plan_fully_connected(codes(rng, 6, 20), **QUANTS, device="cuda")
    x = gpu.asarray(codes(rng, 3, 20))
    gpu.failure = CUDADriverError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")
    with pytest.raises(DeviceLost, match="conv2d_direct_dp4a.*: the GPU stopped working here or shortly before"):
        plan(x)
    gpu.failure = CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
    with pytest.raises(DeviceError, match="conv2d_direct_dp4a.*INVALID_VALUE"):
        plan(x)
    gpu.memory_limit = 10
    with pytest.raises(DeviceOutOfMemory, match="cuda:0: 18 bytes: out of memory"):
        plan(x)


def test_arguments_of_launches(gpu: FakeCupy) -> None:
    device = launch.launcher(0)
    kernel = Kernel("some_kernel", "some.cu", "some", (), (32, 1, 1))

    def refused(error: type[Exception], message: str, *arguments: Any, grid: tuple[int, int, int] = (1, 1, 1)) -> None:
        with pytest.raises(error, match=message):
            device.launch(Launch(kernel, grid, arguments))

    array = gpu.empty((4, 4), np.int8)
    refused(InputTypeError, "some_kernel: argument 0 is a int; it must be a Pointer or one of int32", 3)
    refused(InputTypeError, "argument 1 is a int16", np.int32(1), np.int16(2))
    refused(InputTypeError, "argument 0: nothing is bound to 'x'", Slot("x"))
    refused(InputTypeError, "argument 0 is a ndarray; it must be an array on cuda:0", Pointer(np.zeros(3)))
    refused(InputValueError, "argument 0: offset 17 must be 0 to 16", Pointer(array, 17))
    refused(InputValueError, "argument 0 has strides", Pointer(array[:, ::2]))
    refused(InputValueError, "grid.x is 0; it must be 1 to", grid=(0, 1, 1))
    refused(InputValueError, "grid.y is 65536; it must be 1 to 65535", grid=(1, 65536, 1))


@pytest.mark.parametrize(
    "settings", [{}, {"axis": None}, {"axis": 3, "bits": 4}, {"dtype": "uint8", "symmetric": False}]
)
def test_weights_on_a_gpu(gpu: FakeCupy, rng: np.random.Generator, settings: dict[str, Any]) -> None:
    weights = rng.normal(size=(5, 3, 3, 4)).astype(np.float32)
    want, want_quant = gpuq.quantize_weights(weights, **settings)
    got, quant = gpuq.quantize_weights(gpu.asarray(weights), **settings)
    assert isinstance(got, fake_cupy.ndarray)
    assert quant == want_quant
    assert_equal_bits(got.get(), want, settings)


def test_biases_and_errors_on_a_gpu(gpu: FakeCupy, rng: np.random.Generator) -> None:
    bias, quants = rng.normal(size=6).astype(np.float32), (Quant(0.1, 3), Quant(rng.uniform(0.01, 0.1, 6), 0, 0))
    want, want_quant = gpuq.quantize_bias(bias, *quants)
    got, quant = gpuq.quantize_bias(gpu.asarray(bias), *quants)
    assert isinstance(got, fake_cupy.ndarray)
    assert quant == want_quant
    assert_equal_bits(got.get(), want, quants)
    values = rng.normal(size=(7, 3)).astype(np.float32)
    assert gpuq.round_trip_error(gpu.asarray(values), quants[0]) == gpuq.round_trip_error(values, quants[0])


@pytest.mark.parametrize("name", ["minmax", "percentile:99", "mse"])
def test_observers_of_arrays_on_a_gpu(gpu: FakeCupy, rng: np.random.Generator, name: str) -> None:
    from gpuq.ptq.observers import observer

    host, device = observer(name), observer(name)
    for size in (3000, 1, 700):
        values = (rng.normal(size=size) * size).astype(np.float32)
        host.update(values)
        device.update(gpu.asarray(values))
    assert device.range() == host.range()
    with pytest.raises(InputValueError, match="NaN or Inf"):
        device.update(gpu.asarray(np.array([1, np.nan], np.float32)))
    with pytest.raises(InputTypeError, match="float32 on a GPU"):
        device.update(gpu.asarray(np.zeros(3, np.float64)))
