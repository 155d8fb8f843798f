"""CIFAR in every layout, and everything that can be wrong with it."""

from __future__ import annotations

import os
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cifar_trees import (
    LAYOUTS,
    TinyCifar,
    md5,
    official_batches,
    png,
    publish,
    stored_meta,
    tiny_cifar,
    write_archive,
    write_class_folders,
    write_layout,
    write_official_folder,
    write_parquet,
    write_shard,
)
from http_server import answering
from real_data import real_cifar100

from tune_lnl.datasets.base import Images, Labels, Source
from tune_lnl.datasets.images import cifar
from tune_lnl.datasets.images.cifar import Cifar, Cifar10N, Cifar80NO, Cifar100NC
from tune_lnl.datasets.images.cifar_spec import CIFAR10, CIFAR100
from tune_lnl.errors import CorruptDataError, InputError

DATASETS: list[type[Cifar]] = [Cifar100NC, Cifar10N]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyCifar:
    return tiny_cifar(Cifar10N, monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    return folder


def load(root: Path, dataset: type[Cifar] = Cifar10N) -> Source:
    return dataset().load_source(root.parent, root.parent.parent / "cache")


def in_order(images: Images, labels: Labels) -> list[tuple[int, bytes]]:
    return sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))


# ---- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_labels(
    dataset: type[Cifar], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_cifar(dataset, monkeypatch)
    root = write_layout(layout, tmp_path / "data" / dataset.folder, tiny, monkeypatch)
    source = load(root, dataset)
    assert stored_meta(tmp_path / "cache")["form"] == layout
    assert source.class_names == tiny.spec.classes
    assert in_order(source.train_images, source.train_labels) == in_order(tiny.train.images, tiny.train.labels)
    assert in_order(source.test_images, source.test_labels) == in_order(tiny.test.images, tiny.test.labels)
    if layout != "class-folders":  # there the order is by class
        assert np.array_equal(source.train_labels, tiny.train.labels)
        assert np.array_equal(source.train_images, tiny.train.images)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_data_dir_may_be_the_folder_itself(
    layout: str, tmp_path: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_layout(layout, tmp_path / "anywhere", tiny, monkeypatch)
    assert len(Cifar10N().load_source(place, tmp_path / "cache").train_labels) == 40
    if layout == "folder":
        inner = place / tiny.spec.folder
        assert len(Cifar10N().load_source(inner, tmp_path / "cache").train_labels) == 40


@pytest.mark.parametrize("layout", ["parquet", "class-folders"])
def test_the_other_cifar_is_not_mistaken_for_this_one(
    layout: str, tmp_path: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_layout(layout, tmp_path / "anywhere", tiny, monkeypatch)
    assert Cifar10N().is_present(place, tmp_path / "cache")
    assert not Cifar100NC().is_present(place, tmp_path / "cache")


def test_datasets_that_differ_in_noise_share_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_layout("parquet", tmp_path / "data" / "cifar100", tiny_cifar(Cifar80NO, monkeypatch), monkeypatch)
    assert load(root, Cifar100NC).fingerprint == load(root, Cifar80NO).fingerprint
    (store,) = (tmp_path / "cache" / "packed").glob("*/")
    assert store.name.startswith("cifar100-")


def test_numbered_class_folders_are_in_numeric_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_cifar(Cifar100NC, monkeypatch)
    place = root.parent / "cifar100"
    write_class_folders(place, tiny)
    for split in ("train", "test"):
        for label, name in enumerate(tiny.spec.classes):
            (place / split / name).rename(place / split / str(label))
    source = load(place, Cifar100NC)
    assert source.class_names == tuple(str(label) for label in range(100))
    assert in_order(source.train_images, source.train_labels) == in_order(tiny.train.images, tiny.train.labels)


def test_a_changed_source_is_packed_anew(root: Path, tiny: TinyCifar) -> None:
    write_class_folders(root, tiny)
    before = load(root)
    image = next((root / "train").glob("*/*.png"))
    image.write_bytes(png(np.zeros((32, 32, 3), dtype=np.uint8)))
    assert load(root).fingerprint != before.fingerprint


def test_the_source_is_only_read(root: Path, tiny: TinyCifar) -> None:
    write_parquet(root, tiny)
    before = {path: path.stat().st_mtime_ns for path in root.parent.rglob("*")}
    load(root)
    assert {path: path.stat().st_mtime_ns for path in root.parent.rglob("*")} == before


def test_class_names_are_alphabetical() -> None:
    # So that sorted class folders give the published labels.
    for spec in (CIFAR10, CIFAR100):
        assert list(spec.classes) == sorted(set(spec.classes))
    assert len(CIFAR100.classes) == 100


def test_class_names_are_the_published_ones() -> None:
    listed = real_cifar100() / "classes.txt"
    if not listed.is_file():
        pytest.skip("no classes.txt beside the shards")
    assert tuple(listed.read_text().split()) == CIFAR100.classes


# ---- checksums before unpickling -----------------------------------------------------------------------------------


class _CreatesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """A file that exists as soon as `hostile` is unpickled."""
    return tmp_path / "unpickled"


@pytest.fixture
def hostile(proof: Path) -> bytes:
    content = pickle.dumps(_CreatesFile(proof))
    pickle.loads(content)
    assert proof.exists(), "the pickle must do its harm when it is read, or these tests show nothing"
    proof.unlink()
    return content


def test_an_archive_with_a_wrong_checksum_is_never_unpickled(
    root: Path, tiny: TinyCifar, proof: Path, hostile: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as published:
        write_archive(root, tiny.spec, dict.fromkeys(official_batches(tiny), hostile), published)
    with pytest.raises(CorruptDataError, match=r"cifar-10-python\.tar\.gz does not have the published checksum"):
        load(root)
    assert not proof.exists()


def test_a_batch_with_a_wrong_checksum_is_never_unpickled(
    root: Path, tiny: TinyCifar, proof: Path, hostile: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = official_batches(tiny)
    folder = write_official_folder(root, tiny.spec, batches, monkeypatch)
    (folder / "data_batch_1").write_bytes(hostile)
    with pytest.raises(CorruptDataError, match="data_batch_1 does not have the published checksum"):
        load(root)
    assert not proof.exists()


def test_members_are_checked_even_where_the_archive_passes(
    root: Path, tiny: TinyCifar, proof: Path, hostile: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = official_batches(tiny)
    write_archive(root, tiny.spec, {**batches, "data_batch_1": hostile}, monkeypatch)
    publish(tiny.spec, batches, monkeypatch)
    with pytest.raises(CorruptDataError, match="data_batch_1 does not have the published checksum"):
        load(root)
    assert not proof.exists()


def test_the_published_checksums_are_in_force(root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as published:
        write_archive(root, tiny.spec, official_batches(tiny), published)
    with pytest.raises(CorruptDataError, match="expected c58f30108f718f92721af3b95e74349a"):
        load(root)


def test_an_archive_without_a_batch(root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = official_batches(tiny)
    write_archive(root, tiny.spec, {name: batches[name] for name in tiny.spec.batches[0]}, monkeypatch)
    publish(tiny.spec, batches, monkeypatch)
    with pytest.raises(CorruptDataError, match="lacks cifar-10-batches-py/test_batch"):
        load(root)


def test_an_archive_with_a_link_for_a_batch(root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = official_batches(tiny)
    path = root / tiny.spec.archive
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo(f"{tiny.spec.folder}/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    publish(tiny.spec, batches, monkeypatch)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", md5(path.read_bytes()))
    with pytest.raises(CorruptDataError, match="data_batch_1 is not a plain file"):
        load(root)


def test_a_half_extracted_folder(root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_official_folder(root, tiny.spec, official_batches(tiny), monkeypatch)
    (folder / "data_batch_3").unlink()
    with pytest.raises(CorruptDataError, match="data_batch_3 is missing"):
        load(root)


def test_an_archive_of_absurd_size_is_not_read(root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> None:
    with (root / tiny.spec.archive).open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(CorruptDataError, match="far more than the published file"):
        load(root)


# ---- damaged parquet -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 4, 2000])
def test_truncated_or_empty_parquet(root: Path, tiny: TinyCifar, size: int) -> None:
    shard = write_parquet(root, tiny)[0]
    os.truncate(shard, size)
    with pytest.raises(CorruptDataError, match=r"train-00000-of-00002\.parquet is not a complete parquet file"):
        load(root)


def test_parquet_with_a_damaged_middle(root: Path, tiny: TinyCifar) -> None:
    shard = write_parquet(root, tiny)[0]
    content = bytearray(shard.read_bytes())
    content[2000:4000] = bytes(2000)
    shard.write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"train-00000-of-00002\.parquet"):
        load(root)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_shard(root: Path, tiny: TinyCifar, missing: int) -> None:
    write_parquet(root, tiny)[missing].unlink()
    with pytest.raises(CorruptDataError, match=r"shards once|split is missing"):
        load(root)


def test_too_few_rows(root: Path, tiny: TinyCifar) -> None:
    shard = write_parquet(root, tiny)[0]
    write_shard(shard, "label", [png(tiny.train.images[0])], [0])
    with pytest.raises(CorruptDataError, match="the train split has 21 images, not 40"):
        load(root)


def test_missing_column(root: Path, tiny: TinyCifar) -> None:
    shard = write_parquet(root, tiny)[1]
    write_shard(shard, "labels", [png(image) for image in tiny.train.images[:20]], [0] * 20)
    with pytest.raises(CorruptDataError, match=r"train-00001-of-00002\.parquet has no column 'label'"):
        load(root)


@pytest.mark.parametrize("label", [-1, 10])
def test_label_out_of_range(root: Path, tiny: TinyCifar, label: int) -> None:
    shard = write_parquet(root, tiny)[0]
    write_shard(shard, "label", [png(image) for image in tiny.train.images[:20]], [0] * 19 + [label])
    with pytest.raises(CorruptDataError, match=r"train-00000-of-00002\.parquet: labels must be in 0\.\.9"):
        load(root)


def _images_of_wrong_kind() -> dict[str, bytes]:
    whole = png(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    return {
        "empty": b"",
        "noise": b"not an image",
        "cut": whole[: len(whole) // 2],
        "large": png(np.zeros((33, 32, 3), dtype=np.uint8)),
        "grey": png(np.zeros((32, 32), dtype=np.uint8)),
        "gif": b"GIF89a" + whole,
    }


@pytest.mark.parametrize("kind", _images_of_wrong_kind())
def test_undecodable_image(root: Path, tiny: TinyCifar, kind: str) -> None:
    shard = write_parquet(root, tiny)[0]
    encoded = [png(image) for image in tiny.train.images[:20]]
    encoded[7] = _images_of_wrong_kind()[kind]
    write_shard(shard, "label", encoded, [0] * 20)
    with pytest.raises(CorruptDataError, match=r"train-00000-of-00002\.parquet, row 7: "):
        load(root)


def test_a_decompression_bomb_is_not_decoded(root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image, PngImagePlugin

    decoded: list[object] = []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: decoded.append(image))
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None, "Pillow's limit must be on"
    # 15,000 x 15,000 pixels, more than twice the limit, in 40 bytes of header: only the header is ever looked at.
    header = _png_header(15_000, 15_000)
    shard = write_parquet(root, tiny)[0]
    write_shard(shard, "label", [header] * 20, [0] * 20)
    with pytest.raises(CorruptDataError, match="decompression bomb"):
        load(root)
    write_shard(shard, "label", [_png_header(5_000, 5_000)] * 20, [0] * 20)
    with pytest.raises(CorruptDataError, match="must be 32x32 RGB, got 5000x5000 RGB"):
        load(root)
    assert decoded == []


def _png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    dimensions = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", dimensions) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# ---- class folders and links ---------------------------------------------------------------------------------------


def test_links_that_leave_the_root_are_refused(root: Path, tiny: TinyCifar, tmp_path: Path) -> None:
    write_class_folders(root, tiny)
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(tiny.train.images[0]))
    (root / "train" / "cat" / "link.png").symlink_to(outside)
    with pytest.raises(InputError, match=r"link\.png: it is a link to a file outside"):
        load(root)


def test_class_folder_that_is_an_outside_link(root: Path, tiny: TinyCifar, tmp_path: Path) -> None:
    write_class_folders(root, tiny)
    (root / "train" / "cat").rename(tmp_path / "cat")
    (root / "train" / "cat").symlink_to(tmp_path / "cat")
    with pytest.raises(InputError, match=r"cat: it is a link to a folder outside"):
        load(root)


def test_shard_that_is_an_outside_link(root: Path, tiny: TinyCifar, tmp_path: Path) -> None:
    shard = write_parquet(root, tiny)[0]
    shard.rename(tmp_path / "shard")
    shard.symlink_to(tmp_path / "shard")
    with pytest.raises(InputError, match="is a link that leaves"):
        load(root)


def test_links_inside_the_root_and_to_the_root_are_fine(root: Path, tiny: TinyCifar, tmp_path: Path) -> None:
    write_class_folders(root, tiny)
    image = next((root / "train" / "cat").iterdir())
    (root / "train" / "cat" / "again.png").symlink_to(image)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cifar10").symlink_to(root)
    assert len(Cifar10N().load_source(elsewhere, tmp_path / "cache").train_labels) == 41


def test_class_folders_that_are_half_there(root: Path, tiny: TinyCifar) -> None:
    write_class_folders(root, tiny)
    shutil.rmtree(root / "test" / "frog")
    with pytest.raises(CorruptDataError, match="one folder for each of the 10 classes"):
        load(root)
    (root / "test" / "frog").mkdir()
    with pytest.raises(CorruptDataError, match="frog holds no image"):
        load(root)
    shutil.rmtree(root / "test")
    with pytest.raises(CorruptDataError, match="test is missing"):
        load(root)


# ---- nothing there -------------------------------------------------------------------------------------------------


def test_an_explicit_data_dir_without_the_data_has_no_fallback(
    root: Path, tiny: TinyCifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(root, tiny)
    monkeypatch.setenv("TUNE_LNL_DATA", str(root.parent))
    monkeypatch.setattr(
        cifar, "download", lambda *arguments: pytest.fail("an explicit data dir is never downloaded to")
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError) as raised:
        Cifar10N().load_source(empty, tmp_path / "cache")
    for told in ("cifar10n needs CIFAR-10", str(empty), "cifar-10-python.tar.gz", "cs.toronto.edu", "act_digits8no"):
        assert told in str(raised.value)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match="must be an existing directory"):
        Cifar10N().load_source(tmp_path / "absent", tmp_path / "cache")


def test_a_folder_that_cannot_be_read_is_told(root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(root, tiny)

    def denied(path: Path) -> None:
        raise PermissionError(f"denied: {path}")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(InputError, match="cifar10 cannot be read: denied"):
        load(root)


def test_no_data_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    monkeypatch.setattr("tune_lnl.downloads.why_unreachable", lambda url: "no route to host")
    with pytest.raises(InputError, match=r"download failed \(no route to host\)"):
        Cifar10N().load_source(None, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a local server offers its files."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

    with answering(Files) as server:
        yield folder, f"http://127.0.0.1:{server.server_port}"


def test_a_download_lands_in_the_cache_and_is_checked(
    served: tuple[Path, str], tmp_path: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    folder, address = served
    archive = write_archive(folder, tiny.spec, official_batches(tiny), monkeypatch)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", f"{address}/{archive.name}")
    cache = tmp_path / "cache"
    assert len(Cifar10N().load_source(None, cache).train_labels) == 40
    assert (cache / "data" / "cifar10" / archive.name).is_file()
    assert not (cache / "data" / "cifar10" / "arriving").exists()
    assert len(Cifar10N().load_source(None, cache).train_labels) == 40

    shutil.rmtree(cache)
    archive.write_bytes(b"something else")
    with pytest.raises(InputError, match="download failed"):
        Cifar10N().load_source(None, cache)
    assert not (cache / "data" / "cifar10" / archive.name).exists()

    archive.unlink()
    with pytest.raises(InputError, match=r"download failed .*404"):
        Cifar10N().load_source(None, cache)


# ---- the real one --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_cifar100(tmp_path: Path) -> None:
    source = Cifar100NC().load_source(real_cifar100(), tmp_path / "cache")
    assert source.train_images.shape == (50_000, 32, 32, 3)
    assert source.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(source.train_labels).tolist() == [500] * 100
    assert np.bincount(source.test_labels).tolist() == [100] * 100
    pixels = source.train_images.reshape(-1, 3)
    # The known channel statistics of the training set.
    np.testing.assert_allclose(pixels.mean(axis=0) / 255, [0.50708, 0.48655, 0.44092], atol=1e-5)
    np.testing.assert_allclose(pixels.std(axis=0) / 255, [0.26733, 0.25644, 0.27615], atol=1e-5)
