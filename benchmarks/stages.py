"""CORE's stages one by one on the drawn persons: the gain of each over plain cross-entropy, on several seeds.

    python benchmarks/stages.py [--space core_sprites] [--start 1] [--seeds 0,1,2,3,4] [--set KEY=VALUE]...

The rows: plain cross-entropy; SELF to the end; CORE; CORE whose label term takes agreed samples only; PurifyNet.
Length, lr, weight decay and batch size are the same for all, those of a start point of the space; nothing is tuned per
row. The lr of the baselines drops where it drops in CORE. A seed is a training seed; split and noise stay.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from evidence import evidence, write_evidence

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.core import CoreSettings
from tune_lnl.config.trial import TrialConfig
from tune_lnl.errors import InputError, nearest
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.seeds import resolve_config, train_seeds
from tune_lnl.tuning.space.space import load_space

FIGURES = ("objective", "test_last10", "test_rank1_last10")


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/stages.py", description=__doc__)
    p.add_argument("--space", default="core_sprites")
    p.add_argument("--condition")
    p.add_argument("--start", type=int, default=1, help="number of the start point of the space, from 0")
    p.add_argument("--seeds", default="0,1,2,3,4")
    p.add_argument("--rows", help="only these, separated by commas")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


def rows(core: CoreSettings) -> dict[str, dict[str, Any]]:
    """Return name -> changes of the CORE config."""
    drop = {"lr_milestones": [core.self_epochs]}
    half = core.epochs // 2
    purify = {"reweight_epochs": half, "lr_step": max(1, core.epochs // 3), "ramp_epochs": core.epochs}
    return {
        "cross-entropy": {"method": "reid_standard", **drop},
        "SELF to the end": {"method": "self_refine", **drop},
        "CORE": {},
        "CORE selective": {"selective": "mask"},
        "PurifyNet": {"method": "purifynet", **purify},
    }


def row_figures(config: TrialConfig, seeds: list[int], surroundings: Surroundings) -> dict[str, Any]:
    results = train_seeds(config, seeds, surroundings, None, lambda seed, report: None)
    values = {name: [result.figures[name] for result in results] for name in FIGURES}
    return {
        name: {
            "values": each,
            "mean": statistics.fmean(each),
            "std": statistics.stdev(each) if len(each) > 1 else None,
        }
        for name, each in values.items()
    }


def line(name: str, figures: dict[str, Any]) -> str:
    shown = []
    for each in FIGURES:
        spread = f" ± {figures[each]['std']:4.2f}" if figures[each]["std"] is not None else ""
        shown.append(f"{figures[each]['mean']:6.2f}{spread}")
    return f"{name:<18}" + "   ".join(shown)


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    space = load_space(arguments.space, arguments.condition, None, arguments.overrides)
    full = space.config(space.start[arguments.start])
    assert isinstance(full.settings, CoreSettings)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    surroundings = Surroundings(data_dir=arguments.data_dir)
    chosen = rows(full.settings)
    if arguments.rows is not None:
        for name in arguments.rows.split(","):
            if name not in chosen:
                raise InputError(f"--rows: no row {name!r}; {nearest(name, chosen)}")
        chosen = {name: chosen[name] for name in arguments.rows.split(",")}
    print(f"{full.dataset.name} {space.condition}, {full.settings.epochs} epochs, seeds {arguments.seeds}; percent")
    print(f"{'':<18}{'validation mAP':<17}{'test mAP':<17}test rank-1", flush=True)
    table = {}
    for name, changes in chosen.items():
        table[name] = row_figures(resolve_config(full.sections(), changes, None, name), seeds, surroundings)
        print(line(name, table[name]), flush=True)
    if arguments.output is not None:
        content = {
            "what": "CORE stage by stage, percent; mean of the last epochs of each seed, mean and deviation over seeds",
            **evidence(("torch", "numpy")),
            "config": full.flat(),
            "seeds": seeds,
            "rows": table,
        }
        write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
