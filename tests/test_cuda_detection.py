"""gpuq.cuda.detection_post_process: random detectors, run thread by thread on the CPU."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq.cuda.detection_post_process import MANY_ANCHORS, pack, score_key
from gpuq.cuda.kernel import Kernel, Launch, Pointer
from gpuq.cuda.status import CheckingLayer
from gpuq.devices import Device
from gpuq.errors import InputValueError
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read
from gpuq.numerics import Rounding, Rule
from gpuq.ops.detection_post_process import DetectionPostProcessSpec, decoded, overlaps, reference
from gpuq.ops.float32 import exponential_f64
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import launcher, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher
from .peers import test_detection as peers
from .peers.one_operator import TensorDef
from .test_fusion import Net

__all__ = ["launcher"]

EXACT = Rule(Rounding.EXACT)
F = np.float32


def random_spec(rng: np.random.Generator, quantized: bool, boxes: int, **changes: Any) -> DetectionPostProcessSpec:
    classes = int(rng.integers(1, 6 if rng.random() < 0.8 else 50))
    options = {
        "boxes": boxes,
        "coordinates": int(rng.choice([4, 4, 6])),
        "classes": classes + int(rng.integers(2)),
        "num_classes": classes,
        "max_detections": int(rng.integers(1, 12)),
        "max_classes_per_detection": int(rng.integers(1, 4)),
        "detections_per_class": int(rng.integers(1, 15)),
        "score_threshold": float(rng.choice([-1e30, 0.0, 1e-8, 0.3, 0.6, 2.0])),
        "iou_threshold": float(rng.choice([0.05, 0.3, 0.6, 1.0])),
        "scales": (10.0, 10.0, 5.0, 5.0),
        "use_regular_nms": bool(rng.integers(2)),
        "box_quant": Quant(0.06, 128, dtype="uint8") if quantized else None,
        "score_quant": Quant(0.0039, int(rng.choice([0, 3])), dtype="uint8") if quantized else None,
        "anchor_quant": Quant(1 / 256, 0, dtype="uint8") if quantized else None,
    }
    return DetectionPostProcessSpec(**(options | changes))


def random_inputs(
    rng: np.random.Generator, spec: DetectionPostProcessSpec, runs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encodings, scores with many equal ones, and anchors, some of them like others."""
    same = rng.permutation(spec.boxes)[: spec.boxes // 4]
    boxes, scores = (runs, 1, spec.boxes, spec.coordinates), (runs, 1, spec.boxes, spec.classes)
    if spec.box_quant is not None:
        top = int(rng.choice([20, 256]))
        codes = rng.integers(0, 256, boxes).astype(np.uint8)
        places = rng.integers(0, 256, (spec.boxes, 4)).astype(np.uint8)
        codes[:, :, same], places[same] = codes[:, :, :1], places[0]
        return codes, rng.integers(0, top, scores).astype(np.uint8), places
    anchors = np.concatenate([rng.uniform(0, 1, (spec.boxes, 2)), rng.uniform(0, 0.6, (spec.boxes, 2))], axis=1)
    values = rng.uniform(0, 1, scores)
    if rng.random() < 0.5:
        values = np.round(values * 9) / 9  # equal scores
        values[rng.random(scores) < 0.1] = -0.0
    encodings = rng.normal(0, 3, boxes)
    encodings[:, :, same], anchors[same] = encodings[:, :, :1], anchors[0]
    return encodings.astype(F), values.astype(F), anchors.astype(F)


def check(launcher: HostLauncher, spec: DetectionPostProcessSpec, rng: np.random.Generator, context: object) -> float:
    """Compares one call with the reference; gives the number of detections of the first run."""
    runs = int(rng.integers(1, 4)) if spec.boxes < 500 else 1
    boxes, scores, anchors = random_inputs(rng, spec, runs)
    first, *further = reference(spec, EXACT, boxes, scores, anchors[None])
    layer = pack(spec, EXACT, (None, None, anchors))
    run_layer(launcher, layer, [boxes, scores], first, rng, f"{context}: {spec}", gaps=False, align=4, further=further)
    return float(further[-1][0, 0])


@pytest.mark.parametrize("quantized", [False, True])
def test_detectors_equal_reference(launcher: HostLauncher, quantized: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, quantized])
    found = [
        check(launcher, random_spec(rng, quantized, int(rng.integers(1, 120))), rng, f"seed {seed}, case {case}")
        for case in range(scaled(12))
    ]
    assert max(found) > 3


