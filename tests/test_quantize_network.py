"""From float to codes: every mode runs in LiteRT with our bits, scales are the converter's, files appear whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq.cli import main
from gpuq.errors import InputTypeError, InputValueError
from gpuq.model.graph import Graph
from gpuq.model.tflite_file import parse
from gpuq.model.tflite_reader import build, read
from gpuq.model.tflite_writer import write
from gpuq.ops.spec import INT8, INT16
from gpuq.ptq.equalization import equalize
from gpuq.ptq.quantize import Settings, quantize_with
from gpuq.ptq.rewrite import activations, constant, rewrite
from gpuq.ptq.scheme import MODES
from gpuq.ptq.sensitivity import half_of_the_noise, sqnr_db
from gpuq.quant import Quant, quantize_bias, widened_for_bias
from gpuq.resources import resource

from .compare import assert_equal_bits
from .networks import Network
from .peers.one_operator import TensorDef
from .peers.runtimes import PEERS, litert_outputs
from .peers.test_float32 import options

DIGITS = resource("examples", "digits", "digits_float.tflite")
HELD_OUT = np.load(resource("examples", "digits", "digits_heldout.npz"))
IMAGES = (HELD_OUT["images"] / 16).astype(np.float32)
CALIBRATION = IMAGES[:100]
F = np.float32


def litert(content: bytes, x: np.ndarray) -> np.ndarray:
    peer = PEERS["litert_ref"](content)
    return np.concatenate([peer.run([x[i : i + 1]]).outputs[0] for i in range(len(x))])


def assert_litert_agrees(graph: Graph, x: np.ndarray, context: object) -> np.ndarray:
    """Writes the network; our bits and LiteRT's are one. Returns real outputs."""
    content = write(graph)
    taken = graph.tensors[graph.inputs[0]].quant
    codes = x if taken is None else taken.quantize(x)
    got = gpuq.load(content, device="cpu")(codes)
    assert_equal_bits(got, litert(content, codes), context)
    given = graph.tensors[graph.outputs[0]].quant
    return got if given is None else given.dequantize(got)


def accuracy(outputs: np.ndarray) -> float:
    return float((outputs.argmax(1) == HELD_OUT["labels"][: len(outputs)]).mean())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interface", ["float", "int8", "uint8", "int16"])
def test_every_mode_and_interface(mode: str, interface: str) -> None:
    if MODES[mode].activations is None and interface != "float":
        with pytest.raises(InputValueError, match="input_output needs integer activations"):
            gpuq.quantize_model(DIGITS, [CALIBRATION], mode=mode, input_output=interface)
        return
    graph = gpuq.quantize_model(DIGITS, [CALIBRATION], mode=mode, input_output=interface)
    dtype = "float32" if interface == "float" else interface
    assert {graph.tensors[index].dtype.name for index in (*graph.inputs, *graph.outputs)} == {dtype}
    assert [signature.key for signature in graph.signatures] == ["serving_default"]
    layers = {node.spec.activation_dtype for node in graph.nodes if node.spec.has_weights}
    wanted = MODES[mode].activations
    assert layers == {np.dtype(F) if wanted is None else wanted}
    assert_litert_agrees(graph, IMAGES[::30], f"{mode}, {interface}")


@pytest.mark.parametrize(
    "settings",
    [
        dict(per_tensor=True),
        dict(equalize=True, bias_correction=True),
        dict(observer="mse"),
        dict(observer="entropy"),
        dict(observer="percentile:99.9"),
        dict(observer="moving-average"),
        dict(keep_int16=4),
        dict(mode="int4-weights", keep_int16=3, bias_correction=True),
        dict(mode="uint8", bias_correction=True),
        dict(mode="dynamic-range", per_tensor=True),
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any]) -> None:
    graph = gpuq.quantize_model(DIGITS, np.array_split(CALIBRATION, 3), **settings)
    outputs = assert_litert_agrees(graph, IMAGES[::20], settings)
    exact = gpuq.load(DIGITS, device="cpu")(IMAGES[::20])
    assert sqnr_db([exact], [outputs]) > 15


@pytest.mark.parametrize("profile", ["litert_opt", "xnnpack", "tflm"])
@pytest.mark.parametrize(("mode", "interface"), [("int8", "int8"), ("int8", "float"), ("int16x8", "int16")])
def test_other_runtimes_run_the_files(profile: str, mode: str, interface: str) -> None:
    graph = gpuq.quantize_model(DIGITS, [CALIBRATION], mode=mode, input_output=interface)
    taken = graph.tensors[graph.inputs[0]].quant
    x = IMAGES[::40] if taken is None else taken.quantize(IMAGES[::40])
    content = write(graph)
    peer = PEERS[profile](content)
    want = np.concatenate([peer.run([x[i : i + 1]]).outputs[0] for i in range(len(x))])
    assert_equal_bits(gpuq.load(content, device="cpu", numerics=profile)(x), want, f"{mode}, {interface}, {profile}")


