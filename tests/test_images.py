"""Pictures: the pixel rules, bit by bit, and what real networks say about real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpuq
from gpuq.cli import main
from gpuq.commands.images import (
    Normalization,
    parse_normalization,
    picture_size,
    pixel_rule,
    pixels_to_input,
    read_picture,
)
from gpuq.model.graph import Tensor
from gpuq.resources import resource

from .peers.runtimes import litert_outputs

DIGITS = resource("examples", "digits", "digits_int8.tflite")
ALL_PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def image_input(dtype: Any, *, shape: tuple[int, ...] = (1, 16, 16, 1), quant: gpuq.Quant | None = None) -> Tensor:
    return Tensor(0, "image", shape, shape, np.dtype(dtype), quant)


@pytest.fixture
def noise(tmp_path: Path, seed: int) -> Callable[..., Path]:
    """Saves a random picture; gives its path."""

    def save(mode: str = "RGB", size: tuple[int, int] = (37, 23), name: str = "noise.png") -> Path:
        channels = len(Image.new(mode, (1, 1)).getbands())
        shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
        pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(pixels, mode=None).save(tmp_path / name)
        return tmp_path / name

    return save


# --------------------------------------------------------------------------------------------------------- pixels


def test_a_pixel_is_its_own_uint8_code() -> None:
    found = pixels_to_input(ALL_PIXELS, image_input(np.uint8, quant=gpuq.Quant(0.5, 7, dtype="uint8")), None)
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == list(range(256))


def test_a_pixel_is_an_int8_code_128_lower() -> None:
    found = pixels_to_input(ALL_PIXELS, image_input(np.int8, quant=gpuq.Quant(0.5, 7)), None)
    assert found.dtype == np.int8
    assert found.ravel().tolist() == list(range(-128, 128))


def test_a_pixel_is_a_float_from_0_to_1() -> None:
    found = pixels_to_input(ALL_PIXELS, image_input(np.float32), None)
    assert found.dtype == np.float32
    assert found.ravel().tolist() == [float(np.float32(p) / np.float32(255)) for p in range(256)]


def test_other_dtypes_need_a_real_value() -> None:
    tensor = image_input(np.int16, quant=gpuq.Quant(1 / 32767, 0, dtype="int16"))
    with pytest.raises(gpuq.InputValueError, match="a pixel has no code in int16; say its real value"):
        pixels_to_input(ALL_PIXELS, tensor, None)
    found = pixels_to_input(ALL_PIXELS, tensor, Normalization((0.0,), (255.0,)))
    assert found.ravel()[[0, 255]].tolist() == [0, 32767]


def test_normalization_quantizes_with_the_inputs_own_scale() -> None:
    """Worked out on paper: p = 127 is (127 - 127.5) / 127.5 = -1/255, by scale 1/64 is -0.25, so code 10 + 0."""
    tensor = image_input(np.int8, quant=gpuq.Quant(1 / 64, 10))
    found = pixels_to_input(ALL_PIXELS, tensor, Normalization((127.5,), (127.5,))).ravel()
    assert found[[0, 127, 128, 255]].tolist() == [10 - 64, 10, 10, 10 + 64]
    # (p - 127.5) / 127.5 * 64 + 10, no tie among these pixels.
    assert found.tolist() == [round((p - 127.5) / 127.5 * 64) + 10 for p in range(256)]


def test_normalization_by_channel() -> None:
    pixels = np.full((1, 2, 2, 3), 100, np.uint8)
    found = pixels_to_input(
        pixels, image_input(np.float32, shape=(1, 2, 2, 3)), parse_normalization("100,90,80", "1,10,5")
    )
    assert found.dtype == np.float32
    assert found[0, 1, 1].tolist() == [0.0, 1.0, 4.0]
    with pytest.raises(gpuq.InputValueError, match="--mean has 2 values; it must be 1, or the 3"):
        pixels_to_input(pixels, image_input(np.float32, shape=(1, 2, 2, 3)), parse_normalization("1,2", None))


@pytest.mark.parametrize(
    ("mean", "std", "want"),
    [
        (None, None, None),
        ("1.5", None, Normalization((1.5,), (1.0,))),
        (None, "2,3", Normalization((0.0,), (2.0, 3.0))),
        ("-1", "2", Normalization((-1.0,), (2.0,))),
    ],
)
def test_the_one_left_out_changes_nothing(mean: str | None, std: str | None, want: Normalization | None) -> None:
    assert parse_normalization(mean, std) == want


def test_normalization_needs_a_scale() -> None:
    with pytest.raises(gpuq.InputValueError, match="has no scale that --mean and --std could use"):
        pixels_to_input(ALL_PIXELS, image_input(np.uint8), Normalization((0.0,), (1.0,)))


@pytest.mark.parametrize(
    ("tensor", "rule"),
    [
        (
            image_input(np.uint8, quant=gpuq.Quant(0.5, 3, dtype="uint8")),
            "16x16 grey; a pixel p (0..255) becomes code p, the real value 0.5 * (p - 3)",
        ),
        (image_input(np.int8, quant=gpuq.Quant(0.5, 3)), "becomes code p - 128, the real value 0.5 * (p - 131)"),
        (image_input(np.int8, quant=gpuq.Quant(0.5, -128)), "becomes code p - 128, the real value 0.5 * p"),
        (image_input(np.int8), "becomes code p - 128"),
        (image_input(np.float32, shape=(1, 4, 5, 3)), "4x5 RGB; a pixel p (0..255) becomes p / 255"),
        (image_input(np.int16), "pixels need --mean and --std"),
    ],
)
def test_info_says_the_rule_that_run_applies(tensor: Tensor, rule: str) -> None:
    text = pixel_rule(tensor)
    assert text is not None
    assert text.endswith(rule)
    if tensor.quant is not None:
        # The words are true: what they say of a pixel is what the input's code stands for.
        formula = text.split("real value ")[1]
        for p in (0, 1, 200, 255):
            code = pixels_to_input(np.full((1, 16, 16, 1), p, np.uint8), tensor, None).ravel()[:1]
            assert eval(formula, {"p": p}) == gpuq.dequantize(code, tensor.quant)[0]


@pytest.mark.parametrize("shape", [(1, 640), (1, 4, 4, 4), (1, 4, 4), (), (1, 1, 4, 4, 3)])
def test_inputs_that_take_no_pictures(shape: tuple[int, ...]) -> None:
    tensor = image_input(np.int8, shape=shape)
    assert pixel_rule(tensor) is None
    with pytest.raises(gpuq.InputValueError, match="pictures need an input NxHxWx3 or NxHxWx1"):
        picture_size(tensor)


# ------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_resized_whole_and_bilinear(noise: Callable[..., Path]) -> None:
    path = noise()
    found = read_picture(str(path), 10, 50, 3)
    with Image.open(path) as picture:
        want = np.asarray(picture.resize((50, 10), Image.Resampling.BILINEAR))
        others = [
            np.asarray(picture.resize((50, 10), method))
            for method in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
        ]
    assert found.shape == (10, 50, 3)
    assert np.array_equal(found, want)
    assert not any(np.array_equal(found, other) for other in others)


def test_a_picture_of_the_right_size_keeps_its_pixels(noise: Callable[..., Path]) -> None:
    path = noise()
    with Image.open(path) as picture:
        assert np.array_equal(read_picture(str(path), 23, 37, 3), np.asarray(picture))


def test_channels_are_in_the_order_red_green_blue(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "c.png")
    assert read_picture(str(tmp_path / "c.png"), 2, 2, 3)[0, 0].tolist() == [10, 20, 30]
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B = 18.15.
    assert read_picture(str(tmp_path / "c.png"), 2, 2, 1)[0, 0].tolist() == [18]


def test_other_modes_become_rgb(tmp_path: Path, noise: Callable[..., Path]) -> None:
    grey = read_picture(str(noise("L")), 8, 8, 3)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    rgba = Image.new("RGBA", (3, 3), (200, 100, 50, 0))
    rgba.save(tmp_path / "a.png")
    assert read_picture(str(tmp_path / "a.png"), 3, 3, 3)[1, 1].tolist() == [200, 100, 50]
    rgba.convert("RGB").quantize(4).save(tmp_path / "palette.png")
    assert read_picture(str(tmp_path / "palette.png"), 3, 3, 3)[1, 1].tolist() == [200, 100, 50]


def test_pictures_that_cannot_be_read(
    tmp_path: Path, noise: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: object) -> str:
        assert main(["run", str(DIGITS), str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    path = noise(size=(300, 300))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"picture '{path}' cannot be decoded" in refused(path)
    for size in (60, 20, 9, 0):
        path.write_bytes(content[:size])
        assert refused(path).startswith("gpuq: error: "), size
    path.write_text("no picture")
    assert (
        refused(path)
        == f"gpuq: error: input '{path}' is neither .npy nor a picture (BMP, GIF, JPEG, PNG, PPM, TIFF, WebP)\n"
    )
    assert "No such file" in refused(tmp_path / "none.png")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(tmp_path / "deep.png")
    assert "they must be 8 bits wide" in refused(tmp_path / "deep.png")


def test_a_missing_picture_stops_the_run_before_it_starts(
    noise: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuq.commands.run.run_all", lambda *_: pytest.fail("it ran"))
    assert main(["run", str(DIGITS), str(noise()), str(tmp_path / "none.png")]) == 2


def test_pictures_and_arrays_are_one_data_set(
    noise: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = noise()
    codes = (read_picture(str(path), 8, 8, 1).astype(int) - 128).astype(np.int8)
    np.save(tmp_path / "a.npy", codes[None])
    argv = ["run", str(DIGITS), str(tmp_path / "a.npy"), str(path), "--output", str(tmp_path / "out.npy"), "--json"]
    assert main(argv) == 0
    (taken,) = json.loads(capsys.readouterr().out)["inputs"]
    assert [file["taken_as"] for file in taken["files"]] == ["codes", "picture"]
    first, second = np.load(tmp_path / "out.npy")
    assert np.array_equal(first, second)
    assert np.array_equal(first, gpuq.load(DIGITS, device="cpu")(codes[None])[0])


# --------------------------------------------------------------------------------------------------- real networks


def best(capsys: pytest.CaptureFixture[str], material: Path, model: str, *pictures: str) -> list[list[str]]:
    """The labels of the five best classes of each picture."""
    labels = material / "images" / "imagenet_labels.txt"
    paths = [str(material / "images" / picture) for picture in pictures]
    argv = ["run", str(material / "models" / "coral" / model), *paths, "--top", "5", "--labels", str(labels), "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["input"] for entry in found["top"]] == paths
    return [[one["label"] for one in entry["classes"]] for entry in found["top"]]


def test_mobilenet_names_what_pictures_show(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cat, parrot, hopper = best(
        capsys, material, "mobilenet_v2_224_int8.tflite", "cat.bmp", "parrot.jpg", "grace_hopper.bmp"
    )
    assert cat[0] in ("Egyptian cat", "tabby, tabby cat", "tiger cat")
    assert {"Egyptian cat", "tabby, tabby cat", "tiger cat"} <= set(cat)
    assert parrot[0] == "macaw"
    assert hopper[0] == "military uniform"


def test_a_run_on_a_picture_has_litert_bits(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way from file to output, against LiteRT's reference kernels on an input prepared here."""
    model = material / "models" / "coral" / "mobilenet_v2_224_int8.tflite"
    path = material / "images" / "cat.bmp"
    out = tmp_path / "out.npy"
    assert main(["run", str(model), str(path), "--output", str(out)]) == 0
    with Image.open(path) as picture:
        prepared = np.array(picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), np.uint8)
    (want,) = litert_outputs(model.read_bytes(), [prepared[None]])
    found = np.load(out)
    assert found.dtype == want.dtype
    assert np.array_equal(found, want)


