"""Checkpoints: whole or absent, and refused rather than half read."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import start, tiny, weights

from tune_lnl.errors import InputError
from tune_lnl.training.checkpoint import load_checkpoint, save_checkpoint, write_whole
from tune_lnl.training.loop import Training


@pytest.fixture(scope="module")
def training() -> Training:
    """One epoch old."""
    training = start(tiny("act"))
    training.run_epoch()
    return training


@pytest.fixture
def path(training: Training, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c.pt", training, [{"epoch": 0.0, "val_accuracy": 50.0}])
    return tmp_path / "c.pt"


def refusal(path: Path, training: Training) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(path, training)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_write_whole_makes_the_folder_and_leaves_one_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "c.pt", {"x": torch.ones(2)})
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["c.pt"]
    assert torch.load(tmp_path / "a" / "b" / "c.pt", weights_only=True)["x"].tolist() == [1.0, 1.0]


def test_write_whole_replaces(tmp_path: Path) -> None:
    write_whole(tmp_path / "c.pt", {"x": 1})
    write_whole(tmp_path / "c.pt", {"x": 2})
    assert torch.load(tmp_path / "c.pt", weights_only=True) == {"x": 2}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "c.pt", {"x": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        write_whole(tmp_path / "c.pt", {"x": torch.ones(1000), "y": lambda: None})
    assert torch.load(tmp_path / "c.pt", weights_only=True) == {"x": 1}


def test_a_checkpoint_gives_back_reports_and_state(path: Path, training: Training) -> None:
    fresh = start(tiny("act"))
    assert load_checkpoint(path, fresh) == [{"epoch": 0.0, "val_accuracy": 50.0}]
    assert fresh.epoch == 1
    assert {name: vector.tolist() for name, vector in weights(fresh).items()} == {
        name: vector.tolist() for name, vector in weights(training).items()
    }


@pytest.mark.parametrize("content", [b"", b"hello\n", b"<html>", b"\0" * 1000, pickle.dumps({"config": {}})])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path, training: Training) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    assert "not a readable checkpoint" in refusal(tmp_path / "c.pt", training)


def test_a_missing_file_is_refused(tmp_path: Path, training: Training) -> None:
    assert "not a readable checkpoint" in refusal(tmp_path / "c.pt", training)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9, 0.9999])
def test_a_truncated_checkpoint_is_refused(share: float, path: Path, training: Training) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "not a readable checkpoint" in refusal(path, training)


@pytest.mark.parametrize("place", range(20))
def test_a_flipped_bit_is_never_loaded_as_something_else(place: int, path: Path, training: Training) -> None:
    content = bytearray(path.read_bytes())
    content[place * len(content) // 20 + 40] ^= 4
    path.write_bytes(content)
    fresh = start(tiny("act"))
    expected = weights(training)
    try:
        load_checkpoint(path, fresh)
    except InputError:
        expected = weights(start(tiny("act")))
    # Otherwise it was padding between the records.
    assert all(torch.equal(vector, expected[name]) for name, vector in weights(fresh).items())


def change_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    record = content.find(b"data/0") + 6
    content[record + 128] ^= 1  # beyond the padding that aligns a record
    path.write_bytes(content)


def test_a_flipped_bit_in_a_weight_is_noticed(path: Path, training: Training) -> None:
    change_weight(path)
    torch.load(path, weights_only=True)  # torch itself does not mind
    assert "bad checksum" in refusal(path, training)


@pytest.mark.parametrize(
    "make",
    [
        lambda training: [1, 2],
        lambda training: 5,
        lambda training: {"config": training.config.flat()},
        lambda training: training.model_file(),
        lambda training: {"config": 1, "fingerprints": 2, "reports": [], "state": {}},
    ],
    ids=["list", "number", "parts", "model file", "kinds"],
)
def test_another_file_of_torchs_is_no_checkpoint(
    make: Callable[[Training], Any], tmp_path: Path, training: Training
) -> None:
    torch.save(make(training), tmp_path / "c.pt")
    assert "not a checkpoint, which holds config, fingerprints, reports, state" in refusal(tmp_path / "c.pt", training)


@pytest.mark.parametrize("part", ["epoch", "networks", "optimizers", "act"])
def test_a_state_with_a_part_missing_is_refused(part: str, path: Path, training: Training) -> None:
    content = torch.load(path, weights_only=True)
    del content["state"][part]
    torch.save(content, path)
    assert "its state does not fit" in refusal(path, start(tiny("act")))


def test_a_state_of_other_shapes_is_refused(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state"]["act"]["counts"] = content["state"]["act"]["counts"][:-1]
    torch.save(content, path)
    assert "its state does not fit (counts must be" in refusal(path, start(tiny("act")))


def test_a_setting_that_one_side_does_not_know_is_named(path: Path, training: Training) -> None:
    content = torch.load(path, weights_only=True)
    content["config"]["new_setting"] = 3
    torch.save(content, path)
    assert refusal(path, training).endswith("written with new_setting = 3, this training has None")


def test_running_out_of_memory_is_not_blamed_on_the_file(
    path: Path, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_checkpoint(path, training)
    monkeypatch.undo()
    fresh = start(tiny("act"))
    monkeypatch.setattr(fresh, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_checkpoint(path, fresh)
