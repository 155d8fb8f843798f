"""The cost of a search, estimated from a few batches before it starts.

``python -m tune_lnl.tuning.plan.cost`` measures in a process of its own, with a question in JSON on standard input: the
process that drives a search must not hold memory of a GPU.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tune_lnl.config.trial import TrialConfig, build_config
from tune_lnl.errors import InputError
from tune_lnl.steps import step
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.plan.options import command_line
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.plan.values import ConfirmRequest
from tune_lnl.tuning.space.named import find_space
from tune_lnl.tuning.study.pruners import expected_share
from tune_lnl.wording import counted, duration

logger = logging.getLogger(__name__)

PROBE_BATCHES = 4
FEW_BATCHES = 2
"""Before a search, whose first trials soon tell more."""
TOLD_FROM = 3600.0
"""Seconds from which a search says what it will take before it starts."""
MOST_WAIT = 180.0
"""Seconds to wait for the process that measures on a GPU."""


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a search."""

    warmup_epoch_seconds: float
    main_epoch_seconds: float
    trial_seconds: float
    search_seconds_unstopped: float
    search_seconds: float
    confirm_seconds: float


def first_config(plan: Plan) -> TrialConfig:
    """Return the config of trial 0: the first start point, or every range at its low end."""
    space = plan.space
    return space.config(space.start[0]) if space.start else space.any_config()


def estimate(plan: Plan, batches: int = PROBE_BATCHES) -> Cost:
    """Estimate the cost from a few timed batches of the first and the last epoch of trial 0.

    Raises:
        InputError: the trials need a GPU, and this machine has none.
    """
    step("measuring a few batches ...")
    config = first_config(plan)
    if plan.resources.device == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                "--dry-run measures a few batches on this machine, which has no GPU; run it on a node of the cluster "
                "that has one"
            )
        warmup_seconds, main_seconds = _measured_elsewhere(config, plan.data_dir, plan.resources.device, batches)
    else:
        warmup_seconds, main_seconds = epoch_seconds(config, plan.data_dir, plan.resources.device, batches)
    epochs, warmup = config.settings.epochs, config.settings.warmup_length()
    trial = warmup * warmup_seconds + (epochs - warmup) * main_seconds
    unstopped = trial * plan.space.budget.trials / plan.resources.concurrent
    confirm = 0.0
    if plan.races:
        confirm = trial * -(-plan.confirmed_trainings // plan.resources.concurrent)
    elif isinstance(plan.options.confirm, ConfirmRequest):
        # The winner's own training comes last, alone.
        confirm = trial * (-(-(plan.options.confirm.trainings - 1) // plan.resources.concurrent) + 1)
    share = expected_share(plan.space)
    return Cost(warmup_seconds, main_seconds, trial, unstopped, unstopped * share, confirm)


def epoch_seconds(config: TrialConfig, data_dir: Path | None, device: str, batches: int) -> tuple[float, float]:
    """Measure the seconds of an epoch in the warm-up and after it, with the threads of a trial."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.settings.threads or before)
    try:
        training = start_training(config, Surroundings(data_dir=data_dir, device=device))
        return (
            training.seconds_per_epoch(0, batches),
            training.seconds_per_epoch(config.settings.epochs - 1, batches),
        )
    finally:
        torch.set_num_threads(before)


def _measured_elsewhere(config: TrialConfig, data_dir: Path | None, device: str, batches: int) -> tuple[float, float]:
    question = {
        "sections": config.sections(),
        "data_dir": None if data_dir is None else str(data_dir),
        "device": device,
        "batches": batches,
    }
    found = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=MOST_WAIT,
        check=True,
    )
    warmup_seconds, main_seconds = json.loads(found.stdout.splitlines()[-1])
    return warmup_seconds, main_seconds


def cost_lines(plan: Plan) -> list[str]:
    """Return what the user should know about the time of a search before it starts; nothing where that is short."""
    try:
        cost = estimate(plan, FEW_BATCHES)
    except InputError:
        return []  # a driver without a GPU cannot measure for the nodes that have one
    except Exception:
        logger.exception("the cost of the search could not be estimated")
        return []
    if cost.search_seconds < TOLD_FROM:
        return []
    trials, at_once = plan.space.budget.trials, plan.resources.concurrent
    lines = [
        f"  estimated time: about {duration(cost.search_seconds)} for {counted(trials, 'trial')} of "
        f"{plan.space.epochs} epochs, {at_once} at once on {'a GPU' if plan.resources.device == 'cuda' else 'CPUs'} "
        f"({duration(cost.trial_seconds)} a full trial)"
    ]
    smaller = smaller_command(plan)
    return lines if smaller is None else [*lines, "  a first look in minutes:", f"    {smaller}"]


def smaller_command(plan: Plan) -> str | None:
    """Return the command of a small form of the search; ``None`` where this is one already."""
    from tune_lnl.config.yaml import read_mapping
    from tune_lnl.tuning.space.space import read_presets

    options = plan.options
    if options.preset == "quick":
        return None
    path = find_space(options.space)
    given: dict[str, Any] = {
        "name": f"{plan.run.replace('/', '-')}-quick",
        "condition": plan.space.condition,
        "data": options.data,
    }
    given |= {"data_dir": options.data_dir, "overrides": options.overrides, "device": getattr(options, "device", None)}
    if "quick" in read_presets(read_mapping(path), str(path)):
        given["preset"] = "quick"
    else:
        given |= {"trials": 6, "epochs": max(1, min(12, plan.space.epochs // 4))}
    return shlex.join(command_line(options.space, {name: value for name, value in given.items() if value}))


def main() -> int:
    question = json.load(sys.stdin)
    config = build_config(question["sections"], "the search")
    data_dir = None if question["data_dir"] is None else Path(question["data_dir"])
    print(json.dumps(epoch_seconds(config, data_dir, question["device"], question["batches"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
