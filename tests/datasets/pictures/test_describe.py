"""`python -m tune_lnl.data` on image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from picture_trees import (
    write_broken_files,
    write_class_folders,
    write_clothing,
    write_food,
    write_image,
    write_odd_files,
)
from PIL import Image

from tune_lnl.data import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_check_of_a_folder(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    root = place / "mine"
    write_class_folders(root, ["a", "b"], 5)
    write_odd_files(root / "b")
    write_broken_files(root / "b")
    write_image(root / "rare" / "one.png", 0)
    (root / "a" / "copy.jpg").write_bytes((root / "b" / "000.jpg").read_bytes())
    (root / "a" / "notes.txt").write_text("x")
    code, out, err = run(capsys, "check", "folder", "--set", f"dataset.root={root}")
    assert (code, err) == (0, "")
    for told in (
        "layout            class folders, ", "20 training and 0 test images", "skipped           0 files",
        "unreadable        4 files\n", "b/empty.jpg: it is empty", "b/truncated.jpg: ", "b/bomb.png: ", "b/text.jpg: ",
        "GIF P 1", "JPEG CMYK 1", "PNG L 1", "other files       1, no images by their names: .txt 1",
        "shorter side 20 to 24 pixels",
        "32x32, 3 channels; kept square", "packed, ", "3 closed, 0 open", "20 samples; 1 to 13 per given label",
        "1 with one training image, never in validation: rare", "no test set: there will be no test scores",
        "1 files repeat another byte by byte; 1 training images have several labels, 0 are in the test set",
        "several labels    a/copy.jpg = b/000.jpg",
        "noise             not known: there are no true labels", "too few images per class to estimate it",
        "resolution 32, model cnn7, --epochs 100", "source sha256", "labels sha256",
    ):  # fmt: skip
        assert told in out, told
    code, out, _ = run(capsys, "check", "folder", "--set", f"dataset.root={root}", "--set", "dataset.on_error=fail")
    assert code == 1
    assert "FAULT: " in out
    assert "on_error=skip" in out


def test_check_names_the_classes(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    classes = [f"c{number:02d}" for number in range(21)]
    write_class_folders(place / "few", classes[:20], 1)
    _, out, _ = run(capsys, "check", "folder", "--set", f"dataset.root={place / 'few'}")
    assert f"class names       {', '.join(classes[:20])}\n" in out
    write_class_folders(place / "many", classes, 1)
    _, out, _ = run(capsys, "check", "folder", "--set", f"dataset.root={place / 'many'}")
    assert "class names       c00, c01, c02, c03, c04, ..., c20\n" in out


def test_check_compares_a_label_file_with_the_folders(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    write_class_folders(place / "mine", ["a", "b"], 4)
    np.save(place / "labels.npy", [0, 0, 0, 1, 1, 1, 1, 1])
    settings = ["--set", f"dataset.root={place / 'mine'}", "--set", f"dataset.noise={{file: {place / 'labels.npy'}}}"]
    code, out, _ = run(capsys, "check", "folder", *settings)
    assert (code, "labels changed    12.50%: 1 of 8 labels of the file differ" in out) == (0, True)


def test_check_finds_test_images_in_the_training_set(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    """A copy is a fault; an image saved again smaller is a near-duplicate; two images of one class are neither."""
    root = place / "mine"
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate("ab"):
            for number in range(count):
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                blocks = np.random.RandomState([number, label, count]).randint(0, 255, (6, 6, 3)).astype(np.uint8)
                Image.fromarray(blocks).resize((48, 48), Image.Resampling.BICUBIC).save(path)
    check = ("check", "folder", "--set", f"dataset.root={root}")
    code, out, _ = run(capsys, *check)
    assert (code, "near-duplicates   0 test images look like a training image" in out) == (0, True)
    with Image.open(root / "train" / "a" / "2.png") as image:
        image.resize((40, 40)).save(root / "test" / "a" / "again.jpg", quality=70)
    code, out, _ = run(capsys, *check)
    assert code == 0
    assert "near-duplicates   1 test images look like a training image" in out
    assert "near-duplicates   test/a/again.jpg ~ train/a/2.png" in out
    (root / "test" / "b" / "copy.png").write_bytes((root / "train" / "b" / "0.png").read_bytes())
    code, out, _ = run(capsys, *check)
    assert code == 1
    assert "FAULT: 1 of 8 test images are in the training set, too, byte by byte" in out
    assert "the first is test/b/copy.png = train/b/0.png" in out


def test_check_estimates_the_noise(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    stream = np.random.RandomState(0)
    for number in range(600):
        label = number % 3
        pixels = stream.randint(0, 90, size=(32, 32, 3)).astype(np.uint8)
        pixels[8 * label : 8 * label + 12, :, label] += 120
        given = (label + 1) % 3 if number % 4 == 0 else label
        path = place / "mine" / "xyz"[given] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    code, out, _ = run(capsys, "check", "folder", "--set", f"dataset.root={place / 'mine'}")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("estimated noise")]
    low, high = (float(text.strip(" %")) for text in line.partition("interval ")[2].partition(":")[0].split(" to "))
    assert low <= 25 <= high
    assert high - low < 40


def test_check_measures_noise_put_in(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    write_class_folders(place / "mine", ["a", "b"], 20)
    settings = [
        "--set",
        f"dataset.root={place / 'mine'}",
        "--set",
        "dataset.noise=asymmetric",
        "--set",
        "dataset.closed_ratio=0.3",
    ]
    code, out, _ = run(capsys, "check", "folder", *settings)
    assert code == 0
    assert "noise             requested 30.00%, measured " in out
    assert "measured unknown" not in out


def test_check_of_verified_labels(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    write_food(place, "nested")
    code, out, _ = run(capsys, "check", "food101n", "--data-dir", place, "--set", "dataset.resolution=16")
    assert code == 0
    assert "verified          40 labels were checked, 25.00% wrong" in out
    assert "nested" in out
    write_clothing(place)
    code, out, _ = run(capsys, "check", "clothing1m", "--data-dir", place, "--set", "dataset.resolution=16")
    assert code == 0
    assert "verified          28 labels were checked, 50.00% wrong" in out


def test_check_reports_changed_pixels(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    write_class_folders(place / "mine", ["a", "b"], 3)
    arguments = ["folder", "--set", f"dataset.root={place / 'mine'}"]
    assert run(capsys, "check", *arguments)[0] == 0
    (packed,) = (place.parent / "cache" / "packed").glob("*/pixels.npy")
    pixels = np.load(packed, mmap_mode="r+")
    pixels[7] ^= 1
    pixels.flush()
    code, out, _ = run(capsys, "check", *arguments)
    assert code == 1
    assert "FAULT: the packed pixels have changed" in out


def test_prepare_says_what_it_made(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    write_class_folders(place / "mine", ["a", "b"], 3)
    food = write_food(place, "nested")
    code, out, _ = run(capsys, "prepare", "food101n", "--data-dir", food, "--set", "dataset.resolution=16")
    (store,) = [path for path in (place.parent / "cache" / "packed").iterdir() if path.is_dir()]
    assert (code, f"food101n is packed in {store}" in out) == (0, True)
    settings = ["--set", f"dataset.root={place / 'mine'}", "--set", "dataset.cache_budget=0.0"]
    code, out, _ = run(capsys, "prepare", "folder", *settings)
    assert (code, "too large for dataset.cache_budget" in out) == (0, True)


def test_list_names_them(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    write_food(place, "flat")
    _, out, _ = run(capsys, "list", "--data-dir", place)
    states = {line.split()[0]: line[14:].strip().split("  ")[0] for line in out.splitlines()}
    assert (states["folder"], states["food101n"], states["web_car"]) == ("yours", "here", "not here")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], "dataset.root must be set"),
        (["dataset.root=absent"], "dataset.root: no such folder or file"),
        (["dataset.root=."], "has no training image"),
        (["dataset.rot=."], "did you mean 'root'"),
        (["dataset.root=.", "dataset.noise=pair"], "dataset.noise"),
    ],
)
def test_bad_input(
    settings: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    code, out, err = run(capsys, "check", "folder", *(word for setting in settings for word in ("--set", setting)))
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
