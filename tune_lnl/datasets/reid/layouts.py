"""Folders of person images: find the splits, and read identity and camera from the file names.

There are two layouts. Official (Market-1501, DukeMTMC-reID, CUHK03-NP): `bounding_box_train`, `query` and
`bounding_box_test`, with images directly in them. Re-organised, as read by the published training code of CORE: `train`
(or `training`, or `train_all`), `query` and `gallery`, each with one folder per identity.

A name must match the regular expression of its dataset's scheme as a whole. So a junk image (`-1_c1s1_...`) keeps its
identity -1 and its camera; the released evaluation code reads it with the parser of another dataset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tune_lnl.datasets.formats import is_image_name
from tune_lnl.datasets.pictures.listing import is_leftover
from tune_lnl.errors import CorruptDataError, InputError, shown

JUNK = -1
"""Identity of a detection that shows nobody in full; it belongs to no split."""
DISTRACTOR = 0
"""Identity of gallery images of people who are no query; different people share this number."""

SPLITS = ("train", "query", "gallery")
OFFICIAL_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
TRAINING_FOLDERS = {"train": ("train", "training"), "train_all": ("train_all",)}
PREPARED_FOLDER = "pytorch"  # the usual preparation script puts the re-organised folders there

# Files with the ending of an image must have a name of the expected form; Thumbs.db, .mat or a readme need not.


@dataclass(frozen=True)
class NameScheme:
    """One published form of file names.

    Attributes:
        example: a name of this form, for messages.
        pattern: matches a whole name; has the group "camera" or "pair" and "view", and "identity" unless only the
            folder tells the identity.
    """

    example: str
    pattern: re.Pattern[str]

    def read(self, name: str) -> tuple[int | None, int] | None:
        """Return (identity, camera), identity None if the name has none; return None for a name of another form."""
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        groups = match.groupdict()
        if "identity" in groups:
            try:
                return int(groups["identity"]), int(groups["camera"])
            except (TypeError, ValueError):
                return None  # a pattern of the user's own matched something that is no number
        # CORE, released eval_utils.py, lines 94-103: each of the five camera pairs has two views.
        return None, 2 * (int(groups["pair"]) - 1) + int(groups["view"])


def _scheme(example: str, pattern: str) -> NameScheme:
    # Some copies of the published sets have endings in capitals.
    return NameScheme(example, re.compile(rf"{pattern}\.(?i:jpg|jpeg|png)", re.ASCII))


def own_names(pattern: str) -> NameScheme:
    """Return the scheme of a user's own file names; `pattern` matches a name without its ending (dataset.pattern)."""
    return NameScheme(f"<a name that matches {pattern}>", re.compile(rf"(?:{pattern})(\.[A-Za-z0-9]+)+", re.ASCII))


_IDENTITY = r"(?P<identity>-1|\d{4,8})_c(?P<camera>\d{1,3})"
MARKET_NAMES = _scheme("0002_c1s1_000451_03.jpg", _IDENTITY + r"s\d{1,3}_\d{1,8}_\d{1,3}")
DUKE_NAMES = _scheme("0005_c2_f0046985.jpg", _IDENTITY + r"_f\d{1,9}")
CUHK03_NP_NAMES = _scheme("0003_c1_21.png", _IDENTITY + r"_\d{1,6}")
CUHK03_OLD_NAMES = _scheme("1_012_2_07.png", r"(?P<pair>[1-5])_\d{1,4}_(?P<view>[12])_\d{1,3}")

_IDENTITY_FOLDER = re.compile(r"-1|\d{1,8}", re.ASCII)


@dataclass(frozen=True)
class Layout:
    """The folders of a dataset's splits.

    Attributes:
        base: the folder that holds the splits.
        official: images directly in the split folders; else one folder per identity.
    """

    base: Path
    official: bool

    @property
    def name(self) -> str:
        return "official" if self.official else "re-organised"

    def split_folder(self, split: str, training: str) -> Path:
        """Return the folder of "train", "query" or "gallery".

        Raises:
            CorruptDataError: there is none.
        """
        names = self._names(split, training)
        for name in names:
            if (self.base / name).is_dir():
                return self.base / name
        other = {"train": "train_all", "train_all": "train"}[training]
        hint = "get the whole dataset again"
        if split == "train" and any((self.base / name).is_dir() for name in self._names(split, other)):
            hint = f"{other} exists: set dataset.split={other}"
        raise CorruptDataError(f"{self.base} has no folder {' or '.join(names)} ({self.name} layout)\n{hint}")

    def _names(self, split: str, training: str) -> tuple[str, ...]:
        if self.official:
            return (OFFICIAL_FOLDERS[split],)
        return TRAINING_FOLDERS[training] if split == "train" else (split,)