def test_int8_networks_see_what_pictures_show(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """int8 inputs: whether there is a person (0 no, 1 yes), and CIFAR-10 (2 bird, 3 cat)."""

    def classes(model: str, *pictures: str) -> list[int]:
        paths = [str(material / "images" / picture) for picture in pictures]
        assert main(["run", str(material / "models" / "mlperf_tiny" / model), *paths, "--top", "1", "--json"]) == 0
        return [entry["classes"][0]["class"] for entry in json.loads(capsys.readouterr().out)["top"]]

    assert classes("vww_mobilenet_int8.tflite", "grace_hopper.bmp", "cat.bmp", "parrot.jpg") == [1, 0, 0]
    assert classes("resnet8_cifar10_int8.tflite", "cat.bmp", "bird.bmp", "owl.jpg") == [3, 2, 2]


def test_deeplab_finds_the_cat(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A map of 513x513 class numbers, reported by the share of pixels."""
    images = material / "images"
    model = material / "models" / "coral" / "deeplabv3_mnv2_dm05_uint8.tflite"
    argv = ["run", str(model), str(images / "cat.bmp"), "--top", "2", "--labels", str(images / "pascal_voc_labels.txt")]
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    assert "24 lines for 21 classes" in captured.err
    (entry,) = json.loads(captured.out)["top"]
    assert [one["label"] for one in entry["classes"]] == ["background", "cat"]
    assert sum(one["pixels"] for one in entry["classes"]) <= 513 * 513
    assert all(one["share"] == one["pixels"] / 513**2 > 0.25 for one in entry["classes"])
