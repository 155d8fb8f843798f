"""Is the config that a search answers with better than the one it began with? Replayed on the recorded testbeds.

    python benchmarks/choosing_config.py [--testbeds DIR] [--draws 20] [--output FILE.json] [NAME]...

Nothing is trained: trials and replicates are drawn from the recordings of ``benchmarks/testbeds/record.py``. An answer
is judged by the true test accuracy of its config trained again on a fresh seed and split, in the one recorded replicate
that the race of that draw was not allowed to see (the race has at most the two others). Configs that were not trained
again are none of the 30 best by the objective; such an answer is judged by its own trial, and counted.

The budget is in full trials' worth of epochs, replicates included. Engines are those of
``benchmarks/testbeds/engines.py``; ours begins with the published setting.

published   the published setting, without any search
stock       Ray's OptunaSearch (TPE) and ASHAScheduler as installed; its answer has the best last value
objective   ours with the whole budget; its answer has the highest objective
likely      the same; its answer has the highest mean of the Gaussian process over the settings
answer      a search with defaults: four fifths of the budget for trials, then the race (``tune_lnl.tuning.confirm``)
            with a quarter of their epochs; with fewer than 8 complete trials the whole budget for trials, and the
            published setting unless another is distinguishable from it (``tune_lnl.tuning.runs.answer``)
answer, observed    the same, but the race begins with each trial's own value in place of the process
answer, unstopped   the same as ``answer``, without a stopping rule: more complete trials, fewer settings

Differences are paired by draw; intervals are 95% bootstrap intervals over draws. Draws of one recording share labels
and split, so they speak for that noise draw; pooled intervals draw conditions first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from evidence import evidence, write_evidence
from testbeds.engines import OurEngine, StockEngine, TableSpace, answers
from testbeds.record import TESTBEDS, load
from testbeds.tables import Table, table_of

from tune_lnl.cli import Parser, guarded
from tune_lnl.errors import InputError
from tune_lnl.tuning.confirm.likely import Likely
from tune_lnl.tuning.confirm.race import Prior, affordable, entrants, hopeful, next_round, stand
from tune_lnl.tuning.plan.plan import RACE_SHARE, RACE_TRIALS
from tune_lnl.tuning.runs.answer import is_distinguishable
from tune_lnl.tuning.runs.rows import TrialRow

HERE = Path(__file__).resolve().parent
BUDGETS = (4, 10, 12, 20, 40)
RULES = ("published", "stock", "objective", "likely", "answer", "answer, observed", "answer, unstopped")
REPLICATES = 3


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/choosing_config.py", description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help="testbeds; default: all that are recorded with replicates")
    p.add_argument("--testbeds", type=Path, default=HERE / "testbeds", metavar="DIR")
    p.add_argument("--draws", type=int, default=20, metavar="N")
    p.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, metavar="N", help="full trials' worth of epochs")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


@dataclass(frozen=True)
class Recorded:
    """One testbed with its replicates; config 0 is the published setting."""

    table: Table
    error: np.ndarray
    """(T,) standard error of each trial's objective."""
    objective: Mapping[tuple[int, int], float]
    """By trial and replicate (1 to 3)."""
    test: Mapping[tuple[int, int], float]

    @classmethod
    def read(cls, path: Path) -> Recorded:
        about, arrays = load(path)
        keys = list(zip(arrays["replicate_of"].tolist(), arrays["replicate"].tolist(), strict=True))
        objective, test = arrays["replicate_objective"][:, -1], arrays["replicate_test_accuracy"]
        return cls(
            table_of(about["testbed"], arrays),
            arrays["standard_error"].astype(float),
            dict(zip(keys, objective.astype(float).tolist(), strict=True)),
            dict(zip(keys, np.nan_to_num(test.astype(float), nan=0.0).tolist(), strict=True)),
        )

    @property
    def value(self) -> np.ndarray:
        """(T,), of each trial; NaN where it diverged."""
        return 100.0 - self.table.losses[:, -1]

    def truth(self, config: int, held_back: int) -> tuple[float, bool]:
        """Return the true accuracy of a config, and whether a fresh training gives it."""
        assert self.table.truth is not None
        found = self.test.get((config, held_back))
        return (float(self.table.truth[config]), False) if found is None else (found, True)

    def likely(self, configs: Sequence[int]) -> Likely:
        settings = [self.table.settings[config] for config in configs]
        values = self.value[list(configs)].tolist()
        return Likely(self.table.ranges, settings, values, float(np.median(self.error[list(configs)])))


