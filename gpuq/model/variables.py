"""Resource variables of a file as variable tensors: handles and initialization subgraphs are gone afterwards.

A file names a variable by VAR_HANDLE, reads it by READ_VARIABLE, writes it by ASSIGN_VARIABLE, and has CALL_ONCE run a
subgraph that assigns constants in an interpreter's first run. Here each variable becomes a tensor behind the file's
own, which READ_VARIABLE takes and ASSIGN_VARIABLE gives, and what CALL_ONCE assigns is the state it starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gpuq.errors import MalformedModel
from gpuq.model.tflite_file import RawModel, RawOperator, RawSubgraph, RawTensor

Key = tuple[str, str]
"""Container and shared name: what tells variables apart."""


@dataclass
class _Variable:
    """What the file says about one variable, so far."""

    number: int
    initial: RawTensor | None = None
    read: RawTensor | None = None
    assigned: RawTensor | None = None

    @property
    def is_used(self) -> bool:
        return self.read is not None or self.assigned is not None

    def tensor(self, key: Key) -> RawTensor:
        """Shaped as it is read, where nothing else says more: the file's shape of a value that is computed may be
        stale. Quantized as what is assigned first, whose zero point TFLite Micro starts from.
        """
        known = self.initial or self.assigned or self.read
        if known is None:
            empty = np.zeros(0, np.float32)
            known = RawTensor("", (1,), (), "INT8", empty, empty.astype(np.int64), 0, False, False, True, None)
        shape = (self.initial or self.read or known).shape
        initial = None if self.initial is None else self.initial.data
        return replace(
            known, name="/".join(filter(None, key)), shape=shape, is_variable=True, data=None, initial=initial
        )


def with_variables(raw: RawModel) -> RawModel:
    """The model with variables as tensors.

    Operators that cannot be had so keep their place; their name says why, for the error that lists all of them.

    Raises:
        MalformedModel: tensor numbers that are out of range.
    """
    if not any(operator.name in ("VAR_HANDLE", "CALL_ONCE") for operator in raw.operators):
        return raw
    variables: dict[Key, _Variable] = {}
    handles: dict[int, Key] = {}
    operators: list[RawOperator] = []

    def variable(key: Key) -> _Variable:
        return variables.setdefault(key, _Variable(len(raw.tensors) + len(variables)))

    for operator in raw.operators:
        handle = handles.get(operator.inputs[0]) if operator.inputs else None
        if operator.name == "VAR_HANDLE":
            _note_handle(operator, raw, handles)
            variable(handles[operator.outputs[0]])
        elif operator.name == "CALL_ONCE":
            problem, initial = _initial(raw.initializers[operator.option("InitSubgraphIndex")])
            if problem is None and any(variable(key).is_used for key in initial):
                problem = "behind operators that use its variables"
            if problem is not None:
                operators.append(replace(operator, name=f"CALL_ONCE {problem}"))
                continue
            for key, value in initial.items():
                variable(key).initial = value
        elif operator.name == "READ_VARIABLE" and handle is not None and len(operator.outputs) == 1:
            one = variable(handle)
            is_assigned = one.initial is not None or one.assigned is not None
            one.read = one.read or _tensor(raw, operator, operator.outputs[0])
            inputs = (one.number, *operator.inputs[1:])
            operators.append(replace(operator, inputs=inputs, options={"IsAssigned": is_assigned}))
        elif operator.name == "ASSIGN_VARIABLE" and handle is not None and len(operator.inputs) == 2:
            one = variable(handle)
            one.assigned = one.assigned or _tensor(raw, operator, operator.inputs[1])
            operators.append(replace(operator, inputs=operator.inputs[1:], outputs=(one.number, *operator.outputs)))
        else:
            operators.append(operator)
    never = {one.number for one in variables.values() if one.initial is None and one.assigned is None}
    operators = [
        replace(operator, name="READ_VARIABLE of a variable that nothing assigns")
        if operator.name == "READ_VARIABLE" and never.intersection(operator.inputs)
        else operator
        for operator in operators
    ]
    added = tuple(one.tensor(key) for key, one in variables.items())
    return replace(raw, tensors=(*raw.tensors, *added), operators=tuple(operators))


def _initial(graph: RawSubgraph) -> tuple[str | None, Mapping[Key, RawTensor]]:
    """(why it cannot be had, if so; the constants that an initialization subgraph assigns)."""
    handles: dict[int, Key] = {}
    found: dict[Key, RawTensor] = {}
    if graph.inputs or graph.outputs:
        return "of a subgraph with inputs or outputs", {}
    for operator in graph.operators:
        if operator.name == "VAR_HANDLE":
            _note_handle(operator, graph, handles)
            continue
        if operator.name != "ASSIGN_VARIABLE":
            return f"of a subgraph with {operator.name}", {}
        if len(operator.inputs) != 2 or operator.inputs[0] not in handles:
            return "of a subgraph whose ASSIGN_VARIABLE does not have a handle of VAR_HANDLE and a value", {}
        value = _tensor(graph, operator, operator.inputs[1])
        if value.data is None:
            return "of a subgraph that assigns what is not constant", {}
        found[handles[operator.inputs[0]]] = value
    return None, found


def _note_handle(operator: RawOperator, graph: RawSubgraph, handles: dict[int, Key]) -> None:
    if len(operator.outputs) != 1 or operator.inputs:
        raise MalformedModel(f"VAR_HANDLE (operator #{operator.index}) must have no input and 1 output")
    _tensor(graph, operator, operator.outputs[0])
    handles[operator.outputs[0]] = (operator.option("Container"), operator.option("SharedName"))


def _tensor(graph: RawSubgraph, operator: RawOperator, index: int) -> RawTensor:
    if not 0 <= index < len(graph.tensors):
        raise MalformedModel(
            f"{operator.name} (operator #{operator.index}) refers to tensor {index}; there are {len(graph.tensors)}"
        )
    return graph.tensors[index]
