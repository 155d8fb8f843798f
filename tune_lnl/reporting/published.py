"""Published test accuracies (%) to compare with: the mean over the last ten epochs, as each source reports it.

Sources: ACT (Sheng et al., asymmetric co-training), Tables 1 to 3; rows marked † there were re-run by its authors.
``ACT, released code run by a user``: single runs of the released main.py, put on a blog, with the population deviation
over the last ten epochs. CORE's own tables are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ACT = "ACT"
PLAIN = "Standard (plain cross-entropy)"
RERUN = "ACT, released code run by a user"

Noise = tuple[str, float]
Key = tuple[str, Noise | None]
"""Dataset and (kind of noise, closed-set ratio); ``None`` for datasets whose labels are as they come."""

_CIFAR_COLUMNS: tuple[Key, ...] = (
    ("cifar100nc", ("symmetric", 0.2)),
    ("cifar100nc", ("symmetric", 0.8)),
    ("cifar100nc", ("asymmetric", 0.4)),
    ("cifar80no", ("symmetric", 0.2)),
    ("cifar80no", ("symmetric", 0.8)),
    ("cifar80no", ("asymmetric", 0.4)),
)

_CIFAR: Mapping[str, tuple[float, ...]] = {
    PLAIN: (35.14, 4.41, 27.29, 29.37, 4.20, 22.25),
    "Decoupling": (33.10, 3.89, 26.11, 43.49, 10.1, 33.74),
    "Co-teaching": (43.73, 15.15, 28.35, 60.38, 16.59, 42.42),
    "Co-teaching+": (49.27, 13.44, 33.62, 53.97, 12.29, 43.01),
    "JoCoR": (53.01, 15.49, 32.70, 59.99, 12.85, 39.37),
    "DivideMix": (57.76, 28.98, 43.75, 57.47, 21.18, 37.47),
    "Jo-SRC": (58.15, 23.80, 38.52, 65.83, 29.76, 53.03),
    "Co-LDL": (59.73, 25.12, 52.28, 58.81, 24.22, 50.69),
    "UNICON†": (55.10, 31.49, 49.90, 54.50, 36.75, 51.50),
    "SOP†": (58.63, 34.23, 49.87, 60.17, 34.05, 53.34),
    "AGCE†": (59.38, 27.41, 43.04, 60.24, 25.39, 44.06),
    "DISC†": (60.28, 33.90, 50.56, 50.33, 38.23, 47.63),
    "ANL†": (60.20, 23.39, 44.15, 61.35, 20.74, 47.31),
    "NPN†": (62.76, 31.69, 57.11, 63.78, 25.25, 58.50),
    ACT: (65.51, 40.74, 63.48, 67.09, 38.58, 64.40),
}

_WEB_COLUMNS: tuple[Key, ...] = (("web_aircraft", None), ("web_bird", None), ("web_car", None))

_WEB: Mapping[str, tuple[float, ...]] = {
    PLAIN: (60.80, 64.40, 60.60),
    "Decoupling": (75.91, 71.61, 79.41),
    "Co-teaching": (79.54, 76.68, 84.95),
    "Co-teaching+": (74.80, 70.12, 76.77),
    "PENCIL": (78.82, 75.09, 81.68),
    "JoCoR": (80.11, 79.19, 85.10),
    "AFM": (81.04, 76.35, 83.48),
    "DivideMix": (82.48, 74.40, 84.27),
    "Jo-SRC": (82.73, 81.22, 88.13),
    "Co-LDL": (81.97, 80.11, 86.95),
    "UNICON†": (85.18, 81.20, 88.15),
    "SOP†": (84.06, 79.40, 85.71),
    "AGCE†": (84.22, 75.60, 85.16),
    "DISC†": (85.27, 81.08, 88.31),
    "ANL†": (81.78, 79.46, 86.47),
    "NPN†": (83.65, 79.36, 85.46),
    ACT: (86.56, 81.43, 88.75),
}

_FOOD: Mapping[str, tuple[float, ...]] = {
    PLAIN: (84.50,),
    "Decoupling": (85.53,),
    "Co-teaching": (61.91,),
    "Co-teaching+": (81.61,),
    "JoCoR": (77.94,),
    "DivideMix": (85.88,),
    "Jo-SRC": (86.66,),
    "PLC": (85.28,),
    "DivideMix+SNSCL": (86.40,),
    ACT: (86.81,),
}

_RERUNS: Mapping[Key, tuple[float, float]] = {
    ("cifar100nc", ("symmetric", 0.2)): (60.47, 0.093),
    ("cifar100nc", ("symmetric", 0.8)): (15.617, 0.207),
    ("cifar100nc", ("asymmetric", 0.4)): (60.866, 0.139),
    ("cifar80no", ("symmetric", 0.2)): (66.382, 0.144),
    ("cifar80no", ("asymmetric", 0.4)): (63.259, 0.117),
}


@dataclass(frozen=True)
class PublishedResult:
    """Test accuracy in percent; ``deviation`` over the last ten epochs of one run, where it is given."""

    method: str
    accuracy: float
    deviation: float | None
    source: str


TABLES: tuple[tuple[tuple[Key, ...], Mapping[str, tuple[float, ...]], str], ...] = (
    (_CIFAR_COLUMNS, _CIFAR, "ACT, Table 1"),
    (_WEB_COLUMNS, _WEB, "ACT, Table 2"),
    ((("food101n", None),), _FOOD, "ACT, Table 3"),
)
"""Columns, accuracies by method in their order, and source."""


def published_results(dataset: str, noise: Noise | None) -> list[PublishedResult]:
    """Return the published figures for a dataset under a noise, best first; none where there is no figure.

    Args:
        dataset: registered name.
        noise: (kind, closed-set ratio in [0, 1)), ``None`` where the noise is the dataset's own.
    """
    key = (dataset, noise)
    found = []
    for columns, table, source in TABLES:
        if key in columns:
            place = columns.index(key)
            found += [PublishedResult(name, values[place], None, source) for name, values in table.items()]
    if key in _RERUNS:
        found.append(PublishedResult(RERUN, *_RERUNS[key], "a blog, one run"))
    return sorted(found, key=lambda result: -result.accuracy)
