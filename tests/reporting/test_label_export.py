"""`export RUN --labels FILE`: from a run to the file, the page and the lines on the screen."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from label_tables import NASTY, table_of
from PIL import Image
from report_runs import COMPLETE, SPACE, Asked, make_run

from tune_lnl.export import main
from tune_lnl.methods.label_verdicts import KEEP, OPEN_SET, RELABEL, VERDICTS
from tune_lnl.reporting.label_page import label_page, most_suspicious
from tune_lnl.reporting.label_table import (
    columns_of,
    evidence_lines,
    judge,
    printable,
    summary_lines,
    write_label_file,
)
from tune_lnl.training.labels import LabelEvidence

COLUMNS = [
    *("given_label", "corrected_label", "confidence", "selected_share", "disagreement", "verdict"),
    *("verdict_in_sample", "agreement", "estimated_noise"),
]


def export(folder: Path, *arguments: str, run: str = "tiny") -> int:
    return main([run, "--results-dir", str(folder / "results"), "--folds", "2", "--epochs", "3", *arguments])


# ---- from a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    make_run(folder, [COMPLETE])
    return folder


def test_digits_as_parquet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "labels.parquet"
    assert export(run, "--labels", str(file)) == 0
    table = pq.read_table(file)
    assert table.column_names == ["id", *COLUMNS]
    rows = table.to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) > 300
    for row in rows:
        assert row["verdict"] in VERDICTS
        assert row["verdict_in_sample"] in VERDICTS
        assert (row["verdict"] == "relabel") == (row["given_label"] != row["corrected_label"])
        assert all(0 <= row[name] <= 1 for name in ("confidence", "selected_share", "disagreement"))
    told = capsys.readouterr().out
    assert "fold 1 of 2, epoch   3" in told
    assert "all samples, epoch   3" in told
    assert "given label  samples      keep   relabel  open_set" in told
    assert "true labels are known" in told
    # What the verdicts rest on stands on the console, on the page and in the file.
    agreement = f"the networks agree with {100 * rows[0]['agreement']:.0f}% of the {len(rows):,} labels that they have"
    noise = f"estimated share of wrong labels: {100 * rows[0]['estimated_noise']:.0f}%"
    evidence = (table.schema.metadata or {})[b"evidence"].decode()
    for place in (told, evidence):
        assert agreement in place
        assert noise in place
    page = (run / "labels.html").read_text(encoding="utf-8")
    assert f"T{agreement[1:]}" in page
    assert f"E{noise[1:]}" in page
    assert f"files: {file} and {run / 'labels.html'}" in told
    page = (run / "labels.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "plotly.js" not in page  # it has no pictures but the images


def test_trainings_are_kept_and_csv_says_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [run / "again.parquet", run / "again.csv"]
    for file in both:
        assert export(run, "--labels", str(file)) == 0
    assert "epoch" not in capsys.readouterr().out.split("1 of 2, epoch")[-1].split("given label")[-1]
    with both[1].open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    for row, other in zip(rows, pq.read_table(both[0]).to_pylist(), strict=True):
        assert {name: str(value) for name, value in other.items()} == row


def test_other_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "plain.csv"
    arguments = ["--set", "method=standard", "--set", "dataset.subset=0.1", "--device", "cpu"]
    assert export(run, "--labels", str(file), *arguments) == 0
    with file.open(newline="", encoding="utf-8") as lines:
        row = next(csv.DictReader(lines))
    assert (row["selected_share"], row["disagreement"]) == ("", "")
    assert "by standard, the best config of tiny: 2 folds" in capsys.readouterr().out


def test_all_images_are_judged_after_a_search_on_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, [COMPLETE], changes={"dataset": {**SPACE["dataset"], "subset": 0.25}})
    file = tmp_path / "labels.csv"
    assert export(tmp_path, "--labels", str(file)) == 0
    whole = len(file.read_text().splitlines()) - 1
    told = capsys.readouterr().out
    assert "judges all images, of which the search used a share (dataset.subset 0.25)" in told
    assert "train longer: --epochs 6 instead of 3" in told
    assert export(tmp_path, "--labels", str(file), "--set", "dataset.subset=0.25") == 0
    part = len(file.read_text().splitlines()) - 1
    told = capsys.readouterr().out
    assert part < whole / 3
    share = f"{part:,} of {whole:,} images (dataset.subset 0.25)"
    assert f"judges {share}" in told
    assert "train longer and all images" in told
    assert f"These are the labels of {share}" in (tmp_path / "labels.html").read_text(encoding="utf-8")


def test_a_run_without_a_complete_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, [Asked("PRUNED", epochs=3)])
    assert export(tmp_path, "--labels", str(tmp_path / "labels.csv")) == 2
    assert "no complete trial yet" in capsys.readouterr().err
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize(
    ("file", "flags", "said"),
    [
        ("labels.json", (), "ends in .csv or .parquet, got"),
        ("absent/labels.csv", (), "lies in no folder"),
        ("results/tiny.csv", ("--folds", "1"), "at least 2 folds, got 1"),
        ("labels.csv", ("--set", "lr=-1"), "greater than 0"),
        ("labels.csv", ("--epochs", "0"), "0"),
    ],
)
def test_bad_input(run: Path, file: str, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert export(run, "--labels", str(run / file), *flags) == 2
    assert said in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_a_diverged_training_gives_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, [COMPLETE])
    assert export(tmp_path, "--labels", str(tmp_path / "labels.csv"), "--set", "lr=1e30") == 1
    assert "not finite" in capsys.readouterr().out
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize("flags", [("--folds", "3"), ("--epochs", "3"), ("--set", "lr=1"), ("--device", "cpu")])
def test_flags_of_label_exports_alone(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["tiny", *flags])
    assert end.value.code == 2
    assert f"{flags[0]} only with --labels FILE" in capsys.readouterr().err


# ---- tables made by hand


def test_verdict_by_hand() -> None:
    table = table_of()
    wrong = np.arange(40) % 5 == 0
    assert np.array_equal(table.found, wrong)
    assert table.data.true_labels is not None
    assert np.array_equal(table.judgement.corrected, table.data.true_labels)
    assert table.disagreement is None
    quality = table.quality()
    assert quality is not None
    for one in quality:
        assert (one.precision, one.recall, one.f1, one.auroc, one.corrected_accuracy) == (1, 1, 1, 1, 1)
        assert one.given_accuracy == 0.8


def test_corrections_that_the_evidence_does_not_support_are_withheld(tmp_path: Path) -> None:
    table = table_of(400)
    guesses = np.random.RandomState(0).dirichlet(np.full(4, 0.2), 400).astype(np.float32)
    table = judge(table.data, LabelEvidence({"": guesses}, guesses, None, np.zeros(400, np.int64)))
    columns = columns_of(table)
    assert columns["corrected_label"] == columns["given_label"]
    assert set(columns["verdict"]) == {"keep", "unsure"}
    assert max(columns["confidence"]) == min(columns["confidence"]) == pytest.approx(0.8, abs=0.1)
    said = list(evidence_lines(table))
    assert any(line.startswith("corrections are withheld") for line in said)
    page = label_page(table, "run", "f.csv", _moment(), ["train longer"])
    assert page.index("Corrections are withheld") < page.index("Train longer.") < page.index("By given label")
    assert "<strong>unsure</strong>" in page
    assert "rather " not in page


def test_two_networks_disagree_by_half_the_sum_of_differences() -> None:
    data = table_of().data
    first = np.full((40, 4), 0.25, np.float32)
    second = np.tile(np.array([0.55, 0.15, 0.15, 0.15], np.float32), (40, 1))
    table = judge(data, LabelEvidence({"": first, "_ntm": second}, first, None, np.zeros(40, np.int64)))
    assert table.disagreement == pytest.approx(np.full(40, 0.3), abs=1e-6)


def test_cells_that_a_spreadsheet_would_run_are_text(tmp_path: Path) -> None:
    table = table_of(names=[f"={number}.png" if number % 2 else f"a/{number}.png" for number in range(40)])
    write_label_file(table, tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert rows[0]["path"] == "a/0.png"
    assert rows[1]["path"] == "'=1.png"
    assert {row["given_label"] for row in rows} == {"'=1+1", "<b>bold</b>", "'@sum", "'-2"}
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row.values())
    write_label_file(table, tmp_path / "labels.parquet")
    assert set(pq.read_table(tmp_path / "labels.parquet")["given_label"].to_pylist()) == set(NASTY)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    assert printable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    assert printable("猫/é.png") == "猫/é.png"
    names = [os.fsdecode(b"caf\xe9") + f"{number}.png" for number in range(40)]
    for file in ("labels.csv", "labels.parquet"):
        write_label_file(table_of(names=names), tmp_path / file)
    assert pq.read_table(tmp_path / "labels.parquet")["path"][3].as_py() == "caf\\xe93.png"


def test_the_page_escapes_what_comes_from_outside() -> None:
    page = label_page(table_of(names=[f"<img src=x>{n}.png" for n in range(40)]), "<run>", "labels.csv", _moment())
    assert "<b>bold" not in page
    assert "<img src=x>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert page.count("data:image/png;base64,") == 8
    assert "default-src &#39;none&#39;" in page


def test_the_most_suspicious_come_first_and_few_of_many_are_shown() -> None:
    table = table_of(400)
    judged = replace(table.judgement, wrong=np.where(table.found, 0.6 + np.arange(400) / 1000, 0.1))
    table = replace(table, judgement=judged)
    shown = most_suspicious(table, 0, 12)
    assert len(shown) == 12
    assert np.array_equal(shown, np.sort(np.flatnonzero(table.found & (table.data.given_labels == 0)))[::-1][:12])


def test_large_images_become_small_jpegs() -> None:
    stream = np.random.RandomState(0)
    images = stream.randint(0, 256, (40, 300, 200, 3)).astype(np.uint8)
    page = label_page(table_of(train_images=images), "run", "labels.csv", _moment())
    assert page.count("data:image/jpeg;base64,") == 8
    assert len(page) < 8 * 12_000 + 20_000


def test_grey_images_are_shown() -> None:
    page = label_page(table_of(train_images=np.zeros((40, 8, 8, 1), np.uint8)), "run", "labels.csv", _moment())
    assert page.count("data:image/png;base64,") == 8


def test_open_set_images_are_told_apart() -> None:
    table = table_of()
    verdict = np.where(table.judgement.verdict == RELABEL, OPEN_SET, KEEP)
    page = label_page(replace(table, judgement=replace(table.judgement, verdict=verdict)), "run", "f.csv", _moment())
    assert page.count("<strong>no class</strong>") == 8
    assert "nearest: " in page


def test_counts_are_of_the_given_labels() -> None:
    lines = list(summary_lines(table_of()))
    assert [line.split() for line in lines[1:6]] == [[name, "10", "8", "2", "0", "0"] for name in NASTY] + [
        ["all", "40", "32", "8", "0", "0"]
    ]
    assert any("8 of the given ones are wrong" in line for line in lines)
    unknown = list(summary_lines(table_of(true_labels=None)))
    assert unknown == lines[:6]


def test_a_name_cannot_steer_the_terminal() -> None:
    table = table_of(class_names=("\x1b[31mred", "b", "c", "d"))
    assert not any("\x1b" in line for line in summary_lines(table))


def test_columns_are_rounded_and_unknown_is_empty() -> None:
    columns = columns_of(table_of())
    assert list(columns) == ["id", *COLUMNS]
    assert columns["selected_share"] == [None] * 40
    assert columns["confidence"][3] == round(columns["confidence"][3], 6)


def _moment() -> Any:
    from datetime import datetime

    return datetime(2026, 1, 2, 3, 4)


def test_thumbnails_are_the_images() -> None:
    import base64
    import io

    from tune_lnl.reporting.label_page import data_uri

    pixels = np.random.RandomState(0).randint(0, 256, (9, 7, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(data_uri(pixels).partition(",")[2]))) as picture:
        assert np.array_equal(np.asarray(picture), pixels)
