"""Takes the digits network from float to every mode, and prints what each costs in accuracy and bytes.

python examples/quantize_digits.py [--device auto]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import gpuq

DIGITS = Path(__file__).parent / "digits"
CALIBRATION_IMAGES = 100

VARIANTS = {
    "float": None,
    "int8": {},
    "int8, per tensor": {"per_tensor": True},
    "int8, range by mean squared error": {"observer": "mse"},
    "int8, equalized, biases corrected": {"equalize": True, "bias_correction": True},
    "uint8 (legacy)": {"mode": "uint8"},
    "int16x8": {"mode": "int16x8"},
    "dynamic-range": {"mode": "dynamic-range"},
    "int4-weights": {"mode": "int4-weights"},
    "int4-weights, 3 operators at int16": {"mode": "int4-weights", "keep_int16": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="what the networks run on (default: auto)")
    device = parser.parse_args().device
    held_out = np.load(DIGITS / "digits_heldout.npz")
    images, labels = (held_out["images"] / 16).astype(np.float32), held_out["labels"]
    # The first images calibrate, the others measure.
    calibration, images, labels = (
        images[:CALIBRATION_IMAGES],
        images[CALIBRATION_IMAGES:],
        labels[CALIBRATION_IMAGES:],
    )
    print(f"{'mode':38} {'right':>9} {'accuracy':>9} {'bytes':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in VARIANTS.items():
            path = DIGITS / "digits_float.tflite"
            if settings is not None:
                graph = gpuq.quantize_model(path, [calibration], **settings)
                path = Path(folder) / "quantized.tflite"
                gpuq.save(graph, path)
            # float32 networks have no CUDA kernels.
            is_float = settings is None or settings.get("mode") == "dynamic-range"
            model = gpuq.load(path, device="cpu" if is_float else device)
            right = int((model(images).argmax(axis=1) == labels).sum())
            print(f"{name:38} {right:>4}/{len(labels)} {right / len(labels):>9.2%} {path.stat().st_size:>8,}")


if __name__ == "__main__":
    main()
