"""The package as a whole: its names, its errors, the examples in its docstrings."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

import gpuq
from gpuq import errors
from gpuq.ranges import annotate


def test_names() -> None:
    assert all(hasattr(gpuq, name) for name in gpuq.__all__)
    assert len(set(gpuq.__all__)) == len(gpuq.__all__)
    assert gpuq.__version__


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (errors.MalformedModel, (errors.ModelError,)),
        (errors.UnsupportedModel, (errors.ModelError,)),
        (errors.ModelLimit, (errors.ModelError,)),
        (errors.InputTypeError, (TypeError,)),
        (errors.InputValueError, (ValueError,)),
        (errors.DeviceNotAvailable, (errors.DeviceError,)),
        (errors.DeviceOutOfMemory, (errors.DeviceError,)),
        (errors.DeviceLost, (errors.DeviceError,)),
        (errors.KernelCompileError, (errors.DeviceError,)),
    ],
)
def test_errors(error: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    assert all(issubclass(error, base) for base in (errors.GpuqError, *bases))
    assert getattr(gpuq, error.__name__) is error


@pytest.mark.parametrize("name", ["gpuq.quant", "gpuq.numerics", "gpuq.model.model"])
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    done = doctest.testmod(module, extraglobs={"np": np, "gpuq": gpuq})
    assert done.attempted > 0
    assert done.failed == 0


def test_ranges_are_context_managers() -> None:
    with annotate("conv2d_im2col_sgemm"):
        pass
