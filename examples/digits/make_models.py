"""Trains a small residual depthwise CNN on 8x8 digits and writes it as four .tflite files.

Files, all written to the folder given with ``--output`` (this script's own by default):

* ``digits_int8.tflite``: full int8, int8 input and output.
* ``digits_int16x8.tflite``: int16 activations with int8 weights, int16 input and output.
* ``digits_dynamic_range.tflite``: int8 weights in the kernels the converter finds large enough
  (1024 elements: four of the pointwise convolutions), all else float.
* ``digits_float.tflite``: float throughout.
* ``digits_heldout.npz``: ``images`` (uint8 [n, 8, 8, 1], values 0..16) and ``labels`` (uint8 [n]),
  the third of the data, stratified by class, that neither training nor calibration has seen.

Every network has one signature, ``serving_default``, from ``image`` [1, 8, 8, 1] to
``probabilities`` [1, 10]. The float input is ``pixel / 16.0``, so it lies in 0..1; the quantized
files take that value quantized with the scale and zero point of their input tensor.

TensorFlow makes these files and is needed for nothing else::

    pip install tensorflow scikit-learn
    python make_models.py

Training takes about a minute on two CPU cores. All seeds are fixed: on one machine a rerun writes
the same network, and with another processor or TensorFlow an equivalent one.

Data: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository (https://doi.org/10.24432/C50P49), licensed there under CC BY 4.0. scikit-learn ships
its test set of 1797 images as ``sklearn.datasets.load_digits``; ``digits_heldout.npz`` is a part
of that, reshaped and stored as uint8, with the values unchanged.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError:
    # TensorFlow's own copy of the interpreter, which it has announced to drop.
    Interpreter = tf.lite.Interpreter
    OpResolverType = tf.lite.experimental.OpResolverType

SIGNATURE = "serving_default"
SEED = 20
HELD_OUT_FRACTION = 1 / 3
PIXEL_MAX = 16.0
EPOCHS = 60
BATCH_SIZE = 32
PEAK_LEARNING_RATE = 4e-3


class Split(NamedTuple):
    """Images (uint8 [n, 8, 8, 1], values 0..16) with their labels (uint8 [n])."""

    images: np.ndarray
    labels: np.ndarray


def load_data() -> tuple[Split, Split]:
    """Returns the training part and the held-out part of the data set."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.uint8)
    train_images, held_images, train_labels, held_labels = train_test_split(
        images, labels, test_size=HELD_OUT_FRACTION, stratify=labels, random_state=SEED
    )
    return Split(train_images, train_labels), Split(held_images, held_labels)


def normalise(images: np.ndarray) -> np.ndarray:
    """Maps pixels 0..16 to the float range 0..1 the network works on."""
    return images.astype(np.float32) / np.float32(PIXEL_MAX)


def depthwise(x: keras.KerasTensor, stride: int) -> keras.KerasTensor:
    x = keras.layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.ReLU(6.0)(x)


def pointwise(x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
    x = keras.layers.Conv2D(channels, 1, use_bias=False)(x)
    return keras.layers.BatchNormalization()(x)


def residual_block(x: keras.KerasTensor, expanded: int) -> keras.KerasTensor:
    """Adds to its input a pointwise expansion, a depthwise 3x3 and a linear pointwise."""
    y = keras.layers.ReLU(6.0)(pointwise(x, expanded))
    return keras.layers.Add()([x, pointwise(depthwise(y, stride=1), x.shape[-1])])


def build_model() -> keras.Model:
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU(6.0)(x)
    x = residual_block(x, expanded=64)
    x = keras.layers.ReLU(6.0)(pointwise(depthwise(x, stride=2), 32))
    x = residual_block(x, expanded=64)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(10)(x)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(x))


