"""The only code that opens an image: a thorough look at a file once, and the decoding for everything else."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from facefold.utils.errors import InputError

MAX_BYTES = 256 << 20
MAX_PIXELS = 64_000_000
MAX_SIDE = 10_000
MIN_SIDE = 8
MAX_SCANS = 200  # of a progressive JPEG; usual are ten, and each may cost as much time as the whole picture in 30 bytes
_KNOWN = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")  # told from one another for the message; nothing else is parsed

_MODES = {
    "CMYK": "CMYK",
    "P": "palette",
    "1": "1 bit",
    "RGBA": "alpha",
    "LA": "alpha",
    "PA": "palette, alpha",
    "La": "alpha",
    "RGBa": "alpha",
    "I;16": "16 bit",
    "I;16B": "16 bit",
    "I": "32 bit",
    "F": "float",
}
_COLOUR = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
    (1, cv2.IMREAD_COLOR),
)
_GREY = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    (1, cv2.IMREAD_GRAYSCALE),
)


class ImageProblem(Exception):
    """What is wrong with one image file, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class ImageFacts:
    """sha256 (hex) and length of the file in bytes; width and height in pixels; channels 1 (grey) or 3."""

    sha256: str
    bytes: int
    width: int
    height: int
    channels: int


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG says before its pixels: how it was written, and by what.

    tables: 12 hex digits for its quantisation tables; coarseness: mean of the first one; sampling: factors of each
    component, as `2x2 1x1 1x1`; progressive, exif: 0 or 1; segments: names of its APP and COM segments in order; notes:
    12 hex digits for what these hold, note_bytes their length.
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
    """Read a file once and decode it whole; `ImageProblem` unless it is an upright 8-bit RGB or grey JPEG of a usable size.

    Pillow rather than OpenCV, because OpenCV fills the rest of a truncated file with grey and says nothing.
    """
    data = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large or slightly odd file: our own limits decide
            with Image.open(io.BytesIO(data), formats=_KNOWN) as image:
                width, height = image.size
                _check_header(image)
                _check_pixels(image, data)
                channels = len(image.getbands())
    except ImageProblem:
        raise
    except UnidentifiedImageError:
        if data.startswith(b"\xff\xd8"):
            raise ImageProblem("is a JPEG with a damaged header, or one of 12 or 16 bit")
        raise ImageProblem("is not an image")
    except Image.DecompressionBombError:
        raise ImageProblem(f"is larger than {MAX_SIDE} pixels a side or {MAX_PIXELS // 1_000_000} megapixels")
    except Exception as error:  # a damaged file makes a decoder raise almost anything
        if "truncated" in str(error).lower():
            raise ImageProblem("is truncated")
        raise ImageProblem(f"cannot be decoded ({type(error).__name__}: {error})")
    return ImageFacts(hashlib.sha256(data).hexdigest(), len(data), width, height, channels)


def decode_image(path: Path, size: int | None = None) -> np.ndarray:
    """Decode a JPEG to uint8 RGB: (size, size, 3), or (height, width, 3) as it is for `size=None`.

    Where the shorter side is at least twice `size` the JPEG decoder itself halves (quarters, ..) the picture in the
    DCT domain, which is several times faster; what is left is area-averaged down, or interpolated up, to a square.
    Raises `InputError` for a file that is missing or no image.
    """
    try:
        data = _read(path)
        bgr = _decoded(data, cv2.IMREAD_COLOR if size is None else _reduced_flag(_opened(data), size, _COLOUR))
    except ImageProblem as problem:
        raise _unchecked(path, problem)
    return cv2.cvtColor(bgr if size is None else _square(bgr, size), cv2.COLOR_BGR2RGB)


def open_photograph(path: Path) -> np.ndarray:
    """Any picture as it is meant to be seen, uint8 (height, width, 3) RGB: whatever Pillow reads, turned by its EXIF orientation.

    `ImageProblem` for what is none, is truncated, or is larger or smaller than an image of a competition may be.
    """
    data = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large or slightly odd file: our own limits decide
            with Image.open(io.BytesIO(data)) as image:
                _check_size(*image.size)
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except ImageProblem:
        raise
    except UnidentifiedImageError:
        raise ImageProblem("is no image of a kind that Pillow reads")
    except Exception as error:  # a damaged file makes a decoder raise almost anything
        raise ImageProblem(f"cannot be decoded ({type(error).__name__}: {error})")


