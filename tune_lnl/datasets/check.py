"""What `python -m tune_lnl.data` does: list the datasets, check one against what was asked of it, pack one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tune_lnl.config.datasets import (
    DatasetOptions,
    FolderOptions,
    NoiseFile,
    NoisyLabelOptions,
    PictureOptions,
    ReidOptions,
)
from tune_lnl.config.overrides import dataset_section, parse_overrides
from tune_lnl.config.registry import DATASET_NAMES, DATASETS, dataset_names
from tune_lnl.datasets.base import Dataset, ImageDataset, Images, Labels, Source, fingerprint_of
from tune_lnl.datasets.estimate import estimate_noise
from tune_lnl.datasets.images.noisy import NoisyData, load_noisy, load_pictures, noisy_pictures
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.pictures.folder import ImageFolder, sensible_defaults
from tune_lnl.datasets.pictures.noisy import PictureDataset, Pictures
from tune_lnl.datasets.registry import get_dataset, get_image_dataset, parse_options
from tune_lnl.datasets.reid.data import ReidData, load_reid, matchable_queries
from tune_lnl.datasets.reid.layouts import DISTRACTOR, ReidFiles
from tune_lnl.datasets.reid.sets import (
    PersonImages,
    ReidDataset,
    ReidSource,
    source_fingerprint,
    training_size,
)
from tune_lnl.errors import CorruptDataError, shown


@dataclass(frozen=True)
class CheckReport:
    """Lines to print, and what is wrong with the data (nothing, for sound data)."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]


def list_datasets(data_dir: Path | None) -> list[str]:
    """One line per dataset: name, whether its data is here, description."""
    rows = []
    for name in dataset_names():
        if name not in DATASETS:
            # Not imported for a list: a broken package must not be in the way of the others.
            packages = " and ".join(offer.package for offer in DATASET_NAMES.offers(name))
            rows.append((name, "plug-in", f"of {packages}"))
            continue
        dataset = get_dataset(name)
        if isinstance(dataset, ImageFolder):
            state = "yours"
        elif dataset.folder is None:
            state = "built in"
        else:
            state = "here" if dataset.is_present(data_dir, cache_dir()) else "not here"
        rows.append((name, state, dataset.description))
    width = max(len(name) for name, _, _ in rows)
    return [f"{name:<{width}}  {state:<8}  {description}" for name, state, description in rows]


def check_dataset(name: str, data_dir: Path | None, settings: Sequence[str] = ()) -> CheckReport:
    """Load a dataset and compare what is there with what was asked for.

    Args:
        name: a registered dataset.
        data_dir: explicit data dir, or None.
        settings: `dataset.KEY=VALUE`, values in YAML.

    Raises:
        InputError: unknown name or setting, or data that is not there. Damaged data is a fault in the report.
    """
    dataset = get_dataset(name)
    options = parse_options(dataset_section(name, parse_overrides(settings)))
    try:
        if isinstance(dataset, ReidDataset):
            return _check_people(dataset, options, data_dir)
        if isinstance(options, PictureOptions):
            return _check_pictures(dataset, options, data_dir)
        return _check_images(get_image_dataset(name), options, data_dir)
    except CorruptDataError as error:
        return CheckReport(lines=(), faults=(str(error),))


def prepare_dataset(name: str, data_dir: Path | None, settings: Sequence[str] = ()) -> list[str]:
    """Pack a dataset into the cache, or open what is packed already; says where, how long it took and how large it is.

    Args:
        name, data_dir, settings: as for :func:`check_dataset`; what is packed of a person dataset depends on some.

    Raises:
        InputError: unknown name or setting, or data that is not there or damaged.
    """
    dataset = get_dataset(name)
    options = parse_options(dataset_section(name, parse_overrides(settings)))
    started = time.perf_counter()
    images: Images
    if isinstance(dataset, PictureDataset):
        assert isinstance(options, PictureOptions), "a dataset of image files has such options"
        done = dataset.load(data_dir, cache_dir(), options).examined
        made = "is packed in" if done.packed else "is too large for dataset.cache_budget; what was found is in"
        return [f"{name} {made} {done.store.folder}: {done.store.nbytes() / 2**20:.0f} MiB, {_since(started)}"]
    if isinstance(dataset, ReidDataset):
        assert isinstance(options, ReidOptions), "a person dataset has such options"
        images = dataset.load_source(data_dir, cache_dir(), options).train.images
    else:
        images = get_image_dataset(name).load_source(data_dir, cache_dir()).train_images
    if not isinstance(images, np.memmap):
        return [f"{name} is built in: there is nothing to pack"]
    store = Path(str(images.filename)).parent
    size = sum(file.stat().st_size for file in store.iterdir())
    return [f"{name} is packed in {store}: {size / 2**20:.0f} MiB, {_since(started)}"]


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.1f} s"


