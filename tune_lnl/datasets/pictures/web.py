"""Web-Aircraft, Web-Bird and Web-Car: fine-grained classes, images from web searches (WebFG-496, Sun et al. 2021).

Layout: `web-aircraft/{train,val}/<class>/<image>`; `val` is the test set. Source: ACT, released main_web.py and
utils/builder.py, lines 56-95 (448 pixels, shorter side resized to 448 before the crop).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tune_lnl.config.datasets import PictureOptions
from tune_lnl.datasets.pictures.listing import (
    ListBuilder,
    PictureList,
    add_class_folders,
    is_leftover,
    require_training_images,
)
from tune_lnl.datasets.pictures.noisy import PublishedPictures
from tune_lnl.errors import CorruptDataError

TRAIN, TEST = "train", "val"


class WebImages(PublishedPictures):
    """The base class of the three."""

    image_shape = (448, 448, 3)
    looked_for = f"{TRAIN}/<class>/<image> and {TEST}/<class>/<image>"
    origin = "the weblyFG-dataset page of its authors (Sun et al., Webly Supervised Fine-Grained, ICCV 2021)"
    train_images: ClassVar[int]
    """The published number."""

    def holds_data(self, folder: Path) -> bool:
        if not (folder / TRAIN).is_dir() or not (folder / TEST).is_dir():
            return False
        # Other datasets have folders train and val, too: under another name the number of classes must be right.
        own = folder.resolve().name == self.folder
        classes = [entry for entry in (folder / TRAIN).iterdir() if entry.is_dir() and not is_leftover(entry.name)]
        return own or len(classes) == self.num_source_classes

    def list_files(self, data_dir: Path | None, cache_dir: Path, options: PictureOptions) -> PictureList:
        builder = ListBuilder(self.root_folder(data_dir, cache_dir), "class folders", options.on_error)
        classes = builder.folders_in(builder.root / TRAIN)
        if len(classes) != self.num_source_classes:
            raise CorruptDataError(
                f"{builder.root / TRAIN} must hold {self.num_source_classes} class folders, got {len(classes)}\n"
                "get the dataset again"
            )
        strangers = sorted(set(builder.folders_in(builder.root / TEST)) - set(classes))
        if strangers:
            raise CorruptDataError(
                f"{builder.root / TEST} has {len(strangers)} classes that {TRAIN} lacks, the first is "
                f"{strangers[0]!a}\nget the dataset again"
            )
        add_class_folders(builder, TRAIN, classes)
        builder.notes.append(f"{self.train_images:,} training images as published")
        builder.begin_test()
        add_class_folders(builder, TEST, classes)
        return require_training_images(builder.finish(classes), self.looked_for)


class WebAircraft(WebImages):
    """100 variants of aircraft."""

    name = "web_aircraft"
    folder = "web-aircraft"
    title = "Web-Aircraft"
    description = "Web-Aircraft: 100 aircraft variants from web searches, with their own label noise; tested on val"
    num_source_classes = 100
    train_images = 13503


class WebBird(WebImages):
    """200 species of birds."""

    name = "web_bird"
    folder = "web-bird"
    title = "Web-Bird"
    description = "Web-Bird: 200 bird species from web searches, with their own label noise; tested on val"
    num_source_classes = 200
    train_images = 18388


class WebCar(WebImages):
    """196 models of cars."""

    name = "web_car"
    folder = "web-car"
    title = "Web-Car"
    description = "Web-Car: 196 car models from web searches, with their own label noise; tested on val"
    num_source_classes = 196
    train_images = 21448
