"""A loaded network as users see it: call it, look at its tensors, ask for its inputs and outputs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import quant
from gpuq.cuda.affine import affine_on_device
from gpuq.cuda.arrays import as_cupy, is_device_array, like
from gpuq.devices import Device, resolve_device
from gpuq.errors import InputTypeError, InputValueError, ModelError
from gpuq.model.executor import Executor
from gpuq.model.graph import Graph, Signature, Tensor
from gpuq.model.planner import Program, plan_program
from gpuq.model.tflite_reader import Limits, read
from gpuq.ops.spec import shape_text

Array = npt.NDArray[Any]


def load(
    model: str | os.PathLike[str] | bytes | Graph,
    *,
    device: str = "auto",
    numerics: str = "litert_ref",
    limits: Limits = Limits(),
    memory_limit: int | None = None,
    fuse: bool = True,
) -> Model:
    """Loads a .tflite, ready to run.

    Args:
        model: a path, the file's bytes, or a Graph (as gpuq.quantize_model gives one).
        device: "auto" (a GPU if there is one to use, else the CPU), "cpu", "cuda" or "cuda:N".
        numerics: the runtime whose bits to give: "litert_ref" (LiteRT's reference kernels), "litert_opt" (its
            optimized x86 kernels), "xnnpack" (its default interpreter), "tflm" (TFLite Micro) or "single" (builds that
            round once); see docs/numerics.md.
        limits: the largest model to accept.
        memory_limit: bytes that constants, activations and scratch may take; a batch that needs more is computed in
            parts, with the same result, and threads take turns. None: what there is.
        fuse: False runs every operator of the file as a step of its own; True joins some of them on a GPU, with the
            same bits.

    Raises:
        FileNotFoundError, OSError: the path cannot be read.
        ModelError: a malformed, unsupported or too large model.
        DeviceNotAvailable: a GPU was asked for and there is none to use.
        DeviceOutOfMemory: not even one run fits.
        InputValueError: an unknown device or profile.

    >>> import gpuq
    >>> gpuq.load("model.tflite")(np.zeros((8, 224, 224, 3), np.uint8)).shape  # doctest: +SKIP
    (8, 1001)
    """
    content: bytes | Graph
    if isinstance(model, Graph):
        content, name = model, "model"
    elif isinstance(model, bytes | bytearray | memoryview):
        content, name = bytes(model), "model"
    else:
        path = Path(model)
        content, name = path.read_bytes(), path.name
    chosen = resolve_device(device)
    try:
        graph = content if isinstance(content, Graph) else read(content, limits)
        return Model(plan_program(graph, chosen, numerics, fuse=fuse), memory_limit)
    except ModelError as error:
        error.args = (f"{name}: {error}",)
        raise


class Model:
    """A network, loaded and planned. Immutable: any number of threads may call it.

    ``model(x)`` takes NumPy arrays and gives NumPy arrays. On a GPU it also takes CuPy arrays, and whatever has DLPack
    or __cuda_array_interface__, and gives arrays of the same kind (CuPy's, where that kind's library has no
    from_dlpack), on CuPy's current stream and without waiting for the GPU. Batch N
    means N independent runs: an input whose file says (1, 224, 224, 3) takes (N, 224, 224, 3), and outputs are joined
    along their first dimension.

    Some operators refuse data that the network computes: GATHER and GATHER_ND an index outside its dimension, DIV and
    FLOOR_DIV of integers and codes a divisor of 0. On a GPU that is an error of a call whose results are NumPy arrays,
    of run_batches and of tensors(). A call on arrays on the GPU waits for nothing and so cannot raise it: there the
    nearest index is taken, and 1 for the divisor.
    """

    def __init__(self, program: Program, memory_limit: int | None = None) -> None:
        self._program = program
        self._executor = Executor(program, memory_limit)
        self._memory_limit = memory_limit

    @cached_property
    def _unfused(self) -> Executor:
        """Runs every operator of the file by itself, with memory and constants of its own."""
        program = self._program
        if not program.is_fused:
            return self._executor
        plain = plan_program(program.graph, program.device, program.profile, program.launcher, fuse=False)
        return Executor(plain, self._memory_limit)

    @property
    def graph(self) -> Graph:
        """The network as read from the file."""
        return self._program.graph

    @property
    def program(self) -> Program:
        """The planned steps; print it."""
        return self._program

    @property
    def device(self) -> Device:
        return self._program.device

    @property
    def numerics(self) -> str:
        """The profile whose bits this model gives."""
        return self._program.profile

    @property
    def largest_batch(self) -> int | None:
        """Runs that are computed at once at most, as the memory limit or a lack of memory has it; None: any number."""
        return self._executor.largest_batch

    def __call__(self, *inputs: Array, quantize: bool = False, **named: Array) -> Any:
        """Runs the network from zero state.

        Args:
            inputs: one array per input in the file's order, each (N * first dimension, ...) in the input's dtype.
            named: inputs by tensor name, instead of or after positional ones.
            quantize: take floating-point arrays for quantized inputs, and quantize them with the input's own scale.

        Returns:
            The output; a tuple where there are several.

        Raises:
            InputTypeError: a wrong dtype, a missing, doubled or unknown input.
            InputValueError: a wrong shape, batches that differ, NaN in a float input, data that an operator refuses.
        """
        prepared, runs = self._prepare(inputs, named, quantize)
        return _unpacked(self._executor.run(prepared, runs), (*inputs, *named.values()))

    def run_batches(self, batches: Iterable[Any], *, quantize: bool = False) -> Iterator[Any]:
        """Runs one batch after the other, in order; on a GPU, copies in, computation and copies out overlap.

        Args:
            batches: one item per call: an array, a tuple of them (several inputs), or a dict by tensor name. Batches
                may differ in size. Taken as they are needed, three at most ahead of the results.
            quantize: as for calling the model.

        Yields:
            What the call would return.

        Raises:
            InputTypeError, InputValueError: as the call would, in the batch's turn where it is data that an operator
                refuses.
        """

        given: deque[tuple[Any, ...]] = deque()

        def prepared() -> Iterator[tuple[dict[int, Array], int]]:
            for batch in batches:
                named = batch if isinstance(batch, Mapping) else {}
                inputs = batch if isinstance(batch, tuple) else () if isinstance(batch, Mapping) else (batch,)
                found = self._prepare(inputs, named, quantize)
                given.append((*inputs, *named.values()))
                yield found

        for outputs in self._executor.run_batches(prepared()):
            yield _unpacked(outputs, given.popleft())

    def tensors(self, *inputs: Array, quantize: bool = False, **named: Array) -> dict[int, Array]:
        """Every tensor that an operator computes, by its number in the file; arguments as for calling the model.

        Looking changes nothing. Where operators are joined, which leaves some tensors out, they run by themselves here:
        that plan is made when the first tensors are asked for, and kept.
        """
        prepared, runs = self._prepare(inputs, named, quantize)
        return self._unfused.walk(prepared, runs)

    def session(self, batch: int = 1) -> Session:
        """A caller of its own state: variables last from call to call, as in an interpreter.

        Args:
            batch: independent streams, side by side in every call: each has state of its own.

        Raises:
            DeviceOutOfMemory: the session's memory does not fit.
        """
        if batch < 1:
            raise InputValueError(f"session: batch {batch} must be at least 1")
        return Session(self, batch)

    def get_input_details(self) -> list[dict[str, Any]]:
        """One dict per input, with the keys of LiteRT's Interpreter.get_input_details()."""
        return [_details(self.graph.tensors[index]) for index in self.graph.inputs]

    def get_output_details(self) -> list[dict[str, Any]]:
        """One dict per output, with the keys of LiteRT's Interpreter.get_output_details()."""
        return [_details(self.graph.tensors[index]) for index in self.graph.outputs]

    def get_signature_list(self) -> dict[str, dict[str, list[str]]]:
        """{key: {"inputs": names, "outputs": names}}, as LiteRT's Interpreter gives it."""
        return {
            signature.key: {
                "inputs": [name for name, _ in signature.inputs],
                "outputs": [name for name, _ in signature.outputs],
            }
            for signature in self.graph.signatures
        }

    def get_signature_runner(self, signature_key: str | None = None) -> SignatureRunner:
        """A function of named inputs that gives a dict of named outputs; the key may be left out if there is one."""
        signatures = {signature.key: signature for signature in self.graph.signatures}
        if signature_key is None:
            if len(signatures) != 1:
                raise InputValueError(f"the model has {len(signatures)} signatures {list(signatures)}; name one")
            signature_key = next(iter(signatures))
        if signature_key not in signatures:
            raise InputValueError(f"signature {signature_key!r} must be one of {list(signatures)}")
        return SignatureRunner(self, signatures[signature_key])

    def _prepare(
        self, inputs: tuple[Array, ...], named: Mapping[str, Array], quantize: bool
    ) -> tuple[dict[int, Array], int]:
        """Checked inputs by tensor number, and the number of runs."""
        wanted = [self.graph.tensors[index] for index in self.graph.inputs]
        names = {tensor.name: tensor.index for tensor in wanted}
        if len(inputs) > len(wanted):
            raise InputTypeError(f"{len(inputs)} inputs given; the model takes {len(wanted)}")
        given = {tensor.index: value for tensor, value in zip(wanted, inputs, strict=False)}
        for name, value in named.items():
            if name not in names:
                raise InputTypeError(f"no input is named {name!r}; there are {list(names)}")
            if names[name] in given:
                raise InputTypeError(f"input {name!r} is given twice")
            given[names[name]] = value
        return self._checked(given, quantize)

    def _checked(self, given: Mapping[int, Array], quantize: bool) -> tuple[dict[int, Array], int]:
        return checked_batch(self.graph, given, self.device, quantize)


