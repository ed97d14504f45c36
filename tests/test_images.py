import hashlib
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from facefold.data.images import (
    ImageFacts,
    ImageProblem,
    decode_image,
    inspect_image,
    open_image,
    read_thumbnail,
)
from facefold.utils.errors import InputError


def picture(width=40, height=30, mode="RGB"):
    """A smooth gradient, so that JPEG keeps it nearly exact."""
    ramp = np.linspace(0, 255, width)[None, :] * np.ones((height, 1))
    rgb = np.stack([ramp, 255 - ramp, np.full_like(ramp, 90)], axis=2).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rule_of(tmp_path, data):
    """What inspect says is wrong with a file of these bytes."""
    path = tmp_path / "1.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageProblem) as caught:
        inspect_image(path)
    return str(caught.value)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), exif=exif)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_facts_of_a_sound_image(tmp_path, mode):
    data = encoded(picture(mode=mode))
    (tmp_path / "1.jpg").write_bytes(data)
    facts = inspect_image(tmp_path / "1.jpg")
    assert facts == ImageFacts(hashlib.sha256(data).hexdigest(), len(data), 40, 30)


def test_progressive_upright_and_trailing_bytes_are_fine(tmp_path):
    for data in (encoded(picture(), progressive=True), turned(1), encoded(picture()) + b"\0" * 7):
        (tmp_path / "1.jpg").write_bytes(data)
        assert inspect_image(tmp_path / "1.jpg").width == 40


