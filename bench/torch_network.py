"""The float network that a quantized Graph approximates, in PyTorch: what a user would run otherwise.

Made by walking the Graph's nodes, so that there is no second description of any network. Weights and biases are
dequantized; activations are not quantized at all. Images are NCHW, channels last. To the peer's favour, a PAD before a
convolution becomes that convolution's padding, and a pool of the whole image a mean. TFLite's SAME padding is
asymmetric at stride 2, which conv2d has no argument for: there the image is padded by an operation of its own.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.peers import Unavailable
from gpuq.model.graph import Graph, Node
from gpuq.ops.average_pool_2d import AveragePool2dSpec, Pool2dSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.relu import ReluSpec
from gpuq.ops.reshape import ReshapeSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import Spec
from gpuq.ops.window import Window2d

Function = Callable[..., Any]
# Where a dimension of NHWC is in NCHW.
_PLACE = (0, 2, 3, 1)


class FloatNetwork:
    """A Graph as calls of PyTorch.

    Args:
        torch: the module; the tests give one that computes with NumPy.
        outputs: tensors to return; default: the network's.

    Raises:
        Unavailable: an operator that has no counterpart here.
    """

    def __init__(
        self, graph: Graph, torch: Any, *, dtype: Any, device: str = "cpu", outputs: Sequence[int] | None = None
    ) -> None:
        self._torch, self._functional = torch, torch.nn.functional
        self._options = {"dtype": dtype, "device": device}
        self._graph = graph
        self._outputs = tuple(graph.outputs if outputs is None else outputs)
        # Pads that the convolution behind them takes: (the padded tensor's source, its window's additional pads).
        self._folded: dict[int, tuple[int, tuple[int, int, int, int]]] = {}
        readers = Counter(index for node in graph.nodes for index in node.inputs)
        convolutions = {node.inputs[0] for node in graph.nodes if isinstance(node.spec, Conv2dSpec)}
        steps: list[tuple[Function, tuple[int, ...], int]] = []
        for node in graph.nodes:
            (out,), spec = node.outputs, node.spec
            is_ours = readers[out] == 1 and out in convolutions and out not in self._outputs
            if isinstance(spec, PadSpec) and is_ours and (found := _image_pads(spec)):
                self._folded[out] = node.inputs[0], found
                continue
            function = self._function(node)
            sources = [index for index in node.inputs if index >= 0 and graph.tensors[index].data is None]
            steps.append((function, tuple(self._folded.get(index, (index,))[0] for index in sources), out))
        last = {index: number for number, (_, inputs, _) in enumerate(steps) for index in inputs}
        # Memory that nobody needs any more is for the next layer, as in any PyTorch program.
        self._steps = [
            (*step, tuple(index for index in set(step[1]) if last[index] == number and index not in self._outputs))
            for number, step in enumerate(steps)
        ]

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """The outputs; inputs in the Graph's order, images NCHW."""
        values = dict(zip(self._graph.inputs, inputs, strict=True))
        for function, sources, out, dead in self._steps:
            values[out] = function(*[values[index] for index in sources])
            for index in dead:
                del values[index]
        return tuple(values[index] for index in self._outputs)

    def _function(self, node: Node) -> Function:
        """What computes a node's output from those of its inputs that are no constants."""
        spec = node.spec
        for kind, method in _METHODS.items():
            if isinstance(spec, kind):
                found: Function = method(self, node, spec)
                return found
        raise Unavailable(f"{spec.op} has no translation into PyTorch")

    def _convolution(self, node: Node, spec: Conv2dSpec | DepthwiseConv2dSpec) -> Function:
        functional, window = self._functional, spec.window
        weights, bias = self._real(node.inputs[1]), self._bias(node)
        if isinstance(spec, Conv2dSpec):
            groups, layout = spec.groups, (0, 3, 1, 2)  # OHWI to OIHW
        else:
            groups, layout = spec.in_c, (3, 0, 1, 2)  # 1HWO to O1HW
        kernel = self._tensor(weights.transpose(layout))
        activation = self._activation(spec.activation)
        extra = self._folded[node.inputs[0]][1] if node.inputs[0] in self._folded else (0, 0, 0, 0)
        pads = tuple(a + b for a, b in zip(_pads(window), extra, strict=True))
        symmetric = pads[0] == pads[1] and pads[2] == pads[3]
        options = {
            "stride": (window.stride_h, window.stride_w),
            "padding": (pads[2], pads[0]) if symmetric else (0, 0),
            "dilation": (window.dilation_h, window.dilation_w),
            "groups": groups,
        }

        def convolve(x: Any) -> Any:
            padded = x if symmetric else functional.pad(x, pads)
            return activation(functional.conv2d(padded, kernel, bias, **options))

        return convolve

    def _dense(self, node: Node, spec: FullyConnectedSpec) -> Function:
        torch, functional = self._torch, self._functional
        weights, bias = self._tensor(self._real(node.inputs[1])), self._bias(node)
        activation = self._activation(spec.activation)
        return lambda x: activation(functional.linear(torch.reshape(x, (-1, spec.in_c)), weights, bias))

    def _binary(self, node: Node, spec: BinarySpec) -> Function:
        combine = getattr(self._torch, {"ADD": "add", "SUB": "sub", "MUL": "mul"}[spec.op])
        activation = self._activation(spec.activation)
        rank = len(spec.output_shape)
        operands = []
        for index, shape in zip(node.inputs, (spec.a_shape, spec.b_shape), strict=True):
            if self._graph.tensors[index].data is not None:
                wide = self._real(index).reshape((1,) * (rank - len(shape)) + shape)
                operands.append(self._tensor(wide.transpose(0, 3, 1, 2) if rank == 4 else wide))
            elif len(shape) != rank:
                raise Unavailable(f"{spec.op} of activations of {len(shape)} and {rank} dimensions")
            else:
                operands.append(None)
        a, b = operands
        if b is not None:
            return lambda x: activation(combine(x, b))
        if a is not None:
            return lambda x: activation(combine(a, x))
        return lambda x, y: activation(combine(x, y))

    def _pool(self, node: Node, spec: Pool2dSpec) -> Function:
        torch, functional, window = self._torch, self._functional, spec.window
        pads, activation = _pads(window), self._activation(spec.activation)
        size = {"kernel_size": (window.kernel_h, window.kernel_w), "stride": (window.stride_h, window.stride_w)}
        average = isinstance(spec, AveragePool2dSpec)
        if average and size["kernel_size"] == (spec.in_h, spec.in_w) and not window.has_pads:
            return lambda x: activation(torch.mean(x, dim=(2, 3), keepdim=True))
        if pads[0] == pads[1] and pads[2] == pads[3]:
            size["padding"] = (pads[2], pads[0])
            if average:
                return lambda x: activation(functional.avg_pool2d(x, **size, count_include_pad=False))
            return lambda x: activation(functional.max_pool2d(x, **size))
        if average:
            raise Unavailable(f"{spec.op} with asymmetric padding")
        lowest = float("-inf")
        return lambda x: activation(functional.max_pool2d(functional.pad(x, pads, value=lowest), **size))

    def _mean(self, node: Node, spec: MeanSpec) -> Function:
        rank = len(spec.x_shape)
        axes = tuple(_PLACE[axis] for axis in spec.axes) if rank == 4 else spec.axes
        if rank == 4 and not spec.keep_dims and spec.axes != (1, 2):
            raise Unavailable(f"{spec.op} over dimensions {spec.axes}")
        return lambda x: self._torch.mean(x, dim=axes, keepdim=spec.keep_dims)

    def _pad(self, node: Node, spec: PadSpec) -> Function:
        functional, pads = self._functional, _image_pads(spec)
        if pads is None:
            raise Unavailable(f"{spec.op} of {spec.pads}")
        return lambda x: functional.pad(x, pads)

    def _reshape(self, node: Node, spec: ReshapeSpec) -> Function:
        torch, from_images, to_images = self._torch, len(spec.x_shape) == 4, len(spec.out_shape) == 4

        def reshape(x: Any) -> Any:
            runs = x.shape[0] // spec.x_shape[0]
            flat = torch.permute(x, (0, 2, 3, 1)) if from_images else x
            found = torch.reshape(flat, (runs * spec.out_shape[0], *spec.out_shape[1:]))
            return torch.permute(found, (0, 3, 1, 2)) if to_images else found

        return reshape

    def _softmax(self, node: Node, spec: SoftmaxSpec) -> Function:
        functional, channel = self._functional, 1 if len(self._graph.tensors[node.inputs[0]].shape) == 4 else -1
        return lambda x: functional.softmax(x if spec.beta == 1 else spec.beta * x, dim=channel)

    def _concatenation(self, node: Node, spec: ConcatenationSpec) -> Function:
        if any(self._graph.tensors[index].data is not None for index in node.inputs):
            raise Unavailable(f"{spec.op} of constants")
        axis = _PLACE[spec.axis] if len(spec.output_shape) == 4 else spec.axis
        return lambda *parts: self._torch.cat(parts, dim=axis)

    def _relu(self, node: Node, spec: ReluSpec) -> Function:
        return self._activation(spec.activation)

    def _logistic(self, node: Node, spec: LogisticSpec) -> Function:
        return lambda x: self._torch.sigmoid(x)

    def _nothing(self, node: Node, spec: Spec) -> Function:
        """Other codes for the same real values."""
        return lambda x: x

    # ---- constants

    def _activation(self, name: str | None) -> Function:
        functional = self._functional
        if name is None:
            return lambda x: x
        if name == "relu":
            return lambda x: functional.relu(x)
        low, high = {"relu6": (0.0, 6.0), "relu_n1_to_1": (-1.0, 1.0)}[name]
        return lambda x: functional.hardtanh(x, low, high)

    def _bias(self, node: Node) -> Any:
        """Real values of the sums' scale, whatever the tensor says of its own."""
        spec: Any = node.spec
        if len(node.inputs) < 3 or node.inputs[2] < 0:
            return None
        codes = self._graph.tensors[node.inputs[2]].data
        if codes is None:
            raise Unavailable(f"{spec.op} whose bias is no constant")
        return self._tensor(codes.reshape(-1).astype(np.float32) * spec.x_quant.scalar_scale() * spec.w_quant.scales)

    def _real(self, index: int) -> npt.NDArray[np.float32]:
        """The real values of a constant."""
        tensor = self._graph.tensors[index]
        if tensor.data is None:
            raise Unavailable(f"tensor {tensor.name!r} is no constant")
        return tensor.data.astype(np.float32) if tensor.quant is None else tensor.quant.dequantize(tensor.data)

    def _tensor(self, values: npt.NDArray[np.float32]) -> Any:
        found = self._torch.as_tensor(np.ascontiguousarray(values), **self._options)
        return found.contiguous(memory_format=self._torch.channels_last) if values.ndim == 4 else found


