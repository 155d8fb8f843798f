"""Odd and broken files, and torchvision's sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as T
from picture_trees import write_broken_files, write_image, write_odd_files
from PIL import Image

from tune_lnl.datasets.pictures.decoding import (
    UnreadableImageError,
    WorkingSize,
    _open,
    _planes,
    _resized,
    decode,
    decode_pixels,
    dimensions,
    middle,
    stored_size,
)

AS_IS = WorkingSize(20, 20, square=False)
"""Of the shorter side of the odd files: nothing is resized."""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    write_odd_files(tmp_path)
    return tmp_path


def test_every_kind_becomes_rgb(odd: Path) -> None:
    kinds = {path.name: decode(path, AS_IS).kind for path in sorted(odd.iterdir())}
    assert kinds == {
        "cmyk.jpg": "JPEG CMYK",
        "grey.png": "PNG L",
        "palette.gif": "GIF P",
        "alpha.png": "PNG RGBA",
        "sixteen.png": kinds["sixteen.png"],
        "turned.jpg": "JPEG RGB",
        "写真 ñ.png": "PNG RGB",
        "UPPER.JPG": "JPEG RGB",
    }
    assert kinds["sixteen.png"] in ("PNG I;16", "PNG I")
    for path in odd.iterdir():
        done = decode(path, AS_IS)
        assert done.pixels.dtype == np.uint8
        assert done.pixels.shape == ((30, 20, 3) if path.name == "turned.jpg" else (20, 30, 3))
        assert done.thumbnail.shape == (8, 8, 3)
        assert (done.width, done.height) == (done.pixels.shape[1], done.pixels.shape[0])
        assert np.array_equal(decode_pixels(path, AS_IS), done.pixels)


def test_plain_pixels_are_kept(odd: Path) -> None:
    expected = np.asarray(Image.open(odd / "写真 ñ.png"))
    assert np.array_equal(decode(odd / "写真 ñ.png", AS_IS).pixels, expected)
    assert np.array_equal(decode(odd / "alpha.png", AS_IS).pixels, expected)  # opaque everywhere


def test_sixteen_bits_lose_the_lower_eight(odd: Path) -> None:
    expected = (np.arange(600).reshape(20, 30) * 100) >> 8
    assert np.array_equal(decode(odd / "sixteen.png", AS_IS).pixels, np.repeat(expected[..., None], 3, axis=2))


def test_an_image_is_turned_as_its_exif_says(odd: Path) -> None:
    stored = np.asarray(Image.open(odd / "turned.jpg"))
    assert np.array_equal(decode(odd / "turned.jpg", AS_IS).pixels, np.rot90(stored, -1))


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (20, 20), (0, 127)).save(tmp_path / "half.png")
    assert (decode(tmp_path / "clear.png", AS_IS).pixels == 255).all()
    assert (decode(tmp_path / "half.png", AS_IS).pixels == 128).all()


def test_broken_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    reasons = {}
    for name in write_broken_files(tmp_path):
        with pytest.raises(UnreadableImageError) as caught:
            decode(tmp_path / name, AS_IS)
        reasons[name] = str(caught.value)
        assert "\n" not in reasons[name]
    assert "truncated" in reasons["truncated.jpg"]
    assert reasons["empty.jpg"] == "it is empty"
    assert "cannot identify" in reasons["text.jpg"]
    assert "decompression bomb" in reasons["bomb.png"]


def test_a_lack_of_memory_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.png", 0, 40, 30)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(F, "interpolate", fail)
    for read in (decode, decode_pixels):
        with pytest.raises(MemoryError):
            read(path, AS_IS)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / "absent.jpg", AS_IS)
    assert dimensions(tmp_path / "absent.jpg") is None


def test_content_is_equal_for_equal_bytes(tmp_path: Path) -> None:
    one = write_image(tmp_path / "a.png", 0)
    (tmp_path / "b.png").write_bytes(one.read_bytes())
    write_image(tmp_path / "c.png", 1)
    a, b, c = (decode(tmp_path / f"{name}.png", AS_IS).content for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(("width", "height"), [(100, 60), (60, 100), (64, 64), (31, 47), (200, 90), (20, 33)])
def test_sizes_and_pixels_are_torchvisions(width: int, height: int, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 0, width, height)
    size = WorkingSize(48, 42, square=False)
    image = Image.open(path)
    resized = T.Resize(48)(image)
    done = decode(path, size).pixels
    assert stored_size(width, height, size) == resized.size
    assert done.shape == np.asarray(resized).shape
    # torch and Pillow round the same weighted means in their own ways; the images are noise, where that shows most.
    assert np.abs(done.astype(int) - np.asarray(resized)).max() <= 2
    cropped = np.asarray(T.CenterCrop(42)(Image.fromarray(done)))
    assert np.array_equal(middle(done, 42, 42), cropped)


@pytest.mark.parametrize("side", [30, 3000])
def test_images_in_pillows_memory_and_copied_out_give_the_same_pixels(side: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.bmp")
    image = _open((tmp_path / "a.bmp").read_bytes()).convert("RGB")
    in_place = _planes(image)
    assert in_place.shape == (1, 4 if hasattr(image, "__arrow_c_array__") else 3, side, side + 1)
    assert np.array_equal(in_place[0, :3].permute(1, 2, 0).numpy(), noise)
    size = WorkingSize(20, 20, square=False)
    copied = F.interpolate(torch.from_numpy(noise).permute(2, 0, 1)[None], (20, 20), mode="bilinear", antialias=True)
    assert np.array_equal(_resized(image, size), copied[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (5000, 1)])
def test_strips_lose_their_ends(width: int, height: int, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 0, width, height)
    pixels = decode(path, WorkingSize(30, 30, square=False)).pixels
    assert sorted(pixels.shape[:2]) == [30, 90]
    assert (pixels.shape[1] > pixels.shape[0]) == (width > height)


def test_square_keeps_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, 16:48] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png", WorkingSize(16, 16, square=True)).pixels == 200).all()
