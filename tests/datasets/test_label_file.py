"""Label files: formats, columns, refused values, and that no file runs code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_columns_file import write
from numpy.typing import NDArray

from tune_lnl.datasets.label_file import given_labels, matched_picture_labels, picture_labels, read_label_file
from tune_lnl.errors import InputError

LABELS = np.array([3, 1, 4, 1, 5])
CLEAN = np.array([3, 1, 4, 1, 0])
NAMES = ["cat/1.png", "cat/2.png", "dog/1.png"]


@pytest.mark.parametrize("suffix", ["npz", "parquet", "csv", "pt"])
def test_column_is_chosen(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"labels.{suffix}", {"clean_label": CLEAN, "aggre_label": LABELS, "worse_label": CLEAN})
    assert np.array_equal(read_label_file(path, "aggre_label"), LABELS)
    with pytest.raises(InputError, match="no column 'agre_label'\ndid you mean 'aggre_label'"):
        read_label_file(path, "agre_label")
    with pytest.raises(InputError, match=r"holds 3 columns: clean_label, aggre_label, worse_label\nname the one"):
        read_label_file(path)


@pytest.mark.parametrize("clean", ["clean_label", "true_label"])
def test_a_clean_column_shows_another_row_order(clean: str, tmp_path: Path) -> None:
    path = write(tmp_path / "labels.npz", {clean: CLEAN, "noisy_label": LABELS})
    assert np.array_equal(given_labels(path, None, CLEAN), LABELS)
    with pytest.raises(InputError, match=f"another row order than the dataset: 2 of 5 entries of {clean}"):
        given_labels(path, None, CLEAN[::-1])


def test_whole_floats_are_labels(tmp_path: Path) -> None:
    assert read_label_file(write(tmp_path / "a.parquet", {"x": LABELS.astype(np.float64)})).tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    "values",
    [[1.0, np.nan], [1.5, 2.0], [-1, 2], [1.0, np.inf], [2**40, 1], ["cat", "dog"], [[1, 2]], [True, False]],
)
def test_values_that_are_no_labels(values: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array(values))
    with pytest.raises(InputError, match="labels must be"):
        read_label_file(tmp_path / "labels.npy")


def test_a_missing_value_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": pa.array([1, None, 2], pa.int64())}), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match="got nan in row 2"):
        read_label_file(tmp_path / "labels.parquet")
    (tmp_path / "labels.csv").write_text("label,x\n1,0\n,0\n")
    with pytest.raises(InputError, match="got nothing in row 2"):
        read_label_file(tmp_path / "labels.csv", "label")


def test_length_must_be_that_of_the_training_set(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.npy", {"noisy": LABELS})
    with pytest.raises(InputError, match="one label per training sample: 4, got 5"):
        given_labels(path, None, CLEAN[:4])


def test_no_such_file_or_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_label_file(tmp_path / "absent.npy")
    with pytest.raises(InputError, match=r"must end in \.npy"):
        read_label_file(tmp_path / "labels.pkl")


@pytest.mark.parametrize(
    "content",
    [
        "path,label\ndog/1.png,1\ncat/2.png,1\ncat/1.png,0\n",
        "label;path\ndog;dog\\1.png\ndog;./cat/2.png\ncat;cat/1.png\n",
        " Label ,PATH,\ndog,/mine/dog/1.png,0\ndog,file:///mine/cat/2.png,1\ncat,cat/x/../1%2Epng,2\n",
        "label\ncat\ndog\ndog\n",
        "label\n0\n1\n1\n",
        "Unnamed: 0,label\n0,0.0\n1,1e0\n2,+1\n",
    ],
)
def test_labels_of_images_by_path_or_in_order_as_names_or_numbers(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    found = picture_labels(tmp_path / "t.csv", None, ["cat", "dog"], NAMES, Path("/mine"))
    assert found.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "classes",
    [("001", "003"), ("False", "True"), ("2021-01-01", "2021-02-01"), ("1.5", "2.5"), ("NA", "null"), ("é", "ü")],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy", "bytes.npy", "bytes.parquet"])
def test_class_names_are_the_same_text_in_every_format(suffix: str, classes: tuple[str, str], tmp_path: Path) -> None:
    names = [classes[0], classes[1], classes[1]]
    file, values = tmp_path / f"t.{suffix}", [name.encode() for name in names] if "bytes" in suffix else names
    if suffix.endswith("csv"):
        file.write_text("\n".join(["label", *names]), encoding="utf-8")
    elif suffix.endswith("parquet"):
        pq.write_table(pa.table({"label": values}), file)
    else:
        np.save(file, np.array(values))
    assert picture_labels(file, None, list(classes), NAMES).tolist() == [0, 1, 1]


def test_rows_that_were_not_used_are_counted_and_named(tmp_path: Path) -> None:
    text = "path,label\ncat/1.png,0\ncat/2.png,1\ndog/1.png,1\ncat/1.png,0\ngone.png,1\n,0\n"
    (tmp_path / "t.csv").write_text(text)
    labels, notes = matched_picture_labels(tmp_path / "t.csv", None, ["cat", "dog"], NAMES, tmp_path)
    assert labels.tolist() == [0, 1, 1]
    assert notes == (
        "2 rows of t.csv are no training image, the first is gone.png",
        "1 rows of t.csv repeat the label of another row",
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.array(3), r"one-dimensional, got shape \(\)"),
        (np.eye(3), r"one-dimensional, got shape \(3, 3\)"),
        (np.array([True, False, True]), "got True in row 1"),
        (np.zeros(3, [("a", "i4")]), "a label must be text or a whole number, got tuple in row 1"),
        (np.array([0.5, 1.0, 1.0]), "got 0.5 in row 1"),
    ],
)
def test_arrays_that_are_no_labels(values: NDArray[Any], told: str, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", values)
    with pytest.raises(InputError, match=told):
        picture_labels(tmp_path / "t.npy", None, ["cat", "dog"], NAMES)
    with pytest.raises(InputError, match=r"labels? must be"):
        given_labels(tmp_path / "t.npy", None, CLEAN[:3])


def test_class_names_in_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "names.npy", np.array(["dog", "cat", "dog"]))
    assert picture_labels(tmp_path / "names.npy", None, ["cat", "dog"], NAMES).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("path,label\ncat/1.png,0\ncat/2.png,1\n", r"no label for 1 of 3 training images, the first is dog/1\.png"),
        ("path,label\ncat/1.png,0\ncat/1.png,1\n", r"cat/1\.png is listed twice"),
        ("label\n0\n1\n", "must hold one label per readable training image: 3, got 2"),
        ("label\n0\n1\n2\n", r"must be in 0\.\.1 \(2 classes\), got 2\nclass 0 is cat, class 1 is dog"),
        ("label\ncat\ncta\ndog\n", "must be class names, got cta in row 2\ndid you mean 'cat'"),
        ("label\n0\n1\n\n", "must hold one label per readable training image|whole numbers from 0 up"),
        ("label,other\n0,0\n1,1\n1,1\n", "holds 2 columns: label, other\nname the one"),
        ("label\nCAT\nDOG\nDOG\n", "must be class names or class numbers, got CAT in row 1\ndid you mean 'cat'"),
        ("label\ncat\n1\n1\n", "must be all class names or all class numbers, got 1 in row 2"),
        ("label\n-1\n1\n1\n", "got -1 in row 1"),
        ("Label,label\n0,0\n1,1\n1,1\n", "must have distinct column names, got Label, label"),
        ("path,label\nx/cat/1.png,0\n", r"the first is cat/1\.png; a row that is no training image is x/cat/1\.png"),
    ],
)
def test_labels_of_images_that_are_refused(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=told):
        picture_labels(tmp_path / "t.csv", None, ["cat", "dog"], NAMES)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_an_exported_file_is_a_label_file(suffix: str, tmp_path: Path) -> None:
    images = ["a/=1.png", "a/caf\u0065\u0301.png", "b/\udcff.png", "b/x y.png"]
    text = ["path,label", "b/\\xff.png,'=sum", "a/caf\u00e9.png,b", "b\\x y.png,b", "./a/=1.png,'=sum"]
    (tmp_path / f"decided.{suffix}").write_text("\n".join(text), encoding="utf-8")
    assert picture_labels(tmp_path / f"decided.{suffix}", None, ["=sum", "b"], images).tolist() == [0, 1, 0, 1]


def test_a_number_is_a_class_name_where_classes_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("label\n1\n2\n10\n")
    assert picture_labels(tmp_path / "own.csv", None, ["1", "2", "10"], ["a", "b", "c"]).tolist() == [0, 1, 2]
    (tmp_path / "own.csv").write_text("label\n0\n1\n2\n")
    assert picture_labels(tmp_path / "own.csv", None, ["1", "2", "10"], ["a", "b", "c"]).tolist() == [0, 1, 2]
