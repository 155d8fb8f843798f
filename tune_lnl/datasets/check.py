"""`python -m tune_lnl.data`: list the datasets, check one against its options, pack one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_lnl.config.overrides import dataset_section, parse_overrides
from tune_lnl.config.registry import DATASET_NAMES, DATASETS, dataset_names, dataset_options
from tune_lnl.datasets.paths import cache_dir, check_data_dir
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.errors import CorruptDataError, InputError


@dataclass(frozen=True)
class CheckReport:
    """Lines to print, and what is wrong with the data (empty for sound data)."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]


def list_datasets(data_dir: Path | None) -> list[str]:
    """Return one line per dataset: name, whether its data is here, description."""
    rows = []
    for name in dataset_names():
        if name in DATASETS:
            dataset = get_dataset(name)
            rows.append((name, dataset.availability(data_dir, cache_dir()), dataset.description))
        else:
            # Not imported for a list: a broken package must not hide the others.
            packages = " and ".join(provider.package for provider in DATASET_NAMES.providers(name))
            rows.append((name, "plug-in", f"of {packages}"))
    width = max(len(name) for name, _, _ in rows)
    return [f"{name:<{width}}  {state:<8}  {description}" for name, state, description in rows]


def named_data(name: str | None, path: str | None, settings: Sequence[str]) -> tuple[str, list[str]]:
    """Return (name of the dataset, its settings) for NAME, a path in its place, or ``--data PATH``; one is given.

    Raises:
        InputError: a path, and a dataset that has no root.
    """
    if name is not None and path is None and name not in dataset_names() and _is_path(name):
        name, path = None, name
    if path is None:
        assert name is not None
        return name, [*settings]
    name = name or "folder"
    if "root" not in dataset_options(name).model_fields:
        raise InputError(
            f"--data PATH is for a folder of your own, and {name} has its place in --data-dir; leave one out"
        )
    return name, [f"dataset.root={json.dumps(path)}", *settings]


def _is_path(text: str) -> bool:
    try:
        return os.sep in text or Path(text).exists()
    except (OSError, ValueError):  # a name too long for a file, or with a zero byte
        return False


def check_dataset(name: str, data_dir: Path | None, settings: Sequence[str] = ()) -> CheckReport:
    """Load a dataset and compare the data with its options.

    Args:
        name: a registered dataset.
        data_dir: explicit data dir, or None.
        settings: `dataset.KEY=VALUE`, values in YAML.

    Raises:
        InputError: unknown name or setting, or data that is absent. Damaged data is a fault in the report.
    """
    check_data_dir(data_dir)
    dataset = get_dataset(name)
    options = parse_options(dataset_section(name, parse_overrides(settings)))
    try:
        found = dataset.describe(options, data_dir)
    except CorruptDataError as error:
        return CheckReport(lines=(), faults=(str(error),))
    return CheckReport(tuple(f"{key:<17} {value}" for key, value in found.rows), found.faults)


def prepare_dataset(name: str, data_dir: Path | None, settings: Sequence[str] = ()) -> list[str]:
    """Pack a dataset into the cache, or open its packed files; return a line with folder, size and duration.

    Args:
        name, data_dir, settings: as for :func:`check_dataset`; the packed pixels of some datasets depend on settings.

    Raises:
        InputError: unknown name or setting, or data that is absent or damaged.
    """
    check_data_dir(data_dir)
    dataset = get_dataset(name)
    options = parse_options(dataset_section(name, parse_overrides(settings)))
    started = time.perf_counter()
    packed = dataset.pack(options, data_dir)
    if packed is None:
        return [f"{name} is built in: there is nothing to pack"]
    made = "is packed in" if packed.whole else "is too large for dataset.cache_budget; what was found is in"
    size, seconds = packed.nbytes / 2**20, time.perf_counter() - started
    return [f"{name} {made} {packed.folder}: {size:.0f} MiB, {seconds:.1f} s"]
