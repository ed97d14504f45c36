"""Zips and folders of a tiny competition, for the tests of archive.py and layout.py."""

import io
import zipfile
from pathlib import Path

CSV = {"train.csv": b"id,label\n1,0\n2,1\n", "test.csv": b"id\n3\n", "sampleSubmit.csv": b"id,label\n3,0\n"}
IMAGES = {"train/1.jpg": b"one", "train/2.jpg": b"two", "test/3.jpg": b"three"}
COMPLETE = {**CSV, **IMAGES}


def zip_bytes(members: dict) -> bytes:
    """Zip {name or ZipInfo: content}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_zip(folder: Path, members: dict | bytes) -> Path:
    """Write c.zip of these members, or of these bytes."""
    (folder / "c.zip").write_bytes(members if isinstance(members, bytes) else zip_bytes(members))
    return folder / "c.zip"


def write_folder(folder: Path, members: dict) -> Path:
    for name, content in members.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "source"
