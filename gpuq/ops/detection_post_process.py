"""TFLite_Detection_PostProcess: encodings and scores of anchors become the best boxes that overlap little.

    y = by / y_scale * ah + ay, h = 0.5 * exp(bh / h_scale) * ah (float64, each rounded to float32 once), x and w alike;
    box = (y - h, x - w, y + h, x + w)

Fast suppression takes each anchor's best class; anchors with a score of at least the threshold are taken by falling
score unless they overlap (intersection over union, float32) one that was taken by more than the threshold. Regular
suppression does so class by class, and keeps the best of all classes.

Outputs that the runtime leaves unwritten (behind the last detection of fast suppression) are 0 here. A box that ends
before it begins is an error; in TFLite Micro, which has float32 alone, also one without height or width.

Sources: LiteRT f67457790, tflite/kernels/detection_postprocess.cc; tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/detection_postprocess.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops import dequantize
from gpuq.ops.float32 import exponential_f64
from gpuq.ops.spec import FLOAT32, UINT8, Shape, Spec, run_shape, shape_text
from gpuq.quant import Quant

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DetectionPostProcessSpec(Spec):
    """Boxes out of anchors.

    Args:
        boxes: anchors N.
        coordinates: of one encoding, 4 or more; the first 4 count.
        classes: columns of scores; with one more than num_classes, the first is the background.
        num_classes, max_detections, max_classes_per_detection, detections_per_class: as in the file.
        score_threshold, iou_threshold: as in the file; the latter in (0, 1].
        scales: (y, x, h, w) of encodings.
        use_regular_nms: class by class.
        box_quant, score_quant, anchor_quant: uint8 per tensor, or None for float32; boxes and anchors alike.
    """

    op: ClassVar[str] = "TFLite_Detection_PostProcess"

    boxes: int
    coordinates: int
    classes: int
    num_classes: int
    max_detections: int
    max_classes_per_detection: int
    detections_per_class: int
    score_threshold: float
    iou_threshold: float
    scales: tuple[float, float, float, float]
    use_regular_nms: bool
    box_quant: Quant | None
    score_quant: Quant | None
    anchor_quant: Quant | None

    def __post_init__(self) -> None:
        self.require_positive(boxes=self.boxes, num_classes=self.num_classes, max_detections=self.max_detections)
        self.require_positive(
            max_classes_per_detection=self.max_classes_per_detection, detections_per_class=self.detections_per_class
        )
        self.require(self.coordinates >= 4, f"encodings of {self.coordinates} numbers must have 4 or more")
        self.require(
            0 <= self.classes - self.num_classes <= 1,
            f"{self.classes} columns of scores for {self.num_classes} classes; there may be one more, the background",
        )
        self.require(0 < self.iou_threshold <= 1, f"nms_iou_threshold {self.iou_threshold} must lie in (0, 1]")
        self.require(all(scale != 0 for scale in self.scales), f"scales {self.scales} must not be 0")
        self.require(
            (self.box_quant is None) == (self.anchor_quant is None), "encodings and anchors must be of one type"
        )
        for quant in (self.box_quant, self.score_quant, self.anchor_quant):
            if quant is not None:
                self.require_dtype("input", quant.dtype, UINT8)
                self.require_per_tensor(quant=quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32 if self.box_quant is None else UINT8

    @property
    def detections(self) -> int:
        """Rows of the outputs."""
        return self.max_detections * self.max_classes_per_detection

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Of boxes, classes, scores, and their number."""
        return (1, self.detections, 4), (1, self.detections), (1, self.detections), (1,)

    @property
    def output_shape(self) -> Shape:
        return self.output_shapes[0]


