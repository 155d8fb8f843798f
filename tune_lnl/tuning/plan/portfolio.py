"""Portfolios: for a method a handful of configs that our own searches found, with the evidence for each.

They are files of ``search_spaces/portfolios/``, one per method, and ship in the wheel. A search suggests those that fit
its space after its start points, as the points of a related run.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from pydantic import Field

from tune_lnl.config.base import Settings, check_keys, validated
from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError
from tune_lnl.tuning.plan.warm_start import fitting_point
from tune_lnl.tuning.space.named import shipped_folder
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.tuning.study.related import RelatedRun

KEYS = ("method", "configs")


class Evidence(Settings):
    """What a config of a portfolio is known by."""

    space: str = Field(description="the space that was searched, or its dataset and model")
    condition: str | None = Field(description="of the space")
    run: str = Field(description="name of the run")
    trial: int = Field(ge=0, description="number of the trial")
    trials: int = Field(ge=1, description="number of trials of the run")
    metric: str = Field(description="the objective")
    value: float = Field(description="of the trial, on the noisy held-out split")
    standard_error: float = Field(gt=0, description="of that value")
    published: float | None = Field(description="the objective of the published setting (trial 0) in that run")
    date: date


class PortfolioConfig(Settings):
    """One config of a portfolio."""

    settings: dict[str, Any] = Field(min_length=1, description="searched settings by their names")
    epochs: int = Field(ge=1, description="length of the training; settings that count epochs scale with it")
    evidence: Evidence


def read_portfolio(path: Path) -> tuple[str, list[PortfolioConfig]]:
    """Read and check a portfolio.

    Returns:
        its method, and its configs.

    Raises:
        InputError: the file is no portfolio; the message names the place.
    """
    raw = read_mapping(path)
    check_keys(raw, KEYS, str(path), "section")
    if not isinstance(raw.get("method"), str) or not isinstance(raw.get("configs"), list) or not raw["configs"]:
        raise InputError(f"{path}: a portfolio has method: NAME and configs: a list of one config or more")
    configs = []
    for number, entry in enumerate(raw["configs"], start=1):
        where = f"{path}: config {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where} is a mapping of settings, epochs and evidence, got {entry!r}")
        configs.append(validated(PortfolioConfig, entry, where))
    return raw["method"], configs


def find_portfolio(choice: str, space: SearchSpace) -> RelatedRun | None:
    """Return the configs of a portfolio that fit a space, as a related run; ``None``: there is none.

    Args:
        choice: ``none``; ``auto``: the shipped portfolio of the method, of which what does not fit is left out; or the
            path of a portfolio, of which everything must fit.
        space: of the search.

    Raises:
        InputError: there is no such file, it is no portfolio, or it does not fit.
    """
    if choice == "none":
        return None
    method = str(space.base["method"])
    path = shipped_folder() / "portfolios" / f"{method}.yaml" if choice == "auto" else Path(choice)
    if not path.is_file():
        if choice == "auto":
            return None
        raise InputError(f"--portfolio is auto, none, or the path of a YAML file; there is no file {choice!r}")
    of, configs = read_portfolio(path)
    if of != method:
        raise InputError(
            f"--portfolio {path}: it is of method {of}, this search of {method}; give another file, or none"
        )
    points = []
    for number, config in enumerate(configs, start=1):
        point = fitting_point(config.settings, config.epochs, space)
        if point is not None and config.settings.keys() <= space.parameters.keys():
            if point not in points and point not in [dict(start) for start in space.start]:
                points.append(point)
        elif choice != "auto":
            raise InputError(
                f"--portfolio {path}: config {number} ({config.settings}) does not fit the space {space.name}, which "
                f"searches {', '.join(space.parameters)}; correct the file, or give --portfolio none"
            )
    if len({tuple(point) for point in points}) > 1:
        raise InputError(f"--portfolio {path}: its configs do not all give the same settings; correct the file")
    return RelatedRun(path.stem, points, [0.0] * len(points)) if points else None
