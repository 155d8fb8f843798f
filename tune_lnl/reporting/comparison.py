"""Several runs on one page: best values with intervals, best so far over epochs spent, settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_lnl.reporting.drawing import Axis, Chart, Drawing, Figure, Key, Size
from tune_lnl.reporting.intervals import Estimate, difference
from tune_lnl.reporting.markup import Html, Table, el, folded
from tune_lnl.reporting.run_data import RunView
from tune_lnl.reporting.scales import Linear, Whole, setting
from tune_lnl.reporting.timeline import bars_of, usage_of
from tune_lnl.reporting.verdict import RowValue, last_epochs_test, rows_drawing
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.wording import duration

SERIES = 6
"""Distinguishable kinds of line."""
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")


def condition_of(view: RunView) -> str:
    """Return the dataset and noise that the runs of one group share, in words."""
    dataset = view.dataset
    noise = dataset.get("noise")
    sentence = noise if isinstance(noise, str) else "labels from a file"
    ratio = dataset.get("closed_ratio", dataset.get("noise_ratio"))
    if isinstance(noise, str) and noise != "none" and ratio is not None:
        sentence = f"{noise} {100 * float(ratio):.0f}%"
    size = "" if dataset.get("subset", 1.0) == 1.0 else f", {100 * float(dataset['subset']):g}% of it"
    return f"{dataset['name']}{size}, {sentence}" if noise is not None else f"{dataset['name']}{size}"


def groups_of(views: Sequence[RunView]) -> dict[str, list[RunView]]:
    """The runs by condition, in the order given."""
    groups: dict[str, list[RunView]] = {}
    for view in views:
        groups.setdefault(condition_of(view), []).append(view)
    return groups


def labels_of(views: Sequence[RunView]) -> list[str]:
    """A name for each that no other has."""
    names = [view.name for view in views]
    return [
        name if names.count(name) == 1 else view.run.files.root.as_posix()
        for name, view in zip(names, views, strict=True)
    ]


# ---- tables


def overview_table(views: Sequence[RunView], links: Sequence[str | None]) -> Table:
    """A row per run; ``links`` lead to its own page, where there is one."""
    rows: list[list[str | Html]] = []
    for view, label, link in zip(views, labels_of(views), links, strict=True):
        best = view.best
        test = None if best is None else last_epochs_test(view, best)
        ended = view.count("COMPLETE", "PRUNED", "FAIL")
        confirmed = view.run.confirmation
        rows.append(
            [
                label if link is None else el("a", label, href=link),
                view.method,
                condition_of(view),
                "–"
                if best is None or best.value is None
                else f"{Estimate.measured(best.value, best.row.standard_error)}",
                "–" if test is None else f"{test[0]:.2f} ± {test[1]:.2f}",
                "–" if confirmed is None else _confirmed(confirmed),
                f"{ended} of {view.asked}",
                f"{view.count('COMPLETE')} / {view.count('PRUNED')} / {view.count('FAIL')}",
                str(view.epochs_trained),
                duration(usage_of(bars_of(view.trials), 1).seconds),
            ]
        )
    header = ["run", "method", "condition", "best value (95%)", "its test (%)", "confirmed", "trials ended"]
    return Table([*header, "complete / stopped / failed", "epochs trained", "time"], rows)


def _confirmed(found: Confirmation) -> str:
    if found.winner is None:
        return "none"
    values = [value for value in found.candidates[0].values if value is not None]
    return f"trial {found.winner}: {Estimate.mean_of(values)}"


def differing_settings(views: Sequence[RunView]) -> Table | None:
    """Everything in run.yaml that is not the same in all; ``None`` where nothing differs."""
    flats = [_flat({key: view.run.settings.get(key) for key in COMPARED}) for view in views]
    names = list(dict.fromkeys(name for flat in flats for name in flat))
    rows = [
        [name, *(setting(flat[name]) if name in flat else "–" for flat in flats)]
        for name in names
        if len({repr(flat.get(name, "–")) for flat in flats}) > 1
    ]
    return Table(["setting", *labels_of(views)], rows) if rows else None


COMPARED = ("condition", "seed", "space", "resources", "fingerprints", "versions", "git_commit")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        prefix = f"{name}." if name else ""
        return {key: v for part, inner in value.items() for key, v in _flat(inner, f"{prefix}{part}").items()}
    if isinstance(value, list):
        return {name: ", ".join(setting(item) if not isinstance(item, Mapping) else repr(item) for item in value)}
    return {name: value}


def best_settings_table(views: Sequence[RunView]) -> Table | None:
    """The best config of each, where any two of them search the same setting."""
    names = list(dict.fromkeys(name for view in views for name in view.run.space.parameters))
    if not any(view.best for view in views):
        return None
    rows = []
    for name in [*names, *(["lr1"] if "lr1" not in names else [])]:
        values = [
            setting(view.best.config[name])
            if view.best and name in view.best.config
            else setting(view.best.row.params[name])
            if view.best and name in view.best.row.params
            else "–"
            for view in views
        ]
        if any(value != "–" for value in values):
            rows.append([name, *values])
    return Table(["setting", *labels_of(views)], rows)


# ---- figures, one of each per condition


@dataclass(frozen=True)
class Winner:
    """The best trial of a run."""

    label: str
    """The run's."""
    number: int
    value: float
    score: float
    """The larger, the better."""
    standard_error: float | None


