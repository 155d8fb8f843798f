"""The course of the search: values in order of the trials, and every learning curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Cell, Figure, Link, Table
from tune_lnl.reporting.intervals import Z95
from tune_lnl.reporting.plots import (
    BEST,
    DASHES,
    colour,
    levels,
    mark,
    picture,
    plain,
    rounded,
    state_colour,
    state_name,
    uprights,
)
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.texts import setting
from tune_lnl.reporting.verdict import ahead
from tune_lnl.wording import STATES, counted

MANY = 60
"""Number of trials above which intervals and ends of warm-up are left out: they would hide the rest."""
MOST_POINTS = 160
"""Points of a drawn curve: more cannot be seen."""
FEWER_POINTS = 50
"""Where curves lie so close that none is followed by eye."""
LATER = 4
"""One in this many epochs, the first ones, is left out of the range of values where it would squeeze the rest."""
SQUEEZED = 4.0
"""Ratio of the range of all values to that of the later epochs from which they would."""
OUTLYING = 3.0
"""Values further from the middle half than this multiple of its width lie outside the picture at first."""


def history_figure(view: RunView) -> Figure:
    """Value over trial number, with the best so far."""
    seen = [trial for trial in view.trials if trial.value is not None]
    return Figure(
        key="history",
        title="Search history",
        takeaway=_history_takeaway(view),
        plot=_history(view, seen) if seen else None,
        notes=outside_note(history_range(view), [trial.value for trial in seen if trial.value is not None]),
        table=_history_table(view, seen) if seen else None,
        wide=True,
    )


def _history_table(view: RunView, seen: Sequence[Trial]) -> Table:
    better = dict(best_so_far(view))
    best = "–"
    rows = []
    for trial in seen:
        best = f"{better[trial.number]:.2f}" if trial.number in better else best
        rows.append([str(trial.number), STATES[trial.state], f"{trial.value:.2f}", best])
    return Table(["trial", "state", view.metric_label, "best so far"], rows, "Search history")


def _history_takeaway(view: RunView) -> str:
    ended = view.count("COMPLETE", "PRUNED", "FAIL")
    done = f"{ended} of {counted(view.asked, 'trial')} {'has' if ended == 1 else 'have'} ended"
    best = view.best
    if best is None:
        return f"{done}; none has run to its full length with a finite value, so there is no best one."
    if view.answer is not None and not view.answer.has_highest_objective:
        top = view.complete[0]
        highest = f"the best value in the search is {top.value:.2f}, of trial {top.number}"
        return f"{done}. Trial {best.number} is the answer, {view.answer.words}; {highest}."
    sentence = f"{done}. Trial {best.number} is the best with {best.value:.2f}"
    improvements = len(best_so_far(view)) - 1
    return sentence + (
        f", after {counted(improvements, 'improvement')}."
        if improvements
        else f": no other trial of full length was better than the first{ahead(view)}."
    )


def best_so_far(view: RunView) -> list[tuple[int, float]]:
    """(trial number, value) of every complete trial that was better than those of lower number."""
    found: list[tuple[int, float]] = []
    for trial in view.trials:
        if trial.complete and trial.value is not None and (not found or view.better(trial.value, found[-1][1])):
            found.append((trial.number, trial.value))
    return found


def _history(view: RunView, seen: Sequence[Trial]) -> go.Figure:
    few = len(seen) <= MANY
    last = max(trial.number for trial in view.trials)
    traces = []
    steps = best_so_far(view)
    if steps:
        steps = [*steps, (last, steps[-1][1])]
        traces.append(
            go.Scatter(
                x=[number for number, _ in steps],
                y=[rounded(value) for _, value in steps],
                mode="lines",
                name="best so far, of complete trials",
                line={"color": colour("best"), "width": 2, "shape": "hv"},
                hoverinfo="skip",
            )
        )
    for state in STATES:
        traces += _of_state(view, [trial for trial in seen if trial.state == state], state, few)
    traces += best_mark(view, lambda trial: trial.number)
    low_high = history_range(view)
    return picture(
        traces,
        xaxis={"title": {"text": "trial"}, "range": [-0.6, max(last, 1) + 0.6], "tickformat": "d"},
        yaxis={"title": {"text": plain(view.metric_label)}, "range": list(low_high)},
        **levels(view.levels),
    )


def _of_state(view: RunView, trials: Sequence[Trial], state: str, few: bool) -> list[Any]:
    if not trials:
        return []
    errors, name = None, state_name(state)
    if few and state == "COMPLETE" and any(trial.row.standard_error for trial in trials):
        half = [rounded(Z95 * (trial.row.standard_error or 0.0)) for trial in trials]
        errors = {"array": half, "color": colour("soft"), "thickness": 1, "width": 0}
        name += ", with 95% interval"
    return [
        go.Scatter(
            x=[trial.number for trial in trials],
            y=[rounded(trial.value) for trial in trials],
            mode="markers",
            name=name,
            marker=mark(state, 10 if few else 7),
            error_y=errors,
            text=[hover_text(trial) for trial in trials],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


def hover_text(trial: Trial, whole: bool = True) -> str:
    """Return a trial's label and, if ``whole``, its searched settings, a line each."""
    if not whole:
        return plain(trial.label())
    settings = [f"{plain(name)} {plain(setting(value))}" for name, value in trial.row.params.items()]
    return "<br>".join([plain(trial.label()), *settings])