_METHODS: Mapping[Any, Callable[..., Function]] = MappingProxyType(
    {
        Conv2dSpec: FloatNetwork._convolution,
        DepthwiseConv2dSpec: FloatNetwork._convolution,
        FullyConnectedSpec: FloatNetwork._dense,
        BinarySpec: FloatNetwork._binary,
        Pool2dSpec: FloatNetwork._pool,
        MeanSpec: FloatNetwork._mean,
        PadSpec: FloatNetwork._pad,
        ReshapeSpec: FloatNetwork._reshape,
        SoftmaxSpec: FloatNetwork._softmax,
        ConcatenationSpec: FloatNetwork._concatenation,
        ReluSpec: FloatNetwork._relu,
        LogisticSpec: FloatNetwork._logistic,
        (QuantizeSpec, DequantizeSpec): FloatNetwork._nothing,
    }
)


def _pads(window: Window2d) -> tuple[int, int, int, int]:
    """(left, right, top, bottom), as torch.nn.functional.pad takes them."""
    return window.pad_left, window.pad_right, window.pad_top, window.pad_bottom


def _image_pads(spec: PadSpec) -> tuple[int, int, int, int] | None:
    """The same of a PAD; None where it pads something else than the height and width of images."""
    if len(spec.pads) != 4 or spec.pads[0] != (0, 0) or spec.pads[3] != (0, 0):
        return None
    _, height, width, _ = spec.pads
    return *width, *height


