"""Open images: check each file thoroughly once, and decode it for everything else. No other module opens images."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from facefold.data.preprocessing import Shape
from facefold.utils.errors import InputError
from facefold.utils.processes import core_count

MAX_BYTES = 256 << 20
MAX_PIXELS = 64_000_000
MAX_SIDE = 10_000
MIN_SIDE = 8
MAX_SCANS = 200  # of a progressive JPEG; ten are usual, and 30 bytes of a scan may cost the time of the whole image
_TOO_LARGE = f"larger than {MAX_SIDE} pixels a side or {MAX_PIXELS // 1_000_000} megapixels"
_CHUNK = 256  # images decoded ahead: bounds the memory, and how long a stop takes
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")  # nothing else of a competition is parsed
_JPEGS = ("JPEG", "MPO")  # MPO: a phone's JPEG with a second image behind it
_MODES = {"I": "32 bit", "F": "float"}
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 2 to 8 are turned or mirrored
# The next JPEG marker, in a header or in the data of a scan: 00 and FF are no marker, 01 and D0 to D7 end nothing.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
# Of grey images; `| cv2.IMREAD_COLOR` makes them those of colour.
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
Item, Result = TypeVar("Item"), TypeVar("Result")


class ImageProblem(Exception):
    """What is wrong with one image file, as the end of a sentence that begins with its name."""


class ImageFacts(NamedTuple):
    """sha256 (hex) and length of the file in bytes; width and height in pixels."""

    sha256: str
    bytes: int
    width: int
    height: int


class JpegHeader(NamedTuple):
    """What a JPEG says before its pixels: how it was written, and by what.

    tables: 12 hex digits for its quantisation tables; coarseness: mean of the first table; sampling: factors of each
    component, as `2x2 1x1 1x1`; progressive, exif: 0 or 1; segments: names of its APP and COM segments in order; notes:
    12 hex digits for what these hold, note_bytes: their length.
    """

    tables: str
    coarseness: float
    sampling: str
    progressive: int
    exif: int
    segments: str
    notes: str
    note_bytes: int


def inspect_image(path: Path) -> ImageFacts:
    """Read a file once and decode all of it.

    Raises `ImageProblem` unless it is whole, of a usable size, and of a kind that `open_image` turns into 8-bit RGB.
    Pillow decodes it, because OpenCV fills the rest of a truncated file with grey and says nothing. The size is that of
    the upright image.
    """
    data = _read_bytes(path)
    broken_jpeg = data.startswith(b"\xff\xd8")
    unknown = "is a JPEG with a damaged header, or one of 12 or 16 bit" if broken_jpeg else "is not an image"
    with _pillow_errors(unknown), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        _check_size(width, height)
        _check_mode(image)
        if image.getexif().get(_ORIENTATION) in range(5, 9):  # a quarter turn
            width, height = height, width
        _check_pixels(image, data)
    return ImageFacts(hashlib.sha256(data).hexdigest(), len(data), width, height)


def open_image(path: Path, size: int | Shape | None = None, crop: float = 1.0) -> np.ndarray:
    """Decode any image that Pillow reads to uint8 RGB (height, width, 3); `size=None` keeps that of the file.

    size, crop: see `Preprocessing`; the crop is cut out before it is resized, so that no resolution is lost.

    Every step sees an image as this function returns it: turned upright by its EXIF orientation; grey and palette as
    RGB; 16-bit grey by its high byte; CMYK by Pillow's formula, without a colour profile; transparency left out; the
    first frame of several. If both sides of what is kept of an upright RGB or grey JPEG are at least twice as long as
    asked for, the JPEG decoder itself halves (quarters, ..) the image in the DCT domain, which is several times faster;
    the rest is averaged down, or interpolated up.
    Raises `ImageProblem` if that fails, or if it is larger or smaller than an image of a competition may be.
    """
    data, shape = _read_bytes(path), None if size is None else Shape.of(size)
    with _pillow_errors("is no image of a kind that Pillow reads"), Image.open(io.BytesIO(data)) as image:
        _check_size(*image.size)
        if image.format in _JPEGS:
            _check_end(data)
        if _is_plain_jpeg(image):
            flag = 0 if shape is None else _reduced_flag(image, shape.height / crop, shape.width / crop)
            bgr = _decode(data, cv2.IMREAD_COLOR | flag)
        else:
            bgr = cv2.cvtColor(_convert(image), cv2.COLOR_RGB2BGR)
    bgr = _crop_middle(bgr, crop)
    return cv2.cvtColor(bgr if shape is None else _resize(bgr, shape), cv2.COLOR_BGR2RGB)


def decode_image(path: Path, size: int | Shape | None = None, crop: float = 1.0) -> np.ndarray:
    """Decode an image of the competition as `open_image` does; raise `InputError` if it is missing or unusable."""
    with _input_errors(path):
        return open_image(path, size, crop)


def read_thumbnail(path: Path, size: int) -> tuple[np.ndarray, JpegHeader]:
    """Decode an image to grey, uint8 (size, size), and parse its header, which is that of a JPEG or empty.

    The decoder halves the image as in `decode_image`, but leaves at least twice `size` to average: copies of an image
    in other sizes then hardly differ. Raises `InputError` if the file is missing or not an image.
    """
    with _input_errors(path):
        data = _read_bytes(path)
        header = _open_header(data)
        if _is_plain_jpeg(header):
            grey = _decode(data, _reduced_flag(header, 2 * size, 2 * size))
        else:
            with _pillow_errors("is not an image"):
                grey = cv2.cvtColor(_convert(header), cv2.COLOR_RGB2GRAY)
    return _resize(grey, Shape(size, size)), _parse_header(header)


def encode_thumbnail(path: Path, size: int) -> bytes:
    """Return the image as the bytes of a square JPEG of `size` pixels; errors as `decode_image`."""
    return encode_jpeg(decode_image(path, size), quality=80)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode uint8 RGB (height, width, 3) as a JPEG."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def map_images(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `function(item)` of each item, in order; threads work `_CHUNK` items ahead (OpenCV releases the GIL)."""
    with ThreadPoolExecutor(core_count()) as pool:
        for start in range(0, len(items), _CHUNK):
            yield from pool.map(function, items[start : start + _CHUNK])


