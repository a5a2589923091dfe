"""ARG_MAX: the first of the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.arg_max import ArgMaxSpec, reference

EXACT = Rule(Rounding.EXACT)
GOOD: dict[str, Any] = dict(x_shape=(2, 3), axis=1, dtype=np.dtype(np.int8), out_dtype=np.dtype(np.int32))


def test_by_hand() -> None:
    x = np.array([[[1, 5, 5], [-1, -1, -2]], [[-128, -128, -128], [3, 2, 127]]], np.int8)
    got = reference(ArgMaxSpec(**GOOD), EXACT, x)
    assert (got.tolist(), got.dtype) == ([[1, 0], [0, 2]], np.int32)
    down = reference(ArgMaxSpec(**(GOOD | dict(axis=0, out_dtype=np.dtype(np.int64)))), EXACT, x)
    assert (down.tolist(), down.dtype) == ([[0, 0, 0], [1, 1, 1]], np.int64)


def test_uint8_codes_are_unsigned() -> None:
    spec = ArgMaxSpec(**(GOOD | dict(dtype=np.dtype(np.uint8))))
    assert reference(spec, EXACT, np.array([[[1, 200, 100], [0, 0, 128]]], np.uint8)).tolist() == [[1, 2]]


def test_one_dimension_gives_a_scalar_per_run() -> None:
    spec = ArgMaxSpec(**(GOOD | dict(x_shape=(4,), axis=0)))
    assert spec.output_shape == ()
    assert reference(spec, EXACT, np.array([[1, 2, 3, 0], [9, 2, 3, 0]], np.int8)).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (dict(axis=2), InputValueError),
        (dict(axis=-1), InputValueError),
        (dict(x_shape=(), axis=0), InputValueError),
        (dict(dtype=np.dtype(np.int16)), InputTypeError),
        (dict(out_dtype=np.dtype(np.int8)), InputTypeError),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ArgMaxSpec(**(GOOD | change))
