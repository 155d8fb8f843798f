"""Base classes of datasets of image files under given, noisy labels; see :mod:`tune_lnl.datasets.pictures.listing`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tune_lnl.config.datasets import DatasetOptions, PictureOptions, PublishedOptions
from tune_lnl.datasets.base import Dataset, TrainingForm
from tune_lnl.datasets.paths import DATA_VARIABLE, find_dataset_folder, read_errors_named, searched_folders
from tune_lnl.datasets.pictures.decoding import WorkingSize
from tune_lnl.datasets.pictures.listing import PictureList
from tune_lnl.datasets.pictures.rows import Examined, Survey, examine, survey
from tune_lnl.errors import InputError


@dataclass(frozen=True)
class Pictures:
    """A dataset that has been read: the list, the facts found in the files, and the form of the network's input."""

    listed: PictureList
    surveyed: Survey
    examined: Examined
    form: TrainingForm


class PictureDataset(Dataset):
    """A dataset of image files of any size, one class each. A subclass lists them and chooses the working size."""

    # ACT, released utils/builder.py: ImageNet statistics.
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    default_model = "resnet50"

    @abstractmethod
    def list_files(self, data_dir: Path | None, cache_dir: Path, options: PictureOptions) -> PictureList:
        """List the files by their names and labels, without opening any.

        Raises:
            InputError: the data is absent (the message names the expected files), or lists a file outside its folder.
            CorruptDataError: the data is incomplete, or a file cannot be used with `on_error` "fail".
        """

    @abstractmethod
    def working_size(self, options: PictureOptions, seen: Survey) -> WorkingSize:
        """Return the size to which images are resized and cropped."""

    def form_of(self, size: WorkingSize, seen: Survey) -> TrainingForm:
        """Return the network's input and augmentations for images of this working size."""
        shape = (size.crop, size.crop, 3)
        if size.square:
            return TrainingForm(shape, "padded_weak", "padded_strong", self.model_for(size, seen))
        return TrainingForm(shape, "crop_weak", "crop_strong", self.model_for(size, seen))

    def model_for(self, size: WorkingSize, seen: Survey) -> str:
        """Return the default network."""
        del size, seen
        return self.default_model

    def load(self, data_dir: Path | None, cache_dir: Path, options: PictureOptions) -> Pictures:
        """List the files, decode each once (on first use), and pack them into `cache_dir` where they fit.

        Raises:
            InputError, CorruptDataError: as :meth:`list_files` and :func:`tune_lnl.datasets.pictures.rows.examine`.
        """
        found = self.list_files(data_dir, cache_dir, options)
        seen = survey(found)
        size = self.working_size(options, seen)
        done = examine(cache_dir, self.name, found, seen, size, options.on_error, options.cache_budget)
        return Pictures(found, seen, done, self.form_of(size, seen))


class PublishedPictures(PictureDataset):
    """A published dataset that the user brings, in the data dir."""

    folder: ClassVar[str]
    title: ClassVar[str]
    origin: ClassVar[str]
    """The page or people that provide it."""
    looked_for: ClassVar[str]
    """The expected content of its folder."""
    num_source_classes: ClassVar[int]
    Options: ClassVar[type[DatasetOptions]] = PublishedOptions
    resize_ratio: ClassVar[float] = 1.0
    """Shorter side before the crop / side of the crop."""

    @abstractmethod
    def holds_data(self, folder: Path) -> bool:
        """Return whether the folder holds this dataset, by the names in it."""

    def working_size(self, options: PictureOptions, seen: Survey) -> WorkingSize:
        del seen
        crop = self.image_shape[0] if options.resolution is None else options.resolution
        return WorkingSize(round(crop * self.resize_ratio), crop, square=False)

    def is_present(self, data_dir: Path | None, cache_dir: Path) -> bool:
        return self._find(data_dir, cache_dir) is not None

    def root_folder(self, data_dir: Path | None, cache_dir: Path) -> Path:
        """Return its folder.

        Raises:
            InputError: there is none.
        """
        found = self._find(data_dir, cache_dir)
        if found is None:
            searched = " and ".join(str(folder) for folder in searched_folders(self.folder, data_dir, cache_dir))
            raise InputError(
                f"{self.name} needs {self.title}: none found in {searched}\n"
                f"looked for {self.looked_for}\n"
                f"get it from {self.origin}, and pass --data-dir DIR or set {DATA_VARIABLE}"
            )
        return found

    def _find(self, data_dir: Path | None, cache_dir: Path) -> Path | None:
        def holds_data(folder: Path) -> bool:
            with read_errors_named(folder):
                return self.holds_data(folder)

        return find_dataset_folder(self.folder, data_dir, holds_data, cache_dir)


def lines_of(path: Path, on_root: Path) -> list[str]:
    """Return the lines of a small published list (UTF-8), stripped, without empty ones.

    Raises:
        InputError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}\nget the dataset in {on_root} again") from error
    return [line for line in (raw.strip() for raw in text.splitlines()) if line]
