"""A competition of any layout is read with no option but --data; what is inferred is printed and can be changed."""

from pathlib import Path

import pandas as pd
import pytest

from archives import zip_bytes
from command import refused, run
from facefold.data.competition import load_competition
from facefold.data.task_inference import describe_other_reading, find_classes
from facefold.task import load_task
from facefold.utils.errors import InputError
from layouts import (
    DIGITS,
    LAYOUTS,
    TRAIN,
    WORDS,
    aptos,
    cassava,
    dogbreed,
    five,
    house,
    image,
    melanoma,
    onehot,
    table,
    write,
)

SIX = ("accuracy", "log_loss", "macro_f1", "balanced_accuracy", "qwk", "mean_auc")


def audit(root: Path, *options: object) -> str:
    done = run("audit", root, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_with_no_option_but_data(tmp_path, layout):
    files, options, task, labels, ids = LAYOUTS[layout]
    source, root = write(tmp_path / "source", files()), tmp_path / "root"
    page = audit(root, "--data", source, *options)
    competition = load_competition(root)
    assert competition.task == task == load_task(root)
    assert "rows        40 train, 8 test\n" in page and "nothing breaks the rules" in page
    assert competition.train["label"].tolist()[:3] == labels and competition.train["label"].dtype == "int64"
    assert (competition.train["id"][0], competition.test["id"][0]) == ids
    assert competition.sample["id"].tolist() == competition.test["id"].tolist()
    assert competition.sample_header[0] == task.id_column
    for split in ("train", "test"):
        paths = [competition.image_path(split, id) for id in competition.ids(split)]
        assert len(set(paths)) == len(paths) and all(path.is_file() for path in paths)
    number = 1 if layout != "imagefolder" else 13
    assert competition.image_path("train", ids[0]).read_bytes() == image(number, _suffix(layout))
    assert "is already in" in audit(root, "--data", source) and load_competition(root).task == task


def _suffix(layout: str) -> str:
    return "png" if layout in ("png", "aptos") else "jpg"


def test_the_zip_of_a_layout_is_read_like_its_folder(tmp_path):
    (tmp_path / "c.zip").write_bytes(zip_bytes({f"c/{name}": content for name, content in cassava().items()}))
    audit(tmp_path / "zip", "--data", tmp_path / "c.zip")
    audit(tmp_path / "folder", "--data", write(tmp_path / "source", cassava()))
    first, second = (load_competition(tmp_path / name) for name in ("zip", "folder"))
    pd.testing.assert_frame_equal(first.train, second.train)
    assert first.task == second.task


def test_a_competition_may_stay_in_a_folder_that_is_not_copied(tmp_path):
    source, root = write(tmp_path / "source", onehot()), tmp_path / "root"
    audit(root, "--data", source, "--in-place")
    task = load_task(root)
    assert task.train_images == task.test_images == str(source / "images")
    assert not list((root / "competition").rglob("*.jpg"))
    assert load_competition(root).image_path("test", "Test_41") == source / "images" / "Test_41.jpg"
    audit(root, "--metric", "mean_auc")
    assert load_task(root).train_images == task.train_images and load_task(root).metric == "mean_auc"


def test_the_page_says_how_the_files_were_read_and_how_to_change_it(tmp_path):
    page = audit(tmp_path / "root", "--data", write(tmp_path / "source", aptos())).splitlines()
    at = next(number for number, line in enumerate(page) if line.startswith("read as"))
    assert page[at : at + 4] == [
        "read as     5 classes (0, 1, 2, 3, 4) in column diagnosis, ids in id_code, scored by accuracy, submission: "
        "labels;",
        "            to change it: --metric macro_f1|balanced_accuracy|qwk, or edit competition/task.toml",
        "            the classes are whole numbers and were taken as names; if their order counts: --metric qwk",
        "labels      8 of 0, 8 of 1, 8 of 2, 8 of 3, 8 of 4",
    ]


def test_the_order_of_classes_that_are_names_is_asked_for_if_it_counts():
    grades = ("high", "low", "mid")
    line = "the order of the classes counts: if it is not high, low, mid, edit classes in competition/task.toml"
    assert describe_other_reading(five(classes=grades, metric="qwk"), ["low", "0"]) == line
    assert not describe_other_reading(five(classes=grades, metric="qwk"), [])  # the columns of the sample
    assert not describe_other_reading(five(classes=grades), ["low"])
    assert not describe_other_reading(five(classes=DIGITS, metric="qwk"), ["1"])


def test_columns_that_say_which_images_belong_together_are_named(tmp_path):
    assert (
        "groups      column patient_id: 11 values for 40 rows, up to 4 of one, 3 test rows have one of them; "
        "`split.py --group patient_id` keeps them together\n"
    ) in audit(tmp_path / "melanoma", "--data", write(tmp_path / "a", melanoma()))
    assert (
        "groups      column patient_id: 11 values for 40 rows, up to 4 of one; `split.py --group patient_id` keeps "
        "them together\n"
    ) in audit(tmp_path / "extra", "--data", write(tmp_path / "b", LAYOUTS["extra"][0]()))
    assert load_competition(tmp_path / "extra").extra.iloc[0].to_dict() == {"id": "1", "age": "1", "patient_id": "p0"}


def test_a_second_column_with_the_classes_is_named(tmp_path):
    files = dogbreed()
    rows = [line.split(",") for line in files["labels.csv"].decode().splitlines()]
    files["labels.csv"] = table(["id", "guess", "breed"], *([id, "adult", breed] for id, breed in rows[1:]))
    page = audit(tmp_path / "root", "--data", write(tmp_path / "source", files))
    assert load_task(tmp_path / "root").label_columns == ("breed",)
    assert "            column guess has such values as well: --label-column guess\n" in page


def test_options_given_later_change_what_they_name(tmp_path):
    root = tmp_path / "root"
    audit(root, "--data", write(tmp_path / "source", melanoma()))
    assert (load_task(root).metric, load_task(root).submission) == ("accuracy", "labels")
    audit(root, "--metric", "log_loss")
    assert (load_task(root).metric, load_task(root).submission) == ("log_loss", "probabilities")
    audit(root, "--submission", "labels")
    assert (load_task(root).metric, load_task(root).submission) == ("log_loss", "labels")


def test_an_edited_task_is_used_and_checked(tmp_path):
    root = tmp_path / "root"
    audit(root, "--data", write(tmp_path / "source", house(WORDS, "man")))
    path = root / "competition" / "task.toml"
    text = path.read_text()
    path.write_text(text.replace('["man", "woman"]', '["woman", "man"]'))
    audit(root)
    assert load_competition(root).train["label"].tolist()[:3] == [0, 1, 0]
    audit(root, "--metric", "macro_f1")
    assert load_task(root).classes == ("woman", "man")
    path.write_text(text.replace('"woman"', '"lady"'))
    assert refused("audit", root).splitlines()[1] == (
        "  - competition/train.csv, row 2: label 'woman' is none of the classes man, lady"
    )
    path.write_text(text.replace('label_columns = ["label"]', 'label_columns = ["sex"]'))
    assert refused("audit", root).splitlines()[1] == (
        "  - competition/train.csv, row 1: the header is 'id,label', expected 'id,sex'"
    )


def put(root: Path, train: str, test: str | None, sample: str | None) -> Path:
    files = {"train.csv": train, "test.csv": test, "sampleSubmit.csv": sample}
    write(root / "competition", {name: text.encode() for name, text in files.items() if text is not None})
    return root


ROWS = "id,{}\na,{}\nb,{}\nc,{}\n".format
UNCLEAR = {  # train.csv, test.csv, sampleSubmit.csv, the line of the error
    "no id": (
        "image,label\na,0\nb,1\n",
        None,
        "file,label\nx,0\n",
        "competition/train.csv, row 1: the header is 'image,label', expected 'file,label'",
    ),
    "no label": (
        "id,sex,hair\na,0,1\nb,1,1\n",
        None,
        "id,target\nx,0\n",
        "competition/train.csv, row 1: the header is 'id,sex,hair', expected 'id,target'; name the column of the "
        "labels with --label-column (sex, hair)",
    ),
    "classes of nothing": (
        ROWS("breed", "pug", "pug", "lab"),
        None,
        "id,pug,poodle\nx,0.5,0.5\n",
        "competition/sampleSubmit.csv, row 1: the columns pug, poodle are neither the values of any column of "
        "competition/train.csv, nor columns of 0 and 1 there; name the column of the labels with --label-column, or "
        "correct the files",
    ),
    "numbers": (
        "id,label\n" + "".join(f"a{n},{n / 7:.3f}\n" for n in range(30)),
        None,
        "id,label\nx,0\n",
        "competition/train.csv: column label has 30 different numbers, which are no classes; to predict a number, "
        "write it to competition/meta.csv, and name its column with --target",
    ),
    "several labels": (
        "id,dog,cat,cow\na,1,0,0\nb,1,1,0\nc,0,1,0\n",
        None,
        "id,dog,cat,cow\nx,0,0,0\n",
        "competition/train.csv, row 3: dog, cat, cow are not 0 but for one 1: '1,1,0'",
    ),
    "a slip in columns called 0 and 1": (
        "id,0,1\na,1,0\nb,1,1\nc,0,1\n",
        None,
        "id,0,1\nx,0.5,0.5\n",
        "competition/train.csv, row 3: 0, 1 are not 0 but for one 1: '1,1'",
    ),
    "a slip": (
        ROWS("label", 3, 4, "four"),
        None,
        "id,label\nx,3\n",
        "competition/train.csv, row 4: label 'four' is none of the classes 3, 4",
    ),
    "one class": (
        ROWS("label", "dog", "dog", "dog"),
        None,
        "id,label\nx,dog\n",
        "competition/train.csv: every label is dog; two classes are needed",
    ),
    "neither test nor sample": (ROWS("label", 0, 1, 0), None, None, "competition/test.csv is missing"),
    "test of other ids": (
        ROWS("label", 0, 1, 0),
        "name\nx\n",
        None,
        "competition/train.csv, row 1: the header is 'id,label', expected 'name'",
    ),
    "a train id in the sample": (
        ROWS("label", 0, 1, 0),
        None,
        "id,label\nb,0\n",
        "competition/sampleSubmit.csv, row 2: id 'b' is also a train id (row 3)",
    ),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_is_not_clear_is_one_line_that_names_the_option(tmp_path, kind):
    *files, line = UNCLEAR[kind]
    with pytest.raises(InputError) as caught:
        load_competition(put(tmp_path, *files))
    assert str(caught.value).splitlines()[1:-1] == [f"  - {line}"]


PETS = ROWS("pet", "cat", "dog", "cat")
READ = {  # train.csv, test.csv, sampleSubmit.csv: the classes, the label column, the submission
    "columns in another order": ("label,id\n1,a\n0,b\n", None, "id,label\nx,0\n", ("0", "1"), "label", "labels"),
    "another name in the sample": (ROWS("sex", 0, 1, 0), None, "id,p\nx,0.5\n", ("0", "1"), "sex", "probabilities"),
    "only the test file": ("id,age,sex\na,3,m\nb,4,f\n", "id,age\nx,5\n", None, ("f", "m"), "sex", "labels"),
    "numbers in their order": (ROWS("label", 10, 9, -1), None, "id,label\nx,9\n", ("-1", "9", "10"), "label", "labels"),
    "half steps": (ROWS("label", "0.5", "2", "1.5"), None, "id,label\nx,2\n", ("0.5", "1.5", "2"), "label", "labels"),
    "words and a sample of 1": (PETS, None, "id,pet\nx,1\n", ("cat", "dog"), "pet", "probabilities"),
    "one column each of two": (PETS, None, "id,dog,cat\nx,1,0\n", ("dog", "cat"), "pet", "probabilities"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_what_the_files_say(tmp_path, kind):
    *files, classes, column, submission = READ[kind]
    task = load_competition(put(tmp_path, *files)).task
    assert (task.classes, task.label_columns, task.submission) == (classes, (column,), submission)


@pytest.mark.parametrize(
    "train, classes, columns, labels",
    [
        ("id,0,1\na,1,0\nb,0,1\n", ("0", "1"), ("0", "1"), [0, 1]),
        ("id,0,1,2\na,0,1,0\nb,0,0,1\nc,1,0,0\n", ("0", "1", "2"), ("0", "1", "2"), [1, 2, 0]),
        ("id,sex,0,1\na,1,1,0\nb,0,1,0\n", ("0", "1"), ("0", "1"), [0, 0]),
        ("id,0,1,label\na,0.9,0.2,1\nb,0.1,0.3,0\n", ("0", "1"), ("label",), [1, 0]),
    ],
)
def test_columns_of_0_and_1_count_also_if_classes_are_called_so(tmp_path, train, classes, columns, labels):
    competition = load_competition(put(tmp_path, train, None, f"id,{','.join(classes)}\nx{',0.5' * len(classes)}\n"))
    assert (competition.task.classes, competition.task.label_columns) == (classes, columns)
    assert competition.train["label"].tolist() == labels


@pytest.mark.parametrize(
    "values, classes",
    [
        (["0", "1", "2", "3", "A", "B", "C"] * 5, tuple("0123ABC")),
        (["1", "cat", "dog"] * 4, ("1", "cat", "dog")),
        (["0", "10", "9", "b", "b"], ("0", "9", "10", "b")),
        (["60+", "15-29", "0-5", "6-14", "30-59"], ("0-5", "6-14", "15-29", "30-59", "60+")),
        (["stage 10", "stage 9", "none"] * 2, ("none", "stage 9", "stage 10")),
        (["b", "B", "a01", "a1", "²"], ("B", "a01", "a1", "b", "²")),
        (["0", "1"] * 200 + ["x", "y", "z"], ("0", "1")),
        (["3", "4"] * 4 + ["four"], ("3", "4")),
        (["3", "4", "NA", "nan", ""] * 9, ("3", "4")),
    ],
)
def test_numbers_and_names_are_all_classes_unless_the_names_are_rare(values, classes):
    assert find_classes(values, "label") == classes


@pytest.mark.parametrize(
    "options, message",
    [
        (("--id-column", "name"), "  - --id-column name: competition/train.csv has image_id, label"),
        (("--label-column", "breed"), "  - --label-column breed: competition/train.csv has label"),
        (("--metric", "auc"), f"  - --metric auc: with more than two classes it is one of {', '.join(SIX)}"),
        (
            ("--metric", "log_loss"),
            "  - competition/sampleSubmit.csv has one column (label) next to the ids, which cannot hold the "
            "probabilities of several classes; for labels use --submission labels",
        ),
    ],
)
def test_options_that_do_not_suit_are_refused(tmp_path, options, message):
    source, root = write(tmp_path / "source", cassava()), tmp_path / "root"
    assert refused("audit", root, "--data", source, *options).splitlines()[1] == message
    assert "was installed" in audit(root, "--data", source) or load_task(root).metric == "accuracy"


def test_folders_of_images_are_named_by_split(tmp_path):
    done = run("audit", tmp_path, "--data", tmp_path, "--images", "valid=a")
    assert done.returncode == 2 and "'valid=a' is not train=DIR,test=DIR or one of the two" in done.stderr
    assert refused("audit", tmp_path, "--images", "train=a") == (
        "--images and --in-place say how --data is installed; name the source with --data as well"
    )
    files = {name.replace("train_images", "a/b"): content for name, content in cassava().items()}
    files |= {f"thumbs/{n}.jpg": b"x" for n in TRAIN}
    audit(tmp_path / "root", "--data", write(tmp_path / "source", files), "--images", "train=a/b/")
    assert load_competition(tmp_path / "root").image_path("train", "1.jpg").read_bytes() == image(1)


def test_a_first_try_that_failed_blocks_nothing(tmp_path):
    source, root = write(tmp_path / "source", melanoma()), tmp_path / "root"
    sample = source / "sample_submission.csv"
    sample.write_bytes(sample.read_bytes().replace(b"image_name,target", b"image_name,malignant"))
    train = (source / "train.csv").read_text().splitlines()
    rows = [train[0] + ",sure", *(f"{row},1" for row in train[1:])]
    (source / "train.csv").write_text("\n".join(rows))
    message = "name the column of the labels with --label-column (target, sure)"
    assert message in refused("audit", root, "--data", source)
    audit(root, "--data", source, "--label-column", "target")
    assert load_task(root).label_columns == ("target",)
    write(tmp_path / "source", melanoma())
    assert "holds another competition" in refused("audit", root, "--data", source)  # that one was accepted
