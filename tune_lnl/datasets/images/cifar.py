"""The noisy datasets from CIFAR: cifar100nc, cifar80no (ACT, released data/noisy_cifar.py) and cifar10n."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import Any, ClassVar

from tune_lnl.config.datasets import DatasetOptions, NoisyLabelOptions
from tune_lnl.datasets.base import ImageDataset, Source
from tune_lnl.datasets.images.cifar_forms import FORMS, form_in, published_archive
from tune_lnl.datasets.images.cifar_spec import CIFAR10, CIFAR100, SIDE, CifarSpec
from tune_lnl.datasets.paths import (
    DATA_VARIABLE,
    download_dir,
    find_dataset_folder,
    read_errors_named,
    searched_folders,
)
from tune_lnl.datasets.store import Packing, SourceFiles, open_or_pack
from tune_lnl.downloads import download
from tune_lnl.errors import InputError

HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Cifar(ImageDataset, ABC):
    """The base class of the CIFAR datasets: it finds, downloads and packs the source."""

    folder: ClassVar[str]
    spec: ClassVar[CifarSpec]

    Options: ClassVar[type[DatasetOptions]] = NoisyLabelOptions
    image_shape = (SIDE, SIDE, 3)
    # ACT, released utils/builder.py, lines 56-95: ImageNet statistics, for CIFAR too.
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    weak_augmentation = "cifar_weak"
    strong_augmentation = "cifar_strong"
    default_model = "cnn7"

    def load_source(self, data_dir: Path | None, cache_dir: Path) -> Source:
        found = self._find(data_dir, cache_dir)
        if found is None:
            if data_dir is not None:
                raise self._not_found(data_dir, cache_dir, reason=None)
            found = self._download(cache_dir)
        root = found.resolve()
        with read_errors_named(root):
            form = form_in(root, self.spec, own_folder=True)
            assert form is not None, "the folder was recognised by one of the forms"
            files = SourceFiles(root, form.name, tuple(form.files(root, self.spec)))

        def pack(packing: Packing) -> tuple[str, dict[str, Any]]:
            with read_errors_named(root):
                source = form.read(root, files.files, self.spec)
            for name in ARRAYS:
                packing.write(name, getattr(source, name))
            return source.fingerprint, {"class_names": source.class_names}

        store = open_or_pack(cache_dir, self.folder, files, pack)
        return Source(
            **{name: store.arrays[name] for name in ARRAYS},
            class_names=tuple(store.facts["class_names"]),
            fingerprint=store.fingerprint,
        )

    def is_present(self, data_dir: Path | None, cache_dir: Path) -> bool:
        return self._find(data_dir, cache_dir) is not None

    def _find(self, data_dir: Path | None, cache_dir: Path) -> Path | None:
        return find_dataset_folder(self.folder, data_dir, self._holds_data, cache_dir)

    def _holds_data(self, folder: Path) -> bool:
        with read_errors_named(folder):
            return form_in(folder, self.spec, own_folder=folder.resolve().name == self.folder) is not None

    def _download(self, cache_dir: Path) -> Path:
        """Return the cache's folder with the official archive in it, its checksum verified. Raises InputError."""
        import torchvision.datasets.utils

        url, md5 = published_archive(self.spec)
        folder = download_dir(self.folder, cache_dir)
        reason = download(
            url,
            folder / self.spec.archive,
            lambda to: torchvision.datasets.utils.download_url(url, to.parent, to.name, md5),
        )
        if reason is not None:
            raise self._not_found(None, cache_dir, reason)
        return folder

    def _not_found(self, data_dir: Path | None, cache_dir: Path, reason: str | None) -> InputError:
        searched = " and ".join(str(folder) for folder in searched_folders(self.folder, data_dir, cache_dir))
        forms = "; ".join(form.describe(self.spec) for form in FORMS)
        failed = "" if reason is None else f" and the download failed ({reason})"
        return InputError(
            f"{self.name} needs {self.spec.title}: none found in {searched}{failed}\n"
            f"looked for {forms}; get it from {HOMEPAGE} and pass --data-dir DIR or set {DATA_VARIABLE}\n"
            "the search space act_digits8no needs no data at all"
        )


class Cifar100NC(Cifar):
    """CIFAR-100 with closed-set noise only (ACT's CIFAR100N)."""

    name = "cifar100nc"
    folder = "cifar100"
    description = "CIFAR-100 with label noise among its 100 classes (ACT's CIFAR100N)"
    spec = CIFAR100
    num_source_classes = 100
    open_ratio = 0.0


class Cifar80NO(Cifar100NC):
    """CIFAR-100 with 80 closed and 20 open classes (ACT's CIFAR80N)."""

    name = "cifar80no"
    description = "CIFAR-100 with label noise among 80 classes and 20 open-set classes (ACT's CIFAR80N)"
    open_ratio = 0.2


class Cifar10N(Cifar):
    """CIFAR-10 with closed-set noise only: cifar100nc with ten classes."""

    name = "cifar10n"
    folder = "cifar10"
    description = "CIFAR-10 with label noise among its 10 classes, or the published human labels"
    spec = CIFAR10
    num_source_classes = 10
    open_ratio = 0.0
