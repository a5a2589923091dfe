"""Operators that carry state in a variable tensor of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Joint, OperatorView
from gpuq.ops.float32.unidirectional_sequence_lstm import FloatUnidirectionalSequenceLstmSpec
from gpuq.ops.spec import FLOAT32, shape_text
from gpuq.ops.svdf import SvdfSpec, check_constants
from gpuq.ops.unidirectional_sequence_lstm import Constants, FourQuants, LstmShapes, UnidirectionalSequenceLstmSpec
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
_INPUT_WEIGHTS, _RECURRENT_WEIGHTS, _PEEPHOLES, _BIASES = range(1, 5), range(5, 9), range(9, 12), range(12, 16)
_PROJECTION, _PROJECTION_BIAS = 16, 17
_OUTPUT_STATE, _CELL_STATE = 18, 19
_NORMS = range(20, 24)
_HIDDEN = 4
_TANH = 4


def unidirectional_sequence_lstm(view: OperatorView) -> Joint:
    if len(view.raw.inputs) not in (20, 24):
        raise view.fail(f"has {len(view.raw.inputs)} inputs, it must have 20 or 24")
    if view.option("DiagonalRecurrentTensors"):
        raise InputTypeError("UNIDIRECTIONAL_SEQUENCE_LSTM: diagonal recurrent weights are not supported")
    x, hidden, cell = view.x(0), view.x(_OUTPUT_STATE), view.x(_CELL_STATE)
    for state in (hidden, cell):
        if not state.is_variable:
            raise view.fail(f"state {state.name!r} must be a variable")
    if len(x.shape) != 3 or len(hidden.shape) != 2 or len(cell.shape) != 2:
        raise view.fail(f"input {shape_text(x.shape)} must have rank 3, and the states rank 2")
    time_major = bool(view.option("TimeMajor"))
    steps, batch = x.shape[:2] if time_major else x.shape[1::-1]
    if hidden.shape[0] != batch or cell.shape[0] != batch:
        raise view.fail(f"states must have {batch} rows, they have {hidden.shape[0]} and {cell.shape[0]}")
    sizes = {
        "batch": batch,
        "steps": steps,
        "in_c": x.shape[2],
        "units": cell.shape[1],
        "out_c": hidden.shape[1],
        "time_major": time_major,
        "cell_clip": view.option("CellClip"),
        "projection_clip": view.option("ProjClip"),
    }
    spec = (_float_lstm if x.dtype == FLOAT32 else _int8_lstm)(view, sizes)
    positions = LSTM_DATA[3:]
    Constants.of(spec, [view.constant(position, "weights") if view.has(position) else None for position in positions])
    states = (view.raw.inputs[_OUTPUT_STATE], view.raw.inputs[_CELL_STATE])
    return Joint(spec, spec.output_shapes, states=states)


def _has_any(view: OperatorView, positions: range) -> bool:
    return any(view.has(position) for position in positions)


def _float_lstm(view: OperatorView, sizes: Mapping[str, Any]) -> LstmShapes:
    for position in (*_INPUT_WEIGHTS, *_RECURRENT_WEIGHTS, _PROJECTION):
        if view.has(position) and view.x(position).dtype != FLOAT32:
            kind = view.x(position).dtype
            raise InputTypeError(
                f"UNIDIRECTIONAL_SEQUENCE_LSTM: float32 tensors with weights of {kind} are not supported"
            )
    if view.option("FusedActivationFunction") != _TANH:
        raise InputTypeError("UNIDIRECTIONAL_SEQUENCE_LSTM: a fused activation other than TANH is not supported")
    if sizes["out_c"] > sizes["units"]:
        raise InputTypeError(
            "UNIDIRECTIONAL_SEQUENCE_LSTM: more float32 outputs than cells, for which LiteRT writes beyond its scratch "
            "memory, are not supported"
        )
    for state in (view.x(_OUTPUT_STATE), view.x(_CELL_STATE), view.out):
        if state.dtype != FLOAT32:
            raise view.fail(f"{state.name!r} of {state.dtype} must be float32, as the input is")
    return FloatUnidirectionalSequenceLstmSpec(
        **sizes,
        input_gate=view.has(_INPUT_WEIGHTS[0]),
        peepholes=_has_any(view, _PEEPHOLES),
        projection=view.has(_PROJECTION),
        norms=_has_any(view, _NORMS),
    )


def _int8_lstm(view: OperatorView, sizes: Mapping[str, Any]) -> LstmShapes:
    x_quant = view.quant(view.x(0))  # of other types say that, not what follows
    if len(view.raw.intermediates) != _HIDDEN + 1:
        raise view.fail(f"has {len(view.raw.intermediates)} intermediates, it must have 5")
    if min(view.raw.intermediates) < 0:
        raise view.fail("an intermediate is missing")
    intermediates = [view.tensors[index] for index in view.raw.intermediates]
    has_peepholes, has_norms = _has_any(view, _PEEPHOLES), _has_any(view, _NORMS)
    if has_peepholes and sizes["out_c"] > sizes["units"]:
        raise InputTypeError(
            "UNIDIRECTIONAL_SEQUENCE_LSTM: peepholes with more outputs than cells, for which LiteRT reads beyond both, "
            "are not supported"
        )

    def quants(positions: range) -> tuple[Quant | None, ...]:
        """Of the weights at these positions; the first belongs to the input gate, and may be missing."""
        optional = positions[0] if not view.has(positions[0]) else -1
        return tuple(None if position == optional else view.quant(view.x(position)) for position in positions)

    return UnidirectionalSequenceLstmSpec(
        **sizes,
        x_quant=x_quant,
        state_quant=view.quant(view.x(_OUTPUT_STATE)),
        out_quant=view.quant(view.out),
        hidden_quant=view.quant(intermediates[_HIDDEN]),
        cell_quant=view.quant(view.x(_CELL_STATE)),
        w_quants=cast(FourQuants, quants(_INPUT_WEIGHTS)),
        r_quants=cast(FourQuants, quants(_RECURRENT_WEIGHTS)),
        peephole_quants=cast("tuple[Quant | None, Quant, Quant]", quants(_PEEPHOLES)) if has_peepholes else None,
        projection_quant=view.quant(view.x(_PROJECTION)) if view.has(_PROJECTION) else None,
        norm_quants=cast(FourQuants, quants(_NORMS)) if has_norms else None,
        norm_x_quants=cast(FourQuants, tuple(map(view.quant, intermediates[:4]))) if has_norms else None,
        fuses_tanh=view.option("FusedActivationFunction") == _TANH,
    )


LSTM_DATA = (
    *(0, _OUTPUT_STATE, _CELL_STATE),
    *(*_INPUT_WEIGHTS, *_RECURRENT_WEIGHTS, *_BIASES, *_PEEPHOLES, _PROJECTION, _PROJECTION_BIAS, *_NORMS),
)
"""Inputs of an LSTM in the order in which reference() takes them."""