class Session:
    """One caller's state over a Model. Not for several threads at once.

    Variables start as an interpreter's do: with what CALL_ONCE assigns, or at zero (the zero point of int8). Each call
    leaves them as the next one finds them.
    """

    def __init__(self, model: Model, batch: int) -> None:
        self._model = model
        self._workspace = model._executor.open(batch)

    @property
    def batch(self) -> int:
        """Runs per call."""
        return self._workspace.runs

    def __call__(self, *inputs: Array, quantize: bool = False, **named: Array) -> Any:
        """Runs the network with the state that the last call left; arguments as for the model."""
        prepared, runs = self._model._prepare(inputs, named, quantize)
        if runs != self.batch:
            raise InputValueError(f"session: a batch of {runs} in a session of batch {self.batch}")
        return _unpacked(self._model._executor.run_in(self._workspace, prepared), (*inputs, *named.values()))

    def reset(self) -> None:
        """Back to the state of a new session."""
        self._workspace.reset()


class SignatureRunner:
    """Calls a model by the names of one of its signatures."""

    def __init__(self, model: Model, signature: Signature) -> None:
        self._model = model
        self._signature = signature

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        names = dict(self._signature.inputs)
        unknown = [name for name in inputs if name not in names]
        if unknown:
            raise InputTypeError(f"no input is named {unknown[0]!r}; there are {list(names)}")
        prepared, runs = self._model._checked({names[name]: value for name, value in inputs.items()}, False)
        outputs = [like(next(iter(inputs.values()), None), out) for out in self._model._executor.run(prepared, runs)]
        results = dict(zip(self._model.graph.outputs, outputs, strict=True))
        return {name: results[index] for name, index in self._signature.outputs}

    def get_input_details(self) -> dict[str, dict[str, Any]]:
        """{name: details}, as LiteRT's SignatureRunner gives them."""
        return {name: _details(self._model.graph.tensors[index]) for name, index in self._signature.inputs}

    def get_output_details(self) -> dict[str, dict[str, Any]]:
        """{name: details}, as LiteRT's SignatureRunner gives them."""
        return {name: _details(self._model.graph.tensors[index]) for name, index in self._signature.outputs}


