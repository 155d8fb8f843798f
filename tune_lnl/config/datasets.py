"""Options of datasets: the keys under `dataset:` in a search space."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from tune_lnl.config.base import Settings

MIN_SIDE, MAX_SIDE = 16, 1024


class DatasetOptions(Settings):
    """Options of every dataset."""

    task: ClassVar[str] = "classification"
    """Task of the methods that can train on it: "classification" or "re-identification"."""

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


class NoiseFile(Settings):
    """Labels from a file, drawn elsewhere or given by people: one per training sample, in the dataset's own order."""

    file: str = Field(min_length=1, description="path of a npy, npz, parquet, csv or published CIFAR-N .pt file")
    column: str | None = Field(
        default=None,
        description="column, array or key that holds the labels; optional where the file holds only one candidate",
    )


class NoisyLabelOptions(DatasetOptions):
    """Options of a dataset with clean labels that are corrupted on purpose."""

    noise: Literal["symmetric", "asymmetric", "none"] | NoiseFile = Field(
        default="symmetric",
        description="symmetric, asymmetric or none: noise of the closed classes (ACT, released data/noisy_cifar.py); "
        "none ignores closed_ratio, and open-set samples still get random closed labels; "
        "or {file, column}: labels from a file",
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


class DigitsOptions(NoisyLabelOptions):
    """Options of digits8no: 40% asymmetric noise by default, where plain training suffers most."""

    noise: Literal["symmetric", "asymmetric", "none"] | NoiseFile = Field(
        default="asymmetric", description=NoisyLabelOptions.model_fields["noise"].description
    )
    closed_ratio: float = Field(
        default=0.4, ge=0, lt=1, description=NoisyLabelOptions.model_fields["closed_ratio"].description
    )


@dataclass(frozen=True)
class DrawnNoise:
    """Label noise that is drawn at random."""

    kind: Literal["symmetric", "asymmetric", "instance"]
    closed_ratio: float
    """Share of the labels that change, in [0, 1)."""
    seed: int


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
        description="skip or fail: how to treat a file that cannot be used (truncated, no image, not labelled); "
        "skipped files are counted and named by `python -m tune_lnl.data check`",
    )
    cache_budget: float = Field(
        default=20.0,
        ge=0,
        description="GB of the cache that the images, decoded and resized once, may take; larger datasets are decoded "
        "anew in every epoch, which changes no number; 0 never packs",
    )

    @property
    def label_file(self) -> NoiseFile | None:
        """Labels from a file that replace those of the dataset; None where there is no file."""
        return None

    @property
    def drawn_noise(self) -> DrawnNoise | None:
        """Noise that is drawn on top of the labels; None where the labels are used unchanged."""
        return None


class PublishedOptions(PictureOptions):
    """Options of a published dataset, whose labels are noisy already."""

    noise: Literal["none"] | NoiseFile = Field(
        default="none",
        description="none: the labels of the dataset, with their own noise; or {file, column}: labels from a file, "
        "one class number per readable training image in sorted order",
    )

    @property
    def label_file(self) -> NoiseFile | None:
        return self.noise if isinstance(self.noise, NoiseFile) else None


class FolderOptions(PictureOptions):
    """Options of a folder of your own: its path, and noise added for a study."""

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
        description="none: the labels unchanged; symmetric, asymmetric (every class to the next one, also called pair "
        "flip) or instance (to a class that the image's pixels suggest): noise added for a study, which treats the "
        "existing labels as true; or {file, column}: labels from a file, one class number per readable training "
        "image in sorted order",
    )
    closed_ratio: float = Field(
        default=0.2, ge=0, lt=1, description="share of labels that the added noise changes, in [0, 1); none ignores it"
    )
    noise_seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the added noise, 0 to 2**32 - 1")

    @property
    def label_file(self) -> NoiseFile | None:
        return self.noise if isinstance(self.noise, NoiseFile) else None

    @property
    def drawn_noise(self) -> DrawnNoise | None:
        if isinstance(self.noise, NoiseFile) or self.noise == "none":
            return None
        return DrawnNoise(self.noise, self.closed_ratio, self.noise_seed)

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str | None) -> str | None:
        # A config is read in other working directories than the one it was written in.
        return None if root is None else str(Path(root).expanduser().absolute())


class ReidOptions(DatasetOptions):
    """Options of a dataset of people: one label per identity, corrupted on purpose in the training set only."""

    task: ClassVar[str] = "re-identification"

    noise: Literal["random", "patterned", "none"] | NoiseFile = Field(
        default="random",
        description="random, patterned or none: identity noise of the training images (CORE, released utils.py): "
        "another identity at random, or the one that a clean-trained network finds most likely besides the true one; "
        "or {file, column}: identity numbers from a file, one per training image in sorted file order",
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
        description="fail or skip: how to treat an image that cannot be read or whose name does not have the published "
        "form; skipped images are counted and named by `python -m tune_lnl.data check`",
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
    pattern: str | None = Field(
        default=None,
        description="regular expression of your own file names, without the ending, with the groups identity and "
        "camera (numbers), for example (?P<camera>[0-9]+)_person(?P<identity>[0-9]+)_.*; null: the published form. "
        "Identity -1 is junk, 0 a distractor",
    )
    patterned_labels: str | None = Field(
        default=None,
        description="path of the saved predictions of a clean-trained network, for patterned noise; "
        "null: the file in the cache, which `python -m tune_lnl.data prepare NAME --patterned` makes",
    )
    identities: Literal["true", "given"] = Field(
        default="true",
        description="true: the file names carry true identities; given: identities as people or a tracker assigned "
        "them. given needs noise none. The validation identities are then disjoint from the training ones by the given "
        "identity only: a person under two identities may be on both sides, and the score can reward memorising",
    )

    @property
    def boxes_folder(self) -> str | None:
        """The folder between the root and the official splits that an option chooses, or None."""
        return None

    @field_validator("pattern")
    @classmethod
    def _has_groups(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern, re.ASCII).groupindex
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from error
        missing = [name for name in ("identity", "camera") if name not in groups]
        if missing:
            raise ValueError(f"must have a group (?P<{missing[0]}>[0-9]+)")
        return pattern

    @field_validator("identities")
    @classmethod
    def _no_noise_on_given_identities(cls, identities: str, info: ValidationInfo) -> str:
        if identities == "given" and info.data.get("noise", "none") != "none":
            raise ValueError("given identities get no added noise: set dataset.noise=none")
        return identities


class Cuhk03Options(ReidOptions):
    """CUHK03-NP comes with two sets of boxes."""

    boxes: Literal["detected", "labeled"] = Field(
        default="detected", description="detected or labeled: boxes of a detector, or drawn by people"
    )

    @property
    def boxes_folder(self) -> str:
        return self.boxes
