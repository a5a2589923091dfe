"""RESHAPE, SQUEEZE, EXPAND_DIMS: the same bytes under another shape."""

from __future__ import annotations

import numpy as np
import pytest

from gpuq import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops.reshape import ExpandDimsSpec, ReshapeSpec, SqueezeSpec, reference


@pytest.mark.parametrize("spec_type", [ReshapeSpec, SqueezeSpec, ExpandDimsSpec])
def test_views(spec_type: type[ReshapeSpec]) -> None:
    spec = spec_type(x_shape=(2, 1, 3), out_shape=(6,), dtype=np.dtype(np.int8))
    assert spec.is_view
    x = np.arange(12, dtype=np.int8).reshape(2, 2, 1, 3)
    got = reference(spec, Rule(Rounding.EXACT), x)
    assert got.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert np.shares_memory(got, x)


def test_scalars() -> None:
    spec = ReshapeSpec(x_shape=(), out_shape=(1, 1), dtype=np.dtype(np.int8))
    assert reference(spec, Rule(Rounding.EXACT), np.array([5, 6], np.int8)).shape == (2, 1, 1)


def test_spec_refuses() -> None:
    with pytest.raises(InputValueError, match="2x3 has 6 elements, output 7 has 7"):
        ReshapeSpec(x_shape=(2, 3), out_shape=(7,), dtype=np.dtype(np.int8))
