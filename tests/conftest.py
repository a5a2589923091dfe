"""What all tests share: one seed, hypothesis settings, and the folder of real models."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import hypothesis
import pytest

# One seed for all random numbers of a session: fixed in CI, fresh elsewhere. In the environment, because the worker
# processes of pytest-xdist must draw the same.
CI_SEED = 20261123
os.environ.setdefault("GPUQ_SEED", str(CI_SEED if os.environ.get("CI") else secrets.randbits(32)))

# No deadline: machines differ. No database: a checkout stays as it is. The blob repeats a failing example anywhere.
hypothesis.settings.register_profile(
    "gpuq",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("gpuq")


def pytest_report_header() -> str:
    return f"GPUQ_SEED={os.environ['GPUQ_SEED']}"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Before hypothesis reads its option: --hypothesis-seed wins where it is given.
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = os.environ["GPUQ_SEED"]


@pytest.fixture
def seed() -> int:
    """The session's seed, for NumPy generators; failure messages print it."""
    return int(os.environ["GPUQ_SEED"])


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder with models/ and images/ of public repositories; it is not part of this one."""
    folder = Path(os.environ.get("GPUQ_MATERIAL") or Path(__file__).resolve().parents[2] / "shared")
    if (folder / "models").is_dir():
        return folder
    reason = f"no real models in {folder}: GPUQ_MATERIAL must name the folder that holds models/ and images/"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
