"""CIFAR-10 and CIFAR-100 as published (Krizhevsky 2009): classes, counts and names of files."""

from __future__ import annotations

from dataclasses import dataclass

SIDE = 32
"""Pixels of an image."""


@dataclass(frozen=True)
class CifarSpec:
    """One of the two published datasets.

    Attributes:
        title: its name in messages.
        classes: names, in the order of the labels (alphabetical, so that sorted class folders give the same labels).
        counts: published number of training and test images; other counts mean an incomplete source.
        archive, folder: names of the official archive and of the folder in it.
        batches: names of the pickled batches of each split, in order.
        pickle_labels: key of the labels in a batch.
        label_column: column of the labels in the Hugging Face parquet files.
        torchvision_class: the class in torchvision.datasets that holds URL and checksums.
    """

    title: str
    classes: tuple[str, ...]
    counts: tuple[int, int]
    archive: str
    folder: str
    batches: tuple[tuple[str, ...], tuple[str, ...]]
    pickle_labels: str
    label_column: str
    torchvision_class: str


CIFAR10 = CifarSpec(
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts=(50_000, 10_000),
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    batches=(("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"), ("test_batch",)),
    pickle_labels="labels",
    label_column="label",
    torchvision_class="CIFAR10",
)

_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = CifarSpec(
    title="CIFAR-100",
    classes=tuple(_CIFAR100_NAMES.split()),
    counts=(50_000, 10_000),
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    batches=(("train",), ("test",)),
    pickle_labels="fine_labels",
    label_column="fine_label",
    torchvision_class="CIFAR100",
)
