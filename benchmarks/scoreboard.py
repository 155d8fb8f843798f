"""Replay searches on recorded trainings: how far each engine's answer is from the best recorded config, at equal cost.

    python benchmarks/scoreboard.py [--tables DIR] [--engines ours,stock,...] [--seeds N] [--json FILE]
        [--pairs] [--misleading] [--history N] [--keep FILE.jsonl]

Nothing is trained. DIR holds one parquet per task in TaskSet's columns: a row per training, its hyperparameters, and
``valid_loss`` after every report. Without it the tables are the recordings of this repository. The engines are those of
``benchmarks/testbeds/engines.py``.

One training runs at a time, every report costs the same, and a budget is counted in full trainings' worth of reports.
The regret of an answer is (its last loss - the best of the table) / (the median of the table - the best); a training
that diverged has the worst finite loss. A search without an answer counts as the worst row. No engine gets start
points.

ours+related begins with every other table of DIR as a related run; with --pairs with each of them alone, in turn. With
--misleading its only related run is the same table with the losses reversed. A related run is the whole table; with
--history N it is the trials that a search of ours (seed of its own, N trainings' worth) made on it.

--keep FILE.jsonl appends each finished search and does not repeat those that stand in it; with --kept nothing else is
replayed, and engines may have different numbers of seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from evidence import evidence
from testbeds.engines import Engine, OptunaEngine, OurEngine, StockEngine, answers, related_run, run_of
from testbeds.rivals import PACKAGES, RIVALS, RivalEngine, python_of, require_environment
from testbeds.tables import Table, read_curves, read_recordings, read_tables

from tune_lnl.cli import Parser, guarded
from tune_lnl.errors import InputError, nearest
from tune_lnl.files import whole_file
from tune_lnl.tuning.space.space import load_space
from tune_lnl.tuning.study.related import RelatedRun

ROOT = Path(__file__).resolve().parents[1]
BUDGETS = (5, 10, 20, 40)
"""Full trainings' worth of reports."""
CURVES = ROOT / "benchmarks" / "data" / "act_digits8no_curves.parquet"
RELATED = "ours+related"
RESAMPLES = 4000
SAID_EVERY = 30.0
"""Seconds between two lines about what is left."""


def optuna_engine(name: str) -> Callable[[Table, int], Engine]:
    samplers = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
    }
    return lambda table, seed: OptunaEngine(table, samplers[name](seed=seed))


ENGINES: dict[str, Callable[[Table, int], Engine]] = {
    "ours": OurEngine,
    "stock": StockEngine,
    **{name: optuna_engine(name) for name in ("random", "tpe", "gp")},
    **{name: partial(RivalEngine, name) for name in RIVALS},
}


@dataclass(frozen=True)
class Search:
    """One search to replay."""

    table: str
    engine: str
    seed: int
    related: tuple[str, ...] = ()
    """Names of the tables it begins with."""
    history: int = 0
    """Trainings' worth of the searches that made the related runs; 0: the whole tables."""
    misleading: bool = False

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/scoreboard.py", description=__doc__)
    p.add_argument("--tables", type=Path, metavar="DIR")
    p.add_argument(
        "--engines",
        default="ours,stock",
        metavar="NAME,...",
        help=f"of {RELATED}, {', '.join(ENGINES)}; all: each that is installed",
    )
    p.add_argument("--seeds", type=int, default=20, metavar="N")
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--pairs", action="store_true")
    p.add_argument("--misleading", action="store_true")
    p.add_argument("--history", type=int, default=0, metavar="N")
    p.add_argument("--keep", type=Path, metavar="FILE.jsonl")
    p.add_argument("--kept", action="store_true")
    return p


def tables_of(folder: Path | None) -> list[Table]:
    if folder is not None:
        return read_tables(folder)
    return [read_curves(CURVES, load_space("act_digits8no")), *read_recordings(ROOT / "benchmarks" / "testbeds")]


def searches(args: argparse.Namespace, names: Sequence[str], engines: Sequence[str]) -> Iterator[Search]:
    """Yield what is to be replayed; seed by seed, so that an interrupted run has whole seeds of everything."""
    for seed in range(args.seeds):
        for engine in engines:
            for name in names:
                others = tuple(other for other in names if other != name)
                if engine != RELATED:
                    yield Search(name, engine, seed)
                elif args.misleading:
                    yield Search(name, engine, seed, (name,), args.history, misleading=True)
                elif args.pairs:
                    for other in others:
                        yield Search(name, engine, seed, (other,), args.history)
                else:
                    yield Search(name, engine, seed, others, args.history)


