"""Prepare a person dataset for training: hold out validation identities, corrupt identities, keep a subset.

The order is fixed: the first N identities, then the validation identities, then noise among the remaining training
identities, then the subset. So validation images keep the labels of the source, no validation person is trained on, and
the labels of a subset are those of the full run. With a validation fraction of 0 the noise equals the published draw
(CORE, released utils.py, lines 17-40), number for number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import RandomState

from tune_lnl.config.datasets import NoiseFile, ReidOptions
from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.label_file import given_labels
from tune_lnl.datasets.noise import patterned_identity_noise, random_identity_noise
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import get_dataset
from tune_lnl.datasets.reid.predictions import predictions_for, second_identities
from tune_lnl.datasets.reid.sets import ReidDataset, ReidSource
from tune_lnl.datasets.split import MAX_VALIDATION_FRACTION, stratified_subset
from tune_lnl.errors import InputError


@dataclass(frozen=True)
class ReidData:
    """Training images under noisy identities; validation query and gallery of other people. n images, C identities.

    Attributes:
        source: all pixels, including the official query and gallery (the test set).
        train_rows: int64 (n,), sorted rows of `source.train`: the training images.
        given_labels: int64 (n,) in 0..C-1, the noisy labels.
        true_labels: int64 (n,) in 0..C-1; None where the source has given identities only.
        identity_numbers: int64 (C,), ascending: the identity, as in the file names, of each label.
        num_classes: C, the outputs of a classifier head.
        validation_query: int64, sorted rows of `source.train`; one image per validation identity and camera.
        validation_gallery: int64, sorted rows of `source.train`; the other images of the validation identities.
        fingerprints: sha256 (hex); "source": of the source; "labels": rows, given labels and their identities;
            "split": rows of validation query and gallery.
        requested_noise: the requested noise ratio, in [0, 1); None for labels from a file or given identities.
        disjoint_in: the kind of identities in which validation and training are disjoint. With "given" a person under
            two identities may be on both sides, so that the score can reward memorisation.
    """

    source: ReidSource
    train_rows: Labels
    given_labels: Labels
    true_labels: Labels | None
    identity_numbers: Labels
    num_classes: int
    validation_query: Labels
    validation_gallery: Labels
    fingerprints: dict[str, str]
    requested_noise: float | None
    disjoint_in: Literal["true", "given"]

    @property
    def measured_noise(self) -> float | None:
        """Share of training images with a wrong identity; None if unknown."""
        return None if self.true_labels is None else float(np.mean(self.given_labels != self.true_labels))


def get_reid_dataset(name: str) -> ReidDataset:
    """Return the person dataset registered under `name`.

    Raises:
        InputError: as :func:`tune_lnl.datasets.registry.get_dataset`, or a dataset for something else.
    """
    dataset = get_dataset(name)
    if not isinstance(dataset, ReidDataset):
        raise InputError(
            f"dataset {name!r} is for {dataset.task}, and re-identification was asked for\n"
            "choose another dataset or method"
        )
    return dataset


def load_reid(
    options: ReidOptions, data_dir: Path | None, validation_fraction: float, validation_seed: int
) -> ReidData:
    """Load the dataset of `options` for training.

    Args:
        options: a person dataset's own options, from `registry.parse_options`.
        data_dir: the data dir; None: the environment variable TUNE_LNL_DATA, then the cache.
        validation_fraction: share of the training identities to hold out, in [0, 0.9]; 0 trains on all.
        validation_seed: chooses these identities, and which of their images are queries; 0 to 2**32 - 1.

    Raises:
        InputError: data, noise file or predictions are absent or unusable, or there are too few identities.
        CorruptDataError: data or predictions are damaged.
    """
    dataset = get_reid_dataset(options.name)
    if not 0.0 <= validation_fraction <= MAX_VALIDATION_FRACTION:
        raise InputError(
            f"validation.fraction must be in [0, {MAX_VALIDATION_FRACTION}], got {validation_fraction!r}\n"
            "0.1 is usual; 0 trains on all identities"
        )
    source = dataset.load_source(data_dir, cache_dir(), options)

    identities = source.train.identities
    kept = _first_identities(identities, options.classes)
    stream = RandomState(validation_seed)
    training, validation = _split_identities(kept, validation_fraction, stream)
    query, gallery = _validation_rows(source, validation, stream)
    if validation_fraction > 0:
        _require_a_match(source, query, gallery)

    rows = np.flatnonzero(np.isin(identities, training))
    given = _given_identities(options, dataset, source, rows, training, kept)
    # A label file may give a training image the identity of a held-out person: that is one more class.
    numbers = np.union1d(training, given)
    true = identities[rows]
    if options.subset < 1.0:
        chosen = stratified_subset(np.searchsorted(training, true), options.subset, options.subset_seed)
        rows, true, given = rows[chosen], true[chosen], given[chosen]
    labels = _positions(numbers, given)
    return ReidData(
        source=source,
        train_rows=rows,
        given_labels=labels,
        true_labels=None if options.identities == "given" else _positions(numbers, true),
        identity_numbers=numbers,
        num_classes=len(numbers),
        validation_query=query,
        validation_gallery=gallery,
        fingerprints={
            "source": source.fingerprint,
            "labels": _digest(rows, labels, numbers),
            "split": _digest(query, gallery),
        },
        requested_noise=requested_noise(options),
        disjoint_in=options.identities,
    )


def requested_noise(options: ReidOptions) -> float | None:
    """Return the requested noise ratio; 0 for noise "none", None for labels from a file or given identities."""
    if isinstance(options.noise, NoiseFile) or options.identities == "given":
        return None
    return 0.0 if options.noise == "none" else options.noise_ratio


# ---- identities ----------------------------------------------------------------------------------------------------


def _first_identities(identities: Labels, count: int | None) -> Labels:
    """Return the first `count` identities, ascending."""
    everyone = np.unique(identities)
    if count is not None and count > len(everyone):
        raise InputError(
            f"dataset.classes must be at most {len(everyone)}, the number of training identities, got {count}\n"
            "use a smaller number"
        )
    return everyone[:count]


def _split_identities(identities: Labels, fraction: float, stream: RandomState) -> tuple[Labels, Labels]:
    """Return (training, validation) identities, ascending: round(n * fraction), at least two, for validation."""
    count = 0 if fraction == 0 else max(2, round(len(identities) * fraction))
    if len(identities) - count < 2:
        raise InputError(
            f"validation.fraction {fraction!r} of {len(identities)} identities leaves {len(identities) - count} for "
            f"training and {count} for validation; both need at least two\n"
            "use a larger dataset.classes, another fraction, or more identities"
        )
    chosen = stream.permutation(len(identities))[:count]
    held_out = np.zeros(len(identities), dtype=np.bool_)
    held_out[chosen] = True
    return identities[~held_out], identities[held_out]


def _validation_rows(source: ReidSource, validation: Labels, stream: RandomState) -> tuple[Labels, Labels]:
    """Return (query, gallery) rows of the training split, both sorted.

    One image of each identity and camera is a query, as in Market-1501's own test set. An identity of a single camera
    has no match in another one: all its images go to the gallery.
    """
    query: list[int] = []
    gallery: list[int] = []
    for identity in validation:
        rows = np.flatnonzero(source.train.identities == identity)
        cameras = source.train.cameras[rows]
        seen_by = np.unique(cameras)
        chosen = [int(stream.choice(rows[cameras == camera])) for camera in seen_by] if len(seen_by) > 1 else []
        query.extend(chosen)
        gallery.extend(int(row) for row in rows if row not in chosen)
    return np.array(sorted(query), dtype=np.int64), np.array(sorted(gallery), dtype=np.int64)


def _require_a_match(source: ReidSource, query: Labels, gallery: Labels) -> None:
    people, cameras = source.train.identities, source.train.cameras
    if not len(query):
        raise InputError(
            "no validation identity is seen by two cameras, so no query has a match in another camera\n"
            "check the cameras in the file names, or raise validation.fraction"
        )
    if not matchable_queries(people[query], cameras[query], people[gallery], cameras[gallery]):
        raise InputError(
            "no validation query has a match in another camera: each validation identity has one image per camera, "
            "and this image is the query\nuse a dataset with more images per identity, or raise validation.fraction"
        )


def matchable_queries(
    query_identities: Labels, query_cameras: Labels, gallery_identities: Labels, gallery_cameras: Labels
) -> int:
    """Count the queries with a gallery image of the same identity by another camera; only these are scored."""
    seen: dict[int, set[int]] = {}
    for identity, camera in zip(gallery_identities.tolist(), gallery_cameras.tolist(), strict=True):
        seen.setdefault(identity, set()).add(camera)
    return sum(
        bool(seen.get(identity, set()) - {camera})
        for identity, camera in zip(query_identities.tolist(), query_cameras.tolist(), strict=True)
    )


# ---- noise ---------------------------------------------------------------------------------------------------------


def _given_identities(
    options: ReidOptions, dataset: ReidDataset, source: ReidSource, rows: Labels, training: Labels, kept: Labels
) -> Labels:
    """Return the noisy identity, as in the file names, of each of `rows`."""
    true = source.train.identities[rows]
    if isinstance(options.noise, NoiseFile):
        return _identities_from_file(options.noise, source, rows, kept)
    if options.noise == "none":
        return true
    if options.noise == "random":
        return random_identity_noise(true, options.noise_ratio, options.noise_seed)
    predictions = predictions_for(options, dataset.name, source)
    second = second_identities(predictions, source.train.identities, rows, training)
    return patterned_identity_noise(true, options.noise_ratio, second, options.noise_seed)


def _identities_from_file(noise: NoiseFile, source: ReidSource, rows: Labels, kept: Labels) -> Labels:
    given = given_labels(noise.file, noise.column, source.train.identities)[rows]
    strangers = given[~np.isin(given, kept)]
    if len(strangers):
        raise InputError(
            f"{noise.file}: labels of the kept images must be identity numbers as in the file names, of the "
            f"{len(kept)} kept training identities, got {strangers[0]} ({len(strangers):,} such images)\n"
            "use labels made for this dataset, split and number of identities"
        )
    return given


# ---- numbers -------------------------------------------------------------------------------------------------------


def _positions(numbers: Labels, identities: Labels) -> Labels:
    return np.searchsorted(numbers, identities).astype(np.int64)


def _digest(*vectors: Labels) -> str:
    digest = hashlib.sha256()
    for numbers in vectors:
        # The length first: moving a row from one vector to the next must change the digest.
        digest.update(f"{len(numbers)}\n".encode())
        digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    return digest.hexdigest()