def best_mark(view: RunView, place: Callable[[Trial], float]) -> list[Any]:
    """The star at the best trial; ``place`` gives its position on the x axis."""
    best = view.best
    if best is None or best.value is None:
        return []
    return [
        go.Scatter(
            x=[place(best)],
            y=[rounded(best.value)],
            mode="markers+text",
            name=f"the best, trial {best.number}",
            marker=BEST,
            text=[f"<b>trial {best.number}</b>"],
            textposition="top center",
            cliponaxis=False,
            customdata=[hover_text(best)],
            hovertemplate="%{customdata}<extra></extra>",
        )
    ]


def history_range(view: RunView) -> tuple[float, float]:
    """Return the values that are shown at first, with the intervals where these are drawn."""
    values = [trial.value for trial in view.trials if trial.value is not None]
    low, high = visible_range(view, values)
    if len(values) <= MANY:
        ends = [
            trial.value + side * Z95 * trial.row.standard_error
            for trial in view.complete
            for side in (-1, 1)
            if trial.value is not None and trial.row.standard_error is not None
        ]
        low, high = min([low, *ends]), max([high, *ends])
    return with_ceiling(view, low, high)


def with_ceiling(view: RunView, low: float, high: float) -> tuple[float, float]:
    """Return the range, wide enough for the score of a perfect network where that is known."""
    ceiling = None if view.bounds is None else view.bounds.ceiling
    return (low, high) if ceiling is None or ceiling <= high else (low, ceiling + 0.08 * (ceiling - low))


def visible_range(view: RunView, values: Sequence[float]) -> tuple[float, float]:
    """Return the range of values that is shown at first, with a margin; only bad ones may lie outside."""
    ordered = sorted(values)
    if not ordered:
        return 0.0, 1.0
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    room = OUTLYING * (high - low)
    if room:
        kept = [value for value in values if (value >= low - room if view.sign > 0 else value <= high + room)]
        return around(kept)
    return around(values)


def around(values: Sequence[float], margin: float = 0.08) -> tuple[float, float]:
    """Return the range of ``values`` with a margin; some range where they are all alike."""
    low, high = min(values), max(values)
    room = (high - low) * margin or max(abs(high) * margin, 1e-9)
    return low - room, high + room


def outside_note(shown: tuple[float, float], values: Sequence[float]) -> list[str]:
    """Return how many values lie outside the range shown."""
    count = sum(not shown[0] <= value <= shown[1] for value in values)
    if not count:
        return []
    lie = "values lie" if count > 1 else "value lies"
    return [f"{count} far worse {lie} outside the picture; a double click in it shows all."]


