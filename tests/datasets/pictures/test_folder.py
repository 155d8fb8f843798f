"""Folders and tables of one's own images."""

from __future__ import annotations

import errno
import gzip
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_trees import write_broken_files, write_class_folders, write_image, write_odd_files

from tune_lnl.config.datasets import FolderOptions
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.pictures.folder import ImageFolder, sensible_defaults
from tune_lnl.datasets.pictures.listing import PictureList
from tune_lnl.datasets.registry import parse_options
from tune_lnl.datasets.split import split_validation
from tune_lnl.errors import CorruptDataError, InputError

CLASSES = ["chat", "дом", "犬"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


def options(root: Path, **settings: Any) -> FolderOptions:
    parsed = parse_options({"name": "folder", "root": str(root), **settings})
    assert isinstance(parsed, FolderOptions)
    return parsed


def listed(root: Path, **settings: Any) -> PictureList:
    return ImageFolder().list_files(None, root.parent, options(root, **settings))


def load(root: Path, **settings: Any) -> NoisyData:
    return load_noisy(options(root, **settings), None)


def names(found: PictureList) -> list[str]:
    return [found.names[row] for row in range(len(found))]


# ---- class folders


def test_class_folders(root: Path) -> None:
    write_class_folders(root, CLASSES, 3)
    found = listed(root)
    assert found.class_names == tuple(CLASSES)
    assert found.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert names(found)[3:6] == ["дом/000.jpg", "дом/001.jpg", "дом/002.jpg"]
    assert (found.training, len(found), found.true_labels) == (9, 9, None)


def test_a_relative_root_starts_at_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(root, CLASSES, 1)
    monkeypatch.chdir(root.parent)
    relative = options(Path("mine"))
    monkeypatch.chdir(root)
    assert len(ImageFolder().list_files(None, root, relative)) == 3


def test_a_test_folder_is_the_test_set(root: Path) -> None:
    write_class_folders(root, CLASSES, 2)
    write_class_folders(root / "test", CLASSES[:2], 1)
    found = listed(root)
    assert (found.training, len(found)) == (6, 8)
    assert found.class_names == tuple(CLASSES)
    assert names(found)[6:] == ["test/chat/000.jpg", "test/дом/000.jpg"]
    assert len(load(root).test_rows) == 2


def test_train_and_test_folders(root: Path) -> None:
    write_class_folders(root / "train", CLASSES, 2)
    write_class_folders(root / "holdout", CLASSES, 1)
    found = listed(root)
    assert (found.training, len(found)) == (6, 6)
    assert "folders next to train that are not read: holdout" in found.notes
    assert "one of them can be the test set: dataset.test_folder" in found.notes
    found = listed(root, test_folder="holdout")
    assert (found.training, len(found)) == (6, 9)


@pytest.mark.parametrize(
    ("training", "test", "unread"),
    [
        ("Train", "Test", None),
        ("TRAINING", "testing", None),
        ("train", "val", None),
        ("train", "Validation", None),
        ("train", "test", "val"),
    ],
)
def test_splits_are_known_in_any_case_and_by_their_common_names(
    training: str, test: str, unread: str | None, root: Path
) -> None:
    write_class_folders(root / training, CLASSES, 2)
    write_class_folders(root / test, CLASSES, 1)
    if unread is not None:
        write_class_folders(root / unread, CLASSES, 3)
    found = listed(root)
    assert (found.class_names, found.training, len(found)) == (tuple(CLASSES), 6, 9)
    assert any("that are not read" in note for note in found.notes) == (unread is not None)


def test_a_validation_folder_beside_class_folders_is_the_test_set(root: Path) -> None:
    write_class_folders(root, CLASSES, 2)
    write_class_folders(root / "val", CLASSES, 1)
    found = listed(root)
    assert (found.class_names, found.training, len(found)) == (tuple(CLASSES), 6, 9)


def test_a_split_without_class_folders_or_images_is_no_test_set(root: Path) -> None:
    write_class_folders(root / "train", CLASSES, 2)
    write_image(root / "val" / "0.jpg", 0)
    assert "val has no class folders, so it is no test set" in listed(root).notes
    (root / "test" / CLASSES[0]).mkdir(parents=True)
    write_class_folders(root / "eval", CLASSES, 1)
    found = listed(root)
    assert (found.training, len(found)) == (6, 9)
    assert "the test set is the folder eval" in found.notes


@pytest.mark.parametrize(
    "parts",
    [("train", "test"), ("Train", "Valid", "TEST"), ("train2017", "val2017"), ("seg_train", "seg_test/seg_test")],
)
def test_splits_without_class_folders_are_no_classes(parts: Sequence[str], root: Path) -> None:
    for number, part in enumerate(parts):
        write_image(root / part / "0.jpg", number)
    with pytest.raises(InputError, match=r"are splits by their names, not classes\n.*table"):
        listed(root)


def test_two_folders_of_one_split_are_refused(root: Path) -> None:
    write_class_folders(root / "train", CLASSES, 1)
    write_class_folders(root / "Train", CLASSES, 1)
    with pytest.raises(InputError, match=r"which is the training set\?\nrename all but one"):
        listed(root)


@pytest.mark.parametrize("parts", [("2021", "2022"), ("fold_a", "fold_b", "fold_c")])
def test_folders_that_all_hold_the_same_folders_are_refused(parts: Sequence[str], root: Path) -> None:
    for part in parts:
        write_class_folders(root / part, CLASSES, 1)
    with pytest.raises(InputError, match=r"hold the same folders .*\n.*train and test"):
        listed(root)


@pytest.mark.parametrize("inside", ["", "train"])
def test_parts_that_share_some_folders_are_refused(inside: str, root: Path) -> None:
    write_class_folders(root / inside / "2021", ["cat", "dog"], 1)
    write_class_folders(root / inside / "2022", ["cat", "bird"], 1)
    with pytest.raises(InputError, match=r"2021, 2022 in .* hold the same folders \(cat\)"):
        listed(root)


def test_a_folder_of_images_in_each_class_is_a_usual_layout(root: Path) -> None:
    for name in ("cat", "dog"):
        write_class_folders(root / "train" / name, ["images"], 2)
    assert listed(root).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("folders", "classes", "note"),
    [
        (["-1", "0", "1", "10", "2"], ("-1", "0", "1", "2", "10"), None),
        (["01", "1", "10", "2"], ("01", "1", "2", "10"), "'01', '1'"),
        (["1.5", "10.5", "2.5"], ("1.5", "2.5", "10.5"), None),
        (["1.0", "10.0", "2.0"], ("1", "2", "10"), None),
        ([f"{number:02d}" for number in range(12)], tuple(f"{number:02d}" for number in range(12)), None),
        (["1", "１", "2"], ("1", "2", "１"), "'1', '１'"),
        (["0.5", "1e-3", "2.5", "2.50"], ("1e-3", "0.5", "2.5", "2.50"), "'2.5', '2.50'"),
        (["cat", "cat\u200b", "dog"], ("cat", "cat\u200b", "dog"), r"'cat', 'cat\u200b'"),
        (["1,000", "1000", "5"], ("1,000", "1000", "5"), "'1,000', '1000'"),
        (["1_cat", "10_dog", "2_bird"], ("10_dog", "1_cat", "2_bird"), None),
    ],
)
def test_numbers_as_folders(folders: Sequence[str], classes: tuple[str, ...], note: str | None, root: Path) -> None:
    write_class_folders(root, folders, 1)
    found = listed(root)
    assert found.class_names == classes
    assert [text for text in found.notes if "look alike" in text] == (
        [] if note is None else [f"classes whose names look alike: {note}"]
    )


