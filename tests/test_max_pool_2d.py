"""MAX_POOL_2D: the largest code inside the image; what its Spec refuses is in test_average_pool_2d.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings

from gpuq import Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.max_pool_2d import MaxPool2dSpec, reference
from gpuq.ops.window import Window2d

from .test_average_pool_2d import check_pool, pools

EXACT = Rule(Rounding.EXACT)


def test_by_hand() -> None:
    # SAME pads after: windows at the border see what is there, even where all of it is negative.
    x = np.array([[-5, -9, -2], [-7, -8, -4], [-3, -6, -1]], np.int8)
    window = Window2d.padded("same", 3, 3, kernel_h=2, kernel_w=2, stride_h=2, stride_w=2)
    quant = Quant(0.1)
    spec = MaxPool2dSpec(in_h=3, in_w=3, in_c=1, window=window, x_quant=quant, out_quant=quant)
    assert reference(spec, EXACT, x).reshape(2, 2).tolist() == [[-5, -2], [-3, -1]]
    relu = MaxPool2dSpec(in_h=3, in_w=3, in_c=1, window=window, x_quant=quant, out_quant=quant, activation="relu")
    assert not reference(relu, EXACT, x).any()


@settings(max_examples=60)
@given(pools(MaxPool2dSpec))
def test_reference_is_the_definition(case: tuple[Any, np.ndarray, int]) -> None:
    spec, x, rng_seed = case
    check_pool(spec, reference(spec, EXACT, x), x, max, f"seed {rng_seed}, {spec}")