def trials_table(view: RunView, linked: bool = True) -> Table:
    """Every trial in the order of every view: complete ones best first; its number leads to its log if ``linked``."""
    names = list(view.run.space.parameters)
    rows: list[list[Cell]] = []
    for row in view.run.rows():
        log = view.run.files.log(row.number)
        number = str(row.number)
        rows.append(
            [
                Link(number, log.relative_to(view.run.files.root).as_posix()) if linked and log.is_file() else number,
                STATES[row.state] + ("" if row.taken_from is None else f" (from {row.taken_from})"),
                "–" if row.value is None else f"{row.value:.2f}",
                "–" if row.standard_error is None else f"{row.standard_error:.2f}",
                str(row.epochs),
                "–" if row.seconds is None else f"{row.seconds:.1f}",
                *(setting(row.params[name]) if name in row.params else "–" for name in names),
            ]
        )
    header = ["trial", "state", view.metric_label, "standard error", "epochs", "seconds", *names]
    return Table(header, rows, "All trials")


# ---- learning curves


def curves_figure(view: RunView) -> Figure:
    """The objective of every trial over its epochs."""
    drawn = [trial for trial in view.trials if trial.curve]
    over = f"the mean over the last {view.average_last} epochs up to it" if view.average_last > 1 else "its own value"
    notes = [
        f"The objective of an epoch is {over}: the value that the trial would have if it ended there. Epochs count "
        "from 1."
    ]
    return Figure(
        key="curves",
        title="Learning curves",
        takeaway=_curves_takeaway(view),
        plot=_curves(view, drawn) if drawn else None,
        notes=notes if drawn else [],
        table=_curves_table(view, drawn) if drawn else None,
        wide=True,
    )


def _curves_takeaway(view: RunView) -> str:
    started = [trial for trial in view.trials if trial.own and trial.row.epochs]
    if not started:
        return "No trial has finished an epoch yet."
    stopped = [trial for trial in started if trial.state == "PRUNED"]
    trained, full = view.epochs_trained, len(started) * view.epochs
    warmups = sorted({trial.warmup for trial in started if trial.warmup is not None})
    text = f"{trained} epochs were trained of the {full} that {counted(len(started), 'full trial')} would take"
    if stopped:
        saved = sum(view.epochs - trial.row.epochs for trial in stopped)
        text += f"; stopping {len(stopped)} early saved {100 * saved / full:.0f}% of them"
    if warmups and warmups[-1]:
        length = f"{warmups[0]}" if len(warmups) == 1 else f"{warmups[0]} to {warmups[-1]}"
        text += f". Warm-ups last {length} epochs"
        first = min(view.rungs, default=None)
        if first is not None and first >= warmups[-1] and stopped:
            text += ", and no trial is compared inside one"
    return text + "."


def _curves(view: RunView, drawn: Sequence[Trial]) -> go.Figure:
    many = len(drawn) > MANY
    best, start = view.best, view.start
    special = [trial for trial in (start, best) if trial is not None and trial.curve]
    traces: list[Any] = []
    for state in ("PRUNED", "FAIL", "RUNNING", "WAITING", "COMPLETE"):
        trials = [trial for trial in drawn if trial.state == state and trial not in special]
        if trials:
            traces += _lines(trials, state, many)
    traces += _ends_of_warmup([trial for trial in drawn if not many or trial in special])
    if start is not None and start in special and start is not best:
        name = f"the published setting, trial {start.number}"
        traces.append(_single(start, name, {"color": colour("start"), "width": 2.4, "dash": "dash"}))
    if best is not None and best in special:
        name = f"the best, trial {best.number}" + (" (the published setting)" if start is best else "")
        traces.append(_single(best, name, {"color": colour("best"), "width": 3}))
    last = 1 + max(epoch for trial in drawn for epoch, _ in trial.curve)
    low, high = with_ceiling(view, *_curve_range(view, drawn))
    room = 0.05 * (high - low) or max(0.05 * abs(high), 1e-9)
    rungs = [rung for rung in view.rungs if rung < last]
    return picture(
        traces,
        height=440,
        xaxis={"title": {"text": "epoch"}, "range": [1 - 0.02 * last, last * 1.02], "tickformat": "d"},
        yaxis={"title": {"text": plain(view.metric_label)}, "range": [low - room, high + room]},
        **levels(view.levels, uprights([rung + 1 for rung in rungs], "compared")),
    )