# ---------------------------------------------------------------------------------------------- on a GPU


def prepare(graph: Graph, batch: int, *, compiled: bool) -> Callable[[], Any]:
    """A call of the network in bfloat16 as a CUDA graph: copies random images on the GPU into place, runs, waits.

    Args:
        batch: runs at once.
        compiled: by torch.compile; else operator by operator.

    Raises:
        Unavailable: no GPU for PyTorch, or an operator without a counterpart.
        ImportError: there is no PyTorch.
    """
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise Unavailable("torch finds no GPU")
    torch.backends.cudnn.benchmark = True
    options = {"device": "cuda", "dtype": torch.bfloat16}
    network = FloatNetwork(graph, torch, **options)
    forward = torch.compile(network.forward, fullgraph=True, dynamic=False) if compiled else network.forward
    images = []
    for index in graph.inputs:
        first, *rest = graph.tensors[index].shape
        image = torch.randn(batch * first, *(rest[i] for i in ((2, 0, 1) if len(rest) == 3 else range(len(rest)))))
        image = image.to(**options)
        images.append(image.contiguous(memory_format=torch.channels_last) if len(rest) == 3 else image)
    placed = [image.clone() for image in images]
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(*placed)
        torch.cuda.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=stream):
            outputs = forward(*placed)

    def call() -> Any:
        for place, image in zip(placed, images, strict=True):
            place.copy_(image)
        captured.replay()
        torch.cuda.synchronize()
        return outputs

    return call
