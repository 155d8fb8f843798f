"""Runs on disk whose studies are made by the calls of a search, without training."""

from __future__ import annotations

import random
from collections.abc import Collection

from tiny_search import EPOCHS

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.files import replace_text
from tune_lnl.training.run import append_report
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.plan.warm_start import first_trials, related_runs
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.study.study import SearchStudy
from tune_lnl.tuning.study.trials import ENDED


def begin(plan: Plan) -> SearchStudy:
    """Write run.yaml and open the study, as a driver does first."""
    plan.files.root.mkdir(parents=True, exist_ok=True)
    replace_text(plan.files.settings, dump_yaml(plan.settings()))
    opened = SearchStudy.reopen if plan.files.study.exists() else SearchStudy.create
    return opened(
        plan.files.study,
        plan.space,
        plan.seed,
        first=lambda: first_trials(plan.warm_starts, plan.space, plan.files),
        related=lambda: related_runs(
            plan.warm_starts, plan.earlier, plan.portfolio.related if plan.portfolio else None, plan.space
        ),
    )


def search(plan: Plan, concurrent: int = 1, crashes: Collection[int] = (), chance: int = 0) -> Run:
    """Search to the end. A driver dies after each number of reports in ``crashes``; ``chance`` decides in which order
    the reports of concurrent trials arrive."""
    draw = random.Random(chance)
    study, running, reports, to_come = begin(plan), dict[int, int](), 0, sorted(crashes)
    while study.count(*ENDED) < plan.space.budget.trials:
        if to_come and reports >= to_come[0]:
            to_come.pop(0)
            study, running = begin(plan), {}
        left = plan.space.budget.trials - study.count(*ENDED) - len(running)
        if left and len(running) < concurrent:
            number = study.ask().number
            running[number] = study.epochs(number)
            continue
        number = draw.choice(sorted(running))
        _one_epoch(plan, study, running, number, draw)
        reports += 1
    return load_run(plan.files.root)


def _one_epoch(plan: Plan, study: SearchStudy, running: dict[int, int], number: int, draw: random.Random) -> None:
    epoch = running[number]
    if draw.random() < 0.03:
        study.fail(number, "diverged", "train_loss is not finite")
        del running[number]
        return
    value = 50.0 + epoch + draw.random() * 10
    report = {"attempt": 1, "epoch": float(epoch), "val_accuracy": value, "test_accuracy": draw.random()}
    append_report(plan.files.epochs(number), report)
    study.report(number, epoch, value)
    running[number] += 1
    if epoch + 1 == EPOCHS:
        study.complete(number, value, 1.0)
    elif study.should_prune(number):
        study.prune(number, 1.0)
    else:
        return
    del running[number]


def complete(plan: Plan, values: Collection[float]) -> Run:
    """One COMPLETE trial per value, one after the other."""
    study = begin(plan)
    for value in values:
        number = study.ask().number
        for epoch in range(EPOCHS):
            study.report(number, epoch, value)
            append_report(plan.files.epochs(number), {"attempt": 1, "epoch": float(epoch), "val_accuracy": value})
        study.complete(number, value, 1.0)
    return load_run(plan.files.root)
