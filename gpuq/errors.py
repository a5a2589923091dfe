"""Every error that gpuq raises on purpose.

A message gives operation, value and rule, for example
``conv2d: weights I=64 (OHWI 128x3x3x64) must equal input C=32``.
"""

from __future__ import annotations

from collections.abc import Iterable


class GpuqError(Exception):
    """Base of all errors that gpuq raises on purpose."""


class ModelError(GpuqError):
    """A model file that cannot be loaded or run."""


class MalformedModel(ModelError):
    """The file breaks the rules of its format, or an operator's own rules."""


class UnsupportedModel(ModelError):
    """A valid model that uses something gpuq (or the chosen profile) does not have.

    Attributes:
        operators: the numbers of the operators that the message names, where it names operators.
    """

    def __init__(self, message: str, operators: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.operators = tuple(operators)


class ModelLimit(ModelError):
    """A model larger than the stated limits."""


class InputTypeError(GpuqError, TypeError):
    """An argument of the wrong type or dtype. Nothing is ever cast silently."""


class InputValueError(GpuqError, ValueError):
    """An argument of the right type whose shape or value breaks a rule."""


class DeviceError(GpuqError):
    """Something about the device that was asked for."""


class DeviceNotAvailable(DeviceError):
    """The device does not exist here, or this build cannot use it."""


class DeviceOutOfMemory(DeviceError):
    """The device (or the host) has too little memory for the smallest possible batch."""


class DeviceLost(DeviceError):
    """The device stopped working, for example after an illegal address."""


class KernelCompileError(DeviceError):
    """A CUDA kernel did not compile.

    Attributes:
        log: everything that the compiler said; the message holds its first lines.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log
