"""The course of the search: values in order of the trials, and every learning curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tune_lnl.reporting.drawing import SMALL, Axis, Chart, Drawing, Figure, Key, Size
from tune_lnl.reporting.intervals import Z95
from tune_lnl.reporting.markup import Html, Table, folded
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.scales import Linear, Whole, setting
from tune_lnl.wording import STATES, counted

MANY = 60
"""Number of trials above which intervals and ends of warm-up are left out: they would hide the rest."""
MOST_POINTS = 160
"""Points of a drawn curve: more cannot be seen."""
FEWER_POINTS = 60
"""On a small picture, and where curves lie so close that none is followed by eye."""
LATER = 4
"""One in this many epochs, the first ones, is left out of the range of values where it would squeeze the rest."""
SQUEEZED = 4.0
"""Ratio of the range of all values to that of the later epochs from which they would."""

SHAPES: Mapping[str, str] = {"COMPLETE": "circle", "PRUNED": "triangle", "FAIL": "cross", "RUNNING": "diamond"}
STATE_KEYS = (
    Key("complete", "mark complete", "circle"),
    Key("stopped early, at its last value", "mark pruned", "triangle"),
    Key("failed, at its last value", "mark fail", "cross"),
    Key("running, at its latest value", "mark running", "diamond"),
)
BEST_KEYS = (
    Key("best so far, of complete trials", "series best-so-far"),
    Key("the best trial", "mark best", "star"),
)


def history_figure(view: RunView) -> Figure:
    """Value over trial number, with the best so far."""
    return Figure(
        key="history",
        title="Search history",
        takeaway=_history_takeaway(view),
        draw=(lambda size: _history(view, size)) if any(trial.value is not None for trial in view.trials) else None,
        legend=[
            *_state_keys(view),
            *(BEST_KEYS if view.best is not None else ()),
        ],
        details=[folded("All trials as a table", trials_table(view).html("All trials"))],
        notes=outside_note(_history_scale(view), _values(view.trials)) if _values(view.trials) else [],
        wide=True,
    )


def _values(trials: Sequence[Trial]) -> list[float]:
    return [trial.value for trial in trials if trial.value is not None]


def _history_scale(view: RunView) -> Linear:
    values = _values(view.trials)
    y = visible_range(view, values)
    if len(values) > MANY:
        return y
    return Linear(min([y.low, *_ends(view, -1)]), max([y.high, *_ends(view, 1)]))


def _state_keys(view: RunView) -> list[Key]:
    there = {trial.state for trial in view.trials}
    return [key for key, state in zip(STATE_KEYS, SHAPES, strict=True) if state in there]


def _history_takeaway(view: RunView) -> str:
    ended = view.count("COMPLETE", "PRUNED", "FAIL")
    done = f"{ended} of {counted(view.asked, 'trial')} {'has' if ended == 1 else 'have'} ended"
    best = view.best
    if best is None:
        return f"{done}; none has run to its full length with a finite value, so there is no best one."
    sentence = f"{done}. Trial {best.number} is the best with {best.value:.2f}"
    improvements = len(best_so_far(view)) - 1
    return sentence + (
        f", after {counted(improvements, 'improvement')}." if improvements else ": none was better than the first."
    )


def best_so_far(view: RunView) -> list[tuple[int, float]]:
    """(trial number, value) of every complete trial that was better than those of lower number."""
    found: list[tuple[int, float]] = []
    for trial in view.trials:
        if trial.complete and trial.value is not None and (not found or view.better(trial.value, found[-1][1])):
            found.append((trial.number, trial.value))
    return found


def _history(view: RunView, size: Size) -> Drawing:
    seen = [(trial, trial.value) for trial in view.trials if trial.value is not None]
    with_intervals = len(seen) <= MANY
    y = _history_scale(view)
    last = max(trial.number for trial in view.trials)
    x = Axis(Whole(-0.5, max(last, 1) + 0.5), "trial")
    chart = Chart(size, x, Axis(y, view.metric_label))
    steps = best_so_far(view)
    if steps:
        chart.steps([*steps, (last, steps[-1][1])], "series best-so-far")
    for trial, value in seen:
        if with_intervals and trial.complete and trial.row.standard_error is not None:
            half = Z95 * trial.row.standard_error
            chart.interval(trial.number, value - half, value + half, "interval")
        shape = SHAPES.get(trial.state, "diamond")
        chart.mark(
            trial.number,
            y.held(value),
            shape,
            f"mark {trial.state.lower()}",
            trial.label(),
            5 if with_intervals else 3.5,
        )
    mark_best(chart, view, lambda trial: trial.number)
    return Drawing.of(chart)


def _ends(view: RunView, side: int) -> list[float]:
    """The low (-1) or high (1) ends of the complete trials' intervals."""
    return [
        trial.value + side * Z95 * trial.row.standard_error
        for trial in view.complete
        if trial.value is not None and trial.row.standard_error is not None
    ]


