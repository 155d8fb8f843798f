"""``--dry-run``: describe a search and its cost, measured on a few real batches, with nothing written."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tune_lnl.config.trial import TrialConfig
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.engine.messages import QuietOutput
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan, plan_search
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.study.pruners import REDUCTION, comparisons
from tune_lnl.wording import duration

PROBE_BATCHES = 4


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a search."""

    warmup_epoch_seconds: float
    main_epoch_seconds: float
    trial_seconds: float
    search_seconds_unstopped: float
    search_seconds: float
    confirm_seconds: float


def describe(options: SearchOptions) -> str:
    """Return the resolved settings, space, resources, start points and estimates, as text."""
    if options.resume:
        raise InputError("--dry-run describes a new search; leave --resume out")
    if options.address is None:
        return "\n".join(_describe_plan(plan) for plan in plan_search(options, Machine.here()))
    # Ray: not for a machine alone.
    from tune_lnl.tuning.engine.joining import joined
    from tune_lnl.tuning.engine.node_probing import measure_on_nodes

    with joined(options.address, QuietOutput()) as cluster:
        machine = cluster.machine()
        plans = plan_search(options, machine, lambda question: measure_on_nodes(question, machine.nodes))
        return "\n".join(_describe_plan(plan) for plan in plans)


def _describe_plan(plan: Plan) -> str:
    space = plan.space
    config = space.config(space.start[0]) if space.start else space.any_config()
    cost = estimate(plan, config)
    sections = space.to_dict()
    lines = [
        f"# search {plan.run}: {space.source}" + (f", condition {space.condition}" if space.condition else ""),
        dump_yaml(sections).rstrip(),
        "",
        f"# trial 0: {'the first start point' if space.start else 'every range at its low end'}, complete",
        *(f"#   {name}: {value}" for name, value in config.flat().items()),
        f"# learning rates, first and last epoch: {_ends(config)}",
        f"# trials are compared {comparisons(space)}",
        f"# resources: {plan.resources}, device {plan.resources.device}",
        *(f"# note: {remark}" for remark in plan.remarks()),
        f"# an epoch: {cost.warmup_epoch_seconds:.1f} s in warm-up, {cost.main_epoch_seconds:.1f} s after, "
        f"measured on {PROBE_BATCHES} batches, one trial alone",
        f"# a full trial: {duration(cost.trial_seconds)}",
        f"# the search: about {duration(cost.search_seconds)}; "
        f"{duration(cost.search_seconds_unstopped)} if nothing were stopped early",
        *_confirmation(plan, cost),
        f"# disk: {plan.disk_need}, in {location(plan.files.root)}",
    ]
    return "\n".join(lines) + "\n"


def _confirmation(plan: Plan, cost: Cost) -> list[str]:
    if plan.options.confirm is None:
        return []
    top, replicates = plan.options.confirm.top, plan.options.confirm.replicates
    return [
        f"# the confirmation: the top {top} on {replicates} fresh replicates each, then the winner on all the data: "
        f"{plan.options.confirm.trainings} full trainings, about {duration(cost.confirm_seconds)}"
    ]


def estimate(plan: Plan, config: TrialConfig) -> Cost:
    """Estimate the cost from a few timed batches of the first and the last epoch."""
    if plan.resources.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--dry-run measures a few batches on this machine, which has no GPU; run it on a node of the cluster that "
            "has one"
        )
    surroundings = Surroundings(data_dir=plan.data_dir, device=plan.resources.device)
    training = start_training(config, surroundings)
    epochs, warmup = config.settings.epochs, config.settings.warmup_length()
    warmup_seconds = training.seconds_per_epoch(0, PROBE_BATCHES)
    main_seconds = training.seconds_per_epoch(epochs - 1, PROBE_BATCHES)
    trial = warmup * warmup_seconds + (epochs - warmup) * main_seconds
    unstopped = trial * plan.space.budget.trials / plan.resources.concurrent
    confirm = 0.0
    if plan.options.confirm is not None:
        # The winner's own training comes last, alone.
        confirm = trial * (-(-(plan.options.confirm.trainings - 1) // plan.resources.concurrent) + 1)
    return Cost(warmup_seconds, main_seconds, trial, unstopped, unstopped * _share_run(plan), confirm)


def _share_run(plan: Plan) -> float:
    """Return the expected share of a full trial that a trial runs if one in three passes each rung."""
    if plan.space.budget.pruner == "none":
        return 1.0
    share, reaching, done = 0.0, 1.0, 0
    for end in [*(rung + 1 for rung in plan.rungs), plan.space.epochs]:
        share += reaching * (end - done) / plan.space.epochs
        reaching, done = reaching / REDUCTION, end
    return share


def _ends(config: TrialConfig) -> str:
    plans = config.settings.plans()
    return ", ".join(f"{name} {values[0]:.4g} to {values[-1]:.4g}" for name, values in plans.items())