def test_accuracy_is_that_of_float() -> None:
    """Within 0.2 points for int8 per channel, and not below the TensorFlow converter's file."""
    exact = accuracy(gpuq.load(DIGITS, device="cpu")(IMAGES))
    theirs = gpuq.load(resource("examples", "digits", "digits_int8.tflite"), device="cpu")
    quant = theirs.graph.tensors[theirs.graph.inputs[0]].quant
    assert quant is not None
    graph = gpuq.quantize_model(DIGITS, [CALIBRATION])
    ours = accuracy(gpuq.load(write(graph), device="cpu")(IMAGES))
    assert ours >= exact - 0.002
    assert ours >= accuracy(theirs(quant.quantize(IMAGES)))


@pytest.mark.parametrize("name", ["resnet8_cifar10_float", "vww_mobilenet_float"])
def test_real_networks(material: Path, name: str, seed: int) -> None:
    """All modes; LiteRT's bits are ours."""
    path = material / "models" / "mlperf_tiny" / f"{name}.tflite"
    shape = gpuq.load(path, device="cpu").graph.tensors[0].shape
    x = np.random.default_rng(seed).uniform(0, 1, (6, *shape[1:])).astype(F)
    for mode in MODES:
        graph = gpuq.quantize_model(path, [x], mode=mode)
        assert_litert_agrees(graph, x[:2], f"{name}, {mode}, seed {seed}")


def test_scales_by_hand() -> None:
    """Symmetric weights over 127, activations over their range with 0 in it, biases in products of both."""
    raw = parse(DIGITS.read_bytes())
    result = quantize_with(Settings(), raw, [CALIBRATION])
    by_name = {tensor.name: tensor for tensor in result.graph.tensors if tensor.data is None}
    # All tensors but the ends keep their names. Fixed and shared scales apart, the range alone decides.
    for name, (low, high) in result.ranges.items():
        quant = by_name.get(f"{name}_int8", by_name[name]).quant
        if quant is None or name == "StatefulPartitionedCall:0":
            continue
        low, high = min(low, 0.0), max(high, 0.0)
        assert quant.scale == pytest.approx((high - low) / 255, rel=2**-23)
        assert quant.zero_point == round(-128 - low / ((high - low) / 255))
    for node in result.graph.nodes:
        if node.spec.op != "CONV_2D":
            continue
        x, weights, bias = (result.graph.tensors[index] for index in node.inputs)
        exact = next(constant(t) for t in raw.tensors if t.name == weights.name)
        assert weights.quant is not None
        assert bias.quant is not None
        assert x.quant is not None
        reach = np.abs(exact).max(axis=(1, 2, 3))
        assert np.allclose(weights.quant.scales, reach / 127, rtol=2**-22, atol=0)
        assert np.allclose(bias.quant.scales, x.quant.scale * weights.quant.scales.astype(np.float64), rtol=2**-22)
    softmax = result.graph.nodes[-2]
    assert softmax.spec.op == "SOFTMAX"
    assert result.graph.tensors[softmax.outputs[0]].quant == Quant(1 / 256, -128)


def test_what_the_runtime_lacks_stays_float() -> None:
    """ELU of int8 is not in LiteRT's reference kernels, nor is SQRT of int16."""
    network = Network()
    x = network.tensor(TensorDef((1, 4), F, name="x"))
    a = network.operator("RELU", [x], TensorDef((1, 4), F, name="a"))
    b = network.operator("FLOOR_DIV", [a, x], TensorDef((1, 4), F, name="b"))
    y = network.operator("RELU", [b], TensorDef((1, 4), F, name="y"))
    content = network.build([x], [y])
    values = np.random.default_rng(1).uniform(0.5, 3, (20, 4)).astype(F)
    result = quantize_with(Settings(), parse(content), [values])
    assert result.left_float == ((1, "FLOOR_DIV"),)
    ops = [node.spec.op for node in result.graph.nodes]
    assert ops == ["QUANTIZE", "RELU", "DEQUANTIZE", "FLOOR_DIV", "QUANTIZE", "RELU", "DEQUANTIZE"]
    assert_litert_agrees(result.graph, values, "mixed")


