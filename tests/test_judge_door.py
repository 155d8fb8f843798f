"""``judge``: the draw, forms, the page, the choice that every view shows, and refusals."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_search import record_run

from tune_lnl import export, judge
from tune_lnl.config.yaml import read_mapping
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.split import split_validation
from tune_lnl.reporting.judging_page import Page
from tune_lnl.training.heldout import HeldOutPredictions, write_heldout
from tune_lnl.tuning.runs.run import load_run

OLD = Path(__file__).parent / "data" / "run_of_0_1_0"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose trial 1 is right on nine tenths of the held-out images, trial 0 on half; their objective is equal."""
    run = record_run(tmp_path_factory.mktemp("recorded"))
    data, random = data_of(run.files.root), np.random.default_rng(0)
    _, held_out = split_validation(data.given_labels, 0.3, run.space.any_config().validation.seed)
    assert data.true_labels is not None
    true = data.true_labels[held_out] % data.num_classes
    for number, accuracy in ((0, 0.5), (1, 0.9)):
        wrong = (true + random.integers(1, data.num_classes, len(true))) % data.num_classes
        predicted = np.where(random.random(len(true)) < accuracy, true, wrong)
        probabilities = np.eye(data.num_classes, dtype=np.float32)[predicted]
        predictions = HeldOutPredictions(np.stack([probabilities] * 2), held_out, data.given_labels[held_out])
        write_heldout(run.files.heldout(number), predictions)
    return run.files.root


@pytest.fixture
def root(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / "tiny")


