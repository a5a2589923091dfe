"""PAD: a frame of the output's zero point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.pad import PadSpec, reference

EXACT = Rule(Rounding.EXACT)


def test_by_hand() -> None:
    spec = PadSpec(x_shape=(1, 2), pads=((0, 1), (2, 1)), out_quant=Quant(0.1, -7))
    assert spec.output_shape == (2, 5)
    # Two runs; the run axis is never padded.
    got = reference(spec, EXACT, np.array([[[1, 2]], [[3, 4]]], np.int8))
    assert got.tolist() == [
        [[-7, -7, 1, 2, -7], [-7, -7, -7, -7, -7]],
        [[-7, -7, 3, 4, -7], [-7, -7, -7, -7, -7]],
    ]
    assert got.dtype == np.int8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(pads=((0, 1),)), InputValueError, "1 pairs of pads for 2"),
        (dict(pads=((0, 1), (-1, 0))), InputValueError, "negative"),
        (dict(out_quant=Quant([0.1, 0.1], axis=0)), InputValueError, "per tensor"),
        (dict(out_quant=Quant(0.1, dtype="int32")), InputTypeError, "int32"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PadSpec(**(dict(x_shape=(1, 2), pads=((0, 0), (0, 0)), out_quant=Quant(0.1)) | change))
