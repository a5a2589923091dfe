"""Which operators of the file run as one step on a GPU. Pure: nodes in, groups of nodes out.

Two things are joined, where the bits stay equal:

- a PAD into the window of the convolution or MAX_POOL_2D behind it, which reads outside the image what the PAD would
  have written there;
- ADD, SUB of a residual and functions of one code into the convolution before them; see cuda/fusion.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuq.cuda.fusion import can_follow, is_sum
from gpuq.errors import InputValueError
from gpuq.model.graph import Graph, Node
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.spec import Spec


@dataclass(frozen=True)
class Group:
    """Operators of the file that one step runs, at the place of the last of them.

    Attributes:
        spec: of the first node; its window may have taken over a PAD.
        chain: for each node behind the first, which of its inputs is the output of the node before.
        inputs: tensors of the first node as its operands lie in the file, -1 where one is left out; then the residual.
    """

    spec: Spec
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    chain: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.nodes[-1].outputs


def single(nodes: Sequence[Node]) -> list[Group]:
    """Each operator by itself."""
    return [Group(node.spec, (node,), node.inputs) for node in nodes]


def fused(graph: Graph, nodes: Sequence[Node], constants: Collection[int], rules: Mapping[int, Rule]) -> list[Group]:
    """Operators joined where the bits stay equal.

    Args:
        nodes: in the order of execution.
        constants: tensors whose values are known.
        rules: of every operator, by its index.
    """
    groups = _without_pads(graph, single(nodes))
    uses = _uses(graph, groups)
    readers = {index: group for group in groups for index in group.inputs}
    taken: set[int] = set()
    joined: list[Group] = []
    # From the end, so that of two convolutions whose outputs are added the later one adds: the earlier is done by then.
    for head in reversed(groups):
        if head.nodes[0].index in taken:
            continue
        group = head
        while True:
            reader = _follower(graph, group, uses, readers, constants, rules)
            if reader is None or reader.nodes[0].index in taken:
                break
            position = reader.inputs.index(group.outputs[0])
            taken.add(reader.nodes[0].index)
            rest = tuple(index for place, index in enumerate(reader.inputs) if place != position)
            group = replace(
                group,
                nodes=group.nodes + reader.nodes,
                inputs=group.inputs + rest,
                chain=(*group.chain, position),
            )
        joined.append(group)
    # A head met before its follower was taken from it stands in the list twice: as itself only where nothing took it.
    kept = [group for group in joined if group.nodes[0].index not in taken]
    return sorted(kept, key=lambda group: group.nodes[-1].index)


def _follower(
    graph: Graph,
    group: Group,
    uses: Counter[int],
    readers: dict[int, Group],
    constants: Collection[int],
    rules: Mapping[int, Rule],
) -> Group | None:
    """The operator that can run behind a group in its kernel: the only one that reads its output."""
    if not isinstance(group.spec, Conv2dSpec | DepthwiseConv2dSpec | FullyConnectedSpec):
        return None
    (output,) = group.outputs
    reader = readers.get(output)
    if reader is None or uses[output] != 1:
        return None
    if not can_follow(reader.spec, rules[reader.nodes[0].index]):
        return None
    dtypes = {group.spec.activation_dtype, reader.spec.activation_dtype, graph.tensors[reader.outputs[0]].dtype}
    # What follows goes by tables of 8-bit codes.
    if len(dtypes) > 1 or group.spec.activation_dtype.itemsize > 1:
        return None
    if is_sum(reader.spec):
        (residual,) = (index for index in reader.inputs if index != output)
        if residual in constants or any(is_sum(node.spec) for node in group.nodes):
            return None
    return reader


def _uses(graph: Graph, groups: Sequence[Group]) -> Counter[int]:
    """How often each tensor is read, by operators or by the caller."""
    return Counter([*graph.outputs, *(index for group in groups for index in group.inputs)])


def _without_pads(graph: Graph, groups: Sequence[Group]) -> list[Group]:
    """PADs taken over by the windows behind them, and left out where nobody else reads them."""
    writers = {group.outputs[0]: group for group in groups}
    found: list[Group] = []
    for group in groups:
        first = group.inputs[0] if group.inputs else -1
        while (pad := writers.get(first)) is not None and isinstance(pad.spec, PadSpec):
            spec = _with_pad(group.spec, pad.spec)
            if spec is None:
                break
            first = pad.inputs[0]
            group = replace(group, spec=spec, inputs=(first, *group.inputs[1:]))
        found.append(group)
    kept: list[Group] = []
    uses = _uses(graph, found)
    for group in reversed(found):
        if isinstance(group.spec, PadSpec) and uses[group.outputs[0]] == 0:
            uses.subtract(group.inputs)
        else:
            kept.append(group)
    return kept[::-1]


def _with_pad(spec: Spec, pad: PadSpec) -> Spec | None:
    """A windowed operator that reads a PAD's input in place of its output; None where that would change bits."""
    if not isinstance(spec, Conv2dSpec | DepthwiseConv2dSpec | MaxPool2dSpec) or len(pad.pads) != 4:
        return None
    images, rows, columns, channels = pad.pads
    if images != (0, 0) or channels != (0, 0) or 0 in pad.x_shape:
        return None
    fill = pad.out_quant.scalar_zero_point()
    if isinstance(spec, MaxPool2dSpec):
        # A pool skips what lies outside the image: the same as the lowest code, which no maximum notices.
        if fill != spec.x_quant.qmin:
            return None
    elif fill != spec.x_quant.scalar_zero_point():
        return None
    window = replace(
        spec.window,
        pad_top=spec.window.pad_top + rows[0],
        pad_bottom=spec.window.pad_bottom + rows[1],
        pad_left=spec.window.pad_left + columns[0],
        pad_right=spec.window.pad_right + columns[1],
    )
    try:
        return replace(spec, in_h=spec.in_h - sum(rows), in_w=spec.in_w - sum(columns), window=window)
    except InputValueError:
        # A pool does not take pads as large as its window.
        return None
