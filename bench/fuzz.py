"""Feed the readers of csv files, images and zips with broken inputs for some minutes, and count the crashes.

    python bench/fuzz.py [--minutes 10] [--targets csv,image,zip] [--seed 0] [--keep DIR]

Inputs come from hypothesis: valid files with bytes changed, cut, doubled and inserted, and files of known troublemakers
(quotes, NULs, BOMs, line ends, invisible characters, markers of JPEG, names that leave the folder). Anything but a
result that keeps the contract or an `InputError` is a crash: hypothesis shrinks it, and the input is
kept in DIR. An input that takes more than `SLOW` seconds counts as one, too. Prints inputs, crashes and the slowest
input of each target; exit code 1 after a crash. libjpeg reports damage on standard error.
"""

import argparse
import io
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.data.competition import load_competition  # noqa: E402
from facefold.data.images import ImageProblem, decode_image, inspect_image, read_thumbnail  # noqa: E402
from facefold.data.layout import install_competition  # noqa: E402
from facefold.utils.errors import InputError  # noqa: E402

SLOW = 10.0  # seconds
AT_ONCE = 200  # inputs between two looks at the clock
_HARD_IDS = [
    "1",
    "0042",
    "NA",
    "1e3",
    "../x",
    "a/b",
    " 1",
    "",
    ".",
    "é",
    "\u200b",
    "\x00",
    "a\nb",
    "\ufeff",
    '"',
    "x" * 300,
]
_ID = st.one_of(st.sampled_from(_HARD_IDS), st.text(max_size=6))
_LABEL = st.sampled_from(["0", "1", "0", "1", "2", "", "1.0", " 1", "male", "-1", "nan"])
_BETWEEN = st.sampled_from([",", ",", ",", ";", "\t", ",,", '","'])
_LINE_END = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n", "\x0b", "\u2028"])
_HEADER = st.sampled_from(
    ["id,label", "id,label", "id,label", "id", "label,id", "\ufeffid,label", "id,label,", '"id","label"', "ID,LABEL"]
)
_PIECES = [
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xc0",
    b"\xff\xc2",
    b"\xff\xdd\x00\x04\x00\x01",
    b"\xff\xe1\xff\xff",
    b"\x00" * 8,
    b'"',
]
_NAMES = [
    "train/1.jpg",
    "train/2.jpg",
    "test/3.jpg",
    "../1.jpg",
    "/etc/x",
    "train.zip",
    "test.csv",
    "a/train.csv",
    "train/é.jpg",
    "C:\\x.jpg",
    "train/\x1b.png",
    "TRAIN/1.JPG",
    "meta.csv",
    "train/" + "x" * 250 + ".jpg",
    "train//1.jpg",
    ".",
]


