"""The CUDA plan of a layer: a packed layer, its constants on a device, and what launches it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from gpuq.cuda import (
    arg_max,
    batch_matmul,
    binary,
    conv2d,
    conv2d_int16,
    conv2d_stem,
    copy,
    depthwise_conv2d,
    depthwise_conv2d_int16,
    detection_post_process,
    elementwise,
    float32,
    fully_connected,
    gather,
    hybrid,
    l2_normalization,
    movement,
    numbers,
    pool_2d,
    reduce,
    reduce_numbers,
    resize,
    softmax,
    softmax_int16,
    svdf,
    transpose_conv,
    unidirectional_sequence_lstm,
)
from gpuq.cuda import fusion as fusing
from gpuq.cuda.epilogue import Fusion
from gpuq.cuda.fusion import Follower
from gpuq.cuda.kernel import Launch, Pointer
from gpuq.cuda.launcher import Launcher
from gpuq.cuda.layer import Layer, slot_name, y_shapes
from gpuq.cuda.layout import ImageLayout, ImageOperand
from gpuq.numerics import Rule
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.average_pool_2d import Pool2dSpec
from gpuq.ops.batch_matmul import BatchMatmulSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec, one_channel_as_conv2d
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.detection_post_process import DetectionPostProcessSpec
from gpuq.ops.div import DivSpec
from gpuq.ops.float32.movement import PlainConcatenationSpec, PlainPadSpec
from gpuq.ops.float32.weighted import FloatBatchMatmulSpec, FloatTransposeConvSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.gather import GatherNdSpec, GatherSpec
from gpuq.ops.hybrid import HybridSpec
from gpuq.ops.l2_normalization import L2NormalizationSpec
from gpuq.ops.leaky_relu import PreluSpec
from gpuq.ops.movement import MovementSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.reduce import ReduceSpec
from gpuq.ops.resize_bilinear import ResizeSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import INT16, Shape, Spec
from gpuq.ops.squared_difference import SquaredDifferenceSpec
from gpuq.ops.svdf import SvdfSpec
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.unidirectional_sequence_lstm import UnidirectionalSequenceLstmSpec

# Batches and layouts whose launches a plan keeps ready.
KEPT_LAUNCHES = 64


class CudaPlan:
    """One layer on one device; see gpuq.plan.Plan. Arrays are the device's.

    Inputs and outputs are arrays (N, ...), C-contiguous, or ImageOperands.
    """

    def __init__(
        self,
        layer: Layer,
        launcher: Launcher,
        choice: Any = None,
        constants: Mapping[str, Pointer] | None = None,
        images: int = 1,
    ) -> None:
        """Prepares to launch.

        Args:
            choice: one of the layer's choices for every batch; default: the best for each.
            constants: the layer's constants on the device; default: uploaded now.
            images: of one run, where the file has a batch of its own: the layer's runs are this many times the
                network's.
        """
        self.layer = layer
        self._launcher = launcher
        self._choice = choice
        self._images = images
        self._constants = dict(launcher.upload(layer.constants) if constants is None else constants)
        self._launches: dict[tuple[ImageLayout, ...], tuple[Launch, ...]] = {}

    @property
    def spec(self) -> Spec:
        return self.layer.spec

    @property
    def name(self) -> str:
        """The kernel of a batch of one."""
        return str(self.choice(self._images).name)

    @property
    def constant_bytes(self) -> int:
        return sum(array.nbytes for array in self.layer.constants.values())

    def choice(self, images: int) -> Any:
        """How a batch of this size runs."""
        return self._choice or self.layer.choices(images, self._launcher.traits)[0]

    def workspace_bytes(self, runs: int) -> int:
        images = runs * self._images
        return self.layer.workspace_bytes(images, self.choice(images))

    def launch(self, inputs: Sequence[Any], outputs: Sequence[Any], workspace: Any, stream: Any = None) -> None:
        launches = self.bound(inputs, outputs, workspace)
        self._launcher.prepare([launch.kernel for launch in launches])
        for launch in launches:
            self._launcher.launch(launch, stream)

    def bound(self, inputs: Sequence[Any], outputs: Sequence[Any], workspace: Any, status: Any = None) -> list[Launch]:
        """The launches of a call with this memory.

        Args:
            status: an int32, the word of a CheckingLayer; None where nobody asks.
        """
        xs = [self._operand(value, shape) for value, shape in zip(inputs, self.layer.x_shapes, strict=True)]
        ys = [self._operand(value, shape) for value, shape in zip(outputs, y_shapes(self.layer), strict=True)]
        memory = {**self._constants, "workspace": Pointer(workspace), "status": Pointer(status)}
        for kind, operands in (("x", xs), ("y", ys)):
            memory |= {slot_name(kind, number): Pointer(operand.array) for number, operand in enumerate(operands)}
        y = ys[0]
        key = (*(x.layout for x in xs), y.layout)
        launches = self._launches.get(key)
        if launches is None:
            # Two threads may both come here: they find the same.
            launches = tuple(self.layer.launches(self.choice(y.layout.images), [x.layout for x in xs], y.layout))
            if len(self._launches) >= KEPT_LAUNCHES:
                self._launches.clear()
            self._launches[key] = launches
        return [launch.bound(memory) for launch in launches]

    def _operand(self, value: Any, shape: tuple[int, int, int]) -> ImageOperand:
        if isinstance(value, ImageOperand):
            return value
        runs = value.size // math.prod(shape)
        misalignment = self._launcher.misalignment(value)
        return ImageOperand(value, ImageLayout.contiguous(runs, *shape, misalignment, value.dtype.itemsize))


def layer_of(
    spec: Spec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None], followers: Sequence[Follower] = ()
) -> Layer:
    """Packs one layer for the kernels that suit it best.

    Args:
        constants: one entry per operand in the file's order; None where the operand is an activation, or is left
            out (a missing bias).
        followers: what runs in the same kernel, behind a convolution.
    """
    fusion = fusing.pack(followers) if followers else None
    if isinstance(spec, Conv2dSpec):
        return _conv2d_layer(spec, rule, *weights_and_bias(spec, constants), fusion)
    if isinstance(spec, DepthwiseConv2dSpec):
        weights, bias = weights_and_bias(spec, constants)
        if spec.in_c == 1:
            # One input channel: every output channel sees the same image, which is a dense convolution.
            return _conv2d_layer(one_channel_as_conv2d(spec), rule, weights.transpose(3, 1, 2, 0), bias, fusion)
        if spec.activation_dtype == INT16:
            return depthwise_conv2d_int16.pack(spec, rule, weights, bias)
        return depthwise_conv2d.pack(spec, rule, weights, bias, fusion)
    if isinstance(spec, FullyConnectedSpec):
        return fully_connected.pack(spec, rule, *weights_and_bias(spec, constants), fusion)
    spec.require(fusion is None, "nothing can follow in its kernel")
    if isinstance(spec, HybridSpec):
        return hybrid.pack(spec, rule, *weights_and_bias(spec, constants))
    if isinstance(spec, TransposeConvSpec | FloatTransposeConvSpec):
        return transpose_conv.pack(spec, rule, *weights_and_bias(spec, constants))
    if isinstance(spec, QuantizeSpec | DequantizeSpec) or elementwise.is_map(spec):
        return elementwise.pack(spec, rule)
    if isinstance(spec, BinarySpec):
        return binary.pack(spec, rule, *constants)
    if isinstance(spec, DivSpec):
        return numbers.pack_div(spec, rule, *constants)
    if isinstance(spec, PreluSpec) and spec.activation_dtype == INT16:
        return binary.pack_prelu_int16(spec, rule, *constants)
    if isinstance(spec, SquaredDifferenceSpec) and spec.activation_dtype == INT16:
        return binary.pack_squared_difference_int16(spec, rule, *constants)
    if binary.is_pair(spec):
        return binary.pack_pairs(spec, rule, *constants)
    if isinstance(spec, GatherSpec | GatherNdSpec) and constants[1] is None:
        return gather.pack(spec, rule, constants)
    pack = _of_kind(_PACK, spec)
    if pack is not None:
        return pack(spec, rule, constants)
    for pack_plain in (numbers.pack, float32.pack, reduce_numbers.pack):
        plain = pack_plain(spec, rule, constants)
        if plain is not None:
            return plain
    if constants[0] is None:
        if isinstance(spec, SoftmaxSpec) and spec.activation_dtype == INT16:
            return softmax_int16.pack(spec, rule)
        pack = _of_kind(_PACK_ONE, spec)
        if pack is not None:
            return pack(spec, rule)
    raise spec.fail("there is no CUDA kernel for it")


def _of_kind(table: Mapping[type[Spec], Callable[..., Layer]], spec: Spec) -> Callable[..., Layer] | None:
    """The entry of the operator's class, or of the nearest base that has one."""
    return next((table[kind] for kind in type(spec).__mro__ if kind in table), None)


