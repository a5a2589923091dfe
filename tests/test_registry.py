"""Every operator that a file may hold has a reference, a rule in some profile, and a line in the table of converters."""

from __future__ import annotations

import pytest

from gpuq import profiles
from gpuq.model.converters import CONVERTERS, DATA_INPUTS, INPUT_COUNTS, SHAPE_ARITHMETIC
from gpuq.model.converters.plain import PLAIN_CONVERTERS
from gpuq.model.tflite_file import CUSTOM_OPERATORS, OPERATOR_NAMES
from gpuq.ops.registry import REFERENCES

OPERATORS = {*CONVERTERS, *PLAIN_CONVERTERS}
SPECS = {spec_type.op: spec_type for spec_type in REFERENCES}

# Operators that a runtime lacks altogether.
LACKING = {
    "litert_ref": {"ELU"},
    "tflm": {
        "DIV",
        "FLOOR_DIV",
        "NEG",
        "RELU_0_TO_1",
        "RELU_N1_TO_1",
        "SELECT",
        "SQRT",
        "TILE",
    },
}


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_operator_is_known_everywhere(op: str) -> None:
    assert op in OPERATOR_NAMES.values() or op in CUSTOM_OPERATORS
    assert op in SPECS, f"{op} has no reference"
    for name in LACKING:
        has = any(op in row.ops for row in profiles.PROFILES[name].rows)
        assert has != (op in LACKING[name]), f"{op} in {name}"


def test_nothing_is_left_over() -> None:
    assert set(SPECS) == OPERATORS
    assert {*DATA_INPUTS, *INPUT_COUNTS, *SHAPE_ARITHMETIC} <= OPERATORS
    named = {op for profile in profiles.PROFILES.values() for row in profile.rows for op in row.ops}
    assert named == OPERATORS
    # Two Specs of one operator and kind of arithmetic would make the table above lie.
    kinds = {
        (spec.op, spec.__module__.split(".")[2] in ("float32", "hybrid") and spec.__module__) for spec in REFERENCES
    }
    assert len(kinds) == len(REFERENCES)
