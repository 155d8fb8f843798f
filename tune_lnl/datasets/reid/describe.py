"""The description of a person dataset, for `python -m tune_lnl.data check`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tune_lnl.config.datasets import NoiseFile, ReidOptions
from tune_lnl.datasets.description import Description, changed, share, spread
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.reid.data import ReidData, load_reid, matchable_queries
from tune_lnl.datasets.reid.layouts import DISTRACTOR, ReidFiles
from tune_lnl.datasets.reid.sets import PersonImages, ReidDataset, ReidSource, source_fingerprint, training_size
from tune_lnl.errors import shown


def describe_persons(dataset: ReidDataset, options: ReidOptions, data_dir: Path | None) -> Description:
    """Return layout, images, persons and cameras of each split, fingerprints, measured against requested noise."""
    # Nothing is held out: the measured noise is that of the published draw over all training identities.
    data = load_reid(options, data_dir, validation_fraction=0.0, validation_seed=0)
    files = dataset.read_names(data_dir, cache_dir(), options)
    return Description(_rows(dataset, options, files, data), tuple(_faults(dataset, options, data.source)))


def _rows(dataset: ReidDataset, options: ReidOptions, files: ReidFiles, data: ReidData) -> tuple[tuple[str, str], ...]:
    source = data.source
    height, width = dataset.input_size(options)
    before_crop = training_size((height, width))
    tested = np.union1d(source.query.identities, source.gallery.identities)
    overlap = len(np.intersect1d(source.train.identities, tested))
    named = ": " + ", ".join(map(shown, source.skipped[:5])) if source.skipped else ""
    named += ", ..." if len(source.skipped) > 5 else ""
    seed = "" if options.noise == "none" or isinstance(options.noise, NoiseFile) else f", seed {options.noise_seed}"
    return (
        ("dataset", f"{dataset.name}: {dataset.description}"),
        ("layout", f"{files.layout.name}, {files.layout.base}"),
        ("image", f"{height}x{width}, 3 channels; {before_crop[0]}x{before_crop[1]} before the training crop"),
        ("train", _people(source.train)),
        ("query", f"{_people(source.query)}; {_matchable(source):,} queries with a match in another camera"),
        ("gallery", f"{_people(source.gallery)}; {source.distractors:,} distractors"),
        ("junk", f"{source.junk:,} images dropped"),
        ("skipped", f"{len(source.skipped):,} files{named}"),
        ("one camera", f"{_of_one_camera(source):,} training identities are seen by one camera only"),
        (
            "overlap",
            f"{overlap:,} training identities are in query or gallery, too",
        ),
        ("training", f"{len(data.train_rows):,} images; {spread(data.given_labels, data.num_classes)} per given id"),
        ("identity noise", f"requested {share(data.requested_noise)}, measured {share(data.measured_noise)}"),
        ("noise", f"{options.noise}{seed}"),
        ("identities", f"{options.identities}: validation is disjoint from training in {data.disjoint_in} identity"),
        ("source sha256", data.fingerprints["source"]),
        ("labels sha256", data.fingerprints["labels"]),
    )


def _faults(dataset: ReidDataset, options: ReidOptions, source: ReidSource) -> list[str]:
    faults = []
    size = dataset.input_size(options)
    for split, images, expected in (
        ("train", source.train.images, size),
        ("resized train", source.train_resized, training_size(size)),
        ("query", source.query.images, size),
        ("gallery", source.gallery.images, size),
    ):
        if images.shape[1:] != (*expected, 3):
            faults.append(f"{split} images must be {(*expected, 3)}, got {images.shape[1:]}")
    if _matchable(source) == 0:
        faults.append(
            "no query has an image of the same identity from another camera in the gallery: nothing can be ranked\n"
            "check the cameras in the file names"
        )
    if _of_one_camera(source) == len(np.unique(source.train.identities)):
        faults.append(
            "no training identity is seen by two cameras: no query can be held out, so trials cannot be compared\n"
            "check the cameras in the file names"
        )
    found = source_fingerprint(source)
    if found != source.fingerprint:
        faults.append(changed(found, source.fingerprint))
    return faults


def _people(split: PersonImages) -> str:
    people = np.unique(split.identities[split.identities != DISTRACTOR])
    return f"{len(split.paths):,} images, {len(people):,} ids, {len(np.unique(split.cameras)):,} cameras"


def _matchable(source: ReidSource) -> int:
    query, gallery = source.query, source.gallery
    return matchable_queries(query.identities, query.cameras, gallery.identities, gallery.cameras)


def _of_one_camera(source: ReidSource) -> int:
    pairs = np.unique(np.stack([source.train.identities, source.train.cameras]), axis=1)
    _, cameras = np.unique(pairs[0], return_counts=True)
    return int(np.count_nonzero(cameras == 1))
