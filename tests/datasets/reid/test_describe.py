"""`python -m tune_lnl.data` on person datasets."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from reid_trees import HEIGHT, TEST, TRAIN, Shot, market_name, train_shots, write_image, write_official

from tune_lnl.data import main
from tune_lnl.datasets.check import prepare_dataset

SMALL = ("--set", f"dataset.height={HEIGHT}")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    return tmp_path / "data" / "market1501"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def rows(out: str) -> dict[str, str]:
    return {line[:17].strip(): line[18:] for line in out.splitlines()}


def test_check_prints_what_is_there(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    write_official(root, market_name, train_shots([*TRAIN, TEST[0]], frames=5))
    gallery = root / "bounding_box_test"
    for shot in (Shot(-1, 1, 700), Shot(-1, 3, 701), Shot(0, 4, 702)):
        write_image(gallery / market_name(shot), 0)
    os.truncate(write_image(gallery / market_name(Shot(4, 1, 703)), 0), 20)
    write_image(gallery / "b\x07d.jpg", 0)
    code, out, err = run(
        capsys, "check", "market1501", "--data-dir", root.parent, *SMALL,
        "--set", "dataset.on_error=skip", "--set", "dataset.noise_ratio=0.25",
    )  # fmt: skip
    assert (code, err) == (0, "")
    told = rows(out)
    assert told["layout"] == f"official, {root}"
    assert told["image"] == "16x8, 3 channels; 18x9 before the training crop"
    assert told["train"] == "85 images, 7 ids, 3 cameras"
    assert told["query"] == "9 images, 3 ids, 3 cameras; 9 queries with a match in another camera"
    assert told["gallery"] == "19 images, 3 ids, 4 cameras; 1 distractors"
    assert told["junk"] == "2 images dropped"
    assert told["skipped"] == "2 files: bounding_box_test/0004_c1s1_000703_01.jpg, bounding_box_test/b\\x07d.jpg"
    assert told["overlap"] == "1 training identities are in query or gallery, too"
    # By hand: four people with ten images (2.5, to 2) and three with fifteen (3.75, to 4): 20 of 85.
    assert told["identity noise"] == "requested 25.00%, measured 23.53%"
    assert told["noise"] == "random, seed 1"
    assert told["identities"] == "true: validation is disjoint from training in true identity"
    assert len(told["source sha256"]) == len(told["labels sha256"]) == 64


def test_check_of_given_identities(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    write_official(root, market_name)
    settings = ("--set", "dataset.noise=none", "--set", "dataset.identities=given")
    code, out, _ = run(capsys, "check", "market1501", "--data-dir", root.parent, *SMALL, *settings)
    assert code == 0
    assert rows(out)["identity noise"] == "requested unknown, measured unknown"
    assert rows(out)["noise"] == "none"
    assert "disjoint from training in given identity" in out


def test_check_reports_damaged_data(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    write_official(root, market_name)
    victim = root / "query" / market_name(Shot(TEST[0], 1, 90))
    os.truncate(victim, 20)
    code, out, _ = run(capsys, "check", "market1501", "--data-dir", root.parent, *SMALL)
    assert code == 1
    assert f"FAULT: {victim}: the image cannot be decoded" in out


def test_check_reports_pixels_that_changed_in_the_store(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    write_official(root, market_name)
    assert run(capsys, "check", "market1501", "--data-dir", root.parent, *SMALL)[0] == 0
    (packed,) = (root.parent.parent / "cache" / "packed").glob("*/train_resized.npy")
    images = np.load(packed, mmap_mode="r+")
    images[3, 0, 0, 0] ^= 1
    images.flush()
    code, out, _ = run(capsys, "check", "market1501", "--data-dir", root.parent, *SMALL)
    assert code == 1
    assert "FAULT: the packed pixels or labels have changed" in out


def test_check_reports_a_test_set_that_ranks_nothing(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    write_official(root, market_name)
    for file in (root / "bounding_box_test").iterdir():
        file.rename(file.with_name(f"9{file.name}"))
    code, out, _ = run(capsys, "check", "market1501", "--data-dir", root.parent, *SMALL)
    assert code == 1
    assert "FAULT: no query has an image of the same identity from another camera" in out


def test_prepare_packs_and_says_where(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    write_official(root, market_name, train_shots(TRAIN[:2], frames=1))
    (line,) = prepare_dataset("market1501", root.parent, [f"dataset.height={HEIGHT}"])
    (store,) = [path for path in (root.parent.parent / "cache" / "packed").iterdir() if path.is_dir()]
    assert line.startswith(f"market1501 is packed in {store}: ")
    code, out, _ = run(capsys, "prepare", "market1501", "--data-dir", root.parent)
    assert code == 0
    assert "market1501 is packed in " in out


def test_list_says_whether_it_is_here(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    root.parent.mkdir()
    for state in ("not here", "here"):
        line = next(line for line in run(capsys, "list", "--data-dir", root.parent)[1].splitlines() if "market" in line)
        assert re.split(r" {2,}", line)[1] == state
        write_official(root, market_name)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["dataset.noise=symmetric"], "dataset.noise"),
        (["dataset.noise=patterned"], "prepare market1501 --patterned"),
        (["dataset.identities=given"], "set dataset.noise=none"),
        (["dataset.noise.file=absent.csv"], "no such file"),
        (["dataset.classes=7"], "at most 6"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], root: Path, settings: list[str], told: str) -> None:
    write_official(root, market_name)
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    code, out, err = run(capsys, "check", "market1501", "--data-dir", root.parent, *SMALL, *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_check_finds_a_training_set_of_one_camera(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    write_official(root, market_name, [shot for shot in train_shots() if shot.camera == train_shots()[0].camera])
    code, out, _ = run(capsys, "check", "market1501", "--data-dir", root.parent, *SMALL)
    assert code == 1
    assert "FAULT: no training identity is seen by two cameras" in out
