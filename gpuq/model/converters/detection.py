"""The custom operator at the end of detectors."""

from __future__ import annotations

from gpuq.errors import InputTypeError
from gpuq.model.converters.view import Joint, OperatorView
from gpuq.ops.detection_post_process import DetectionPostProcessSpec, check_inputs
from gpuq.ops.spec import FLOAT32
from gpuq.quant import Quant

# Of files that do not say; the kernel's.
_DETECTIONS_PER_CLASS = 100


def detection_post_process(view: OperatorView) -> Joint:
    boxes, scores, anchors = (view.x(position) for position in range(3))
    view.constant(2, "anchors")
    if len(boxes.shape) != 3 or len(scores.shape) != 3:
        raise view.fail("box encodings and scores must have rank 3")
    for index in view.raw.outputs:
        if view.tensors[index].dtype != FLOAT32:
            raise InputTypeError(f"{view.raw.name}: outputs of {view.tensors[index].dtype} must be float32")

    def quant(position: int) -> Quant | None:
        tensor = view.x(position)
        return None if tensor.dtype == FLOAT32 else view.quant(tensor)

    def number(name: str, default: float | None = None) -> float:
        options = view.raw.options or {}
        if name not in options and default is None:
            raise view.fail(f"its options lack {name}")
        return float(options.get(name, default))

    spec = DetectionPostProcessSpec(
        boxes=boxes.shape[1],
        coordinates=boxes.shape[2],
        classes=scores.shape[2],
        num_classes=int(number("num_classes")),
        max_detections=int(number("max_detections")),
        max_classes_per_detection=int(number("max_classes_per_detection")),
        detections_per_class=int(number("detections_per_class", _DETECTIONS_PER_CLASS)),
        score_threshold=number("nms_score_threshold"),
        iou_threshold=number("nms_iou_threshold"),
        scales=(number("y_scale"), number("x_scale"), number("h_scale"), number("w_scale")),
        use_regular_nms=bool(number("use_regular_nms", 0)),
        box_quant=quant(0),
        score_quant=quant(1),
        anchor_quant=quant(2),
    )
    check_inputs(spec, boxes.shape, scores.shape, anchors.shape)
    if len(view.raw.outputs) != len(spec.output_shapes):
        raise view.fail(f"has {len(view.raw.outputs)} outputs, it must have {len(spec.output_shapes)}")
    return Joint(spec, spec.output_shapes)