def _check_images(dataset: ImageDataset, options: DatasetOptions, data_dir: Path | None) -> CheckReport:
    source = dataset.load_source(data_dir, cache_dir())
    data = load_noisy(options, data_dir)
    assert isinstance(options, NoisyLabelOptions), "load_noisy takes no other options"
    return CheckReport(
        lines=tuple(_description(dataset, options, source, data)), faults=tuple(_faults(dataset, source))
    )


def _description(dataset: ImageDataset, options: NoisyLabelOptions, source: Source, data: NoisyData) -> list[str]:
    height, width, channels = data.train_images.shape[1:]
    total = len(data.class_names)
    rows = [
        ("dataset", f"{dataset.name}: {dataset.description}"),
        ("source", f"{len(source.train_labels):,} training and {len(source.test_labels):,} test images"),
        ("image", f"{height}x{width}, {channels} channel{'s' if channels > 1 else ''}"),
        ("classes", f"{data.num_classes} closed, {total - data.num_classes} open"),
        ("training", f"{len(data.rows):,} samples; {_spread(data.given_labels, data.num_classes)} per given label"),
        ("test", f"{len(data.test_rows):,} samples; {_spread(data.test_labels, data.num_classes)} per class"),
        ("closed-set noise", f"requested {_share(data.requested_noise)}, measured {_share(data.measured_noise)}"),
        ("total noise", f"expected {_share(_expected_total(data))}, measured {_share(data.measured_total_noise)}"),
        ("open-set share", f"requested {_share(dataset.open_ratio)}, measured {_share(data.measured_open_share)}"),
        ("noise", f"{options.noise}, seed {options.noise_seed}" if data.matrix is not None else f"{options.noise}"),
        ("source sha256", data.fingerprints["source"]),
        ("labels sha256", data.fingerprints["labels"]),
    ]
    return [f"{key:<17} {value}" for key, value in rows]


def _faults(dataset: ImageDataset, source: Source) -> list[str]:
    faults = []
    if source.train_images.shape[1:] != dataset.image_shape or source.test_images.shape[1:] != dataset.image_shape:
        faults.append(f"images must be {dataset.image_shape}, got {source.train_images.shape[1:]}")
    for split, images, labels in (
        ("training", source.train_images, source.train_labels),
        ("test", source.test_images, source.test_labels),
    ):
        if len(images) != len(labels):
            faults.append(f"the {split} split has {len(images):,} images and {len(labels):,} labels")
        empty = np.flatnonzero(np.bincount(labels, minlength=dataset.num_source_classes) == 0)
        if len(empty):
            faults.append(f"the {split} split has no sample of {len(empty)} classes, the first is class {empty[0]}")
    found = fingerprint_of(source.train_images, source.train_labels, source.test_images, source.test_labels)
    if found != source.fingerprint:
        faults.append(_changed(found, source.fingerprint))
    return faults


def _changed(found: str, recorded: str) -> str:
    return (
        f"the packed pixels or labels have changed since they were packed: sha256 {found}, recorded "
        f"{recorded}\ndelete {cache_dir() / 'packed'}; it is packed again when needed"
    )


# ---- image files ---------------------------------------------------------------------------------------------------


def _check_pictures(dataset: Dataset, options: PictureOptions, data_dir: Path | None) -> CheckReport:
    pictures = load_pictures(options, data_dir)
    data = noisy_pictures(options, pictures)
    rows = [
        ("dataset", f"{dataset.name}: {dataset.description}"),
        *_files_found(pictures),
        *_sizes(pictures),
        *_labels_found(data, pictures),
        *_noise_found(data, pictures),
        *_suggestions(options, pictures),
        ("source sha256", data.fingerprints["source"]),
        ("labels sha256", data.fingerprints["labels"]),
    ]
    faults = []
    if pictures.examined.pixels_changed():
        faults.append(f"the packed pixels have changed since they were packed\ndelete {pictures.examined.store.folder}")
    return CheckReport(lines=tuple(f"{key:<17} {value}" for key, value in rows), faults=tuple(faults))


