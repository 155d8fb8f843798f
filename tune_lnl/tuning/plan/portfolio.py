"""Portfolios: for a method a handful of configs that our own searches found, with the evidence for each.

They are files of ``search_spaces/portfolios/``, one per method, and ship in the wheel. A search suggests those that fit
its space after its start points, as the points of a related run in which they are all better than the published
setting. Where the first of them are worse than trial 0, that run is trusted no more, and the rest is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Portfolio:
    """The configs of a portfolio as far as they fit a search."""

    name: str
    configs: int
    """Those that fit, without start points and repetitions."""
    left_out: int
    """Those that do not fit."""
    related: RelatedRun

    def sentence(self) -> str:
        """Describe its use, for the user."""
        more = f"; {self.left_out} of its configs do not fit this space" if self.left_out else ""
        if not self.configs:
            return f"the portfolio {self.name} is not used: it has no config to add{more}"
        return (
            f"{self.configs} configs of the portfolio {self.name} are suggested after the start points as long as they "
            f"are better than trial 0{more}; --portfolio none leaves them out"
        )


def find_portfolio(choice: str, space: SearchSpace) -> Portfolio | None:
    """Return the configs of a portfolio that fit a space; ``None``: there is no portfolio.

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
    points, left_out = [], 0
    for number, config in enumerate(configs, start=1):
        point = fitting_point(config.settings, config.epochs, space)
        if point is not None and config.settings.keys() <= space.parameters.keys():
            if point not in points and point not in [dict(start) for start in space.start]:
                points.append(point)
        elif choice == "auto":
            left_out += 1
        else:
            raise InputError(
                f"--portfolio {path}: config {number} ({config.settings}) does not fit the space {space.name}, which "
                f"searches {', '.join(space.parameters)}; correct the file, or give --portfolio none"
            )
    if len({tuple(point) for point in points}) > 1:
        raise InputError(f"--portfolio {path}: its configs do not all give the same settings; correct the file")
    # All alike, and better than the published setting: what the trials of the search can deny.
    published = [
        {name: first[name] for name in point}
        for point in points[:1]
        for first in space.start[:1]
        if point.keys() <= first.keys()
    ]
    related = RelatedRun(path.stem, [*points, *published], [0.0] * len(points) + [1.0] * len(published))
    return Portfolio(path.stem, len(points), left_out, related)
