"""Images in device memory as kernels see them: an address and three pitches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpuq.cuda.kernel import Pointer


@dataclass(frozen=True)
class ImageOperand:
    """N images (N, H, W, C) of one-byte or four-byte elements, channels contiguous.

    Pitches let CONCATENATION and PAD be written in place by the operators that produce their inputs.

    Attributes:
        array: the memory; anything that Pointer takes.
        offset: first element, in elements.
        image_pitch, row_pitch, pixel_pitch: distance of neighbours, in elements.
    """

    array: Any
    images: int
    offset: int
    image_pitch: int
    row_pitch: int
    pixel_pitch: int

    @classmethod
    def contiguous(cls, array: Any, in_h: int, in_w: int, in_c: int) -> ImageOperand:
        """A whole array as images of this size."""
        images = array.size // (in_h * in_w * in_c)
        return cls(array, images, 0, in_h * in_w * in_c, in_w * in_c, in_c)

    def pointer(self) -> Pointer:
        """The first element."""
        return Pointer(self.array, self.offset * self.array.itemsize)

    def alignment(self, largest: int = 16) -> int:
        """The largest power of two, at most `largest` elements, that divides every pixel's position.

        Allocations are aligned to 256 bytes.
        """
        alignment = largest
        for distance in (self.offset, self.image_pitch, self.row_pitch, self.pixel_pitch):
            while distance % alignment:
                alignment //= 2
        return alignment