def test_files_without_an_ending_are_counted_where_there_is_no_image(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir()
        (root / name / "0").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no training image; 2 other files: no ending 2; 2 folders without an image"):
        listed(root)


def test_links_to_nothing_are_named_whatever_their_ending(root: Path) -> None:
    write_class_folders(root, ["a", "b"], 1)
    (root / "a" / "gone").symlink_to(root / "nowhere")
    (root / "b" / "self").symlink_to("self")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    assert listed(root).skipped == dict.fromkeys(["one", "two", "a/gone", "b/self"], "it is a link to nothing")


def test_a_folder_that_holds_only_the_folder_of_the_classes(root: Path) -> None:
    write_class_folders(root / "photos", CLASSES, 1)
    with pytest.raises(InputError, match=r"give dataset\.root=.*photos"):
        listed(root)


def test_classes_named_by_numbers_are_in_the_order_of_their_values(root: Path) -> None:
    write_class_folders(root, [str(number) for number in range(11)], 1)
    found = listed(root)
    assert found.class_names == tuple(str(number) for number in range(11))
    assert names(found)[:3] == ["0/000.jpg", "1/000.jpg", "10/000.jpg"]
    assert found.labels.tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]


def test_names_in_two_unicode_forms_are_one_class(root: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write_class_folders(root / "train", [composed, "tea"], 2)
    write_class_folders(root / "train", [decomposed], 3)
    write_class_folders(root / "test", [decomposed], 1)
    found = listed(root)
    assert found.class_names == (composed, "tea")
    assert (found.training, len(found)) == (7, 8)
    assert any("2 folders are one class" in note for note in found.notes)


def test_a_class_whose_name_is_no_utf8_has_a_name_that_can_be_written(root: Path) -> None:
    write_class_folders(root, ["a", "b"], 2)
    try:
        os.rename(os.fsencode(root / "b"), os.fsencode(root) + b"/caf\xe9")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system only takes UTF-8")
    found = listed(root)
    assert found.class_names == ("a", "caf\\xe9")
    assert (root / found.names[2]).is_file()


def test_a_class_has_an_image_that_can_be_read(root: Path) -> None:
    write_class_folders(root / "train", ["a", "b", "c"], 3)
    write_class_folders(root / "test", ["a", "b", "c"], 1)
    for number in range(3):
        (root / "train" / "b" / f"{number:03d}.jpg").write_bytes(b"no image")
    data = load(root)
    assert data.class_names == ("a", "c")
    assert data.given_labels.tolist() == [0] * 3 + [1] * 3
    assert data.test_labels.tolist() == [0, 1]
    pictures = ImageFolder().read(None, root.parent / "cache", options(root))
    assert any("left out: b (4 files)" in note for note in pictures.listed.notes)


def test_a_single_readable_class_is_refused(root: Path) -> None:
    write_class_folders(root, ["a"], 2)
    (root / "b").mkdir()
    (root / "b" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"readable training images of one class only \(a\)"):
        load(root)


def test_classes_that_look_alike_or_missing_are_noted(root: Path) -> None:
    write_class_folders(root, ["cat", "Cat ", "None"], 1)
    notes = listed(root).notes
    assert any("look alike: 'Cat ', 'cat'" in note for note in notes)
    assert any("named like a missing label: None" in note for note in notes)


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".avif", ".jp2", ".tga", ".PNG", ".webp"])
def test_endings_that_pillow_reads_are_images(ending: str, root: Path) -> None:
    write_class_folders(root, ["a", "b"], 1)
    (root / "a" / f"x{ending}").write_bytes((root / "a" / "000.jpg").read_bytes())
    assert len(listed(root)) == 3


