"""The page of one run, and the page that compares several."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tune_lnl.reporting.accuracy import accuracy_figure
from tune_lnl.reporting.commands import commands_of
from tune_lnl.reporting.comparison import (
    best_figure,
    best_settings_table,
    differing_settings,
    groups_of,
    labels_of,
    overview_table,
    spent_figure,
    warnings_of,
)
from tune_lnl.reporting.confirmation import confirmation_figure
from tune_lnl.reporting.curves import curves_figure
from tune_lnl.reporting.failures import failures_figure
from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.history import history_figure, trials_table
from tune_lnl.reporting.importances import importance_figure
from tune_lnl.reporting.intervals import Estimate
from tune_lnl.reporting.noise_matrix import noise_figures
from tune_lnl.reporting.parallel import parallel_figure
from tune_lnl.reporting.rendering import render
from tune_lnl.reporting.run_data import RunView
from tune_lnl.reporting.selection import selection_figure
from tune_lnl.reporting.slices import lr_map, slice_figures, valued
from tune_lnl.reporting.texts import setting
from tune_lnl.reporting.timeline import bars_of, timeline_figure, usage_of
from tune_lnl.reporting.trainings import recorded_trainings
from tune_lnl.reporting.verdict import config_table, validation_figure
from tune_lnl.tuning.runs.best import config_yaml
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.rows import describe_states
from tune_lnl.wording import duration

CONTENTS = (
    ("best", "The best config"),
    ("search", "How the search went"),
    ("trials", "Trials"),
    ("settings", "Effect of the settings"),
    ("noise", "Noise and selection"),
    ("machine", "Time and failures"),
    ("commands", "Files and commands"),
)
FILES = {
    "best.yaml": "the best config, to train",
    "confirmed.yaml": "the confirmed config, to train",
    "trials.csv": "a row per trial, for a spreadsheet",
    "epochs.csv": "a row per trial and epoch, for a spreadsheet",
    "trials.parquet": "a row per trial",
    "epochs.parquet": "a row per trial and epoch",
    "replicates.parquet": "a row per replicate",
    "run.yaml": "everything the search was run with",
    "study.log": "the study, for Optuna and its dashboard",
    "search.log": "the log of the driver",
}
"""Files of a run that a page leads to, where they are there."""


def figures_by_section(view: RunView) -> dict[str, list[Figure]]:
    """Return every figure of a run, by the section of its page."""
    trainings = recorded_trainings(view)
    confirmation = confirmation_figure(view)
    return {
        "best": [
            validation_figure(view, trainings),
            accuracy_figure(view, trainings),
            *([] if confirmation is None else [confirmation]),
        ],
        "search": [history_figure(view), curves_figure(view)],
        "settings": _settings_figures(view),
        "noise": [*noise_figures(view), selection_figure(view)],
        "machine": [timeline_figure(view), failures_figure(view)],
    }


def _settings_figures(view: RunView) -> list[Figure]:
    """Return the figures of the settings; one sentence where no trial tells anything about them."""
    if not valued(view):
        sentence = "No trial is complete or was stopped early yet, so the effect of the settings cannot be shown."
        return [Figure("settings-none", "Nothing to compare yet", sentence)]
    both_rates = lr_map(view)
    return [
        parallel_figure(view),
        importance_figure(view),
        *([] if both_rates is None else [both_rates]),
        *slice_figures(view),
    ]


def run_page(view: RunView, written: datetime, beside: bool = True) -> str:
    """Return the report of one run, as the text of an HTML file.

    Args:
        beside: the page will lie in the run's folder, so that it can lead to the files there.
    """
    figures = figures_by_section(view)
    best, start = view.best, view.start
    root = view.run.files.root
    return render(
        "run.html.j2",
        title=f"{view.name}: search report",
        contents=CONTENTS,
        pictures=_pictures(*figures.values()),
        view=view,
        description=view.run.space.description,
        state=_state(view, beside),
        facts=_facts(view, written),
        config=config_table(view),
        yaml=None if best is None else config_yaml(view.run, best.row),
        trials=trials_table(view, linked=beside),
        best_number="" if best is None else best.number,
        start_number="" if start is None else start.number,
        links=[(name, text) for name, text in FILES.items() if beside and (root / name).is_file()],
        # Lines break between the words of a command alone.
        commands=[(name, command, command.split(" ")) for name, command in commands_of(view)],
        provenance=_provenance(view),
        script=None,
        **{f"{name}_figures": found for name, found in figures.items()},
    )


def comparison_page(views: Sequence[RunView], links: Sequence[str | None], written: datetime) -> str:
    """Return the page of several runs side by side, grouped by condition.

    Args:
        links: of each run, the address of its own report relative to this page, if there is one.
    """
    labels = labels_of(views)
    groups = [
        (
            f"condition-{number}",
            f"Condition: {condition}",
            [best_figure(number, condition, members), spent_figure(number, condition, members)],
        )
        for number, (condition, members) in enumerate(groups_of(views).items())
    ]
    configs = best_settings_table(views)
    contents = [("overview", "The runs"), *((key, name) for key, name, _ in groups)]
    contents += [*([("configs", "Best configs")] if configs else []), ("settings", "Settings that differ")]
    return render(
        "comparison.html.j2",
        title="Comparison of " + ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else ""),
        contents=contents,
        pictures=_pictures(*(found for _, _, found in groups)),
        count=len(views),
        written=_moment(written),
        warnings=warnings_of(views, one_noise=len(groups) == 1),
        overview=overview_table(views, links),
        groups=groups,
        configs=configs,
        differing=differing_settings(views),
    )


def _pictures(*groups: Sequence[Figure]) -> bool:
    return any(one.plot is not None for found in groups for one in found)


# ---- the head of a run's page


def _state(view: RunView, beside: bool) -> str | None:
    if view.finished:
        return None
    ended = view.count("COMPLETE", "PRUNED", "FAIL")
    running = view.count("RUNNING")
    sentence = f"Not finished: {ended} of {view.asked} trials have ended"
    sentence += f", {running} running" if running else ""
    return f"{sentence}. {'Write this page again for the latest.' if beside else 'This page refreshes itself.'}"


def _facts(view: RunView, written: datetime) -> list[tuple[str, str]]:
    settings = view.run.settings
    best = view.best
    resources = settings.get("resources") or {}
    usage = usage_of(bars_of(view.trials), int(resources.get("concurrent") or 1))
    device = resources.get("device_name", resources.get("device", "?"))
    labels = view.flat_base.get("validation.labels")
    condition = "" if view.run.space.condition is None else f", condition {view.run.space.condition}"
    judged = f"{100 * view.base.validation.fraction:g}% of the training set" + (f", {labels} labels" if labels else "")
    value = "none yet"
    if best is not None and best.value is not None:
        estimate = Estimate.measured(best.value, best.row.standard_error)
        value = f"{view.metric_label} {estimate.value:.2f}, trial {best.number}"
        if estimate.low is not None and estimate.high is not None:
            value += f"; 95% interval {estimate.low:.2f} to {estimate.high:.2f}"
    return [
        ("Best", value),
        ("Trials", f"{describe_states(view.run.rows())}; {view.asked} asked for"),
        ("Method and data", f"{view.method} on {view.dataset['name']}{condition}"),
        ("Length", f"{view.epochs} epochs a trial, {view.epochs_trained:,} trained in all"),
        ("Time", duration(usage.seconds) if usage.seconds else "–"),
        ("Search", f"sampler {view.run.space.budget.sampler}, pruner {view.run.space.budget.pruner}"),
        ("Machine", f"{resources.get('concurrent', '?')} at once on {device}"),
        ("Judged on", judged),
        ("Folder", location(view.run.files.root)),
        ("Written", _moment(written)),
    ]


def _moment(written: datetime) -> str:
    return f"{written:%Y-%m-%d %H:%M}"


# ---- the end of a run's page


def _provenance(view: RunView) -> Table:
    settings = view.run.settings
    rows: list[list[str]] = [
        ["seed", setting(settings.get("seed"))],
        ["git commit", setting(settings.get("git_commit"))],
        ["data folder", setting(settings.get("data_dir"))],
    ]
    for group in ("versions", "fingerprints", "resources"):
        rows += [[f"{group}: {name}", setting(value)] for name, value in (settings.get(group) or {}).items()]
    rows += [[f"dataset.{name}", setting(value)] for name, value in view.dataset.items()]
    return Table(["what", "value"], rows, "Provenance")
