"""A disk that is really full under each command that writes: two lines, exit 1, no half of a file, and it goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_disk import fill, small_disk
from tiny_search import record_run

from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.split import split_validation
from tune_lnl.models.registry import build_model
from tune_lnl.training.heldout import HeldOutPredictions, write_heldout
from tune_lnl.tuning.runs.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[1]


def pictures(folder: Path) -> Path:
    stream = np.random.RandomState(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            image = Image.fromarray(stream.randint(0, 256, (64, 64, 3)).astype(np.uint8))
            image.save(folder / label / f"{number}.png")
    return folder


def model(path: Path) -> Path:
    content = {
        "format": "tune_lnl model 1",
        "task": "classification",
        "model": "cnn_digits",
        "weights": build_model("cnn_digits", 2, (8, 8, 1)).state_dict(),
        "classes": ["cat", "dog"],
        "preprocessing": {"image_shape": [8, 8, 1], "resize": 8, "square": True, "mean": [0.3], "std": [0.4]},
        "config": {},
    }
    torch.save(content, path)
    return path


def with_predictions(run: Run) -> Path:
    """Write held-out predictions of its trials, of which a judge chooses images."""
    data = load_noisy(run.space.any_config().dataset, None)
    _, held_out = split_validation(data.given_labels, 0.3, run.space.any_config().validation.seed)
    stream = np.random.RandomState(0)
    for number in (0, 1):
        scores = stream.random_sample((1, len(held_out), data.num_classes)).astype(np.float32)
        probabilities = scores / scores.sum(axis=2, keepdims=True)
        predictions = HeldOutPredictions(probabilities, held_out, data.given_labels[held_out])
        write_heldout(run.files.heldout(number), predictions)
    return run.files.root


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


COMMANDS = {
    "labels": "export {disk}/tiny --labels {disk}/labels.csv --folds 2 --epochs 3",
    "configs": "export {disk}/tiny --top all --format json --output {disk}/configs.json",
    "packing": "data prepare folder --set dataset.root={here}/pictures",
    "report": "report {disk}/tiny",
    "predict": "predict {here}/model.pt {here}/pictures --output {disk}/predicted.csv",
    "form": "judge {disk}/tiny --form {disk}/form.csv",
}


@pytest.mark.parametrize(
    ("name", "free"), [*((name, 0) for name in COMMANDS), *((name, 6000) for name in ("labels", "packing", "report"))]
)
def test_it_ends_in_two_lines_and_goes_on_after_room_was_made(tmp_path: Path, name: str, free: int) -> None:
    run = with_predictions(record_run(tmp_path))
    pictures(tmp_path / "pictures")
    model(tmp_path / "model.pt")
    with small_disk(tmp_path / "disk", "40m") as disk:
        shutil.copytree(run, disk / "tiny")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if name == "packing":
            environment["TUNE_LNL_CACHE"] = str(disk / "cache")
        words = COMMANDS[name].format(disk=disk, here=tmp_path).split()
        command = [sys.executable, "-m", f"tune_lnl.{words[0]}", *words[1:]]

        def ran() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

        filler = fill(disk, free)
        before = files(disk / "tiny")
        full = ran()
        assert full.returncode == 1, full.stdout + full.stderr
        assert "the disk is full" in full.stderr
        assert "Traceback" not in full.stderr
        errors = full.stderr[full.stderr.index("error: ") :]
        assert len(errors.splitlines()) <= 2, errors
        after = files(disk / "tiny")
        half = [path for path in after.keys() - before.keys() if after[path] == b"" or "/." in f"/{path}"]
        assert half == []
        assert {path: after.get(path) for path in before} == before
        assert not [path for path in disk.glob("*") if path.name not in ("tiny", "filler", "cache")]
        filler.unlink()
        again = ran()
        assert again.returncode == 0, again.stdout + again.stderr