def read_thumbnail(path: Path, size: int) -> tuple[np.ndarray, JpegHeader]:
    """A small grey picture, uint8 (size, size), and the header: from one reading.

    As in `decode` the decoder halves the picture, but at least twice `size` is left to average: copies of a picture in
    other sizes then hardly differ.
    Raises `InputError` for a file that is missing or no image.
    """
    try:
        data = _read(path)
        opened = _opened(data)
        grey = _decoded(data, _reduced_flag(opened, 2 * size, _GREY))
    except ImageProblem as problem:
        raise _unchecked(path, problem)
    return _square(grey, size), _header(opened)


def encode_thumbnail(path: Path, size: int) -> bytes:
    """The image as the bytes of a small square JPEG of `size` pixels, for a page to look at. Raises `InputError` as `decode` does."""
    bgr = cv2.cvtColor(decode_image(path, size), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def _read(path: Path) -> bytes:
    try:
        length = path.stat().st_size
        if length > MAX_BYTES:
            raise ImageProblem(f"is larger than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageProblem("is missing")
    except OSError as error:
        raise ImageProblem(f"cannot be read ({error.strerror})")
    if not data:
        raise ImageProblem("is empty")
    return data


def _check_header(image: ImageFile.ImageFile) -> None:
    """What the header alone tells: it comes first so that a decompression bomb is never decoded."""
    width, height = image.size
    kind = _MODES.get(image.mode, image.mode)
    if image.format not in ("JPEG", "MPO"):  # MPO: a phone's JPEG with a second picture behind it
        raise ImageProblem(f"is a {image.format} file ({kind}), not a JPEG; renaming does not convert it")
    if image.mode not in ("RGB", "L"):
        raise ImageProblem(f"is {kind}, not RGB or grey")
    _check_size(width, height)
    if image.getexif().get(0x0112) in range(2, 9):
        raise ImageProblem("is rotated by its EXIF orientation; save it upright, without the tag")


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageProblem(
            f"is {width} x {height}: larger than {MAX_SIDE} pixels a side or {MAX_PIXELS // 1_000_000} megapixels"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageProblem(f"is {width} x {height}: smaller than {MIN_SIDE} pixels a side")


def _check_pixels(image: ImageFile.ImageFile, data: bytes) -> None:
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageProblem(f"has more than {MAX_SCANS} scans; save it again")
    image.draft(image.mode, (image.width // 8, image.height // 8))  # all bits are read, an eighth of the pixels is made
    image.load()
    if data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0:  # no end-of-image marker after the last scan
        raise ImageProblem("is truncated")


def _opened(data: bytes) -> Image.Image:
    """The header alone; nothing is decoded."""
    try:
        return Image.open(io.BytesIO(data), formats=_KNOWN)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageProblem(f"cannot be decoded ({type(error).__name__})")


def _header(image: Image.Image) -> JpegHeader:
    tables, segments = getattr(image, "quantization", {}), getattr(image, "applist", [])
    notes = b"".join(content for _, content in segments)
    return JpegHeader(
        _mark(repr(sorted(tables.items())).encode()),
        float(np.mean(tables[min(tables)])) if tables else 0.0,
        " ".join(f"{across}x{down}" for _, across, down, _ in getattr(image, "layer", [])),
        int("progressive" in image.info),
        int("exif" in image.info),
        " ".join(name for name, _ in segments),
        _mark(notes),
        len(notes),
    )


def _mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _reduced_flag(image: Image.Image, size: int, flags: tuple[tuple[int, int], ...]) -> int:
    """OpenCV's flag for the strongest reduction that leaves `size` pixels of the shorter side."""
    return next((flag for factor, flag in flags if min(image.size) >= factor * size), flags[-1][1])


def _decoded(data: bytes, flags: int) -> np.ndarray:
    # OpenCV turns a picture by EXIF that is too damaged for Pillow, whose word on the orientation is what the audit goes by.
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageProblem("cannot be decoded")
    return pixels


def _square(pixels: np.ndarray, size: int) -> np.ndarray:
    if pixels.shape[:2] == (size, size):
        return pixels
    shrinking = min(pixels.shape[:2]) >= size
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)


def _unchecked(path: Path, problem: ImageProblem) -> InputError:
    return InputError(f"{path} {problem}. Run `python src/audit.py`, which checks every image.")
