"""From a Graph to a Program: rules resolved, operators joined, constants packed, tensors placed. Pure, and printable.

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

from gpuq import cpu, numerics, profiles
from gpuq.cuda.fusion import Follower, is_sum
from gpuq.cuda.launch import launcher as cuda_launcher
from gpuq.cuda.launcher import Launcher
from gpuq.cuda.layer import Contiguous, Layer, y_shapes
from gpuq.cuda.plans import CudaPlan, copied_parts, layer_of, without_parts
from gpuq.cuda.status import CheckingLayer
from gpuq.devices import Device
from gpuq.errors import InputValueError, ModelLimit, UnsupportedModel
from gpuq.model import fusion, placement
from gpuq.model.fusion import Group
from gpuq.model.graph import Graph, Node
from gpuq.model.placement import Inside
from gpuq.ops.registry import constant_operands, references
from gpuq.ops.spec import Shape, shape_text
from gpuq.plan import Plan

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
        offset: bytes from the start, of the tensor or of what it is part of; the run axis multiplies it.
        inside: where the tensor lies in the one that it is part of; None of most.
    """

    tensor: int
    offset: int
    shape: Shape
    dtype: np.dtype[Any]
    inside: Inside | None = None

    @property
    def nbytes(self) -> int:
        """Of one run."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Step:
    """One launch.

    Attributes:
        nodes: operators of the file that it runs; on a GPU several may be joined.
        views: tensors that share the output's memory (RESHAPE and its like) and so come to be with it.
    """

    nodes: tuple[Node, ...]
    plan: Plan
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    views: tuple[Operand, ...]
    macs: int

    @property
    def op(self) -> str:
        """The operators' TFLite names: CONV_2D, CONV_2D+ADD."""
        return "+".join(node.spec.op for node in self.nodes)

    @property
    def checking(self) -> CheckingLayer | None:
        """The layer whose kernel may refuse its data; None of most, and on the CPU, whose plans raise themselves."""
        layer = self.plan.layer if isinstance(self.plan, CudaPlan) else None
        return layer if isinstance(layer, CheckingLayer) else None

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
        is_fused: operators may be joined, and tensors lack or lie within others.
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
    is_fused: bool = False
    launcher: Launcher | None = None

    @property
    def constant_bytes(self) -> int:
        """Bytes of packed constants."""
        return sum(step.plan.constant_bytes for step in self.steps)

    @property
    def checking(self) -> tuple[Step, ...]:
        """Steps whose kernels may refuse their data, in the order of their words in a workspace."""
        return tuple(step for step in self.steps if step.checking is not None)

    @property
    def status_bytes(self) -> int:
        """Of those words."""
        return -(-4 * len(self.checking) // placement.ALIGNMENT) * placement.ALIGNMENT

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
            inside = f"  inside {out.inside.storage} from {out.inside.start}" if out.inside else ""
            lines.append(
                f"{number:4d}  {step.op:<24} {step.plan.name:<36} {shape_text(out.shape):>16} {out.dtype!s:>7}"
                f"  {out.nbytes:>9} bytes at {out.offset:>9}  {step.macs:>11} MACs{inside}"
            )
        return "\n".join(lines)


def plan_program(
    graph: Graph, device: Device, profile: str, launcher: Launcher | None = None, *, fuse: bool = True
) -> Program:
    """Plans a network.

    Args:
        launcher: what runs kernels where the device is a GPU; default: that GPU.
        fuse: on a GPU, join operators into one step and write parts of larger tensors in place; False: every operator
            by itself, every tensor in memory of its own. The CPU does not join.

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
        writes_state = any(graph.tensors[index].is_variable for index in node.outputs)
        if not writes_state and all(index in constants for index in node.inputs if index >= 0):
            with _refusals(node):
                _fold(graph, node, rules[node.index], constants)
        else:
            live.append(node)
    fuse = fuse and launcher is not None
    views = [node for node in live if node.spec.is_view]
    groups = fusion.fused(graph, live, constants, rules) if fuse else fusion.single(live)
    launched = [group for group in groups if not group.spec.is_view]
    roots = placement.storage_roots(graph, views, [index for group in launched for index in group.outputs])
    plans, reads, inside = _pack(graph, launched, rules, constants, roots, launcher, fuse)
    storage = {index: inside[root].storage if root in inside else root for index, root in roots.items()}
    sizes = {root: graph.tensors[root].nbytes for root in set(storage.values())}
    alive = placement.lifetimes(graph, [(group.inputs, group.outputs) for group in groups], storage)
    offsets, arena_bytes = placement.place(sizes, alive)
    if arena_bytes > MAX_ARENA_BYTES:
        raise ModelLimit(f"activations of {arena_bytes} bytes a run; the limit is {MAX_ARENA_BYTES}")
    operands = {
        index: Operand(
            index, offsets[storage[index]], graph.tensors[index].shape, graph.tensors[index].dtype, inside.get(root)
        )
        for index, root in roots.items()
    }
    views_of: dict[int, list[Operand]] = {}
    for node in views:
        views_of.setdefault(roots[node.outputs[0]], []).append(operands[node.outputs[0]])
    steps = []
    for group, plan, read in zip(launched, plans, reads, strict=True):
        if plan is None:
            continue
        node = group.nodes[0]
        if plan.workspace_bytes(1) > MAX_WORKSPACE_BYTES:
            raise ModelLimit(
                f"operator #{node.index} {node.spec.op} needs {plan.workspace_bytes(1)} bytes of scratch; the limit is "
                f"{MAX_WORKSPACE_BYTES}"
            )
        steps.append(
            Step(
                nodes=group.nodes,
                plan=plan,
                inputs=tuple(operands[index] for index in read),
                outputs=tuple(operands[index] for index in group.outputs),
                views=tuple(view for index in group.outputs for view in views_of.get(index, ())),
                macs=sum(graph.node_macs(node) for node in group.nodes),
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
        is_fused=fuse,
        launcher=launcher,
    )


def _pack(
    graph: Graph,
    groups: Sequence[Group],
    rules: Mapping[int, numerics.Rule],
    constants: Mapping[int, npt.NDArray[Any]],
    roots: Mapping[int, int],
    launcher: Launcher | None,
    fuse: bool,
) -> tuple[list[Plan | None], list[list[int]], dict[int, Inside]]:
    """(each group's plan, None where nothing is left to do; activations that it reads; storage within other storage).

    On a GPU, the constants of all of them go up together.
    """
    reads = [[index for index in group.inputs if index in roots] for group in groups]
    packed: list[Any] = []
    refused: list[str] = []
    for group in groups:
        first, *behind = group.nodes
        operands = [constants.get(index) if index >= 0 else None for index in first.inputs]
        try:
            if launcher is None:
                packed.append(cpu.pack(group.spec, rules[first.index], operands))
            else:
                followers = [
                    Follower(node.spec, rules[node.index], position)
                    for node, position in zip(behind, group.chain, strict=True)
                ]
                packed.append(layer_of(group.spec, rules[first.index], operands, followers))
        except InputValueError as error:
            refused.append(_refusal(graph, first, error))
    if refused:
        raise UnsupportedModel("; ".join(refused))
    if launcher is None:
        return packed, reads, {}
    layers: list[Layer | None] = list(packed)
    inside: dict[int, Inside] = {}
    if fuse:
        layers, reads, inside = _placed(graph, groups, packed, roots, reads)
    named = {
        f"{number}/{name}": array
        for number, layer in enumerate(layers)
        if layer is not None
        for name, array in layer.constants.items()
    }
    pointers = launcher.upload(named)
    plans: list[Plan | None] = []
    for number, layer in enumerate(layers):
        if layer is None:
            plans.append(None)
        else:
            own = {name: pointers[f"{number}/{name}"] for name in layer.constants}
            elements = math.prod(graph.tensors[groups[number].outputs[0]].shape)
            images = max(1, elements // max(1, math.prod(layer.y_shape)))
            plans.append(CudaPlan(layer, launcher, constants=own, images=images))
    return plans, reads, inside


def _placed(
    graph: Graph,
    groups: Sequence[Group],
    layers: Sequence[Layer],
    roots: Mapping[int, int],
    reads: Sequence[Sequence[int]],
) -> tuple[list[Layer | None], list[list[int]], dict[int, Inside]]:
    """Layers that copy into a larger tensor, told what those before them write there already; None: all of it.

    Also the activations that each still reads, and which storage lies within other storage.
    """
    uses: list[placement.Use] = []
    parts: list[list[placement.Part]] = []
    movable = {index for group in groups for index in group.outputs}
    movable -= {roots[index] for index in graph.outputs if index in roots}
    movable -= {tensor.index for tensor in graph.variables}
    for group, layer, read in zip(groups, layers, reads, strict=True):
        pitches = not isinstance(layer, Contiguous)
        for index, shape in zip((*read, *group.outputs), (*layer.x_shapes, *y_shapes(layer)), strict=True):
            uses.append(placement.Use(index, shape, pitches))
        if any(is_sum(node.spec) for node in group.nodes[1:]):
            # A residual's pixels lie as far apart as the output's.
            movable -= {roots[read[-1]], *group.outputs}
        parts.append(
            [
                placement.Part(group.inputs[operand], group.outputs[0], before, operand)
                for operand, before in copied_parts(layer).items()
                if group.inputs[operand] in roots
            ]
        )
    inside = placement.in_place(graph, roots, uses, [part for each in parts for part in each], movable)
    kept: list[Layer | None] = []
    left: list[list[int]] = []
    for layer, copies, read in zip(layers, parts, reads, strict=True):
        written = [part for part in copies if (place := inside.get(roots[part.source])) and place.parent == part.target]
        sources = {part.source for part in written}
        left.append([index for index in read if index not in sources])
        kept.append(without_parts(layer, frozenset(part.operand for part in written)) if written else layer)
    return kept, left, inside


@contextmanager
def _refusals(node: Node) -> Iterator[None]:
    """Values that a rule cannot take (a factor beyond its multiplier, say) are the model's, not the caller's."""
    try:
        yield
    except InputValueError as error:
        raise UnsupportedModel(f"operator #{node.index} {node.spec.op}: {error}") from error


def _refusal(graph: Graph, node: Node, error: InputValueError) -> str:
    """One operator that cannot be packed, with its first tensor and its type."""
    tensor = graph.tensors[node.inputs[0]]
    return f"operator #{node.index} {node.spec.op} on {tensor.dtype} tensor {tensor.name!r}: {error}"


def _resolve(graph: Graph, profile: str) -> dict[int, numerics.Rule]:
    """The rule of every node, by its number in the file."""
    reproduces = profiles.profile(profile).reproduces
    rules: dict[int, numerics.Rule] = {}
    problems: dict[str, list[Node]] = {}
    for node in graph.nodes:
        row = profiles.find_row(profile, node.spec)
        if row is not None and row.rule is not None:
            rules[node.index] = row.rule
            continue
        what = f"{node.spec.op} on {node.spec.activation_dtype}"
        problems.setdefault(what if row is None else f"{what}, {row.why}", []).append(node)
    if problems:
        texts = []
        for text, nodes in problems.items():
            shown = ", ".join(f"#{node.index} {graph.tensors[node.outputs[0]].name!r}" for node in nodes)
            texts.append(f"{text} ({len(nodes)} operator{'s' * (len(nodes) > 1)}: {shown})")
        raise UnsupportedModel(
            f"numerics {profile!r}, which reproduces {reproduces}, does not have: {'; '.join(texts)}",
            sorted({node.index for nodes in problems.values() for node in nodes}),
        )
    return rules


def _fold(graph: Graph, node: Node, rule: numerics.Rule, constants: dict[int, npt.NDArray[Any]]) -> None:
    """Computes an operator that does not depend on the input."""
    elements = sum(math.prod(graph.tensors[index].shape) for index in node.outputs)
    if elements > MAX_FOLDED_ELEMENTS:
        raise ModelLimit(
            f"operator #{node.index} {node.spec.op} on constants gives {elements} elements; the limit is "
            f"{MAX_FOLDED_ELEMENTS}"
        )
    operands = constant_operands(node.spec, [constants[index] if index >= 0 else None for index in node.inputs])
    for index, value in zip(node.outputs, references(node.spec, rule, *operands), strict=True):
        constants[index] = value.reshape(graph.tensors[index].shape)
