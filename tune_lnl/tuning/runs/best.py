"""``best.yaml``: the config of a trial, which ``tune_lnl.train`` runs, with its origin."""

from __future__ import annotations

from typing import Any

from tune_lnl.config.base import HeldOut, ValidationSettings
from tune_lnl.config.trial import PROVENANCE
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.datasets.bounds import ScoreBounds
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run


def write_best(run: Run) -> bool:
    """Write ``best.yaml``, the config that alone reproduces the answer; return whether there is one."""
    best = run.best
    if best is None:
        return False
    run.files.write(run.files.best, config_yaml(run, best))
    return True


def config_yaml(run: Run, row: TrialRow) -> str:
    """Return the complete config of a trial as YAML that ``tune_lnl.train`` runs, with its origin."""
    config = run.config(row)
    judged_on = describe_held_out(config.validation)
    answer = run.answer
    chosen = f"# The answer: {answer.words}.\n" if answer is not None and answer.number == row.number else ""
    bounds = ScoreBounds.stored(run.settings.get("score_bounds"))
    beside = "" if bounds is None else f" ({bounds.short()})"
    header = (
        f"# Trial {row.number} of run {run.name}: {run.metric} {row.value_text}{beside} on {judged_on}.\n{chosen}"
        "# Train it: python -m tune_lnl.train THIS_FILE\n"
    )
    return header + dump_yaml(config.sections() | {PROVENANCE: provenance(run, row)})


def describe_held_out(validation: HeldOut) -> str:
    """Return the data that trials are judged on, in words."""
    if not isinstance(validation, ValidationSettings):
        return "held-out persons"
    return "the held-out noisy split" if validation.labels == "noisy" else "the held-out split under its true labels"


def provenance(run: Run, row: TrialRow) -> dict[str, Any]:
    """Return the origin of a trial's config: run, command, versions, data and device."""
    return {
        "run": run.name,
        "trial": row.number,
        "state": row.state,
        "metric": run.metric,
        "value": row.value,
        "standard_error": row.standard_error,
        "epochs": row.epochs,
        "params": dict(row.params),
        **({} if row.taken_from is None else {"taken_from": row.taken_from}),
        "search_command": run.settings["command"],
        "versions": run.settings["versions"],
        "git_commit": run.settings["git_commit"],
        "fingerprints": run.settings["fingerprints"],
        "device": run.settings["resources"]["device"],
    }