def data_of(root: Path) -> NoisyData:
    return load_noisy(load_run(root).space.any_config().dataset, None)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "path", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def truth(root: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with the true answers."""
    data = data_of(root)
    assert data.true_labels is not None
    true = [int(data.true_labels[int(row["id"])]) for row in rows]
    return [
        {**row, "answer": data.class_names[k] if k < data.num_classes else "none"}
        for row, k in zip(rows, true, strict=True)
    ]


def answer_of(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert export.main([str(root), "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["answer"]
    return found


def test_a_form_and_its_answers(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_of(root, capsys) == {"number": 0, "by": "objective", "probability": None}
    form = tmp_path / "form.csv"
    assert judge.main([str(root), "--images", "20", "--form", str(form)]) == 0
    rows = rows_of(form)
    assert list(rows[0]) == ["id", "path", "answer"]
    assert len({row["id"] for row in rows}) == 20
    assert all((tmp_path / row["path"]).read_bytes().startswith(b"\x89PNG") for row in rows)
    drawn = rows_of(root / "judged.csv")
    assert [row["id"] for row in drawn] == [row["id"] for row in rows]
    assert all(float(row["weight"]) > 1 for row in drawn)
    assert not (root / "judged.yaml").exists()

    answers = truth(root, rows)
    answers[0]["answer"], answers[1]["answer"] = "unknown", ""
    assert judge.main([str(root), "--answers", str(write_rows(form, answers))]) == 0
    told = capsys.readouterr().out
    assert "18 answers counted, 1 unknown left out; 2 complete trials compared" in told
    assert re.search(r"best: trial 1, with probability (0\.9\d|1\.00); next: trial 0", told)
    assert "experiment" in told
    assert "own choice" not in told
    kept = rows_of(root / "judged.csv")
    assert [row["answer"] for row in kept] == [row["answer"] for row in answers]
    assert [row["weight"] for row in kept] == [row["weight"] for row in drawn]

    found = answer_of(root, capsys)
    assert (found["number"], found["by"]) == (1, "judged")
    assert found["probability"] > 0.9
    assert read_mapping(root / "judged.yaml")["experiment"] is True
    assert "by the images judged by hand" in (root / "best.yaml").read_text()
    assert read_mapping(root / "best.yaml")["provenance"]["trial"] == 1
    assert "by the images judged by hand" in (root / "report.html").read_text()


def test_more_images_leave_the_drawn_ones_as_they_are(root: Path, tmp_path: Path) -> None:
    for count, name in ((10, "a.csv"), (15, "b.csv"), (5, "c.csv")):
        assert judge.main([str(root), "--images", str(count), "--form", str(tmp_path / name)]) == 0
    first, more, fewer = (rows_of(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv"))
    assert [row["id"] for row in more[:10]] == [row["id"] for row in first]
    assert len({row["id"] for row in more}) == 15
    assert len(fewer) == 15


def test_images_of_ones_own_choice_have_weight_1(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = load_run(root).heldout_predictions(0).index[:12]
    own = truth(root, [{"id": str(id_), "path": "", "answer": ""} for id_ in ids])
    assert judge.main([str(root), "--answers", str(write_rows(tmp_path / "own.csv", own))]) == 0
    told = capsys.readouterr().out
    assert "12 of the images were not drawn here" in told
    assert "the estimate is yours" in told
    assert [float(row["weight"]) for row in rows_of(root / "judged.csv")] == [1.0] * 12
    assert read_mapping(root / "judged.yaml")["own_choice"] == 12


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8-sig", ";"), ("utf-16", "\t"), ("utf-8", ",")],
    ids=["semicolons", "tabs", "commas"],
)
def test_a_form_that_a_spreadsheet_program_has_saved(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str, delimiter: str
) -> None:
    ids = load_run(root).heldout_predictions(0).index[:3]
    rows = [("ID", "Path", "Answer "), (f"{ids[0]}.0", "", "3.0"), (ids[1], "", "none"), (ids[2], "", " 1")]
    text = "".join(delimiter.join(map(str, row)) + "\r\n" for row in rows)
    (tmp_path / "form.csv").write_bytes(text.encode(encoding))
    assert judge.main([str(root), "--answers", str(tmp_path / "form.csv")]) == 0
    assert "3 answers counted; 2 complete trials compared" in capsys.readouterr().out
    assert [row["answer"] for row in rows_of(root / "judged.csv")] == ["3", "none", "1"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("id,path,answer\n{0},,9\n", r"line 2: '9' is no class of this run; .*valid: 0, 1,"),
        ("id,path,answer\n{0},,1\n{0},,2\n", r"line 3: image \d+ stands in line 2, too"),
        ("id,path,answer\n999999,,1\n", r"line 2: '999999' is no held-out image"),
        ("id,path,answer\nx,,1\n", r"line 2: 'x' is no held-out image"),
        ("id,path,answer\n{0},,1,2,3\n", r"line 2"),
        ("id,path\n{0},\n", r"'answer' is missing"),
        ("", r"'id' is missing"),
    ],
)
def test_a_malformed_file_of_answers_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, rule: str
) -> None:
    id_ = load_run(root).heldout_predictions(0).index[0]
    (tmp_path / "answers.csv").write_text(text.format(id_))
    before = sorted(path.name for path in root.iterdir())
    assert judge.main([str(root), "--answers", str(tmp_path / "answers.csv")]) == 2
    assert re.search(rule, capsys.readouterr().err)
    assert sorted(path.name for path in root.iterdir()) == before


def test_what_cannot_be_judged_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = shutil.copytree(OLD, tmp_path / "old")
    taken = tmp_path / "taken.csv"
    taken.touch()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "nowhere")
    refusals: list[tuple[list[str], str]] = [
        ([str(old)], "two complete trials with held-out predictions are needed.*version 0.1.0"),
        ([str(root), "--images", "0"], "--images is at least 1, got 0"),
        ([str(root), "--images", "100000"], "give at most"),
        ([str(root), "--form", str(taken)], "exists already"),
        ([str(root), "--form", str(link)], "exists already"),
        ([str(root), "--answers", str(tmp_path / "none.csv")], "cannot be read"),
        (["no-such-run", "--results-dir", str(tmp_path)], "no run"),
    ]
    for arguments, rule in refusals:
        assert judge.main(arguments) == 2
        assert re.search(rule, capsys.readouterr().err, re.DOTALL), arguments
    assert not (root / "judged.csv").exists()
    assert sorted(path.name for path in old.iterdir()) == sorted(path.name for path in OLD.iterdir())
    (root / "heldout" / "001.npz").write_bytes(b"torn")
    assert judge.main([str(root)]) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_search_for_re_identification_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record_run(tmp_path)
    settings = run.files.settings
    text = settings.read_text().replace("method: act", "method: core").replace("name: digits8no", "name: sprites")
    settings.write_text(text)
    assert judge.main([str(run.files.root)]) == 2
    assert "re-identification" in capsys.readouterr().err


# ---- the page


def test_every_answer_of_the_page_is_saved_at_once_and_its_end_chooses(root: Path) -> None:
    """The command in a process of its own, its page asked as a browser would."""
    command = [sys.executable, "-u", "-m", "tune_lnl.judge", str(root), "--images", "6"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)))
        state = json.loads(ask(url + "state"))
        assert state["classes"] == [str(k) for k in range(8)]
        assert [set(image) for image in state["images"]] == [{"id", "answer"}] * 6
        answers = truth(root, [{"id": str(image["id"])} for image in state["images"]])
        for count, row in enumerate(answers, start=1):
            assert ask(f"{url}image/{row['id']}").startswith(b"\x89PNG")
            ask(url + "answer", {"id": int(row["id"]), "answer": row["answer"]})
            kept = rows_of(root / "judged.csv")
            assert [one["answer"] for one in kept[:count]] == [one["answer"] for one in answers[:count]]
        told = json.loads(ask(url + "finish", {}))["lines"]
        assert any("best: trial" in line for line in told)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert (root / "judged.yaml").exists()


@pytest.fixture
def served() -> Iterator[tuple[str, dict[int, str], Callable[[], bool]]]:
    """A page on two images; its URL, the answers, and whether it is over."""
    answers: dict[int, str] = {}

    def save(id_: int, answer: str) -> None:
        if answer != "<b>":
            raise ValueError(f"{answer} is no class")
        answers[id_] = answer

    page = Page("<run>", ["<b>"], [3, 5], answers, lambda id_: b"picture %d" % id_, save, lambda: ["done"])
    with page.served() as url:
        yield url, answers, page.over.is_set


def ask(url: str, content: Any = None, **headers: str) -> bytes:
    data = None if content is None else json.dumps(content).encode()
    kind = {} if content is None else {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, {**kind, **headers}), timeout=30) as reply:
        body: bytes = reply.read()
        return body


def refused(url: str, content: Any = None, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(url, content, **headers)
    error.value.close()
    return error.value.code


def test_the_page_is_for_its_token_and_this_machine_alone(
    served: tuple[str, dict[int, str], Callable[[], bool]],
) -> None:
    url, answers, over = served
    port_root = url.rsplit("/", 2)[0]
    for path in ("/", "/state", "/wrong/state", "/wrong/"):
        assert refused(port_root + path) == 404
    assert refused(url + "state", Host="evil.example:80") == 404
    assert refused(port_root + "/wrong/answer", {"id": 3, "answer": "<b>"}) == 404
    assert refused(url + "answer", {"id": 3, "answer": "<b>"}, **{"Content-Type": "text/plain"}) == 400
    assert refused(url + "answer", {"id": 4, "answer": "<b>"}) == 400
    assert refused(url + "answer", {"id": 3, "answer": "cat"}) == 400
    assert refused(url + "answer", [1]) == 400
    assert refused(url + "answer", "x" * 20_000) == 413
    assert refused(url + "image/4") == 404
    assert refused(url + "image/../state") == 404
    assert answers == {}
    assert ask(url + "image/5") == b"picture 5"
    ask(url + "answer", {"id": 3, "answer": "<b>"})
    assert answers == {3: "<b>"}
    assert not over()


def test_the_page_escapes_names_and_allows_no_foreign_content(
    served: tuple[str, dict[int, str], Callable[[], bool]],
) -> None:
    url, _, _ = served
    with urllib.request.urlopen(url, timeout=30) as reply:
        text, policy = reply.read().decode(), reply.headers["Content-Security-Policy"]
    assert "<run>" not in text
    assert "&lt;run&gt;" in text
    assert "{{" not in text
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
    assert nonce is not None
    assert f'<script nonce="{nonce[1]}">' in text
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=", text.partition("<script")[0]), "the page loads nothing but its images"
