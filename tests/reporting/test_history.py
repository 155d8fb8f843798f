from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import COMPLETE, Asked, drawn, view

from tune_lnl.reporting.curves import curves_figure
from tune_lnl.reporting.history import best_so_far, history_figure, outside_note, visible_range
from tune_lnl.reporting.verdict import validation_figure


def test_best_so_far_counts_complete_trials_only(tmp_path: Path) -> None:
    assert best_so_far(view(tmp_path)) == [(0, 60.0), (1, 64.0)]


def test_a_lost_trial_does_not_squeeze_the_rest(tmp_path: Path) -> None:
    seen = view(tmp_path)
    values = [60.0, 61.0, 62.0, 63.0, 64.0, 5.0]
    shown = visible_range(seen, values)
    assert shown == pytest.approx((60 - 0.08 * 4, 64 + 0.08 * 4))
    assert outside_note(shown, values) == [
        "1 far worse value lies outside the picture; a double click in it shows all."
    ]
    assert outside_note(visible_range(seen, [60.0, 64.0]), [60.0, 64.0]) == []
    best_alone = visible_range(seen, [60.0, 60.1, 60.2, 60.3, 60.4, 99.0])
    assert best_alone[1] > 99
    assert visible_range(seen, [])[0] < visible_range(seen, [])[1]
    assert visible_range(seen, [0.0, 0.0])[0] < 0 < visible_range(seen, [0.0, 0.0])[1]


def test_what_they_say(tmp_path: Path) -> None:
    seen = view(tmp_path)
    assert history_figure(seen).takeaway == (
        "5 of 6 trials have ended. Trial 1 is the best with 64.00, after 1 improvement."
    )
    assert curves_figure(seen).takeaway.startswith(
        "24 epochs were trained of the 36 that 6 full trials would take; stopping 1 early saved 8% of them. "
        "Warm-ups last"
    )


def test_a_single_trial_is_not_said_to_be_better_than_others(tmp_path: Path) -> None:
    seen = view(tmp_path, [COMPLETE])
    assert history_figure(seen).takeaway.endswith("Trial 0 is the best with 60.00, the only one of full length.")
    assert validation_figure(seen, []).takeaway.endswith("setting itself, and the only trial of full length.")


def test_the_history_holds_every_trial_and_the_best_so_far(tmp_path: Path) -> None:
    plot = drawn(history_figure(view(tmp_path)))
    traces = {trace.name: trace for trace in plot.data}
    assert list(traces) == [
        "best so far, of complete trials",
        "complete, with 95% interval",
        "stopped early, at its last value",
        "failed, at its last value",
        "running, at its latest value",
        "the best, trial 1",
    ]
    best = traces["best so far, of complete trials"]
    assert list(zip(best.x, best.y, strict=True)) == [(0, 60.0), (1, 64.0), (5, 64.0)]
    complete = traces["complete, with 95% interval"]
    assert (complete.x, complete.y) == ((0, 1, 4), (60.0, 64.0, 58.0))
    assert complete.error_y.array == pytest.approx([1.5 * 1.959964] * 3, rel=1e-5)
    assert (traces["the best, trial 1"].x, traces["the best, trial 1"].y) == ((1,), (64.0,))
    assert complete.text[0].startswith("trial 0, complete: 60.00 after 6 epochs<br>lr 0.01<br>")
    symbols = [trace.marker.symbol for trace in plot.data[1:]]
    assert len(set(symbols)) == len(symbols)


def test_every_state_is_in_both_legends(tmp_path: Path) -> None:
    """A trial that waits to be continued has a value as well."""
    seen = view(tmp_path)
    trials = [replace(one, row=replace(one.row, state="WAITING")) if one.number == 5 else one for one in seen.trials]
    seen = replace(seen, trials=trials)
    for figure in (history_figure(seen), curves_figure(seen)):
        names = " ".join(trace.name for trace in drawn(figure).data)
        assert all(word in names for word in ("complete", "stopped early", "failed", "waiting"))


def test_nothing_to_draw(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("FAIL", epochs=0)])
    assert history_figure(seen).plot is None
    assert curves_figure(seen).plot is None
    assert curves_figure(seen).takeaway == "No trial has finished an epoch yet."
