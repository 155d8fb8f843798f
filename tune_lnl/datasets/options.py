"""Settings of a dataset, as they stand under `dataset:` in a search space.

No torch here: `--help` and `--dry-run` stay fast.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DatasetOptions(_Settings):
    """What every dataset understands."""

    name: str = Field(description="registered name of the dataset, as `python -m tune_lnl.data list` prints it")
    subset: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the training set that is kept, in (0, 1]; stratified by class, drawn after the noise",
    )
    subset_seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the subset draw, 0 to 2**32 - 1")
    classes: int | None = Field(
        default=None, ge=2, description="keep the first N source classes, N >= 2; null keeps all"
    )


class NoiseFile(_Settings):
    """Labels that someone else drew or people gave, one per training sample, in the dataset's own order."""

    file: str = Field(min_length=1, description="path of a npy, npz, parquet, csv or published CIFAR-N .pt file")
    column: str | None = Field(
        default=None,
        description="column, array or key that holds the labels; may be left out where only one can be meant",
    )


class NoisyLabelOptions(DatasetOptions):
    """Options of a dataset with clean labels that are corrupted on purpose."""

    noise: Literal["symmetric", "asymmetric", "none"] | NoiseFile = Field(
        default="symmetric",
        description="symmetric, asymmetric or none: noise of the closed classes (ACT, released data/noisy_cifar.py); "
        "none ignores closed_ratio, and open-set samples still get random closed labels; "
        "or {file, column}: labels drawn or given elsewhere",
    )
    closed_ratio: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="share of closed-class samples whose label is flipped, in [0, 1); 0 is the clean baseline "
        "(ACT, --closeset-ratio: 0.2, 0.4 or 0.8 in the paper)",
    )
    noise_seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="seed of the noise draw, 0 to 2**32 - 1 (ACT, released code: always 0, whatever its --seed)",
    )
