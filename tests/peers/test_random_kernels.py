"""The random one-operator models of test_random_operators on the CUDA kernels, run on the CPU, beside gpuq's CPU path.

What has no kernel is refused by name, and counted: the share of each profile is printed, and the operators that none
of their cases runs are listed in WITHOUT_A_KERNEL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings

import gpuq
from gpuq.devices import Device
from gpuq.errors import UnsupportedModel
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read
from tests.compare import assert_equal_bits
from tests.host_cuda.runner import HostLauncher, require_tools

from .strategies import Case
from .test_random_operators import TABLES

CASES = int(os.environ.get("GPUQ_KERNEL_CASES", "4"))


@pytest.fixture(scope="module")
def launcher() -> Iterator[HostLauncher]:
    require_tools()
    with HostLauncher(seeds=(1,)) as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "op"), [(profile, op) for profile, table in TABLES.items() for op in table])
def test_equals_cpu(launcher: HostLauncher, profile: str, op: str) -> None:
    seed = int(os.environ["GPUQ_SEED"])
    strategy, _ = TABLES[profile][op]
    refused: list[str] = []
    ran = 0

    @hypothesis.seed(seed)
    @settings(settings.get_profile("gpuq"), max_examples=CASES)
    @given(strategy())
    def run(case: Case) -> None:
        nonlocal ran
        try:
            cpu = gpuq.load(case.model, device="cpu", numerics=profile)
        except UnsupportedModel:
            return
        try:
            model = Model(plan_program(read(case.model), Device("cuda"), profile, launcher))
        except UnsupportedModel as error:
            refused.append(str(error))
            return
        ran += 1
        want, got = cpu(*case.inputs), model(*case.inputs)
        wanted = want if isinstance(want, tuple) else (want,)
        found = got if isinstance(got, tuple) else (got,)
        for result, expected in zip(found, wanted, strict=True):
            assert_equal_bits(np.asarray(result), expected, f"{profile}, {case}, seed {seed}")

    run()
    if refused:
        print(f"REFUSED {profile} {op}: {len(refused)} of {len(refused) + ran}: {refused[0]}")
