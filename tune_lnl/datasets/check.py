"""What `python -m tune_lnl.data` does: list the datasets, check one against what was asked of it, pack one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from tune_lnl.datasets.base import Dataset, Labels, Source, fingerprint_of
from tune_lnl.datasets.noisy import NoisyData, load_noisy
from tune_lnl.datasets.options import NoisyLabelOptions
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import dataset_names, get_dataset, parse_options
from tune_lnl.errors import CorruptDataError, InputError


@dataclass(frozen=True)
class CheckReport:
    """Lines to print, and what is wrong with the data (nothing, for sound data)."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]


def list_datasets(data_dir: Path | None) -> list[str]:
    """One line per dataset: name, whether its data is here, description."""
    rows = []
    for name in dataset_names():
        dataset = get_dataset(name)
        if dataset.folder is None:
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
    options = parse_options(_with_settings(name, settings))
    try:
        source = dataset.load_source(data_dir, cache_dir())
        data = load_noisy(options, data_dir)
    except CorruptDataError as error:
        return CheckReport(lines=(), faults=(str(error),))
    assert isinstance(options, NoisyLabelOptions), "load_noisy takes no other options"
    return CheckReport(
        lines=tuple(_description(dataset, options, source, data)), faults=tuple(_faults(dataset, source))
    )


def prepare_dataset(name: str, data_dir: Path | None) -> list[str]:
    """Pack a dataset into the cache, or open what is packed already; says where, how long it took and how large it is.

    Raises:
        InputError: unknown name, or data that is not there or damaged.
    """
    started = time.perf_counter()
    source = get_dataset(name).load_source(data_dir, cache_dir())
    seconds = time.perf_counter() - started
    if not isinstance(source.train_images, np.memmap):
        return [f"{name} is built in: there is nothing to pack"]
    store = Path(str(source.train_images.filename)).parent
    size = sum(file.stat().st_size for file in store.iterdir())
    return [f"{name} is packed in {store}: {size / 2**20:.0f} MiB, {seconds:.1f} s"]


def _with_settings(name: str, settings: Sequence[str]) -> dict[str, object]:
    """The mapping under `dataset:` that `--set dataset.KEY=VALUE` makes."""
    result: dict[str, object] = {"name": name}
    for setting in settings:
        key, equals, text = setting.partition("=")
        room, _, rest = key.strip().partition(".")
        if not equals or room != "dataset" or not rest or rest == "name":
            raise InputError(f"--set must be dataset.KEY=VALUE, got {setting!r}\nfor example --set dataset.subset=0.1")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {setting!r}: the value is not YAML: {error}\nquote it") from error
        *parents, last = rest.split(".")
        place = result
        for parent in parents:
            inner = place.get(parent)
            place[parent] = inner = dict(inner) if isinstance(inner, dict) else {}
            place = inner
        place[last] = value
    return result


def _description(dataset: Dataset, options: NoisyLabelOptions, source: Source, data: NoisyData) -> list[str]:
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


def _faults(dataset: Dataset, source: Source) -> list[str]:
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
        faults.append(
            f"the packed pixels or labels have changed since they were packed: sha256 {found}, recorded "
            f"{source.fingerprint}\ndelete {cache_dir() / 'packed'}; it is packed again when needed"
        )
    return faults


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
