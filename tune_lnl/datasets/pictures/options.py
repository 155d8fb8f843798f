"""Settings of a dataset of image files, as they stand under `dataset:` in a search space."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from tune_lnl.datasets.options import DatasetOptions, NoiseFile

MIN_SIDE, MAX_SIDE = 16, 1024


class PictureOptions(DatasetOptions):
    """Options of a dataset whose images are files of any size."""

    resolution: int | None = Field(
        default=None,
        ge=MIN_SIDE,
        le=MAX_SIDE,
        description=f"side of the network's square input in pixels, {MIN_SIDE} to {MAX_SIDE}; null: as published, for "
        "a folder of your own by its number of images and their size",
    )
    on_error: Literal["skip", "fail"] = Field(
        default="skip",
        description="skip or fail: what to do about a file that cannot be used (truncated, no image, not labelled); "
        "skipped ones are counted and named by `python -m tune_lnl.data check`",
    )
    cache_budget: float = Field(
        default=20.0,
        ge=0,
        description="GB of the cache that the images, decoded and resized once, may take; larger datasets are decoded "
        "anew in every epoch, which changes no number; 0 never packs",
    )

    @property
    def label_noise(self) -> str | NoiseFile:
        """What is done to the labels as they come."""
        raise NotImplementedError


class PublishedOptions(PictureOptions):
    """Options of a published dataset, whose labels are noisy as they come."""

    noise: Literal["none"] | NoiseFile = Field(
        default="none",
        description="none: the labels as they come, with the noise that is in them; or {file, column}: other labels, "
        "one class number per readable training image in sorted order",
    )

    @property
    def label_noise(self) -> str | NoiseFile:
        return self.noise


class FolderOptions(PictureOptions):
    """Options of a folder of your own: where it is, and noise put into it for a study."""

    root: str | None = Field(
        default=None,
        min_length=1,
        description="a folder with a folder of images per class, or a csv, tsv or parquet file with columns path, "
        "label and, if there are any, true_label and split",
    )
    test_folder: str = Field(
        default="test",
        min_length=1,
        description="folder inside root that holds the test set, class folders again; without it (or, in a file, "
        "without rows of split test) there is no test set",
    )
    noise: Literal["none", "symmetric", "asymmetric", "instance"] | NoiseFile = Field(
        default="none",
        description="none: the labels as they come; symmetric, asymmetric (every class to the next one, also called "
        "pair flip) or instance (to a class that the image's pixels suggest): noise put in for a study, which takes "
        "the labels that are there for true; or {file, column}: other labels, one class number per readable training "
        "image in sorted order",
    )
    closed_ratio: float = Field(
        default=0.2, ge=0, lt=1, description="share of labels that noise put in changes, in [0, 1); none ignores it"
    )
    noise_seed: int = Field(default=0, ge=0, lt=2**32, description="seed of that noise, 0 to 2**32 - 1")

    @property
    def label_noise(self) -> str | NoiseFile:
        return self.noise

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str | None) -> str | None:
        # A config is read in other working directories than the one it was written in.
        return None if root is None else str(Path(root).expanduser().absolute())