def shifted(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves an image by up to one pixel in each direction, filling with the background."""
    padded = tf.pad(image, [[1, 1], [1, 1], [0, 0]])
    return tf.image.random_crop(padded, (8, 8, 1)), label


def train(split: Split) -> keras.Model:
    model = build_model()
    targets = keras.utils.to_categorical(split.labels, 10)
    batches = (
        tf.data.Dataset.from_tensor_slices((normalise(split.images), targets))
        .cache()
        .shuffle(len(split.images), seed=SEED)
        .map(shifted)
        .batch(BATCH_SIZE, drop_remainder=True)
        .prefetch(2)
    )
    steps = EPOCHS * (len(split.images) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(PEAK_LEARNING_RATE, steps)
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=1e-3),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.05),
    )
    # Keras can't shuffle a tf.data pipeline and warns when left to try; the pipeline does it.
    model.fit(batches, epochs=EPOCHS, shuffle=False, verbose=0)
    return model


def export(model: keras.Model, folder: str) -> None:
    """Saves the trained model for batch 1 only, so that its conversion has static shapes."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        SIGNATURE,
        lambda image: {"probabilities": model(image, training=False)},
        input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")],
    )
    archive.write_out(folder, verbose=False)


def convert_all(saved_model: str, calibration: np.ndarray) -> dict[str, bytes]:
    """Converts a SavedModel to every variant; returns file names with contents."""

    def converter() -> tf.lite.TFLiteConverter:
        return tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[SIGNATURE])

    def representative() -> Iterator[list[np.ndarray]]:
        for image in normalise(calibration):
            yield [image[np.newaxis]]

    def integer(ops: tf.lite.OpsSet, io_type: tf.DType) -> bytes:
        quantizer = converter()
        quantizer.optimizations = [tf.lite.Optimize.DEFAULT]
        quantizer.representative_dataset = representative
        quantizer.target_spec.supported_ops = [ops]
        quantizer.inference_input_type = io_type
        quantizer.inference_output_type = io_type
        return quantizer.convert()

    dynamic_range = converter()
    dynamic_range.optimizations = [tf.lite.Optimize.DEFAULT]
    int16x8 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return {
        "digits_int8.tflite": integer(tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.int8),
        "digits_int16x8.tflite": integer(int16x8, tf.int16),
        "digits_dynamic_range.tflite": dynamic_range.convert(),
        "digits_float.tflite": converter().convert(),
    }


def quantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Brings float values to a tensor's own type, with its scale and zero point if it has them."""
    dtype = details["dtype"]
    if dtype is np.float32:
        return values
    scale, zero_point = details["quantization"]
    limits = np.iinfo(dtype)
    steps = np.round(values / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def accuracy(content: bytes, split: Split) -> float:
    # The reference kernels give the same answer on every processor; the optimised ones need not.
    reference = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=reference)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    result = interpreter.get_output_details()[0]
    correct = 0
    for image, label in zip(quantize(normalise(split.images), source), split.labels, strict=True):
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        correct += int(np.argmax(interpreter.get_tensor(result["index"])) == label)
    return correct / len(split.labels)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step, so that a reader never meets half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train a small CNN on 8x8 digits and write it as int8, int16x8, dynamic-range "
        "and float .tflite files, with the held-out images."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="folder for the files (default: this script's own)",
    )
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()

    training, held_out = load_data()
    print(f"{len(training.labels)} images to train on, {len(held_out.labels)} held out")
    model = train(training)
    # From an exported archive the converter both freezes the variables and keeps the names of the
    # signature; its shorter ways in lose one or the other.
    with tempfile.TemporaryDirectory() as saved_model:
        export(model, saved_model)
        files = convert_all(saved_model, training.images)

    archive = io.BytesIO()
    np.savez_compressed(archive, images=held_out.images, labels=held_out.labels)
    write_atomically(output / "digits_heldout.npz", archive.getvalue())
    for name, content in files.items():
        write_atomically(output / name, content)

    print(f"{'file':<28} {'bytes':>7}  held-out accuracy")
    for name, content in files.items():
        print(f"{name:<28} {len(content):>7}  {accuracy(content, held_out):.2%}")


if __name__ == "__main__":
    main()
