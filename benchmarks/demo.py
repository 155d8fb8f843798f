"""``make demo``: a search on the built-in digits, and three settings trained again on seeds that no search has used.

The three rows are plain cross-entropy, the published setting, and the setting that the search answers with. Figures are
accuracies on test images with true labels, which the search never saw. It needs the package alone, no extras.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from tune_lnl import run_search
from tune_lnl.cli import guarded
from tune_lnl.config.trial import build_config
from tune_lnl.reporting.intervals import Estimate
from tune_lnl.reporting.write import write_reports
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.seeds import resolve_config, train_seeds

RESULTS = Path("results")
SEEDS = (101, 102, 103)
"""Neither the search's nor those of its replicates."""
PLAIN, PUBLISHED, SEARCHED = "plain cross-entropy", "ACT, published setting", "ACT, searched setting"


def free_name() -> str:
    """Return ``demo``, or the first of ``demo-2``, ``demo-3``, ... that is not taken."""
    names = ("demo" if number == 1 else f"demo-{number}" for number in count(1))
    return next(name for name in names if not (RESULTS / name).exists())


def test_accuracy(sections: dict[str, Any], seed: int) -> float:
    """Return the mean test accuracy (%) of the last ten epochs."""
    config = build_config(sections, "demo")
    (result,) = train_seeds(config, [seed], Surroundings(), None, lambda seed, report: None)
    return result.figures["test_last10"]


def verdict(published: Sequence[float], searched: Sequence[float]) -> str:
    """Return what the seeds say about the two settings, in a sentence."""
    differences = [ours - theirs for ours, theirs in zip(searched, published, strict=True)]
    found = Estimate.mean_of(differences)
    assert found.low is not None
    assert found.high is not None
    size = f"{abs(found.value):.2f} points {'above' if found.value >= 0 else 'below'} the published one"
    interval = f"95% interval {found.low:+.2f} to {found.high:+.2f}, {len(differences)} paired seeds"
    if found.low <= 0.0 <= found.high:
        return f"The searched setting is {size}, which this few seeds cannot tell from no difference ({interval})."
    return f"The searched setting is {size}, more than the seeds explain ({interval})."


@guarded
def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    name = free_name()
    run = run_search("act_digits8no", name=name, results_dir=RESULTS, dashboard=False)
    assert run.best is not None, "run_search raises where no trial completed"
    assert run.published is not None, "trial 0 of this space"
    searched, published = run.config(run.best), run.config(run.published)
    plain = resolve_config(published.sections(), {"method": "standard"}, None, "demo")
    rows = {PLAIN: plain.sections(), PUBLISHED: published.sections(), SEARCHED: searched.sections()}
    if run.best.number == run.published.number:
        del rows[SEARCHED]
    print(f"\ntraining {len(rows)} settings on seeds {', '.join(map(str, SEEDS))} ...", flush=True)
    jobs = [(label, seed) for label in rows for seed in SEEDS]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        found = dict(
            zip(jobs, pool.map(test_accuracy, [rows[label] for label, _ in jobs], [s for _, s in jobs]), strict=True)
        )
    figures = {label: [found[label, seed] for seed in SEEDS] for label in rows}
    figures.setdefault(SEARCHED, figures[PUBLISHED])
    print("\ntest accuracy on true labels, 40% asymmetric label noise, mean of the last ten epochs, ± over the seeds:")
    for label, values in figures.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"  {label:<23} {statistics.fmean(values):6.2f} ± {statistics.stdev(values):.2f}   ({each})")
    if run.best.number == run.published.number:
        print("The search answers with the published setting: it found none that it could tell to be better.")
    else:
        print(verdict(figures[PUBLISHED], figures[SEARCHED]))
    print(f"report: {os.path.relpath(write_reports([name], RESULTS)[0])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
