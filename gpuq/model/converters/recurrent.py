"""Operators that carry state in a variable tensor of their own."""

from __future__ import annotations

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Joint, OperatorView
from gpuq.ops.spec import INT8, INT32, shape_text
from gpuq.ops.svdf import SvdfSpec, check_constants
from gpuq.ops.unidirectional_sequence_lstm import UnidirectionalSequenceLstmSpec
from gpuq.quant import Quant

_RELU = 1


def svdf(view: OperatorView) -> Joint:
    x, state = view.x(0), view.x(4)
    if not state.is_variable:
        raise view.fail(f"state {state.name!r} must be a variable")
    features, times = view.constant(1, "feature weights"), view.constant(2, "time weights")
    bias = view.constant(3, "bias") if view.has(3) else None
    rank = view.option("Rank")
    if len(x.shape) != 2 or features.ndim != 2 or times.ndim != 2:
        raise view.fail("input, feature weights and time weights must have rank 2")
    if rank < 1 or len(features) % rank:
        raise view.fail(f"{len(features)} filters must be a multiple of rank {rank}")
    spec = SvdfSpec(
        rows=x.shape[0],
        in_c=x.shape[1],
        units=len(features) // rank,
        rank=rank,
        memory=times.shape[1],
        x_quant=view.quant(x),
        feature_quant=view.quant(view.x(1)),
        time_quant=view.quant(view.x(2)),
        state_quant=view.quant(state),
        out_quant=view.quant(view.out),
        has_bias=bias is not None,
        has_relu=view.option("FusedActivationFunction") == _RELU,
    )
    check_constants(spec, features, times, bias)
    if state.shape != spec.output_shapes[1]:
        raise view.fail(f"state {shape_text(state.shape)} must be {shape_text(spec.output_shapes[1])}")
    return Joint(spec, spec.output_shapes, states=(view.raw.inputs[4],))


# Inputs of an LSTM by their position in the file.
_INPUT_WEIGHTS, _RECURRENT_WEIGHTS, _BIASES = range(1, 5), range(5, 9), range(12, 16)
_OUTPUT_STATE, _CELL_STATE = 18, 19
_UNSUPPORTED_PARTS = {"peepholes": range(9, 12), "a projection": range(16, 18), "layer normalization": range(20, 24)}
_HIDDEN = 4
_TANH = 4


def unidirectional_sequence_lstm(view: OperatorView) -> Joint:
    for what, positions in _UNSUPPORTED_PARTS.items():
        if any(view.has(position) for position in positions):
            raise InputTypeError(f"UNIDIRECTIONAL_SEQUENCE_LSTM: {what} are not supported")
    if view.option("TimeMajor") or view.option("DiagonalRecurrentTensors"):
        raise InputTypeError("UNIDIRECTIONAL_SEQUENCE_LSTM: time-major data and diagonal weights are not supported")
    if view.option("FusedActivationFunction") != _TANH:
        raise InputTypeError("UNIDIRECTIONAL_SEQUENCE_LSTM: a fused activation other than TANH is not supported")
    x, hidden, cell = view.x(0), view.x(_OUTPUT_STATE), view.x(_CELL_STATE)
    for state in (hidden, cell):
        if not state.is_variable:
            raise view.fail(f"state {state.name!r} must be a variable")
    if len(x.shape) != 3 or len(hidden.shape) != 2:
        raise view.fail(f"input {shape_text(x.shape)} must have rank 3, and the output state rank 2")
    batch, steps, in_c = x.shape
    units = hidden.shape[1]
    if len(view.raw.intermediates) <= _HIDDEN:
        raise view.fail(f"has {len(view.raw.intermediates)} intermediates, it must have 5")

    def quants(positions: range, columns: int) -> tuple[Quant | None, Quant, Quant, Quant]:
        found: list[Quant | None] = []
        for gate, position in enumerate(positions):
            if gate == 0 and not view.has(position):
                found.append(None)
                continue
            weights = view.constant(position, "weights")
            if weights.shape != (units, columns) or weights.dtype != INT8:
                raise view.fail(f"weights {weights.dtype} {weights.shape} must be int8 {(units, columns)}")
            found.append(view.quant(view.x(position)))
        return tuple(found)  # type: ignore[return-value]

    for position in _BIASES:
        if view.has(position):
            bias = view.constant(position, "bias")
            if bias.shape != (units,) or bias.dtype != INT32:
                raise view.fail(f"bias {bias.dtype} {bias.shape} must be int32 {(units,)}")
    spec = UnidirectionalSequenceLstmSpec(
        batch=batch,
        steps=steps,
        in_c=in_c,
        units=units,
        x_quant=view.quant(x),
        out_quant=view.quant(hidden),
        hidden_quant=view.quant(view.tensors[view.raw.intermediates[_HIDDEN]]),
        cell_quant=view.quant(cell),
        w_quants=quants(_INPUT_WEIGHTS, in_c),
        r_quants=quants(_RECURRENT_WEIGHTS, units),
        cell_clip=view.option("CellClip"),
    )
    states = (view.raw.inputs[_OUTPUT_STATE], view.raw.inputs[_CELL_STATE])
    return Joint(spec, spec.output_shapes, states=states)