def test_links_inside_are_followed_and_no_folder_is_read_twice(root: Path) -> None:
    write_class_folders(root, ["a", "b"], 2)
    write_image(root / "shared" / "s.jpg", 0)
    for target, link in (("shared", "a/more"), ("shared", "a/again"), (".", "b/loop"), ("b", "b/self")):
        (root / link).symlink_to(root / target)
    (root / "b" / "x.jpg").symlink_to(root / "b" / "x.jpg")
    found = listed(root)
    assert names(found) == ["a/000.jpg", "a/001.jpg", "a/again/s.jpg", "b/000.jpg", "b/001.jpg", "shared/s.jpg"]
    assert set(found.skipped) == {"b/loop", "b/self", "b/x.jpg"}


def test_links_that_lead_out_are_left_out_and_named(root: Path) -> None:
    write_class_folders(root, ["a", "b"], 1)
    outside = root.parent / "outside"
    write_class_folders(outside, ["c"], 1)
    (root / "c").symlink_to(outside / "c")
    (root / "a" / "x.jpg").symlink_to(outside / "c" / "000.jpg")
    found = listed(root)
    assert found.class_names == ("a", "b")
    assert found.skipped == {"c": "it is a link to a folder outside", "a/x.jpg": "it is a link to a file outside"}
    for name in ("a", "b"):
        (root / name / "000.jpg").unlink()
        (root / name / "000.jpg").symlink_to(outside / "c" / "000.jpg")
    with pytest.raises(InputError, match=r"no training image; 4 files were skipped; the first is c: it is a link"):
        listed(root)


