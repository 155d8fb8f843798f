"""``make demo``: a search on the built-in digits, and its best config against plain cross-entropy.

Both are trained on three seeds; figures are accuracies on test images with true labels, which the search never saw.
"""

from __future__ import annotations

import statistics
import sys
from itertools import count
from pathlib import Path

from tune_lnl import load_run, run_search
from tune_lnl.cli import guarded
from tune_lnl.config.registry import settings_type
from tune_lnl.config.trial import TrialConfig
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.seeds import resolve_config, train_seeds

RESULTS = Path("results")
SEEDS = (0, 1, 2)


def free_name() -> str:
    """``demo``, or the first of ``demo-2``, ``demo-3``, ... that is not taken."""
    names = ("demo" if number == 1 else f"demo-{number}" for number in count(1))
    return next(name for name in names if not (RESULTS / name).exists())


def test_accuracies(config: TrialConfig) -> list[float]:
    """Mean test accuracy (%) of the last ten epochs, per seed."""
    results = train_seeds(config, SEEDS, Surroundings(), None, lambda seed, report: None)
    return [result.figures["test_last10"] for result in results]


@guarded
def main(argv: list[str] | None = None) -> int:
    name = free_name()
    run = run_search("act_digits8no", name=name, results_dir=RESULTS, dashboard=False)
    best = run.best
    assert best is not None, "run_search raises where no trial completed"
    config = run.config(best)
    print("\nbest config, complete:\n")
    print(dump_yaml(config.sections()))
    print(f"training it and plain cross-entropy on seeds {', '.join(map(str, SEEDS))} ...", flush=True)
    plain = resolve_config(config.sections(), {"method": "standard"}, None, str(run.files.best))
    assert isinstance(plain.settings, settings_type("standard"))
    figures = {"ACT, best config": test_accuracies(config), "plain cross-entropy": test_accuracies(plain)}
    print("\ntest accuracy on true labels, 40% asymmetric label noise, mean of the last ten epochs:")
    for label, values in figures.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"  {label:<20} {statistics.fmean(values):6.2f} ± {statistics.stdev(values):.2f}   ({each})")
    print(
        "± is over the seeds. Trials that run at once teach the sampler in the order they end, so another demo may find"
    )
    print("another config; configs this close on the held-out split differ by several points here from demo to demo.")
    print(f"\nfiles: {load_run(name, RESULTS).files.root}")
    print(f"  export it:      {sys.executable} -m tune_lnl.export {name}")
    print(f"  train it again: {sys.executable} -m tune_lnl.train {RESULTS / name / 'best.yaml'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