def test_what_int16_takes_and_what_stays_out_of_it() -> None:
    """PRELU has slopes of int8 beside int16; comparisons of int16 look at codes, whatever their scales."""
    network = Network()
    rng = np.random.default_rng(2)
    x = network.tensor(TensorDef((1, 3, 4), F, name="x"))
    slopes = network.tensor(TensorDef((4,), F, data=rng.uniform(-0.5, 0.9, 4).astype(F)))
    a = network.operator("PRELU", [x, slopes], TensorDef((1, 3, 4), F, name="a"))
    b = network.operator(
        "BATCH_MATMUL", [a, x], TensorDef((1, 3, 3), F, name="b"), options("BatchMatMulOptionsT", adjY=True)
    )
    y = network.operator("GREATER", [b, network.tensor(TensorDef((1,), F, data=np.ones(1, F)))],
                         TensorDef((1, 3, 3), bool, name="y"), options("GreaterOptionsT"))  # fmt: skip
    content = network.build([x], [b, y])
    values = rng.normal(size=(40, 3, 4)).astype(F)
    result = quantize_with(Settings(mode="int16x8"), parse(content), [values])
    assert result.left_float == ()
    assert next(node for node in result.graph.nodes if node.spec.op == "GREATER").spec.activation_dtype == F
    prelu, product = (node for node in result.graph.nodes if node.spec.op in ("PRELU", "BATCH_MATMUL"))
    assert [str(result.graph.tensors[index].dtype) for index in prelu.inputs] == ["int16", "int8"]
    assert [str(result.graph.tensors[index].dtype) for index in product.inputs] == ["int16", "int16"]
    got, chosen = gpuq.load(result.graph, device="cpu")(values)
    for ours, theirs in zip((got, chosen), litert_outputs(write(result.graph), [values]), strict=True):
        assert_equal_bits(ours, theirs, "LiteRT")
    want, _ = gpuq.load(content, device="cpu")(values)
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_fixed_scales_meet_others_by_conversion() -> None:
    """LOGISTIC has a scale of its own; a CONCATENATION with wider values is not squeezed into it."""
    network = Network()
    x = network.tensor(TensorDef((1, 4), F, name="x"))
    p = network.operator("LOGISTIC", [x], TensorDef((1, 4), F, name="p"))
    joined = options("ConcatenationOptionsT", axis=1)
    y = network.operator("CONCATENATION", [p, x], TensorDef((1, 8), F, name="y"), joined)
    content = network.build([x], [y])
    values = np.random.default_rng(1).uniform(-8, 8, (50, 4)).astype(F)
    result = quantize_with(Settings(), parse(content), [values])
    assert [node.spec.op for node in result.graph.nodes].count("QUANTIZE") == 2
    got = assert_litert_agrees(result.graph, values, "concatenation")
    exact = gpuq.load(content, device="cpu")(values)
    assert np.abs(got - exact).max() < 0.1


@pytest.mark.parametrize("mode", ["int8", "uint8", "int16x8"])
@pytest.mark.parametrize("op", ["LOGISTIC", "TANH", "SOFTMAX", "L2_NORMALIZATION"])
def test_scales_that_kernels_fix(mode: str, op: str) -> None:
    """Where LiteRT has the operator in this dtype, it takes the scale that it was given."""
    network = Network()
    x = network.tensor(TensorDef((1, 6), F, name="x"))
    kinds = {"SOFTMAX": options("SoftmaxOptionsT", beta=1.0), "L2_NORMALIZATION": options("L2NormOptionsT")}
    content = network.build([x], [network.operator(op, [x], TensorDef((1, 6), F, name="y"), kinds.get(op))])
    values = np.random.default_rng(1).normal(size=(30, 6)).astype(F)
    result = quantize_with(Settings(mode=mode), parse(content), [values])
    lacking = {("int16x8", "L2_NORMALIZATION")}
    assert bool(result.left_float) == ((mode, op) in lacking)
    if not result.left_float:
        got = assert_litert_agrees(result.graph, values, f"{op}, {mode}")
        assert np.abs(got - gpuq.load(content, device="cpu")(values)).max() < 0.05


def test_equalization_changes_no_result_and_evens_ranges(material: Path) -> None:
    raw = parse((material / "models" / "mlperf_tiny" / "resnet8_cifar10_float.tflite").read_bytes())
    # One channel of a layer a thousand times the others, undone in the next.
    first, second = raw.operators[0], raw.operators[1]
    equal, pairs = equalize(raw)
    assert pairs >= 1
    graph, other = build(raw), build(equal)
    x = np.random.default_rng(2).uniform(0, 255, (2, 32, 32, 3)).astype(F)
    want, got = (gpuq.load(write(each), device="cpu")(x) for each in (graph, other))
    # Powers of two: every product is the same to the last bit.
    assert_equal_bits(got, want, (first.name, second.name))