_PACK: Mapping[type[Spec], Callable[..., Layer]] = MappingProxyType(
    {
        BatchMatmulSpec: batch_matmul.pack,
        ConcatenationSpec: copy.pack_concatenation,
        DetectionPostProcessSpec: detection_post_process.pack,
        FloatBatchMatmulSpec: batch_matmul.pack,
        MovementSpec: movement.pack,
        PlainConcatenationSpec: copy.pack_concatenation,
        PlainPadSpec: lambda spec, rule, constants: copy.pack_pad(spec, rule),
        SvdfSpec: svdf.pack,
        UnidirectionalSequenceLstmSpec: unidirectional_sequence_lstm.pack,
    }
)
"""Operators of several operands, any of which may be constant."""

_PACK_ONE: Mapping[type[Spec], Callable[..., Layer]] = MappingProxyType(
    {
        ArgMaxSpec: arg_max.pack,
        L2NormalizationSpec: l2_normalization.pack,
        PadSpec: copy.pack_pad,
        Pool2dSpec: pool_2d.pack,
        ReduceSpec: reduce.pack,
        ResizeSpec: resize.pack,
        SoftmaxSpec: softmax.pack,
    }
)
"""Operators of one activation."""


def _conv2d_layer(
    spec: Conv2dSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    fusion: Fusion | None,
) -> Layer:
    if spec.activation_dtype == INT16:
        return conv2d_int16.pack(spec, rule, weights, bias)
    pack = conv2d_stem.pack if conv2d_stem.fits(spec) else conv2d.pack
    return pack(spec, rule, weights, bias, fusion)


def copied_parts(layer: Layer) -> Mapping[int, Shape]:
    """Operands that a layer copies unchanged into its output, and where there each begins, by dimension."""
    if isinstance(layer, copy.PadLayer):
        return {0: tuple(before for before, _ in layer.spec.pads)}
    if isinstance(layer, copy.ConcatenationLayer):
        return layer.copied_parts()
    return {}


def without_parts(layer: Layer, written: frozenset[int]) -> Layer | None:
    """The layer, less these copied parts, which lie in its output already; None if nothing is left to do."""
    if isinstance(layer, copy.PadLayer):
        return replace(layer, in_place=True)
    assert isinstance(layer, copy.ConcatenationLayer)
    return replace(layer, in_place=written) if len(written) < len(layer.operands) else None


def weights_and_bias(
    spec: Spec, constants: Sequence[npt.NDArray[Any] | None]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """The constant operands of a convolution."""
    weights, bias = constants[1], constants[2] if len(constants) > 2 else None
    if weights is None:
        raise spec.fail("weights must be constant")
    return weights, bias
