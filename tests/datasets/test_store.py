"""The packed store: mapped, shared, rebuilt where damaged or out of date, and never half written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_lnl.datasets.store import Packing, SourceFiles, open_or_pack, store_path
from tune_lnl.errors import CorruptDataError, InputError

# A process that packs the file that it is given and logs each packing; optionally it is killed while writing.
PACK = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from tune_lnl.datasets import store
cache, file, log, die = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "die"
def pack(packing):
    with log.open("a") as lines:
        lines.write("packed\\n")
    time.sleep(0.3)
    packing.write("labels", np.arange(4))
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    return "fingerprint", {}
print(store.open_or_pack(cache, "toy", store.SourceFiles(file.parent, "toy", (file,)), pack).fingerprint)
"""
FACTS = {"class_names": ["a", "b"], "unreadable": {"c/\udcff.png": "cut"}}
IMAGES = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
PIXELS = [np.arange(5, dtype=np.uint8), np.zeros(0, dtype=np.uint8), np.arange(7, dtype=np.uint8)]


@pytest.fixture
def source(tmp_path: Path) -> SourceFiles:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    return SourceFiles(folder, "toy", (folder / "file",))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def pack(packing: Packing) -> tuple[str, dict[str, Any]]:
    packing.write("labels", np.arange(4))
    with packing.growing("images", (2, 2, 3)) as images, packing.growing("pixels") as pixels:
        for image in IMAGES:
            images.append(image[None])
        for each in PIXELS:
            pixels.append(each)
    assert (images.shape, pixels.shape) == ((4, 2, 2, 3), (12,))
    assert images.sha256.hexdigest() == hashlib.sha256(IMAGES.tobytes()).hexdigest()
    return "fingerprint", FACTS


def never(packing: Packing) -> tuple[str, dict[str, Any]]:
    pytest.fail("a sound store is opened, not packed")


def pack_in_process(cache: Path, source: SourceFiles, log: Path, *, die: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PACK, str(cache), str(source.files[0]), str(log), "die" if die else "live"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_packed_once_and_mapped(cache: Path, source: SourceFiles) -> None:
    packed = open_or_pack(cache, "toy", source, pack)
    opened = open_or_pack(cache, "toy", source, never)
    for store in (packed, opened):
        assert all(isinstance(values, np.memmap) and not values.flags.writeable for values in store.arrays.values())
        assert {name: values.tolist() for name, values in store.arrays.items()} == {
            "labels": [0, 1, 2, 3],
            "images": IMAGES.tolist(),
            "pixels": np.concatenate(PIXELS).tolist(),
        }
        assert (store.fingerprint, store.facts) == ("fingerprint", FACTS)
        assert store.folder == store_path(cache, "toy", source)
        assert store.nbytes() > 3 * 128
    meta = json.loads((packed.folder / "meta.json").read_text())
    assert (meta["form"], meta["source_files"], meta["source_file_count"]) == ("toy", ["file"], 1)


@pytest.mark.parametrize("change", ["size", "mtime", "name"])
def test_a_changed_source_has_another_store(cache: Path, source: SourceFiles, change: str) -> None:
    before = store_path(cache, "toy", source)
    file = source.files[0]
    if change == "size":
        stat = file.stat()
        file.write_bytes(b"more content")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "mtime":
        os.utime(file, (1, 1))
    else:
        file = file.rename(file.with_name("other"))
    assert store_path(cache, "toy", SourceFiles(source.root, "toy", (file,))) != before


@pytest.mark.parametrize(
    "damage", ["cut", "grown", "no array", "no meta", "torn meta", "edited meta", "meta of another", "list"]
)
def test_a_damaged_store_is_rebuilt(cache: Path, source: SourceFiles, damage: str) -> None:
    store = open_or_pack(cache, "toy", source, pack).folder
    images, meta = store / "images.npy", store / "meta.json"
    if damage == "cut":
        os.truncate(images, images.stat().st_size - 1)
    elif damage == "grown":
        images.write_bytes(images.read_bytes() + b"x")
    elif damage == "no array":
        images.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "torn meta":
        os.truncate(meta, 40)
    elif damage == "edited meta":
        meta.write_text(meta.read_text().replace('"a"', '"z"'))
    elif damage == "meta of another":
        (source.root / "other").write_bytes(b"other")
        other = SourceFiles(source.root, "toy", (source.root / "other",))
        shutil.copy(open_or_pack(cache, "toy", other, pack).folder / "meta.json", meta)
        shutil.rmtree(store_path(cache, "toy", other))
        store_path(cache, "toy", other).with_name(f"{store_path(cache, 'toy', other).name}.lock").unlink()
    else:
        meta.write_text("[1, 2]")
    calls: list[int] = []

    def counted(packing: Packing) -> tuple[str, dict[str, Any]]:
        calls.append(1)
        return pack(packing)

    opened = open_or_pack(cache, "toy", source, counted)
    assert calls == [1]
    assert np.array_equal(opened.arrays["images"], IMAGES)
    assert sorted(path.name for path in store.parent.iterdir()) == [store.name, f"{store.name}.lock"]


def test_a_killed_packing_leaves_nothing_that_looks_finished(cache: Path, source: SourceFiles, tmp_path: Path) -> None:
    process = pack_in_process(cache, source, tmp_path / "log", die=True)
    process.communicate()
    assert process.returncode == -9
    store = store_path(cache, "toy", source)
    assert not store.exists()
    assert store.with_name(f"{store.name}.building").exists(), "it must have died in the middle"
    opened = open_or_pack(cache, "toy", source, pack)
    assert np.array_equal(opened.arrays["images"], IMAGES)
    assert sorted(path.name for path in store.parent.iterdir()) == [store.name, f"{store.name}.lock"]


def test_two_processes_never_pack_at_once(cache: Path, source: SourceFiles, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [pack_in_process(cache, source, log) for _ in range(3)]
    fingerprints = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(fingerprints) == 1
    assert log.read_text() == "packed\n"


def test_a_failing_packing_leaves_nothing(cache: Path, source: SourceFiles) -> None:
    def failing(packing: Packing) -> tuple[str, dict[str, Any]]:
        packing.write("labels", np.arange(4))
        with packing.growing("images", (2, 2, 3)) as images:
            images.append(IMAGES[:1])
            raise CorruptDataError("file is damaged")

    with pytest.raises(CorruptDataError, match="file is damaged"):
        open_or_pack(cache, "toy", source, failing)
    assert [path.suffix for path in (cache / "packed").iterdir()] == [".lock"]


def test_a_source_that_changes_while_it_is_read(cache: Path, source: SourceFiles) -> None:
    def during_a_copy(packing: Packing) -> tuple[str, dict[str, Any]]:
        source.files[0].write_bytes(b"still being written")
        return pack(packing)

    with pytest.raises(CorruptDataError, match="changed while they were read"):
        open_or_pack(cache, "toy", source, during_a_copy)


def test_a_cache_that_cannot_be_written(cache: Path, source: SourceFiles) -> None:
    cache.write_text("a file where a directory should be")
    with pytest.raises(InputError, match="TUNE_LNL_CACHE"):
        open_or_pack(cache, "toy", source, pack)
