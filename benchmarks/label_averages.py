"""How much of ACT's label distributions may be left out: half precision, or the likeliest few classes of each sample.

    python benchmarks/label_averages.py [--seeds 5] [--data-dir DIR] [--output FILE]

The distributions are N samples times C classes; a million images of a thousand classes are 4 GB in float32. Two
questions are asked of every shorter form. Fidelity: beside one training with exact distributions run the shorter ones,
fed with the same predictions; how often do they correct a label in another way, and how often rightly? Accuracy: whole
trainings that use the shorter form, paired by seed with exact ones; the interval is Student's t over the seeds. The
digits have eight closed classes, so that two of them are as many as 8 of 32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evidence import evidence, write_evidence
from scipy import stats
from torch import Tensor

from tune_lnl.config.settings import build_config
from tune_lnl.methods import act
from tune_lnl.methods.act import ActConfig, ActState
from tune_lnl.training.act import ActTraining
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import settings_type, start_training

ROOT = Path(__file__).resolve().parents[1]
LAST = 5
"""Epochs whose mean is a training's accuracy, and over which corrected labels are compared."""
SETS: dict[str, dict[str, Any]] = {
    "digits8no": {
        "dataset": {"name": "digits8no", "noise": "asymmetric", "closed_ratio": 0.4},
        "fixed": {"epochs": 60, "warmup_epochs": 15, "batch_size": 64, "lr": 0.02, "lr1": 0.08},
    },
}


@dataclass(frozen=True)
class Form:
    """A way of storing label distributions."""

    kept: int | None = None
    """Classes kept per sample; all if ``None``."""
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.") if self.kept is None else f"top {self.kept}"

    def start(self, labels: Tensor, num_classes: int) -> ActState:
        state = ActState.start(labels, num_classes, self.kept)
        state.label_ema = state.label_ema.to(self.dtype)
        return state

    def bytes(self, samples: int, classes: int) -> int:
        state = self.start(torch.zeros(1, dtype=torch.int64), classes)
        own = [state.label_ema, *([] if state.label_classes is None else [state.label_classes])]
        return samples * sum(each.numel() * each.element_size() for each in own)


EXACT = Form()
HALVES = (Form(dtype=torch.float16), Form(dtype=torch.bfloat16))
FORMS = {
    "digits8no": (HALVES[0], Form(1), Form(2), Form(4)),
}
LARGE = {
    "Food-101N": (310_009, 101),
    "Clothing1M": (1_000_000, 14),
    "a million images, a thousand classes": (1_000_000, 1_000),
}


def started(name: str, seed: int, form: Form, data_dir: Path | None) -> ActTraining:
    given = SETS[name]
    sections = {
        "method": "act",
        "dataset": given["dataset"],
        "objective": {"average_last": LAST},
        "validation": {"fraction": 0.1, "seed": seed},
        "fixed": {**given["fixed"], "seed": seed},
    }
    config = build_config(sections, settings_type, "label_averages")
    surroundings = Surroundings(data_dir=data_dir, test_from=given["fixed"]["epochs"] - LAST)
    training = start_training(config, surroundings)
    assert isinstance(training, ActTraining)
    training.state = form.start(training.given_labels, training.data.noisy.num_classes)
    return training


def accuracy(name: str, seed: int, form: Form, data_dir: Path | None) -> float:
    """Mean test accuracy of the last epochs, percent."""
    training = started(name, seed, form, data_dir)
    reports = [training.run_epoch() for _ in range(training.settings.epochs)]
    return statistics.fmean(report["test_accuracy"] for report in reports[-LAST:])


