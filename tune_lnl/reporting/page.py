"""One self-contained page: text, figures and style in a file that asks nothing of the network and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from tune_lnl.reporting.commands import commands_of
from tune_lnl.reporting.comparison import (
    best_figure,
    best_settings_table,
    differing_settings,
    groups_of,
    labels_of,
    overview_table,
    spent_figure,
)
from tune_lnl.reporting.drawing import Figure
from tune_lnl.reporting.failures import failures_figure
from tune_lnl.reporting.history import curves_figure, history_figure
from tune_lnl.reporting.intervals import Estimate
from tune_lnl.reporting.markup import Html, Table, el, folded, joined
from tune_lnl.reporting.noise_matrix import noise_figures
from tune_lnl.reporting.run_data import RunView
from tune_lnl.reporting.scales import setting
from tune_lnl.reporting.selection import selection_figure
from tune_lnl.reporting.settings_figures import importance_figure, lr_map, parallel_figure, slice_figures
from tune_lnl.reporting.timeline import bars_of, timeline_figure, usage_of
from tune_lnl.reporting.trainings import recorded_trainings
from tune_lnl.reporting.verdict import accuracy_figure, config_table, confirmation_figure, validation_figure
from tune_lnl.tuning.runs.best import config_yaml
from tune_lnl.tuning.runs.rows import describe_states
from tune_lnl.wording import duration


def run_page(view: RunView, written: datetime) -> str:
    """The report of one run, as the text of an HTML file."""
    trainings = recorded_trainings(view)
    confirmation = confirmation_figure(view)
    both_rates = lr_map(view)
    sections = [
        _section(
            "best",
            "The best config",
            [
                validation_figure(view, trainings),
                accuracy_figure(view, trainings),
                *([] if confirmation is None else [confirmation]),
            ],
            before=_config(view),
        ),
        _section("search", "How the search went", [history_figure(view), curves_figure(view)]),
        _section(
            "settings",
            "Effect of the settings",
            [
                *([] if both_rates is None else [both_rates]),
                importance_figure(view),
                *slice_figures(view),
                parallel_figure(view),
            ],
        ),
        _section("noise", "Noise and selection", [*noise_figures(view), selection_figure(view)]),
        _section("machine", "Time and failures", [timeline_figure(view), failures_figure(view)]),
        _section("commands", "Do it again", [], before=joined([_commands(view), _provenance(view)])),
    ]
    title = f"{view.name}: search report"
    header = [
        el("h1", view.name),
        el("p", view.run.space.description) if view.run.space.description else None,
        _state(view),
        _facts(view, written),
    ]
    return document(title, header, sections)


def comparison_page(views: Sequence[RunView], links: Sequence[str | None], written: datetime) -> str:
    """Several runs side by side, grouped by condition.

    Args:
        links: of each run, the address of its own report relative to this page, if there is one.
    """
    labels = labels_of(views)
    sections = [_section("overview", "The runs", [], before=overview_table(views, links).html("The runs"))]
    for number, (condition, members) in enumerate(groups_of(views).items()):
        figures = [best_figure(number, condition, members), spent_figure(number, condition, members)]
        sections.append(_section(f"condition-{number}", f"Condition: {condition}", figures))
    best = best_settings_table(views)
    if best is not None:
        sections.append(_section("configs", "Best configs", [], before=best.html("Best configs")))
    differing = differing_settings(views)
    sentence = (
        el("p", "These runs were made with the same settings, data, versions and machine.")
        if differing is None
        else differing.html("Settings that differ")
    )
    sections.append(_section("settings", "Settings that differ", [], before=sentence))
    title = "Comparison of " + ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
    header = [el("h1", title), el("p", f"{len(views)} runs. Written {_moment(written)}.")]
    return document(title, header, sections)


# ---- the frame


MADE = "Made by tune_lnl from the study and the epoch files; works offline, runs no script."


def document(
    title: str, header: Sequence[Html | None], sections: Sequence[tuple[str, str, Html]], footer: str = MADE
) -> str:
    """A whole page; each section is its id, its name in the contents, and its markup."""
    style = files("tune_lnl.reporting").joinpath("style.css").read_text(encoding="utf-8")
    contents = [el("li", el("a", name, href=f"#{key}")) for key, name, _ in sections]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing may be fetched or run, whatever a name in the data says.
        el(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
        ),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html(style)),
    )
    body = el(
        "body",
        el("a", "Skip to the content", href="#content", class_="skip"),
        el("header", *header),
        el("nav", el("ul", *contents), aria_label="Contents"),
        el("main", *(content for _, _, content in sections), id="content"),
        el("footer", el("p", footer)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _section(key: str, name: str, figures: Sequence[Figure], before: Html | None = None) -> tuple[str, str, Html]:
    grid = el("div", *(figure.html() for figure in figures), class_="grid") if figures else None
    return (
        key,
        name,
        el("section", el("h2", name, id=f"{key}-title"), before, grid, id=key, aria_labelledby=f"{key}-title"),
    )


# ---- the head of a run's page


def _state(view: RunView) -> Html | None:
    if view.finished:
        return None
    ended = view.count("COMPLETE", "PRUNED", "FAIL")
    running = view.count("RUNNING")
    sentence = f"Not finished: {ended} of {view.asked} trials have ended"
    sentence += f", {running} running" if running else ""
    return el("p", f"{sentence}. Write this page again for the latest.", class_="state", role="status")


def _facts(view: RunView, written: datetime) -> Html:
    settings = view.run.settings
    best = view.best
    resources = settings.get("resources") or {}
    usage = usage_of(bars_of(view.trials), int(resources.get("concurrent") or 1))
    device = resources.get("device_name", resources.get("device", "?"))
    labels = view.flat_base.get("validation.labels")
    judged = f"{100 * view.base.validation.fraction:g}% of the training set" + (f", {labels} labels" if labels else "")
    value = "none yet"
    if best is not None and best.value is not None:
        value = f"{Estimate.measured(best.value, best.row.standard_error)}, trial {best.number}"
    facts = [
        (f"Best {view.metric_label}, 95%", value),
        ("Trials", f"{describe_states(view.run.rows())}; {view.asked} asked for"),
        ("Method and data", _method_and_data(view)),
        ("Length", f"{view.epochs} epochs a trial, {view.epochs_trained} trained in all"),
        ("Time", duration(usage.seconds) if usage.seconds else "–"),
        ("Choices", f"sampler {view.run.space.budget.sampler}, pruner {view.run.space.budget.pruner}"),
        ("Machine", f"{resources.get('concurrent', '?')} at once on {device}"),
        ("Judged on", judged),
        ("Written", _moment(written)),
    ]
    return el("dl", *(el("div", el("dt", name), el("dd", sentence)) for name, sentence in facts), class_="facts")


def _method_and_data(view: RunView) -> str:
    condition = "" if view.run.space.condition is None else f", condition {view.run.space.condition}"
    return f"{view.method} on {view.dataset['name']}{condition}"


def _moment(written: datetime) -> str:
    return f"{written:%Y-%m-%d %H:%M}"


# ---- the config and the commands


def _config(view: RunView) -> Html:
    table = config_table(view).html("Searched settings of the best config")
    if view.best is None:
        return table
    yaml = el("pre", el("code", config_yaml(view.run, view.best.row)), tabindex="0")
    return joined([table, folded("The whole config (best.yaml)", yaml)])


def _commands(view: RunView) -> Html:
    return el(
        "dl",
        *(
            el("div", el("dt", what), el("dd", el("pre", el("code", command), tabindex="0")))
            for what, command in commands_of(view)
        ),
        class_="commands",
    )


def _provenance(view: RunView) -> Html:
    settings = view.run.settings
    rows: list[list[str]] = [
        ["seed", setting(settings.get("seed"))],
        ["git commit", setting(settings.get("git_commit"))],
        ["data folder", setting(settings.get("data_dir"))],
    ]
    for group in ("versions", "fingerprints", "resources"):
        rows += [[f"{group}: {name}", setting(value)] for name, value in (settings.get(group) or {}).items()]
    rows += [[f"dataset.{name}", setting(value)] for name, value in view.dataset.items()]
    return folded("Seeds, versions, fingerprints", Table(["what", "value"], rows).html("Provenance"))
