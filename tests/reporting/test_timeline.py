from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import COMPLETE, drawn, view

from tune_lnl.reporting.timeline import bars_of, timeline_figure, usage_of


def test_bars_stand_in_free_lanes(tmp_path: Path) -> None:
    one = view(tmp_path, [COMPLETE]).trials[0]
    times = [(0.0, 10.0), (1.0, 4.0), (4.0, 9.0), (5.0, 6.0), (10.0, 12.0)]
    trials = [
        replace(one, row=replace(one.row, number=number), began=100 + begin, ended=100 + end, trained_seconds=1.0)
        for number, (begin, end) in enumerate(times)
    ]
    bars = bars_of(trials)
    assert [(bar.lane, bar.begin, bar.end) for bar in bars] == [
        (lane, *time) for lane, time in zip([0, 1, 1, 2, 0], times, strict=True)
    ]
    usage = usage_of(bars, workers=3)
    assert usage.seconds == 12.0
    assert usage.utilisation == pytest.approx(21 / 36)
    assert usage.overhead == pytest.approx(1 - 5 / 21)


def test_continued_trials_do_not_count_as_overhead(tmp_path: Path) -> None:
    one = view(tmp_path, [COMPLETE]).trials[0]
    continued = replace(one, row=replace(one.row, attempts=2))
    assert usage_of(bars_of([continued]), 1).overhead is None
    assert usage_of(bars_of([one]), 1).overhead == pytest.approx(0.5)


def test_what_it_says(tmp_path: Path) -> None:
    figure = timeline_figure(view(tmp_path))
    assert figure.takeaway == (
        "6 trials on 2 workers in 61 s, 50% utilisation; overhead beyond training was 62% of the trials' time."
    )
    bars = {trace.name: trace for trace in drawn(figure).data}
    assert list(bars) == ["complete", "stopped early", "failed", "running"]
    assert list(zip(bars["complete"].base, bars["complete"].x, strict=True)) == [(0, 12), (12, 12), (48, 12)]
    assert (bars["running"].base, bars["running"].x) == ((60,), (1,))
    assert len({trace.marker.pattern.shape for trace in drawn(figure).data}) == 4
    assert timeline_figure(view(tmp_path, [], name="none")).takeaway == "No trial of this run has begun."