def test_overlaps_to_the_last_bit(launcher: HostLauncher, seed: int) -> None:
    """A threshold that is two boxes' overlap keeps both; the next lower number one of them."""
    rng = np.random.default_rng(seed)
    scores = np.array([0.9, 0.8], F).reshape(1, 1, 2, 1)
    for case in range(scaled(20)):
        boxes = rng.normal(0, 1, (1, 1, 2, 4)).astype(F)
        anchors = rng.uniform(0.3, 0.7, (2, 4)).astype(F)
        corners = decoded(random_spec(rng, False, 2, coordinates=4), boxes[0, 0], anchors)
        (overlap,) = overlaps(corners[0], corners[1:])
        if overlap == 0:
            continue
        for threshold, number in ((overlap, 2), (np.nextafter(overlap, F(0)), 1)):
            changes = {"coordinates": 4, "classes": 1, "num_classes": 1, "max_detections": 2, "score_threshold": 0.0}
            spec = random_spec(rng, False, 2, iou_threshold=float(threshold), detections_per_class=2, **changes)
            first, *further = reference(spec, EXACT, boxes, scores, anchors[None])
            assert further[-1][0, 0] == number
            layer = pack(spec, EXACT, (None, None, anchors))
            context = f"seed {seed}, case {case}: {spec}"
            run_layer(launcher, layer, [boxes, scores], first, rng, context, gaps=False, align=4, further=further)


@pytest.mark.parametrize("regular", [False, True])
def test_scores_within_vectors_and_behind(launcher: HostLauncher, regular: bool, seed: int) -> None:
    """All scores come out: 48 of them are converted in vectors, 7 are not."""
    rng = np.random.default_rng(seed)
    changes = {"classes": 5, "num_classes": 5, "max_detections": 55, "max_classes_per_detection": 5}
    changes |= {"score_threshold": -1.0, "iou_threshold": 1.0, "detections_per_class": 11}
    spec = random_spec(rng, True, 11, use_regular_nms=regular, score_quant=Quant(0.0039, 77, dtype="uint8"), **changes)
    within, behind = pack(spec, EXACT, (None, None, random_inputs(rng, spec, 1)[2])).constants["score_table"]
    assert np.mean(within != behind) > 0.2
    assert check(launcher, spec, rng, f"seed {seed}") == (55 if regular else 11)


@pytest.mark.parametrize("regular", [False, True])
def test_many_anchors(launcher: HostLauncher, regular: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, regular])
    boxes = MANY_ANCHORS + int(rng.integers(1, 300))
    classes = {"classes": 2, "num_classes": 2} if regular else {"classes": 4, "num_classes": 3}
    spec = random_spec(rng, False, boxes, use_regular_nms=regular, score_threshold=0.5, max_detections=9, **classes)
    assert check(launcher, spec, rng, f"seed {seed}") > 0


def test_scores_in_any_order(launcher: HostLauncher, seed: int) -> None:
    """Keys order scores as numbers do: both signs, both zeros, infinities; NaN counts for nothing."""
    values = np.array([-np.inf, -3.5, -1e-42, -0.0, 0.0, 1e-42, 0.25, 1.0, np.inf], F)
    assert [int(score_key(value)) for value in values] == sorted(int(score_key(value)) for value in values)
    assert score_key(-0.0) == score_key(0.0)
    assert score_key(np.nan) > score_key(np.inf)
    rng = np.random.default_rng(seed)
    for regular in (False, True):
        for threshold in (-np.inf, 0.0, 0.1, np.inf, np.nan):
            spec = random_spec(
                rng, False, 40, use_regular_nms=regular, score_threshold=threshold, classes=4, num_classes=3
            )
            boxes, scores, anchors = random_inputs(rng, spec, 1)
            scores = rng.choice(np.append(values, F(np.nan)), scores.shape)
            first, *further = reference(spec, EXACT, boxes, scores, anchors[None])
            layer = pack(spec, EXACT, (None, None, anchors))
            context = f"seed {seed}: {spec}"
            run_layer(launcher, layer, [boxes, scores], first, rng, context, gaps=False, align=4, further=further)


