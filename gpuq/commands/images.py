"""From pictures to a network's input: RGB or grey, Pillow BILINEAR to the input's size, no crop, then codes.

A pixel p is 0..255. Without a mean and std it becomes

    uint8 input     code p
    int8 input      code p - 128
    float32 input   value p / 255

With them the real value (p - mean) / std, in float32, is quantized with the input's own scale and zero point; a
float32 input takes it as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.commands.files import unreadable
from gpuq.errors import InputValueError
from gpuq.model.graph import Tensor
from gpuq.ops.spec import FLOAT32, INT8, UINT8, shape_text
from gpuq.quant import quantize

Array = npt.NDArray[Any]

CHANNELS = {1: "L", 3: "RGB"}

# Raster formats only: for some others (EPS) Pillow starts outside programs on the file.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True)
class Normalization:
    """real = (p - mean) / std; one value, or one per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def real(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Pixels (..., C) to real values, in float32.

        Raises:
            InputValueError: as many values as the pixels have no channels.
        """
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            channels = pixels.shape[-1] if pixels.ndim else 1
            if len(values) not in (1, channels):
                raise InputValueError(
                    f"{name} has {len(values)} values; it must be 1, or the {channels} of the input's channels"
                )
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (pixels.astype(np.float32) - mean) / std


def parse_normalization(mean: str | None, std: str | None) -> Normalization | None:
    """The normalization that --mean and --std ask for; None without either. The one left out is 0 or 1.

    Raises:
        InputValueError: not one or several comma-separated finite numbers, or a std that is not positive.
    """
    if mean is None and std is None:
        return None
    deviations = _numbers("--std", std or "1")
    if any(value <= 0 for value in deviations):
        raise InputValueError(f"--std {std!r}: every value must be positive")
    return Normalization(_numbers("--mean", mean or "0"), deviations)


def picture_size(tensor: Tensor) -> tuple[int, int, int]:
    """(height, width, channels) of the pictures that an input takes.

    Raises:
        InputValueError: the input is no picture.
    """
    if len(tensor.shape) != 4 or tensor.shape[3] not in CHANNELS:
        raise InputValueError(
            f"input {tensor.name!r} is {shape_text(tensor.shape)}; pictures need an input NxHxWx3 or NxHxWx1"
        )
    _, height, width, channels = tensor.shape
    return height, width, channels


def pixels_to_input(pixels: npt.NDArray[np.uint8], tensor: Tensor, normalization: Normalization | None) -> Array:
    """Pixels (n, ...) in the input's dtype, by the rule at the head of this file.

    Raises:
        InputValueError: a dtype that pixels have no code for, or an input without scale to quantize with.
    """
    if normalization is not None:
        real = normalization.real(pixels)
        if tensor.dtype == FLOAT32:
            return real
        if tensor.quant is None:
            raise InputValueError(
                f"input {tensor.name!r} of {tensor.dtype} has no scale that --mean and --std could use"
            )
        return quantize(real, tensor.quant)
    if tensor.dtype == UINT8:
        return pixels
    if tensor.dtype == INT8:
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    if tensor.dtype == FLOAT32:
        return pixels.astype(np.float32) / np.float32(255)
    raise InputValueError(
        f"input {tensor.name!r}: a pixel has no code in {tensor.dtype}; say its real value with --mean and --std"
    )


def pixel_rule(tensor: Tensor) -> str | None:
    """What a pixel p of a picture becomes without --mean and --std, in words; None for inputs that take no pictures."""
    try:
        height, width, channels = picture_size(tensor)
    except InputValueError:
        return None
    size = f"pictures become {height}x{width} {'RGB' if channels == 3 else 'grey'}"
    if tensor.dtype == FLOAT32:
        return f"{size}; a pixel p (0..255) becomes p / 255"
    if tensor.dtype not in (INT8, UINT8):
        return f"{size}; pixels need --mean and --std"
    middle = 128 if tensor.dtype == INT8 else 0
    code = "p - 128" if middle else "p"
    if tensor.quant is None:
        return f"{size}; a pixel p (0..255) becomes code {code}"
    offset = middle + tensor.quant.scalar_zero_point()
    centred = f"(p - {offset})" if offset > 0 else f"(p + {-offset})" if offset else "p"
    return (
        f"{size}; a pixel p (0..255) becomes code {code}, the real value {tensor.quant.scalar_scale():.6g} * {centred}"
    )


def read_picture(path: str, height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """A picture as uint8 (height, width, channels).

    Transparency is dropped, of several frames the first is taken, and an orientation in EXIF is not applied.

    Raises:
        InputValueError: no such file, nothing that Pillow reads, a damaged file, or pixels wider than 8 bits.
    """
    # Pillow takes longer to import than all of gpuq's own code.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.mode == "F" or picture.mode.startswith("I"):
                raise InputValueError(f"picture {path!r} has pixels of mode {picture.mode!r}; they must be 8 bits wide")
            converted = picture.convert(CHANNELS[channels])
        resized = converted.resize((width, height), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise InputValueError(
            f"input {path!r} is neither .npy nor a picture (BMP, GIF, JPEG, PNG, PPM, TIFF, WebP)"
        ) from error
    except InputValueError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise unreadable("picture", path, error) from error
        raise _damaged(path, error) from error
    except MemoryError:
        raise
    except Exception as error:  # what Pillow's decoders raise on damaged files has no common class
        raise _damaged(path, error) from error
    return np.asarray(resized, np.uint8).reshape(height, width, channels)


def _damaged(path: str, error: Exception) -> InputValueError:
    return InputValueError(f"picture {path!r} cannot be decoded: {str(error) or type(error).__name__}")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputValueError(f"{option} {text!r} must be a number, or several separated by commas") from error
    if not all(math.isfinite(value) for value in values):
        raise InputValueError(f"{option} {text!r}: every value must be finite")
    return values
