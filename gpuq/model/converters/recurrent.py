"""Operators that carry state in a variable tensor of their own."""

from __future__ import annotations

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Joint, OperatorView
from gpuq.ops.spec import shape_text
from gpuq.ops.svdf import SvdfSpec, check_constants

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
    if view.option("FusedActivationFunction") != _RELU:
        raise InputTypeError("SVDF: a fused activation other than RELU is not supported")
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
    )
    check_constants(spec, features, times, bias)
    if state.shape != spec.output_shapes[1]:
        raise view.fail(f"state {shape_text(state.shape)} must be {shape_text(spec.output_shapes[1])}")
    return Joint(spec, spec.output_shapes, state=view.raw.inputs[4])