def by_objective(recorded: Recorded, configs: Sequence[int]) -> int:
    """Return the answer without replicates: the published setting unless another is distinguishable from it."""

    def row(config: int) -> TrialRow:
        value, error = float(recorded.value[config]), float(recorded.error[config])
        return TrialRow(config, "COMPLETE", value, error, recorded.table.reports, {}, None, None, 1, None)

    best = max(configs, key=lambda config: (recorded.value[config], -config))
    return best if best == 0 or is_distinguishable(row(best), row(0), len(configs) - 1) else 0


def by_race(recorded: Recorded, configs: Sequence[int], epochs: int, seen: Sequence[int], process: bool) -> int:
    """Return the answer of the shipped race among the complete trials ``configs``, 0 the published setting.

    Args:
        epochs: that all trials have cost.
        seen: replicates that the race may use, in the order in which it gets them.
        process: whether it begins with the Gaussian process.
    """
    values = recorded.value[list(configs)]
    likely = recorded.likely(configs)
    means = likely.means() if process else values
    order = [configs[place] for place in sorted(range(len(configs)), key=lambda place: (-means[place], place))]
    order = [config for config in order if (config, seen[0]) in recorded.objective]
    trainings = affordable(epochs, recorded.table.reports)

    def prior(numbers: Sequence[int]) -> Prior:
        places = [configs.index(number) for number in numbers]
        if process:
            return likely.prior(places, numbers)
        # Each config by itself: its own value, drawn to the mean of all as far as luck explains their spread.
        spread = max(float(values.var()) - likely.noise, 0.1 * likely.noise)
        gain = spread / (spread + likely.noise)
        mean = values.mean() + gain * (values[places] - values.mean())
        return Prior(tuple(numbers), mean, (spread * (1 - gain) + likely.noise) * np.eye(len(numbers)), likely.noise)

    start = prior(hopeful(prior(entrants(order, 0, trainings)), 0))
    done: dict[int, dict[int, float]] = {}
    while more := next_round(start, done, trainings, 0):
        if more[0][1] > len(seen):
            break
        for number, index in more:
            done.setdefault(number, {})[index] = recorded.objective[number, seen[index - 1]]
    standing = stand(start, done, 0)
    return standing.numbers[0] if standing.numbers else 0


def one_draw(recorded: Recorded, draw: int, budgets: Sequence[int]) -> dict[tuple[str, int], tuple[float, bool]]:
    """Return truth and freshness of each rule's answer at each budget."""
    table = recorded.table
    held_back, *seen = (int(one) for one in np.random.default_rng(draw).permutation(REPLICATES) + 1)
    part = {budget: int(budget / (1 + RACE_SHARE)) for budget in budgets}
    costs = sorted({*budgets, *part.values()})
    epochs = [cost * table.reports for cost in costs]
    complete: dict[str, dict[int, list[int]]] = {}
    for pruner in ("asha", "none"):
        engine = OurEngine(table, draw, space=TableSpace.of(table, published=True, pruner=pruner))
        complete[pruner] = {
            cost: list(dict.fromkeys(engine.complete())) for cost, _ in zip(costs, answers(engine, epochs), strict=True)
        }
    stock = dict(zip(budgets, answers(StockEngine(table, draw), [b * table.reports for b in budgets]), strict=True))

    def answer(pruner: str, budget: int, process: bool = True) -> int:
        few = complete[pruner][part[budget]]
        if len(few) < RACE_TRIALS:
            return by_objective(recorded, complete[pruner][budget])
        return by_race(recorded, few, part[budget] * table.reports, seen, process)

    found: dict[tuple[str, int], tuple[float, bool]] = {}
    for budget in budgets:
        whole = complete["asha"][budget]
        chosen = {"published": 0, "stock": stock[budget] or 0}
        chosen["objective"] = max(whole, key=lambda config: float(recorded.value[config]))
        chosen["likely"] = chosen["objective"]
        if len(whole) >= RACE_TRIALS:
            chosen["likely"] = whole[int(recorded.likely(whole).means().argmax())]
        chosen["answer"] = answer("asha", budget)
        chosen["answer, observed"] = answer("asha", budget, process=False)
        chosen["answer, unstopped"] = answer("none", budget)
        found |= {(rule, budget): recorded.truth(chosen[rule], held_back) for rule in RULES}
    return found


