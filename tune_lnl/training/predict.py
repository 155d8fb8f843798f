"""Classify image files with a trained model: the command ``predict``, and its use from Python."""

from __future__ import annotations

import csv
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image

from tune_lnl.datasets.base import Images
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.pictures.decoding import UnreadableImageError, decode_pixels, middle
from tune_lnl.datasets.pictures.listing import ListBuilder
from tune_lnl.errors import InputError, shown
from tune_lnl.files import FORMULA_SIGNS, given_file, no_formula, refuse_output
from tune_lnl.object_storage import local_file
from tune_lnl.steps import step
from tune_lnl.training.accelerator import choose_device, set_arithmetic
from tune_lnl.training.classification import evaluation_batch
from tune_lnl.training.model_file import ImageClassifier, load_classifier
from tune_lnl.wording import counted

SUFFIXES = (".csv", ".parquet")
NAMED_FILES = 20
"""Unreadable files that are named; further ones are counted."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: as given, or found below a given folder.
        classes: names, most probable first.
        confidences: softmax probabilities of these classes, in [0, 1].
    """

    path: Path
    classes: tuple[str, ...]
    confidences: tuple[float, ...]


@dataclass(frozen=True)
class Unreadable:
    """A file that is no usable image, and the reason."""

    path: Path
    reason: str


def predict_command(
    model: str | Path,
    paths: Sequence[Path],
    output: Path | None,
    top: int,
    batch_size: int | None,
    device: str,
    onnx: Path | None,
    note: Callable[[str], None],
) -> int:
    """Write predictions as CSV on stdout or into ``output``; with ``onnx`` write the network there first.

    Returns:
        0, or 1 where no file could be read.

    Raises:
        InputError: the model, the paths or the flags cannot be used; nothing is written then.
    """
    if not paths and onnx is None:
        raise InputError("name the images or folders to predict, or --onnx FILE to write the network")
    for name, number in (("--top", top), ("--batch-size", batch_size)):
        if number is not None and number < 1:
            raise InputError(f"{name} is at least 1, got {number}")
    for file, suffixes in ((output, SUFFIXES), (onnx, (".onnx",))):
        if file is not None:
            _check_output(file, suffixes)
    for path in paths:
        if not path.exists():
            raise InputError(f"no such file or folder: {shown(str(path))}")
    device = choose_device(device)
    set_arithmetic(device, "fp32", False)
    classifier = load_classifier(local_file(model, cache_dir()), device)
    if top > len(classifier.classes):
        raise InputError(f"--top is at most the number of classes, {len(classifier.classes)}, got {top}")
    if onnx is not None:
        from tune_lnl.training.onnx import write_onnx

        write_onnx(classifier, onnx)
        note(f"network: {onnx}")
    return _predict_all(classifier, paths, output, top, batch_size, note) if paths else 0


def _predict_all(
    classifier: ImageClassifier,
    paths: Sequence[Path],
    output: Path | None,
    top: int,
    batch_size: int | None,
    note: Callable[[str], None],
) -> int:
    files = image_files(paths, note)
    first = next(files, None)
    if first is None:
        raise InputError(f"no image files in {', '.join(shown(str(path)) for path in paths)}")
    readable = unreadable = 0
    step("")
    with _table(output, top) as write:
        for found in predictions(classifier, chain([first], files), top, batch_size):
            if isinstance(found, Prediction):
                write(found)
                readable += 1
                if output is not None:
                    step(f"classifying ... {counted(readable, 'image')}")
                continue
            unreadable += 1
            if unreadable <= NAMED_FILES:
                note(f"{shown(str(found.path))}: {found.reason}")
    if unreadable > NAMED_FILES:
        note(f"... and {unreadable - NAMED_FILES:,} more")
    note(
        f"{counted(readable, 'image')} predicted"
        + (f", {counted(unreadable, 'file')} could not be read" if unreadable else "")
        + ("" if output is None else f"; written to {output}")
    )
    return 0 if readable else 1


# ---- from Python


