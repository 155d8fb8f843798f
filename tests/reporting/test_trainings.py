from __future__ import annotations

from pathlib import Path

from report_runs import view, write_summary
from tiny_search import EPOCHS

from tune_lnl.reporting.trainings import recorded_trainings


def test_trainings_on_the_same_data_are_found(tmp_path: Path) -> None:
    seen = view(tmp_path)
    place = tmp_path / "results" / "train"
    assert seen.best is not None
    write_summary(place / "again", {**seen.best.config, "seed": 7}, [80.0, 82.0], [61.0, 62.0])
    write_summary(place / "plain", {**seen.best.config, "method": "standard"}, [70.0], [55.0])
    write_summary(place / "other-noise", {**seen.best.config, "dataset.closed_ratio": 0.2}, [70.0], [55.0])
    write_summary(place / "longer", {**seen.best.config, "epochs": EPOCHS + 1}, [70.0], [55.0])
    write_summary(place / "other-lr", {**seen.best.config, "lr": 0.123}, [70.0], [55.0])
    (place / "torn").mkdir()
    (place / "torn" / "summary.json").write_text('{"config": ')
    found = recorded_trainings(seen)
    assert [(one.label, one.test, one.objective) for one in found] == [
        ("best config, trained again", (80.0, 82.0), (61.0, 62.0)),
        ("plain cross-entropy", (70.0,), (55.0,)),
    ]


def test_a_diverged_seed_has_no_figure(tmp_path: Path) -> None:
    seen = view(tmp_path)
    place = tmp_path / "results" / "train" / "plain"
    write_summary(place, {**seen.flat_base, "method": "standard"}, [70.0, None], [55.0, None])  # type: ignore[list-item]
    (one,) = recorded_trainings(seen)
    assert one.test == (70.0,)
