from __future__ import annotations

from pathlib import Path

from report_runs import COMPLETE, MIXED, Asked, drawn, view

from tune_lnl.reporting.comparison import (
    best_figure,
    best_over_epochs,
    condition_of,
    differing_settings,
    groups_of,
    overview_table,
    spent_figure,
    warnings_of,
    winners_of,
)
from tune_lnl.reporting.figure import Link


def test_conditions_side_by_side(tmp_path: Path) -> None:
    views = [
        view(tmp_path, [COMPLETE], name=f"{name}/{condition}", condition=condition)
        for name in ("a", "b")
        for condition in ("asym40", "asym20")
    ]
    groups = {condition: [one.name for one in members] for condition, members in groups_of(views).items()}
    assert groups == {
        "digits8no, 30% of it, asymmetric 40%": ["a/asym40", "b/asym40"],
        "digits8no, 30% of it, asymmetric 20%": ["a/asym20", "b/asym20"],
    }
    assert condition_of(views[0]) == "digits8no, 30% of it, asymmetric 40%"


def test_best_so_far_over_all_epochs_spent(tmp_path: Path) -> None:
    assert best_over_epochs(view(tmp_path, MIXED)) == [(6, 60.0), (12, 64.0), (23, 64.0)]
    assert best_over_epochs(view(tmp_path, [Asked("FAIL", epochs=2)], name="failed")) == []


def test_who_is_ahead(tmp_path: Path) -> None:
    one = view(tmp_path, [Asked("COMPLETE", 60.0)], name="one")
    two = view(tmp_path, [Asked("COMPLETE", 70.0)], name="two")
    none = view(tmp_path, [Asked("FAIL", epochs=1)], name="none")
    assert [(winner.label, winner.value) for winner in winners_of([one, two, none])] == [("two", 70.0), ("one", 60.0)]
    figure = best_figure(0, "here", [one, two, none])
    assert figure.takeaway == "two is ahead of one by 10.00 (5.84 to 14.16): more than the held-out samples explain."
    assert spent_figure(0, "here", [one, none]).takeaway == "one reached 60.00 within 6 epochs."
    assert best_figure(0, "here", [none]).plot is None
    assert spent_figure(0, "here", [none]).plot is None
    assert best_figure(0, "here", [one, none]).takeaway == "Only one has a complete trial: 60.00."


def test_different_objectives_are_not_compared(tmp_path: Path) -> None:
    one = view(tmp_path, [COMPLETE], name="one")
    changes = {"objective": {"metric": "val_loss", "mode": "min", "average_last": 1}}
    two = view(tmp_path, [COMPLETE], name="two", changes=changes)
    figure = best_figure(0, "here", [one, two])
    assert figure.plot is None
    assert "different objectives" in figure.takeaway


def test_runs_of_another_length_or_objective_are_not_ranked(tmp_path: Path) -> None:
    one = view(tmp_path, [COMPLETE], name="one")
    fixed = {"epochs": 12, "batch_size": 64}
    objective = {"metric": "val_accuracy", "mode": "max", "average_last": 7}
    two = view(tmp_path, [Asked("COMPLETE", 70.0)], name="two", changes={"fixed": fixed, "objective": objective})
    assert warnings_of([one, two]) == [
        "Their trials differ in length: one 6 epochs, two 12 epochs.",
        "Their objectives differ: one val_accuracy over the last 1 epoch, two val_accuracy over the last 7 epochs.",
    ]
    assert warnings_of([one, one]) == []
    figure = best_figure(0, "here", [one, two])
    assert figure.takeaway.startswith("Best values: two 70.00, one 60.00. They may not be ranked")
    assert figure.notes[:2] == warnings_of([one, two])
    small = view(tmp_path, [COMPLETE], name="small", changes={"validation": {"fraction": 0.5}})
    (warning,) = warnings_of([one, small])
    assert warning.startswith("They train on different samples: one 21% of digits8no (labels ")


def test_best_so_far_is_compared_where_all_have_got_to(tmp_path: Path) -> None:
    one = view(tmp_path, [Asked("COMPLETE", 60.0), Asked("COMPLETE", 80.0)], name="one")
    two = view(tmp_path, [Asked("COMPLETE", 70.0)], name="two")
    figure = spent_figure(0, "here", [one, two])
    assert figure.takeaway == "After 6 epochs, which every run here has spent, two had 70.00, one had 60.00."
    assert [(trace.name, trace.x, trace.y) for trace in drawn(figure).data] == [
        ("one", (6, 12), (60.0, 80.0)),
        ("two", (6,), (70.0,)),
    ]


def test_settings_that_differ(tmp_path: Path) -> None:
    one = view(tmp_path, [COMPLETE], name="one")
    two = view(tmp_path, [COMPLETE], name="two", changes={"fixed": {"epochs": 6, "batch_size": 32}})
    found = differing_settings([one, two])
    assert found is not None
    assert found.header == ["setting", "one", "two"]
    assert found.rows == [["space.fixed.batch_size", "64", "32"]]
    assert differing_settings([one, one]) is None


def test_the_overview(tmp_path: Path) -> None:
    one = view(tmp_path, MIXED)
    (row,) = overview_table([one], ["tiny/report.html"]).rows
    assert row[0] == Link("tiny", "tiny/report.html")
    assert row[3:9] == ["64.00 (61.06 to 66.94)", "84.00 ± 0.00", "–", "5 of 6", "3 / 1 / 1", "24"]
