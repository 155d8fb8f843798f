"""best.yaml."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import TrialState

from tune_lnl.config.base import ValidationSettings
from tune_lnl.config.registry import settings_type
from tune_lnl.config.yaml import load_yaml
from tune_lnl.training.seeds import read_config
from tune_lnl.tuning.runs.best import config_yaml, describe_held_out, write_best
from tune_lnl.tuning.runs.run import Run


def test_it_is_a_config_that_train_runs(run: Run) -> None:
    assert write_best(run)
    config = read_config(run.files.best, [], None)
    best = run.best
    assert best is not None
    assert config == run.config(best)
    text = run.files.best.read_text()
    judged = "val_accuracy 60.00 ± 1.50 (chance about 12.5, ceiling about 51) on the held-out noisy split"
    assert text.startswith(f"# Trial 0 of run tiny: {judged}.\n")
    provenance = load_yaml(text, "best.yaml")["provenance"]
    assert (provenance["trial"], provenance["value"], provenance["params"]) == (0, 60.0, dict(best.params))
    assert provenance["fingerprints"] == run.settings["fingerprints"]


def test_it_says_what_was_held_out() -> None:
    validation = settings_type("core").Validation
    told = [
        describe_held_out(held) for held in (ValidationSettings(), ValidationSettings(labels="clean"), validation())
    ]
    assert told == ["the held-out noisy split", "the held-out split under its true labels", "held-out persons"]


def test_none_while_no_trial_is_complete(run: Run) -> None:
    unfinished = [trial for trial in run.trials if trial.state != TrialState.COMPLETE]
    assert not write_best(Run(run.files, run.settings, run.space, unfinished))
    assert not run.files.best.exists()


def test_any_trial_can_be_written(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "pruned.yaml"
    path.write_text(config_yaml(run, run.rows()[2]))
    assert read_config(path, [], None) == run.config(run.rows()[2])
