"""From a Graph to a Program: rules resolved, constants packed, tensors placed in one arena. Pure, and printable.

A Program is written for one run of the network. Batch N is N independent runs, held side by side: every tensor has
a run axis in front of the file's own shape, so no operator can mix runs, and the arena of N runs is N times the
arena of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import cpu, numerics
from gpuq.cuda.launch import launcher as cuda_launcher
from gpuq.cuda.launcher import Launcher
from gpuq.cuda.layer import Layer
from gpuq.cuda.plans import CudaPlan, layer_of
from gpuq.devices import Device
from gpuq.errors import InputValueError, ModelLimit, UnsupportedModel
from gpuq.model.graph import Graph, Node
from gpuq.ops.registry import constant_operands, reference
from gpuq.ops.spec import Shape, shape_text
from gpuq.plan import Plan

ALIGNMENT = 64
# A run's arena beyond this is refused before it is allocated, and so is a step's scratch, which grows with the pixels
# that a window reaches beyond the image.
MAX_ARENA_BYTES = 1 << 36
MAX_WORKSPACE_BYTES = 1 << 28
# Elements of a tensor that is computed while the model is loaded.
MAX_FOLDED_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Operand:
    """Where a tensor lies in the arena of one run.

    Attributes:
        offset: bytes from the start; the run axis multiplies it.
    """

    tensor: int
    offset: int
    shape: Shape
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Step:
    """One launch.

    Attributes:
        views: tensors that share the output's memory (RESHAPE and its like) and so come to be with it.
    """

    node: Node
    plan: Plan
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    views: tuple[Operand, ...]
    macs: int

    def kernel(self, runs: int) -> str:
        """The name of the kernel that a batch of this size takes."""
        return str(self.plan.choice(runs).name) if isinstance(self.plan, CudaPlan) else self.plan.name


@dataclass(frozen=True)
class Program:
    """Everything that running the network takes, ready to launch.

    Attributes:
        operands: every activation and variable, by tensor number.
        input_views: tensors that share the memory of an input or a variable.
        constants: values of tensors that do not depend on the input.
        arena_bytes: activations of one run.
        launcher: what runs the steps' kernels; None on the CPU.
    """

    graph: Graph
    device: Device
    profile: str
    steps: tuple[Step, ...]
    operands: Mapping[int, Operand]
    input_views: tuple[Operand, ...]
    constants: Mapping[int, npt.NDArray[Any]]
    arena_bytes: int
    launcher: Launcher | None = None

    @property
    def constant_bytes(self) -> int:
        """Bytes of packed constants."""
        return sum(step.plan.constant_bytes for step in self.steps)

    def workspace_bytes(self, runs: int) -> int:
        """Scratch of the neediest step."""
        return max((step.plan.workspace_bytes(runs) for step in self.steps), default=0)

    def __str__(self) -> str:
        lines = [
            f"{len(self.steps)} steps on {self.device}, numerics {self.profile}: arena {self.arena_bytes} bytes a run, "
            f"constants {self.constant_bytes} bytes, {self.graph.macs} MACs a run"
        ]
        for number, step in enumerate(self.steps):
            out = step.outputs[0]
            lines.append(
                f"{number:4d}  {step.node.spec.op:<24} {step.plan.name:<32} {shape_text(out.shape):>16}"
                f" {out.dtype!s:>7}  at {out.offset:>9}  {step.macs:>11} MACs"
            )
        return "\n".join(lines)


def plan_program(graph: Graph, device: Device, profile: str, launcher: Launcher | None = None) -> Program:
    """Plans a network.

    Args:
        launcher: what runs kernels where the device is a GPU; default: that GPU.

    Raises:
        InputValueError: an unknown profile.
        UnsupportedModel: operators that the profile's runtime does not have; all of them in one error.
        ModelLimit: an arena, a step's scratch, or a tensor computed while loading beyond the MAX_ constants.
    """
    if device.kind == "cuda" and launcher is None:
        launcher = cuda_launcher(device.index)
    rules = _resolve(graph, profile)
    constants = {tensor.index: tensor.data for tensor in graph.tensors if tensor.data is not None}
    live: list[Node] = []
    for node in graph.nodes:
        if all(index in constants for index in node.inputs if index >= 0):
            with _refusals(node):
                _fold(graph, node, rules[node.index], constants)
        else:
            live.append(node)
    roots = _storage_roots(graph, live)
    sizes = {root: graph.tensors[root].nbytes for root in set(roots.values())}
    offsets, arena_bytes = place(sizes, _lifetimes(graph, live, roots))
    if arena_bytes > MAX_ARENA_BYTES:
        raise ModelLimit(f"activations of {arena_bytes} bytes a run; the limit is {MAX_ARENA_BYTES}")
    operands = {
        index: Operand(index, offsets[root], graph.tensors[index].shape, graph.tensors[index].dtype)
        for index, root in roots.items()
    }
    views_of: dict[int, list[Operand]] = {}
    for node in live:
        if node.spec.is_view:
            views_of.setdefault(roots[node.outputs[0]], []).append(operands[node.outputs[0]])
    launched = [node for node in live if not node.spec.is_view]
    plans = _pack(launched, rules, constants, launcher)
    steps = []
    for node, plan in zip(launched, plans, strict=True):
        if plan.workspace_bytes(1) > MAX_WORKSPACE_BYTES:
            raise ModelLimit(
                f"operator #{node.index} {node.spec.op} needs {plan.workspace_bytes(1)} bytes of scratch; the limit is "
                f"{MAX_WORKSPACE_BYTES}"
            )
        steps.append(
            Step(
                node=node,
                plan=plan,
                inputs=tuple(operands[index] for index in node.inputs if index >= 0 and index not in constants),
                outputs=tuple(operands[index] for index in node.outputs),
                views=tuple(view for index in node.outputs for view in views_of.get(index, ())),
                macs=graph.node_macs(node),
            )
        )
    return Program(
        graph=graph,
        device=device,
        profile=profile,
        steps=tuple(steps),
        operands=MappingProxyType(operands),
        input_views=tuple(
            view
            for index in (*graph.inputs, *(tensor.index for tensor in graph.variables))
            for view in views_of.get(index, ())
        ),
        constants=MappingProxyType(constants),
        arena_bytes=arena_bytes,
        launcher=launcher,
    )


def _pack(
    nodes: Sequence[Node],
    rules: Mapping[int, numerics.Rule],
    constants: Mapping[int, npt.NDArray[Any]],
    launcher: Launcher | None,
) -> list[Plan]:
    """The plan of each node; on a GPU, the constants of all of them go up together."""
    layers: list[Layer] = []
    plans: list[Plan] = []
    for node in nodes:
        operands = [constants.get(index) if index >= 0 else None for index in node.inputs]
        with _refusals(node):
            if launcher is None:
                plans.append(cpu.pack(node.spec, rules[node.index], operands))
            else:
                layers.append(layer_of(node.spec, rules[node.index], operands))
    if launcher is None:
        return plans
    named = {
        f"{number}/{name}": array for number, layer in enumerate(layers) for name, array in layer.constants.items()
    }
    pointers = launcher.upload(named)
    return [
        CudaPlan(layer, launcher, constants={name: pointers[f"{number}/{name}"] for name in layer.constants})
        for number, layer in enumerate(layers)
    ]


@contextmanager
def _refusals(node: Node) -> Iterator[None]:
    """Values that a rule cannot take (a factor beyond its multiplier, say) are the model's, not the caller's."""
    try:
        yield
    except InputValueError as error:
        raise UnsupportedModel(f"operator #{node.index} {node.spec.op}: {error}") from error


def _resolve(graph: Graph, profile: str) -> dict[int, numerics.Rule]:
    """The rule of every node, by its number in the file."""
    reproduces = numerics.profile(profile).reproduces
    rules: dict[int, numerics.Rule] = {}
    problems: dict[str, list[int]] = {}
    for node in graph.nodes:
        try:
            rules[node.index] = numerics.resolve(profile, node.spec)
        except UnsupportedModel:
            problems.setdefault(f"{node.spec.op} on {node.spec.activation_dtype}", []).append(node.index)
    if problems:
        texts = (f"{text} ({len(nodes)} operator{'s' * (len(nodes) > 1)})" for text, nodes in problems.items())
        raise UnsupportedModel(
            f"numerics {profile!r}, which reproduces {reproduces}, does not have: {'; '.join(texts)}"
        )
    return rules


def _fold(graph: Graph, node: Node, rule: numerics.Rule, constants: dict[int, npt.NDArray[Any]]) -> None:
    """Computes an operator that does not depend on the input."""
    elements = math.prod(graph.tensors[node.outputs[0]].shape)
    if elements > MAX_FOLDED_ELEMENTS:
        raise ModelLimit(
            f"operator #{node.index} {node.spec.op} on constants gives {elements} elements; the limit is "
            f"{MAX_FOLDED_ELEMENTS}"
        )
    operands = constant_operands(node.spec, [constants[index] if index >= 0 else None for index in node.inputs])
    tensor = graph.tensors[node.outputs[0]]
    constants[tensor.index] = reference(node.spec, rule, *operands).reshape(tensor.shape)


def _storage_roots(graph: Graph, nodes: list[Node]) -> dict[int, int]:
    """For every activation and variable the tensor whose memory it uses: itself, or the input of its view."""
    roots = {index: index for index in graph.inputs}
    roots.update({tensor.index: tensor.index for tensor in graph.variables})
    for node in nodes:
        for index in node.outputs:
            roots[index] = roots[node.inputs[0]] if node.spec.is_view else index
    return roots


def _lifetimes(graph: Graph, nodes: list[Node], roots: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """(first, last) step of each piece of storage, both included; -1 is before the first step."""
    end = len(nodes)
    born = {roots[index]: -1 for index in graph.inputs}
    last = {roots[index]: -1 for index in graph.inputs}
    for tensor in graph.variables:
        born[tensor.index], last[tensor.index] = -1, end
    for step, node in enumerate(nodes):
        for index in node.outputs:
            born.setdefault(roots[index], step)
            last[roots[index]] = max(last.get(roots[index], step), step)
        for index in node.inputs:
            if index in roots:
                last[roots[index]] = max(last[roots[index]], step)
    for index in graph.outputs:
        if index in roots:
            last[roots[index]] = end
    return {root: (born[root], last[root]) for root in born}


def place(sizes: Mapping[int, int], lifetimes: Mapping[int, tuple[int, int]]) -> tuple[dict[int, int], int]:
    """Offsets such that pieces alive at the same step do not overlap, and the arena's size.

    Greedy by size, as TFLite's arena planner: the largest piece first, each at the lowest gap that holds it between
    those already placed that are alive together with it.
    """
    offsets: dict[int, int] = {}
    for piece in sorted(sizes, key=lambda piece: (-sizes[piece], piece)):
        first, last = lifetimes[piece]
        neighbours = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if lifetimes[other][0] <= last and first <= lifetimes[other][1]
        )
        offset = 0
        for start, stop in neighbours:
            if start - offset >= sizes[piece]:
                break
            offset = max(offset, -(-stop // ALIGNMENT) * ALIGNMENT)
        offsets[piece] = offset
    size = max((offsets[piece] + sizes[piece] for piece in sizes), default=0)
    return offsets, -(-size // ALIGNMENT) * ALIGNMENT
