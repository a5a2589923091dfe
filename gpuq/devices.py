"""Which device a network or an operator runs on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuq import cuda
from gpuq.errors import DeviceNotAvailable, InputValueError


@dataclass(frozen=True)
class Device:
    """A device: kind "cpu" or "cuda", and the GPU's number."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def resolve_device(name: str) -> Device:
    """The device that this name means here and now.

    Args:
        name: "auto" (a GPU that gpuq can use, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        InputValueError: another name.
        DeviceNotAvailable: a GPU was asked for and there is none to use; the message says why.
    """
    if name == "cpu":
        return Device("cpu")
    if name == "auto":
        return Device("cpu") if cuda.unavailable(0) else Device("cuda", 0)
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not match:
        raise InputValueError(f"device {name!r} must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    index = int(match[1] or 0)
    reason = cuda.unavailable(index)
    if reason:
        raise DeviceNotAvailable(f"device {name!r}: {reason}")
    return Device("cuda", index)
