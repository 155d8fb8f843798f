"""Measure the calls of a study: asking for a trial, reporting an epoch, ending it, in a journal or a database.

    TUNE_LNL_STORAGE_PASSWORD=... python benchmarks/storage_cost.py [--storage URL]... [--trials 10 500] [--output FILE]

No trial is trained and no Ray runs: one study, TPE over four ranges, the default stopping rule asked after every epoch,
one trial after the other. First with a journal file, then in every database that is given; they share the password.
The medians are over the last ten trials of each count, so they belong to a study of that size.
"""

from __future__ import annotations

import secrets
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from engine_cost import SPACE, TOY
from evidence import evidence, write_evidence

from tune_lnl.cli import Parser, guarded
from tune_lnl.tuning.space.space import load_space
from tune_lnl.tuning.study.database import StudyDatabase, parse_storage
from tune_lnl.tuning.study.journal import JournalFile
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.study import SearchStudy

Result = TypeVar("Result")
EPOCHS = 6
LAST = 10


def measure(place: StudyPlace, counts: list[int]) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each kind of call, in a study of each size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        budget = {"trials": max(counts), "sampler": "tpe", "pruner": "asha"}
        path.write_text(yaml.safe_dump({**SPACE, "fixed": {"epochs": EPOCHS}, "budget": budget}, sort_keys=False))
        study = SearchStudy.create(place, load_space(str(path)), 0)
    milliseconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, act: Callable[[], Result]) -> Result:
        began = time.perf_counter()
        result = act()
        milliseconds[name].append(1e3 * (time.perf_counter() - began))
        return result

    def run_trial() -> None:
        suggestion = timed("ask", study.ask)
        number, value = suggestion.number, 100.0 - 60.0 * abs(suggestion.params["x"] - 0.3)
        for epoch in range(EPOCHS):
            timed("report an epoch", partial(study.report, number, epoch, value * (epoch + 1) / EPOCHS))
            if epoch + 1 < EPOCHS and timed("ask whether to stop", lambda: study.should_prune(number)):
                timed("end", lambda: study.prune(number, 1.0))
                return
        timed("end", lambda: study.complete(number, value, 1.0))

    found = {}
    for trial in range(max(counts)):
        if trial + LAST in counts:
            milliseconds.clear()
        run_trial()
        if trial + 1 in counts:
            found[str(trial + 1)] = {
                name: round(statistics.median(values), 2) for name, values in milliseconds.items() if values
            }
    return found


@guarded
def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="benchmarks/storage_cost.py", description=__doc__)
    parser.add_argument("--storage", metavar="URL", action="append", default=[])
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 500])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    sys.path.append(str(TOY))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        places: list[StudyPlace] = [JournalFile(Path(folder) / "study.log")]
        places += [
            StudyDatabase(parse_storage(url), f"cost-{secrets.token_hex(4)}", "cost") for url in arguments.storage
        ]
        for number, place in enumerate(places):
            kind = "journal" if number == 0 else arguments.storage[number - 1].partition("://")[0]
            # A second database gets a name of its own.
            name = kind if kind not in found else f"{kind} {number}"
            try:
                found[name] = measure(place, arguments.trials)
            finally:
                place.release()
            for size, row in found[name].items():
                said = ", ".join(f"{what} {value} ms" for what, value in row.items())
                print(f"{name}, {size} trials: {said}", flush=True)
    if arguments.output is not None:
        what = "medians in milliseconds of calls to a study, by its number of trials"
        write_evidence(arguments.output, {"what": what, **evidence(("optuna", "SQLAlchemy")), "studies": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
