"""Compare the speed of maintained decoders that read a photograph and resize it to the working size.

    python benchmarks/decoders.py [--seconds 4] [--rounds 3] [--output FILE]

The input is two photographs that scikit-learn ships (640 x 427, and enlarged) as JPEG files, read by one thread per
core, as in training. Ours decodes by Pillow and resizes by torch. The others: Pillow alone; Pillow's draft mode, where
the JPEG decoder shrinks by two or four first; torchvision's deprecated decoder; TorchCodec, its successor, each version
of which fits one version of torch; and OpenCV; the last two if they are installed. They take turns. Different pixels
change results, so the distance from Pillow's pixels is printed, in grey levels.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from evidence import evidence, write_evidence
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as transforms

from tune_lnl.datasets.pictures.decoding import WorkingSize, decode_pixels, stored_size

ROOT = Path(__file__).resolve().parents[1]
SIZE = WorkingSize(resize=256, crop=224, square=False)
ENLARGED = (1, 3, 6)
"""Factors on 640 x 427: about the size of Food-101N's images, of an old camera's, and of a telephone's."""
QUALITY = 90
Pixels = NDArray[np.uint8]
Decoder = Callable[[Path], Pixels]


def ours(path: Path) -> Pixels:
    return decode_pixels(path, SIZE)


def pillow(path: Path) -> Pixels:
    image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    return np.asarray(image.resize(stored_size(image.width, image.height, SIZE), Image.Resampling.BILINEAR))


def draft(path: Path) -> Pixels:
    image = Image.open(io.BytesIO(path.read_bytes()))
    target = stored_size(image.width, image.height, SIZE)
    image.draft("RGB", target)
    return np.asarray(image.convert("RGB").resize(target, Image.Resampling.BILINEAR))


def by_torchvision(path: Path) -> Pixels:
    return resized(decode_jpeg(bytes_of(path), ImageReadMode.RGB))


def by_torchcodec(path: Path) -> Pixels:
    return resized(importlib.import_module("torchcodec.decoders").decode_jpeg(bytes_of(path)))


def bytes_of(path: Path) -> Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def resized(image: Tensor) -> Pixels:
    width, height = stored_size(image.shape[2], image.shape[1], SIZE)
    pixels: Pixels = transforms.resize(image, [height, width], antialias=True).permute(1, 2, 0).numpy()
    return pixels


def by_opencv(path: Path) -> Pixels:
    cv2 = importlib.import_module("cv2")
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    target = stored_size(image.shape[1], image.shape[0], SIZE)
    pixels: Pixels = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    return pixels


def decoders() -> dict[str, Decoder]:
    found: dict[str, Decoder] = {"ours": ours, "Pillow": pillow, "Pillow, draft": draft, "torchvision": by_torchvision}
    if "torchcodec" in installed():
        found["TorchCodec"] = by_torchcodec
    if "opencv-python-headless" in installed():
        found["OpenCV"] = by_opencv
    return found


def installed() -> list[str]:
    """Return the optional packages that are installed."""
    modules = {"torchcodec": "torchcodec", "opencv-python-headless": "cv2"}
    return [package for package, module in modules.items() if importlib.util.find_spec(module) is not None]


def photographs(folder: Path, times: int) -> list[Path]:
    paths = []
    for number, pixels in enumerate(load_sample_images().images):
        image = Image.fromarray(pixels)
        image = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
        paths.append(folder / f"{times}-{number}.jpg")
        image.save(paths[-1], quality=QUALITY)
    return paths


def speed(decode: Decoder, paths: list[Path], seconds: float, threads: int) -> float:
    """Return images per second."""
    with ThreadPoolExecutor(threads) as pool:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            count += len(list(pool.map(decode, paths * threads * 4)))
        return count / (time.perf_counter() - began)


def one_block(wanted: bool) -> None:
    """Choose Pillow's storage of large images: one block each, as ours does, or several, Pillow's default."""
    core: Any = vars(Image)["core"]
    core.set_use_block_allocator(int(wanted))


def measure(times: int, seconds: float, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    arms = decoders()
    with TemporaryDirectory() as folder:
        paths = photographs(Path(folder), times)
        ours(paths[0])  # sets Pillow up, once
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, decode in arms.items():
                one_block(name == "ours")
                speeds[name].append(speed(decode, paths, seconds, threads))
        one_block(True)
        away = {
            name: np.stack([np.abs(decode(path).astype(int) - pillow(path).astype(int)) for path in paths])
            for name, decode in arms.items()
        }
    base = statistics.median(speeds["Pillow"])
    return {
        name: {
            "images/s": round(statistics.median(values), 1),
            "each round": [round(value, 1) for value in values],
            "times Pillow": round(statistics.median(values) / base, 2),
            "mean distance of a pixel from Pillow's, of 255": round(float(away[name].mean()), 3),
            "largest": int(away[name].max()),
        }
        for name, values in speeds.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each decoder, each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "decoders.json")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if "opencv-python-headless" in installed():
        importlib.import_module("cv2").setNumThreads(1)
    sizes = {}
    for times in ENLARGED:
        what = f"{640 * times} x {427 * times}"
        sizes[what] = measure(times, arguments.seconds, arguments.rounds, threads)
        print(f"{what:<20}{'images/s':>10}{'times Pillow':>14}{'pixels away':>13}{'largest':>9}")
        for name, row in sizes[what].items():
            away = row["mean distance of a pixel from Pillow's, of 255"]
            print(
                f"  {name:<18}{row['images/s']:>10.0f}{row['times Pillow']:>14.2f}{away:>13.3f}{row['largest']:>9}",
                flush=True,
            )
    content = {
        "what": f"JPEG files to {SIZE.resize} pixels on the shorter side, {threads} threads; medians, arms in turn",
        **evidence(("pillow", "torchvision", "torch", *installed())),
        "sizes": sizes,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
