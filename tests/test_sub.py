"""SUB: ADD's arithmetic with the second input negated."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.sub import SubSpec, reference

from .test_add import check_definition, random_spec


def test_by_hand() -> None:
    # As in test_add.py: 1.0 + 0.5 = 3 codes; 0 - 0.25 is half a code below zero, away: -1; 63 - 32.25 = 61.5 -> 62.
    spec = SubSpec(a_shape=(3,), b_shape=(3,), a_quant=Quant(0.5, 1), b_quant=Quant(0.25, -2), out_quant=Quant(0.5, 3))
    a, b = np.array([[3, 1, 127]], np.int8), np.array([[-4, -1, 127]], np.int8)
    assert reference(spec, Rule(Rounding.V1), a, b).tolist() == [[6, 2, 65]]


@settings(max_examples=60)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_reference_is_the_definition(data: st.DataObject, rng_seed: int) -> None:
    check_definition(random_spec(SubSpec, data.draw, rng_seed), reference, -1, rng_seed)


def test_output_scale_may_be_tiny() -> None:
    # ADD refuses this; SUB's runtimes take factors of 1 and more: (2 - 1) * 1.0 is 2^20 codes.
    one = Quant(1.0)
    spec = SubSpec(a_shape=(2,), b_shape=(2,), a_quant=one, b_quant=one, out_quant=Quant(2.0**-20, 5))
    a, b = np.array([[2, 1]], np.int8), np.array([[1, 1]], np.int8)
    assert reference(spec, Rule(Rounding.V1), a, b).tolist() == [[127, 5]]
