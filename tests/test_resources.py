"""gpuq.resources: shipped files in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuq import resources
from gpuq.resources import resource


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder without anything in or beside it."""
    folder = tmp_path / "site" / "gpuq"
    folder.mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", folder)
    return folder


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_checkout() -> None:
    root = Path(resources.__file__).parents[1]
    assert resource("kernels_cuda") == root / "kernels_cuda"
    assert resource("examples", "digits", "digits_int8.tflite").is_file()


def test_wheel(package: Path) -> None:
    put(package / "_bundled" / "kernels_cuda" / "a.cu", "wheel")
    assert resource("kernels_cuda", "a.cu").read_text() == "wheel"
    # Another project's folder of that name beside the package is not ours.
    put(package.parent / "kernels_cuda" / "a.cu", "somebody else's")
    assert resource("kernels_cuda", "a.cu").read_text() == "wheel"


def test_checkout_wins_over_a_stale_copy(package: Path) -> None:
    put(package / "_bundled" / "examples" / "x", "stale")
    put(package.parent / "examples" / "x", "checkout")
    put(package.parent / "pyproject.toml", "")
    assert resource("examples", "x").read_text() == "checkout"
    put(package / "_bundled" / "examples" / "only bundled", "wheel")
    assert resource("examples", "only bundled").read_text() == "wheel"


def test_missing(package: Path) -> None:
    with pytest.raises(FileNotFoundError, match="examples/none is missing from this installation"):
        resource("examples", "none")