def test_exponential_equals_its_twin(seed: int) -> None:
    """kernels_cuda/exponential_f64.cuh against gpuq/ops/float32/exponential_f64.py."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(0, 3, 20_000), rng.uniform(-760, 760, 20_000), rng.normal(0, 1e-9, 1000)])
    x = np.concatenate([x, [0.0, -0.0, np.inf, -np.inf, 800.0, -800.0, 1e300, -1e300]])
    found = np.zeros(x.size)
    kernel = Kernel("exponentials_f64", "exponentials_f64.cu", "exponentials_f64", (), (256, 1, 1))
    arguments = (Pointer(x), Pointer(exponential_f64.parts()), Pointer(found), np.int64(x.size))
    with HostLauncher(folder=Path(__file__).parent / "host_cuda" / "kernels") as launcher:
        launcher.launch(Launch(kernel, (-(-x.size // 256), 1, 1), arguments), seeds=(1,))
    assert_equal_bits(found, exponential_f64.exp(x), f"seed {seed}")


def test_exponential_beside_the_c_library(seed: int) -> None:
    """Within a unit in the last place of math.exp, glibc's where there is glibc, and nearly always equal."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-5, 5, 20_000), rng.uniform(-700, 700, 20_000)])
    want, got = np.array([math.exp(value) for value in x]), exponential_f64.exp(x)
    assert np.abs(got - want).max() <= np.spacing(want[np.abs(got - want).argmax()])
    assert np.mean(got != want) < 0.01
    ends = exponential_f64.exp(np.array([0.0, -0.0, np.inf, -np.inf, 1e300, -1e300, 709.9, -760.0, np.nan]))
    assert ends.tolist()[:-1] == [1, 1, np.inf, 0, np.inf, 0, np.inf, 0]
    assert np.isnan(ends[-1])


@pytest.mark.parametrize("quantized", [False, True])
def test_boxes_that_end_before_they_begin(launcher: HostLauncher, quantized: bool, seed: int) -> None:
    """They come of anchors with negative sizes alone, which have a layer that checks; nothing else pays for it."""
    rng = np.random.default_rng(seed)
    spec = random_spec(rng, quantized, 6, coordinates=4, scales=(10.0, 10.0, 5.0, 5e-3))
    boxes, scores, anchors = random_inputs(rng, spec, 2)
    assert not isinstance(pack(spec, EXACT, (None, None, anchors)), CheckingLayer)
    if quantized:
        spec, anchors = replace(spec, anchor_quant=Quant(1 / 256, 100, dtype="uint8")), np.maximum(anchors, 100)
        boxes[:, 0, 2, 3], anchors[2, 3] = 0, 55
    else:
        boxes[:, 0, 2, 3], anchors[2, 3] = -8, -0.5
    layer, status = pack(spec, EXACT, (None, None, anchors)), np.zeros(1, np.int32)
    assert isinstance(layer, CheckingLayer)
    # So small that nothing of it is left beside the centre.
    first, *further = reference(spec, EXACT, boxes, scores, anchors[None])
    arguments: Any = {"gaps": False, "align": 4, "further": further, "status": status}
    run_layer(launcher, layer, [boxes, scores], first, rng, f"seed {seed}: {spec}", **arguments)
    assert status[0] == 0
    boxes[1, 0, 2, 3] = 255 if quantized else 0
    with pytest.raises(InputValueError) as refusal:
        reference(spec, EXACT, boxes, scores, anchors[None])
    assert str(refusal.value) == str(layer.refusal(1))
    # What comes out then is not said; perhaps that box is not among it.
    with contextlib.suppress(AssertionError):
        run_layer(launcher, layer, [boxes, scores], first, rng, "refused", **arguments)
    assert status[0] == 1