def _lines(trials: Sequence[Trial], state: str, many: bool) -> list[Any]:
    """All curves of one state as one trace, with gaps between them; their last points too where they stand for more."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        for epoch, value in thinned(trial.curve, FEWER_POINTS if many else MOST_POINTS):
            x.append(epoch + 1)
            y.append(rounded(value, 5))
            numbers.append(trial.number)
        x.append(None)
        y.append(None)
        numbers.append(None)
    traces = [
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            name=STATES[state],
            legendgroup=state,
            connectgaps=False,
            line={"color": state_colour(state), "width": 0.8 if many else 1.5, "dash": DASHES[state]},
            opacity=0.45 if many else 1,
            customdata=numbers,
            hovertemplate=f"trial %{{customdata}}, {STATES[state]}<br>epoch %{{x}}: %{{y}}<extra></extra>",
        )
    ]
    if state in ("PRUNED", "FAIL"):
        ends = [(trial, trial.curve[-1]) for trial in trials]
        traces.append(
            go.Scatter(
                x=[epoch + 1 for _, (epoch, _) in ends],
                y=[rounded(value, 5) for _, (_, value) in ends],
                mode="markers",
                name=f"where it {'was stopped' if state == 'PRUNED' else 'failed'}",
                legendgroup=state,
                marker=mark(state, 6 if many else 9),
                text=[plain(trial.label()) for trial, _ in ends],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    return traces


def _single(trial: Trial, name: str, line: dict[str, Any]) -> Any:
    points = thinned(trial.curve)
    return go.Scatter(
        x=[epoch + 1 for epoch, _ in points],
        y=[rounded(value) for _, value in points],
        mode="lines" if len(points) > 1 else "lines+markers",
        name=name,
        line=line,
        hovertemplate=f"trial {trial.number}<br>epoch %{{x}}: %{{y}}<extra></extra>",
    )


def _ends_of_warmup(trials: Sequence[Trial]) -> list[Any]:
    ends = [(trial, dict(trial.curve).get(trial.warmup - 1)) for trial in trials if trial.warmup]
    known = [(trial, value) for trial, value in ends if value is not None]
    if not known:
        return []
    return [
        go.Scatter(
            x=[trial.warmup for trial, _ in known],
            y=[rounded(value) for _, value in known],
            mode="markers",
            name="end of a warm-up",
            marker={"symbol": "circle-open", "size": 8, "color": colour("text"), "line": {"width": 1.6}},
            text=[f"trial {trial.number}: its warm-up ends after epoch {trial.warmup}" for trial, _ in known],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


def _curve_range(view: RunView, drawn: Sequence[Trial]) -> tuple[float, float]:
    """The ends of the values to show: all, or without the first epochs where these would squeeze what follows."""
    everything = [value for trial in drawn for _, value in trial.curve]
    late = [value for trial in drawn for epoch, value in trial.curve if epoch >= view.epochs // LATER]
    low, high = min(everything), max(everything)
    if not late or high - low <= SQUEEZED * (max(late) - min(late)):
        return low, high
    room = max(late) - min(late)
    return max(low, min(late) - room), min(high, max(late) + room)


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most about ``most`` of them, the first and the last among them."""
    every = -(-len(points) // most)
    kept = list(points[::every])
    return kept if kept[-1:] == list(points[-1:]) else [*kept, points[-1]]


def _curves_table(view: RunView, drawn: Sequence[Trial]) -> Table:
    last = max(epoch for trial in drawn for epoch, _ in trial.curve)
    steps = sorted({round(last * share / 8) for share in range(9)} | {rung for rung in view.rungs if rung <= last})
    rows = []
    for trial in drawn:
        known = dict(trial.curve)
        cells = [f"{known[epoch]:.2f}" if epoch in known else "–" for epoch in steps]
        warmup = "–" if trial.warmup is None else str(trial.warmup)
        rows.append([str(trial.number), STATES[trial.state], warmup, str(trial.row.epochs), *cells])
    header = ["trial", "state", "warm-up epochs", "epochs run", *(f"epoch {epoch + 1}" for epoch in steps)]
    return Table(header, rows, "Learning curves")
