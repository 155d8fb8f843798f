"""A whole search: plan every study, then run them one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tune_lnl.tuning.engine.cluster import Site, joined
from tune_lnl.tuning.engine.node_probing import measure_on_nodes
from tune_lnl.tuning.engine.runner import Outcome, run_plan, set_ray_environment
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.checks import check_search
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan, plan_study
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.resources.measure import measure_sharing

EXIT_CODES: dict[Outcome, int] = {"done": 0, "failed": 1, "interrupted": 130}


def search(options: SearchOptions, say: Callable[[str], None]) -> int:
    """Run what was asked for; one study per condition.

    Args:
        say: prints a line; with a :class:`Console` a terminal shows a table as well.

    Returns:
        the exit code: 0 done, 1 it ran and failed, 130 interrupted.

    Raises:
        InputError: nothing was started and nothing written.
    """
    console = say if isinstance(say, Console) else Console(options.verbosity, say)
    studies = check_search(options)  # a mistyped option is refused before a cluster is asked for anything
    if options.address is None:
        here = Machine.here()
        plans = [plan_study(study, here, lambda question: measure_sharing(question, console.tell)) for study in studies]
        return _run(options, [(plan, None) for plan in plans], console)
    set_ray_environment()
    with joined(options.address, console) as cluster:
        machine = cluster.machine()
        plans = [
            plan_study(study, machine, lambda question: measure_on_nodes(question, machine.nodes, console.tell))
            for study in studies
        ]
        return _run(options, [(plan, cluster.admit(plan)) for plan in plans], console)


def _run(options: SearchOptions, plans: Sequence[tuple[Plan, Site | None]], console: Console) -> int:
    codes = []
    for plan, site in plans:
        outcome = run_plan(plan, options.resume, console, site)
        if outcome == "interrupted":
            return EXIT_CODES[outcome]
        codes.append(EXIT_CODES[outcome])
    return max(codes)