def test_a_class_may_be_called_test(root: Path) -> None:
    write_class_folders(root, ["ok", "test"], 2)
    assert listed(root).class_names == ("ok", "test")


def test_deeper_folders_belong_to_their_class(root: Path) -> None:
    write_class_folders(root, CLASSES, 1)
    write_image(root / "chat" / "2024" / "may" / "x.png", 0)
    found = listed(root)
    assert "chat/2024/may/x.png" in names(found)
    assert found.labels[names(found).index("chat/2024/may/x.png")] == 0


def test_what_is_no_image_is_counted(root: Path) -> None:
    write_class_folders(root, CLASSES, 1)
    (root / "chat" / "Thumbs.db").write_text("x")
    (root / "chat" / ".hidden.jpg").write_text("x")
    (root / "empty").mkdir()
    write_image(root / "stray.png", 0)
    found = listed(root)
    assert (found.ignored, len(found)) == ({".db": 1}, 3)
    assert found.skipped == {"stray.png": "it is in no class folder"}
    write_class_folders(root / "train", CLASSES, 1)
    write_class_folders(root / "test", CLASSES, 1)
    for split in ("train", "test"):
        write_image(root / split / "x.png", 0)
    assert list(listed(root).skipped) == ["stray.png", "train/x.png", "test/x.png"]
    assert any("1 folders without an image are no classes: empty" in note for note in found.notes)


def test_leftovers_of_systems_are_no_classes(root: Path) -> None:
    write_class_folders(root, ["a", "b"], 2)
    for name in ("__MACOSX/a/._000.jpg", "@eaDir/thumbnail.jpg", "a/._000.jpg", "b/@eaDir/000.jpg", ".hidden/x.jpg"):
        write_image(root / name, 1)
    write_image(root / "only_hidden" / "._000.jpg", 1)
    found = listed(root)
    assert found.class_names == ("a", "b")
    assert len(found) == 4
    assert any("1 folders without an image are no classes: only_hidden" in note for note in found.notes)
    assert any("left out: @eaDir, __MACOSX" in note for note in found.notes)


def test_a_class_folder_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(root, ["a", "b", "c"], 2)
    scandir = os.scandir

    def denied(path: str | Path) -> Any:  # the permissions of a folder do not stop root
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"b cannot be read: Permission denied\ncheck its permissions"):
        listed(root)


def test_odd_files_are_read_and_broken_ones_named(root: Path) -> None:
    write_class_folders(root, CLASSES, 2)
    odd = write_odd_files(root / "odd")
    broken = write_broken_files(root / "odd")
    data = load(root)
    assert data.class_names == ("chat", "odd", "дом", "犬")
    assert len(data.rows) == 6 + len(odd)
    assert data.train_names is not None
    read = {name for name in data.train_names if name.startswith("odd/")}
    assert read == {f"odd/{name}" for name in odd}
    assert not read & {f"odd/{name}" for name in broken}
    with pytest.raises(CorruptDataError, match=r"the image cannot be used: .*\n.*on_error=skip"):
        load(root, on_error="fail")


