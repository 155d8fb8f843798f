"""Several runs on one page: best values with intervals, best so far over epochs spent, settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.accuracy import last_epochs_test
from tune_lnl.reporting.figure import Cell, Figure, Link, Table
from tune_lnl.reporting.intervals import Estimate, difference
from tune_lnl.reporting.plots import SERIES, colour, picture, plain, rounded
from tune_lnl.reporting.rows import RowValue, rows_plot
from tune_lnl.reporting.run_data import RunView
from tune_lnl.reporting.texts import setting
from tune_lnl.reporting.timeline import bars_of, usage_of
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.wording import counted, duration


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
    """Return the runs by condition, in the order given."""
    groups: dict[str, list[RunView]] = {}
    for view in views:
        groups.setdefault(condition_of(view), []).append(view)
    return groups


def labels_of(views: Sequence[RunView]) -> list[str]:
    """Return a unique name for each run."""
    names = [view.name for view in views]
    return [
        name if names.count(name) == 1 else view.run.files.root.as_posix()
        for name, view in zip(names, views, strict=True)
    ]


# ---- tables


def overview_table(views: Sequence[RunView], links: Sequence[str | None]) -> Table:
    """Return a row per run; its link leads to its own page, where there is one."""
    rows: list[list[Cell]] = []
    for view, label, link in zip(views, labels_of(views), links, strict=True):
        best = view.best
        test = None if best is None else last_epochs_test(view, best)
        ended = view.count("COMPLETE", "PRUNED", "FAIL")
        confirmed = view.run.confirmation
        rows.append(
            [
                label if link is None else Link(label, link),
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
    return Table([*header, "complete / stopped / failed", "epochs trained", "time"], rows, "The runs")


def _confirmed(found: Confirmation) -> str:
    if found.winner is None:
        return "none"
    values = [value for value in found.candidates[0].values if value is not None]
    return f"trial {found.winner}: {Estimate.mean_of(values)}"


def differing_settings(views: Sequence[RunView]) -> Table | None:
    """Return the entries of run.yaml that are not the same in all runs; ``None`` where nothing differs."""
    flats = [_flat({key: view.run.settings.get(key) for key in COMPARED}) for view in views]
    names = list(dict.fromkeys(name for flat in flats for name in flat))
    rows = [
        [name, *(setting(flat[name]) if name in flat else "–" for flat in flats)]
        for name in names
        if len({repr(flat.get(name, "–")) for flat in flats}) > 1
    ]
    return Table(["setting", *labels_of(views)], rows, "Settings that differ") if rows else None


COMPARED = ("condition", "seed", "space", "resources", "fingerprints", "versions", "git_commit")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        prefix = f"{name}." if name else ""
        return {key: v for part, inner in value.items() for key, v in _flat(inner, f"{prefix}{part}").items()}
    if isinstance(value, list):
        return {name: "; ".join(map(setting, value))}
    return {name: value}


def best_settings_table(views: Sequence[RunView]) -> Table | None:
    """Return the best config of each run; ``None`` where no run has one."""
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
    return Table(["setting", *labels_of(views)], rows, "Best configs")


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
    """Return the winners of the runs that have a complete trial, the best first."""
    found = [
        Winner(label, view.best.number, view.best.value, view.sign * view.best.value, view.best.row.standard_error)
        for view, label in zip(views, labels_of(views), strict=True)
        if view.best is not None and view.best.value is not None
    ]
    return sorted(found, key=lambda winner: -winner.score)


def warnings_of(views: Sequence[RunView], one_noise: bool = True) -> list[str]:
    """Return in what these runs differ so that their values may not be set side by side; empty where in nothing.

    Args:
        one_noise: their labels should be the same; False: they are runs of several conditions.
    """
    objectives = [f"{view.run.metric} over the last {counted(view.average_last, 'epoch')}" for view in views]
    return [
        f"{what}: {', '.join(f'{label} {value}' for label, value in zip(labels_of(views), values, strict=True))}."
        for what, values in (
            ("Their trials differ in length", [f"{view.epochs} epochs" for view in views]),
            ("Their objectives differ", objectives),
            ("They train on different samples", [_training_set(view, one_noise) for view in views]),
        )
        if len(set(values)) > 1
    ]


def _training_set(view: RunView, with_labels: bool) -> str:
    """Describe the samples and labels that a run trains on; sets that differ have different descriptions."""
    dataset, validation = view.dataset, view.base.validation
    prints = view.run.settings.get("fingerprints") or {}
    of_classes = "" if dataset.get("classes") is None else f", {dataset['classes']} classes"
    used = (
        f"{100 * (1 - validation.fraction) * float(dataset.get('subset', 1.0)):.3g}% of {dataset['name']}{of_classes}"
    )
    known = str(prints.get("labels") or "")[:8] if with_labels else ""
    return used + (f" (labels {known})" if known else "")


def best_figure(number: int, condition: str, views: Sequence[RunView]) -> Figure:
    """Draw the best values with their intervals."""
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
    notes = warnings_of(views)
    if rows:
        notes.append("95% intervals, from the standard error on the held-out samples.")
        if len({repr((view.run.settings.get("fingerprints") or {}).get("split")) for view in views}) > 1:
            notes.append("These runs hold out different samples, which adds to the differences between them.")
    header = ["run and trial", f"{views[0].metric_label}, 95%"]
    table = Table(header, [[row.label, str(row.estimate)] for row in rows], f"Best values, {condition}")
    return Figure(
        key=f"best-{number}",
        title=f"Best values: {condition}",
        takeaway=_best_takeaway(views, winners),
        plot=rows_plot(rows, views[0].metric_label, "the first") if rows and _comparable(views) else None,
        table=table if rows else None,
        notes=notes,
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
    if warnings_of(views):
        values = ", ".join(f"{one.label} {one.value:.2f}" for one in winners)
        return f"Best values: {values}. They may not be ranked: the runs differ in more than their settings, see below."
    second = others[0]
    gap = difference(first.score, first.standard_error, second.score, second.standard_error)
    sure = gap.low is not None and gap.low > 0
    meaning = "more than the held-out samples explain" if sure else "within what the held-out samples explain"
    return f"{first.label} is ahead of {second.label} by {gap}: {meaning}."


def spent_figure(number: int, condition: str, views: Sequence[RunView]) -> Figure:
    """Draw the best value so far over the epochs spent."""
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
        takeaway=_spent_takeaway(views, labels, lines),
        plot=_spent(views, labels, lines) if drawable else None,
        notes=[
            "Epochs of all trials of a run are counted, those of stopped and failed ones too. A line begins where the "
            "first trial of full length was complete."
        ]
        if drawable
        else [],
        table=Table(["run", "epochs spent", "best so far"], rows, f"Best so far, {condition}") if rows else None,
    )


def best_over_epochs(view: RunView) -> list[tuple[int, float]]:
    """Return (epochs of all trials ended by then, best value so far) at every improvement and at the end."""
    ended = sorted((t for t in view.trials if t.own and t.ended is not None), key=lambda t: (t.ended or 0.0, t.number))
    spent, points = 0, list[tuple[int, float]]()
    for trial in ended:
        spent += trial.row.epochs
        if trial.complete and trial.value is not None and (not points or view.better(trial.value, points[-1][1])):
            points.append((spent, trial.value))
    return [*points, (spent, points[-1][1])] if points and points[-1][0] < spent else points


def _spent_takeaway(
    views: Sequence[RunView], labels: Sequence[str], lines: Sequence[Sequence[tuple[int, float]]]
) -> str:
    known = [(view, label, points) for view, label, points in zip(views, labels, lines, strict=True) if points]
    if not known:
        return "None of these runs has a complete trial yet."
    if not _comparable(views):
        return "These runs have different objectives: their values cannot be compared."
    if len(known) == 1:
        ((_, label, points),) = known
        reached = next(epochs for epochs, value in points if value == points[-1][1])
        return f"{label} reached {points[-1][1]:.2f} within {reached} epochs."
    # All have spent so many epochs: what each had by then can be set side by side.
    common = min(points[-1][0] for _, _, points in known)
    had = [(view.sign, label, [value for epochs, value in points if epochs <= common]) for view, label, points in known]
    order = sorted(had, key=lambda one: -one[0] * one[2][-1] if one[2] else float("inf"))
    parts = [
        f"{label} had {values[-1]:.2f}" if values else f"{label} had no complete trial" for _, label, values in order
    ]
    sentence = f"After {common} epochs, which every run here has spent, {', '.join(parts)}."
    return sentence + (" These runs differ in more than that; see above." if warnings_of(views) else "")


def _spent(views: Sequence[RunView], labels: Sequence[str], lines: Sequence[Sequence[tuple[int, float]]]) -> go.Figure:
    traces = []
    for index, (label, points) in enumerate(zip(labels, lines, strict=True)):
        if not points:
            continue
        shade, dash, symbol = SERIES[index % len(SERIES)]
        traces.append(
            go.Scatter(
                x=[epochs for epochs, _ in points],
                y=[rounded(value) for _, value in points],
                mode="lines+markers",
                name=plain(label),
                line={"color": colour(shade), "width": 2.4, "dash": dash, "shape": "hv"},
                marker={"symbol": symbol, "size": 9},
                text=[plain(label)] * len(points),
                hovertemplate="%{text}<br>%{y} after %{x} epochs<extra></extra>",
            )
        )
    last = max(epochs for points in lines for epochs, _ in points)
    return picture(
        traces,
        showlegend=True,
        xaxis={"title": {"text": "epochs spent, all trials"}, "range": [0, last * 1.03], "tickformat": "d"},
        yaxis={"title": {"text": plain(views[0].metric_label)}},
    )
