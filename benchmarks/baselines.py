"""The gain of ACT: plain cross-entropy, Co-teaching, JoCoR and ACT on the digits, several seeds each.

    python benchmarks/baselines.py [--seeds 0,1,2,3,4] [--condition asym40] [--output FILE.json]

Every row trains the same network for the same length, from the same lr and on the same labels. The settings of a method
are the start points of its space (act_digits8no, co_teaching_digits8no, jocor_digits8no): as published, carried over to
the shorter run. Nothing is tuned.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from evidence import evidence, write_evidence

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.trial import TrialConfig
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.seeds import resolve_config, train_seeds
from tune_lnl.tuning.space.space import load_space

SPACES = ("co_teaching_digits8no", "jocor_digits8no", "act_digits8no")
TITLES = {"standard": "Standard (cross-entropy)", "co_teaching": "Co-teaching", "jocor": "JoCoR", "act": "ACT"}
TOLD = ("forget_rate", "co_lambda", "lr_asymmetry")


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/baselines.py", description=__doc__)
    p.add_argument("--seeds", default="0,1,2,3,4")
    p.add_argument("--condition", default="asym40")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


def rows(condition: str) -> dict[str, TrialConfig]:
    """Return title of a row -> its config: cross-entropy with the settings shared with ACT, then every start point."""
    named: dict[str, TrialConfig] = {}
    for name in SPACES:
        space = load_space(name, condition)
        for point in space.start:
            config = space.config(point)
            told = ", ".join(f"{key} {point[key]:g}" for key in TOLD if key in point)
            named[f"{TITLES[config.method]}, {told}"] = config
    act = load_space("act_digits8no", condition)
    plain = resolve_config(act.config(act.start[0]).sections(), {"method": "standard"}, None, "baselines")
    return {TITLES["standard"]: plain, **named}


def row_figures(config: TrialConfig, seeds: list[int]) -> dict[str, Any]:
    """Return test accuracy (%) of every seed, mean and deviation, and the quality of the last epoch's selection (%)."""
    results = train_seeds(config, seeds, Surroundings(), None, lambda seed, report: None)
    values = [result.figures["test_last10"] for result in results]
    figures: dict[str, Any] = {"test_last10": values, "mean": statistics.fmean(values)}
    figures["std"] = statistics.stdev(values) if len(values) > 1 else None
    for name in ("selection_precision", "selection_recall"):
        last = [result.reports[-1][name] for result in results if name in result.reports[-1]]
        if last:
            figures[name] = statistics.fmean(last)
    return figures


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    configs = rows(arguments.condition)
    print(f"digits8no, {arguments.condition}, seeds {arguments.seeds}; test accuracy, mean of the last ten epochs (%)")
    table = {}
    for title, config in configs.items():
        table[title] = figures = row_figures(config, seeds)
        spread = "" if figures["std"] is None else f" ± {figures['std']:.2f}"
        chosen = ""
        if "selection_precision" in figures:
            chosen = f"   selected: precision {figures['selection_precision']:.1f}, "
            chosen += f"recall {figures['selection_recall']:.1f}"
        print(f"{title:<38} {figures['mean']:6.2f}{spread}{chosen}", flush=True)
    if arguments.output is not None:
        content = {
            "what": "test accuracy (%) on true labels, mean of the last ten epochs; selection of the last epoch",
            **evidence(("torch", "numpy")),
            "seeds": seeds,
            "rows": {title: {**table[title], "config": without_seed(configs[title])} for title in configs},
        }
        write_evidence(arguments.output, content)
    return 0


def without_seed(config: TrialConfig) -> dict[str, Any]:
    flat = config.flat()
    flat.pop("seed")
    return flat


if __name__ == "__main__":
    sys.exit(main())
