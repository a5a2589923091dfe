"""Bias correction: what rounding the weights adds to a layer's outputs on average is taken off its bias.

Source: Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2; the inputs' means come from calibration data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpuq.model.tflite_file import RawOperator


def corrected_bias(
    operator: RawOperator,
    weights: npt.NDArray[np.float32],
    rounded: npt.NDArray[np.float32],
    means: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """The float bias, less the mean over data of (dequantized weights - weights) applied to the inputs.

    Borders count as if the image went on: a window's taps all see the mean.

    Args:
        weights, rounded: the layer's, and what their codes stand for.
        means: of the layer's inputs, one for each channel.
        bias: (O,).
    """
    error = rounded.astype(np.float64) - weights.astype(np.float64)
    if operator.name == "DEPTHWISE_CONV_2D":
        shift = error.sum(axis=(0, 1, 2)) * np.repeat(means, error.shape[3] // means.size)
    elif operator.name == "FULLY_CONNECTED":
        # Rows of several channels' pixels, or of features: the means repeat.
        shift = error @ np.tile(means, error.shape[1] // means.size)
    else:
        taps = error.sum(axis=(1, 2))
        groups = means.size // taps.shape[1]
        by_group = means.reshape(groups, -1)
        shift = np.concatenate([part @ mean for part, mean in zip(np.split(taps, groups), by_group, strict=True)])
        if operator.name == "TRANSPOSE_CONV" and operator.options is not None:
            # Each output pixel sees one tap in stride_h * stride_w.
            shift = shift / (operator.options["StrideH"] * operator.options["StrideW"])
    return np.asarray(bias - shift)
