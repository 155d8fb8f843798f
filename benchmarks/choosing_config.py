"""Is the config that a search answers with better than the one it began with? Replayed on the recorded testbeds.

    python benchmarks/choosing_config.py [--testbeds DIR] [--draws 40] [--output FILE.json] [NAME]...

Nothing is trained: trials and replicates are drawn from the recordings of ``benchmarks/testbeds/record.py``. An answer
is judged by the true test accuracy of its config trained again on a fresh seed and split, in the one recorded replicate
that the race of that draw was not allowed to see (the race has at most the two others). Configs that were not trained
again are none of the 30 best by the objective; such an answer is judged by its own trial, and counted.

The budget is in full trials' worth of epochs, replicates included:

published   the published setting, without any search
stock       Ray's OptunaSearch (TPE) and ASHAScheduler as installed; its answer has the best last value
objective   this engine (``benchmarks/replay.py``) with the whole budget; its answer has the best objective
likely      the same; its answer has the highest mean of the Gaussian process over the settings
race        this engine with four fifths of the budget, the published setting among its trials; then the race as
            shipped (``tune_lnl.tuning.confirm.race``) with a quarter of the trials' epochs
race of the best observed
            the same race without the process: who enters and where the posterior begins is each trial's own value

Differences are paired by draw; intervals are 95% bootstrap intervals over draws. Draws of one recording share labels
and split, so they speak for that noise draw; pooled intervals draw conditions first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from evidence import evidence, write_evidence
from replay import Engine, Pool, StudyEngine, answers, ours, stock
from testbeds.record import TESTBEDS, load, space_of

from tune_lnl.cli import Parser, guarded
from tune_lnl.errors import InputError
from tune_lnl.tuning.confirm.likely import Likely
from tune_lnl.tuning.confirm.race import Prior, affordable, entrants, hopeful, next_round, stand
from tune_lnl.tuning.study.samplers import scaled
from tune_lnl.tuning.study.study import distributions

HERE = Path(__file__).resolve().parent
BUDGETS = (4, 10, 12, 20, 40)
RULES = ("published", "stock", "objective", "likely", "race", "race of the best observed")
REPLICATES = 3


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/choosing_config.py", description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help="testbeds; default: all that are recorded with replicates")
    p.add_argument("--testbeds", type=Path, default=HERE / "testbeds", metavar="DIR")
    p.add_argument("--draws", type=int, default=40, metavar="N")
    p.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, metavar="N", help="full trials' worth of epochs")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


@dataclass(frozen=True)
class Recorded:
    """One testbed with its replicates."""

    name: str
    pool: Pool
    standard_error: np.ndarray
    """(T,), of each trial's objective."""
    objective: Mapping[tuple[int, int], float]
    """By trial and replicate (1 to 3)."""
    test: Mapping[tuple[int, int], float]

    @classmethod
    def read(cls, path: Path) -> Recorded:
        about, arrays = load(path)
        space = space_of(about["testbed"])
        ranges = distributions(space)
        trials = range(len(arrays["objective"]))
        params = [{name: _plain(arrays[f"param_{name}"][trial]) for name in ranges} for trial in trials]
        points = np.array([[scaled(one[name], range_) for name, range_ in ranges.items()] for one in params])
        # A diverged trial stays at its last value for the replayed engines, which see no NaN; it is never the best.
        curves = np.nan_to_num(arrays["objective"].astype(float), nan=0.0)
        test = arrays["test_accuracy"].astype(float)
        pool = Pool(params, ranges, points, curves, np.nan_to_num(test, nan=0.0), space)
        keys = list(zip(arrays["replicate_of"].tolist(), arrays["replicate"].tolist(), strict=True))
        return cls(
            about["testbed"],
            pool,
            arrays["standard_error"].astype(float),
            dict(zip(keys, arrays["replicate_objective"][:, -1].astype(float).tolist(), strict=True)),
            dict(zip(keys, arrays["replicate_test_accuracy"].astype(float).tolist(), strict=True)),
        )

    def truth(self, config: int, held_back: int) -> tuple[float, bool]:
        """Return the true accuracy of a config, and whether a fresh training gives it."""
        found = self.test.get((config, held_back))
        if found is None:
            return float(self.pool.test[config]), False
        return (found if np.isfinite(found) else 0.0), True


def _plain(value: Any) -> Any:
    return value.item()


