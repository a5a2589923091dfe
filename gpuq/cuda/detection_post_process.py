"""TFLite_Detection_PostProcess: boxes decoded, scores ordered, the best of each list taken in turn, outputs written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.epilogue import round_up
from gpuq.cuda.kernel import Kernel, Launch, Pointer, Slot, int32s
from gpuq.cuda.layer import OnlyChoice, OnlyWayLayer, SeveralOutputs
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.status import CheckingLayer
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops import dequantize
from gpuq.ops.detection_post_process import DetectionPostProcessSpec, centred, check_inputs, refusal
from gpuq.ops.float32 import exponential_f64
from gpuq.ops.spec import UINT8
from gpuq.quant import Quant

THREADS = {"decode": 256, "scores": 256, "suppress": 256, "output": 128}
# Of a list with more anchors than this, a block of the largest size goes over it.
MANY_ANCHORS, MANY_THREADS = 4096, 1024
TILE = 32
# Vectors of the runtimes' conversion of scores.
VECTOR = 8


def detection_kernel(step: str, regular: bool = False, threads: int | None = None) -> Kernel:
    """detection_post_process.cu; its head says what the arguments mean.

    Args:
        step: "decode", "scores", "suppress" or "output".
        regular: class by class, where the step is another then.
    """
    threads = threads or THREADS[step]
    kinds = f"_{'regular' if regular else 'fast'}" if step in ("scores", "output") else ""
    return Kernel(
        name=f"detection_{step}{kinds}" + (f"_{threads}" if step == "suppress" else ""),
        source="detection_post_process.cu",
        entry=f"detection_{step}",
        defines=(("STEP", f"STEP_{step.upper()}"), ("REGULAR", int(regular)), ("THREADS", threads)),
        threads=(threads, 1, 1),
    )


KERNELS = (
    detection_kernel("decode"),
    *(detection_kernel(step, regular) for step in ("scores", "output") for regular in (False, True)),
    *(detection_kernel("suppress", threads=threads) for threads in (THREADS["suppress"], MANY_THREADS)),
)


@dataclass(frozen=True, eq=False)
class DetectionPostProcessLayer(SeveralOutputs, OnlyWayLayer):
    """A packed operator: encodings and scores in; boxes, classes, scores and their number out.

    Attributes:
        constants: "anchors" (N, 4) float32; "box_table" and, of uint8, "score_table": see the kernel.
    """

    spec: DetectionPostProcessSpec
    rule: Rule
    constants: Mapping[str, npt.NDArray[Any]]

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (1, self.spec.boxes, self.spec.coordinates), (1, self.spec.boxes, self.spec.classes)

    @property
    def y_shapes(self) -> tuple[tuple[int, int, int], ...]:
        rows = self.spec.detections
        return (1, rows, 4), (1, 1, rows), (1, 1, rows), (1, 1, 1)

    @property
    def name(self) -> str:
        return f"detection_{'regular' if self.spec.use_regular_nms else 'fast'}"

    @property
    def lists(self) -> int:
        """Of one run, within which boxes suppress one another."""
        return self.spec.num_classes if self.spec.use_regular_nms else 1

    @property
    def most(self) -> int:
        """Boxes taken of a list; of a class, those behind the outputs' number could not come among them."""
        spec = self.spec
        wanted = min(spec.detections_per_class, spec.max_detections) if spec.use_regular_nms else spec.max_detections
        return min(wanted, spec.boxes)

    def workspace_bytes(self, runs: int, choice: OnlyChoice) -> int:
        return self._scratch(runs)["end"]

    def _scratch(self, runs: int) -> dict[str, int]:
        """Where in the workspace what lies, in bytes."""
        lists = runs * self.lists
        sizes = {
            "corners": 16 * runs * self.spec.boxes,
            "keys": 4 * lists * self.spec.boxes,
            "taken_keys": 4 * lists * self.most,
            "taken": 4 * lists * self.most,
            "numbers": 4 * lists,
            "heads": 4 * lists,
        }
        offsets, offset = {}, 0
        for name, size in sizes.items():
            offsets[name] = offset
            offset += round_up(size, 16)
        return offsets | {"end": offset}

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (boxes, scores), spec, runs = inputs, self.spec, output.images
        at = {name: Slot("workspace", offset) for name, offset in self._scratch(runs).items()}
        table = Slot("score_table") if spec.score_quant is not None else Pointer(None)
        in_vectors = np.int64(spec.boxes * spec.classes // VECTOR * VECTOR)
        regular, classes = spec.use_regular_nms, spec.num_classes
        tiles = -(-spec.boxes // TILE) * -(-classes // TILE)
        blocks = {
            "decode": -(-runs * spec.boxes // THREADS["decode"]),
            "scores": runs * tiles if regular else -(-runs * spec.boxes * 32 // THREADS["scores"]),
            "suppress": runs * self.lists,
            "output": runs,
        }
        if max(blocks.values()) >= 1 << 31:
            raise spec.fail(f"{max(blocks.values())} blocks in one launch; the limit is 2^31 - 1, use a smaller batch")
        threads = MANY_THREADS if spec.boxes > MANY_ANCHORS else THREADS["suppress"]
        return [
            Launch(
                detection_kernel("decode"),
                (blocks["decode"], 1, 1),
                (
                    *(boxes.slot("x"), Slot("anchors"), Slot("box_table"), at["corners"]),
                    np.int64(runs * spec.boxes),
                    *int32s(spec.boxes, spec.coordinates, spec.box_quant is not None),
                    *(np.float64(np.float32(scale)) for scale in spec.scales),
                    np.int32(self.rule.rounding is Rounding.EXACT_SIZED),
                    Slot("status") if isinstance(self, CheckingLayer) else Pointer(None),
                ),
            ),
            Launch(
                detection_kernel("scores", regular),
                (blocks["scores"], 1, 1),
                (
                    *(scores.slot("x1"), table, at["keys"]),
                    *int32s(runs, spec.boxes, spec.classes, classes),
                    *(in_vectors, score_key(spec.score_threshold)),
                ),
            ),
            Launch(
                detection_kernel("suppress", threads=threads),
                (blocks["suppress"], 1, 1),
                (
                    *(at[name] for name in ("corners", "keys", "taken_keys", "taken", "numbers")),
                    *int32s(spec.boxes, self.lists, self.most),
                    np.float32(spec.iou_threshold),
                ),
            ),
            Launch(
                detection_kernel("output", regular),
                (blocks["output"], 1, 1),
                (
                    *(scores.slot("x1"), table),
                    *(at[name] for name in ("corners", "taken_keys", "taken", "numbers", "heads")),
                    *(output.slot("y"), Slot("y1"), Slot("y2"), Slot("y3")),
                    *int32s(spec.boxes, spec.classes, classes, self.most, spec.detections),
                    *int32s(spec.max_classes_per_detection, min(spec.max_classes_per_detection, classes)),
                    *(np.int32(spec.max_detections), in_vectors),
                ),
            ),
        ]


class CheckedDetectionPostProcessLayer(DetectionPostProcessLayer, CheckingLayer):
    """The same where there may be boxes that the runtime refuses."""

    def refusal(self, reason: int) -> InputValueError:
        return refusal(self.spec, self.rule)


def score_key(score: float) -> np.uint32:
    """key_of() of the kernel: larger for larger scores; of NaN, which no score reaches, above all of them."""
    value = np.float32(score)
    if np.isnan(value):
        return np.uint32(0xFFFFFFFF)
    bits = int((value + np.float32(0)).view(np.uint32))
    return np.uint32(~bits & 0xFFFFFFFF if bits >> 31 else bits | 0x80000000)


def pack(
    spec: DetectionPostProcessSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]
) -> DetectionPostProcessLayer:
    """Packs an operator.

    Args:
        constants: encodings and scores (None), and the anchors.
    """
    boxes, scores, anchors = constants
    spec.require(boxes is None and scores is None, "on a GPU encodings and scores must be activations")
    if anchors is None:
        raise spec.fail("anchors must be constant")
    check_inputs(spec, (1, spec.boxes, spec.coordinates), (1, spec.boxes, spec.classes), anchors.shape)
    places = np.ascontiguousarray(centred(anchors, spec.anchor_quant), np.float32)
    packed: dict[str, npt.NDArray[Any]] = {"anchors": places, "box_table": exponential_f64.parts()}
    if spec.box_quant is not None:
        scales = np.array(spec.scales, np.float32).astype(np.float64)
        every = centred(np.arange(256, dtype=np.uint8), spec.box_quant).astype(np.float64) / scales[:, None]
        every[2:] = 0.5 * exponential_f64.exp(every[2:])
        packed["box_table"] = every
    if spec.score_quant is not None:
        packed["score_table"] = np.stack([_values(spec.score_quant, size) for size in (VECTOR, 1)])
    # Boxes end before they begin where an anchor does. Without a size they are where the anchor's is small.
    is_checked = rule.rounding is Rounding.EXACT_SIZED or bool((places[:, 2:] < 0).any())
    return (CheckedDetectionPostProcessLayer if is_checked else DetectionPostProcessLayer)(spec, rule, packed)


def _values(scores: Quant, size: int) -> npt.NDArray[np.float32]:
    """(256,): what the first of so many elements is worth, by its code."""
    spec = dequantize.DequantizeSpec(shape=(size,), x_quant=scores)
    codes = np.repeat(np.arange(256, dtype=UINT8), size).reshape(256, size)
    return np.asarray(dequantize.reference(spec, Rule(Rounding.AFFINE_F32_BLOCK8), codes)[:, 0], np.float32)