def checked_batch(
    graph: Graph, given: Mapping[int, Any], device: Device = Device("cpu"), quantize: bool = False
) -> tuple[dict[int, Array], int]:
    """A network's inputs by tensor number, as it takes them on this device, and the number of runs.

    Args:
        quantize: floating-point arrays for quantized inputs become codes.

    Raises:
        InputTypeError: a wrong dtype, a missing input, an array that is elsewhere.
        InputValueError: a wrong shape, batches that differ, NaN in a float input.
    """
    missing = [graph.tensors[index].name for index in graph.inputs if index not in given]
    if missing:
        raise InputTypeError(f"input {missing[0]!r} is missing; the model takes {len(graph.inputs)}")
    prepared, batches = {}, {}
    for index, value in given.items():
        tensor = graph.tensors[index]
        prepared[index], batches[tensor.name] = _checked_input(tensor, _here(tensor, value, device), quantize)
    if len({is_device_array(value) for value in prepared.values()}) > 1:
        raise InputTypeError("some inputs are on the GPU and some on the CPU; give all of them as one kind of array")
    if len(set(batches.values())) > 1:
        raise InputValueError(f"inputs of different batches: {batches}")
    return prepared, next(iter(batches.values()), 1)


def _here(tensor: Tensor, value: Any, device: Device) -> Any:
    """The input, if it is where the model can read it; arrays of other libraries on a GPU as CuPy's."""
    if not is_device_array(value):
        return value
    if device.kind == "cpu":
        raise InputTypeError(
            f"input {tensor.name!r} is on a GPU and the model on the CPU; load it with device='cuda', or copy the "
            "input to the host"
        )
    array = as_cupy(value)
    if int(array.device.id) != device.index:
        raise InputValueError(f"input {tensor.name!r} is on cuda:{array.device.id} and the model on {device}")
    return array