def winners_of(views: Sequence[RunView]) -> list[Winner]:
    """Of the runs that have a complete trial, the best first."""
    found = [
        Winner(label, view.best.number, view.best.value, view.sign * view.best.value, view.best.row.standard_error)
        for view, label in zip(views, labels_of(views), strict=True)
        if view.best is not None and view.best.value is not None
    ]
    return sorted(found, key=lambda winner: -winner.score)


def best_figure(number: int, condition: str, views: Sequence[RunView]) -> Figure:
    """Best values with intervals."""
    winners = winners_of(views)
    rows = [
        RowValue(
            f"{one.label}: trial {one.number}",
            Estimate.measured(one.value, one.standard_error),
            one.label,
            ours=one is winners[0],
        )
        for one in winners
    ]
    table = Table(["run and trial", f"{views[0].metric_label}, 95%"], [[row.label, str(row.estimate)] for row in rows])
    return Figure(
        key=f"best-{number}",
        title=f"Best values: {condition}",
        takeaway=_best_takeaway(views, winners),
        draw=(lambda size: rows_drawing(rows, views[0].metric_label, size)) if rows and _comparable(views) else None,
        details=[folded("As a table", table.html("Best values"))] if rows else [],
        notes=_comparison_notes(views) if rows else [],
    )


def _comparable(views: Sequence[RunView]) -> bool:
    return len({(view.run.metric, view.run.mode) for view in views}) == 1


def _best_takeaway(views: Sequence[RunView], winners: Sequence[Winner]) -> str:
    if not winners:
        return "None of these runs has a complete trial yet."
    first, *others = winners
    if not _comparable(views):
        return "These runs have different objectives: their values cannot be compared."
    if len(views) == 1:
        return f"{first.label} reached {first.value:.2f}; no other run here is of this condition."
    if not others:
        return f"Only {first.label} has a complete trial: {first.value:.2f}."
    second = others[0]
    gap = difference(first.score, first.standard_error, second.score, second.standard_error)
    sure = gap.low is not None and gap.low > 0
    meaning = "more than the held-out samples explain" if sure else "within what the held-out samples explain"
    return f"{first.label} is ahead of {second.label} by {gap}: {meaning}."


def _comparison_notes(views: Sequence[RunView]) -> list[str]:
    splits = {repr((view.run.settings.get("fingerprints") or {}).get("split")) for view in views}
    notes = ["95% intervals, from the standard error on the held-out samples."]
    if len(splits) > 1:
        notes.append("These runs hold out different samples, which adds to the differences between them.")
    return notes


def spent_figure(number: int, condition: str, views: Sequence[RunView]) -> Figure:
    """Best so far over the epochs that were spent on it."""
    lines = [best_over_epochs(view) for view in views]
    labels = labels_of(views)
    rows = [
        [label, str(epochs), f"{value:.2f}"]
        for label, points in zip(labels, lines, strict=True)
        for epochs, value in points
    ]
    drawable = any(lines) and _comparable(views)
    return Figure(
        key=f"spent-{number}",
        title=f"Best so far over epochs spent: {condition}",
        takeaway=_spent_takeaway(labels, lines),
        draw=(lambda size: _draw_spent(views, labels, lines, size)) if drawable else None,
        legend=[Key(label, f"series run{index % SERIES}") for index, label in enumerate(labels)],
        details=[folded("As a table", Table(["run", "epochs spent", "best so far"], rows).html("Best so far"))]
        if rows
        else [],
        wide=True,
    )


def best_over_epochs(view: RunView) -> list[tuple[int, float]]:
    """(epochs of all trials ended by then, best value so far), at every improvement, and at the end."""
    ended = sorted((t for t in view.trials if t.own and t.ended is not None), key=lambda t: (t.ended or 0.0, t.number))
    spent, points = 0, list[tuple[int, float]]()
    for trial in ended:
        spent += trial.row.epochs
        if trial.complete and trial.value is not None and (not points or view.better(trial.value, points[-1][1])):
            points.append((spent, trial.value))
    return [*points, (spent, points[-1][1])] if points and points[-1][0] < spent else points


def _spent_takeaway(labels: Sequence[str], lines: Sequence[Sequence[tuple[int, float]]]) -> str:
    sentence = [
        f"{label} reached {points[-1][1]:.2f} within {next(e for e, v in points if v == points[-1][1])} epochs"
        for label, points in zip(labels, lines, strict=True)
        if points
    ]
    return "; ".join(sentence) + "." if sentence else "None of these runs has a complete trial yet."


def _draw_spent(
    views: Sequence[RunView], labels: Sequence[str], lines: Sequence[Sequence[tuple[int, float]]], size: Size
) -> Drawing:
    last = max(epochs for points in lines for epochs, _ in points)
    values = [value for points in lines for _, value in points]
    chart = Chart(
        size, Axis(Whole(0, last), "epochs spent, all trials"), Axis(Linear.around(values, 0.1), views[0].metric_label)
    )
    for index, (label, points) in enumerate(zip(labels, lines, strict=True)):
        if not points:
            continue
        kind = index % SERIES
        chart.steps(points, f"series run{kind}")
        for epochs, value in points:
            chart.mark(epochs, value, SHAPES[kind], f"mark run{kind}", f"{label}: {value:.2f} after {epochs} epochs")
    return Drawing.of(chart)
