"""The description of a dataset of image files, for `python -m tune_lnl.data check`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import PictureOptions
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.description import Description, class_names_row, share
from tune_lnl.datasets.estimate import estimate_noise
from tune_lnl.datasets.formats import CAMERA_ENDINGS
from tune_lnl.datasets.label_file import matched_picture_labels
from tune_lnl.datasets.pictures.listing import most_common
from tune_lnl.datasets.pictures.near import near_duplicates
from tune_lnl.datasets.pictures.noisy import P, PictureDataset, Pictures, noisy_pictures
from tune_lnl.errors import shown

DUPLICATES_NAMED = 5


def describe_pictures(dataset: PictureDataset[P], options: P, pictures: Pictures) -> Description:
    """Return files, sizes, labels, duplicates, fingerprints, and the noise as known and as estimated."""
    data = noisy_pictures(options, pictures)
    rows = (
        ("dataset", f"{dataset.name}: {dataset.description}"),
        *_files_found(pictures),
        *_sizes(pictures),
        *_labels_found(data, pictures),
        *_label_file(data, pictures, options),
        *_duplicates(pictures),
        *_near_duplicates(pictures),
        *_noise_found(data, pictures),
        *dataset.suggestions(pictures),
        ("source sha256", data.fingerprints["source"]),
        ("labels sha256", data.fingerprints["labels"]),
    )
    faults = _exact_duplicates(pictures)
    if pictures.examined.pixels_changed():
        faults.append(f"the packed pixels have changed since they were packed\ndelete {pictures.examined.store.folder}")
    return Description(rows, tuple(faults))


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
        named = ", ".join(f"{shown(ending) or 'no ending'} {count:,}" for ending, count in most_common(found.ignored))
        more = ", ..." if len(found.ignored) > len(most_common(found.ignored)) else ""
        rows.append(("other files", f"{sum(found.ignored.values()):,}, no images by their names: {named}{more}"))
        photos = sum(count for ending, count in found.ignored.items() if ending in CAMERA_ENDINGS)
        if photos:
            rows.append(("note", f"{photos:,} files are photographs in a form that is not read: convert them to JPEG"))
    return rows


def _with_reasons(reasons: Mapping[str, str], count: int, listed: int = 10) -> str:
    lines = [f"{count:,} files"]
    lines += [f"{shown(name)}: {shown(reason)}" for name, reason in list(reasons.items())[:listed]]
    return f"\n{'':<18}".join([*lines, *(["..."] if count > listed else [])])


def _sizes(pictures: Pictures) -> list[tuple[str, str]]:
    done = pictures.examined
    sides = np.sort(done.shapes, axis=1)
    middle = np.median(sides, axis=0).astype(int)
    kept = "kept square" if done.size.square else f"shorter side {done.size.resize} before the crop"
    packed = f"packed, {done.store.nbytes() / 2**20:,.0f} MiB in {done.store.folder}"
    return [
        (
            "sizes",
            f"shorter side {sides[:, 0].min():,} to {sides[:, 0].max():,} pixels, median {middle[0]:,} x {middle[1]:,}",
        ),
        ("image", f"{done.size.crop}x{done.size.crop}, 3 channels; {kept}"),
        ("pixels", packed if done.packed else "decoded in every epoch: they do not fit into dataset.cache_budget"),
    ]


def _labels_found(data: NoisyData, pictures: Pictures) -> list[tuple[str, str]]:
    counts = np.bincount(data.given_labels, minlength=data.num_classes)
    rows = [
        ("classes", f"{data.num_classes} closed, {len(data.class_names) - data.num_classes} open"),
        class_names_row(data.class_names),
        ("training", f"{len(data.rows):,} samples; {counts.min():,} to {counts.max():,} per given label"),
    ]
    for number, text in ((0, "without a training image"), (1, "with one training image, never in validation")):
        names = [shown(data.class_names[label]) for label in np.flatnonzero(counts == number)]
        if names:
            rows.append(("thin classes", f"{len(names)} {text}: {', '.join(names[:5])}"))
    tested = f"{len(data.test_rows):,} samples" if len(data.test_rows) else "no test set: there will be no test scores"
    return [*rows, ("test", tested)]


def _label_file(data: NoisyData, pictures: Pictures, options: PictureOptions) -> list[tuple[str, str]]:
    """Compare the labels of a file with those of the images. A file in another order changes most of them."""
    if options.label_file is None:
        return []
    found, train = pictures.listed, pictures.examined.rows[: pictures.examined.training]
    file, names = options.label_file, found.names.chosen(train)
    _, notes = matched_picture_labels(file.file, file.column, found.class_names[: found.num_classes], names, found.root)
    own = found.labels[train][data.rows]
    changed = int(np.count_nonzero(own != data.given_labels))
    return [
        (
            "labels changed",
            f"{share(changed / len(own))}: {changed:,} of {len(own):,} labels of the file differ from the images' own",
        ),
        *(("note", note) for note in notes),
    ]


def _groups(pictures: Pictures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the group of each readable image, one group for equal files, and the sizes of the groups."""
    keys = np.ascontiguousarray(pictures.examined.contents).view([("bytes", "V16")]).ravel()
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    return group, sizes