@st.composite
def sheets(draw: st.DrawFn) -> bytes:
    """Draw a train.csv: rows of all kinds, then damage to its bytes."""
    between, line_end = draw(_BETWEEN), draw(_LINE_END)
    rows = draw(st.lists(st.tuples(_ID, _LABEL), max_size=12))
    text = line_end.join([draw(_HEADER), *(between.join(cells) for cells in rows)]) + draw(
        st.sampled_from(["", line_end])
    )
    return draw(damaged(text.encode("utf-8", "surrogatepass")))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw `data` with some bytes changed, cut, doubled or inserted, or its end cut off."""
    content = bytearray(data)
    for kind in draw(st.lists(st.sampled_from(["change", "change", "cut", "double", "insert", "end"]), max_size=6)):
        if not content:
            break
        at, length = draw(st.integers(0, len(content) - 1)), draw(st.integers(1, 40))
        if kind == "change":
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + length] * draw(st.integers(1, 50))
        elif kind == "insert":
            content[at:at] = draw(st.one_of(st.binary(max_size=8), st.sampled_from(_PIECES)))
        else:
            del content[at:]
    return bytes(content)


def pictures() -> list[bytes]:
    """Return small images of every kind that a folder may hold."""
    ramp = np.linspace(0, 255, 40)[None, :] * np.ones((30, 1))
    rgb = Image.fromarray(np.stack([ramp, 255 - ramp, ramp / 2], axis=2).astype(np.uint8))
    upright, turned = Image.Exif(), Image.Exif()
    upright[0x0112], turned[0x0112] = 1, 6
    jpegs = [
        {},
        {"progressive": True},
        {"exif": upright},
        {"exif": turned},
        {"subsampling": 0, "quality": 98},
        {"restart_marker_blocks": 1},
    ]
    kinds = [
        *((rgb, "JPEG", options) for options in jpegs),
        (rgb.convert("L"), "JPEG", {}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {}),
        (rgb.convert("P"), "GIF", {}),
        (rgb, "WEBP", {}),
        (rgb, "TIFF", {}),
        (rgb, "BMP", {}),
    ]
    files = []
    for image, format, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        files.append(buffer.getvalue())
    return files


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Draw a zip with a competition and members of strange names, then damage to its bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        archive.writestr("train.csv", "id,label\n1,0\n2,1\n")
        for name in draw(st.lists(st.sampled_from(_NAMES), max_size=5, unique=True)):
            archive.writestr(name, draw(st.sampled_from([b"x", b"", b"\0" * 3000, b"PK\x05\x06" + b"\0" * 18])))
    return draw(damaged(buffer.getvalue()))


def check_csv(folder: Path, data: bytes) -> None:
    """Assert that an accepted csv keeps the contract: unique ids that stay in the folder, two classes or more."""
    directory = folder / "competition"
    directory.mkdir(exist_ok=True)
    (directory / "train.csv").write_bytes(data)
    (directory / "test.csv").write_text("id\ntest1\n")
    (directory / "sampleSubmit.csv").write_text("id,label\ntest1,0\n")
    try:
        competition = load_competition(folder)
    except InputError as error:
        assert "train.csv" in str(error) or "test1" in str(error), error
        str(error).encode("utf-8")
        return
    labels = set(competition.train["label"])
    assert competition.train["id"].is_unique and 1 < len(labels) <= len(competition.task.classes) and min(labels) >= 0
    for id in competition.train["id"]:
        path = competition.image_path("train", id)
        name = id.rpartition("/")[2]
        assert id.strip() and id.isprintable() and path.name in (name, f"{name}.jpg")
        assert path.resolve().parent == (directory / "train").resolve()


def check_image(folder: Path, data: bytes) -> None:
    """Assert that all readers can read an image that the audit accepts, with the same size."""
    path = folder / "1.jpg"
    path.write_bytes(data)
    try:
        facts = inspect_image(path)
    except ImageProblem as problem:
        assert str(problem)
        return
    image = decode_image(path)
    assert image.shape == (facts.height, facts.width, 3) and image.dtype == np.uint8
    assert decode_image(path, 16).shape == (16, 16, 3) and read_thumbnail(path, 32)[0].shape == (32, 32)


def check_zip(folder: Path, data: bytes) -> None:
    """Assert that unpacked files stay in competition/, and that a refusal leaves nothing."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source, root = Path(temporary) / "c.zip", Path(temporary) / "root"
        source.write_bytes(data)
        try:
            install_competition(source, root)
        except InputError as error:
            str(error).encode("utf-8")
            assert not root.exists() or not list(root.iterdir()), list(root.iterdir())
        else:
            assert [path.name for path in root.iterdir()] == ["competition"] and (
                root / "competition" / "train.csv"
            ).is_file()
        assert sorted(path.name for path in Path(temporary).iterdir()) in (["c.zip"], ["c.zip", "root"])


TARGETS: dict[str, tuple[st.SearchStrategy[bytes], Callable[[Path, bytes], None]]] = {
    "csv": (st.one_of(sheets(), sheets(), sheets(), st.binary(max_size=200)), check_csv),
    "image": (st.sampled_from(pictures()).flatmap(damaged), check_image),
    "zip": (archives(), check_zip),
}


@dataclass
class Tally:
    """inputs: number tried. crashes: traceback and smallest input that raises it. slowest: seconds of one input."""

    inputs: int = 0
    crashes: list[tuple[str, bytes]] = field(default_factory=list)
    slowest: float = 0.0


def fuzz(target: str, seconds: float, seed: int) -> Tally:
    """Try inputs for `seconds`."""
    strategy, check = TARGETS[target]
    tally, end, last = Tally(), time.monotonic() + seconds, [b""]
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:

            @hypothesis.seed(seed)
            @settings(
                max_examples=AT_ONCE,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def one(data: bytes) -> None:
                tally.inputs, last[0], started = tally.inputs + 1, data, time.perf_counter()
                check(Path(folder), data)
                took = time.perf_counter() - started
                tally.slowest = max(tally.slowest, took)
                assert took < SLOW, f"{took:.1f} s"

            try:
                one()
            except Exception:
                tally.crashes.append((traceback.format_exc(), last[0]))
            seed += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of all targets together")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where inputs that crash are kept")
    args = parser.parse_args()
    chosen, crashed = args.targets.split(","), False
    for target in chosen:
        tally = fuzz(target, 60 * args.minutes / len(chosen), args.seed)
        slowest = f"the slowest input took {tally.slowest:.2f} s"
        print(f"{target}: {tally.inputs:,} inputs, {len(tally.crashes)} crashes, {slowest}", flush=True)
        for number, (trace, data) in enumerate(tally.crashes):
            crashed = True
            print(trace)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{target}_{number}").write_bytes(data)
    raise SystemExit(crashed)


if __name__ == "__main__":
    main()
