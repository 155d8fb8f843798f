"""Ranking a test set of Market-1501's size: seconds and peak memory of the distances, of the metrics, of both together.

3,368 queries against 15,913 gallery images (19,732 less the junk) of 750 people and 6 cameras, with random features of
the published 2,048 dimensions; how well they rank does not matter to how long it takes. Each repeat ranks anew and the
slowest counts. Limit the cores with ``taskset -c 0,1``.

    python benchmarks/ranking.py [--repeats 3] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from evidence import evidence, write_evidence

from tune_lnl.metrics.reid import cosine_distances, rank_metrics

ROOT = Path(__file__).resolve().parents[1]
QUERIES, GALLERY, DIMENSIONS = 3_368, 15_913, 2_048
PEOPLE, CAMERAS = 750, 6
DISTRACTORS = 2_798
"""Gallery images of nobody in the queries, identity 0."""
SEED = 0


def features(rng: np.random.Generator, people: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return float32 (n, D): noise around each person's centre, so that matches rank neither first nor at random."""
    noise = rng.standard_normal((len(people), DIMENSIONS), dtype=np.float32)
    return np.asarray(centres[people] + 3.0 * noise)


def peak_gigabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "ranking.json")
    arguments = parser.parse_args()

    rng = np.random.default_rng(SEED)
    query_ids = rng.integers(1, PEOPLE + 1, QUERIES)
    gallery_ids = np.concatenate([np.zeros(DISTRACTORS, int), rng.integers(1, PEOPLE + 1, GALLERY - DISTRACTORS)])
    cameras = rng.integers(1, CAMERAS + 1, QUERIES), rng.integers(1, CAMERAS + 1, GALLERY)
    centres = rng.standard_normal((PEOPLE + 1, DIMENSIONS), dtype=np.float32)
    query, gallery = features(rng, query_ids, centres), features(rng, gallery_ids, centres)
    before = peak_gigabytes()

    rows: list[dict[str, float]] = []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        distances = cosine_distances(query, gallery)
        measured = time.perf_counter()
        cmc, mean_ap = rank_metrics(distances, query_ids, gallery_ids, *cameras)
        ended = time.perf_counter()
        rows.append({"distances": measured - began, "metrics": ended - measured, "together": ended - began})
        del distances
    slowest = max(rows, key=lambda row: row["together"])
    content = {
        "what": f"{QUERIES} queries x {GALLERY} gallery images, {DIMENSIONS} dimensions; seconds of the slowest repeat",
        **evidence(("numpy",)),
        "seconds": {name: round(value, 3) for name, value in slowest.items()},
        "repeats": [{name: round(value, 3) for name, value in row.items()} for row in rows],
        "peak_memory_gb": {"features_alone": round(before, 3), "ranking": round(peak_gigabytes(), 3)},
        "ranked": {"rank1": round(float(cmc[0]), 4), "map": round(mean_ap, 4)},
    }
    print(json.dumps(content, indent=2))
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
