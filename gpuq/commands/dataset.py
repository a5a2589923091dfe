"""The samples that `gpuq run` feeds to a network: files in order, read batch by batch."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuq.commands.files import is_array_file, read_array
from gpuq.commands.images import Normalization, picture_size, pixels_to_input, read_picture
from gpuq.errors import InputTypeError, InputValueError
from gpuq.model.graph import Graph, Tensor
from gpuq.ops.spec import UINT8, shape_text
from gpuq.quant import first_index, quantize

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """How files become inputs.

    Attributes:
        normalization: of pixels, from --mean and --std; None for the default rule.
        quantize: arrays of real values are welcome for quantized inputs.
    """

    normalization: Normalization | None = None
    quantize: bool = False


class Source(Protocol):
    """One file: some rows along the first dimension of an input."""

    @property
    def path(self) -> str: ...

    @property
    def rows(self) -> int: ...

    @property
    def taken_as(self) -> str:
        """What the file's numbers are: "picture", "pixels", "real values", "codes" or "values"."""
        ...

    @property
    def remark(self) -> str | None:
        """What the user should know about how the file was taken."""
        ...

    def read(self, start: int, stop: int) -> Array:
        """These rows in the input's dtype."""
        ...

    def name(self, row: int) -> str:
        """What to call a row."""
        ...


@dataclass(frozen=True)
class PictureSource:
    """A picture: one row."""

    path: str
    tensor: Tensor
    normalization: Normalization | None
    rows: int = 1
    taken_as: str = "picture"
    remark: str | None = None

    def read(self, start: int, stop: int) -> Array:
        pixels = read_picture(self.path, *picture_size(self.tensor))
        return pixels_to_input(pixels[None], self.tensor, self.normalization)[start:stop]

    def name(self, row: int) -> str:
        return self.path


@dataclass(frozen=True)
class ArraySource:
    """A .npy, or one array of an .npz: (rows, ...)."""

    path: str
    tensor: Tensor
    array: Array
    normalization: Normalization | None
    taken_as: str
    remark: str | None

    @property
    def rows(self) -> int:
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> Array:
        piece = np.asarray(self.array[start:stop])
        if piece.dtype.kind == "f" and np.isnan(piece).any():
            row, *rest = first_index(np.isnan(piece))
            raise InputValueError(f"input {self.path!r}: NaN at {(start + row, *rest)}; NaN has no code")
        if self.taken_as == "pixels":
            return pixels_to_input(piece, self.tensor, self.normalization)
        if self.taken_as == "real values" and self.tensor.quant is not None:
            return quantize(piece, self.tensor.quant)
        return piece

    def name(self, row: int) -> str:
        return self.path if self.rows == 1 else f"{self.path}[{row}]"


@dataclass(frozen=True)
class Feed:
    """All samples of one input of the network.

    Attributes:
        sources: in order; their rows follow each other.
    """

    tensor: Tensor
    sources: tuple[Source, ...]

    @cached_property
    def _ends(self) -> list[int]:
        """The row behind the last one of each source."""
        return list(itertools.accumulate(source.rows for source in self.sources))

    @property
    def rows_per_run(self) -> int:
        """The first dimension that the file says, 1 for nearly all networks."""
        return self.tensor.shape[0] if self.tensor.shape else 1

    @property
    def runs(self) -> int:
        return self._ends[-1] // self.rows_per_run

    def check(self) -> None:
        """Raises InputValueError unless the rows are a whole number of runs."""
        if self._ends[-1] % self.rows_per_run:
            raise InputValueError(
                f"input {self.tensor.name!r}: {self._ends[-1]} rows in all must be a multiple of {self.rows_per_run}"
            )

    def read(self, start: int, stop: int) -> Array:
        """The input of runs start to stop."""
        first, last = start * self.rows_per_run, stop * self.rows_per_run
        pieces = []
        # Bisected, not searched: a data set may be 50,000 pictures, and this runs once a batch.
        position = bisect.bisect_right(self._ends, first)
        while first < last:
            begin = self._ends[position - 1] if position else 0
            end = min(last, self._ends[position])
            pieces.append(self.sources[position].read(first - begin, end - begin))
            first, position = end, position + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def name(self, run: int) -> str:
        """What to call a run: its first row's name."""
        row = run * self.rows_per_run
        position = bisect.bisect_right(self._ends, row)
        return self.sources[position].name(row - (self._ends[position - 1] if position else 0))