def _files_found(pictures: Pictures) -> list[tuple[str, str]]:
    found, done = pictures.listed, pictures.examined
    rows = [
        ("layout", f"{found.form}, {shown(str(found.root))}"),
        *(("note", note) for note in found.notes),
        ("source", f"{done.training:,} training and {len(done.rows) - done.training:,} test images"),
        ("formats", ", ".join(f"{kind} {count:,}" for kind, count in sorted(done.kinds.items()))),
        ("skipped", _with_reasons(found.skipped, found.skipped_count)),
        ("unreadable", _with_reasons(done.unreadable, done.unreadable_count)),
    ]
    if found.ignored:
        rows.append(("other files", f"{found.ignored:,}, no images by their names"))
    return rows


def _with_reasons(reasons: Mapping[str, str], count: int, told: int = 10) -> str:
    lines = [f"{count:,} files"]
    lines += [f"{shown(name)}: {shown(reason)}" for name, reason in list(reasons.items())[:told]]
    return f"\n{'':<18}".join([*lines, *(["..."] if count > told else [])])


def _sizes(pictures: Pictures) -> list[tuple[str, str]]:
    done = pictures.examined
    sides = np.sort(done.shapes, axis=1)
    middle = np.median(sides, axis=0).astype(int)
    kept = "kept square" if done.size.square else f"shorter side {done.size.resize} before the crop"
    place = f"packed, {done.store.nbytes() / 2**20:,.0f} MiB in {done.store.folder}"
    return [
        (
            "sizes",
            f"shorter side {sides[:, 0].min():,} to {sides[:, 0].max():,} pixels, median {middle[0]:,} x {middle[1]:,}",
        ),
        ("image", f"{done.size.crop}x{done.size.crop}, 3 channels; {kept}"),
        ("pixels", place if done.packed else "decoded anew in every epoch: they do not fit into dataset.cache_budget"),
    ]


def _labels_found(data: NoisyData, pictures: Pictures) -> list[tuple[str, str]]:
    counts = np.bincount(data.given_labels, minlength=data.num_classes)
    rows = [
        ("classes", f"{data.num_classes} closed, {len(data.class_names) - data.num_classes} open"),
        ("training", f"{len(data.rows):,} samples; {counts.min():,} to {counts.max():,} per given label"),
    ]
    for number, text in ((0, "without a training image"), (1, "with one training image, never in validation")):
        names = [shown(data.class_names[label]) for label in np.flatnonzero(counts == number)]
        if names:
            rows.append(("thin classes", f"{len(names)} {text}: {', '.join(names[:5])}"))
    tested = f"{len(data.test_rows):,} samples" if len(data.test_rows) else "no test set: there will be no test scores"
    return [*rows, ("test", tested), ("duplicates", _duplicates(pictures))]


def _duplicates(pictures: Pictures) -> str:
    """Files of the same bytes: how many, how many of them under several labels, how many both in training and test."""
    done = pictures.examined
    keys = np.ascontiguousarray(done.contents).view([("bytes", "V16")]).ravel()
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    labels = pictures.listed.labels[done.rows]
    training = np.arange(len(group)) < done.training
    pairs = np.unique(np.stack([group[training], labels[training]]), axis=1)
    several = np.bincount(pairs[0], minlength=len(sizes)) > 1
    both = np.intersect1d(group[training], group[~training])
    return (
        f"{int((sizes - 1).sum()):,} files repeat another byte by byte; {int(several.sum()):,} training images are "
        f"there under several labels, {len(both):,} are in the test set, too"
    )


def _noise_found(data: NoisyData, pictures: Pictures) -> list[tuple[str, str]]:
    rows = [("noise", f"requested {_share(data.requested_noise)}, measured {_share(data.measured_noise)}")]
    if data.open_set is not None:
        rows.append(("total noise", f"measured {_share(data.measured_total_noise)}"))
    verified = pictures.listed.verified
    if verified is not None:
        marks = verified[pictures.examined.rows[: pictures.examined.training]]
        known = marks[marks >= 0]
        if len(known):
            rows.append(("verified", f"{len(known):,} labels were checked, {_share(float(np.mean(known == 0)))} wrong"))
    found = estimate_noise(data.train_images, data.rows, data.given_labels)
    if found is None:
        rows.append(("estimated noise", "too few images per class to estimate it"))
        return rows
    rows.append(
        (
            "estimated noise",
            f"{_share(found.rate)}, 95% interval {_share(found.low)} to {_share(found.high)}: so many of the labels of "
            f"{found.anchors:,} images that a simple classifier is surest of (out of {found.samples:,}) disagree with "
            f"it; it finds {_share(found.agreement)} of all labels"
            + ("; an upper bound, as such features tell these classes apart too badly" if found.upper_bound else ""),
        )
    )
    return rows


