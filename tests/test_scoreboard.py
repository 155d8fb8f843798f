"""The scoreboard on tables that are checked by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import scoreboard
from testbeds.engines import OurEngine, StockEngine, TableSpace, answers, related_run
from testbeds.rivals import RIVALS, RivalEngine, python_of
from testbeds.tables import Table, read_table

NAN, INF = float("nan"), float("inf")


def write_table(path: Path, settings: dict[str, list[float]], losses: list[list[float]]) -> Path:
    pq.write_table(pa.table({**settings, "valid_loss": losses, "train_loss": losses}), path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Five trainings of two settings; the last two diverged, one of them after a good loss."""
    settings = {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1, 1.0], "beta": [0.1, 0.1, 1.0, 1.0, 1.0], "fixed": [3.0] * 5}
    losses = [[4.0, 2.0], [3.0, 1.0], [3.0, 4.0], [0.5, NAN], [9.0, INF]]
    return read_table(write_table(tmp_path / "task.parquet", settings, losses))


def random_table(path: Path, rows: int = 60, reports: int = 9, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    rate, beta = 10 ** generator.uniform(-4, 0, rows), 10 ** generator.uniform(-2, 0, rows)
    final = np.abs(np.log10(rate) + 2) + np.abs(np.log10(beta) + 1)
    losses = final[:, None] + np.exp(-np.arange(reports) / 3)
    return write_table(path, {"rate": rate.tolist(), "beta": beta.tolist()}, losses.tolist())


def test_the_regret_by_hand(table: Table) -> None:
    """Diverged rows have the worst of the last finite losses, 9; the best is 1, the median 4."""
    assert table.final.tolist() == [2.0, 1.0, 4.0, 9.0, 9.0]
    assert [table.regret(row) for row in range(5)] == pytest.approx([1 / 3, 0.0, 1.0, 8 / 3, 8 / 3])


def test_a_proposal_goes_to_the_nearest_unused_row(table: Table) -> None:
    """Both axes are logarithmic, and the setting that never changes is none."""
    assert list(table.ranges) == ["learning_rate", "beta"]
    assert table.points.tolist() == pytest.approx(np.array([[0, 0], [0.25, 0], [0.5, 1], [0.75, 1], [1, 1]]))
    used = np.zeros(5, dtype=bool)
    point = table.point({"learning_rate": 10**-2.8, "beta": 0.1})
    assert table.nearest_unused(point, used) == 1
    used[1] = True
    assert table.nearest_unused(point, used) == 0
    engine = OurEngine(table, 0)
    assert sorted(engine.take(point) for _ in range(5)) == list(range(5))


def test_reversed_ranks_are_mirrored(table: Table) -> None:
    assert np.argsort(table.reversed().final, kind="stable")[0] in (3, 4)
    assert table.reversed().final[1] == 9.0


def test_a_search_spends_what_it_trains(tmp_path: Path) -> None:
    """The answer is a training that went to its end, and a diverged one ends at once."""
    table = read_table(random_table(tmp_path / "a.parquet"))
    engine = OurEngine(table, 0)
    first, last = answers(engine, [table.reports, 20 * table.reports])
    spent = sum(len(trial.intermediate_values) for trial in engine.study.trials)
    assert spent == 20 * table.reports
    assert first == engine.rows[0]
    best = engine.study.best
    assert best is not None
    assert last == engine.rows[best.number]
    assert table.regret(engine.rows[best.number]) < 0.5


def test_searches_of_one_seed_are_equal(tmp_path: Path) -> None:
    table = read_table(random_table(tmp_path / "a.parquet"))
    related = related_run(read_table(random_table(tmp_path / "b.parquet", seed=1)))
    for make in (lambda: OurEngine(table, 3, [related]), lambda: StockEngine(table, 3)):
        assert list(answers(make(), [90, 180])) == list(answers(make(), [90, 180]))


def test_the_form_of_the_output(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        random_table(folder / f"{name}.parquet", seed=seed)
    words = ["--tables", str(folder), "--engines", "ours,ours+related,tpe", "--seeds", "2"]
    keep = ["--keep", str(tmp_path / "keep.jsonl")]
    assert scoreboard.main([*words, *keep, "--json", str(tmp_path / "once.json")]) == 0
    kept = (tmp_path / "keep.jsonl").read_text()
    assert scoreboard.main([*words, *keep, "--json", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "keep.jsonl").read_text() == kept, "nothing is played twice"
    once, again = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("once", "again"))
    assert once["rows"] == again["rows"]
    assert len(once["rows"]) == 2 * 3 * 4
    assert {(row["table"], row["engine"], row["trials"]) for row in once["rows"]} == {
        (name, engine, trials)
        for name in "ab"
        for engine in ("ours", "ours+related", "tpe")
        for trials in (5, 10, 20, 40)
    }
    assert all(row["low"] <= row["regret"] <= row["high"] for row in once["rows"])


def test_only_what_is_kept_is_scored(tmp_path: Path) -> None:
    random_table(tmp_path / "a.parquet")
    keep, out = tmp_path / "keep.jsonl", tmp_path / "out.json"
    words = ["--tables", str(tmp_path), "--keep", str(keep)]
    assert scoreboard.main([*words, "--engines", "random", "--seeds", "1"]) == 0
    before = keep.read_text()
    assert scoreboard.main([*words, "--engines", "random,tpe", "--kept", "--json", str(out)]) == 0
    assert keep.read_text() == before
    pooled = json.loads(out.read_text())["pooled"]
    assert {row["engine"]: row["seeds"] for row in pooled} == {"random": 1}
    assert out.with_suffix(".md").read_text().count("| random | 1 |") == 1


def test_the_published_setting_is_the_first_trial_and_is_never_stopped(tmp_path: Path) -> None:
    """Row 0 becomes the worst of the table from its first report on."""
    table = read_table(random_table(tmp_path / "a.parquet"))
    table.losses[0] = 100.0
    engine = OurEngine(table, 0, space=TableSpace.of(table, published=True))
    list(answers(engine, [10 * table.reports]))
    assert engine.rows[0] == 0
    assert engine.complete()[0] == 0
    assert list(engine.rows.values()).count(0) == 1


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_spends_no_more_than_the_budget(tmp_path: Path, name: str) -> None:
    if not python_of(name).exists():
        pytest.skip(f"{python_of(name)} is missing; benchmarks/testbeds/rivals.py makes it")
    table = read_table(random_table(tmp_path / "a.parquet"))
    table.losses[7, 4:] = NAN
    engine = RivalEngine(name, table, 0)
    try:
        (answer,) = answers(engine, [6 * table.reports])
    finally:
        engine.close()
    assert sum(engine.done.values()) == 6 * table.reports
    assert answer in set(engine.rows.values()) - {7}


def test_a_rival_without_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNE_LNL_RIVALS", str(tmp_path / "none"))
    random_table(tmp_path / "a.parquet")
    assert scoreboard.main(["--tables", str(tmp_path), "--engines", "smac"]) == 2
    assert "make it with python benchmarks/testbeds/rivals.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--engines", "hours"], "unknown engine 'hours'"),
        (["--engines", "ours+related"], "needs two tables"),
        (["--seeds", "0"], "--seeds is at least 1"),
    ],
)
def test_bad_input(tmp_path: Path, words: list[str], rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    random_table(tmp_path / "a.parquet")
    assert scoreboard.main(["--tables", str(tmp_path), *words]) == 2
    assert rule in capsys.readouterr().err


def test_what_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scoreboard.main(["--tables", str(tmp_path)]) == 2
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    assert scoreboard.main(["--tables", str(tmp_path)]) == 2
    pq.write_table(pa.table({"rate": [1.0]}), tmp_path / "a.parquet")
    assert scoreboard.main(["--tables", str(tmp_path)]) == 2
    assert "no column 'valid_loss'" in capsys.readouterr().err