def test_calls_raise(launcher: HostLauncher) -> None:
    for profile, height, how in (("litert_ref", -1, "before it begins"), ("tflm", 0, "where it begins, or before")):
        anchors = np.ones((5, 4), F)
        anchors[3, 2] = height
        inputs = [TensorDef((1, 5, 4), F), TensorDef((1, 5, 2), F), TensorDef((5, 4), F, data=anchors)]
        content, given = peers.detector(inputs, 3, peers.OPTIONS), (np.zeros((1, 5, 4), F), np.zeros((1, 5, 2), F))
        with pytest.raises(InputValueError, match=f"a box ends {how}, as the runtime refuses it"):
            Model(plan_program(read(content), Device("cuda"), profile, launcher))(*given)


def test_constant_inputs_are_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = random_spec(rng, False, 5)
    boxes, _, anchors = random_inputs(rng, spec, 1)
    with pytest.raises(InputValueError, match="on a GPU encodings and scores must be activations"):
        pack(spec, EXACT, (boxes, None, anchors))


@pytest.mark.parametrize("profile", ["litert_ref", "tflm"])
def test_models(launcher: HostLauncher, profile: str, seed: int) -> None:
    """Models with this operator alone: calls, batches and every tensor, as on the CPU."""
    for number in range(4):
        content, values, _ = peers.random_case(np.random.default_rng([seed, number]), micro=profile == "tflm")
        ours = Model(plan_program(read(content), Device("cuda"), profile, launcher))
        cpu = gpuq.load(content, device="cpu", numerics=profile)
        given = [np.concatenate([value, value[:, ::-1]]) for value in values]
        where = f"case {number}, seed {seed}"
        for got, want in zip(ours(*given), cpu(*given), strict=True):
            assert_equal_bits(got, want, where)
        wanted = cpu.tensors(*given)
        for index, got in ours.tensors(*given).items():
            assert_equal_bits(got, wanted[index], f"tensor {index}, {where}")


@pytest.mark.parametrize("regular", [True, False])
def test_heads_of_a_detector(launcher: HostLauncher, regular: bool, seed: int) -> None:
    """Convolutions on two grids, joined and squashed, in front of it, as in real detectors."""
    net = Net(np.random.default_rng(seed), "uint8")
    x = net.tensor((1, 6, 6, 3), net.quant(0.05, 3))
    fine = net.conv(x, 8, 3)
    coarse, classes = net.pool(fine), 4
    anchors = 2 * (36 + 9)

    def head(numbers: int) -> int:
        parts = [net.conv(grid, 2 * numbers, out=net.quant(0.4, 0)) for grid in (fine, coarse)]
        rows = [net.reshape(part, 1, int(np.prod(net.shape(part))) // numbers, numbers) for part in parts]
        return net.concat(1, *rows)

    boxes, scores = head(4), net.logistic(head(classes))
    spec = random_spec(
        net.rng,
        True,
        anchors,
        coordinates=4,
        classes=classes,
        num_classes=classes - 1,
        use_regular_nms=regular,
        score_threshold=0.3,
        iou_threshold=0.4,
        box_quant=net.of(boxes),
        score_quant=net.of(scores),
    )
    codes = net.rng.integers(0, 256, (anchors, 4)).astype(np.uint8)
    places = net.tensor((anchors, 4), Quant(1 / 256, 0, dtype="uint8"), codes)
    first = net.add_node(spec, (boxes, scores, places), spec.output_shapes[0], net.of(x))
    outputs = (first, *(net.tensor(shape, net.of(x)) for shape in spec.output_shapes[1:]))
    for output in outputs:
        net.tensors[output] = replace(net.tensors[output], dtype=np.dtype(F), quant=None)
    net.nodes[-1] = replace(net.nodes[-1], outputs=outputs)
    graph = net.graph((x,), outputs)
    cpu = Model(plan_program(graph, Device("cpu"), "litert_ref"))
    ours = Model(plan_program(graph, Device("cuda"), "litert_ref", launcher))
    given = net.rng.integers(0, 256, (3, 6, 6, 3)).astype(np.uint8)
    wanted = cpu(given)
    assert wanted[-1].max() > 1
    for got, want in zip(ours(given), wanted, strict=True):
        assert_equal_bits(got, want, f"seed {seed}\n{ours.program}")
