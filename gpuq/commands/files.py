"""Arrays in files: .npy and .npz, read without trusting them and written all or nothing."""

from __future__ import annotations

import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

import gpuq
from gpuq.errors import InputValueError

Array = npt.NDArray[Any]

NPY_MAGIC = b"\x93NUMPY"
_NPZ_KEY = ".npz:"


def load_model(
    path: str, *, device: str, numerics: str, memory_limit: int | None = None, fuse: bool = True
) -> gpuq.Model:
    """`gpuq.load`, where a file that cannot be read is an InputValueError that names it."""
    try:
        return gpuq.load(path, device=device, numerics=numerics, memory_limit=memory_limit, fuse=fuse)
    except OSError as error:
        raise unreadable("model", path, error) from error


def unreadable(what: str, path: str, error: OSError) -> InputValueError:
    """The error for a file that the system does not let us read."""
    return InputValueError(f"{what} {path!r} cannot be read: {error.strerror or error}")


def is_array_file(path: str) -> bool:
    """Whether this INPUT holds an array rather than a picture.

    Raises:
        InputValueError: there is no such file, or it cannot be read.
    """
    file, key = split_key(path)
    if key is not None:
        return True
    try:
        with open(file, "rb") as stream:
            magic = stream.read(len(NPY_MAGIC))
    except OSError as error:
        raise unreadable("input", path, error) from error
    return magic == NPY_MAGIC or Path(file).suffix.lower() in (".npy", ".npz")


def split_key(path: str) -> tuple[str, str | None]:
    """("data.npz", "images") of "data.npz:images"; (path, None) of any other path, and of one that exists as it is."""
    position = path.rfind(_NPZ_KEY)
    if position < 0 or os.path.exists(path):
        return path, None
    return path[: position + len(".npz")], path[position + len(_NPZ_KEY) :]


def read_array(path: str) -> Array:
    """The array of a .npy (mapped, not read, so that it may be larger than memory) or of FILE.npz:KEY.

    Raises:
        InputValueError: no such file, not an array file, truncated, or one that holds Python objects.
    """
    file, key = split_key(path)
    try:
        # Not np.load: on any other file it advises to load it as a pickle, which runs what the file says.
        if key is None and Path(file).suffix.lower() != ".npz":
            mapped: Array = np.lib.format.open_memmap(file, mode="r")
            return mapped
        with open(file, "rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
            found = archive[key] if key in archive.files else None
            if not isinstance(found, np.ndarray):
                raise InputValueError(f"input {path!r}: name one array as FILE.npz:KEY; there are {archive.files}")
            return found
    except OSError as error:
        raise unreadable("input", path, error) from error
    except InputValueError:
        raise
    # A damaged header makes NumPy raise what its parser happens to meet; the classes differ by version.
    except (ValueError, EOFError, SyntaxError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputValueError(
            f"input {path!r} is not a whole .npy or .npz file of numbers: {_first_line(error)}"
        ) from error


def check_output(path: str, endings: Sequence[str] = (".npy", ".npz")) -> None:
    """Refuses a path that could not be written, before anything has been computed.

    Raises:
        InputValueError: another ending, no such folder, a folder, or no permission.
    """
    target = Path(path)
    if target.suffix not in endings:
        raise InputValueError(f"output {path!r} must end in {' or '.join(endings)}")
    if not target.parent.is_dir():
        raise InputValueError(f"output {path!r}: there is no folder {str(target.parent)!r}")
    if target.is_dir():
        raise InputValueError(f"output {path!r} is a folder")
    if not os.access(target.parent, os.W_OK):
        raise InputValueError(f"output {path!r}: no permission to write into {str(target.parent)!r}")


def write_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """Writes a .npy (of exactly one array) or an .npz, by name; the file is replaced at once or not at all.

    Raises:
        InputValueError: the disk is full, the folder has gone, and what else the system may object.
    """
    target = Path(path)
    # In the same folder, because os.replace is atomic only within a file system.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            if target.suffix == ".npy":
                (array,) = arrays.values()
                np.lib.format.write_array(stream, array, allow_pickle=False)
            else:
                _write_npz(stream, arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputValueError(f"output {path!r} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_npz(stream: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """np.savez takes names as keyword arguments, among which "file" is taken; here any name is good."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