def open_feeds(graph: Graph, files: Sequence[str], named: Sequence[str], reading: Reading) -> list[Feed]:
    """One Feed per input of the network, every file checked (pictures: only that they are there).

    Args:
        files: the INPUTs, for a network with one input.
        named: NAME=FILE, for any network; a name given twice continues that input's data set.

    Raises:
        InputTypeError, InputValueError: a missing or unknown input, a file that does not fit, data sets of different
            lengths.
    """
    paths = _paths(graph, files, named)
    feeds = []
    for index in graph.inputs:
        tensor = graph.tensors[index]
        feed = Feed(tensor, tuple(_open(path, tensor, reading) for path in paths[index]))
        feed.check()
        feeds.append(feed)
    runs = {feed.tensor.name: feed.runs for feed in feeds}
    if len(set(runs.values())) > 1:
        raise InputValueError(f"inputs of different numbers of samples: {runs}")
    return feeds


def _paths(graph: Graph, files: Sequence[str], named: Sequence[str]) -> Mapping[int, list[str]]:
    """The files of each input, by tensor number."""
    wanted = {graph.tensors[index].name: index for index in graph.inputs}
    if not wanted:
        raise InputTypeError("the model takes no inputs; there is nothing to run it on")
    # The converter calls an input "serving_default_image:0" that its author called "image": both will do.
    names = {
        name: index
        for signature in graph.signatures
        for name, index in signature.inputs
        if index in graph.inputs and name not in wanted
    } | wanted
    if files and (named or len(wanted) > 1):
        raise InputTypeError(
            f"the model takes {len(wanted)} inputs; give each one as --input NAME=FILE, names are {list(names)}"
            if len(wanted) > 1
            else "give INPUT or --input NAME=FILE, not both"
        )
    paths: dict[int, list[str]] = {index: [] for index in graph.inputs}
    paths[graph.inputs[0]].extend(files)
    for text in named:
        # A name may hold "=": the longest that fits is meant.
        fitting = [name for name in names if text.startswith(f"{name}=")]
        if not fitting:
            raise InputTypeError(f"--input {text!r} must be NAME=FILE; names are {list(names)}")
        name = max(fitting, key=len)
        paths[names[name]].append(text[len(name) + 1 :])
    missing = [name for name, index in wanted.items() if not paths[index]]
    if missing:
        raise InputTypeError(f"no INPUT for {missing[0]!r}; the model takes {len(wanted)}: {list(wanted)}")
    return paths


def _open(path: str, tensor: Tensor, reading: Reading) -> Source:
    if not is_array_file(path):
        picture_size(tensor)
        return PictureSource(path, tensor, reading.normalization)
    array = read_array(path)
    taken_as = _taken_as(path, array, tensor, reading)
    sample = tensor.shape[1:]
    rows_per_run = tensor.shape[0] if tensor.shape else 1
    remark = None
    if array.shape == sample and rows_per_run == 1:
        remark = f"{path}: {shape_text(array.shape)} has no batch dimension; taken as one sample"
        array = array[None]
    elif array.ndim != len(sample) + 1 or array.shape[1:] != sample or not array.shape[0]:
        raise InputValueError(
            f"input {path!r}: shape {shape_text(array.shape)} must be {tensor.batch_shape} with N >= 1"
            + (f", or {shape_text(sample)} for one sample" if rows_per_run == 1 else "")
        )
    return ArraySource(path, tensor, array, reading.normalization, taken_as, remark)


def _taken_as(path: str, array: Array, tensor: Tensor, reading: Reading) -> str:
    """What the numbers of an array are; InputTypeError if the network cannot take them."""
    if array.dtype == UINT8 and reading.normalization is not None:
        return "pixels"
    if array.dtype == tensor.dtype:
        return "codes" if tensor.quant is not None else "values"
    hint = ""
    if array.dtype.kind == "f" and tensor.quant is not None:
        if reading.quantize:
            return "real values"
        hint = "; --quantize takes real values and quantizes them with the input's own scale"
    elif array.dtype == UINT8:
        hint = "; if these are pixels, say their real values with --mean and --std"
    raise InputTypeError(f"input {path!r}: {tensor.name!r} takes {tensor.dtype}, the file has {array.dtype}{hint}")
