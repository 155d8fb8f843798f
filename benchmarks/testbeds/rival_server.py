"""One search by another package, asked over its standard input; runs in an environment without tune_lnl.

    python rival_server.py smac|dehb|asha_cqr

A line is a request in JSON and is answered by a line:

    {"axes": D, "reports": R, "seed": S}        -> {}                           first, once
    {"ask": null}                               -> {"point": [...]}             what to train, D numbers in [0, 1]
    {"report": k, "loss": x}                    -> {"continue": true|false}     the k-th report, from 1; null: diverged

A point that was asked for before goes on from where it was stopped: only its last report counts.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import tempfile
from datetime import datetime
from typing import Any

REDUCTION = 3
"""Of all three, by default; the shortest training is a twenty-seventh of the longest, a report at least."""


class _Budgets:
    """A package that says for each training how long it is to be."""

    def __init__(self, axes: int, reports: int, seed: int) -> None:
        self.shortest, self.longest = max(1.0, reports / REDUCTION**3), float(reports)
        self.worst = 0.0
        self.begin(axes, seed, tempfile.mkdtemp(prefix="rival-"))

    def begin(self, axes: int, seed: int, folder: str) -> None:
        raise NotImplementedError

    def next(self) -> tuple[list[float], float]:
        """Return the point and the number of reports of the next training."""
        raise NotImplementedError

    def end(self, loss: float) -> None:
        raise NotImplementedError

    def ask(self) -> list[float]:
        point, self.wanted = self.next()
        return point

    def report(self, number: int, loss: float | None) -> bool:
        if loss is not None and number < math.floor(self.wanted + 1e-6):
            return True
        self.worst = max(self.worst, loss or 0.0)
        self.end(self.worst if loss is None else loss)
        return False


class Smac(_Budgets):
    """SMAC3's multi-fidelity facade: random forest and Hyperband."""

    def begin(self, axes: int, seed: int, folder: str) -> None:
        from ConfigSpace import ConfigurationSpace, Float
        from smac import MultiFidelityFacade, Scenario

        space = ConfigurationSpace(seed=seed)
        space.add([Float(f"x{axis:03d}", (0.0, 1.0)) for axis in range(axes)])
        scenario = Scenario(
            space,
            output_directory=folder,
            n_trials=10**6,
            min_budget=self.shortest,
            max_budget=self.longest,
            seed=seed,
            deterministic=True,
        )
        self.search = MultiFidelityFacade(scenario, lambda config, seed=0, budget=0.0: 0.0, logging_level=False)

    def next(self) -> tuple[list[float], float]:
        self.trial = self.search.ask()
        config = dict(self.trial.config)
        return [float(config[name]) for name in sorted(config)], float(self.trial.budget or self.longest)

    def end(self, loss: float) -> None:
        from smac.runhistory import TrialValue

        self.search.tell(self.trial, TrialValue(cost=loss))


class Dehb(_Budgets):
    """DEHB: differential evolution and Hyperband."""

    def begin(self, axes: int, seed: int, folder: str) -> None:
        from dehb import DEHB

        self.search = DEHB(
            f=lambda config, fidelity: {"fitness": 0.0, "cost": 1.0},
            dimensions=axes,
            configspace=False,
            min_fidelity=self.shortest,
            max_fidelity=self.longest,
            eta=REDUCTION,
            n_workers=1,
            seed=seed,
            output_path=folder,
            log_level="ERROR",
        )

    def next(self) -> tuple[list[float], float]:
        self.job = self.search.ask()
        return [float(value) for value in self.job["config"]], float(self.job["fidelity"])

    def end(self, loss: float) -> None:
        self.search.tell(self.job, {"fitness": loss, "cost": float(self.wanted)})


class AshaCqr:
    """Syne Tune's ASHA whose suggestions come from conformal quantile regression."""

    def __init__(self, axes: int, reports: int, seed: int) -> None:
        from syne_tune.config_space import uniform
        from syne_tune.optimizer.baselines import ASHACQR

        space = {f"x{axis:03d}": uniform(0.0, 1.0) for axis in range(axes)}
        self.reports, self.number = reports, -1
        self.search = ASHACQR(space, "loss", "report", max_t=reports, random_seed=seed, reduction_factor=REDUCTION)

    def ask(self) -> list[float]:
        from syne_tune.backend.trial_status import Trial

        suggestion = self.search.suggest()
        assert suggestion is not None
        self.number += 1
        self.trial = Trial(self.number, suggestion.config, datetime.now())
        self.search.on_trial_add(self.trial)
        return [float(suggestion.config[name]) for name in sorted(suggestion.config)]

    def report(self, number: int, loss: float | None) -> bool:
        if loss is None:
            self.search.on_trial_error(self.trial)
            return False
        result = {"loss": loss, "report": number}
        if number >= self.reports:
            self.search.on_trial_complete(self.trial, result)
            return False
        if self.search.on_trial_result(self.trial, result) == "CONTINUE":
            return True
        self.search.on_trial_remove(self.trial)
        return False


ENGINES: dict[str, Any] = {"smac": Smac, "dehb": Dehb, "asha_cqr": AshaCqr}


def main() -> None:
    # The packages print: the answers have a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)
    first = json.loads(sys.stdin.readline())
    engine = ENGINES[sys.argv[1]](first["axes"], first["reports"], first["seed"])
    reply: dict[str, Any] = {}
    while True:
        print(json.dumps(reply), file=answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        if "ask" in request:
            reply = {"point": engine.ask()}
        else:
            reply = {"continue": bool(engine.report(request["report"], request["loss"]))}


if __name__ == "__main__":
    main()