class Replays:
    """Replays searches on tables; keeps the related runs that it has made."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = {table.name: table for table in tables}
        self._related: dict[tuple[Any, ...], RelatedRun] = {}

    def play(self, search: Search) -> list[int]:
        """Return the row that the search would return after each of BUDGETS."""
        table = self.tables[search.table]
        if search.engine == RELATED:
            engine: Engine = OurEngine(table, search.seed, [self.related(name, search) for name in search.related])
        else:
            engine = ENGINES[search.engine](table, search.seed)
        try:
            found = list(answers(engine, [table.reports * trials for trials in BUDGETS]))
        finally:
            engine.close()
        return [int(table.final.argmax()) if row is None else row for row in found]

    def related(self, name: str, search: Search) -> RelatedRun:
        key = (name, search.misleading, search.history, search.seed if search.history else 0)
        if key not in self._related:
            table = self.tables[name].reversed() if search.misleading else self.tables[name]
            if search.history:
                engine = OurEngine(table, 1000 + search.seed)
                list(answers(engine, [table.reports * search.history]))
                self._related[key] = run_of(engine)
            else:
                self._related[key] = related_run(table)
        return self._related[key]


def replay_all(
    replays: Replays, wanted: Sequence[Search], keep: Path | None, only_kept: bool = False
) -> dict[Search, list[int]]:
    """Return the answers of every search; those in ``keep`` are read, the others appended to it or left out."""
    done, seconds = read_kept(keep)
    left = Counter(search.engine for search in wanted if search.key not in done)
    if not only_kept:
        print(
            f"{len(wanted)} searches, {len(wanted) - left.total()} of them kept; {estimate(left, seconds)}",
            file=sys.stderr,
        )
    found: dict[Search, list[int]] = {}
    said = time.monotonic()
    for search in wanted:
        if search.key not in done:
            if only_kept:
                continue
            begun = time.monotonic()
            done[search.key] = replays.play(search)
            ended = time.monotonic()
            seconds[search.engine].append(ended - begun)
            left[search.engine] -= 1
            if keep is not None:
                line = {"search": search.key, "rows": done[search.key], "seconds": round(ended - begun, 2)}
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            if ended - said > SAID_EVERY and left.total():
                print(estimate(left, seconds), file=sys.stderr, flush=True)
                said = ended
        found[search] = done[search.key]
    return found


def read_kept(keep: Path | None) -> tuple[dict[str, list[int]], dict[str, list[float]]]:
    """Return the answers in a file of kept searches by key, and the seconds that each engine took."""
    done: dict[str, list[int]] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    if keep is None:
        return done, seconds
    for line in keep.read_text(encoding="utf-8").splitlines() if keep.exists() else []:
        content = json.loads(line)
        done[str(content["search"])] = list(content["rows"])
        if "seconds" in content:
            seconds[json.loads(content["search"])["engine"]].append(float(content["seconds"]))
    return done, seconds


def estimate(left: Mapping[str, int], seconds: Mapping[str, Sequence[float]]) -> str:
    """Describe what is left to replay, and how long it takes as far as the engines have been timed."""
    counts = {engine: count for engine, count in left.items() if count}
    timed = {engine: float(np.mean(seconds[engine])) * count for engine, count in counts.items() if seconds.get(engine)}
    text = "to replay: " + (", ".join(f"{engine} {count}" for engine, count in counts.items()) or "nothing")
    if timed:
        text += f"; about {sum(timed.values()) / 60:.1f} min"
    unknown = [engine for engine in counts if engine not in timed]
    return f"{text}; not timed yet: {', '.join(unknown)}" if unknown else text


# ---- figures


def mean_and_interval(groups: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the mean with its 95% percentile bootstrap interval; seeds (the groups) are drawn, not single searches."""
    means = np.array([np.mean(group) for group in groups])
    drawn = np.random.default_rng(0).choice(means, (RESAMPLES, len(means))).mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"regret": round(float(means.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


Cells = Mapping[tuple[str, str, int], Mapping[int, Sequence[float]]]
"""(table, engine, budget) -> seed -> regrets; there are several with --pairs."""


def score(tables: Mapping[str, Table], found: Mapping[Search, Sequence[int]]) -> dict[str, list[dict[str, Any]]]:
    """Return ``rows``, per table, engine and budget, and ``pooled``, per engine and budget with the mean rank."""
    cells: dict[tuple[str, str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    truths: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for search, answered in found.items():
        table = tables[search.table]
        for budget, answer in zip(BUDGETS, answered, strict=True):
            cells[search.table, search.engine, budget][search.seed].append(table.regret(answer))
            if table.truth is not None:
                truths[search.table, search.engine, budget].append(table.truth_regret(answer))
    rows: list[dict[str, Any]] = []
    for (name, engine, budget), seeds in cells.items():
        row = {"table": name, "engine": engine, "trials": budget, **mean_and_interval(list(seeds.values()))}
        if truths[name, engine, budget]:
            row["true_accuracy_below_best"] = round(float(np.mean(truths[name, engine, budget])), 3)
        rows.append(row)
    names = list(dict.fromkeys(name for name, _, _ in cells))
    engines = list(dict.fromkeys(engine for _, engine, _ in cells))
    pooled: list[dict[str, Any]] = []
    for engine in engines:
        for budget in BUDGETS:
            common = sorted(set.intersection(*(set(cells[name, engine, budget]) for name in names)))
            if not common:  # of what is kept only: no seed of it has every table
                continue
            groups = [[value for name in names for value in cells[name, engine, budget][seed]] for seed in common]
            ranks = [_rank(cells, engine, engines, name, budget, seed) for name in names for seed in common]
            place = {"mean_rank": round(float(np.mean(ranks)), 3), "seeds": len(common)}
            pooled.append({"engine": engine, "trials": budget, **mean_and_interval(groups), **place})
    return {"rows": rows, "pooled": pooled}


def _rank(cells: Cells, engine: str, engines: Sequence[str], name: str, budget: int, seed: int) -> float:
    """Return an engine's rank on a table by regret among the engines that have this seed; equal ones share it."""
    own = float(np.mean(cells[name, engine, budget][seed]))
    others = [cells[name, other, budget].get(seed) for other in engines if other != engine]
    regrets = [float(np.mean(values)) for values in others if values]
    return 1.0 + sum(regret < own for regret in regrets) + sum(regret == own for regret in regrets) / 2


def markdown(pooled: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the pooled figures as a table, an engine a row."""
    budgets = [str(budget) for budget in BUDGETS]
    yield f"| engine | seeds | {' | '.join(budgets)} | mean rank at {', '.join(budgets)} |"
    yield "| --- |" + " --- |" * (len(budgets) + 2)
    by_engine: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in pooled:
        by_engine[str(row["engine"])].append(row)
    for engine, rows in by_engine.items():
        cells = [f"{row['regret']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in rows]
        ranks = ", ".join(f"{row['mean_rank']:.2f}" for row in rows)
        yield f"| {engine} | {rows[0]['seeds']} | {' | '.join(cells)} | {ranks} |"


@guarded
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    engines = list(dict.fromkeys(name.strip() for name in args.engines.split(",") if name.strip()))
    if engines == ["all"]:
        missing = [name for name in RIVALS if not python_of(name).exists()]
        engines = [name for name in [*ENGINES, RELATED] if name not in missing]
        if missing:
            print(
                f"skipped, not installed: {', '.join(missing)} (python benchmarks/testbeds/rivals.py)", file=sys.stderr
            )
    for name in engines:
        if name != RELATED and name not in ENGINES:
            raise InputError(f"--engines: unknown engine {name!r}; {nearest(name, [RELATED, *ENGINES])}")
        if name in RIVALS:
            require_environment(name)
    if args.seeds < 1 or not engines:
        raise InputError(f"--seeds is at least 1 and --engines names one engine or more, got {args.seeds}, {engines}")
    tables = tables_of(args.tables)
    if RELATED in engines and len(tables) < 2 and not args.misleading:
        raise InputError(f"--engines {RELATED} needs two tables or more: the others are what a search starts from")
    for option, path in (("--json", args.json), ("--keep", args.keep)):
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{option} {path}: {error.strerror}; give another file") from None
    wanted = list(searches(args, [table.name for table in tables], engines))
    replays = Replays(tables)
    found = replay_all(replays, wanted, args.keep, args.kept)
    scored = score(replays.tables, found)
    table = "\n".join(markdown(scored["pooled"]))
    print(table)
    if args.json is not None:
        about = {
            "what": "normalised regret of the answer, mean over seeds, 95% bootstrap; trials: full trainings' worth",
            **evidence(("optuna", "numpy", "ray")),
            "rivals": sorted({PACKAGES[RIVALS[name]] for name in engines if name in RIVALS}),
            "tables": list(replays.tables),
            "seeds": args.seeds,
        }
        with whole_file(args.json) as new:
            new.write_text(json.dumps({**about, **scored}, indent=1) + "\n", encoding="utf-8")
        with whole_file(args.json.with_suffix(".md")) as new:
            new.write_text(f"`{about['command']}`, {about['date']}; {about['what']}.\n\n{table}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