def _exact_duplicates(pictures: Pictures) -> list[str]:
    """Return a fault if test images are training images, byte by byte: their score says nothing about unseen images."""
    done = pictures.examined
    group, _ = _groups(pictures)
    training, test = group[: done.training], group[done.training :]
    copies = np.flatnonzero(np.isin(test, training))
    if not len(copies):
        return []
    first = done.training + int(copies[0])
    original = int(np.flatnonzero(training == group[first])[0])
    names = pictures.listed.names
    return [
        f"{len(copies):,} of {len(test):,} test images are in the training set, too, byte by byte; the first is "
        f"{shown(names[int(done.rows[first])])} = {shown(names[int(done.rows[original])])}\n"
        "remove them from one of the two sets"
    ]


def _near_duplicates(pictures: Pictures) -> list[tuple[str, str]]:
    done = pictures.examined
    if done.training == len(done.rows):
        return []
    found = near_duplicates(done)
    rows = [("near-duplicates", f"{len(found.test):,} test images look like a training image")]
    for test, training in list(zip(found.test.tolist(), found.training.tolist(), strict=True))[:DUPLICATES_NAMED]:
        names = (shown(pictures.listed.names[int(done.rows[position])]) for position in (test, training))
        rows.append(("near-duplicates", " ~ ".join(names)))
    if len(found.test) > DUPLICATES_NAMED:
        rows.append(("near-duplicates", f"... and {len(found.test) - DUPLICATES_NAMED:,} more"))
    return rows


def _duplicates(pictures: Pictures) -> list[tuple[str, str]]:
    """Count files of the same bytes, in all, under several labels, and both in training and test; name the second."""
    done = pictures.examined
    group, sizes = _groups(pictures)
    labels = pictures.listed.labels[done.rows]
    training = np.arange(len(group)) < done.training
    pairs = np.unique(np.stack([group[training], labels[training]]), axis=1)
    several = np.bincount(pairs[0], minlength=len(sizes)) > 1
    both = np.intersect1d(group[training], group[~training])
    rows = [
        (
            "duplicates",
            f"{int((sizes - 1).sum()):,} files repeat another byte by byte; {int(several.sum()):,} training images "
            f"have several labels, {len(both):,} are in the test set, too",
        )
    ]
    for number in np.flatnonzero(several)[:DUPLICATES_NAMED]:
        copies = done.rows[: done.training][group[training] == number]
        names = [shown(pictures.listed.names[int(row)]) for row in copies[:DUPLICATES_NAMED]]
        more = f" and {len(copies) - len(names):,} more" if len(copies) > len(names) else ""
        rows.append(("several labels", " = ".join(names) + more))
    if several.sum() > DUPLICATES_NAMED:
        rows.append(("several labels", f"... and {int(several.sum()) - DUPLICATES_NAMED:,} more images"))
    return rows


def _noise_found(data: NoisyData, pictures: Pictures) -> list[tuple[str, str]]:
    if data.true_labels is None:
        rows = [("noise", "not known: there are no true labels")]
    else:
        rows = [("noise", f"requested {share(data.requested_noise)}, measured {share(data.measured_noise)}")]
    if data.open_set is not None:
        rows.append(("total noise", f"measured {share(data.measured_total_noise)}"))
    verified = pictures.listed.verified
    if verified is not None:
        marks = verified[pictures.examined.rows[: pictures.examined.training]]
        known = marks[marks >= 0]
        if len(known):
            rows.append(("verified", f"{len(known):,} labels were checked, {share(float(np.mean(known == 0)))} wrong"))
    found = estimate_noise(data.train_images, data.rows, data.given_labels)
    if found is None:
        rows.append(("estimated noise", "too few images per class to estimate it"))
        return rows
    rows.append(
        (
            "estimated noise",
            f"{share(found.rate)}, 95% interval {share(found.low)} to {share(found.high)}: the share of labels that "
            f"disagree with a simple classifier among its {found.anchors:,} most confident predictions, of "
            f"{found.samples:,}; it predicts {share(found.agreement)} of all labels"
            + ("; an upper bound, because its features separate these classes badly" if found.upper_bound else ""),
        )
    )
    return rows
