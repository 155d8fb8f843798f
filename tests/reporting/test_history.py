from __future__ import annotations

from pathlib import Path

from report_runs import Asked, view

from tune_lnl.reporting.history import best_so_far, curves_figure, history_figure, outside_note, thinned, visible_range


def test_best_so_far_counts_complete_trials_only(tmp_path: Path) -> None:
    assert best_so_far(view(tmp_path)) == [(0, 60.0), (1, 64.0)]


def test_thinning_keeps_both_ends() -> None:
    points = [(epoch, float(epoch)) for epoch in range(1001)]
    kept = thinned(points)
    assert len(kept) <= 162
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:5]) == points[:5]


def test_a_lost_trial_does_not_squeeze_the_rest(tmp_path: Path) -> None:
    seen = view(tmp_path)
    values = [60.0, 61.0, 62.0, 63.0, 64.0, 5.0]
    scale = visible_range(seen, values)
    assert scale.low > 50
    assert outside_note(scale, values) == ["1 far worse value lies outside the picture and is drawn at its edge."]
    assert outside_note(visible_range(seen, [60.0, 64.0]), [60.0, 64.0]) == []
    best_alone = visible_range(seen, [60.0, 60.1, 60.2, 60.3, 60.4, 99.0])
    assert best_alone.high > 99


def test_what_they_say(tmp_path: Path) -> None:
    seen = view(tmp_path)
    assert history_figure(seen).takeaway == (
        "5 of 6 trials have ended. Trial 1 is the best with 64.00, after 1 improvement."
    )
    assert curves_figure(seen).takeaway.startswith(
        "24 epochs were trained of the 36 that 6 full trials would take; stopping 1 early saved 8% of them. "
        "Warm-ups last"
    )


def test_states_differ_in_shape(tmp_path: Path) -> None:
    figure = history_figure(view(tmp_path))
    shapes = {key.label: key.shape for key in figure.legend}
    assert len(set(shapes.values())) == len(shapes)
    assert any("running" in label for label in shapes)


def test_nothing_to_draw(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("FAIL", epochs=0)])
    assert history_figure(seen).draw is None
    assert curves_figure(seen).draw is None
    assert curves_figure(seen).takeaway == "No trial has finished an epoch yet."