@contextmanager
def _pillow_errors(unknown: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an `ImageProblem`. unknown: what to say if it does not know the format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a large or slightly odd file: our own limits decide
            yield
    except ImageProblem:
        raise
    except UnidentifiedImageError:
        raise ImageProblem(unknown) from None
    except Image.DecompressionBombError:
        raise ImageProblem(f"is {_TOO_LARGE}") from None
    except Exception as error:  # a damaged file makes a decoder raise almost anything
        if "truncated" in str(error).lower():
            raise ImageProblem("is truncated") from error
        raise ImageProblem(f"cannot be decoded ({type(error).__name__}: {error})") from error


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Turn an `ImageProblem` with an image of the competition into an `InputError`: it changed after the audit."""
    try:
        yield
    except ImageProblem as problem:
        raise InputError(f"{path} {problem}. Run `python src/audit.py`, which checks every image.") from None


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageProblem(f"is larger than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageProblem("is missing") from None
    except OSError as error:
        raise ImageProblem(f"cannot be read ({error.strerror})") from error
    if not data:
        raise ImageProblem("is empty")
    return data


def _check_mode(image: Image.Image) -> None:
    """Check that it is known what is white."""
    if image.mode in ("I", "F") and not _is_sixteen_bit(image):
        raise ImageProblem(f"is {_MODES[image.mode]}, of which it is not known what is white; save it with 8 bit")


def _is_sixteen_bit(image: Image.Image) -> bool:
    return image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageProblem(f"is {width} x {height}: {_TOO_LARGE}")
    if min(width, height) < MIN_SIDE:
        raise ImageProblem(f"is {width} x {height}: smaller than {MIN_SIDE} pixels a side")


def _is_plain_jpeg(image: Image.Image) -> bool:
    """Return whether this is an upright JPEG, RGB or grey, which OpenCV decodes."""
    turned = image.getexif().get(_ORIENTATION) in range(2, 9)
    return image.format in _JPEGS and image.mode in ("RGB", "L") and not turned


def _check_pixels(image: ImageFile.ImageFile, data: bytes) -> None:
    if image.format in _JPEGS:
        _check_end(data)
        image.draft(image.mode, (image.width // 8, image.height // 8))  # reads all bits, computes few of the pixels
    image.load()


def _check_end(data: bytes) -> None:
    """Check that a JPEG has an end, and at most `MAX_SCANS` scans before it.

    What follows its own end, such as the film or the second image that a phone appends, is not looked at.
    """
    scans, position = 0, 2
    while marker := _MARKER.search(data, position):
        position, code = marker.end(), marker[1]
        if code == b"\xd9":
            return
        if code == b"\xd8":  # another image begins before the end of this one
            break
        scans += code == b"\xda"
        if scans > MAX_SCANS:
            raise ImageProblem(f"has more than {MAX_SCANS} scans; save it again")
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    raise ImageProblem("is truncated")


def _convert(image: ImageFile.ImageFile) -> np.ndarray:
    """Return the pixels as `open_image` does, uint8 RGB (height, width, 3), whatever the mode and the orientation."""
    if image.format == "EPS":
        raise ImageProblem("is PostScript, a program to run")
    _check_mode(image)
    sixteen = _is_sixteen_bit(image)
    image = ImageOps.exif_transpose(image)
    if sixteen:
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _open_header(data: bytes) -> Image.Image:
    """Open an image without decoding it."""
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageProblem(f"cannot be decoded ({type(error).__name__})") from error


def _parse_header(image: Image.Image) -> JpegHeader:
    tables, segments = getattr(image, "quantization", {}), getattr(image, "applist", [])
    notes = b"".join(content for _, content in segments)
    return JpegHeader(
        tables=_short_hash(repr(sorted(tables.items())).encode()),
        coarseness=float(np.mean(tables[min(tables)])) if tables else 0.0,
        sampling=" ".join(f"{across}x{down}" for _, across, down, _ in getattr(image, "layer", [])),
        progressive=int("progressive" in image.info),
        exif=int("exif" in image.info),
        segments=" ".join(name for name, _ in segments),
        notes=_short_hash(notes),
        note_bytes=len(notes),
    )


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _reduced_flag(header: Image.Image, height: float, width: float) -> int:
    """Return OpenCV's flag for the strongest reduction that leaves height x width pixels or more; 0 for none."""
    for factor, flag in _REDUCED.items():
        if header.height >= factor * height and header.width >= factor * width:
            return flag
    return 0


def _decode(data: bytes, flag: int) -> np.ndarray:
    # OpenCV would turn an image by EXIF that is too damaged for Pillow; the audit goes by what Pillow reads.
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageProblem("cannot be decoded")
    return pixels


def _crop_middle(pixels: np.ndarray, crop: float) -> np.ndarray:
    """Cut the same margin off opposite sides, so that the crop of a mirror image is the mirror image of the crop."""
    height, width = pixels.shape[:2]
    top, left = (min(round(side * (1 - crop) / 2), (side - 1) // 2) for side in (height, width))
    return pixels[top : height - top, left : width - left]


def _resize(pixels: np.ndarray, shape: Shape) -> np.ndarray:
    height, width = pixels.shape[:2]
    if (height, width) == shape:
        return pixels
    shrinking = height >= shape.height and width >= shape.width
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
