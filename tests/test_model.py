"""gpuq.Model as users see it: inputs in every form, errors that say what is wrong, details as LiteRT gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import gpuq
from gpuq import InputTypeError, InputValueError, Model
from gpuq.resources import resource

from .compare import assert_equal_bits
from .networks import Network, edited, int8, small_network
from .peers.one_operator import TensorDef

DIGITS = resource("examples", "digits", "digits_int8.tflite")


@pytest.fixture(scope="module")
def model() -> Model:
    return gpuq.load(small_network(), device="cpu")


@pytest.fixture(scope="module")
def sums() -> Model:
    """Two int8 inputs of unlike quantization, "left" and "right", and their sum."""
    return gpuq.load(sums_content(), device="cpu")


def sums_content() -> bytes:
    net = Network()
    left = net.tensor(int8((1, 3), 0.5, 1, name="left"))
    right = net.tensor(int8((1, 3), 0.25, -2, name="right"))
    total = net.operator("ADD", [left, right], int8((1, 3), 0.5, 0, name="total"), schema.AddOptionsT())
    return net.build([left, right], [total])


def codes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (count, 6, 6, 3)).astype(np.int8)


# ------------------------------------------------------------------------------------------------------ loading


def test_load_takes_paths_and_bytes(tmp_path: Path, seed: int) -> None:
    content = small_network()
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    want = gpuq.load(content)(codes(2, seed))
    for source in (path, str(path), bytearray(content), memoryview(content)):
        assert_equal_bits(gpuq.load(source)(codes(2, seed)), want, type(source).__name__)  # type: ignore[arg-type]


def test_load_refuses() -> None:
    with pytest.raises(InputValueError, match="'tflite' must be one of litert_ref, tflm"):
        gpuq.load(small_network(), numerics="tflite")
    with pytest.raises(InputValueError, match="device 'gpu'"):
        gpuq.load(small_network(), device="gpu")


def test_model_says_what_it_is(model: Model) -> None:
    assert str(model.device) == "cpu"
    assert model.numerics == "litert_ref"
    assert gpuq.load(small_network(), numerics="tflm").numerics == "tflm"
    assert model.graph.description == "network"
    assert model.program.graph is model.graph


# ------------------------------------------------------------------------------------------------------- inputs


def test_non_contiguous_inputs(model: Model, seed: int) -> None:
    x = codes(4, seed)
    want = model(x)
    assert_equal_bits(model(np.asfortranarray(x)), want, "Fortran order")
    wide = np.zeros((8, 6, 6, 6), np.int8)
    wide[::2, :, :, ::2] = x
    assert_equal_bits(model(wide[::2, :, :, ::2]), want, "strided")
    assert_equal_bits(model(x[::-1])[::-1], want, "backwards")
    assert_equal_bits(model(np.broadcast_to(x[:1], (4, 6, 6, 3))), np.repeat(want[:1], 4, 0), "broadcast")


def test_inputs_are_not_modified(model: Model, seed: int) -> None:
    x = codes(3, seed)
    x.flags.writeable = False
    copy = x.copy()
    model(x)
    model.tensors(x)
    assert_equal_bits(x, copy, "input after the call")


def test_inputs_by_name(sums: Model) -> None:
    left, right = np.array([[3, 1, 1]], np.int8), np.array([[-4, -1, -3]], np.int8)
    # (3 - 1) / 2 - (4 - 2) / 4 = 0.5, one code; 0.25 and -0.25 are half a code, away from zero.
    want = [[1, 1, -1]]
    assert sums(left, right).tolist() == want
    assert sums(left, right=right).tolist() == want
    assert sums(right=right, left=left).tolist() == want
    assert sums.tensors(right=right, left=left)[2].tolist() == want


def test_wrong_inputs(sums: Model) -> None:
    x = np.zeros((1, 3), np.int8)
    for call, message in (
        (lambda: sums(x), "input 'right' is missing; the model takes 2"),
        (lambda: sums(), "input 'left' is missing"),
        (lambda: sums(x, x, x), "3 inputs given; the model takes 2"),
        (lambda: sums(x, x, right=x), "input 'right' is given twice"),
        (lambda: sums(x, middle=x), r"no input is named 'middle'; there are \['left', 'right'\]"),
        (lambda: sums(x, x.astype(np.uint8)), "input 'right': expected int8, got uint8"),
        (lambda: sums(x, x.astype(np.int64)), "expected int8, got int64"),
        (lambda: sums(x, x.astype(np.float32)), "expected int8, got float32; pass quantize=True"),
        (lambda: sums.tensors(x), "input 'right' is missing"),
    ):
        with pytest.raises(InputTypeError, match=message):
            call()
    with pytest.raises(InputValueError, match=r"different batches: \{'left': 1, 'right': 2\}"):
        sums(x, np.zeros((2, 3), np.int8))


@pytest.mark.parametrize(
    "shape", [(6, 6, 3), (1, 6, 6, 4), (1, 6, 3, 6), (0, 6, 6, 3), (1, 1, 6, 6, 3), (108,), (), (1, 108), (6, 3, 6, 1)]
)
def test_wrong_shapes(model: Model, shape: tuple[int, ...]) -> None:
    text = "x".join(map(str, shape)) if shape else "scalar"
    with pytest.raises(InputValueError, match=re.escape(f"input 'image': shape {text} must be Nx6x6x3 with N >= 1")):
        model(np.zeros(shape, np.int8))


def test_quantize_takes_real_values(sums: Model) -> None:
    left = np.array([[1.0, 0.0, 0.25]], np.float32)
    right = np.array([[-0.5, 0.25, 0.0]])
    # Codes: 1 / 0.5 + 1 = 3, 1, 0.5 rounded away + 1 = 2; -0.5 / 0.25 - 2 = -4, -1, -2.
    want = sums(np.array([[3, 1, 2]], np.int8), np.array([[-4, -1, -2]], np.int8))
    assert_equal_bits(sums(left, right, quantize=True), want, "float32 and float64")
    # Codes pass as they are; only what is floating point is quantized.
    assert_equal_bits(sums(left, np.array([[-4, -1, -2]], np.int8), quantize=True), want, "mixed")
    assert_equal_bits(sums.tensors(left, right, quantize=True)[2], want, "tensors")
    with pytest.raises(InputTypeError, match="expected int8, got int64"):
        sums(left.astype(np.int64), right, quantize=True)
    left[0, 1] = np.nan
    with pytest.raises(InputValueError, match=r"NaN at \(0, 1\)"):
        sums(left, right, quantize=True)


def test_float_inputs_of_the_network_itself() -> None:
    net = Network()
    x = net.tensor(TensorDef((1, 3), np.float32, name="real"))
    model = gpuq.load(net.build([x], [net.operator("QUANTIZE", [x], int8((1, 3), 0.5, 3), schema.QuantizeOptionsT())]))
    got = model(np.array([[0.25, -0.25, np.inf]], np.float32))
    assert got.tolist() == [[4, 2, 127]]
    with pytest.raises(InputValueError, match=r"input 'real': NaN at \(0, 2\)"):
        model(np.array([[0, 0, np.nan]], np.float32))
    with pytest.raises(InputTypeError, match="expected float32, got float64"):
        model(np.zeros((1, 3)))


def test_scalar_inputs() -> None:
    net = Network()
    x = net.tensor(int8((), 1.0))
    model = gpuq.load(net.build([x], [net.operator("RELU", [x], int8((), 1.0))]))
    assert model(np.array([-1, 5, 7], np.int8)).tolist() == [0, 5, 7]
    assert model(np.int8(4)).tolist() == [4]
    with pytest.raises(InputValueError, match="must be N with"):
        model(np.zeros((2, 2), np.int8))


# ----------------------------------------------------------------------------------------------------- sessions


def test_session(model: Model, seed: int) -> None:
    x = codes(6, seed)
    session = model.session(3)
    assert session.batch == 3
    assert_equal_bits(session(x[:3]), model(x[:3]), f"seed {seed}")
    assert_equal_bits(session(image=x[3:]), model(x[3:]), f"seed {seed}, by name")
    with pytest.raises(InputValueError, match="a batch of 2 in a session of batch 3"):
        session(x[:2])
    session.reset()
    assert_equal_bits(session(x[:3]), model(x[:3]), f"seed {seed}, after reset")
    with pytest.raises(InputValueError, match="batch 0 must be at least 1"):
        model.session(0)


def test_sessions_keep_their_own_state() -> None:
    net = Network()
    x = net.tensor(int8((1, 2), 1.0))
    state = net.tensor(int8((1, 2), 1.0, 0), is_variable=True)
    out = net.operator("ADD", [x, state], int8((1, 2), 1.0), schema.AddOptionsT())
    model = gpuq.load(net.build([x], [out]))
    one, other = model.session(), model.session()
    x_codes = np.array([[1, 2]], np.int8)
    # No operator writes state yet: put some there by hand.
    one._workspace.view(state)[...] = 10
    assert one(x_codes).tolist() == one(x_codes).tolist() == [[11, 12]]
    assert other(x_codes).tolist() == model(x_codes).tolist() == [[1, 2]]
    one.reset()
    assert one(x_codes).tolist() == [[1, 2]]


# ------------------------------------------------------------------------------------- LiteRT's details, compared


def litert(content: bytes) -> Any:
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    return interpreter


def assert_equal_details(got: Any, want: Any, where: str) -> None:
    """Same keys, values and types of values, arrays with dtype and shape."""
    assert type(got) is type(want), f"{where}: {type(got)} is not {type(want)}"
    if isinstance(want, dict):
        assert list(got) == list(want), where
        for key in want:
            assert_equal_details(got[key], want[key], f"{where}[{key!r}]")
    elif isinstance(want, list):
        assert len(got) == len(want), where
        for number, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_equal_details(a, b, f"{where}[{number}]")
    elif isinstance(want, np.ndarray):
        assert_equal_bits(got, want, where)
    else:
        assert got == want, where


@pytest.mark.parametrize("name", ["digits", "small", "sums"])
def test_details_are_litert_s(name: str) -> None:
    content = {"digits": DIGITS.read_bytes(), "small": small_network(), "sums": sums_content()}[name]
    model, peer = gpuq.load(content, device="cpu"), litert(content)
    assert_equal_details(model.get_input_details(), peer.get_input_details(), "inputs")
    assert_equal_details(model.get_output_details(), peer.get_output_details(), "outputs")
    assert_equal_details(model.get_signature_list(), peer.get_signature_list(), "signatures")
    ours, theirs = model.get_signature_runner(), peer.get_signature_runner()
    assert_equal_details(ours.get_input_details(), theirs.get_input_details(), "signature inputs")
    assert_equal_details(ours.get_output_details(), theirs.get_output_details(), "signature outputs")


def test_details_of_real_models_are_litert_s(material: Path) -> None:
    for path in sorted((material / "models").glob("*/*.tflite")):
        content = path.read_bytes()
        try:
            model = gpuq.load(content, device="cpu")
            peer = litert(content)
        except (gpuq.UnsupportedModel, RuntimeError, ValueError):  # float models here, person_detect there
            continue
        assert_equal_details(model.get_input_details(), peer.get_input_details(), f"{path.name} inputs")
        assert_equal_details(model.get_output_details(), peer.get_output_details(), f"{path.name} outputs")
        assert_equal_details(model.get_signature_list(), peer.get_signature_list(), f"{path.name} signatures")


def test_details_of_float_tensors_and_channels() -> None:
    net = Network()
    x = net.tensor(TensorDef((1, 3), np.float32, name="real"))
    content = net.build([x], [net.operator("QUANTIZE", [x], int8((1, 3), 0.5, 3), schema.QuantizeOptionsT())])
    model = gpuq.load(content)
    assert_equal_details(model.get_input_details(), litert(content).get_input_details(), "float input")
    assert model.get_input_details()[0]["quantization"] == (0.0, 0)


def test_signature_runner_gives_what_litert_gives(seed: int) -> None:
    content = sums_content()
    ours, theirs = gpuq.load(content).get_signature_runner("serving_default"), litert(content).get_signature_runner()
    rng = np.random.default_rng(seed)
    for _ in range(20):
        named = {name: rng.integers(-128, 128, (1, 3)).astype(np.int8) for name in ("input_0", "input_1")}
        got, want = ours(**named), theirs(**named)
        assert list(got) == list(want)
        for name in want:
            assert_equal_bits(got[name], want[name], f"{name}, seed {seed}")


def test_signature_runner_of_a_real_network(seed: int) -> None:
    ours, theirs = gpuq.load(DIGITS).get_signature_runner(), litert(DIGITS.read_bytes()).get_signature_runner()
    rng = np.random.default_rng(seed)
    for _ in range(10):
        image = rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
        got, want = ours(image=image), theirs(image=image)
        assert list(got) == list(want) == ["probabilities"]
        assert_equal_bits(got["probabilities"], want["probabilities"], f"seed {seed}")


def test_signature_runner_refuses(sums: Model) -> None:
    x = np.zeros((1, 3), np.int8)
    run = sums.get_signature_runner()
    assert list(run(input_0=x, input_1=x)) == ["output_0"]
    with pytest.raises(InputTypeError, match=r"no input is named 'left'; there are \['input_0', 'input_1'\]"):
        run(left=x, input_1=x)
    with pytest.raises(InputTypeError, match="is missing"):
        run(input_0=x)
    with pytest.raises(InputValueError, match=r"'predict' must be one of \['serving_default'\]"):
        sums.get_signature_runner("predict")

    def double(model: Any) -> None:
        second = schema.SignatureDefT()
        second.signatureKey, second.inputs, second.outputs = "second", [], []
        model.signatureDefs.append(second)

    with pytest.raises(InputValueError, match="the model has 2 signatures"):
        gpuq.load(edited(sums_content(), double)).get_signature_runner()
    without = edited(sums_content(), lambda model: setattr(model, "signatureDefs", []))
    with pytest.raises(InputValueError, match="the model has 0 signatures"):
        gpuq.load(without).get_signature_runner()
    assert gpuq.load(without).get_signature_list() == {}
