"""``predict``: its output, its refusals and its exit codes."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tune_lnl.models.registry import build_model
from tune_lnl.predict import main
from tune_lnl.training import predict as predicting

CLASSES = ["dog", "=cat", "-1"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network for grey 8x8 images, as a training writes it."""
    torch.manual_seed(0)
    content = {
        "format": "tune_lnl model 1",
        "task": "classification",
        "model": "cnn_digits",
        "weights": build_model("cnn_digits", 3, (8, 8, 1)).state_dict(),
        "classes": CLASSES,
        "preprocessing": {"image_shape": [8, 8, 1], "resize": 8, "square": True, "mean": [0.3], "std": [0.4]},
        "config": {},
    }
    torch.save(content, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    stream = np.random.RandomState(0)
    for name in ("1.png", "deep/2.jpg", "deep/3.png"):
        place = tmp_path / "pictures" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stream.randint(0, 256, (20, 30, 3)).astype(np.uint8)).save(place)
    return tmp_path / "pictures"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_table_on_stdout(model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), str(pictures)]) == 0
    told = capsys.readouterr()
    found = rows(told.out)
    assert [row["path"] for row in found] == [str(pictures / name) for name in ("1.png", "deep/2.jpg", "deep/3.png")]
    assert list(found[0]) == ["path", "predicted", "confidence"]
    assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in found)
    assert told.err == "3 images predicted\n"


def test_several_classes_each(model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), str(pictures / "1.png"), "--top", "3", "--batch-size", "1", "--device", "cpu"]) == 0
    (row,) = rows(capsys.readouterr().out)
    confidences = [float(row[name]) for name in ("confidence", "confidence_2", "confidence_3")]
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) == pytest.approx(1, abs=1e-5)
    # A spreadsheet would run the first and reads the second as the number it is.
    assert {row[name] for name in ("predicted", "predicted_2", "predicted_3")} == {"dog", "'=cat", "'-1"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file(
    model: Path, pictures: Path, suffix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "ROWS_PER_GROUP", 2)
    output = model.parent / f"out{suffix}"
    output.write_text("of before")
    assert main([str(model), str(pictures), "--top", "2", "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"3 images predicted; written to {output}\n")
    assert sorted(path.name for path in model.parent.iterdir()) == sorted(["model.pt", output.name, "pictures"])
    if suffix == ".csv":
        found = rows(output.read_text())
        assert len(found) == 3
    else:
        table = pq.read_table(output)
        assert table.column_names == ["path", "predicted", "confidence", "predicted_2", "confidence_2"]
        assert set(table["predicted"].to_pylist()) <= set(CLASSES)
        assert table["path"].to_pylist()[0] == str(pictures / "1.png")
        assert table.num_rows == 3


def test_files_that_cannot_be_read_are_named_and_counted(
    model: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        (pictures / f"broken{number}.png").write_text("no image")
    monkeypatch.setattr(predicting, "NAMED_FILES", 2)
    assert main([str(model), str(pictures)]) == 0
    told = capsys.readouterr()
    assert len(rows(told.out)) == 3
    first, second, more, total = told.err.splitlines()
    assert first == f"{pictures / 'broken0.png'}: cannot identify image file"
    assert second.startswith(str(pictures / "broken1.png"))
    assert more == "... and 2 more"
    assert total == "3 images predicted, 4 files could not be read"


def test_nothing_readable_is_a_failure(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    assert main([str(model), str(tmp_path / "text.jpg")]) == 1
    assert capsys.readouterr().err.endswith("0 images predicted, 1 file could not be read\n")


def test_names_in_any_script_and_encoding(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "görüntü 画像"
    folder.mkdir()
    names = ["=1+1.png", "a,b.png", "猫.png"]
    for name in names:
        Image.new("L", (9, 9), 100).save(folder / name)
    (folder / "broken\udcff.png").write_bytes(b"")
    assert main([str(model), str(folder)]) == 0
    told = capsys.readouterr()
    assert [Path(row["path"]).name for row in rows(told.out)] == names
    assert "broken\\xff.png: it is empty" in told.err


def test_a_relative_path_that_looks_like_a_formula(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 9), 100).save(tmp_path / "=cmd.png")
    assert main([str(model), "=cmd.png"]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert row["path"] == "./=cmd.png"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.pt", "pictures"], "absent.pt does not exist"),
        (["pictures/1.png", "pictures"], "no model file"),
        (["model.pt", "absent"], "no such file or folder: absent"),
        (["model.pt"], "name the images or folders to predict, or --onnx FILE"),
        (["model.pt", "empty"], "no image files in empty"),
        (["model.pt", "pictures", "--top", "0"], "--top is at least 1, got 0"),
        (["model.pt", "pictures", "--top", "4"], "--top is at most the number of classes, 3, got 4"),
        (["model.pt", "pictures", "--batch-size", "0"], "--batch-size is at least 1, got 0"),
        (["model.pt", "pictures", "--output", "out.txt"], "the file to write ends in .csv or .parquet, got out.txt"),
        (["model.pt", "pictures", "--output", "no/out.csv"], "no/out.csv lies in no existing folder"),
        (["model.pt", "pictures", "--onnx", "out.csv"], "the file to write ends in .onnx, got out.csv"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(
    arguments: list[str],
    told: str,
    model: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(model.parent)
    (model.parent / "empty").mkdir()
    (model.parent / "empty" / "notes.txt").touch()
    before = sorted(model.parent.rglob("*"))
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert told in shown.err
    assert sorted(model.parent.rglob("*")) == before


def test_onnx_alone_and_beside_predictions(
    model: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_lnl.training.onnx.write_onnx", lambda classifier, file: file.touch())
    network = model.parent / "net.onnx"
    assert main([str(model), "--onnx", str(network)]) == 0
    assert capsys.readouterr() == ("", f"network: {network}\n")
    assert main([str(model), str(pictures), "--onnx", str(network)]) == 0
    assert len(rows(capsys.readouterr().out)) == 3


def test_without_the_onnx_extra(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main([str(model), "--onnx", str(model.parent / "net.onnx")]) == 2
    assert "pip install 'tune_lnl[onnx]'" in capsys.readouterr().err
