"""How well a model is chosen among complete trials: by the objective, by images judged by hand, by the consensus.

    python benchmarks/choosing.py [--testbeds DIR] [--draws 400] [--no-consensus] [--output FILE.json]

Nothing is trained: trials are drawn from recordings (``benchmarks/testbeds/``), m complete ones at a time, and one of
them is chosen. Its regret is the true test accuracy of the best of the m less its own, in points. The answers to
judged images are the recorded truth. All rules see the same draws, so that differences and ratios are paired; the
intervals are those of a bootstrap over the draws, 95%.

Rules: ``noisy``, the highest noisy accuracy on the held-out images; ``judged K`` with K answers
(:mod:`tune_lnl.methods.judging`); ``consensus`` (:func:`tune_lnl.methods.consensus.denoised_scores`, guarded) and
``consensus, no guard``; ``prototype 30``, 30 images drawn alike, each counting as much as 1 / 0.15 agreements;
``truth``, all held-out images with their true class. The consensus takes most of the time; --no-consensus leaves it
out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from evidence import evidence, write_evidence
from numpy.typing import NDArray
from testbeds.record import load

from tune_lnl.cli import Parser, guarded
from tune_lnl.methods.consensus import consensus
from tune_lnl.methods.judging import images_to_judge, judged_scores, judging_weights

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "results" / "reference" / "choosing.json"
TRIALS, ANSWERS = (8, 16, 32), (8, 30, 120)
PROTOTYPE = "prototype 30"
BOOTSTRAP = 2000


@dataclass(frozen=True)
class Recorded:
    """T complete trials of one condition, M held-out images.

    Attributes:
        probabilities: float32 (T, M, C), reported networks.
        given, true: int64 (M,); true is -1 for open-set images.
        test: float64 (T,), true test accuracy, percent.
    """

    name: str
    probabilities: NDArray[np.float32]
    given: NDArray[np.int64]
    true: NDArray[np.int64]
    test: NDArray[np.float64]


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/choosing.py", description=__doc__)
    p.add_argument("--testbeds", type=Path, default=HERE / "testbeds", metavar="DIR")
    p.add_argument("--draws", type=int, default=400, metavar="N")
    p.add_argument("--no-consensus", action="store_true")
    p.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.json")
    return p


def read_recorded(path: Path) -> Recorded:
    """Read the trials of a recording that did not diverge."""
    _, arrays = load(path)
    finite = np.isfinite(arrays["test_accuracy"]) & np.isfinite(arrays["objective"][:, -1])
    return Recorded(
        path.stem,
        arrays["probabilities"][finite, 0].astype(np.float32),
        arrays["given"].astype(np.int64),
        arrays["true"].astype(np.int64),
        arrays["test_accuracy"][finite].astype(np.float64),
    )


def rules(
    recorded: Recorded, chosen: NDArray[np.int64], seed: int, with_consensus: bool
) -> dict[str, NDArray[np.float64]]:
    """Return each rule's scores (m,) of the chosen trials."""
    predicted, given, true = recorded.probabilities[chosen], recorded.given, recorded.true
    classes = predicted.argmax(axis=2)
    agreement = (classes == given).mean(axis=1)
    scores = {"noisy": agreement}
    if with_consensus:
        found = consensus(predicted, given)
        scores["consensus"] = found.scores if found.trusted else agreement
        scores["consensus, no guard"] = found.scores
    scores["truth"] = (classes == true).mean(axis=1)
    for count in (count for count in ANSWERS if count <= len(given)):
        index = images_to_judge(predicted, given, count, seed)
        weights = judging_weights(predicted, given, count)[index]
        scores[f"judged {count}"] = judged_scores(predicted, given, index, true[index], weights)
    alike = np.random.default_rng(seed).choice(len(given), 30, replace=False)
    others = np.ones(len(given), dtype=np.bool_)
    others[alike] = False
    right, agrees = classes[:, alike] == true[alike], classes[:, others] == given[others]
    scores[PROTOTYPE] = right.sum(axis=1) + 0.15 * agrees.sum(axis=1)
    return scores


def regrets(recorded: Recorded, trials: int, draws: int, with_consensus: bool) -> dict[str, NDArray[np.float64]]:
    """Return each rule's regret (draws,), points; ties are broken evenly."""
    found: dict[str, list[float]] = {}
    for draw in range(draws):
        chosen = np.random.default_rng((trials, draw)).choice(len(recorded.test), trials, replace=False)
        test = recorded.test[chosen]
        for rule, scores in rules(recorded, chosen, draw, with_consensus).items():
            best = scores >= scores.max() - 1e-12
            found.setdefault(rule, []).append(float(test.max() - test[best].mean()))
    return {rule: np.array(values) for rule, values in found.items()}


def compared(regret: NDArray[np.float64], noisy: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean regret, its difference from and its ratio to the noisy accuracy's, each with its interval.

    Args:
        regret, noisy: (conditions, draws); draws are resampled within each condition.
    """
    random = np.random.default_rng(0)
    place = random.integers(regret.shape[1], size=(BOOTSTRAP, *regret.shape))
    rows = np.arange(len(regret))[:, None]
    means = np.array([[regret[rows, one].mean(), noisy[rows, one].mean()] for one in place])

    def interval(values: NDArray[np.float64]) -> list[float]:
        return [round(float(value), 3) for value in np.quantile(values, (0.025, 0.975))]

    return {
        "regret": round(float(regret.mean()), 3),
        "regret_interval": interval(means[:, 0]),
        "difference": round(float((regret - noisy).mean()), 3),
        "difference_interval": interval(means[:, 0] - means[:, 1]),
        "ratio": round(float(regret.mean() / noisy.mean()), 3),
        "ratio_interval": interval(means[:, 0] / means[:, 1]),
    }


def report(found: Mapping[tuple[str, int], dict[str, NDArray[np.float64]]]) -> list[dict[str, Any]]:
    """Return a row per condition (or all pooled), number of trials and rule."""
    rows = []
    for trials in TRIALS:
        conditions = [name for name, of in found if of == trials]
        for name in [*conditions, *(["pooled"] if len(conditions) > 1 else [])]:
            tables = [found[each, trials] for each in (conditions if name == "pooled" else [name])]
            common = [rule for rule in tables[0] if all(rule in table for table in tables)]
            for rule in common:
                pair = (np.stack([table[key] for table in tables]) for key in (rule, "noisy"))
                rows.append({"condition": name, "trials": trials, "rule": rule, **compared(*pair)})
    return rows


@guarded
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    found = {}
    for path in sorted(args.testbeds.glob("*.npz")):
        recorded = read_recorded(path)
        for trials in (count for count in TRIALS if count <= len(recorded.test)):
            found[recorded.name, trials] = regrets(recorded, trials, args.draws, not args.no_consensus)
        print(f"{recorded.name}: {len(recorded.test)} trials, {len(recorded.given)} held-out images", flush=True)
    rows = report(found)
    for row in rows:
        low, high = row["ratio_interval"]
        print(
            f"{row['condition']:<20} {row['trials']:>3} {row['rule']:<20} {row['regret']:6.2f}  "
            f"{row['ratio']:5.2f} [{low:.2f}, {high:.2f}]"
        )
    what = "regret of the chosen model in true accuracy (points), its ratio to the noisy accuracy's, 95% intervals"
    write_evidence(args.output, {"what": what, **evidence(("numpy",)), "draws": args.draws, "rows": rows})
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
