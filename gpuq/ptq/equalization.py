"""Cross-layer range equalization: channels of a layer and the layer behind it are scaled against each other.

Where y = relu(W1 x + b1) goes to one layer W2 only, dividing an output channel of W1 and b1 by s > 0 and multiplying
that input channel of W2 by s changes nothing in real numbers. s = sqrt(r1 / r2) gives both channels one range.

Source: Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gpuq.model.tflite_file import RawModel, RawOperator
from gpuq.ptq.rewrite import can_quantize, constant, with_constant
from gpuq.ptq.scheme import SCHEMES, Weights, data_input

MAX_ROUNDS = 40
TOLERANCE = 1e-4
LARGEST_FACTOR = 1e4
"""A channel is scaled by no more in one round: weights near zero say little about ranges."""

_POSITIVELY_HOMOGENEOUS = ("PAD", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RELU", "RESHAPE")
_NO_ACTIVATION, _RELU = 0, 1


def equalize(raw: RawModel) -> tuple[RawModel, int]:
    """The network with the ranges of its weights' channels equalized, and how many pairs of layers that touched.

    Pairs are layers with constant weights, the second the only reader of the first, with no activation or RELU between
    them (RELU6 would cut elsewhere), perhaps by way of operators that commute with a scale for each channel.
    """
    pairs = list(_pairs(raw))
    tensors = list(raw.tensors)
    for _ in range(MAX_ROUNDS):
        change = 0.0
        for first, second in pairs:
            w1, w2 = _weights(first), _weights(second)
            a, b = first.inputs[w1.position], second.inputs[w2.position]
            outgoing, incoming = constant(tensors[a]).astype(np.float64), constant(tensors[b]).astype(np.float64)
            r1, r2 = _reach(outgoing, w1.axis), _reach(incoming, w2.in_axis)
            live = (r1 > 0) & (r2 > 0)
            factors = np.ones_like(r1)
            factors[live] = np.clip(np.sqrt(r1[live] / r2[live]), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
            # Powers of two scale exactly: real results are the same to the last bit.
            factors = np.exp2(np.rint(np.log2(factors)))
            change = max(change, float(np.abs(np.log2(factors)).max(initial=0.0)))
            tensors[a] = with_constant(tensors[a], outgoing / _along(factors, outgoing.ndim, w1.axis))
            tensors[b] = with_constant(tensors[b], incoming * _along(factors, incoming.ndim, w2.in_axis))
            if w1.bias < len(first.inputs) and first.inputs[w1.bias] >= 0:
                c = first.inputs[w1.bias]
                tensors[c] = with_constant(tensors[c], constant(tensors[c]) / factors)
        if change <= TOLERANCE:
            break
    return replace(raw, tensors=tuple(tensors)), len(pairs)


def _weights(operator: RawOperator) -> Weights:
    weights = SCHEMES[operator.name].weights
    assert weights is not None
    return weights


def _pairs(raw: RawModel) -> Iterator[tuple[RawOperator, RawOperator]]:
    readers: dict[int, list[RawOperator]] = {}
    for operator in raw.operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator)
    taken = set(raw.outputs)
    for first in raw.operators:
        if not _is_layer(raw, first) or (first.options or {}).get("FusedActivationFunction") not in (
            _NO_ACTIVATION,
            _RELU,
        ):
            continue
        if any(len(readers.get(index, ())) > 1 for index in _constants(first)):
            continue
        index = first.outputs[0]
        while index not in taken and len(readers.get(index, ())) == 1:
            second = readers[index][0]
            if _is_layer(raw, second):
                if (
                    second.inputs[data_input(second)] == index
                    and _channels_match(raw, first, second, index)
                    and not any(len(readers.get(number, ())) > 1 for number in _constants(second))
                ):
                    yield first, second
                break
            if not _passes(raw, second):
                break
            index = second.outputs[0]


def _is_layer(raw: RawModel, operator: RawOperator) -> bool:
    scheme = SCHEMES.get(operator.name)
    return scheme is not None and scheme.weights is not None and can_quantize(raw, operator)


def _constants(operator: RawOperator) -> list[int]:
    weights = _weights(operator)
    return [operator.inputs[p] for p in (weights.position, weights.bias) if p < len(operator.inputs)]


def _passes(raw: RawModel, operator: RawOperator) -> bool:
    """The operator commutes with a positive scale for each channel, and keeps channels where they are."""
    if operator.name not in _POSITIVELY_HOMOGENEOUS:
        return False
    if (operator.options or {}).get("FusedActivationFunction", _NO_ACTIVATION) not in (_NO_ACTIVATION, _RELU):
        return False
    x, y = raw.tensors[operator.inputs[0]].shape, raw.tensors[operator.outputs[0]].shape
    return bool(x and y) and x[-1] == y[-1]


def _channels_match(raw: RawModel, first: RawOperator, second: RawOperator, between: int) -> bool:
    """An output channel of the first is an input channel of the second: no groups, no multiplier, no flattening."""
    w1, w2 = _weights(first), _weights(second)
    outgoing = raw.tensors[first.inputs[w1.position]].shape[w1.axis]
    incoming = raw.tensors[second.inputs[w2.position]].shape[w2.in_axis]
    return outgoing == incoming == raw.tensors[between].shape[-1]


def _reach(values: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    others = tuple(i for i in range(values.ndim) if i != axis)
    return np.asarray(np.abs(values).max(axis=others))


def _along(vector: npt.NDArray[np.float64], rank: int, axis: int) -> npt.NDArray[np.float64]:
    shape = [1] * rank
    shape[axis] = vector.size
    return vector.reshape(shape)
