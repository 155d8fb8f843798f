"""ACT's modules one by one, in the order of the paper's Table 4: the gain of each, on several seeds.

    python benchmarks/ablation.py [CONFIG.yaml] [--seeds 0,1,2,3,4] [--set KEY=VALUE]... [--output FILE.json]

Without a CONFIG, the first start point of the space act_digits8no. The rows: plain cross-entropy; +ASS, training on
agreed samples; +ASM, mining; +DSRW, re-weighting; +CR, pseudo labels on the strong view.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from evidence import evidence, write_evidence

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.trial import TrialConfig
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.seeds import read_config, resolve_config, train_seeds
from tune_lnl.tuning.space.space import load_space

ROWS: dict[str, dict[str, Any]] = {
    "Standard": {"method": "standard"},
    "+ASS": {"mining": False, "reweighting": False, "consistency": False},
    "+ASS+ASM": {"reweighting": False, "consistency": False},
    "+ASS+DSRW": {"mining": False, "consistency": False},
    "+ASS+ASM+DSRW": {"consistency": False},
    "+ASS+ASM+DSRW+CR": {},
}


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/ablation.py", description=__doc__)
    p.add_argument("config", nargs="?", type=Path, metavar="CONFIG.yaml")
    p.add_argument("--seeds", default="0,1,2,3,4")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


def starting_config(path: Path | None, overrides: list[str]) -> TrialConfig:
    if path is not None:
        return read_config(path, overrides, None)
    space = load_space("act_digits8no")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "act_digits8no.yaml"
        written.write_text(dump_yaml(space.config(space.start[0]).sections()))
        return read_config(written, overrides, None)


def row_figures(config: TrialConfig, seeds: list[int], surroundings: Surroundings) -> dict[str, Any]:
    results = train_seeds(config, seeds, surroundings, None, lambda seed, report: None)
    values = [result.figures["test_last10"] for result in results]
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"test_last10": values, "mean": statistics.fmean(values), "std": spread}


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    full = starting_config(arguments.config, arguments.overrides)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    surroundings = Surroundings(data_dir=arguments.data_dir)
    print(f"{full.dataset.name}, {full.settings.epochs} epochs, seeds {arguments.seeds}; test accuracy (%)", flush=True)
    table = {}
    for name, changes in ROWS.items():
        config = resolve_config(full.sections(), changes, None, "ablation")
        table[name] = row_figures(config, seeds, surroundings)
        spread = f" ± {table[name]['std']:.2f}" if table[name]["std"] is not None else ""
        print(f"{name:<18} {table[name]['mean']:6.2f}{spread}", flush=True)
    if arguments.output is not None:
        content = {
            "what": "ACT module by module, test accuracy (%) on true labels, mean of the last ten epochs",
            **evidence(("torch", "numpy")),
            "config": full.flat(),
            "seeds": seeds,
            "rows": table,
        }
        write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
