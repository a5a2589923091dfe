"""Where the time of a network goes: every step by itself, beside the whole, and against what the device can do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuq.cuda.ceilings import Ceilings, ceilings
from gpuq.model.model import Model
from gpuq.model.planner import Program, Step


@dataclass(frozen=True)
class StepProfile:
    """One step at one batch.

    Attributes:
        kernel: the kernel of this batch.
        seconds: of one launch.
        macs: multiply-accumulates of the batch.
        nbytes: of inputs, outputs and constants, each counted once.
        bound_seconds: the least that the device's measured ceilings allow; None on the CPU.
    """

    number: int
    op: str
    kernel: str
    shape: tuple[int, ...]
    seconds: float
    macs: int
    nbytes: int
    bound_seconds: float | None = None

    @property
    def of_ceiling(self) -> float | None:
        """Share of the device's measured ceiling, arithmetic or memory, whichever bounds the step.

        Above 1 where the step's tensors lie in the caches, which are faster than the memory whose ceiling it is.
        """
        return None if self.bound_seconds is None else self.bound_seconds / self.seconds

    @property
    def tops(self) -> float:
        """10^12 operations a second, two for each multiply-accumulate."""
        return 2e-12 * self.macs / self.seconds

    @property
    def gigabytes_per_second(self) -> float:
        return 1e-9 * self.nbytes / self.seconds


@dataclass(frozen=True)
class Profile:
    """A network at one batch.

    Attributes:
        seconds: of one run of the whole program, without copies to and from the host.
        ceilings: what the device does at most, as measured; None on the CPU.
    """

    batch: int
    device: str
    seconds: float
    steps: tuple[StepProfile, ...]
    ceilings: Ceilings | None = None

    @property
    def sum_seconds(self) -> float:
        """Of all steps by themselves; less than `seconds` where their inputs do not fit into the caches together."""
        return sum(step.seconds for step in self.steps)


def profile(model: Model, batch: int = 1, repeats: int = 20) -> Profile:
    """Times a network on random inputs, on the device that it was loaded for.

    Args:
        batch: runs at once.
        repeats: launches of each step, and runs of the whole, of which the mean is taken.

    Raises:
        DeviceOutOfMemory: the batch does not fit.
    """
    program = model.program
    limits = measured_ceilings(program)
    workspace = model._executor.open(batch)
    rng = np.random.default_rng(0)
    inputs = {}
    for index in program.graph.inputs:
        tensor = program.graph.tensors[index]
        shape = (batch, *tensor.shape)
        if tensor.dtype.kind == "f":
            inputs[index] = rng.normal(size=shape).astype(tensor.dtype)
        else:
            info = np.iinfo(tensor.dtype)
            inputs[index] = rng.integers(info.min, info.max, shape, tensor.dtype, endpoint=True)
    workspace.load(inputs)
    seconds = workspace.time_run(repeats)
    steps = []
    for number, step in enumerate(program.steps):
        macs, nbytes = step.macs * batch, step_bytes(step, batch)
        steps.append(
            StepProfile(
                number=number,
                op=step.op,
                kernel=step.kernel(batch),
                shape=step.outputs[0].shape,
                seconds=workspace.time_step(number, repeats),
                macs=macs,
                nbytes=nbytes,
                bound_seconds=None if limits is None else limits.seconds(macs, nbytes),
            )
        )
    return Profile(batch, str(program.device), seconds, tuple(steps), limits)


def measured_ceilings(program: Program) -> Ceilings | None:
    """Of the program's device, measured when first asked for; None on the CPU.

    Raises:
        DeviceOutOfMemory: there is no memory to measure in.
    """
    return None if program.launcher is None else ceilings(program.launcher)


def step_bytes(step: Step, batch: int) -> int:
    """What one launch must move at least: inputs, outputs and constants, each once."""
    return batch * sum(operand.nbytes for operand in (*step.inputs, *step.outputs)) + step.plan.constant_bytes