def fidelity(name: str, seed: int, data_dir: Path | None) -> dict[str, dict[str, float]]:
    """What the shorter forms make of the predictions of one exact training, over its last epochs, in percent."""
    training = started(name, seed, EXACT, data_dir)
    noisy = training.data.noisy
    assert noisy.true_labels is not None
    true = torch.from_numpy(noisy.true_labels[training.data.train])
    shadows = {form.name: form.start(training.given_labels, noisy.num_classes) for form in FORMS[name]}
    unlike: dict[str, list[Tensor]] = {each: [] for each in shadows}
    right: dict[str, list[Tensor]] = {each: [] for each in ("exact", *shadows)}
    corrected_labels = act._corrected_labels

    def watched(
        rtm_logits: Tensor, labels: Tensor, selected: Tensor, index: Tensor, state: ActState, config: ActConfig
    ) -> Tensor:
        exact = corrected_labels(rtm_logits, labels, selected, index, state, config)
        last = training.epoch >= training.settings.epochs - LAST
        for each, shadow in shadows.items():
            other = corrected_labels(rtm_logits, labels, selected, index, shadow, config)
            if last:
                unlike[each].append((other != exact)[~selected])
                right[each].append((other == true[index])[~selected])
        if last:
            right["exact"].append((exact == true[index])[~selected])
        return exact

    act._corrected_labels = watched
    try:
        while not training.finished:
            training.run_epoch()
    finally:
        act._corrected_labels = corrected_labels

    def percent(flags: list[Tensor]) -> float:
        return 100.0 * float(torch.cat(flags).double().mean())

    return {"exact": {"unlike exact": 0.0, "right": percent(right["exact"])}} | {
        each: {"unlike exact": percent(unlike[each]), "right": percent(right[each])} for each in shadows
    }


def measure(name: str, seeds: int, data_dir: Path | None) -> dict[str, Any]:
    faithful = [fidelity(name, seed, data_dir) for seed in range(seeds)]
    reached = {
        form.name: [accuracy(name, seed, form, data_dir) for seed in range(seeds)] for form in (EXACT, *FORMS[name])
    }
    base = reached[EXACT.name]
    rows = {}
    for form in (EXACT, *FORMS[name]):
        key = "exact" if form == EXACT else form.name
        differences = [one - other for one, other in zip(reached[form.name], base, strict=True)]
        mean, half = statistics.fmean(differences), 0.0
        if seeds > 1:
            half = float(stats.t.ppf(0.975, seeds - 1)) * statistics.stdev(differences) / seeds**0.5
        rows[key] = {
            "corrected labels unlike exact, percent": round(
                statistics.fmean(f[key]["unlike exact"] for f in faithful), 3
            ),
            "corrected labels right, percent": round(statistics.fmean(f[key]["right"] for f in faithful), 2),
            "test accuracy": round(statistics.fmean(reached[form.name]), 2),
            "minus exact": round(mean, 2),
            "low": round(mean - half, 2),
            "high": round(mean + half, 2),
            "each seed": [round(value, 2) for value in reached[form.name]],
        }
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="holds cifar100; TUNE_LNL_DATA where not given")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "label_averages.json")
    arguments = parser.parse_args()
    forms = (EXACT, *HALVES, Form(8))
    sizes = {
        f"{what}, {samples} x {classes}": {
            ("exact" if form == EXACT else form.name): round(form.bytes(samples, classes) / 1e6, 1) for form in forms
        }
        for what, (samples, classes) in LARGE.items()
    }
    for what, row in sizes.items():
        print(f"{what}: " + ", ".join(f"{name} {value:g} MB" for name, value in row.items()), flush=True)
    results = {}
    for name in arguments.sets:
        results[name] = measure(name, arguments.seeds, arguments.data_dir)
        print(f"{name}\n  {'':<10}{'unlike exact':>13}{'right':>8}{'accuracy':>10}   minus exact")
        for form, row in results[name].items():
            print(
                f"  {form:<10}{row['corrected labels unlike exact, percent']:>12.2f}%"
                f"{row['corrected labels right, percent']:>7.1f}%{row['test accuracy']:>10.2f}"
                f"   {row['minus exact']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]",
                flush=True,
            )
    content = {
        "what": "ACT with label distributions stored in shorter forms, against exact ones",
        **evidence(("torch", "numpy")),
        "settings": SETS,
        "MB": sizes,
        "results": results,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
