"""The lines of a search."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_search import EPOCHS, curve, tiny_plan

from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.progress import Progress
from tune_lnl.tuning.plan.options import Verbosity
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.study.study import SearchStudy


class Lines:
    """A search of three trials (complete, stopped early, failed) at one verbosity."""

    def __init__(self, folder: Path, verbosity: Verbosity) -> None:
        self.plan: Plan = tiny_plan(folder)
        self.plan.files.root.mkdir(parents=True)
        study = SearchStudy.create(self.plan.files.study, self.plan.space, 0)
        self.lines: list[str] = []
        progress = Progress(self.plan, study, Console(verbosity, self.lines.append))
        progress.begin(resumed=False)
        for last, epochs in ((60.0, EPOCHS), (90.0, 3), (40.0, 1)):
            trial = study.ask()
            for epoch, value in enumerate(curve(trial.number, last, epochs)):
                study.report(trial.number, epoch, value)
                progress.on_epoch(WorkerReport(trial.number, trial.attempt, epoch, value))
            match trial.number:
                case 0:
                    study.complete(0, 60.0, 1.5)
                case 1:
                    study.prune(1, None)
                case 2:
                    study.fail(2, "bug", "ValueError: no")
            progress.on_end(trial.number)
        progress.end("interrupted")

    @property
    def of_trials(self) -> list[str]:
        return [line for line in self.lines if line.startswith("[")]


def test_a_line_per_finished_trial(tmp_path: Path) -> None:
    shown = Lines(tmp_path, "normal")
    complete, stopped, failed = shown.of_trials
    assert complete.startswith("[  1/6] trial   0 complete      60.00 ± 1.50    6 epochs")
    assert complete.endswith("best so far  lr=0.01 lr_asymmetry=8 warmup_epochs=2")
    assert "stopped early 90.00" in stopped
    assert "best" not in stopped
    assert "trial   2 failed        bug: ValueError: no" in failed
    assert not any("epoch 1/6" in line for line in shown.lines)


def test_verbose_tells_every_epoch(tmp_path: Path) -> None:
    shown = Lines(tmp_path, "verbose")
    epochs = [line for line in shown.lines if line.startswith("trial ")]
    assert len(epochs) == EPOCHS + 3 + 1
    assert epochs[0] == "trial 0 epoch 1/6 val_accuracy 55.00"
    assert len(shown.of_trials) == 3


@pytest.mark.parametrize("verbosity", ["quiet", "normal", "verbose"])
def test_how_it_ended_is_always_shown(tmp_path: Path, verbosity: Verbosity) -> None:
    shown = Lines(tmp_path, verbosity)
    end = "\n".join(shown.lines[-7:])
    assert "1 complete, 1 stopped early, 1 failed" in end
    assert "best: trial 0, val_accuracy 60.00 ± 1.50, lr=0.01" in end
    then = curve(0, 60.0, EPOCHS)[2]
    told = f"  trial 1, stopped early, stood at 90.00 after 3 epochs (trial 0 after as many: {then:.2f})"
    assert told in shown.lines
    assert f"interrupted; continue with:\n  {shown.plan.resume_command()}" in end
    assert (len(shown.lines) > 7) == (verbosity != "quiet")