def two_layers(rng: np.random.Generator, stretch: np.ndarray) -> bytes:
    """CONV_2D with RELU, then another: channels between them scaled by `stretch`, which changes no result."""
    channels = stretch.size
    network = Network()
    x = network.tensor(TensorDef((1, 6, 6, 3), F, name="x"))
    first, second = rng.normal(size=(channels, 3, 3, 3)), rng.normal(size=(4, 1, 1, channels))
    bias = rng.normal(size=channels) * 0.1
    conv = options(
        "Conv2DOptionsT",
        padding=0,
        strideH=1,
        strideW=1,
        dilationHFactor=1,
        dilationWFactor=1,
        fusedActivationFunction=1,
    )
    last = options("Conv2DOptionsT", padding=0, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    w1 = network.tensor(TensorDef(first.shape, F, data=(first * stretch[:, None, None, None]).astype(F)))
    b1 = network.tensor(TensorDef((channels,), F, data=(bias * stretch).astype(F)))
    w2 = network.tensor(TensorDef(second.shape, F, data=(second / stretch).astype(F)))
    b2 = network.tensor(TensorDef((4,), F, data=np.zeros(4, F)))
    a = network.operator("CONV_2D", [x, w1, b1], TensorDef((1, 6, 6, channels), F, name="a"), conv)
    y = network.operator("CONV_2D", [a, w2, b2], TensorDef((1, 6, 6, 4), F, name="y"), last)
    return network.build([x], [y])


def outputs_of(content: bytes, x: np.ndarray, **settings: Any) -> np.ndarray:
    return np.asarray(gpuq.load(gpuq.quantize_model(content, [x], **settings), device="cpu")(x))


def test_equalization_saves_weights_with_one_scale(seed: int) -> None:
    """Channels that differ by a thousand leave one scale per tensor nothing to work with."""
    rng = np.random.default_rng(seed)
    content = two_layers(rng, 2.0 ** rng.permutation(np.linspace(-5, 5, 12).round()))
    x = rng.uniform(0, 1, (20, 6, 6, 3)).astype(F)
    exact = gpuq.load(content, device="cpu")(x)
    plain, equal = (
        sqnr_db([exact], [outputs_of(content, x, per_tensor=True, equalize=each)]) for each in (False, True)
    )
    assert equal > plain + 6, f"{plain:.1f} dB became {equal:.1f} dB, seed {seed}"


def test_bias_correction_takes_the_mean_error_away(seed: int) -> None:
    """With int4 weights and inputs that are all positive, rounding shifts every channel."""
    rng = np.random.default_rng(seed)
    content = two_layers(rng, np.ones(8))
    x = rng.uniform(0.5, 1, (40, 6, 6, 3)).astype(F)
    exact = gpuq.load(content, device="cpu")(x)

    def shift(**settings: Any) -> float:
        got = outputs_of(content, x, mode="int4-weights", **settings)
        # Inside the border, where every tap sees the image.
        return float(np.abs((got - exact)[:, 1:-1, 1:-1].mean(axis=(0, 1, 2))).mean())

    plain, corrected = shift(), shift(bias_correction=True)
    assert corrected < plain / 2, f"{plain} became {corrected}, seed {seed}"


def test_a_bias_beyond_int32_widens_the_weights() -> None:
    w_quant, x_quant = Quant([1e-9, 0.01], 0, 0), Quant(0.001, 0)
    bias = np.array([5.0, 5.0])
    wide = widened_for_bias(w_quant, bias, x_quant)
    assert wide.scales[1] == w_quant.scales[1]
    assert wide.scales[0] > w_quant.scales[0]
    codes, quant = quantize_bias(bias, x_quant, wide)
    assert np.allclose(quant.dequantize(codes), bias, rtol=1e-6)
    assert abs(codes[0]) <= 2**31 - 1
    assert widened_for_bias(wide, bias, x_quant) == wide


def test_keep_int16_takes_the_most_sensitive() -> None:
    result = quantize_with(Settings(keep_int16=2), parse(DIGITS.read_bytes()), [CALIBRATION], with_sensitivities=True)
    ranked = [one.sqnr_db for one in result.sensitivities]
    assert ranked == sorted(ranked)
    assert set(result.kept_int16) <= {one.operator for one in result.sensitivities[:2]}
    assert 1 <= half_of_the_noise(result.sensitivities) == result.suggested_int16 <= len(ranked)
    types = {node.spec.activation_dtype for node in result.graph.nodes}
    assert {INT8, INT16} <= types


def test_graphs_are_taken_too() -> None:
    from_graph = gpuq.quantize_model(read(DIGITS.read_bytes()), [CALIBRATION])
    assert write(from_graph) == write(gpuq.quantize_model(DIGITS, [CALIBRATION]))
    got = gpuq.load(from_graph, device="cpu")(IMAGES[:5])
    assert_equal_bits(got, gpuq.load(write(from_graph), device="cpu")(IMAGES[:5]), "a Graph and its file")


def test_samples_by_name_and_in_parts() -> None:
    whole = gpuq.quantize_model(DIGITS, [CALIBRATION])
    for samples in ([{"image": CALIBRATION}], [{"serving_default_image:0": CALIBRATION}], [(CALIBRATION,)]):
        assert write(gpuq.quantize_model(DIGITS, samples)) == write(whole)
    # The order of float32 sums hangs on the size of a batch, and so the last bits of ranges.
    for samples in ([CALIBRATION[:40], CALIBRATION[40:]], (image[None] for image in CALIBRATION)):
        parts = gpuq.quantize_model(DIGITS, samples)
        for a, b in zip(parts.tensors, whole.tensors, strict=True):
            if a.quant is not None and b.quant is not None:
                assert np.allclose(a.quant.scales, b.quant.scales, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(calibration=None), InputTypeError, "needs calibration data"),
        (dict(calibration=[]), InputValueError, "no calibration samples"),
        (dict(calibration=[(CALIBRATION, CALIBRATION)]), InputTypeError, "2 arrays for a network with 1 inputs"),
        (dict(calibration=[{"picture": CALIBRATION}]), InputTypeError, "must have the network's inputs"),
        (dict(calibration=[CALIBRATION * F(np.nan)]), InputValueError, "NaN"),
        (dict(mode="int3"), InputValueError, "must be one of int8"),
        (dict(observer="median"), InputValueError, "observer 'median' must be"),
        (dict(input_output="bool"), InputValueError, "must be one of float"),
        (dict(keep_int16=-1), InputValueError, "0 or more"),
        (dict(mode="int16x8", keep_int16=1), InputValueError, "int8 activations"),
    ],
)
def test_refusals(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = dict(calibration=[CALIBRATION]) | arguments
    with pytest.raises(error, match=message):
        gpuq.quantize_model(DIGITS, **given)


def test_ranges_are_asked_for() -> None:
    raw = parse(DIGITS.read_bytes())
    with pytest.raises(InputValueError, match="has no range"):
        rewrite(raw, {0: INT8}, {}, MODES["int8"])
    assert len(activations(raw)) == 15


# --------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "images.npy"
    np.save(path, CALIBRATION)
    return str(path)


def test_command_line(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "int8.tflite"
    assert (
        main(["quantize", str(DIGITS), "--calibrate", data, "-o", str(out), "--sensitivity", "--keep-int16", "1"]) == 0
    )
    text = capsys.readouterr().out
    assert "calibrated on 100 samples" in text
    assert "make half of the noise" in text
    # Batches of 32, as the command takes them: sums of floats may hang on how many rows a product has.
    want = gpuq.quantize_model(DIGITS, np.split(CALIBRATION, [32, 64, 96]), keep_int16=1)
    assert out.read_bytes() == write(want)
    assert main(["quantize", str(DIGITS), "--mode", "dynamic-range", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["mode"] == "dynamic-range"
    assert told["bytes"]["output"] == out.stat().st_size


def test_command_line_refuses(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*arguments: str) -> str:
        assert main(["quantize", *arguments]) == 2
        return capsys.readouterr().err

    out = str(tmp_path / "x.tflite")
    int8 = str(resource("examples", "digits", "digits_int8.tflite"))
    assert "needs calibration data" in refusal(str(DIGITS), "-o", out)
    assert "must end in .tflite" in refusal(str(DIGITS), "-o", str(tmp_path / "x.npy"), "--calibrate", data)
    assert "no float32 operator" in refusal(int8, "-o", out, "--calibrate", data)
    assert "cannot be read" in refusal("none.tflite", "-o", out, "--calibrate", data)
    assert "must be one of int8" in refusal(str(DIGITS), "-o", out, "--mode", "int2", "--calibrate", data)
    assert not (tmp_path / "x.tflite").exists()


def test_an_interrupted_run_leaves_no_file(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuq.ptq import quantize as module

    def interrupted(*arguments: object, **more: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "watch", interrupted)
    assert main(["quantize", str(DIGITS), "--calibrate", data, "-o", str(tmp_path / "out.tflite")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["images.npy"]
