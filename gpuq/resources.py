"""Files that ship with gpuq: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """The path of a shipped file or folder, for example resource("examples", "digits").

    A checkout comes first: an editable install may leave a stale copy inside the package.
    """
    for root in (_PACKAGE.parent, _PACKAGE / "_bundled"):
        path = root.joinpath(*parts)
        if path.exists() and (root != _PACKAGE.parent or (root / "pyproject.toml").exists()):
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} is missing from this installation of gpuq")