def _suggestions(options: PictureOptions, pictures: Pictures) -> list[tuple[str, str]]:
    if not isinstance(options, FolderOptions):
        return []
    fit = sensible_defaults(pictures.examined.training, pictures.surveyed.short_side)
    return [("suits it", f"resolution {fit.resolution}, model {fit.model}, --epochs {fit.epochs}")]


# ---- people --------------------------------------------------------------------------------------------------------


def _check_people(dataset: ReidDataset, options: DatasetOptions, data_dir: Path | None) -> CheckReport:
    assert isinstance(options, ReidOptions), "a person dataset has such options"
    # Nothing set aside: the noise that is measured is the published draw over all training identities.
    data = load_reid(options, data_dir, validation_fraction=0.0, validation_seed=0)
    files = dataset.read_names(data_dir, cache_dir(), options)
    return CheckReport(
        lines=tuple(_people_description(dataset, options, files, data)),
        faults=tuple(_people_faults(dataset, options, data.source)),
    )


def _people_description(dataset: ReidDataset, options: ReidOptions, files: ReidFiles, data: ReidData) -> list[str]:
    source = data.source
    height, width = dataset.input_size(options)
    before_crop = training_size((height, width))
    seed = "" if options.noise == "none" or isinstance(options.noise, NoiseFile) else f", seed {options.noise_seed}"
    rows = [
        ("dataset", f"{dataset.name}: {dataset.description}"),
        ("layout", f"{files.layout.name}, {files.layout.base}"),
        ("image", f"{height}x{width}, 3 channels; {before_crop[0]}x{before_crop[1]} before the training crop"),
        ("train", _people(source.train)),
        ("query", f"{_people(source.query)}; {_matchable(source):,} queries with a match in another camera"),
        ("gallery", f"{_people(source.gallery)}; {source.distractors:,} distractors"),
        ("junk", f"{source.junk:,} images dropped"),
        ("skipped", _first(source.skipped)),
        ("overlap", f"{_overlapping(source):,} training identities are in query or gallery, too"),
        ("training", f"{len(data.train_rows):,} images; {_spread(data.given_labels, data.num_classes)} per given id"),
        ("identity noise", f"requested {_share(data.requested_noise)}, measured {_share(data.measured_noise)}"),
        ("noise", f"{options.noise}{seed}"),
        ("identities", f"{options.identities}: validation is disjoint from training in {data.disjoint_in} identity"),
        ("source sha256", data.fingerprints["source"]),
        ("labels sha256", data.fingerprints["labels"]),
    ]
    return [f"{key:<17} {value}" for key, value in rows]


def _people_faults(dataset: ReidDataset, options: ReidOptions, source: ReidSource) -> list[str]:
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
    found = source_fingerprint(source)
    if found != source.fingerprint:
        faults.append(_changed(found, source.fingerprint))
    return faults


def _people(split: PersonImages) -> str:
    people = np.unique(split.identities[split.identities != DISTRACTOR])
    return f"{len(split.paths):,} images, {len(people):,} ids, {len(np.unique(split.cameras)):,} cameras"


def _matchable(source: ReidSource) -> int:
    query, gallery = source.query, source.gallery
    return matchable_queries(query.identities, query.cameras, gallery.identities, gallery.cameras)


def _overlapping(source: ReidSource) -> int:
    tested = np.union1d(source.query.identities, source.gallery.identities)
    return len(np.intersect1d(source.train.identities, tested))


def _first(names: Sequence[str], count: int = 5) -> str:
    told = ", ".join(shown(name) for name in names[:count])
    more = ", ..." if len(names) > count else ""
    return f"{len(names):,} files" + (f": {told}{more}" if names else "")


# ---- both ----------------------------------------------------------------------------------------------------------


def _spread(labels: Labels, num_classes: int) -> str:
    counts = np.bincount(labels, minlength=num_classes)
    return f"{counts.min():,} to {counts.max():,}"


def _expected_total(data: NoisyData) -> float | None:
    """Open-set samples are all wrong; of the others the requested share is."""
    if data.requested_noise is None or data.measured_open_share is None:
        return None
    return data.measured_open_share + (1.0 - data.measured_open_share) * data.requested_noise


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.2f}%"