def test_unreadable_files_are_refused_after_they_were_skipped(root: Path) -> None:
    write_class_folders(root, CLASSES, 2)
    write_broken_files(root / "chat")
    assert len(load(root).rows) == 6
    with pytest.raises(CorruptDataError, match="cannot be used"):
        load(root, on_error="fail")


def test_a_class_with_one_image_stays_in_training(root: Path) -> None:
    write_class_folders(root, CLASSES, 6)
    write_image(root / "rare" / "one.jpg", 0)
    data = load(root)
    train, held_out = split_validation(data.given_labels, 0.3, 0)
    rare = data.class_names.index("rare")
    assert rare in data.given_labels[train]
    assert rare not in data.given_labels[held_out]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        ([], "has no training image\nlooked for <class>/<image>"),
        (["only/a.jpg", "only/b.jpg"], r"of one class only \(only\); a classifier needs at least two"),
        (["a.jpg", "b.jpg"], "has no training image; 2 files were skipped"),
        (["x/a.txt", "y/b.pdf"], "has no training image"),
    ],
)
def test_folders_that_cannot_be_learnt_from(make: Sequence[str], told: str, root: Path) -> None:
    for name in make:
        if name.endswith("jpg"):
            write_image(root / name, 0)
        else:
            (root / name).parent.mkdir()
            (root / name).write_text("x")
    with pytest.raises(InputError, match=told):
        load(root)


def test_no_readable_image_at_all(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "x.jpg").write_text("x")
    with pytest.raises(
        CorruptDataError, match=r"no training image in .* can be read, of 2 files; the first is a/x\.jpg"
    ):
        load(root)


def test_a_test_class_without_training_images(root: Path) -> None:
    write_class_folders(root, CLASSES, 1)
    write_class_folders(root / "test", ["new"], 1)
    with pytest.raises(InputError, match="1 classes without a training folder, the first is new; valid: chat"):
        listed(root)


