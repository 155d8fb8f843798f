"""``--dry-run``: describe a search and its cost, measured on a few real batches, with nothing written."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.tuning.engine.messages import QuietOutput
from tune_lnl.tuning.plan.checks import run_name
from tune_lnl.tuning.plan.cost import PROBE_BATCHES, Cost, estimate, first_config
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan, plan_search
from tune_lnl.tuning.plan.values import ConfirmRequest
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.study.pruners import comparisons
from tune_lnl.wording import duration


def describe(options: SearchOptions, as_json: bool = False) -> str:
    """Return the resolved settings, space, resources, start points and estimates, as text.

    Args:
        as_json: return the same as JSON: an object, or with ``--conditions all`` a list of them.
    """
    if options.resume:
        raise InputError("--dry-run describes a new search; leave --resume out")
    plans, costs = _planned(options)
    if not as_json:
        return "\n".join(_describe_plan(plan, cost) for plan, cost in zip(plans, costs, strict=True))
    found = [_facts(plan, cost) for plan, cost in zip(plans, costs, strict=True)]
    return json.dumps(found if options.all_conditions else found[0], indent=2, allow_nan=False)


def _planned(options: SearchOptions) -> tuple[list[Plan], list[Cost]]:
    if options.address is None:
        plans = plan_search(options, Machine.here().for_device(options.device))
        return plans, [estimate(plan) for plan in plans]
    # Ray: not for a machine alone.
    from tune_lnl.tuning.engine.joining import joined
    from tune_lnl.tuning.engine.node_probing import measure_on_nodes

    with joined(options.address, run_name(options), QuietOutput()) as cluster:
        machine = cluster.machine().for_device(options.device)
        plans = plan_search(options, machine, lambda question: measure_on_nodes(question, machine.nodes))
        return plans, [estimate(plan) for plan in plans]


def _facts(plan: Plan, cost: Cost) -> dict[str, Any]:
    """Return what the description says, for a program; durations in seconds, sizes in bytes."""
    space, resources = plan.space, plan.resources
    return {
        "run": plan.run,
        "results": location(plan.files.root),
        "source": space.source,
        "condition": space.condition,
        "space": space.to_dict(),
        "trial_0": first_config(plan).flat(),
        "rungs": plan.rungs,
        "resources": {
            "device": resources.device,
            "concurrent": resources.concurrent,
            "cpus_per_trial": resources.cpus_per_trial,
            "gpus_per_trial": resources.gpus_per_trial,
        },
        "score_bounds": None if plan.bounds is None else plan.bounds.to_dict(),
        "notes": plan.remarks(),
        "cost": asdict(cost),
        "disk_bytes": plan.disk_need.total,
    }


def _describe_plan(plan: Plan, cost: Cost) -> str:
    space = plan.space
    config = first_config(plan)
    sections = space.to_dict()
    plans = config.settings.plans()
    rates = ", ".join(f"{name} {values[0]:.4g} to {values[-1]:.4g}" for name, values in plans.items())
    lines = [
        f"# search {plan.run}: {space.source}" + (f", condition {space.condition}" if space.condition else ""),
        dump_yaml(sections).rstrip(),
        "",
        f"# trial 0: {'the first start point' if space.start else 'every range at its low end'}, complete",
        *(f"#   {name}: {value}" for name, value in config.flat().items()),
        f"# learning rates, first and last epoch: {rates}",
        f"# trials are compared {comparisons(space.budget.pruner, plan.rungs)}",
        f"# resources: {plan.resources}, device {plan.resources.device}",
        *([] if plan.bounds is None else [f"# {plan.bounds.sentence()}"]),
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
    if not isinstance(plan.options.confirm, ConfirmRequest):
        sentence = plan.race_sentence()
        return [] if sentence is None else [f"# {sentence}: about {duration(cost.confirm_seconds)} at most"]
    top, replicates = plan.options.confirm.top, plan.options.confirm.replicates
    return [
        f"# the confirmation: the top {top} on {replicates} fresh replicates each, then the winner on all the data: "
        f"{plan.options.confirm.trainings} full trainings, about {duration(cost.confirm_seconds)}"
    ]
