"""The random one-operator models of test_random_operators on the CUDA kernels, beside gpuq's CPU path.

What has no kernel is refused by name; of each operator some case must run.
GPUQ_KERNEL_CASES is the number of cases of each operator and profile. The kernels run on the CPU; with
GPUQ_KERNELS=gpu, on GPU 0.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings

import gpuq
from gpuq.cuda import unavailable
from gpuq.cuda.launch import launcher as gpu_launcher
from gpuq.cuda.launcher import Launcher
from gpuq.devices import Device
from gpuq.errors import UnsupportedModel
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read
from tests.compare import assert_equal_bits
from tests.host_cuda.runner import HostLauncher, require_tools

from .strategies import Case
from .test_float32 import elementwise, layers, movements, reductions
from .test_random_operators import TABLES

# Operators of float32 whose sums litert_opt and xnnpack leave to BLAS on the CPU.
OPEN_ORDERS = frozenset({"BATCH_MATMUL", "CONV_2D"})

CASES = int(os.environ.get("GPUQ_KERNEL_CASES", "4"))


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    if os.environ.get("GPUQ_KERNELS") == "gpu":
        assert unavailable(0) is None
        yield gpu_launcher(0)
        return
    require_tools()
    with HostLauncher(seeds=(1,)) as started:
        yield started


def run_both(
    content: bytes,
    inputs: Sequence[np.ndarray],
    profile: str,
    launcher: Launcher,
    where: object,
    order: str | None = None,
) -> bool:
    """Whether there are kernels for the model; raises unless they give what the CPU path gives.

    Args:
        order: the profile whose CPU path has the kernels' order of sums; default: the same.
    """
    cpu = gpuq.load(content, device="cpu", numerics=order or profile)
    try:
        model = Model(plan_program(read(content), Device("cuda"), profile, launcher))
    except UnsupportedModel as error:
        print(f"no kernel: {profile}: {error}")
        return False
    want, got = cpu(*inputs), model(*inputs)
    wanted, found = (each if isinstance(each, tuple) else (each,) for each in (want, got))
    for number, (result, expected) in enumerate(zip(found, wanted, strict=True)):
        assert_equal_bits(np.asarray(result), expected, f"output {number}, {profile}, {where}")
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "op"), [(profile, op) for profile, table in TABLES.items() for op in table])
def test_codes(launcher: Launcher, profile: str, op: str) -> None:
    seed = int(os.environ["GPUQ_SEED"])
    strategy, _ = TABLES[profile][op]
    ran = 0

    @hypothesis.seed(seed)
    @settings(settings.get_profile("gpuq"), max_examples=CASES)
    @given(strategy())
    def compare(case: Case) -> None:
        nonlocal ran
        # A case that nobody runs says nothing of kernels.
        with contextlib.suppress(UnsupportedModel):
            ran += run_both(case.model, case.inputs, profile, launcher, f"{case!r} (GPUQ_SEED={seed} repeats the run)")

    compare()
    assert ran, f"{profile}: no case of {op} has a kernel"


@pytest.mark.slow
@pytest.mark.parametrize("draw", [elementwise, reductions, movements, layers])
@pytest.mark.parametrize("profile", ["litert_ref", "litert_opt", "xnnpack"])
def test_float32(launcher: Launcher, profile: str, draw: Any, seed: int) -> None:
    ran: dict[str, bool] = {}
    for number in range(max(1, CASES // 4)):
        rng = np.random.default_rng([seed, number])
        for case in draw(rng):
            with contextlib.suppress(UnsupportedModel):
                where = f"{case.op} {[t.shape for t in case.inputs]}, case {number}, seed {seed}"
                order = "litert_ref" if case.op in OPEN_ORDERS else None
                done = run_both(case.model(), case.values(rng), profile, launcher, where, order)
                ran[case.op] = ran.get(case.op, False) or done
    assert [op for op, done in ran.items() if not done] == []