def image_files(paths: Iterable[Path], note: Callable[[str], None] | None = None) -> Iterator[Path]:
    """Yield the given files, and the images in and below given folders, in a fixed order.

    Args:
        paths: files and folders.
        note: called with a line for each link or file in a folder that is left out, as it leads out of the folder.

    Raises:
        InputError: a folder that cannot be read.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        builder = ListBuilder(path, "predict", "skip")
        for name, _ in builder.images_in(""):
            yield path / name
        for name, reason in builder.skipped.items():
            if note is not None:
                note(f"{shown(str(path / name))}: {reason}")


def predictions(
    classifier: ImageClassifier, files: Iterable[Path], top: int = 1, batch_size: int | None = None
) -> Iterator[Prediction | Unreadable]:
    """Predict image files of any size, colour form and orientation, in their order.

    The preprocessing is that of the evaluation during training: rotation by the EXIF data, transparency over white,
    resizing, centre crop; conversion to grey for a network of one channel.

    Args:
        classifier: see :func:`tune_lnl.training.model_file.load_classifier`.
        files: decoded a batch ahead, by threads.
        top: how many classes each prediction names.
        batch_size: images per batch, two batches in memory at a time; ``None``: by the size of the images.
    """
    size = evaluation_batch((1, *classifier.image_shape)) if batch_size is None else batch_size
    waiting: deque[list[tuple[Path, Future[Images | str]]]] = deque()
    rest = iter(files)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as readers:
        try:
            while True:
                ahead = [(file, readers.submit(_pixels, classifier, file)) for file in islice(rest, size)]
                if ahead:
                    waiting.append(ahead)
                if waiting and (len(waiting) > 1 or not ahead):
                    yield from _batch(classifier, waiting.popleft(), top)
                elif not ahead:
                    return
        finally:
            readers.shutdown(wait=True, cancel_futures=True)


def _pixels(classifier: ImageClassifier, file: Path) -> Images | str:
    """Return pixels, uint8 (H, W, C), or the reason why there are none."""
    try:
        pixels = middle(decode_pixels(file, classifier.size), classifier.size.crop, classifier.size.crop)
    except UnreadableImageError as error:
        return str(error)
    return pixels if classifier.channels == 3 else grey(pixels)


def grey(pixels: Images) -> Images:
    """Return the luma of ITU-R BT.601: uint8 (H, W, 3) -> (H, W, 1). Grey stays unchanged."""
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def _batch(
    classifier: ImageClassifier, batch: list[tuple[Path, Future[Images | str]]], top: int
) -> Iterator[Prediction | Unreadable]:
    read = [(file, future.result()) for file, future in batch]
    images = [pixels for _, pixels in read if not isinstance(pixels, str)]
    scores: Iterator[tuple[list[float], list[int]]] = iter(())
    if images:
        shares = classifier.logits(torch.from_numpy(np.stack(images))).softmax(dim=1).topk(top, dim=1)
        scores = iter(zip(shares.values.tolist(), shares.indices.tolist(), strict=True))
    for file, pixels in read:
        if isinstance(pixels, str):
            yield Unreadable(file, pixels)
            continue
        values, numbers = next(scores)
        yield Prediction(file, tuple(classifier.classes[number] for number in numbers), tuple(values))


# ---- the table


def columns(top: int) -> list[str]:
    """Return the column names: path, predicted, confidence, then predicted_2, confidence_2, ..."""
    more = [name for rank in range(2, top + 1) for name in (f"predicted_{rank}", f"confidence_{rank}")]
    return ["path", "predicted", "confidence", *more]


def _cells(found: Prediction) -> list[str | float]:
    """Return a row: in the path, bytes that are not UTF-8 are escaped, and it never looks like a formula."""
    path = os.fsencode(found.path).decode("utf-8", "backslashreplace")
    pairs = zip(found.classes, found.confidences, strict=True)
    return [f"./{path}" if path.startswith(FORMULA_SIGNS) else path, *(cell for pair in pairs for cell in pair)]


def _check_output(file: Path, suffixes: Sequence[str]) -> None:
    if file.suffix.lower() not in suffixes:
        raise InputError(f"the file to write ends in {' or '.join(suffixes)}, got {shown(str(file))}")
    reason = refuse_output(file)
    if reason is not None:
        raise InputError(f"{shown(str(file))} {reason}; name another file")


@contextmanager
def _table(output: Path | None, top: int) -> Iterator[Callable[[Prediction], None]]:
    """Give a function that adds a row; the file appears, whole, when the context ends."""
    if output is None:
        yield _csv_rows(sys.stdout, top, shown)  # class names come from a file, and could control the terminal
        return
    with given_file(output) as temporary:
        if output.suffix.lower() == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                yield _csv_rows(file, top)
        else:
            with _parquet_rows(temporary, top) as write:
                yield write


def _csv_rows(file: TextIO, top: int, escape: Callable[[str], str] = str) -> Callable[[Prediction], None]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns(top))

    def write(found: Prediction) -> None:
        writer.writerow(
            [no_formula(escape(cell)) if isinstance(cell, str) else f"{cell:.6f}" for cell in _cells(found)]
        )

    return write


ROWS_PER_GROUP = 10_000


@contextmanager
def _parquet_rows(file: Path, top: int) -> Iterator[Callable[[Prediction], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = columns(top)
    schema = pa.schema([(name, pa.float64() if name.startswith("confidence") else pa.string()) for name in names])
    rows: list[list[Any]] = []

    def flush() -> None:
        if rows:
            arrays = [
                pa.array(values, type=field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.table(arrays, schema=schema))
            rows.clear()

    def write(found: Prediction) -> None:
        rows.append(_cells(found))
        if len(rows) >= ROWS_PER_GROUP:
            flush()

    with pq.ParquetWriter(file, schema) as writer:
        yield write
        flush()