def mark_best(chart: Chart, view: RunView, place: Callable[[Trial], float]) -> None:
    """The star at the best trial, with its number; ``place`` gives its position on the x axis."""
    best = view.best
    if best is None or best.value is None:
        return
    x = place(best)
    chart.mark(x, best.value, "star", "mark best", best.label(), 6)
    chart.name(x, best.value, f"trial {best.number}")


OUTLYING = 3.0
"""Values further from the middle half than this multiple of its width are drawn at the edge."""


def visible_range(view: RunView, values: Sequence[float]) -> Linear:
    """The range of values that is drawn; only bad ones may lie outside."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    room = OUTLYING * (high - low)
    if room == 0.0:
        return Linear.around(values)
    return Linear.around(
        [value for value in values if (value >= low - room if view.sign > 0 else value <= high + room)]
    )


def outside_note(scale: Linear, values: Sequence[float]) -> list[str]:
    """Return the number of values that are drawn at the edge."""
    count = sum(scale.held(value) != value for value in values)
    if not count:
        return []
    lie = "values lie" if count > 1 else "value lies"
    return [f"{count} far worse {lie} outside the picture and {'are' if count > 1 else 'is'} drawn at its edge."]


def trials_table(view: RunView) -> Table:
    """Every trial in the order of every view: complete ones best first."""
    names = list(view.run.space.parameters)
    rows = []
    for row in view.run.rows():
        rows.append(
            [
                str(row.number),
                STATES[row.state] + ("" if row.taken_from is None else f" (from {row.taken_from})"),
                "–" if row.value is None else f"{row.value:.2f}",
                "–" if row.standard_error is None else f"{row.standard_error:.2f}",
                str(row.epochs),
                "–" if row.seconds is None else f"{row.seconds:.1f}",
                *(setting(row.params[name]) if name in row.params else "–" for name in names),
            ]
        )
    return Table(["trial", "state", view.metric_label, "standard error", "epochs", "seconds", *names], rows)


# ---- learning curves

CURVE_KEYS: Mapping[str, Key] = {
    "COMPLETE": Key("complete", "series complete"),
    "PRUNED": Key("stopped early; a triangle where", "series pruned"),
    "FAIL": Key("failed; a cross where", "series fail"),
    "RUNNING": Key("running", "series running"),
}


def curves_figure(view: RunView) -> Figure:
    """The objective of every trial over its epochs."""
    drawn = [trial for trial in view.trials if trial.curve]
    return Figure(
        key="curves",
        title="Learning curves",
        takeaway=_curves_takeaway(view),
        draw=(lambda size: _curves(view, drawn, size)) if drawn else None,
        legend=[
            *(key for state, key in CURVE_KEYS.items() if any(trial.state == state for trial in drawn)),
            *([Key(f"the best, trial {view.best.number}", "series best")] if view.best is not None else []),
            *([Key("the published start point", "series start")] if view.start in drawn else []),
            *([Key("end of a warm-up", "mark warmup", "circle")] if any(trial.warmup for trial in drawn) else []),
        ],
        notes=[
            f"The objective of an epoch is the mean over the last {view.average_last} epochs up to it: the value the "
            "trial would have if it ended there. Epochs count from 0."
        ],
        details=[folded("Curves as a table", _curves_table(view, drawn).html("Learning curves"))] if drawn else [],
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


def _curves(view: RunView, drawn: Sequence[Trial], size: Size) -> Drawing:
    last = max(max(epoch for epoch, _ in trial.curve) for trial in drawn)
    values = _curve_range(view, drawn)
    y = Linear.around(values, 0.05)
    chart = Chart(size, Axis(Whole(0, max(last, 1)), "epoch"), Axis(y, f"{view.metric_label}, objective so far"))
    for index, rung in enumerate(view.rungs):
        if rung <= last:
            chart.upright(rung, "rung", "compared" if index == 0 else None)
    best, start = view.best, view.start
    special = [trial for trial in (start, best) if trial is not None and trial.curve]
    numbers = {trial.number for trial in special}
    many = len(drawn) > MANY
    order = {"PRUNED": 0, "FAIL": 1, "COMPLETE": 3}
    for trial in sorted(drawn, key=lambda trial: order.get(trial.state, 2)):
        if trial.number not in numbers:
            _curve(chart, trial, f"series {trial.state.lower()}" + (" thin" if many else ""), y, not many)
    for trial in special:
        _curve(chart, trial, "series best" if trial is best else "series start", y, True)
    return Drawing.of(chart)


def _curve_range(view: RunView, drawn: Sequence[Trial]) -> list[float]:
    """The ends of the values to show: all, or without the first epochs where these would squeeze what follows."""
    everything = [value for trial in drawn for _, value in trial.curve]
    late = [value for trial in drawn for epoch, value in trial.curve if epoch >= view.epochs // LATER]
    low, high = min(everything), max(everything)
    if not late or high - low <= SQUEEZED * (max(late) - min(late)):
        return [low, high]
    room = max(late) - min(late)
    return [max(low, min(late) - room), min(high, max(late) + room)]


def _curve(chart: Chart, trial: Trial, class_: str, y: Linear, marked: bool) -> None:
    most = MOST_POINTS if marked and chart.size.width > SMALL.width else FEWER_POINTS
    points = [(epoch, y.held(value)) for epoch, value in trial.curve]
    chart.line(thinned(points, most), class_, trial.label())
    if trial.warmup and marked:
        at_end = dict(points).get(trial.warmup - 1)
        if at_end is not None:
            chart.mark(trial.warmup - 1, at_end, "circle", "mark warmup", f"trial {trial.number}: warm-up ends", 3.5)
    if trial.state in ("PRUNED", "FAIL"):
        chart.mark(*points[-1], SHAPES[trial.state], f"mark {trial.state.lower()}", trial.label(), 4.5 if marked else 3)


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most about ``most`` of them, the first and the last among them."""
    every = -(-len(points) // most)
    kept = list(points[::every])
    return kept if kept[-1:] == list(points[-1:]) else [*kept, points[-1]]


def _curves_table(view: RunView, drawn: Sequence[Trial]) -> Table:
    last = max(epoch for trial in drawn for epoch, _ in trial.curve)
    steps = sorted({round(last * share / 8) for share in range(9)} | {rung for rung in view.rungs if rung <= last})
    rows: list[list[str | Html]] = []
    for trial in drawn:
        known = dict(trial.curve)
        cells = [f"{known[epoch]:.2f}" if epoch in known else "–" for epoch in steps]
        warmup = "–" if trial.warmup is None else str(trial.warmup)
        rows.append([str(trial.number), STATES[trial.state], warmup, str(trial.row.epochs), *cells])
    return Table(["trial", "state", "warm-up epochs", "epochs run", *(f"epoch {epoch}" for epoch in steps)], rows)
