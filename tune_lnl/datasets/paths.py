"""Where data is looked for and where the cache is.

An explicit data dir is final: what it lacks is not looked for elsewhere, so that a typo never trains on other data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tune_lnl.errors import InputError, shown

DATA_VARIABLE = "TUNE_LNL_DATA"
CACHE_VARIABLE = "TUNE_LNL_CACHE"


def cache_dir() -> Path:
    """Return the cache: environment variable TUNE_LNL_CACHE, else ~/.cache/tune_lnl. It need not exist yet."""
    configured = os.environ.get(CACHE_VARIABLE)
    return Path(configured).expanduser() if configured else Path("~/.cache/tune_lnl").expanduser()


def is_folder(path: Path) -> bool:
    """Return whether the path is that of a folder; no path (too long, a NUL byte, not to be entered) is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def download_dir(folder: str, cache: Path) -> Path:
    """Return the folder that a dataset is downloaded to, inside the cache's `data/`."""
    return cache / "data" / folder


def searched_folders(folder: str, data_dir: Path | None, cache: Path) -> list[Path]:
    """Return the places that :func:`find_dataset_folder` looks at, in order."""
    if data_dir is not None:
        return [data_dir / folder, data_dir]
    configured = os.environ.get(DATA_VARIABLE)
    own = [Path(configured).expanduser() / folder, Path(configured).expanduser()] if configured else []
    return [*own, download_dir(folder, cache)]


def find_dataset_folder(
    folder: str, data_dir: Path | None, holds_data: Callable[[Path], bool], cache: Path
) -> Path | None:
    """Return the folder that holds a dataset, or None.

    Args:
        folder: the dataset's own folder name, e.g. "cifar100".
        data_dir: explicit data dir: it holds `folder`, or it is that folder itself. Without one: the environment
            variable TUNE_LNL_DATA in the same way, then the cache's `data/`.
        holds_data: recognises the dataset by a folder's content.
        cache: the cache.

    Raises:
        InputError: an explicit `data_dir` that is not a directory.
    """
    check_data_dir(data_dir)
    places = searched_folders(folder, data_dir, cache)
    return next((place for place in places if place.is_dir() and holds_data(place)), None)


def check_data_dir(data_dir: Path | None) -> None:
    """Refuse an explicit data dir that is no directory, also for a dataset that needs none.

    Raises:
        InputError: it is none.
    """
    if data_dir is not None and not is_folder(data_dir):
        raise InputError(f"--data-dir must be an existing directory, got {shown(str(data_dir))}\ncheck the path")


@contextmanager
def read_errors_named(folder: Path) -> Iterator[None]:
    """Turn an OSError of the context into an InputError that names `folder`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}\ncheck its permissions") from error
