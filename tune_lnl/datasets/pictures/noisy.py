"""Base classes of datasets of image files under given, noisy labels; see :mod:`tune_lnl.datasets.pictures.listing`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from tune_lnl.config.datasets import DatasetOptions, PictureOptions, PublishedOptions
from tune_lnl.datasets.base import ClassDataset, Labels, NoisyData, TrainingForm, labels_fingerprint
from tune_lnl.datasets.description import Description, Packed
from tune_lnl.datasets.label_file import picture_labels
from tune_lnl.datasets.noise import corrupt_labels, instance_noise, transition_matrix
from tune_lnl.datasets.paths import DATA_VARIABLE, find_dataset_folder, read_errors_named, searched_folders
from tune_lnl.datasets.paths import cache_dir as default_cache_dir
from tune_lnl.datasets.pictures.decoding import WorkingSize
from tune_lnl.datasets.pictures.listing import PictureList
from tune_lnl.datasets.pictures.rows import Examined, Survey, examine, survey
from tune_lnl.datasets.split import stratified_subset
from tune_lnl.errors import InputError


@dataclass(frozen=True)
class Pictures:
    """A dataset that has been read: the list, the facts found in the files, and the form of the network's input."""

    listed: PictureList
    surveyed: Survey
    examined: Examined
    form: TrainingForm


P = TypeVar("P", bound=PictureOptions, default=PictureOptions)


class PictureDataset(ClassDataset[P]):
    """A dataset of image files of any size, one class each. A subclass lists them and chooses the working size."""

    # ACT, released utils/builder.py: ImageNet statistics.
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    default_model = "resnet50"

    @abstractmethod
    def list_files(self, data_dir: Path | None, cache_dir: Path, options: P) -> PictureList:
        """List the files by their names and labels, without opening any.

        Raises:
            InputError: the data is absent (the message names the expected files), or lists a file outside its folder.
            CorruptDataError: the data is incomplete, or a file cannot be used with `on_error` "fail".
        """

    @abstractmethod
    def working_size(self, options: P, seen: Survey) -> WorkingSize:
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

    def read(self, data_dir: Path | None, cache_dir: Path, options: P) -> Pictures:
        """List the files, decode each once (on first use), and pack them into `cache_dir` where they fit.

        Raises:
            InputError, CorruptDataError: as :meth:`list_files` and :func:`tune_lnl.datasets.pictures.rows.examine`.
        """
        found = self.list_files(data_dir, cache_dir, options)
        seen = survey(found)
        size = self.working_size(options, seen)
        done = examine(cache_dir, self.name, found, seen, size, options.on_error, options.cache_budget)
        return Pictures(found, seen, done, self.form_of(size, seen))

    def suggestions(self, pictures: Pictures) -> list[tuple[str, str]]:
        """Return further rows of the description: settings that suit the data."""
        del pictures
        return []

    def load(self, options: P, data_dir: Path | None) -> NoisyData:
        return noisy_pictures(options, self.read(data_dir, default_cache_dir(), options))

    def describe(self, options: P, data_dir: Path | None) -> Description:
        # It needs the classes of this module, so it is imported where it is called.
        from tune_lnl.datasets.pictures.describe import describe_pictures

        return describe_pictures(self, options, self.read(data_dir, default_cache_dir(), options))

    def pack(self, options: P, data_dir: Path | None) -> Packed:
        done = self.read(data_dir, default_cache_dir(), options).examined
        return Packed(done.store.folder, done.store.nbytes(), bool(done.packed))


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


# ---- labels


def noisy_pictures(options: PictureOptions, pictures: Pictures) -> NoisyData:
    """Prepare image files for training, with their own labels, labels from a file, or synthetic noise.

    Only readable images are used. `classes=N` keeps samples whose listed label is below N; true labels from N on are
    then open-set.
    """
    found, done = pictures.listed, pictures.examined
    closed, total = _kept_classes(options, pictures)
    train, test = done.rows[: done.training], done.rows[done.training :]
    drawn = options.drawn_noise
    true = found.labels[train] if drawn is not None else None
    if true is None and found.true_labels is not None:
        true = found.true_labels[train]
    kept = np.flatnonzero(found.labels[train] < closed)
    given, matrix = _given_to_pictures(options, pictures, train, kept, closed)
    true = None if true is None else true[kept]
    whole = len(kept)
    if options.subset < 1.0:
        chosen = stratified_subset(given if true is None else true, options.subset, options.subset_seed)
        kept, given, true = kept[chosen], given[chosen], None if true is None else true[chosen]
    test_labels = found.labels[test]
    test_rows = np.flatnonzero(test_labels < closed)
    return NoisyData(
        train_images=done.training_images(),
        rows=kept,
        given_labels=given,
        true_labels=true,
        open_set=None if true is None else true >= closed,
        test_images=done.test_images(),
        test_rows=test_rows,
        test_labels=test_labels[test_rows],
        num_classes=closed,
        class_names=found.class_names[:total],
        matrix=matrix,
        fingerprints={"source": done.fingerprint, "labels": labels_fingerprint(kept, given)},
        requested_noise=None if drawn is None else drawn.closed_ratio,
        form=pictures.form,
        train_names=found.names.chosen(train),
        root=found.root,
        whole=whole,
    )


def _kept_classes(options: PictureOptions, pictures: Pictures) -> tuple[int, int]:
    """Return the numbers of (closed classes, all classes) to keep."""
    found = pictures.listed
    drawn = options.drawn_noise
    if drawn is not None and found.true_labels is not None:
        raise InputError(
            f"dataset.noise {drawn.kind} needs true labels to corrupt, but {found.form} has noisy and true "
            "ones\nset dataset.noise=none to study its own noise, or make a table whose label is the true one"
        )
    closed = found.num_classes if options.classes is None else options.classes
    if closed > found.num_classes:
        raise InputError(
            f"dataset.classes must be at most {found.num_classes} for {options.name}, got {options.classes}"
        )
    return closed, closed if found.true_labels is None else len(found.class_names)


def _given_to_pictures(
    options: PictureOptions, pictures: Pictures, train: Labels, kept: Labels, closed: int
) -> tuple[Labels, NDArray[np.float64] | None]:
    """Return the labels of the kept samples and, for noise from a matrix, that matrix."""
    found = pictures.listed
    labels = found.labels[train]
    file, drawn = options.label_file, options.drawn_noise
    if file is not None:
        names = found.class_names[: found.num_classes]
        labels = picture_labels(file.file, file.column, names, found.names.chosen(train), found.root)
    given = labels[kept]
    if given.max(initial=0) >= closed:
        raise InputError(
            f"labels of the kept images must be in 0..{closed - 1} ({closed} classes), got {given.max()}\n"
            "use labels made for this dataset and number of classes"
        )
    if drawn is None:
        return given, None
    if drawn.kind == "instance":
        thumbnails = pictures.examined.thumbnails[: len(train)].reshape(len(train), -1)[kept]
        return instance_noise(thumbnails, given, closed, drawn.closed_ratio, drawn.seed), None
    matrix = transition_matrix(drawn.kind, closed, drawn.closed_ratio)
    return corrupt_labels(given, matrix, drawn.seed), matrix