def reference(
    spec: DetectionPostProcessSpec,
    rule: Rule,
    boxes: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    anchors: npt.NDArray[Any],
) -> tuple[FloatArray, ...]:
    """One run after the other.

    Args:
        boxes: (N, 1, boxes, coordinates).
        scores: (N, 1, boxes, classes).
        anchors: (1, boxes, 4), constant.

    Returns:
        float32 (N, 1, detections, 4), (N, 1, detections) classes, (N, 1, detections) scores, (N, 1) counts.
    """
    encodings = run_shape(boxes, (spec.boxes, spec.coordinates))
    runs = encodings.shape[0]
    made = [np.zeros((runs, *shape), np.float32) for shape in spec.output_shapes]
    columns = run_shape(scores, (spec.boxes, spec.classes))
    places = centred(anchors.reshape(spec.boxes, 4), spec.anchor_quant)
    for run in range(runs):
        corners = decoded(spec, centred(encodings[run, :, :4], spec.box_quant), places)
        low, high = corners[:, :2], corners[:, 2:]
        if (low >= high if rule.rounding is Rounding.EXACT_SIZED else low > high).any():
            raise refusal(spec, rule)
        values = columns[run]
        if spec.score_quant is not None:
            # The runtime's own vectorized conversion, whatever the kernels beside it.
            dequantized = dequantize.DequantizeSpec(shape=values.shape, x_quant=spec.score_quant)
            values = dequantize.reference(dequantized, Rule(Rounding.AFFINE_F32_BLOCK8), values[None])[0]
        values = values.reshape(spec.boxes, spec.classes)[:, spec.classes - spec.num_classes :]
        found = _regular(spec, corners, values) if spec.use_regular_nms else _fast(spec, corners, values)
        for row, (anchor, label, score) in found.items():
            made[0][run, 0, row], made[1][run, 0, row], made[2][run, 0, row] = corners[anchor], label, score
        # Of fast suppression, anchors are counted, not their classes.
        rows = found if spec.use_regular_nms else {row // spec.max_classes_per_detection for row in found}
        made[3][run, 0] = len(rows)
    return tuple(made)


Found = dict[int, tuple[int, int, np.float32]]
"""(anchor, class, score) by the output's row."""


def centred(codes: npt.NDArray[Any], quant: Quant | None) -> FloatArray:
    """Encodings or anchors as float32; None: they are."""
    if quant is None:
        return codes
    return (codes.astype(np.float32) - np.float32(quant.scalar_zero_point())) * np.float32(quant.scalar_scale())


def decoded(spec: DetectionPostProcessSpec, boxes: FloatArray, anchors: FloatArray) -> FloatArray:
    """(boxes, 4): ymin, xmin, ymax, xmax."""
    encoded, placed = boxes.astype(np.float64), anchors.astype(np.float64)
    scales = np.array(spec.scales, np.float32).astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        centre = (encoded[:, :2] / scales[:2] * placed[:, 2:] + placed[:, :2]).astype(np.float32)
        half = (0.5 * exponential_f64.exp(encoded[:, 2:] / scales[2:]) * placed[:, 2:]).astype(np.float32)
        return np.concatenate([centre - half, centre + half], axis=1)


def refusal(spec: DetectionPostProcessSpec, rule: Rule) -> InputValueError:
    """The error for a box that the runtime refuses."""
    how = "where it begins, or before" if rule.rounding is Rounding.EXACT_SIZED else "before it begins"
    return spec.fail(f"a box ends {how}, as the runtime refuses it")


def _taken(spec: DetectionPostProcessSpec, corners: FloatArray, scores: FloatArray, most: int) -> list[int]:
    """Anchors of one class, by falling score, without those that overlap a better one."""
    kept = np.flatnonzero(scores >= np.float32(spec.score_threshold))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    active = np.ones(order.size, bool)
    taken: list[int] = []
    for position, anchor in enumerate(order):
        if len(taken) >= min(order.size, most):
            break
        if not active[position]:
            continue
        taken.append(int(anchor))
        behind = order[position + 1 :]
        active[position + 1 :] &= ~(overlaps(corners[anchor], corners[behind]) > np.float32(spec.iou_threshold))
    return taken


def overlaps(box: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union in float32, NaN as in std::max and std::min; 0 where an area is not positive."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        area = (box[2] - box[0]) * (box[3] - box[1])
        areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
        low = np.where(box[:2] < others[:, :2], others[:, :2], box[:2])
        high = np.where(others[:, 2:] < box[2:], others[:, 2:], box[2:])
        sides = np.where(high < low, np.float32(0), high - low)
        shared = sides[:, 0] * sides[:, 1]
        return np.where((areas <= 0) | (area <= 0), np.float32(0), shared / (area + areas - shared))


def _fast(spec: DetectionPostProcessSpec, corners: FloatArray, scores: FloatArray) -> Found:
    labels = min(spec.max_classes_per_detection, spec.num_classes)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :labels]
    highest = np.take_along_axis(scores, best[:, :1], axis=1)[:, 0]
    found: Found = {}
    for place, anchor in enumerate(_taken(spec, corners, highest, spec.max_detections)):
        for column in range(labels):
            label = int(best[anchor, column])
            found[place * spec.max_classes_per_detection + column] = anchor, label, scores[anchor, label]
    return found


def _regular(spec: DetectionPostProcessSpec, corners: FloatArray, scores: FloatArray) -> Found:
    kept: list[tuple[int, int, np.float32]] = []
    for label in range(spec.num_classes):
        column = scores[:, label]
        kept += [(anchor, label, column[anchor]) for anchor in _taken(spec, corners, column, spec.detections_per_class)]
        order = np.argsort(np.array([-score for _, _, score in kept], np.float32), kind="stable")
        kept = [kept[number] for number in order[: spec.max_detections]]
    return dict(enumerate(kept))


def check_inputs(spec: DetectionPostProcessSpec, boxes: Shape, scores: Shape, anchors: Shape) -> None:
    """Raises InputValueError unless the inputs have the shapes of one image."""
    for what, shape, wanted in (
        ("box encodings", boxes, (1, spec.boxes, spec.coordinates)),
        ("scores", scores, (1, spec.boxes, spec.classes)),
        ("anchors", anchors, (spec.boxes, 4)),
    ):
        spec.require(shape == wanted, f"{what} {shape_text(shape)} must be {shape_text(wanted)}")