@pytest.mark.parametrize(
    "data, rule",
    [
        (b"", "is empty"),
        (b"<html>404</html>", "is not an image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "is truncated"),
        (
            encoded(picture()).replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
            "is a JPEG with a damaged header, or one of 12 or 16 bit",
        ),
        (
            encoded(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"),
            "is float, of which it is not known what is white; save it with 8 bit",
        ),
        (encoded(picture(), "PNG")[:-60], "is truncated"),
        (encoded(picture(7, 30)), "is 7 x 30: smaller than 8 pixels a side"),
        (encoded(picture(10_001, 8)), "is 10001 x 8: larger than 10000 pixels a side or 64 megapixels"),
    ],
)
def test_each_kind_of_unsound_image(tmp_path, data, rule):
    assert rule_of(tmp_path, data) == rule


SIXTEEN = Image.fromarray(np.full((30, 40), 0x12FF, np.uint16))
CONVERTED = {  # what every step sees of it: the pixel at the upper left
    "png": (encoded(Image.new("RGB", (40, 30), (9, 8, 7)), "PNG"), (9, 8, 7)),
    "alpha": (encoded(Image.new("RGBA", (40, 30), (9, 8, 7, 0)), "PNG"), (9, 8, 7)),
    "palette": (encoded(Image.new("RGB", (40, 30), (9, 8, 7)).quantize(4), "PNG"), (9, 8, 7)),
    "16 bit": (encoded(SIXTEEN, "PNG"), (0x12, 0x12, 0x12)),
    "gif": (encoded(Image.new("P", (40, 30)), "GIF"), (0, 0, 0)),
    "tiff": (encoded(Image.new("RGB", (40, 30), (9, 8, 7)), "TIFF"), (9, 8, 7)),
    "bmp": (encoded(Image.new("L", (40, 30), 9), "BMP"), (9, 9, 9)),
    "webp": (encoded(Image.new("RGB", (40, 30), (255, 255, 255)), "WEBP", lossless=True), (255, 255, 255)),
    "cmyk": (encoded(Image.new("CMYK", (40, 30), (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_each_kind_of_image_is_converted_by_one_rule(tmp_path, kind):
    data, pixel = CONVERTED[kind]
    (tmp_path / "1.any").write_bytes(data)
    assert inspect_image(tmp_path / "1.any")[1:] == (len(data), 40, 30)
    assert tuple(decode_image(tmp_path / "1.any")[0, 0]) == pixel
    grey, header = read_thumbnail(tmp_path / "1.any", 8)
    assert grey.shape == (8, 8) and abs(int(grey[0, 0]) - sum(pixel) // 3) <= 1
    assert kind == "cmyk" or header.segments == ""


def test_a_turned_image_has_the_size_of_the_upright_one(tmp_path):
    (tmp_path / "1.jpg").write_bytes(turned(6))
    assert inspect_image(tmp_path / "1.jpg")[2:] == decode_image(tmp_path / "1.jpg").shape[1::-1] == (30, 40)
    assert read_thumbnail(tmp_path / "1.jpg", 16)[0].shape == (16, 16)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("cut", [1, 2, 3, 40, 200])
def test_truncation_is_found_wherever_it_is(tmp_path, mode, cut):
    data = encoded(picture(200, 200, mode), quality=95)
    assert rule_of(tmp_path, data[:-cut]) == "is truncated"


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    data = bytearray(encoded(picture()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels
    assert rule_of(tmp_path, bytes(data)) == "is larger than 10000 pixels a side or 64 megapixels"


def test_damaged_exif_turns_no_picture(tmp_path):
    """Found by bench/fuzz.py: Pillow sees no orientation in it, OpenCV does."""
    data = turned(6)
    assert data.count(b"Exif\0\0MM") == 1
    (tmp_path / "1.jpg").write_bytes(data.replace(b"Exif\0\0MM", b"Exif\0\0\0M"))
    facts = inspect_image(tmp_path / "1.jpg")
    assert decode_image(tmp_path / "1.jpg").shape == (facts.height, facts.width, 3) == (30, 40, 3)


def test_a_picture_of_endless_scans_is_refused_before_they_are_read(tmp_path):
    data = encoded(picture(400, 400, "L"), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert rule_of(tmp_path, data[:-2] + last * 1000 + b"\xff\xd9") == "has more than 200 scans; save it again"


BEHIND = {
    "a film that looks like a scan": b"video\xff\xdavideo",
    "a film that looks like many": b"\xff\xda\0\x02" * 300,
    "a second image": encoded(picture(64, 48)),
    "a second image that is cut": encoded(picture(64, 48))[:300],
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_what_follows_the_end_of_a_sound_image_is_not_looked_at(tmp_path, behind):
    for sound in (encoded(picture(mode="L")), encoded(picture(), progressive=True, restart_marker_blocks=2)):
        (tmp_path / "1.jpg").write_bytes(sound + behind)
        (tmp_path / "2.jpg").write_bytes(sound)
        assert inspect_image(tmp_path / "1.jpg").width == 40
        np.testing.assert_array_equal(decode_image(tmp_path / "1.jpg"), decode_image(tmp_path / "2.jpg"))


def test_a_phones_second_image_is_fine(tmp_path):
    picture().save(tmp_path / "1.jpg", "MPO", save_all=True, append_images=[picture(64, 48)])
    assert Image.open(tmp_path / "1.jpg").format == "MPO" and inspect_image(tmp_path / "1.jpg").width == 40
    assert decode_image(tmp_path / "1.jpg").shape == (30, 40, 3)


def test_an_image_that_is_cut_is_truncated_whatever_follows(tmp_path):
    sound = encoded(picture(200, 200), quality=95)
    assert rule_of(tmp_path, sound[:-200] + encoded(picture())) == "is truncated"
    with pytest.raises(ImageProblem, match="^is truncated$"):
        open_image(tmp_path / "1.jpg")


def test_missing_and_folder(tmp_path):
    with pytest.raises(ImageProblem, match="^is missing$"):
        inspect_image(tmp_path / "1.jpg")
    with pytest.raises(ImageProblem, match="^cannot be read"):
        inspect_image(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20), st.integers(0, 400))
def test_damage_of_any_kind_is_an_image_problem_or_nothing(tmp_path_factory, changes, cut):
    data = bytearray(turned(1))
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.jpg"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        inspect_image(path)
    except ImageProblem:
        return
    assert decode_image(path, 16).shape == (16, 16, 3)


def test_decode_is_rgb_and_keeps_the_size_when_none_is_asked(tmp_path):
    (tmp_path / "1.jpg").write_bytes(encoded(picture(), quality=100, subsampling=0))
    decoded = decode_image(tmp_path / "1.jpg")
    assert decoded.shape == (30, 40, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - np.asarray(picture()).astype(int)).max() <= 4


@pytest.mark.parametrize("size", [16, 25, 32, 50, 96, 100, 128, 200, 300])
def test_every_size_shows_the_same_picture(tmp_path, size):
    (tmp_path / "1.jpg").write_bytes(encoded(picture(200, 200), quality=100, subsampling=0))
    decoded = decode_image(tmp_path / "1.jpg", size)
    expected = cv2.resize(np.asarray(picture(200, 200)), (size, size), interpolation=cv2.INTER_AREA)
    assert decoded.shape == (size, size, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - expected.astype(int)).mean() < 2


@pytest.mark.parametrize("size", [None, 44, 100, 176, 200])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_crop_is_the_middle_at_the_resolution_of_the_file(tmp_path, size, format):
    """What is left of 200 by 100 pixels is 176 by 88, of which 44 are decoded at half the size."""
    pixels, inner = np.full((100, 200, 3), (255, 0, 0), np.uint8), np.asarray(picture(176, 88))
    pixels[6:-6, 12:-12] = inner
    path = tmp_path / "1.jpg"
    path.write_bytes(encoded(Image.fromarray(pixels), format, quality=100, subsampling=0))
    decoded = decode_image(path, size, 0.88).astype(int)
    shape = (176, 88) if size is None else (size, size)
    expected = cv2.resize(inner, shape, interpolation=cv2.INTER_CUBIC if (size or 0) > 88 else cv2.INTER_AREA)
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).mean() < (2 if format == "JPEG" else 1e-9)
    path.write_bytes(encoded(Image.fromarray(pixels[:, ::-1]), format, quality=100, subsampling=0))
    assert np.abs(decode_image(path, size, 0.88).astype(int) - decoded[:, ::-1]).mean() < 1


@pytest.mark.parametrize(
    "shape, flag, reduced",
    [
        ((100, 20), cv2.IMREAD_REDUCED_COLOR_2, (100, 80)),  # an eighth would do for the width
        ((25, 40), cv2.IMREAD_REDUCED_COLOR_4, (50, 40)),  # an eighth would do for the height
        ((100, 80), cv2.IMREAD_REDUCED_COLOR_2, (100, 80)),
        ((101, 10), cv2.IMREAD_COLOR, (200, 160)),
        ((20, 200), cv2.IMREAD_COLOR, (200, 160)),
    ],
)
def test_height_and_width_of_a_decoded_image(tmp_path, shape, flag, reduced):
    """Of 200 by 160 pixels the decoder computes as few as leave both sides long enough."""
    data = encoded(picture(160, 200), quality=100, subsampling=0)
    (tmp_path / "1.jpg").write_bytes(data)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    assert bgr.shape[:2] == reduced
    method = cv2.INTER_CUBIC if shape[1] > 160 else cv2.INTER_AREA
    expected = cv2.resize(bgr, (shape[1], shape[0]), interpolation=method) if reduced != shape else bgr
    assert np.array_equal(decode_image(tmp_path / "1.jpg", shape), expected[..., ::-1])


def test_height_and_width_of_a_crop(tmp_path):
    """The middle of 200 by 160 pixels is 100 by 80, of which a half is 50 by 40: the decoder halves all of it."""
    data = encoded(picture(160, 200), quality=100, subsampling=0)
    (tmp_path / "1.jpg").write_bytes(data)
    half = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_2)[25:-25, 20:-20, ::-1]
    expected = cv2.resize(half, (40, 30), interpolation=cv2.INTER_AREA)
    assert np.array_equal(decode_image(tmp_path / "1.jpg", (30, 40), 0.5), expected)


def test_a_crop_leaves_a_pixel(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded(picture(8, 9), "PNG"))
    assert decode_image(tmp_path / "1.png", None, 0.001).shape == (1, 2, 3)
    assert decode_image(tmp_path / "1.png", 16, 0.001).shape == (16, 16, 3)


def test_grey_becomes_three_channels_and_any_shape_a_square(tmp_path):
    (tmp_path / "1.jpg").write_bytes(encoded(picture(90, 30, "L")))
    decoded = decode_image(tmp_path / "1.jpg", 20)
    assert decoded.shape == (20, 20, 3) and (decoded[..., 0] == decoded[..., 2]).all()


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff\xd8\xff\xd9"])
def test_decode_of_no_image_names_the_file(tmp_path, data, size):
    (tmp_path / "1.jpg").write_bytes(data)
    with pytest.raises(InputError, match="1.jpg (is empty|is no image|is truncated|cannot be decoded)"):
        decode_image(tmp_path / "1.jpg", size)


def ramp16() -> np.ndarray:
    return (np.linspace(0, 65535, 40)[None, :] * np.ones((30, 1))).astype(np.uint16)


GREY16 = np.repeat((ramp16() >> 8).astype(np.uint8)[..., None], 3, axis=2)
CONVERSIONS = {  # what open_image says of its conversions: image, format, expected pixels
    "palette": (picture(mode="P"), "PNG", np.asarray(picture(mode="P").convert("RGB"))),
    "transparency is left out": (picture(mode="RGBA"), "PNG", np.asarray(picture())),
    "grey": (picture(mode="L"), "BMP", np.asarray(picture(mode="L").convert("RGB"))),
    "1 bit": (picture(mode="1"), "PNG", np.asarray(picture(mode="1").convert("RGB"))),
    "16 bit png": (Image.fromarray(ramp16()), "PNG", GREY16),
    "16 bit tiff": (Image.fromarray(ramp16()), "TIFF", GREY16),
    "16 bit pgm": (Image.fromarray(ramp16()), "PPM", GREY16),
    "CMYK": (picture(mode="CMYK"), "TIFF", np.asarray(picture(mode="CMYK").convert("RGB"))),
    "ppm": (picture(), "PPM", np.asarray(picture())),
}


@pytest.mark.parametrize("image, format, expected", CONVERSIONS.values(), ids=CONVERSIONS)
def test_each_conversion_is_the_stated_one(tmp_path, image, format, expected):
    image.save(tmp_path / "picture", format)
    np.testing.assert_array_equal(open_image(tmp_path / "picture"), expected)
    small = cv2.resize(expected, (20, 20), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(open_image(tmp_path / "picture", 20), small)


@pytest.mark.parametrize("size", [None, 12])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_a_picture_is_turned_at_every_size(tmp_path, size, orientation):
    (tmp_path / "turned.jpg").write_bytes(turned(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg")))
    if size:
        expected = cv2.resize(expected, (size, size), interpolation=cv2.INTER_AREA)
    difference = np.abs(open_image(tmp_path / "turned.jpg", size).astype(int) - expected.astype(int))
    assert difference.mean() < 2  # an upright one is halved by its decoder


@pytest.mark.parametrize("format", ["JPEG2000", "AVIF"])
def test_what_pillow_reads_is_read(tmp_path, format):
    if not features.check({"JPEG2000": "jpg_2000", "AVIF": "avif"}[format]):
        pytest.skip(f"this Pillow does not read {format}")
    picture().save(tmp_path / "picture", format)
    assert np.abs(open_image(tmp_path / "picture").astype(int) - np.asarray(picture()).astype(int)).mean() < 4


def test_pictures_that_cannot_be_converted_say_why(tmp_path):
    for mode, kind in (("I", "32 bit"), ("F", "float")):
        picture().convert("L").convert(mode).save(tmp_path / "1.tif")
        with pytest.raises(ImageProblem) as caught:
            open_image(tmp_path / "1.tif")
        assert str(caught.value) == f"is {kind}, of which it is not known what is white; save it with 8 bit"
    picture().save(tmp_path / "1.eps")
    with pytest.raises(ImageProblem, match="^is PostScript, a program to run$"):
        open_image(tmp_path / "1.eps")