@pytest.mark.parametrize("root_text", [None, "absent", "file.txt"])
def test_roots_that_are_none(root_text: str | None, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    (root / "file.txt").write_text("x")
    with pytest.raises(InputError, match=r"dataset\.root"):
        load_noisy(parse_options({"name": "folder", "root": root_text}), None)


def test_names_that_are_not_utf8(root: Path) -> None:
    write_class_folders(root, CLASSES, 1)
    odd = os.fsencode(root / "chat") + b"/\xff\xfe.png"
    image = write_image(root / "x.png", 0)
    try:
        image.rename(os.fsdecode(odd))
    except OSError:
        pytest.skip("this file system only takes UTF-8")
    data = load(root)
    assert data.train_names is not None
    assert os.fsencode(data.train_names[1]) == b"chat/\xff\xfe.png"


# ---- tables


def table(root: Path, rows: Sequence[Sequence[str]], header: str = "path,label", name: str = "labels.csv") -> Path:
    text = "\n".join([header, *(",".join(row) for row in rows)]) + "\n"
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.fixture
def images(root: Path) -> Path:
    for number in range(6):
        write_image(root / "imgs" / f"{number}.jpg", number, label=number % 2)
    return root


def test_a_table_of_paths_and_labels(images: Path) -> None:
    rows = [(f"imgs/{number}.jpg", ["猫", "b"][number % 2]) for number in range(6)]
    found = listed(table(images, rows))
    assert found.class_names == ("b", "猫")
    assert found.labels.tolist() == [1, 0] * 3
    assert names(found) == [f"imgs/{number}.jpg" for number in range(6)]
    assert found.root == images


def test_absolute_paths_inside_are_the_same_files(images: Path) -> None:
    rows = [(str(images / "imgs" / "0.jpg"), "a"), ("./imgs/1.jpg", "b"), ("imgs/../imgs/2.jpg", "b")]
    assert names(listed(table(images, rows))) == ["imgs/0.jpg", "imgs/1.jpg", "imgs/2.jpg"]


def test_numbers_are_classes_in_their_order(images: Path) -> None:
    rows = [(f"imgs/{number}.jpg", label) for number, label in enumerate(("10", "9", "2", "10", "9", "2"))]
    assert listed(table(images, rows)).class_names == ("2", "9", "10")


def test_true_labels_and_a_split(images: Path) -> None:
    rows = [
        ("imgs/0.jpg", "a", "a", "train"),
        ("imgs/1.jpg", "a", "b", ""),
        ("imgs/2.jpg", "b", "b", "train"),
        ("imgs/3.jpg", "b", "other", "train"),
        ("imgs/4.jpg", "a", "b", "test"),
        ("imgs/5.jpg", "a", "other", "test"),
    ]
    data = load(table(images, rows, "path,label,true_label,split"))
    assert data.class_names == ("a", "b", "other")
    assert data.num_classes == 2
    assert data.true_labels is not None
    assert data.true_labels.tolist() == [0, 1, 1, 2]
    assert data.open_set is not None
    assert data.open_set.tolist() == [False, False, False, True]
    assert data.measured_noise == pytest.approx(1 / 3)
    # Tested on the true label; an image of another class has no place in the test set.
    assert data.test_labels.tolist() == [1]


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_other_forms_of_a_table(suffix: str, images: Path) -> None:
    paths = [f"imgs/{number}.jpg" for number in range(6)]
    labels = [number % 2 for number in range(6)]
    file = images / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"path": paths, "label": labels}), file)
    else:
        file.write_text("label\tpath\n" + "".join(f"{y}\t{p}\n" for p, y in zip(paths, labels, strict=True)))
    found = listed(file)
    assert (found.class_names, found.labels.tolist()) == (("0", "1"), labels)


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        ("path,class", ("imgs/0.jpg", "a"), r"must have columns path and label, each once, got path, class"),
        ("path,label,label", ("imgs/0.jpg", "a", "a"), "each once"),
        ("path,label,split", ("imgs/0.jpg", "a", "x"), "row 3 of labels.csv: split must be train or test, got x"),
        ("path,label,split", ("imgs/0.jpg", "new", "test"), "the test set has class new, which no training row has"),
        ("path,label", ("imgs/1.jpg", "b"), r"imgs/1\.jpg is listed twice, under different labels"),
    ],
)
def test_tables_that_are_refused(header: str, row: Sequence[str], told: str, images: Path) -> None:
    width = header.count(",") + 1
    rows = [("imgs/1.jpg", "a", "train")[:width], ("imgs/2.jpg", "b", "train")[:width], row]
    with pytest.raises(InputError, match=told):
        listed(table(images, rows, header))


def test_files_outside_are_left_out_and_named(images: Path) -> None:
    write_image(images.parent / "outside.jpg", 0)
    (images / "imgs" / "link.jpg").symlink_to(images.parent / "outside.jpg")
    rows = [("imgs/1.jpg", "a"), ("imgs/2.jpg", "b")]
    rows += [(name, "a") for name in ("../outside.jpg", "/etc/hostname", "imgs/link.jpg")]
    found = listed(table(images, rows))
    assert len(found) == 2
    assert list(found.skipped) == ["../outside.jpg", "/etc/hostname", "imgs/link.jpg"]
    assert all("outside the folder" in reason for reason in found.skipped.values())


