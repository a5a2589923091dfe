"""gpuq.model.fusion and placement: joined operators and tensors within tensors, on random networks without any kernel.

A program planned for a GPU is run step by step with reference() on an arena of noise. What a step reads before it is
written, or finds overwritten, shows in the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuq import numerics, profiles
from gpuq.cuda.copy import ConcatenationLayer, PadLayer
from gpuq.cuda.fusion import is_sum
from gpuq.cuda.kernel import Pointer
from gpuq.cuda.layer import Traits
from gpuq.cuda.strides import image_shape, run_strides
from gpuq.devices import Device
from gpuq.model.graph import Graph, Node, Tensor
from gpuq.model.planner import Operand, Program, Step, plan_program
from gpuq.ops.add import AddSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.concatenation import ConcatenationSpec, rescaled
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.registry import constant_operands, reference
from gpuq.ops.relu import ReluSpec
from gpuq.ops.reshape import ReshapeSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import Spec
from gpuq.ops.sub import SubSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import scaled

PROFILE = "litert_ref"
Q, LOWEST = Quant(0.05, 3), Quant(0.05, -128)


class Net:
    """A Graph in the making: operators by tensor numbers, without a file."""

    def __init__(self, rng: np.random.Generator, dtype: str = "int8") -> None:
        self.rng = rng
        self.dtype = np.dtype(dtype)
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []

    def quant(self, scale: float, zero_point: int) -> Quant:
        return Quant(scale, zero_point + (128 if self.dtype == np.uint8 else 0), dtype=self.dtype.name)

    def tensor(self, shape: tuple[int, ...], quant: Quant, data: np.ndarray | None = None) -> int:
        number = len(self.tensors)
        dtype = self.dtype if data is None else data.dtype
        self.tensors.append(Tensor(number, f"t{number}", shape, shape, dtype, quant, data))
        return number

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self.tensors[tensor].shape

    def of(self, tensor: int) -> Quant:
        quant = self.tensors[tensor].quant
        assert quant is not None
        return quant

    def add_node(self, spec: Spec, inputs: tuple[int, ...], shape: tuple[int, ...], quant: Quant) -> int:
        out = self.tensor(shape, quant)
        self.nodes.append(Node(len(self.nodes), spec, inputs, (out,)))
        return out

    def weights(self, shape: tuple[int, ...]) -> int:
        info = np.iinfo(self.dtype)
        codes = self.rng.integers(info.min, info.max, shape, endpoint=True).astype(self.dtype)
        return self.tensor(shape, self.quant(0.02, 0), codes)

    def conv(
        self,
        x: int,
        out_c: int,
        kernel: int = 1,
        out: Quant | None = None,
        *,
        depthwise: bool = False,
        padding: str = "same",
    ) -> int:
        images, height, width, channels = self.shape(x)
        window = Window2d.padded(padding, height, width, kernel_h=kernel, kernel_w=kernel)
        out = out or self.of(x)
        common = {
            "in_h": height,
            "in_w": width,
            "in_c": channels,
            "window": window,
            "x_quant": self.of(x),
            "w_quant": self.quant(0.02, 0),
            "out_quant": out,
        }
        spec: Any = DepthwiseConv2dSpec(**common) if depthwise else Conv2dSpec(out_c=out_c, **common)
        return self.add_node(spec, (x, self.weights(spec.weights_shape), -1), (images, *spec.output_shape), out)

    def dense(self, x: int, out_c: int) -> int:
        rows, in_c = self.shape(x)
        spec = FullyConnectedSpec(
            in_c=in_c, out_c=out_c, x_quant=self.of(x), w_quant=self.quant(0.02, 0), out_quant=self.of(x)
        )
        return self.add_node(spec, (x, self.weights((out_c, in_c)), -1), (rows, out_c), self.of(x))

    def sum(self, a: int, b: int, kind: type[AddSpec | SubSpec] = AddSpec, out: Quant | None = None) -> int:
        out = out or self.of(a)
        spec = kind(a_shape=self.shape(a), b_shape=self.shape(b), a_quant=self.of(a), b_quant=self.of(b), out_quant=out)
        return self.add_node(spec, (a, b), spec.output_shape, out)

    def relu(self, x: int) -> int:
        spec = ReluSpec(shape=self.shape(x), x_quant=self.of(x), out_quant=self.of(x))
        return self.add_node(spec, (x,), self.shape(x), self.of(x))

    def logistic(self, x: int) -> int:
        out = self.quant(1 / 256, -128)
        return self.add_node(
            LogisticSpec(shape=self.shape(x), x_quant=self.of(x), out_quant=out), (x,), self.shape(x), out
        )

    def softmax(self, x: int) -> int:
        out = self.quant(1 / 256, -128)
        spec = SoftmaxSpec(depth=self.shape(x)[-1], x_quant=self.of(x), out_quant=out)
        return self.add_node(spec, (x,), self.shape(x), out)

    def pad(self, x: int, *pads: tuple[int, int]) -> int:
        spec = PadSpec(x_shape=self.shape(x), pads=pads, out_quant=self.of(x))
        return self.add_node(spec, (x,), spec.output_shape, self.of(x))

    def pool(self, x: int, size: int = 2, *, average: bool = False) -> int:
        images, height, width, channels = self.shape(x)
        kind = AveragePool2dSpec if average else MaxPool2dSpec
        window = Window2d.padded("valid", height, width, kernel_h=size, kernel_w=size, stride_h=2, stride_w=2)
        spec = kind(in_h=height, in_w=width, in_c=channels, window=window, x_quant=self.of(x), out_quant=self.of(x))
        return self.add_node(spec, (x,), (images, *spec.output_shape), self.of(x))

    def concat(self, axis: int, *inputs: int, out: Quant | None = None) -> int:
        out = out or self.of(inputs[0])
        spec = ConcatenationSpec(
            x_shapes=tuple(map(self.shape, inputs)), axis=axis, x_quants=tuple(map(self.of, inputs)), out_quant=out
        )
        return self.add_node(spec, inputs, spec.output_shape, out)

    def reshape(self, x: int, *shape: int) -> int:
        spec = ReshapeSpec(x_shape=self.shape(x), out_shape=shape, dtype=self.dtype)
        return self.add_node(spec, (x,), shape, self.of(x))

    def graph(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Graph:
        return Graph("", tuple(self.tensors), tuple(self.nodes), inputs, outputs)


class Uploads:
    """As much of a launcher as planning takes."""

    traits = Traits(arch=90, multiprocessors=132)

    def upload(self, arrays: dict[str, np.ndarray]) -> dict[str, Pointer]:
        return {name: Pointer(array) for name, array in arrays.items()}


def planned(graph: Graph, profile: str = PROFILE) -> Program:
    return plan_program(graph, Device("cuda"), profile, Uploads())  # type: ignore[arg-type]


def view(arena: np.ndarray, operand: Operand, runs: int) -> np.ndarray:
    """(runs, *shape) in the arena."""
    memory = arena[operand.offset * runs :]
    if operand.inside is None:
        return memory[: operand.nbytes * runs].view(operand.dtype).reshape(runs, *operand.shape)
    layout = operand.inside.layout(runs, image_shape(operand.shape))
    strides = (layout.image_pitch, *run_strides(layout, operand.shape)[1:])
    codes = memory[layout.offset : operand.inside.run_pitch * runs].view(operand.dtype)
    return np.lib.stride_tricks.as_strided(codes, (runs, *operand.shape), strides)


def rule_of(spec: Spec) -> numerics.Rule:
    return profiles.resolve(PROFILE, spec)


def run_step(program: Program, step: Step, arena: np.ndarray, runs: int) -> None:
    layer: Any = step.plan.layer  # type: ignore[attr-defined]
    spec, node = layer.spec, step.nodes[0]
    inputs = [view(arena, operand, runs) for operand in step.inputs]
    out = view(arena, step.outputs[0], runs)
    if isinstance(layer, PadLayer) and layer.in_place:
        assert not inputs
        frame = np.ones(out.shape, bool)
        frame[(slice(None), *(slice(a, a + n) for (a, _), n in zip(spec.pads, spec.x_shape, strict=True)))] = False
        out[frame] = spec.out_quant.scalar_zero_point()
        return
    if isinstance(layer, ConcatenationLayer) and layer.in_place:
        start, given = 0, iter(inputs)
        for position, (shape, quant) in enumerate(zip(spec.x_shapes, spec.x_quants, strict=True)):
            part = [slice(None)] * out.ndim
            part[spec.axis + 1] = slice(start, start + shape[spec.axis])
            start += shape[spec.axis]
            if position not in layer.in_place:
                out[tuple(part)] = rescaled(next(given), quant, spec.out_quant)
        assert next(given, None) is None
        return
    given = iter(inputs)
    constants = constant_operands(
        node.spec, [program.constants.get(index) if index >= 0 else None for index in node.inputs]
    )
    operands = [
        next(given) if index >= 0 and constant is None else constant
        for index, constant in zip(node.inputs, constants, strict=True)
    ]

    y = reference(spec, rule_of(node.spec), *operands)
    for before, behind in zip(step.nodes, step.nodes[1:], strict=False):
        chain = y.reshape(runs, *program.graph.tensors[before.outputs[0]].shape)
        operands = [chain]
        if is_sum(behind.spec):
            operands.insert(1 - behind.inputs.index(before.outputs[0]), next(given))
        y = reference(behind.spec, rule_of(behind.spec), *operands)
    assert next(given, None) is None, "an operand that nobody reads"
    out[...] = y.reshape(out.shape)


def check(graph: Graph, rng: np.random.Generator, context: object, runs: int = 2) -> Program:
    """The program's outputs equal those of one operator after the other."""
    program = planned(graph)
    values: dict[int, Any] = {}
    for index in graph.inputs:
        info = np.iinfo(graph.tensors[index].dtype)
        shape = (runs, *graph.tensors[index].shape)
        values[index] = rng.integers(info.min, info.max, shape, endpoint=True).astype(graph.tensors[index].dtype)
    given = dict(values)
    for node in graph.nodes:
        constants = constant_operands(node.spec, [None if i < 0 else graph.tensors[i].data for i in node.inputs])
        operands = [values.get(i, c) for i, c in zip(node.inputs, constants, strict=True)]
        out = reference(node.spec, rule_of(node.spec), *operands)
        values[node.outputs[0]] = out.reshape(runs, *graph.tensors[node.outputs[0]].shape)
    arena = rng.integers(0, 256, program.arena_bytes * runs, np.uint8)
    for index, value in given.items():
        view(arena, program.operands[index], runs)[...] = value
    for step in program.steps:
        run_step(program, step, arena, runs)
    for index in graph.outputs:
        assert_equal_bits(
            view(arena, program.operands[index], runs), values[index], f"tensor {index}, {context}\n{program}"
        )
    return program


