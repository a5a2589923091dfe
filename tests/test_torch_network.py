"""bench/torch_network.py: the float network's values are near the integer network's, tensor by tensor.

With PyTorch where it is installed, and everywhere with a stand-in that computes with NumPy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import networks, torch_network
from bench.peers import Unavailable
from bench.torch_network import FloatNetwork
from gpuq.devices import Device
from gpuq.model.graph import Graph, Node, Tensor
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.ops.add import AddSpec
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.relu import Relu6Spec
from gpuq.ops.reshape import ReshapeSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import Spec
from gpuq.ops.sub import SubSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant


class Array(np.ndarray):
    """torch.Tensor, as far as the walk uses it."""

    def contiguous(self, memory_format: str) -> Array:
        assert memory_format == "channels_last"
        assert self.ndim == 4
        return self

    def numpy(self) -> np.ndarray:
        return np.asarray(self)

    def to(self, device: str, dtype: Any) -> Array:
        assert device == "cuda"
        return self.astype(dtype).view(Array)

    def clone(self) -> Array:
        return self.copy()

    def copy_(self, values: Array) -> None:
        self[...] = values


def windows(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> np.ndarray:
    """(N, C, OH, OW, KH, KW) of NCHW."""
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True))
    found = np.lib.stride_tricks.sliding_window_view(x, reach, (2, 3))
    return found[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def conv2d(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    patches = windows(padded, w.shape[2:], stride, dilation)
    runs, channels, height, width, *kernel = patches.shape
    patches = patches.reshape(runs, groups, channels // groups, height, width, *kernel)
    sums = np.einsum("ngchwij,gocij->ngohw", patches, w.reshape(groups, -1, *w.shape[1:]), optimize=True)
    return sums.reshape(runs, -1, height, width) + b[:, None, None]


def max_pool2d(x: np.ndarray, kernel_size: Any, stride: Any, padding: Any = (0, 0)) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2), constant_values=-np.inf)
    return windows(padded, kernel_size, stride, (1, 1)).max(axis=(4, 5))


def avg_pool2d(x: np.ndarray, kernel_size: Any, stride: Any, padding: Any, count_include_pad: bool) -> np.ndarray:
    assert not count_include_pad
    pads = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    sums, counts = (
        windows(np.pad(each, pads), kernel_size, stride, (1, 1)).sum(axis=(4, 5)) for each in (x, np.ones_like(x))
    )
    return sums / counts


def pad(x: np.ndarray, pads: tuple[int, ...], value: float = 0.0) -> np.ndarray:
    left, right, top, bottom = pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def softmax(x: np.ndarray, dim: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis=dim, keepdims=True))
    return powers / powers.sum(axis=dim, keepdims=True)


NUMPY_TORCH = SimpleNamespace(
    float32=np.float32,
    channels_last="channels_last",
    as_tensor=lambda values, dtype, device: values.astype(dtype).view(Array),
    reshape=np.reshape,
    permute=np.transpose,
    mean=lambda x, dim, keepdim: np.mean(x, axis=dim, keepdims=keepdim),
    add=np.add,
    sub=np.subtract,
    mul=np.multiply,
    cat=lambda parts, dim: np.concatenate(parts, axis=dim),
    sigmoid=lambda x: 1 / (1 + np.exp(-x)),
    nn=SimpleNamespace(
        functional=SimpleNamespace(
            conv2d=conv2d,
            linear=lambda x, w, b: x @ w.T + b,
            pad=pad,
            relu=lambda x: np.maximum(x, 0),
            hardtanh=np.clip,
            avg_pool2d=avg_pool2d,
            max_pool2d=max_pool2d,
            softmax=softmax,
        )
    ),
)


@pytest.fixture(params=["numpy", *(["torch"] if importlib.util.find_spec("torch") else [])])
def torch(request: pytest.FixtureRequest) -> Any:
    return NUMPY_TORCH if request.param == "numpy" else importlib.import_module("torch")


def compared(graph: Graph, torch: Any, seed: int) -> dict[int, float]:
    """By tensor, the root of the mean square of float minus dequantized values, over that of the values.

    Float values are clamped to what codes reach; of probabilities, whose codes are coarse, the largest difference.
    """
    model = Model(plan_program(graph, Device("cpu"), "litert_ref"))
    (source,) = graph.inputs
    first, *rest = graph.tensors[source].shape
    codes = np.random.default_rng(seed).integers(-128, 128, (4 * first, *rest)).astype(np.int8)
    tensors = model.tensors(codes)
    # A PAD that a convolution takes over is no tensor any more.
    kept = [node.outputs[0] for node in graph.nodes if not isinstance(node.spec, PadSpec)]
    image = graph.tensors[source].quant
    assert image is not None
    real = torch.as_tensor(image.dequantize(codes).transpose(0, 3, 1, 2), dtype=torch.float32, device="cpu")
    network = FloatNetwork(graph, torch, dtype=torch.float32, outputs=kept)
    found = {}
    for index, value in zip(kept, network.forward(real), strict=True):
        quant = graph.tensors[index].quant
        assert quant is not None
        want = quant.dequantize(tensors[index])
        got = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        got = got.transpose(0, 2, 3, 1) if got.ndim == 4 else got
        assert got.shape == want.shape
        low, high = quant.dequantize(np.array([quant.qmin, quant.qmax], quant.dtype))
        difference = np.clip(got, low, high) - want
        is_probability = quant.zero_point == quant.qmin and quant.scale == 1 / 256
        scale = 1.0 if is_probability else float(np.sqrt(np.mean(want**2)))
        found[index] = float(np.abs(difference).max() if is_probability else np.sqrt(np.mean(difference**2)) / scale)
    (only,) = FloatNetwork(graph, torch, dtype=torch.float32).forward(real)
    last = value.numpy() if hasattr(value, "numpy") else value
    assert np.allclose(np.asarray(only), last, rtol=1e-3, atol=1e-6), "other outputs, other values"
    return found


@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if not name.endswith("_int16x8")])
def test_values_are_near_the_integer_networks(name: str, torch: Any, seed: int) -> None:
    graph = networks.NETWORKS[name](resolution=34, width=0.25)
    errors = compared(graph, torch, seed)
    for node in graph.nodes:
        # What codes lose adds up from layer to layer; a wrong pad, layout or activation is off by most of it all.
        error = errors.get(node.outputs[0], 0.0)
        assert error < 0.2, f"{name}, node {node.index} {node.spec}: {error}, seed {seed}"


X, SHAPE, CODES = Quant(1 / 32, 3), (1, 6, 5, 8), Quant(1 / 256, -128)
FACTORS = np.arange(-80, 80, 20).astype(np.int8)
IMAGE: dict[str, Any] = {"in_h": 6, "in_w": 5, "in_c": 8, "x_quant": X, "out_quant": X}
TWO: dict[str, Any] = {"a_shape": SHAPE, "a_quant": X, "b_quant": X, "out_quant": Quant(1 / 8, 0)}


def window(pads: tuple[int, int], **sizes: int) -> Window2d:
    top, bottom = pads
    return Window2d(kernel_h=3, kernel_w=3, pad_top=top, pad_bottom=bottom, pad_left=top, pad_right=bottom, **sizes)


@pytest.mark.parametrize(
    ("spec", "inputs", "shape"),
    [
        (AddSpec(**TWO, b_shape=(8,)), (0, 1), SHAPE),
        (SubSpec(**TWO, b_shape=(8,), activation="relu"), (0, 1), SHAPE),
        (SubSpec(**(TWO | {"a_shape": (8,)}), b_shape=SHAPE, activation="relu_n1_to_1"), (1, 0), SHAPE),
        (MulSpec(**TWO, b_shape=SHAPE), (0, 0), SHAPE),
        (MaxPool2dSpec(**IMAGE, window=window((0, 1), stride_h=2)), (0,), (1, 3, 4, 8)),
        (MaxPool2dSpec(**IMAGE, window=window((1, 1))), (0,), SHAPE),
        (AveragePool2dSpec(**IMAGE, window=window((1, 1), stride_w=2), activation="relu6"), (0,), (1, 6, 3, 8)),
        (MeanSpec(x_shape=SHAPE, axes=(1, 2), keep_dims=False, x_quant=X, out_quant=X), (0,), (1, 8)),
        (MeanSpec(x_shape=SHAPE, axes=(3,), keep_dims=True, x_quant=X, out_quant=X), (0,), (1, 6, 5, 1)),
        (PadSpec(x_shape=SHAPE, pads=((0, 0), (1, 2), (0, 3), (0, 0)), out_quant=X), (0,), (1, 9, 8, 8)),
        (ReshapeSpec(x_shape=SHAPE, out_shape=(1, 3, 20, 4), dtype=X.dtype), (0,), (1, 3, 20, 4)),
        (SoftmaxSpec(depth=8, x_quant=X, out_quant=CODES, beta=2.0), (0,), SHAPE),
        (LogisticSpec(shape=SHAPE, x_quant=X, out_quant=CODES), (0,), SHAPE),
        (Relu6Spec(shape=SHAPE, x_quant=X, out_quant=X), (0,), SHAPE),
        (ConcatenationSpec(x_shapes=(SHAPE, SHAPE), axis=3, x_quants=(X, X), out_quant=X), (0, 0), (1, 6, 5, 16)),
        (QuantizeSpec(shape=SHAPE, x_quant=X, out_quant=Quant(1 / 20, 0)), (0,), SHAPE),
    ],
    ids=lambda value: value.op if isinstance(value, Spec) else None,
)
def test_operators(spec: Any, inputs: tuple[int, ...], shape: tuple[int, ...], torch: Any, seed: int) -> None:
    tensors = (
        Tensor(0, "x", SHAPE, SHAPE, X.dtype, X),
        Tensor(1, "constant", (8,), (8,), X.dtype, X, FACTORS),
        Tensor(2, "y", shape, shape, X.dtype, getattr(spec, "out_quant", X)),
    )
    graph = Graph(spec.op, tensors, (Node(0, spec, inputs, (2,)),), (0,), (2,))
    if isinstance(spec, PadSpec):  # compared() leaves these out
        image = np.random.default_rng(seed).normal(size=(2, 8, 6, 5))
        (out,) = FloatNetwork(graph, NUMPY_TORCH, dtype=np.float32).forward(image)
        assert np.array_equal(out, np.pad(image, ((0, 0), (0, 0), (1, 2), (0, 3))))
        return
    (error,) = compared(graph, torch, seed).values()
    assert error < 0.05, f"{spec}: {error}, seed {seed}"


def test_what_is_not_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ArgMaxSpec(x_shape=SHAPE, axis=3, dtype=X.dtype, out_dtype=np.dtype(np.int32))
    tensors = (Tensor(0, "x", SHAPE, SHAPE, X.dtype, X), Tensor(1, "y", SHAPE[:3], SHAPE[:3], spec.out_dtype, None))
    graph = Graph("", tensors, (Node(0, spec, (0,), (1,)),), (0,), (1,))
    with pytest.raises(Unavailable, match="ARG_MAX has no translation into PyTorch"):
        FloatNetwork(graph, NUMPY_TORCH, dtype=np.float32)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError):
        torch_network.prepare(graph, 1, compiled=False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
    with pytest.raises(Unavailable, match="torch finds no GPU"):
        torch_network.prepare(graph, 1, compiled=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_call_on_a_gpu(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the GPU would be told, with memory that is NumPy's: warm-up and capture, then copy, replay, wait."""
    told: list[str] = []

    class Stream(contextlib.nullcontext[None]):
        def wait_stream(self, stream: object) -> None:
            told.append("wait_stream")

    @contextlib.contextmanager
    def capture(graph: object, stream: Stream) -> Iterator[None]:
        told.append("capture")
        yield
        told.append("captured")

    def compile_(function: Any, *, fullgraph: bool, dynamic: bool) -> Any:
        assert (fullgraph, dynamic) == (True, False)
        told.append("compile")
        return function

    cuda = SimpleNamespace(
        is_available=lambda: True,
        Stream=Stream,
        stream=lambda stream: stream,
        current_stream=Stream,
        synchronize=lambda: told.append("synchronize"),
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: told.append("replay")),
        graph=capture,
    )
    fake = SimpleNamespace(
        **vars(NUMPY_TORCH),
        bfloat16=np.float32,
        cuda=cuda,
        backends=SimpleNamespace(cudnn=SimpleNamespace(benchmark=False)),
        compile=compile_,
        randn=lambda *shape: np.random.default_rng(0).normal(size=shape).view(Array),
        no_grad=contextlib.nullcontext,
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    call = torch_network.prepare(networks.mobilenet_v1(34, 0.25), 3, compiled=compiled)
    assert told == [*(["compile"] if compiled else []), "wait_stream", "synchronize", "capture", "captured"]
    del told[:]
    (out,) = call()
    assert out.shape == (3, 1001)
    assert told == ["replay", "synchronize"]


def test_torch_can_compile_the_walk(seed: int) -> None:
    """One graph without breaks; PyTorch's own interpreter runs it, for its compiler takes minutes."""
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency", exc_type=ImportError)
    network = FloatNetwork(networks.mobilenet_v2(34, 0.25), torch, dtype=torch.float32)
    image = torch.as_tensor(np.random.default_rng(seed).uniform(-1, 1, (2, 3, 34, 34)), dtype=torch.float32)
    (want,) = network.forward(image)
    (got,) = torch.compile(network.forward, fullgraph=True, dynamic=False, backend="aot_eager")(image)
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_a_call_on_a_real_gpu() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency", exc_type=ImportError)
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    (out,) = torch_network.prepare(networks.efficientnet_lite0(64), 3, compiled=False)()
    assert tuple(out.shape) == (3, 1000)
    assert torch.allclose(out.float().sum(dim=1), torch.ones(3, device="cuda"), atol=0.05)
