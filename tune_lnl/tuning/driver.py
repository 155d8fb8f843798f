"""A whole search: plan every study, then run them one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tune_lnl.tuning.engine.cluster import Site, joined
from tune_lnl.tuning.engine.node_probing import measure_on_nodes
from tune_lnl.tuning.engine.runner import Outcome, run_plan, set_ray_environment
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Machine, Plan, SearchOptions, asked_searches, plan_search
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
    if options.address is None:
        plans = plan_search(options, Machine.here(), lambda question: measure_sharing(question, console.tell))
        return _run(options, [(plan, None) for plan in plans], console)
    asked_searches(options)  # a typo is told before a cluster is asked for anything
    set_ray_environment()
    with joined(options.address, console) as cluster:
        machine = cluster.machine()
        plans = plan_search(options, machine, lambda question: measure_on_nodes(question, machine.nodes, console.tell))
        return _run(options, [(plan, cluster.admit(plan)) for plan in plans], console)


def _run(options: SearchOptions, plans: Sequence[tuple[Plan, Site | None]], console: Console) -> int:
    codes = []
    for plan, site in plans:
        outcome = run_plan(plan, options.resume, console, site)
        if outcome == "interrupted":
            return EXIT_CODES[outcome]
        codes.append(EXIT_CODES[outcome])
    return max(codes)