@dataclass(frozen=True)
class PersonFile:
    """One image: `name` is its path relative to the layout's base, with slashes; identity and camera as in the name."""

    path: Path
    name: str
    identity: int
    camera: int


@dataclass(frozen=True)
class ReidFiles:
    """The images of a dataset by their names, none opened; each split is sorted by name.

    Attributes:
        root: the dataset's folder.
        layout: the folders of the splits.
        train, query: without junk and distractors.
        gallery: without junk; distractors have identity 0.
        junk: number of dropped images that show nobody in full (identity -1), all splits together.
        skipped: names that were skipped because they are not of the published form.
    """

    root: Path
    layout: Layout
    train: tuple[PersonFile, ...]
    query: tuple[PersonFile, ...]
    gallery: tuple[PersonFile, ...]
    junk: int
    skipped: tuple[str, ...]

    def split(self, name: str) -> tuple[PersonFile, ...]:
        """Return the files of "train", "query" or "gallery"."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]


def find_layout(root: Path, inner_folders: Sequence[str], boxes: str | None, *, partial: bool) -> Layout | None:
    """Return the layout in `root`, official before re-organised, or None.

    Args:
        root: the dataset's folder.
        inner_folders: folders of the published archive that may stand between `root` and the splits.
        boxes: a folder between those and the splits; required by the official layout, optional in the other.
        partial: accept a layout with a missing split, so that an error can name that split.
    """
    outer = [folder for folder in (root, *(root / name for name in inner_folders)) if folder.is_dir()]
    boxed = outer if boxes is None else [folder / boxes for folder in outer]
    loose = [
        inside for folder in dict.fromkeys([*boxed, *outer]) for inside in (folder, folder / PREPARED_FOLDER)
    ]  # `boxed` is `outer` where there are no boxes
    candidates = [
        *(Layout(folder, official=True) for folder in boxed),
        *(Layout(folder, official=False) for folder in loose),
    ]
    for layout in candidates:
        if all(any(folder.is_dir() for folder in folders) for folders in _known_folders(layout)):
            return layout
    if partial:
        for layout in candidates:
            # `query` alone may be of either layout, or of another kind of dataset.
            train, _, gallery = _known_folders(layout)
            if any(folder.is_dir() for folder in (*train, *gallery)):
                return layout
    return None


def _known_folders(layout: Layout) -> list[list[Path]]:
    if layout.official:
        return [[layout.base / OFFICIAL_FOLDERS[split]] for split in SPLITS]
    training = [layout.base / name for names in TRAINING_FOLDERS.values() for name in names]
    return [training, [layout.base / "query"], [layout.base / "gallery"]]


def read_layout(root: Path, layout: Layout, schemes: Sequence[NameScheme], training: str, on_error: str) -> ReidFiles:
    """List all images of the three splits, by name.

    Args:
        root: the dataset's folder; no link may leave it.
        layout: from :func:`find_layout`.
        schemes: the dataset's forms of names; no name matches two of them.
        training: "train" or "train_all".
        on_error: "skip": a file that cannot be an image of its split is skipped and named, else it is an error.

    Raises:
        CorruptDataError: a split is missing or has no image; a name has no published form, or disagrees with its
            identity folder; a distractor outside the gallery, where identity 0 would stand for one person.
        InputError: a split that is a link out of `root`, or a folder that cannot be read.
    """
    reader = _Reader(root.resolve(), layout, tuple(schemes), skip=on_error == "skip")
    splits = {split: reader.read(split, layout.split_folder(split, training)) for split in SPLITS}
    return ReidFiles(root, layout, **splits, junk=reader.junk, skipped=tuple(sorted(reader.skipped)))


class _OddFileError(Exception):
    """A file cannot be an image of its split; the message is the reason."""


@dataclass
class _Reader:
    home: Path
    layout: Layout
    schemes: tuple[NameScheme, ...]
    skip: bool
    junk: int = 0
    skipped: list[str] = field(default_factory=list)

    def read(self, split: str, folder: Path) -> tuple[PersonFile, ...]:
        self._require_inside(folder)
        try:
            found = list(self._images(split, folder))
        except OSError as error:
            raise InputError(f"{folder} cannot be read: {error}\ncheck its permissions") from error
        if not found:
            inside = "" if self.layout.official else "<identity>/"
            raise CorruptDataError(
                f"{folder} has no image of the {split} split\nlooked for {inside}{self._expected()} and the like"
            )
        return tuple(sorted(found, key=lambda file: file.name))

    def _images(self, split: str, folder: Path) -> Iterator[PersonFile]:
        if self.layout.official:
            yield from self._images_in(split, folder, None)
            return
        for entry in self._entries(folder):
            if not entry.is_dir():
                if is_image_name(entry.name):
                    self._refuse(Path(entry.path), "it must be in a folder named by its identity")
            elif _IDENTITY_FOLDER.fullmatch(entry.name) is None:
                self._refuse(Path(entry.path), "a folder must be named by an identity, like 0002")
            else:
                yield from self._images_in(split, Path(entry.path), int(entry.name))

    def _images_in(self, split: str, folder: Path, folder_identity: int | None) -> Iterator[PersonFile]:
        for entry in self._entries(folder):
            if entry.is_dir():
                self._refuse(Path(entry.path), "there must be no folder here")
            elif is_image_name(entry.name):
                try:
                    file = self._image(split, entry, folder_identity)
                except _OddFileError as odd:
                    self._refuse(Path(entry.path), str(odd))
                else:
                    if file is not None:
                        yield file

    def _image(self, split: str, entry: os.DirEntry[str], folder_identity: int | None) -> PersonFile | None:
        """Return the file, or None for junk. Raises _OddFileError."""
        if not entry.is_file():
            raise _OddFileError("it is not a file, or a link to nothing")
        identity, camera = self._read_name(entry.name, folder_identity)
        if identity == JUNK:
            self.junk += 1
            return None
        if identity == DISTRACTOR and split != "gallery":
            raise _OddFileError(f"identity 0 is for distractors, which are not allowed in the {split} split")
        path = Path(entry.path)
        return PersonFile(path, path.relative_to(self.layout.base).as_posix(), identity, camera)

    def _read_name(self, name: str, folder_identity: int | None) -> tuple[int, int]:
        """Return (identity, camera). Raises _OddFileError."""
        read = next((read for scheme in self.schemes if (read := scheme.read(name)) is not None), None)
        if read is None:
            raise _OddFileError(f"an image must have a name like {self._expected()}")
        identity, camera = read
        if identity is None and folder_identity is None:
            raise _OddFileError("its name contains no identity, so it must be in a folder named by the identity")
        if identity is not None and folder_identity is not None and identity != folder_identity:
            raise _OddFileError(f"its name has identity {identity}, its folder {folder_identity}")
        known = folder_identity if identity is None else identity
        assert known is not None, "one of the two was checked above"
        return known, camera

    def _expected(self) -> str:
        return " or ".join(scheme.example for scheme in self.schemes)

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_leftover(entry.name):
                    continue
                if entry.is_symlink() and not self._is_inside(Path(entry.path)):
                    self._refuse(Path(entry.path), "it is a link that leaves the dataset's folder")
                    continue
                yield entry

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.home)

    def _require_inside(self, path: Path) -> None:
        if not self._is_inside(path):
            raise InputError(
                f"{shown(str(path))} is a link that leaves {self.home}; such links are not followed\n"
                "put the files themselves there instead"
            )

    def _refuse(self, path: Path, rule: str) -> None:
        name = path.relative_to(self.layout.base).as_posix()
        if not self.skip:
            raise CorruptDataError(
                f"{shown(str(path))}: {rule}\n"
                "rename or remove it, give the form of your own names as dataset.pattern, or skip and count such "
                "files: --set dataset.on_error=skip"
            )
        self.skipped.append(name)
