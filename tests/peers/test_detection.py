"""TFLite_Detection_PostProcess beside LiteRT: float32 and uint8, fast and regular suppression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

import gpuq
from gpuq.devices import Device
from gpuq.errors import InputValueError, MalformedModel, UnsupportedModel
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read
from gpuq.model.tflite_writer import write
from tests.compare import assert_equal_bits

from . import layers_each
from .one_operator import TensorDef, default_signature, schema_tensor
from .runtimes import PEERS, PeerRefused

CASES = layers_each(25)
F = np.float32


def detector(inputs: list[TensorDef], rows: int, options: dict[str, Any]) -> bytes:
    """A model with this operator alone."""
    model = schema.ModelT()
    model.version = 3
    model.description = "detector"
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "TFLite_Detection_PostProcess"
    code.version = 1
    model.operatorCodes = [code]
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.name = "main"
    outputs = [TensorDef(shape, F) for shape in ((1, rows, 4), (1, rows), (1, rows), (1,))]
    graph.tensors = [schema_tensor(one, f"tensor_{i}", model.buffers) for i, one in enumerate([*inputs, *outputs])]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2], [3, 4, 5, 6]
    operator.customOptions = list(flexbuffers.Dumps(options))
    graph.operators = [operator]
    graph.inputs, graph.outputs = [0, 1], [3, 4, 5, 6]
    model.subgraphs = [graph]
    model.signatureDefs = [default_signature(graph)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def random_case(rng: np.random.Generator, *, micro: bool = False) -> tuple[bytes, list[np.ndarray], dict[str, Any]]:
    """Boxes that overlap, scores that differ (the order of equal ones in a row is not defined).

    Args:
        micro: as TFLite Micro takes them: float32, and one class of a box in fast suppression.
    """
    boxes, classes = int(rng.integers(1, 60)), int(rng.integers(1, 6))
    columns = classes + int(rng.integers(2))
    quantized = bool(rng.integers(2)) and not micro
    options = {
        "max_detections": int(rng.integers(1, 12)),
        "max_classes_per_detection": int(rng.integers(1, classes + 1)),
        "detections_per_class": int(rng.integers(1, 30)),
        "use_regular_nms": bool(rng.integers(2)),
        "nms_score_threshold": float(rng.choice([0.0, 0.3, 0.6])),
        "nms_iou_threshold": float(rng.uniform(0.1, 0.9)),
        "num_classes": classes,
        "y_scale": 10.0,
        "x_scale": 10.0,
        "h_scale": 5.0,
        "w_scale": 5.0,
    }
    if not options["use_regular_nms"]:
        del options["detections_per_class"], options["use_regular_nms"]
        if micro:
            options["max_classes_per_detection"] = 1
    shapes = ((1, boxes, 4), (1, boxes, columns), (boxes, 4))
    if quantized:
        codes = [rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
        # 256 different scores in a column at most: equal ones keep the anchors' order.
        codes[1] = rng.permuted(np.resize(np.arange(256, dtype=np.uint8), shapes[1]), axis=1)
        inputs = [
            TensorDef(shapes[0], np.uint8, 0.06, 128),
            TensorDef(shapes[1], np.uint8, 1 / 256, 0),
            TensorDef(shapes[2], np.uint8, 1 / 256, 0, data=codes[2]),
        ]
        values = codes[:2]
    else:
        anchors = np.concatenate([rng.uniform(0, 1, (boxes, 2)), rng.uniform(0.1, 0.6, (boxes, 2))], axis=1).astype(F)
        values = [rng.normal(0, 3, shapes[0]).astype(F), rng.uniform(0, 1, shapes[1]).astype(F)]
        inputs = [
            TensorDef(shapes[0], F),
            TensorDef(shapes[1], F),
            TensorDef(shapes[2], F, data=anchors),
        ]
    if options["max_classes_per_detection"] > 1:
        # partial_sort is not stable: no two scores of an anchor may be equal.
        values[1] = np.array(
            [
                rng.permutation(np.unique(row)[: row.size])
                if np.unique(row).size == row.size
                else rng.permutation(np.arange(row.size) * 3 + 5)
                for row in values[1][0]
            ]
        ).astype(values[1].dtype)[None]
    rows = options["max_detections"] * options["max_classes_per_detection"]
    return detector(inputs, rows, options), values, options


@pytest.mark.parametrize("profile", ["litert_ref", "litert_opt", "xnnpack", "tflm"])
def test_random_detectors(profile: str, seed: int) -> None:
    """Equal bits in all rows that the runtime writes."""
    for number in range(CASES):
        content, values, options = random_case(np.random.default_rng([seed, number]), micro=profile == "tflm")
        want = PEERS[profile](content).run(values).outputs
        got = gpuq.load(content, device="cpu", numerics=profile)(*values)
        where = f"case {number}, {options}, seed {seed}"
        assert_equal_bits(got[3], want[3], where)
        count, per_anchor = int(want[3][0]), options["max_classes_per_detection"]
        written = options["max_detections"] if "use_regular_nms" in options else count * per_anchor
        for one, other in zip(got[:3], want[:3], strict=True):
            assert_equal_bits(one[:, :written], other[:, :written], where)


def test_batches_are_runs(seed: int) -> None:
    content, values, _ = random_case(np.random.default_rng([seed, 3]))
    model = gpuq.load(content, device="cpu")
    again = [np.concatenate([value, value[:, ::-1]]) for value in values]
    together = model(*again)
    for run in range(2):
        for one, other in zip(model(*(value[run : run + 1] for value in again)), together, strict=True):
            assert_equal_bits(one, other[run : run + 1], f"run {run}, seed {seed}")


def test_constants_are_folded(seed: int) -> None:
    """All outputs of an operator without activations are constants."""
    content, values, _ = random_case(np.random.default_rng([seed, 5]))
    graph = read(content)
    tensors = list(graph.tensors)
    for index, value in zip(graph.inputs, values, strict=True):
        tensors[index] = replace(tensors[index], data=value)
    folded = replace(graph, tensors=tuple(tensors), inputs=())
    constants = plan_program(folded, Device("cpu"), "litert_ref").constants
    for index, want in zip(graph.outputs, gpuq.load(content, device="cpu")(*values), strict=True):
        assert_equal_bits(constants[index], want, f"seed {seed}")


def test_writing_keeps_the_options(seed: int) -> None:
    content, values, _ = random_case(np.random.default_rng([seed, 4]))
    written = write(read(content))
    assert read(written).nodes == read(content).nodes
    for one, other in zip(
        gpuq.load(written, device="cpu")(*values), gpuq.load(content, device="cpu")(*values), strict=True
    ):
        assert_equal_bits(one, other, f"seed {seed}")


OPTIONS: dict[str, Any] = {
    "max_detections": 3,
    "max_classes_per_detection": 1,
    "nms_score_threshold": 0.1,
    "nms_iou_threshold": 0.5,
    "num_classes": 2,
    **dict.fromkeys(("y_scale", "x_scale", "h_scale", "w_scale"), 1.0),
}


def test_refusals() -> None:
    options = OPTIONS
    anchors = np.ones((5, 4), F)

    def model(**changes: Any) -> bytes:
        inputs = [TensorDef((1, 5, 4), F), TensorDef((1, 5, 2), F), TensorDef((5, 4), F, data=anchors)]
        merged = {name: value for name, value in (options | changes).items() if value is not None}
        return detector(inputs, 3, merged)

    for changes, message in (
        ({"nms_iou_threshold": 0.0}, "nms_iou_threshold 0.0 must lie"),
        ({"num_classes": 4}, "2 columns of scores for 4 classes"),
        ({"y_scale": None}, "its options lack y_scale"),
        ({"max_detections": 0}, "max_detections=0 must be at least 1"),
    ):
        with pytest.raises(MalformedModel, match=message):
            gpuq.load(model(**changes), device="cpu")
    for label in (2, 3):
        with pytest.raises(UnsupportedModel, match="misplaces a box's further classes"):
            gpuq.load(model(max_classes_per_detection=label), device="cpu", numerics="tflm")
    inputs = [TensorDef((1, 5, 4), F), TensorDef((1, 5, 2), np.uint8, 0.1, 3), TensorDef((5, 4), F, data=anchors)]
    with pytest.raises(UnsupportedModel, match="TFLite Micro takes float32 alone"):
        gpuq.load(detector(inputs, 3, options), device="cpu", numerics="tflm")


@pytest.mark.parametrize(
    ("profile", "height", "refused"), [("litert_ref", -1, True), ("litert_ref", 0, False), ("tflm", 0, True)]
)
def test_boxes_that_runtimes_refuse(profile: str, height: float, refused: bool) -> None:
    anchors = np.ones((5, 4), F)
    anchors[3, 2] = height
    inputs = [TensorDef((1, 5, 4), F), TensorDef((1, 5, 2), F), TensorDef((5, 4), F, data=anchors)]
    content = detector(inputs, 3, OPTIONS)
    given = [np.zeros((1, 5, 4), F), np.zeros((1, 5, 2), F)]
    model, peer = gpuq.load(content, device="cpu", numerics=profile), PEERS[profile](content)
    if not refused:
        assert_equal_bits(model(*given)[3], peer.run(given).outputs[3], "")
        return
    with pytest.raises(InputValueError, match="a box ends (before|where) it begins"):
        model(*given)
    with pytest.raises(PeerRefused):
        peer.run(given)