def all_draws(
    recorded: Recorded, count: int, budgets: Sequence[int]
) -> list[dict[tuple[str, int], tuple[float, bool]]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return [one_draw(recorded, draw, budgets) for draw in range(count)]


def interval(differences: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean over conditions and draws with its interval; conditions are drawn first where there are several.

    Args:
        differences: (draws,) of each condition.
    """
    stream = np.random.default_rng(0)
    means = []
    for _ in range(5000):
        picked = stream.integers(len(differences), size=len(differences)) if len(differences) > 1 else [0]
        means.append(np.mean([stream.choice(differences[one], len(differences[one])).mean() for one in picked]))
    low, high = np.percentile(means, (2.5, 97.5))
    mean = float(np.mean([one.mean() for one in differences]))
    return {"mean": round(mean, 2), "low": round(float(low), 2), "high": round(float(high), 2)}


@guarded
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    unknown = [name for name in args.names if name not in TESTBEDS]
    if unknown:
        raise InputError(f"there is no testbed {unknown[0]!r}; the names: {', '.join(TESTBEDS)}")
    paths = {name: args.testbeds / f"{name}.npz" for name in args.names or TESTBEDS}
    recorded = {
        name: Recorded.read(path) for name, path in paths.items() if path.exists() and "replicate_of" in load(path)[1]
    }
    if not recorded:
        raise InputError(
            f"--testbeds {args.testbeds}: no recording with replicates; make one with benchmarks/testbeds/record.py"
        )
    missing = [name for name in TESTBEDS if name not in recorded]
    print(f"recorded: {', '.join(recorded)}; not yet: {', '.join(missing) or 'none'}", flush=True)
    budgets = sorted(args.budgets)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = [pool.submit(all_draws, one, args.draws, budgets) for one in recorded.values()]
        draws = dict(zip(recorded, [part.result() for part in parts], strict=True))
    truth = {
        (name, rule, budget): np.array([draw[rule, budget][0] for draw in found])
        for name, found in draws.items()
        for rule in RULES
        for budget in budgets
    }
    rows = []
    for where in [*recorded, "pooled"]:
        names = list(recorded) if where == "pooled" else [where]
        for budget in budgets:
            for rule in RULES:
                row: dict[str, Any] = {"testbed": where, "budget": budget, "rule": rule}
                row["accuracy"] = interval([truth[name, rule, budget] for name in names])
                for other in ("published", "stock"):
                    differences = [truth[name, rule, budget] - truth[name, other, budget] for name in names]
                    row[f"minus_{other}"] = interval(differences)
                fresh = [draw[rule, budget][1] for name in names for draw in draws[name]]
                row["judged_by_a_fresh_training"] = round(float(np.mean(fresh)), 2)
                rows.append(row)
                against = "  ".join(
                    "{0} {mean:+.2f} ({low:+.2f} to {high:+.2f})".format(other, **row[f"minus_{other}"])
                    for other in ("published", "stock")
                )
                print(f"{where:<16} {budget:>3} {rule:<18} {row['accuracy']['mean']:6.2f}  minus: {against}")
    rises = {
        rule: {
            f"{first} to {then}": interval([truth[n, rule, then] - truth[n, rule, first] for n in recorded])
            for first, then in pairwise(budgets)
        }
        for rule in RULES
    }
    if args.output is not None:
        content = {
            "what": "true test accuracy (%) of the chosen config, trained again on a fresh seed and split; replayed",
            **evidence(("optuna", "ray", "numpy", "scikit-learn")),
            "draws": args.draws,
            "recorded": list(recorded),
            "not_recorded_yet": missing,
            "rows": rows,
            "more_search": rises,
        }
        write_evidence(args.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