def ops(program: Program) -> list[str]:
    return [step.op for step in program.steps]


# ------------------------------------------------------------------------------------------------ random networks


def random_graph(rng: np.random.Generator) -> Graph:
    net = Net(rng, str(rng.choice(["int8", "int8", "uint8"])))
    images = int(rng.choice([1, 1, 1, 2]))
    quants = [net.quant(0.05, int(rng.choice([3, -128])))]
    if net.dtype == np.uint8:
        quants.append(net.quant(0.07, 9))

    def quant() -> Quant:
        return quants[int(rng.integers(len(quants)))]

    inputs = tuple(
        net.tensor((images, int(rng.integers(2, 6)), int(rng.integers(2, 6)), int(rng.choice([1, 3, 4]))), quant())
        for _ in range(int(rng.integers(1, 3)))
    )
    known = list(inputs)

    def pick(rank: int = 4) -> int | None:
        fitting = [tensor for tensor in known if len(net.shape(tensor)) == rank and math.prod(net.shape(tensor)) < 3000]
        return int(rng.choice(fitting[-6:])) if fitting else None

    def like(x: int) -> int:
        """Another tensor of this shape; made where there is none."""
        same = [tensor for tensor in known if net.shape(tensor) == net.shape(x)]
        if len(same) > 1 and rng.random() < 0.6:
            return int(rng.choice(same))
        height, width, channels = net.shape(x)[1:]
        window = Window2d(kernel_h=1, kernel_w=1)
        spec = Conv2dSpec(
            in_h=height, in_w=width, in_c=channels, out_c=channels, window=window,
            x_quant=net.of(x), w_quant=net.quant(0.02, 0), out_quant=net.of(x),
        )  # fmt: skip
        found = net.add_node(spec, (x, net.weights(spec.weights_shape), -1), net.shape(x), net.of(x))
        known.append(found)
        return found

    def padding(x: int) -> str:
        return "valid" if min(net.shape(x)[1:3]) >= 3 and rng.random() < 0.5 else "same"

    def padded(x: int) -> int:
        rows, columns = (tuple(int(size) for size in rng.integers(0, 3, 2)) for _ in range(2))
        channels = (0, int(rng.integers(1, 4))) if rng.random() < 0.2 else (0, 0)
        return net.pad(x, (0, 0), rows, columns, channels)  # type: ignore[arg-type]

    def joined(x: int) -> int:
        others = [like(x) for _ in range(int(rng.integers(1, 4)))]
        parts = [x, *others]
        rng.shuffle(parts)
        if net.dtype == np.int8:
            parts = [part for part in parts if net.of(part) == net.of(x)]
        return net.concat(int(rng.choice([0, 1, 2, 3, 3, 3])), *parts, out=net.of(x))

    def flat(x: int) -> int:
        return net.reshape(x, images, math.prod(net.shape(x)) // images)

    def flat_join(x: int) -> int:
        parts = [flat(each) for each in (x, like(x)) if net.dtype == np.uint8 or net.of(each) == net.of(x)]
        return net.concat(1, *parts, out=net.of(x))

    makers: list[tuple[Callable[[int], int], int]] = [
        (lambda x: net.conv(x, int(rng.integers(1, 7)), int(rng.choice([1, 3])), quant(), padding=padding(x)), 5),
        (lambda x: net.conv(x, 0, 3, quant(), depthwise=True, padding=padding(x)), 2),
        (lambda x: net.sum(x, like(x), AddSpec if rng.random() < 0.7 else SubSpec, quant()), 4),
        (lambda x: net.sum(like(x), x, AddSpec if rng.random() < 0.7 else SubSpec, quant()), 2),
        (net.relu, 2),
        (net.logistic, 1),
        (net.softmax, 1),
        (padded, 3),
        (lambda x: net.pool(x, 2, average=rng.random() < 0.3) if min(net.shape(x)[1:3]) > 1 else net.relu(x), 2),
        (joined, 4),
        (flat_join, 1),
        (lambda x: net.relu(flat(x)), 1),
    ]
    weights = np.array([weight for _, weight in makers], float)
    for _ in range(int(rng.integers(2, 12))):
        x = pick()
        assert x is not None
        maker, _ = makers[int(rng.choice(len(makers), p=weights / weights.sum()))]
        known.append(maker(x))
    read = {index for node in net.nodes for index in node.inputs}
    outputs = [node.outputs[0] for node in net.nodes if node.outputs[0] not in read]
    if rng.random() < 0.4:
        outputs.append(int(rng.choice(known)))
    return net.graph(inputs, tuple(dict.fromkeys(outputs)))


def test_random_networks(seed: int) -> None:
    seen: set[str] = set()
    for case in range(scaled(300)):
        rng = np.random.default_rng([seed, case])
        program = check(random_graph(rng), rng, f"seed {seed}, case {case}")
        seen.update(ops(program))
        inside = {step.op for step in program.steps if step.outputs[0].inside is not None}
        seen.update(f"{op} in place" for op in inside)
        seen.update(step.plan.name for step in program.steps)
    # The generator is of use only if it meets what it is for.
    wanted = {"CONV_2D+ADD", "CONV_2D+SUB", "CONV_2D+RELU", "CONV_2D in place", "ADD in place", "frame_rows"}
    assert not wanted - seen


# --------------------------------------------------------------------------------------------------- by hand


@pytest.fixture
def net(seed: int) -> Net:
    return Net(np.random.default_rng(seed))


def test_a_residual_block_is_two_steps(net: Net) -> None:
    x = net.tensor((1, 4, 4, 8), Q)
    first = net.conv(x, 8)
    out = net.relu(net.sum(net.conv(first, 8), x))
    program = check(net.graph((x,), (out,)), net.rng, "")
    assert ops(program) == ["CONV_2D", "CONV_2D+ADD+RELU"]
    assert [operand.tensor for operand in program.steps[1].inputs] == [first, x]
    assert "CONV_2D+ADD+RELU" in str(program)


def test_of_two_convolutions_the_later_one_adds(net: Net) -> None:
    x = net.tensor((1, 4, 4, 8), Q)
    shortcut, main = net.conv(x, 8), net.conv(x, 8)
    program = check(net.graph((x,), (net.sum(main, shortcut),)), net.rng, "")
    assert ops(program) == ["CONV_2D", "CONV_2D+ADD"]
    assert program.steps[0].outputs[0].tensor == shortcut


def test_what_somebody_else_reads_is_not_joined(net: Net) -> None:
    x = net.tensor((1, 4, 4, 8), Q)
    conv = net.conv(x, 8)
    assert ops(check(net.graph((x,), (net.relu(conv), conv)), net.rng, "an output")) == ["CONV_2D", "RELU"]
    doubled = net.sum(conv, conv)
    assert "CONV_2D+ADD" not in ops(check(net.graph((x,), (doubled,)), net.rng, "twice"))
    broadcast = net.tensor((1, 1, 1, 8), Q)
    other = net.sum(net.conv(x, 8), broadcast)
    assert "CONV_2D+ADD" not in ops(check(net.graph((x, broadcast), (other,)), net.rng, "broadcast"))


def test_a_sum_follows_once(net: Net) -> None:
    x = net.tensor((1, 4, 4, 8), Q)
    program = check(net.graph((x,), (net.sum(net.sum(net.conv(x, 8), x), x),)), net.rng, "")
    assert ops(program) == ["CONV_2D+ADD", "ADD"]


@pytest.mark.parametrize(("channels", "joined"), [(16, True), (3, True), (18, False)])
def test_what_goes_by_blocks_of_elements_follows_where_there_is_one_rule(net: Net, channels: int, joined: bool) -> None:
    """Requantization in litert_opt: whole blocks of 16 elements alone, none of them, and a block with a rest."""
    made = net.conv(net.tensor((1, 1, 1, 4), net.quant(0.05, 3)), channels)
    out = net.quant(0.07, 1)
    spec = QuantizeSpec(shape=net.shape(made), x_quant=net.of(made), out_quant=out)
    graph = net.graph((0,), (net.add_node(spec, (made,), net.shape(made), out),))
    assert ops(planned(graph, "litert_opt")) == (["CONV_2D+QUANTIZE"] if joined else ["CONV_2D", "QUANTIZE"])
    assert ops(planned(graph, "litert_ref")) == ["CONV_2D+QUANTIZE"]


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_convolution_takes_over_its_pad(net: Net, depthwise: bool) -> None:
    x = net.tensor((1, 5, 5, 4), Q)
    padded = net.pad(net.pad(x, (0, 0), (1, 2), (0, 3), (0, 0)), (0, 0), (1, 0), (2, 0), (0, 0))
    program = check(net.graph((x,), (net.conv(padded, 4, 3, depthwise=depthwise),)), net.rng, "")
    assert len(program.steps) == 1
    assert padded not in program.operands
    window = program.steps[0].plan.spec.window  # type: ignore[attr-defined]
    assert (window.pad_top, window.pad_left) >= (2, 2)


def test_a_max_pool_takes_over_a_pad_of_lowest_codes_only(net: Net) -> None:
    lowest, other = net.tensor((1, 5, 5, 4), LOWEST), net.tensor((1, 5, 5, 4), Q)
    frame = ((0, 0), (1, 1), (1, 1), (0, 0))
    for x, want in ((lowest, ["MAX_POOL_2D"]), (other, ["PAD", "MAX_POOL_2D"])):
        out = net.pool(net.pad(x, *frame), 3)
        graph = Graph("", tuple(net.tensors), (*net.nodes[-2:],), (x,), (out,))
        assert ops(check(graph, net.rng, want)) == want


def test_a_pad_that_stays_is_written_in_place(net: Net) -> None:
    x = net.tensor((1, 4, 4, 8), Q)
    padded = net.pad(net.conv(x, 8), (0, 0), (1, 1), (2, 0), (0, 3))
    program = check(net.graph((x,), (net.relu(padded),)), net.rng, "")
    assert [step.plan.name for step in program.steps][1] == "frame_rows"
    assert program.steps[0].outputs[0].inside is not None
    assert program.steps[1].inputs == ()


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_concatenation_of_convolutions_vanishes(net: Net, axis: int) -> None:
    x = net.tensor((1, 4, 4, 8), Q)
    parts = [net.conv(x, 8), net.conv(x, 8), net.conv(x, 8)]
    program = check(net.graph((x,), (net.conv(net.concat(axis, *parts), 2),)), net.rng, "")
    assert ops(program) == ["CONV_2D"] * 4
    inside = [step.outputs[0].inside for step in program.steps[:3]]
    assert [place.start for place in inside if place] == [n * (4 * 4 * 8, 4 * 8, 8)[axis - 1] for n in range(3)]
    assert [place.is_dense for place in inside if place] == [axis == 1] * 3


def test_what_cannot_be_written_in_place_is_copied(net: Net) -> None:
    x = net.tensor((1, 4, 4, 8), Q)
    conv, seen, twice = net.conv(x, 8), net.conv(x, 8), net.conv(x, 8)
    # An input, a tensor that the caller sees, one that stands there twice; a function of codes takes no gaps.
    both = net.concat(3, x, conv, seen, twice, twice, net.relu(x))
    program = check(net.graph((x,), (net.conv(both, 2), seen)), net.rng, "")
    step = next(step for step in program.steps if step.op == "CONCATENATION")
    assert len(step.inputs) == 5
    assert step.plan.layer.in_place == {1}  # type: ignore[attr-defined]


def test_heads_of_a_detector_are_written_into_one_tensor(net: Net) -> None:
    x, y = net.tensor((1, 4, 4, 8), Q), net.tensor((1, 2, 2, 8), Q)
    boxes = [net.reshape(net.conv(x, 12), 1, 48, 4), net.reshape(net.conv(y, 12), 1, 12, 4)]
    program = check(net.graph((x, y), (net.logistic(net.concat(1, *boxes)),)), net.rng, "", runs=3)
    assert ops(program) == ["CONV_2D", "CONV_2D", "LOGISTIC"]


def test_tensors_within_tensors_within_tensors(net: Net) -> None:
    x = net.tensor((1, 3, 3, 4), Q)
    block = net.concat(3, net.conv(x, 4), net.conv(x, 4))
    whole = net.concat(3, net.conv(block, 4), block)
    program = check(net.graph((x,), (net.pool(net.pad(whole, (0, 0), (1, 0), (1, 0), (0, 0)), 2),)), net.rng, "")
    assert ops(program) == ["CONV_2D", "CONV_2D", "CONV_2D", "PAD", "MAX_POOL_2D"]
    storage = {step.outputs[0].inside.storage for step in program.steps[:3] if step.outputs[0].inside}
    assert len(storage) == 1


def test_files_of_several_images_are_cut_along_them(net: Net) -> None:
    x = net.tensor((2, 3, 3, 4), Q)
    program = check(net.graph((x,), (net.concat(0, net.conv(x, 4), net.conv(x, 4)),)), net.rng, "")
    assert ops(program).count("CONV_2D") == 2
