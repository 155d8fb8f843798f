"""The effect of the searched settings: slices, the map of both learning rates, parallel coordinates, importances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_lnl.reporting.drawing import (
    CHARACTER,
    FONT,
    Axis,
    Chart,
    Drawing,
    Figure,
    Key,
    Size,
    line,
    marker,
    text,
)
from tune_lnl.reporting.history import MANY, outside_note, visible_range
from tune_lnl.reporting.importances import ENOUGH, FEWEST, Importance, importances
from tune_lnl.reporting.markup import Html, Table, folded
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.scales import Blank, Categories, Linear, Log, Scale, Whole, scale_of, setting, shortened
from tune_lnl.wording import STATES

SHADES = 6
"""Steps from the worst to the best trials."""
DERIVED = ("lr1", "self_epochs", "refine_epochs")
"""Settings that are not searched themselves, but follow from what is and are worth a look."""

Getter = Callable[[Trial], Any]


def shades(view: RunView) -> dict[int, int]:
    """Trial number -> 0 (worst) to 5 (best), by rank among the complete trials."""
    steps = max(1, len(view.complete) - 1)
    return {trial.number: round((SHADES - 1) * (1 - rank / steps)) for rank, trial in enumerate(view.complete)}


def valued(view: RunView) -> list[Trial]:
    """Trials that have settings and a value, the worst first: the best are drawn on top."""
    trials = [t for t in view.trials if t.value is not None and t.config and t.state in ("COMPLETE", "PRUNED")]
    return sorted(trials, key=lambda trial: (trial.complete, view.sign * (trial.value or 0.0)))


SHADE_KEYS = (
    Key("the worst complete trials", "mark shade0", "circle"),
    Key("the best", f"mark shade{SHADES - 1}", "circle"),
    Key(STATES["PRUNED"], "mark pruned", "triangle"),
    Key("the best trial", "mark best", "star"),
    Key("the published start point", "mark start", "square"),
)


# ---- a slice per setting


def slice_figures(view: RunView) -> list[Figure]:
    """Value over each searched setting, and over those that follow from them."""
    if not valued(view):
        return [
            Figure(
                "slices", "Slices", "No trial is complete or was stopped early yet: there is nothing to slice.", None
            )
        ]
    figures = [
        _slice(view, name, scale_of(parameter), lambda trial, name=name: trial.row.params[name])  # type: ignore[misc]
        for name, parameter in view.run.space.parameters.items()
    ]
    for name in DERIVED:
        values = [trial.config.get(name) for trial in valued(view)]
        if name in view.run.space.parameters or len(set(values)) < 2 or not all(_is_number(value) for value in values):
            continue
        known = [float(value) for value in values if value is not None]
        scale: Scale = Log.around(known) if "lr" in name else Whole.around(known)
        figures.append(_slice(view, name, scale, lambda trial, name=name: trial.config[name]))  # type: ignore[misc]
    return figures


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _slice(view: RunView, name: str, scale: Scale, get: Getter) -> Figure:
    trials = valued(view)
    values = [trial.value for trial in trials if trial.value is not None]
    rows = [
        [setting(get(trial)), f"{trial.value:.2f}", str(trial.number), STATES[trial.state]]
        for trial in reversed(trials)
    ]
    table = Table([name, view.metric_label, "trial", "state"], rows)
    return Figure(
        key=f"slice-{_identifier(name)}",
        title=f"Slice: {name}",
        takeaway=_slice_takeaway(view, name, scale, get),
        draw=lambda size: _draw_slice(view, trials, name, scale, get, size),
        notes=outside_note(visible_range(view, values), values),
        details=[folded("As a table", table.html(f"Value by {name}"))],
    )


def _identifier(name: str) -> str:
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name)


def _slice_takeaway(view: RunView, name: str, scale: Scale, get: Getter) -> str:
    quarter = view.best_quarter()
    if not quarter:
        return f"Fewer than four trials are complete: too few to say where {name} is good."
    values = [get(trial) for trial in quarter]
    if isinstance(scale, Categories):
        counts = {setting(choice): sum(setting(v) == setting(choice) for v in values) for choice in scale.values}
        sentence = ", ".join(f"{choice} in {count}" for choice, count in counts.items() if count)
        return f"Of the best {len(quarter)} complete trials, {name} is {sentence}."
    parameter = view.run.space.parameters.get(name)
    searched = ""
    if parameter is not None:
        low, high = parameter.extremes()[0], parameter.extremes()[-1]
        searched = f", of {setting(low)} to {setting(high)} searched"
    span = setting(min(values)) if min(values) == max(values) else f"{setting(min(values))} to {setting(max(values))}"
    return f"The best {len(quarter)} complete trials have {name} {span}{searched}."


def _draw_slice(view: RunView, trials: Sequence[Trial], name: str, scale: Scale, get: Getter, size: Size) -> Drawing:
    values = [trial.value for trial in trials if trial.value is not None]
    y = visible_range(view, values)
    chart = Chart(size, Axis(scale, name), Axis(y, view.metric_label))
    colour = shades(view)
    for trial in trials:
        assert trial.value is not None
        _mark(chart, trial, get(trial), y.held(trial.value), colour)
    start, best = view.start, view.best
    if start is not None and start in trials:
        chart.mark(
            get(start),
            y.held(start.value or 0.0),
            "square",
            "mark start",
            f"published start point: {start.label()}",
            6,
        )
    if best is not None:
        chart.mark(get(best), best.value, "star", "mark best", best.label(), 6)
    return Drawing.of(chart)


def _mark(chart: Chart, trial: Trial, x: Any, y: Any, colour: Mapping[int, int]) -> None:
    size = 4.0 if len(colour) <= MANY else 2.8
    if trial.complete:
        shade = colour[trial.number]
        # Larger as well as darker: the order is seen without the colour.
        chart.mark(x, y, "circle", f"mark shade{shade}", trial.label(), size + 0.12 * size * shade)
    else:
        chart.mark(x, y, "triangle", "mark pruned", trial.label(), size)


# ---- both learning rates


def lr_map(view: RunView) -> Figure | None:
    """lr against lr1, where the method has both and they vary."""
    trials = [trial for trial in valued(view) if _is_number(trial.config.get("lr1")) and trial.config.get("lr")]
    pairs = {(trial.config["lr"], trial.config["lr1"]) for trial in trials}
    if len(pairs) < 2:
        return None
    rows = [
        [
            *(setting(value) for value in (t.config["lr"], t.config["lr1"], t.config["lr1"] / t.config["lr"])),
            f"{t.value:.2f}",
            str(t.number),
            STATES[t.state],
        ]
        for t in reversed(trials)
    ]
    table = Table(["lr", "lr1", "lr1 / lr", view.metric_label, "trial", "state"], rows)
    return Figure(
        key="lr-map",
        title="Map of the two learning rates",
        takeaway=_lr_takeaway(view),
        draw=lambda size: _draw_lr_map(view, trials, Size(size.width, size.width * 0.85)),
        legend=[*SHADE_KEYS, Key("lr1 = lr: both learn at the same rate", "diagonal")],
        details=[folded("As a table", table.html("Value by lr and lr1"))],
        notes=["lr drives the reported network, lr1 its companion."],
    )


def _lr_takeaway(view: RunView) -> str:
    best = view.best
    if best is None:
        return "No trial is complete yet, so neither side of the diagonal can be called better."
    ratio = best.config["lr1"] / best.config["lr"]
    sentence = (
        f"The best trial has lr1 / lr = {setting(float(ratio))} "
        f"(lr {setting(best.config['lr'])}, lr1 {setting(best.config['lr1'])})"
    )
    quarter = view.best_quarter()
    if not quarter:
        return sentence + "."
    above = sum(trial.config["lr1"] > trial.config["lr"] for trial in quarter)
    return (
        f"{sentence}; of the best {len(quarter)} complete trials, {above} "
        f"{'lies' if above == 1 else 'lie'} above the diagonal, where the companion learns faster."
    )


def _draw_lr_map(view: RunView, trials: Sequence[Trial], size: Size) -> Drawing:
    x = Log.around([trial.config["lr"] for trial in trials])
    y = Log.around([trial.config["lr1"] for trial in trials])
    chart = Chart(size, Axis(x, "lr (reported network)"), Axis(y, "lr1 (companion)"))
    low, high = max(x.low, y.low), min(x.high, y.high)
    if low < high:
        chart.line([(low, low), (high, high)], "diagonal")
    colour = shades(view)
    for trial in trials:
        _mark(chart, trial, trial.config["lr"], trial.config["lr1"], colour)
    start, best = view.start, view.best
    if start is not None and start in trials:
        sentence = f"published start point: {start.label()}"
        chart.mark(start.config["lr"], start.config["lr1"], "square", "mark start", sentence, 6)
    if best is not None:
        chart.mark(best.config["lr"], best.config["lr1"], "star", "mark best", best.label(), 6)
        chart.name(best.config["lr"], best.config["lr1"], f"trial {best.number}")
    return Drawing.of(chart)


# ---- all settings at once

ROW = 72.0


def parallel_figure(view: RunView) -> Figure:
    """A line per trial through all its settings; axes lie flat, so that their names can be read on a phone."""
    trials = valued(view)
    return Figure(
        key="parallel",
        title="Parallel coordinates",
        takeaway=_parallel_takeaway(view),
        draw=(lambda size: _parallel(view, trials, size)) if trials else None,
        legend=[
            Key("the worst complete trials", "series shade0"),
            Key("the best", f"series shade{SHADES - 1}"),
            *([Key(STATES["PRUNED"], "series pruned")] if not all(t.complete for t in few(view, trials)) else []),
            Key("the best trial", "series best"),
        ],
        notes=_parallel_notes(view, trials),
        details=[folded("As a table", _parallel_table(view, trials).html("Settings and values"))] if trials else [],
        wide=True,
    )


def few(view: RunView, trials: Sequence[Trial]) -> list[Trial]:
    """The trials whose lines are drawn: all, or where that would be a tangle, complete ones from best to worst."""
    if len(trials) <= MANY:
        return list(trials)
    best_first = view.complete[: MANY // 3]
    others = view.complete[MANY // 3 :]
    kept = [*best_first, *others[:: max(1, -(-len(others) // (MANY - len(best_first))))]]
    numbers = {trial.number for trial in kept}
    return [trial for trial in trials if trial.number in numbers]


def _parallel_notes(view: RunView, trials: Sequence[Trial]) -> list[str]:
    if not trials:
        return []
    notes = ["Each line is a trial, from its settings at the top to its value at the bottom; the darker, the better."]
    drawn = len(few(view, trials))
    if drawn < len(trials):
        notes.append(
            f"Drawn are the best {min(MANY // 3, len(view.complete))} complete trials and some of the others, {drawn} "
            "in all; the table holds every one."
        )
    return notes


def _parallel_takeaway(view: RunView) -> str:
    best = view.best
    if best is None:
        return "No trial is complete yet."
    sentence = ", ".join(f"{name} {setting(value)}" for name, value in best.row.params.items())
    return f"The best trial has {sentence}."


def _parallel_table(view: RunView, trials: Sequence[Trial]) -> Table:
    names = list(view.run.space.parameters)
    rows = [
        [str(t.number), STATES[t.state], *(setting(t.row.params[name]) for name in names), f"{t.value:.2f}"]
        for t in reversed(trials)
    ]
    return Table(["trial", "state", *names, view.metric_label], rows)


def _parallel(view: RunView, trials: Sequence[Trial], size: Size) -> Drawing:
    axes: list[tuple[str, Scale, Getter]] = [
        (name, scale_of(parameter), lambda trial, name=name: trial.row.params[name])  # type: ignore[misc]
        for name, parameter in view.run.space.parameters.items()
    ]
    values = [trial.value for trial in trials if trial.value is not None]
    axes.append((view.metric_label, Linear.around(values, 0.02), lambda trial: trial.value))
    left, right = 10.0, size.width - 10.0
    heights = [34.0 + ROW * index for index in range(len(axes))]
    parts: list[Html] = []
    colour = shades(view)
    best = view.best
    for trial in few(view, trials):
        places = [
            (left + (right - left) * scale.place(get(trial)), height)
            for (_, scale, get), height in zip(axes, heights, strict=True)
        ]
        shade = f"shade{colour[trial.number]}" if trial.complete else "pruned"
        parts.append(line(places, "series best" if trial is best else f"series {shade}", trial.label()))
        if trial is best:
            parts += [marker(x, y, "star", "mark best", size=5) for x, y in places]
    for (name, scale, _), height in zip(axes, heights, strict=True):
        parts += _flat_axis(name, scale, height, left, right)
    return Drawing(Size(size.width, heights[-1] + 30), Html("".join(parts)))


def _flat_axis(name: str, scale: Scale, height: float, left: float, right: float) -> list[Html]:
    parts = [line([(left, height), (right, height)], "axis")]
    parts.append(text(left, height - 10, name, class_="label halo"))
    taken = -1e9
    for value, label in scale.ticks(max(2, int((right - left) / 76))):
        x = left + (right - left) * scale.place(value)
        half = CHARACTER * len(label) / 2
        middle = min(max(x, left + half), right - half)
        if middle - half > taken:
            parts.append(line([(x, height), (x, height + 5)], "axis"))
            parts.append(text(middle, height + FONT + 5, label, anchor="middle", class_="halo"))
            taken = middle + half + CHARACTER
    return parts


# ---- which setting matters


def importance_figure(view: RunView) -> Figure:
    """Importances with their spread, on the values most trials have in common."""
    epoch, trials = _comparable(view)
    values = [dict(trial.curve)[epoch] for trial in trials] if epoch is not None else []
    found = importances([trial.row.params for trial in trials], values, view.run.space.parameters)
    rows = [[one.name, f"{one.median:.2f}", f"{one.low:.2f} to {one.high:.2f}"] for one in found]
    table = Table(["setting", "importance (median)", "10% to 90% of re-draws"], rows)
    return Figure(
        key="importances",
        title="Importances",
        takeaway=_importance_takeaway(found, len(trials)),
        draw=(lambda size: _draw_importances(found, size)) if found else None,
        notes=_importance_notes(view, epoch, len(trials)) if found else [],
        details=[folded("As a table", table.html("Importances"))] if found else [],
    )


def _comparable(view: RunView) -> tuple[int | None, list[Trial]]:
    """An epoch, and the trials that have a value there: the full length, or the first comparison where far more
    trials got to; survivors of the stopping rule alone look alike."""
    candidates = [view.epochs - 1, *view.rungs[:1]]
    whole = [trial for trial in view.trials if trial.config]
    reached = {epoch: [trial for trial in whole if epoch in dict(trial.curve)] for epoch in candidates}
    full = reached[candidates[0]]
    if len(full) >= ENOUGH or len(candidates) == 1 or len(reached[candidates[1]]) <= len(full):
        return (candidates[0] if full else None), full
    return candidates[1], reached[candidates[1]]


def _importance_takeaway(found: Sequence[Importance], count: int) -> str:
    if not found:
        return f"Importances need at least {FEWEST} trials with different values; there are {count} trials to compare."
    warning = (
        f"Warning: {count} trials are few (under {ENOUGH}); these importances are little more than noise. "
        if count < ENOUGH
        else ""
    )
    clear = [one for one in found if one.low > 0]
    if not clear:
        return warning + "No setting stands out: the spread of each reaches zero."
    first = clear[0]
    overlapping = [one.name for one in found if one is not first and one.high > first.low]
    sentence = f"{first.name} matters most ({first.median:.2f} of the variance)"
    if overlapping:
        sentence += f", though its spread overlaps with that of {', '.join(overlapping)}"
    return warning + sentence + "."


def _importance_notes(view: RunView, epoch: int | None, count: int) -> list[str]:
    at = "at full length" if epoch == view.epochs - 1 else f"after epoch {epoch}, the first comparison"
    return [
        f"From the objective {at} of {count} trials. Importance: rise of the squared error of a random forest on "
        "trials it has not seen when this setting is shuffled, as a share of the variance. The dot is the median over "
        "40 re-drawn sets of trials, the line holds 80% of them. About 0: knowing the setting does not help."
    ]


def _draw_importances(found: Sequence[Importance], size: Size) -> Drawing:
    low = min(0.0, *(one.low for one in found))
    high = max(0.1, *(one.high for one in found))
    height = 60.0 + 52.0 * len(found)
    across = Axis(Linear.around([low, high], 0.04), "share of the variance")
    chart = Chart(Size(size.width, height), across, Axis(Blank(-0.5, len(found) - 0.2), ""))
    chart.upright(0.0, "axis")
    for index, one in enumerate(reversed(found)):
        sentence = f"{one.name}: {one.median:.2f}, {one.low:.2f} to {one.high:.2f}"
        chart.across(index, one.low, one.high, "interval strong")
        chart.mark(one.median, index, "circle", "mark shade5", sentence, 6)
        chart.add(text(chart.left + 12, chart.at_y(index) - 12, shortened(one.name, 40), class_="halo"))
    return Drawing.of(chart)
