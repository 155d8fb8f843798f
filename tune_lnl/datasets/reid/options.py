"""Settings of a person re-identification dataset, as they stand under `dataset:` in a search space."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from tune_lnl.datasets.options import DatasetOptions, NoiseFile


class ReidOptions(DatasetOptions):
    """Options of a dataset of people: one label per identity, corrupted on purpose in the training set only."""

    noise: Literal["random", "patterned", "none"] | NoiseFile = Field(
        default="random",
        description="random, patterned or none: identity noise of the training images (CORE, released utils.py): "
        "another identity at random, or the one that a clean-trained network finds most likely besides the true one; "
        "or {file, column}: identity numbers drawn or given elsewhere, one per training image in sorted file order",
    )
    noise_ratio: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="share of each identity's training images that get another identity, in [0, 1); none ignores it "
        "(CORE, released train_core.py, --noise_ratio: 0.1, 0.2 or 0.3 in the paper)",
    )
    noise_seed: int = Field(
        default=1,
        ge=0,
        lt=2**32,
        description="seed of the noise draw, 0 to 2**32 - 1 (CORE, released code: always 1, whatever its --seed)",
    )
    height: int | None = Field(
        default=None,
        ge=16,
        le=1024,
        multiple_of=2,
        description="height of the network's input in pixels, even, 16 to 1024; the width is half of it; "
        "null: the dataset's own (256 as published)",
    )
    split: Literal["train", "train_all"] = Field(
        default="train",
        description="which training folder of the re-organised layout: train, or train_all (the usual preparing script "
        "makes train by leaving one image per identity out of train_all); official layouts have one for both",
    )
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="fail or skip: what to do about an image that cannot be read or whose name is not of the published "
        "form; skipped ones are counted and named by `python -m tune_lnl.data check`",
    )
    subset: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the training images that is kept, in (0, 1]; stratified by identity, drawn after the "
        "noise and after the validation identities are set aside",
    )
    classes: int | None = Field(
        default=None, ge=2, description="keep the first N training identities, N >= 2; null keeps all"
    )
    patterned_labels: str | None = Field(
        default=None,
        description="path of the saved predictions of a clean-trained network, for patterned noise; "
        "null: the file in the cache, which `python -m tune_lnl.data prepare NAME --patterned` makes",
    )
    identities: Literal["true", "given"] = Field(
        default="true",
        description="whether the file names carry true identities, or only given ones, as people or a tracker assigned "
        "them; given needs noise none, and then the validation identities are disjoint from the training ones as given "
        "only: a person under two identities may be on both sides, so that the score can reward remembering",
    )

    @field_validator("identities")
    @classmethod
    def _no_noise_on_given_identities(cls, identities: str, info: ValidationInfo) -> str:
        if identities == "given" and info.data.get("noise", "none") != "none":
            raise ValueError("identities that are only given get no noise on top: set dataset.noise=none")
        return identities


class Cuhk03Options(ReidOptions):
    """CUHK03-NP comes with two sets of boxes."""

    boxes: Literal["detected", "labeled"] = Field(
        default="detected", description="detected or labeled: boxes of a detector, or drawn by people"
    )