def complete_trials(engine: Engine, pool: Pool) -> list[int]:
    """Return the configs of the complete trials of one of our searches."""
    assert isinstance(engine, StudyEngine)
    done = [trial.number for trial in engine.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return [engine.sampler.configs[number] for number in done]


def by_race(recorded: Recorded, configs: Sequence[int], epochs: int, seen: Sequence[int], process: bool) -> int:
    """Return the answer of the shipped race among the complete trials ``configs``, config 0 the published setting.

    Args:
        epochs: that all trials have cost.
        seen: replicates that the race may use, in the order in which it gets them.
    """
    pool = recorded.pool
    values = pool.objective[list(configs), -1]
    error = float(np.median(recorded.standard_error[list(configs)]))
    likely = Likely(pool.space.parameters, [pool.params[config] for config in configs], values.tolist(), error)
    means = likely.means() if process else values
    order = [configs[place] for place in sorted(range(len(configs)), key=lambda place: (-means[place], place))]
    order = [config for config in order if (config, seen[0]) in recorded.objective]
    trainings = affordable(epochs, pool.epochs)

    def prior(numbers: Sequence[int]) -> Prior:
        places = [configs.index(number) for number in numbers]
        found = likely.prior(places, numbers)
        if process:
            return found
        # Each config by itself: its own value, drawn to the mean of all as far as luck explains their spread.
        spread = max(float(values.var()) - likely.noise, 0.1 * likely.noise)
        gain = spread / (spread + likely.noise)
        mean = values.mean() + gain * (values[places] - values.mean())
        return Prior(tuple(numbers), mean, (spread * (1 - gain) + likely.noise) * np.eye(len(numbers)), likely.noise)

    numbers = hopeful(prior(entrants(order, 0, trainings)), 0)
    start = prior(numbers)
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
    pool = recorded.pool
    order = np.random.default_rng(draw).permutation(REPLICATES) + 1
    held_back, seen = int(order[0]), [int(one) for one in order[1:]]
    found: dict[tuple[str, int], tuple[float, bool]] = {}
    for budget in budgets:
        chosen = {"published": 0}
        engine = stock(pool, draw)
        (answer,) = answers(engine, [budget * pool.epochs])
        chosen["stock"] = 0 if answer is None else engine.sampler.configs[answer]
        for rule, share in (("objective", 1.0), ("race", 0.8)):
            # The published setting is a trial of every search of ours: the first, complete.
            spent = int(budget * share) * pool.epochs
            engine = ours(pool, draw)
            list(answers(engine, [max(0, spent - pool.epochs)]))
            configs = [0, *dict.fromkeys(config for config in complete_trials(engine, pool) if config != 0)]
            values = pool.objective[configs, -1]
            if rule == "objective":
                chosen[rule] = configs[int(values.argmax())]
                likely = chosen[rule]
                if len(configs) >= 8:
                    error = float(np.median(recorded.standard_error[configs]))
                    params = [pool.params[config] for config in configs]
                    process = Likely(pool.space.parameters, params, values.tolist(), error)
                    likely = configs[int(process.means().argmax())]
                chosen["likely"] = likely
            elif len(configs) >= 8:
                chosen[rule] = by_race(recorded, configs, spent, seen, process=True)
                chosen["race of the best observed"] = by_race(recorded, configs, spent, seen, process=False)
            else:  # too few complete trials: no replicates, and the whole budget for trials
                chosen[rule] = chosen["race of the best observed"] = chosen["objective"]
        found |= {(rule, budget): recorded.truth(chosen[rule], held_back) for rule in RULES}
    return found


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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budgets = sorted(args.budgets)
    draws = {name: [one_draw(one, draw, budgets) for draw in range(args.draws)] for name, one in recorded.items()}
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
                for other in ("published", "stock", "objective"):
                    if other != rule:
                        row[f"minus_{other}"] = interval(
                            [truth[name, rule, budget] - truth[name, other, budget] for name in names]
                        )
                fresh = [draw[rule, budget][1] for name in names for draw in draws[name]]
                row["judged_by_a_fresh_training"] = round(float(np.mean(fresh)), 2)
                rows.append(row)
    rises = {
        rule: {
            f"{first} to {then}": interval([truth[n, rule, then] - truth[n, rule, first] for n in recorded])
            for first, then in pairwise(budgets)
        }
        for rule in RULES
    }
    for row in rows:
        low_high = row["accuracy"]
        against = "  ".join(
            f"{other} {row[f'minus_{other}']['mean']:+.2f} ({row[f'minus_{other}']['low']:+.2f} to "
            f"{row[f'minus_{other}']['high']:+.2f})"
            for other in ("published", "stock")
            if f"minus_{other}" in row
        )
        print(f"{row['testbed']:<18} {row['budget']:>3} {row['rule']:<26} {low_high['mean']:6.2f}  minus: {against}")
    print(json.dumps(rises, indent=1))
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