def _checked_input(tensor: Tensor, value: Any, quantize: bool) -> tuple[Array, int]:
    """The array in the tensor's dtype, and its number of runs."""
    on_device = is_device_array(value)
    array = value if on_device else np.asarray(value)
    if array.dtype != tensor.dtype:
        if array.dtype.kind == "f" and tensor.quant is not None and quantize:
            to_codes = partial(affine_on_device, "quantize") if on_device else quant.quantize
            array = to_codes(array, tensor.quant)
        else:
            hint = "; pass quantize=True" if array.dtype.kind == "f" and tensor.quant is not None else ""
            raise InputTypeError(f"input {tensor.name!r}: expected {tensor.dtype}, got {array.dtype}{hint}")
    lead, rest = (tensor.shape[0], tensor.shape[1:]) if tensor.shape else (1, ())
    if not tensor.shape and array.ndim == 0:
        array = array.reshape(1)
    if array.ndim == 0 or array.shape[1:] != rest or array.shape[0] == 0 or array.shape[0] % lead:
        raise InputValueError(
            f"input {tensor.name!r}: shape {shape_text(array.shape)} must be {tensor.batch_shape} with N >= 1"
        )
    # On a GPU nobody waits to see whether there is one.
    if not on_device and array.dtype.kind == "f" and np.isnan(array).any():
        raise InputValueError(f"input {tensor.name!r}: NaN at {quant.first_index(np.isnan(array))}")
    return array, array.shape[0] // lead


def _unpacked(outputs: list[Array], inputs: Sequence[Any]) -> Any:
    """The outputs as arrays of the first input's kind: one, or a tuple."""
    if inputs:
        outputs = [like(inputs[0], out) for out in outputs]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _details(tensor: Tensor) -> dict[str, Any]:
    quantized = tensor.quant
    per_tensor = quantized is not None and not quantized.is_per_channel
    return {
        "name": tensor.name,
        "index": tensor.index,
        "shape": np.array(tensor.shape, np.int32),
        "shape_signature": np.array(tensor.shape_signature, np.int32),
        "dtype": tensor.dtype.type,
        "quantization": (
            (quantized.scalar_scale(), quantized.scalar_zero_point()) if quantized and per_tensor else (0.0, 0)
        ),
        "quantization_parameters": {
            "scales": quantized.scales if quantized else np.zeros(0, np.float32),
            "zero_points": quantized.zero_points.astype(np.int32) if quantized else np.zeros(0, np.int32),
            "quantized_dimension": (quantized.axis or 0) if quantized else 0,
            "block_size": 0,
        },
        "sparsity_parameters": {},
    }
