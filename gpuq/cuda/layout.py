"""Where a batch of images lies in device memory: an offset and three pitches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gpuq.cuda.kernel import Slot


@dataclass(frozen=True)
class ImageLayout:
    """N images (N, H, W, C), channels contiguous.

    Pitches let CONCATENATION and PAD be written in place by the operators that produce their inputs.

    Attributes:
        image_pitch, row_pitch, pixel_pitch: distance of neighbours, in bytes.
        offset: the first element, in bytes from the memory's start.
        misalignment: where the memory starts, modulo 16; 0 for whole allocations, which begin at multiples of 256.
        itemsize: bytes of an element.
    """

    images: int
    image_pitch: int
    row_pitch: int
    pixel_pitch: int
    offset: int = 0
    misalignment: int = 0
    itemsize: int = 1

    @classmethod
    def contiguous(
        cls, images: int, height: int, width: int, channels: int, misalignment: int = 0, itemsize: int = 1
    ) -> ImageLayout:
        """Images side by side without gaps."""
        pixel = channels * itemsize
        return cls(images, height * width * pixel, width * pixel, pixel, 0, misalignment, itemsize)

    def slot(self, name: str) -> Slot:
        """The first element of the memory of this name, as a kernel argument."""
        return Slot(name, self.offset)

    def alignment(self, largest: int = 16) -> int:
        """The largest power of two, at most `largest` bytes, that divides every pixel's address."""
        return alignment(
            self.misalignment + self.offset, self.image_pitch, self.row_pitch, self.pixel_pitch, largest=largest
        )


def alignment(*distances: int, largest: int = 16) -> int:
    """The largest power of two, at most `largest`, which is one, that divides every distance."""
    return math.gcd(largest, *distances)


@dataclass(frozen=True, eq=False)
class ImageOperand:
    """Memory of a device and where in it a batch of images lies."""

    array: Any
    layout: ImageLayout
