"""`gpuq info`: what a network takes, gives, computes and costs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import gpuq
from gpuq import profiles
from gpuq.commands.files import load_model
from gpuq.commands.images import pixel_rule
from gpuq.commands.output import indented, printable, table, write, write_json
from gpuq.model.graph import Graph, Tensor
from gpuq.model.planner import Program


@dataclass(frozen=True)
class OperatorRow:
    """All operators of one kind.

    Attributes:
        rounding: the rules that the profile applies to them.
    """

    op: str
    count: int
    macs: int
    rounding: tuple[str, ...]


def run_info(path: str, *, device: str, profile: str, steps: bool, as_json: bool) -> int:
    """Prints the description of a model; 0.

    Raises:
        GpuqError: a model that cannot be loaded, an unknown profile or device.
    """
    model = load_model(path, device=device, numerics=profile)
    if as_json:
        write_json(_json(path, model, steps))
    else:
        write(_text(path, model, steps))
    return 0


def operator_rows(graph: Graph, profile: str) -> list[OperatorRow]:
    """The operators by kind, the most multiply-accumulates first."""
    counts: dict[str, int] = {}
    macs: dict[str, int] = {}
    rules: dict[str, list[str]] = {}
    for node in graph.nodes:
        op = node.spec.op
        counts[op] = counts.get(op, 0) + 1
        macs[op] = macs.get(op, 0) + graph.node_macs(node)
        rounding = profiles.resolve(profile, node.spec).rounding.value
        if rounding not in rules.setdefault(op, []):
            rules[op].append(rounding)
    rows = [OperatorRow(op, counts[op], macs[op], tuple(rules[op])) for op in counts]
    return sorted(rows, key=lambda row: (-row.macs, -row.count, row.op))


def parameters(graph: Graph) -> tuple[int, int]:
    """(values, bytes) of the constants that operators read, as the file stores them."""
    read = {index for node in graph.nodes for index in node.inputs if index >= 0}
    arrays = [data for index in read if (data := graph.tensors[index].data) is not None]
    return sum(data.size for data in arrays), sum(data.nbytes for data in arrays)


def _text(path: str, model: gpuq.Model, steps: bool) -> str:
    graph, program = model.graph, model.program
    values, stored = parameters(graph)
    rows = operator_rows(graph, model.numerics)
    total = max(graph.macs, 1)
    operators = [
        ("operator", "count", "MACs", "share", "rounding"),
        *(
            (row.op, f"{row.count:,}", f"{row.macs:,}", f"{row.macs / total:.1%}", ", ".join(row.rounding))
            for row in rows
        ),
        ("all", f"{len(graph.nodes):,}", f"{graph.macs:,}", "", ""),
    ]
    facts = [
        ("description", graph.description or "-"),
        ("numerics", f"{model.numerics}: {profiles.profile(model.numerics).reproduces}"),
        ("device", str(model.device)),
        ("file", f"{os.path.getsize(path):,} bytes"),
        ("parameters", f"{values:,} values, {stored:,} bytes in the file, {program.constant_bytes:,} packed"),
        ("arena", f"{program.arena_bytes:,} bytes a run"),
        ("MACs", f"{graph.macs:,} a run"),
        *(
            (f"signature {signature.key}", _signature(signature.inputs, signature.outputs))
            for signature in graph.signatures
        ),
    ]
    parts = [
        printable(path),
        indented(table(facts, "<<")),
        "inputs",
        indented(_tensor_table(graph, graph.inputs)),
        *(f"    {printable(rule)}" for rule in _rules(graph)),
        "outputs",
        indented(_tensor_table(graph, graph.outputs)),
        "operators",
        indented(table(operators, "<>>><")),
    ]
    return "\n".join([*parts, "program", indented(str(program))] if steps else parts)


def _signature(inputs: tuple[tuple[str, int], ...], outputs: tuple[tuple[str, int], ...]) -> str:
    return f"{', '.join(name for name, _ in inputs)} -> {', '.join(name for name, _ in outputs)}"


def _rules(graph: Graph) -> list[str]:
    """One line for each input that takes pictures, headed by its name where there are several inputs."""
    lines = []
    for index in graph.inputs:
        rule = pixel_rule(graph.tensors[index])
        if rule is not None:
            lines.append(rule if len(graph.inputs) == 1 else f"{graph.tensors[index].name}: {rule}")
    return lines


def _tensor_table(graph: Graph, indices: tuple[int, ...]) -> str:
    rows: list[tuple[object, ...]] = [("name", "shape", "dtype", "scale", "zero point")]
    for index in indices:
        tensor = graph.tensors[index]
        scale, zero_point = _quantization(tensor)
        rows.append(
            (
                tensor.name or f"#{index}",
                tensor.batch_shape,
                tensor.dtype,
                "-" if scale is None else f"{scale:.9g}",
                "-" if zero_point is None else zero_point,
            )
        )
    return table(rows, "<<<>>")


def _quantization(tensor: Tensor) -> tuple[float | None, int | None]:
    if tensor.quant is None or tensor.quant.is_per_channel:
        return None, None
    return tensor.quant.scalar_scale(), tensor.quant.scalar_zero_point()


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """A tensor as --json describes it; shape is that of one run."""
    scale, zero_point = _quantization(tensor)
    return {
        "name": tensor.name,
        "index": tensor.index,
        "shape": list(tensor.shape),
        "batch_shape": tensor.batch_shape,
        "dtype": str(tensor.dtype),
        "scale": scale,
        "zero_point": zero_point,
    }


def model_json(path: str, model: gpuq.Model) -> dict[str, Any]:
    """The head of every --json about a model."""
    return {
        "model": path,
        "device": str(model.device),
        "numerics": model.numerics,
        "reproduces": profiles.profile(model.numerics).reproduces,
    }


def _json(path: str, model: gpuq.Model, steps: bool) -> dict[str, Any]:
    graph, program = model.graph, model.program
    values, stored = parameters(graph)
    return {
        **model_json(path, model),
        "description": graph.description,
        "file_bytes": os.path.getsize(path),
        "inputs": [
            {**tensor_json(graph.tensors[index]), "pixels": pixel_rule(graph.tensors[index])} for index in graph.inputs
        ],
        "outputs": [tensor_json(graph.tensors[index]) for index in graph.outputs],
        "signatures": model.get_signature_list(),
        "operators": [
            {"op": row.op, "count": row.count, "macs": row.macs, "rounding": list(row.rounding)}
            for row in operator_rows(graph, model.numerics)
        ],
        "parameters": {"values": values, "bytes": stored, "packed_bytes": program.constant_bytes},
        "arena_bytes": program.arena_bytes,
        "macs": graph.macs,
        **({"steps": _steps(program)} if steps else {}),
    }


def _steps(program: Program) -> list[dict[str, Any]]:
    return [
        {
            "operator": step.nodes[-1].index,
            "op": step.op,
            "kernel": step.plan.name,
            "inputs": [operand.tensor for operand in step.inputs],
            "outputs": [operand.tensor for operand in step.outputs],
            "shape": list(step.outputs[0].shape),
            "dtype": str(step.outputs[0].dtype),
            "offset": step.outputs[0].offset,
            "macs": step.macs,
        }
        for step in program.steps
    ]