@pytest.mark.parametrize(
    ("encoding", "delimiter", "header"),
    [
        ("utf-8-sig", ",", "Path,LABEL"),
        ("utf-16", ",", "path,label"),
        ("utf-16-le", ",", "path,label"),
        ("utf-32", ";", "path;label"),
        ("utf-8", ";", "path;label"),
        ("utf-8", "|", "path|label"),
        ("utf-8", "\t", "path\tlabel"),
    ],
)
def test_tables_as_spreadsheet_programs_write_them(encoding: str, delimiter: str, header: str, images: Path) -> None:
    rows = [header, *(delimiter.join((f"imgs/{number}.jpg", "ab"[number % 2])) for number in range(6))]
    (images / "t.csv").write_bytes("\r\n".join(rows).encode(encoding))
    found = listed(images / "t.csv")
    assert (found.class_names, len(found)) == (("a", "b"), 6)


def test_whole_numbers_of_any_spelling_are_one_class(images: Path) -> None:
    for labels in (("1", "1.0", '"1"', "2.", "2", ""), ("1", "+1", "1e0", "2e+00", "2", "")):
        found = listed(table(images, [(f"imgs/{number}.jpg", label) for number, label in enumerate(labels)]))
        assert (found.class_names, found.labels.tolist()) == (("1", "2"), [0, 0, 0, 1, 1])
    pq.write_table(
        pa.table({"path": [f"imgs/{number}.jpg" for number in range(3)], "label": [1.0, None, 2.0]}),
        images / "t.parquet",
    )
    assert listed(images / "t.parquet").class_names == ("1", "2")


def test_a_missing_true_label_is_noted(images: Path) -> None:
    rows = [(f"imgs/{number}.jpg", "ab"[number % 2], "" if number == 4 else "a") for number in range(6)]
    found = listed(table(images, rows, "path,label,true_label"))
    assert found.true_labels is None
    assert any("1 training rows have no true_label" in note for note in found.notes)


@pytest.mark.parametrize(
    ("spelt", "note"),
    [
        (lambda root, name: f"imgs\\{name}", "have backslashes"),
        (lambda root, name: quote(f"imgs/{name}"), "are URLs of files"),
        (lambda root, name: f"file://{quote(str(root / 'imgs' / name))}", "are URLs of files"),
        (lambda root, name: unicodedata.normalize("NFC", f"imgs/{name}"), "are read in Unicode's decomposed form"),
        (lambda root, name: f" ./imgs/{name} ", None),
        (lambda root, name: str(root / "imgs" / name), None),
    ],
)
def test_paths_of_other_systems(spelt: Callable[[Path, str], str], note: str | None, root: Path) -> None:
    files = [unicodedata.normalize("NFD", f"é {number}.jpg") for number in range(4)]
    for number, name in enumerate(files):
        write_image(root / "imgs" / name, number, label=number % 2)
    found = listed(table(root, [(spelt(root, name), "ab"[number % 2]) for number, name in enumerate(files)]))
    assert names(found) == [f"imgs/{name}" for name in files]
    assert not found.notes if note is None else any(f"4 paths {note}" in text for text in found.notes)


def test_the_first_skipped_path_and_its_reason_are_told(images: Path) -> None:
    with pytest.raises(InputError, match=r"6 files were skipped; the first is D:\\x\\0\.jpg: it cannot be read"):
        listed(table(images, [(f"D:\\x\\{number}.jpg", "a") for number in range(6)]))


def test_splits_of_a_table_in_any_case(images: Path) -> None:
    splits = ("Train", "TRAINING", "train", "", "Val", "validation")
    rows = [(f"imgs/{number}.jpg", "ab"[number % 2], split) for number, split in enumerate(splits)]
    found = listed(table(images, rows, "path,label,split"))
    assert (found.training, len(found)) == (4, 5)
    assert found.notes == (
        "the test set are the 1 rows of split val",
        "rows of a split that is not read, next to val: validation 1",
    )


def test_a_label_that_is_a_list_is_refused(images: Path) -> None:
    pq.write_table(pa.table({"path": ["imgs/0.jpg"], "label": [["a"]]}), images / "t.parquet")
    with pytest.raises(InputError, match=r"row 1 of t\.parquet: a label must be text or a whole number, got list"):
        listed(images / "t.parquet")


