"""`python -m tune_lnl.data` on datasets of arrays."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from cifar_trees import TinyCifar, tiny_cifar, write_parquet

from tune_lnl.data import main
from tune_lnl.datasets.images.cifar import Cifar10N


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TinyCifar:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    return tiny_cifar(Cifar10N, monkeypatch)


@pytest.fixture
def shards(tiny: TinyCifar, tmp_path: Path) -> list[Path]:
    root = tmp_path / "data" / "cifar10"
    root.mkdir(parents=True)
    return write_parquet(root, tiny)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_check_prints_what_is_there(capsys: pytest.CaptureFixture[str], shards: list[Path], tmp_path: Path) -> None:
    code, out, err = run(
        capsys, "check", "cifar10n", "--data-dir", tmp_path / "data", "--set", "dataset.noise=asymmetric",
        "--set", "dataset.closed_ratio=0.5", "--set", "dataset.subset=0.5",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for told in (
        "40 training and 20 test images", "32x32, 3 channels", "10 closed, 0 open", "20 samples",
        "2 to 2 per class", "requested 50.00%, measured", "open-set share    requested 0.00%, measured 0.00%",
        "asymmetric, seed 0", "source sha256", "labels sha256",
    ):  # fmt: skip
        assert told in out


def test_a_value_is_read_as_in_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", "digits8no", "--set", "dataset.subset=5e-1")
    assert (code, err) == (0, "")
    assert re.search(r"^training +629 samples", out, flags=re.MULTILINE), "half of 1,258"


def test_check_of_the_built_in_dataset_measures_its_noise(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", "digits8no", "--set", "dataset.noise=none")
    assert code == 0
    assert "closed-set noise  requested 0.00%, measured 0.00%" in out
    assert "8 closed, 2 open" in out
    # 1,258 training digits, 248 of them are an 8 or a 9.
    assert "open-set share    requested 20.00%, measured 19.71%" in out


def test_check_reports_a_damaged_source(capsys: pytest.CaptureFixture[str], shards: list[Path], tmp_path: Path) -> None:
    os.truncate(shards[1], 100)
    code, out, _ = run(capsys, "check", "cifar10n", "--data-dir", tmp_path / "data")
    assert code == 1
    assert "FAULT: " in out
    assert shards[1].name in out


def test_check_reports_pixels_that_changed_in_the_store(
    capsys: pytest.CaptureFixture[str], shards: list[Path], tmp_path: Path
) -> None:
    assert run(capsys, "check", "cifar10n", "--data-dir", tmp_path / "data")[0] == 0
    (packed,) = (tmp_path / "cache" / "packed").glob("*/train_images.npy")
    images = np.load(packed, mmap_mode="r+")
    images[3, 0, 0, 0] ^= 1
    images.flush()
    code, out, _ = run(capsys, "check", "cifar10n", "--data-dir", tmp_path / "data")
    assert code == 1
    assert "FAULT: the packed pixels or labels have changed" in out


def test_prepare_packs_and_says_where(capsys: pytest.CaptureFixture[str], shards: list[Path], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "prepare", "cifar10n", "--data-dir", tmp_path / "data")
    assert code == 0
    (store,) = [path for path in (tmp_path / "cache" / "packed").iterdir() if path.is_dir()]
    assert str(store) in out
    assert "nothing to pack" in run(capsys, "prepare", "digits8no")[1]


def test_list_says_what_is_here(capsys: pytest.CaptureFixture[str], shards: list[Path], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "list", "--data-dir", tmp_path / "data")
    assert code == 0
    states = {line.split("  ")[0].strip(): line[10:].strip().split("  ")[0] for line in out.splitlines()}
    assert states["cifar10n"] == "here"
    assert states["cifar100nc"] == "not here"
    assert states["digits8no"] == "built in"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check", "cifar11n"], "did you mean 'cifar10n'"),
        (["check", "digits8no", "--set", "subset=0.5"], "--set takes dataset.KEY=VALUE"),
        (["check", "digits8no", "--set", "dataset.subset"], "--set takes KEY=VALUE"),
        (["check", "digits8no", "--set", "dataset.name=cifar10n"], "--set takes dataset.KEY=VALUE"),
        (["check", "digits8no", "--set", "dataset.noise={file"], "not valid YAML"),
        (["check", "digits8no", "--set", "dataset.subset=2"], "dataset.subset"),
        (["check", "digits8no", "--set", "dataset.noise.file=absent.csv"], "no such file"),
        (["check", "cifar10n", "--data-dir", "absent"], "--data-dir must be an existing directory"),
        (["prepare", "cifar10n", "--data-dir", "."], "cifar10n needs CIFAR-10"),
    ],
)
def test_bad_input(
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    tiny: TinyCifar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [], "nothing is written"
