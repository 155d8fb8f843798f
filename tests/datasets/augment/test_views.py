"""The contract of augmentations, and the geometry of crops, flips, rotations and holes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as tv

from tune_lnl.datasets.augment.views import AUGMENTATIONS, SizedImages, augment, augmentation_names, normalise
from tune_lnl.errors import InputError

SHAPES = {name: (64, 1, 8, 8) if name.startswith("digits") else (64, 3, 32, 32) for name in AUGMENTATIONS}
RANDOM = sorted(set(AUGMENTATIONS) - {"none"})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=seeded(99), dtype=torch.uint8)


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dtype_restored() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_shape_dtype_and_untouched_input(name: str) -> None:
    images = noise(*SHAPES[name])
    before = images.clone()
    result = augment(name, images, seeded())
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_grey_and_colour_images_of_any_batch_size(name: str) -> None:
    for channels in (1, 3):
        for batch in (0, 1, 5):
            shape = (batch, channels, *SHAPES[name][2:])
            assert augment(name, noise(*shape), seeded()).shape == shape


@pytest.mark.parametrize("name", RANDOM)
def test_the_generator_alone_decides_and_advances(name: str) -> None:
    images, generator = noise(*SHAPES[name]), seeded(5)
    first = augment(name, images, generator)
    torch.rand(3)  # the global random state plays no part
    assert torch.equal(first, augment(name, images, seeded(5)))
    assert not torch.equal(first, augment(name, images, seeded(6)))
    assert not torch.equal(first, augment(name, images, generator))


@pytest.mark.parametrize("name", RANDOM)
def test_draws_do_not_depend_on_the_pixels(name: str) -> None:
    one, other = seeded(), seeded()
    augment(name, noise(*SHAPES[name]), one)
    augment(name, torch.zeros(SHAPES[name], dtype=torch.uint8), other)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("name", RANDOM)
def test_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    images = noise(*SHAPES[name])
    others = images.clone()
    others[1:] = 255 - others[1:] // 2
    assert torch.equal(augment(name, images, seeded())[0], augment(name, others, seeded())[0])


@pytest.mark.usefixtures("threads_restored", "dtype_restored")
@pytest.mark.parametrize("name", RANDOM)
def test_threads_default_dtype_and_memory_format_play_no_part(name: str) -> None:
    images = noise(256, 3, *SHAPES[name][2:])
    torch.set_num_threads(1)
    expected = augment(name, images, seeded())
    torch.set_num_threads(2)
    assert torch.equal(expected, augment(name, images, seeded()))
    assert torch.equal(expected, augment(name, images.to(memory_format=torch.channels_last), seeded()))
    torch.set_default_dtype(torch.float64)
    assert torch.equal(expected, augment(name, images, seeded()))


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_a_cpu_generator_gives_the_same_images_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = noise(*SHAPES[name])
    on_gpu = augment(name, images.cuda(), seeded())
    assert on_gpu.is_cuda
    difference = (on_gpu.cpu().to(torch.int16) - augment(name, images, seeded()).to(torch.int16)).abs()
    # Only the cubic shear and turn may end on the other side of a cut.
    assert (difference > 0).double().mean() < 0.001


def test_none_changes_and_draws_nothing() -> None:
    generator = seeded()
    state = generator.get_state()
    images = noise(4, 3, 32, 32)
    assert torch.equal(augment("none", images, generator), images)
    assert torch.equal(generator.get_state(), state)


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'cifar_strong'"):
        augment("cifar_stong", noise(1, 3, 32, 32), seeded())


def test_names_are_listed() -> None:
    assert augmentation_names() == sorted([*AUGMENTATIONS, "crop_strong", "crop_weak"])
    assert {"cifar_strong", "cifar_weak", "digits_strong", "digits_weak", "none"} < set(AUGMENTATIONS)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8)])
def test_other_dtypes_and_dimensions_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        augment("cifar_weak", images, seeded())


def test_strong_view_refuses_other_channel_counts() -> None:
    with pytest.raises(InputError, match="1 or 3 channels"):
        augment("cifar_strong", noise(1, 2, 32, 32), seeded())


def located_images(batch: int, height: int, width: int) -> Tensor:
    """Pixel (row, column) holds row + 1 in channel 0 and column + 1 in channel 1, so that 0 is always fill."""
    rows = torch.arange(1, height + 1).view(-1, 1).expand(height, width)
    columns = torch.arange(1, width + 1).expand(height, width)
    return torch.stack((rows, columns)).to(torch.uint8).expand(batch, 2, height, width)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Move the content of (C, H, W) by whole pixels, zeros outside, by plain slicing."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    result[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = image[
        :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return result


@pytest.mark.parametrize(
    ("name", "side", "reach", "flips"), [("cifar_weak", 32, 4, True), ("digits_weak", 8, 1, False)]
)
def test_weak_views_are_shifts_and_flips_with_even_odds(name: str, side: int, reach: int, flips: bool) -> None:
    draws = 4000
    images = located_images(draws, side, side)
    result = augment(name, images, seeded())
    middle = side // 2
    flipped = result[:, 1, middle, middle] > result[:, 1, middle, middle + 1]
    moves = torch.zeros(2 * reach + 1, 2 * reach + 1)
    for image, mirrored in zip(result, flipped.tolist(), strict=True):
        upright = image.flip(2) if mirrored else image
        down = middle + 1 - int(upright[0, middle, middle])
        right = middle + 1 - int(upright[1, middle, middle])
        assert torch.equal(upright, shifted(images[0], down, right))
        moves[down + reach, right + reach] += 1
    odds = 1 / moves.numel()
    assert (moves / draws - odds).abs().max() < 5 * math.sqrt(odds / draws)
    assert flipped.double().mean().item() == pytest.approx(0.5 if flips else 0.0, abs=0.05)


def test_weak_crop_of_oblong_images() -> None:
    images = located_images(50, 20, 33)
    for image in augment("cifar_weak", images, seeded()):
        upright = image.flip(2) if image[1, 10, 16] > image[1, 10, 17] else image
        down, right = 11 - int(upright[0, 10, 16]), 17 - int(upright[1, 10, 16])
        assert torch.equal(upright, shifted(images[0], down, right))


def test_strong_cifar_view_starts_from_a_crop_of_its_own() -> None:
    images = noise(400, 3, 32, 32)
    generator = seeded()
    weak, strong = augment("cifar_weak", images, generator), augment("cifar_strong", images, generator)
    same = (weak == strong).flatten(1).all(dim=1).double().mean().item()
    assert same < 0.05


def test_strong_digits_turn_both_ways_within_fifteen_degrees() -> None:
    side, radius = 33, 12
    images = torch.zeros(2000, 1, side, side, dtype=torch.uint8)
    images[:, :, 15:18, 15 + radius : 18 + radius] = 255  # a blob to the right of the centre
    views = augment("digits_strong", images, seeded()).double()[:, 0]
    mass = views.sum(dim=(1, 2))
    steps = torch.arange(side, dtype=torch.float64) - side // 2
    down = (views.sum(dim=2) @ steps) / mass
    right = (views.sum(dim=1) @ steps) / mass
    degrees = torch.rad2deg(torch.atan2(-down, right))
    one_pixel = math.degrees(1.5 / (radius - 1))
    assert degrees.abs().max() < 15 + one_pixel
    assert degrees.min() < -12
    assert degrees.max() > 12
    assert abs(degrees.mean().item()) < 1


def test_strong_digits_have_a_hole_of_two_by_two_in_half_of_the_images() -> None:
    draws, side = 8000, 16
    views = augment("digits_strong", torch.full((draws, 1, side, side), 255, dtype=torch.uint8), seeded())[:, 0]
    inner = views[:, 4:12, 4:12] == 0  # turns and shifts bring no fill in here
    holed = inner.flatten(1).any(dim=1)
    expected = 0.5 * (9 / 15) ** 2  # 9 of 15 places along each axis touch these 8 rows or columns
    assert abs(holed.double().mean().item() - expected) < 5 * math.sqrt(expected / draws)
    assert inner.flatten(1).sum(dim=1).max() == 4
    assert inner.any(dim=2).sum(dim=1).max() == 2
    assert inner.any(dim=1).sum(dim=1).max() == 2


def test_normalise_is_to_tensor_and_normalize() -> None:
    images = noise(4, 3, 32, 32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    result = normalise(images, mean, std)
    assert result.dtype == torch.float32
    assert torch.equal(result, tv.normalize(images.float() / 255, mean, std))


def test_normalise_keeps_the_memory_format() -> None:
    images = noise(4, 3, 32, 32).to(memory_format=torch.channels_last)
    result = normalise(images, (0.5,) * 3, (0.5,) * 3)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_normalise_by_hand() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert normalise(images, (0.5,), (0.25,)).flatten().tolist() == [-2.0, 2.0]


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.5,) * 3, (0.5, 0.0, 0.5))])
def test_normalise_refuses_what_does_not_fit(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="std"):
        normalise(noise(1, 3, 4, 4), mean, std)


# ---- images of different sizes


def numbered(sizes: list[tuple[int, int]]) -> SizedImages:
    """Each pixel tells its row in channel 0 and its column in channel 1; outside the image it is 255."""
    height, width = (max(side) for side in zip(*sizes, strict=True))
    pixels = torch.full((len(sizes), 3, height, width), 255, dtype=torch.uint8)
    for image, (rows, columns) in zip(pixels, sizes, strict=True):
        image[0, :rows, :columns] = torch.arange(rows, dtype=torch.uint8)[:, None]
        image[1, :rows, :columns] = torch.arange(columns, dtype=torch.uint8)
        image[2, :rows, :columns] = 7
    return SizedImages(pixels, torch.tensor(sizes), crop=8)


def test_crops_of_images_of_different_sizes_are_uniform_and_inside() -> None:
    sizes = [(8, 8), (8, 11), (10, 8), (12, 9)]
    images = numbered(sizes * 2000)
    result = augment("crop_weak", images, torch.Generator().manual_seed(0))
    assert result.shape == (8000, 3, 8, 8)
    assert (result[:, 2] == 7).all(), "nothing from beside an image"
    down = result[:, 0, 1:].to(torch.int16) - result[:, 0, :-1].to(torch.int16)
    assert set(down.flatten().tolist()) == {1}
    steps = result[:, 1, 0, 1].to(torch.int16) - result[:, 1, 0, 0].to(torch.int16)
    assert set(steps.tolist()) == {1, -1}
    assert abs(float((steps == -1).double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(8000)
    for place, (height, width) in enumerate(sizes):
        mine = result[place::4]
        for values, choices in ((mine[:, 0, 0, 0], height - 7), (mine[:, 1, 0].amin(dim=1), width - 7)):
            shares = torch.bincount(values.to(torch.int64), minlength=choices) / 2000
            assert len(shares) == choices
            assert float((shares - 1 / choices).abs().max()) < 5 * 0.5 / math.sqrt(2000)


def test_the_strong_crop_draws_its_own_and_keeps_the_input() -> None:
    images = numbered([(20, 30), (30, 20)] * 50)
    before = images.pixels.clone()
    weak = augment("crop_weak", images, torch.Generator().manual_seed(0))
    strong = augment("crop_strong", images, torch.Generator().manual_seed(0))
    assert torch.equal(images.pixels, before)
    assert strong.shape == weak.shape
    unchanged = (weak == strong).flatten(1).all(dim=1).double().mean()
    assert 0.1 < float(unchanged) < 0.6, "a quarter of the pairs is not applied, and some operations change nothing"


def test_sizes_and_augmentations_must_fit() -> None:
    images = numbered([(20, 30)])
    with pytest.raises(InputError, match="'cifar_weak' is for images of one size"):
        augment("cifar_weak", images, torch.Generator())
    with pytest.raises(ValueError, match="needs images with their sizes"):
        augment("crop_weak", images.pixels, torch.Generator())
    with pytest.raises(ValueError, match="does not fit"):
        augment("crop_weak", numbered([(20, 7)]), torch.Generator())


def test_padded_is_cifars_at_32_pixels() -> None:
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    for strength in ("weak", "strong"):
        ours, cifars = (
            augment(f"{name}_{strength}", images, torch.Generator().manual_seed(1)) for name in ("padded", "cifar")
        )
        assert torch.equal(ours, cifars)