def test_rows_that_cannot_be_used_are_skipped_or_told(images: Path) -> None:
    rows = [("imgs/0.jpg", "a"), ("imgs/1.jpg", "b"), ("imgs/2.jpg", ""), ("", "a"), ("imgs/absent.jpg", "a")]
    rows += [("imgs/0.jpg", "a"), ("imgs", "a")]
    file = table(images, rows)
    found = listed(file)
    assert (len(found), found.skipped_count) == (2, 5)
    assert found.skipped["imgs/2.jpg"] == "it has no label (row 3 of labels.csv)"
    assert found.skipped["row 4 of labels.csv"] == "it has no path"
    assert found.skipped["imgs/0.jpg"] == "it is listed twice (row 6 of labels.csv)"
    with pytest.raises(CorruptDataError, match="it has no label"):
        listed(file, on_error="fail")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.parquet", b"PAR1 no"),
        ("x.csv", b"path,label\n\xff\xfe,a\n"),
        ("x.csv", gzip.compress(b"path,label\n", mtime=0)),
    ],
)
def test_damaged_tables(name: str, content: bytes, root: Path) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read|is compressed by gzip"):
        listed(root / name)


# ---- noise put in


@pytest.mark.parametrize("noise", ["symmetric", "asymmetric", "instance"])
def test_noise_put_in_makes_true_labels_known(noise: str, root: Path) -> None:
    write_class_folders(root, CLASSES, 60)
    data = load(root, noise=noise, closed_ratio=0.4)
    assert data.true_labels is not None
    assert data.true_labels.tolist() == np.repeat(np.arange(3), 60).tolist()
    assert data.requested_noise == 0.4
    assert data.measured_noise == pytest.approx(0.4, abs=0.12)
    changed = data.given_labels != data.true_labels
    if noise == "asymmetric":
        assert (data.given_labels[changed] == (data.true_labels[changed] + 1) % 3).all()
    assert load(root, noise=noise, closed_ratio=0.4).fingerprints == data.fingerprints
    assert load(root, noise=noise, closed_ratio=0.4, noise_seed=1).fingerprints["labels"] != data.fingerprints["labels"]
    assert load(root, noise=noise, closed_ratio=0.4, cache_budget=0.0).fingerprints == data.fingerprints


def test_noise_is_not_put_on_noisy_labels(images: Path) -> None:
    rows = [(f"imgs/{number}.jpg", "ab"[number % 2], "ab"[number // 3]) for number in range(6)]
    with pytest.raises(InputError, match="needs true labels to corrupt"):
        load(table(images, rows, "path,label,true_label"), noise="symmetric")


# ---- defaults


@pytest.mark.parametrize(
    ("images", "side", "expected"),
    [
        (500, 20, (32, "cnn7", 100)),
        (50_000, 32, (32, "cnn7", 100)),
        (50_000, 100, (64, "resnet18", 100)),
        (3_000, 200, (128, "resnet18", 100)),
        (3_000, 480, (224, "resnet18", 100)),
        (30_000, 480, (224, "resnet50", 100)),
        (300_000, 480, (224, "resnet50", 30)),
        (1_000_000, 480, (224, "resnet50", 10)),
    ],
)
def test_sensible_defaults(images: int, side: int, expected: tuple[int, str, int]) -> None:
    fit = sensible_defaults(images, side)
    assert (fit.resolution, fit.model, fit.epochs) == expected


def test_the_size_of_the_images_decides_what_a_network_sees(root: Path) -> None:
    write_class_folders(root, CLASSES, 2)
    form = load(root).form
    assert (form.image_shape, form.default_model, form.weak_augmentation) == ((32, 32, 3), "cnn7", "padded_weak")
    form = load(root, resolution=96).form
    assert (form.image_shape, form.default_model, form.strong_augmentation) == ((96, 96, 3), "resnet18", "crop_strong")
