"""Runs on disk for the tests of this room, as a search leaves them, without training; and a reader of pages."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from tiny_search import EPOCHS, TINY

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.files import replace_text
from tune_lnl.reporting.figure import Figure
from tune_lnl.reporting.run_data import RunView, view_run
from tune_lnl.training.run import append_report
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan, plan_search
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.study.study import SearchStudy, distributions

SPACE: dict[str, Any] = {
    **TINY,
    "conditions": {"asym40": {"dataset.closed_ratio": 0.4}, "asym20": {"dataset.closed_ratio": 0.2}},
    "search": {**TINY["search"], "mining": {"type": "choice", "choices": [True, False]}},
    "start": [{"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 2, "mining": True}],
}
"""Trials are compared after epochs 3 and 4."""


@dataclass(frozen=True)
class Asked:
    """How a trial goes: it ends in ``state`` after ``epochs`` epochs, at ``value``."""

    state: str
    value: float = 50.0
    epochs: int = EPOCHS
    seconds: float = 12.0
    """From its start to its end; each epoch takes one."""
    params: Mapping[str, Any] = field(default_factory=dict)


COMPLETE = Asked("COMPLETE", 60.0)
MIXED = (
    Asked("COMPLETE", 60.0),
    Asked("COMPLETE", 64.0),
    Asked("PRUNED", 90.0, epochs=3),
    Asked("FAIL", 40.0, epochs=2),
    Asked("COMPLETE", 58.0),
    Asked("RUNNING", 50.0, epochs=1),
)


def make_run(
    folder: Path,
    trials: Sequence[Asked],
    *,
    name: str = "tiny",
    condition: str | None = None,
    changes: Mapping[str, Any] | None = None,
    description: str = "a test",
    command: str = "python -m tune_lnl.search tiny.yaml --trials 6",
) -> Run:
    """A run in ``folder/results``, its trials one after another in one worker's time."""
    plan = _plan(json.dumps({**SPACE, **(changes or {})}), condition)
    files = RunFiles(folder / "results" / name)
    files.root.mkdir(parents=True)
    settings = plan.settings() | {"run": name, "command": command}
    del settings["race"]  # as in 0.1.0: the highest objective is the answer, though values here are closer than luck
    settings["space"]["description"] = description
    replace_text(files.settings, dump_yaml(settings))
    clock = [1.7e9]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune_lnl.tuning.study.study.time.time", lambda: clock[0])
        study = SearchStudy.create(files.study, plan.space, plan.seed)
        for asked in trials:
            number = study.ask().number
            _run_epochs(study, files.epochs(number), number, asked)
            clock[0] += asked.seconds
            _end(study, number, asked)
    return load_run(files.root)


@cache
def _plan(sections: str, condition: str | None) -> Plan:
    """Planning reads the data, which takes longer than all the rest."""
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "tiny.yaml"
        space.write_text(yaml.safe_dump(json.loads(sections), sort_keys=False), encoding="utf-8")
        options = SearchOptions.of(str(space), condition=condition, results_dir=Path(folder), command="")
        (plan,) = plan_search(options, Machine(cpus=2, gpus=0))
    return plan


def _run_epochs(study: SearchStudy, path: Path, number: int, asked: Asked) -> None:
    for epoch in range(asked.epochs):
        value = asked.value - (asked.epochs - 1 - epoch)
        study.report(number, epoch, value)
        report = {"attempt": 1, "epoch": float(epoch), "val_accuracy": value, "seconds": 1.0}
        if epoch >= 2:
            report |= {"selection_precision": 70.0 + epoch, "selection_recall": 60.0 + epoch, "selected": 100.0}
        if epoch == EPOCHS - 1:
            report["test_accuracy"] = value + 20
        append_report(path, report)


def _end(study: SearchStudy, number: int, asked: Asked) -> None:
    if asked.state == "COMPLETE":
        study.complete(number, asked.value, 1.5)
    elif asked.state == "PRUNED":
        study.prune(number, 2.5)
    elif asked.state == "FAIL":
        study.fail(number, "bug", "ValueError: <b>no</b> & more (act.py:12)")


def view(folder: Path, trials: Sequence[Asked] = MIXED, **options: Any) -> RunView:
    return view_run(make_run(folder, trials, **options))


def drawn(figure: Figure) -> Any:
    """The picture of a figure that has one, in Plotly's words."""
    assert figure.plot is not None
    return figure.plot


def imagined(one: RunView, count: int) -> RunView:
    """The run with so many complete trials in place of its own, without a study to write."""
    draw = random.Random(0)
    trials = []
    for number in range(count):
        value = draw.uniform(40, 60)
        trial = optuna.trial.create_trial(
            value=value,
            params={
                "lr": 10 ** draw.uniform(-2.5, -1),
                "lr_asymmetry": draw.uniform(0.3, 15),
                "warmup_epochs": draw.randint(1, 2),
                "mining": draw.random() < 0.5,
            },
            distributions=distributions(one.run.space),
            intermediate_values={
                epoch: value * (1 - 0.9 ** (epoch + 1)) + draw.random() for epoch in range(one.epochs)
            },
            user_attrs={"started": 100.0 * number, "finished": 100.0 * number + 150, "attempts": 1},
        )
        trial.number = number
        trials.append(trial)
    return view_run(replace(one.run, given=trials))


def write_summary(folder: Path, config: Mapping[str, Any], test: Sequence[float], objective: Sequence[float]) -> None:
    """What ``tune_lnl.train`` leaves."""
    folder.mkdir(parents=True)
    seeds = {
        str(seed): {"test_last10": one, "objective": other}
        for seed, (one, other) in enumerate(zip(test, objective, strict=True))
    }
    (folder / "summary.json").write_text(json.dumps({"config": dict(config), "seeds": seeds}))


VOID = {"meta", "br", "img", "input"}
URL_ATTRIBUTES = {"href", "src", "srcset", "action", "data", "poster", "xlink:href"}


class Page(HTMLParser):
    """A page as a strict reader sees it; tags that do not match fail."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag} {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append((self.elements[-1][1], data))
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    @property
    def plots(self) -> list[dict[str, Any]]:
        """Data and layout of every picture."""
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("class") == "plot-data"]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def addresses(self) -> list[str]:
        return [
            str(value) for _, attributes in self.elements for key, value in attributes.items() if key in URL_ATTRIBUTES
        ]
