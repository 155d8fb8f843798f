"""The formats of label files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from label_columns_file import write

from tune_lnl.datasets.label_file import given_labels, read_label_file
from tune_lnl.errors import InputError

LABELS = np.array([3, 1, 4, 1, 5])
CLEAN = np.array([3, 1, 4, 1, 0])


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "csv", "pt"])
def test_every_format(suffix: str, tmp_path: Path) -> None:
    labels = read_label_file(write(tmp_path / f"labels.{suffix}", {"noisy": LABELS}))
    assert labels.dtype == np.int64
    assert np.array_equal(labels, LABELS)


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('file,label\n"a,b.png",2\nc.png,0\n')
    assert read_label_file(path, "label").tolist() == [2, 0]


def test_csv_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("3\n1\n4\n")
    assert read_label_file(path).tolist() == [3, 1, 4]


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "csv", "pt"])
def test_damaged_files_are_told(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels.{suffix}"
    for content in (b"", b"\x80\x04junk", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"labels.{suffix}"):
            read_label_file(path)


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt"])
def test_truncated_files_are_told(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"labels.{suffix}", {"noisy": np.arange(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=f"labels.{suffix}"):
        read_label_file(path)


# ---- nothing is unpickled ------------------------------------------------------------------------------------------


class _CreatesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt"])
def test_files_that_would_run_code_do_not(suffix: str, tmp_path: Path) -> None:
    proof = tmp_path / "unpickled"
    path = tmp_path / f"labels.{suffix}"
    array = np.array([_CreatesFile(proof)], dtype=object)
    if suffix == "npy":
        np.save(path, array, allow_pickle=True)
        np.load(path, allow_pickle=True)
    elif suffix == "npz":
        np.savez(path, noisy=array)
        np.load(path, allow_pickle=True)["noisy"]
    else:
        torch.save({"noisy": array}, path)
        torch.load(path, weights_only=False)
    assert proof.exists(), "the file must do its harm when it is unpickled, or this test shows nothing"
    proof.unlink()
    with pytest.raises(InputError, match=r"not unpickled.*\n?.*numpy\.save"):
        read_label_file(path)
    assert not proof.exists()


def test_the_published_files_of_older_numpy(tmp_path: Path) -> None:
    # CIFAR-N was written by numpy 1, which names its constructor numpy.core.multiarray._reconstruct.
    stream = io.BytesIO()
    torch.save({"clean_label": CLEAN, "noisy_label": LABELS}, stream, _use_new_zipfile_serialization=False)
    path = tmp_path / "CIFAR-100_human.pt"
    path.write_bytes(stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert np.array_equal(given_labels(path, None, CLEAN), LABELS)


def test_reading_a_pt_file_leaves_the_allow_list_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.pt", {"noisy": LABELS})
    before = set(torch.serialization.get_safe_globals())
    read_label_file(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_pt_tensors_and_other_content(tmp_path: Path) -> None:
    torch.save({"noisy": torch.tensor([1, 0]), 3: "x"}, tmp_path / "a.pt")
    assert read_label_file(tmp_path / "a.pt").tolist() == [1, 0]
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(InputError, match="dict of label arrays, got list"):
        read_label_file(tmp_path / "b.pt")


# ---- labels of image files
