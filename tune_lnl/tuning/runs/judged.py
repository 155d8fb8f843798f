"""A person's answers to held-out images of a run: which images, ``judged.csv``, and the trial that they choose.

``judged.csv`` has a row per image that was drawn or answered: ``id`` (position in the training set, ``index`` of
``heldout/NNN.npz``), ``path`` (of an image that is a file, relative to the dataset), ``answer`` and ``weight`` (the
inverse probability of its being drawn; 1 for an image of the person's own choice). ``judged.yaml`` holds the choice,
which only :mod:`tune_lnl.tuning.runs.answer` reads.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.datasets.label_columns import plain_name, table_form
from tune_lnl.errors import InputError, nearest, shown
from tune_lnl.files import no_formula
from tune_lnl.methods.judging import NONE_OF_THEM, Answered, Choice, choose, images_to_judge, judging_weights
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.run import Run

NONE, UNKNOWN = "none", "unknown"
"""Answers besides the names of classes: none of the classes; cannot tell, which is not counted."""
COLUMNS = ("id", "path", "answer")
WEIGHT = "weight"
OWN_WEIGHT = 1.0
WHOLE_AS_FLOAT = re.compile(r"^(\d+)\.0+$")


class Words:
    """The answers that a file may contain.

    Args:
        classes: names of the closed classes, by number. A class that is called ``none`` or ``unknown`` is written with
            ``class`` in front.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = [f"class {name}" if name in (NONE, UNKNOWN) else name for name in classes]
        self._numbers = {no_formula(name): number for number, name in enumerate(self.classes)}
        self._numbers |= {name: number for number, name in enumerate(self.classes)}
        self._numbers[NONE] = NONE_OF_THEM

    def true_class(self, answer: str) -> int | None:
        """Return the class of an answer, -1 for none of them; ``None`` where it is not counted (unknown, or empty)."""
        return None if answer in ("", UNKNOWN) else self._numbers[answer]

    def knows(self, answer: str) -> bool:
        """Return whether this is an answer; no answer and "cannot tell" are."""
        return answer in self._numbers or answer in ("", UNKNOWN)

    def check(self, answer: str, where: str) -> None:
        """Refuse what is no answer.

        Raises:
            InputError: naming the nearest one.
        """
        if not self.knows(answer):
            known = nearest(answer, [*self.classes, NONE, UNKNOWN])
            raise InputError(f"{where}: {shown(answer)!r} is no class of this run; {known}")


@dataclass(frozen=True)
class JudgedImage:
    """A row of ``judged.csv``."""

    id: int
    path: str = ""
    answer: str = ""
    """Empty: not answered yet."""
    weight: float = OWN_WEIGHT

    @property
    def is_drawn(self) -> bool:
        """Whether it was drawn; false for an image of the person's own choice."""
        return self.weight != OWN_WEIGHT


@dataclass(frozen=True)
class Candidates:
    """The trials to choose between. T trials, M held-out images, C closed classes.

    Attributes:
        numbers: of the trials, by number.
        probabilities: float32 (T, M, C), of the reported networks.
        index: int64 (M,), positions of the images in the training set.
        given: int64 (M,), given labels.
        left_out: numbers of the complete trials without predictions.
    """

    numbers: list[int]
    probabilities: NDArray[np.float32]
    index: NDArray[np.int64]
    given: NDArray[np.int64]
    left_out: list[int]

    def positions(self, ids: Iterable[int]) -> NDArray[np.int64]:
        """Return the places of images among the M, from their ids."""
        place = {int(id_): position for position, id_ in enumerate(self.index)}
        return np.array([place[id_] for id_ in ids], dtype=np.int64)


def read_candidates(run: Run) -> Candidates:
    """Return the complete trials of a run that have held-out predictions.

    Raises:
        InputError: a method without classes, or fewer than two such trials; with the next step.
    """
    if run.task != "classification":
        raise InputError(
            f"run {run.name} is a search for {run.task}: its held-out persons have no class that a trial predicts, so "
            "there is nothing to judge; choose by --confirm 3x5 instead"
        )
    complete = sorted(row.number for row in run.rows() if row.state == "COMPLETE")
    run.files.fetch("heldout/*.npz")
    found, left_out, reason = {}, [], ""
    for number in complete:
        try:
            found[number] = run.heldout_predictions(number)
        except KeyError as error:
            left_out.append(number)
            reason = str(error.args[0])
    if len(found) < 2:
        more = f"python -m tune_lnl.search {run.settings['space_name']} --name {run.name} --resume --trials +4"
        raise InputError(
            f"two complete trials with held-out predictions are needed to choose between, run {run.name} has "
            f"{len(found)}" + (f" ({reason})" if reason else "") + f"\nlet the search go on, or add trials: {more}"
        )
    first = next(iter(found.values()))
    same = {n: p for n, p in found.items() if np.array_equal(p.index, first.index)}
    return Candidates(
        numbers=list(same),
        probabilities=np.stack([predictions.probabilities[0] for predictions in same.values()]),
        index=first.index,
        given=first.given,
        left_out=sorted({*left_out, *(found.keys() - same.keys())}),
    )


# ---- judged.csv


def read_judged(files: RunFolder) -> list[JudgedImage]:
    """Return the rows of ``judged.csv``; none where there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    if not files.judged.exists():
        files.fetch(files.judged.name)
    if not files.judged.exists():
        return []
    try:
        with files.judged.open(newline="", encoding="utf-8") as file:
            return [
                JudgedImage(int(row["id"]), row["path"], row["answer"], float(row[WEIGHT]))
                for row in csv.DictReader(file)
            ]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{files.judged} is damaged ({error}); move it away to begin again") from None


def write_judged(files: RunFolder, rows: Sequence[JudgedImage]) -> None:
    """Replace ``judged.csv``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, WEIGHT])
    for row in rows:
        writer.writerow([row.id, no_formula(row.path), no_formula(row.answer), repr(row.weight)])
    files.write(files.judged, out.getvalue())


def with_drawn(
    candidates: Candidates, rows: Sequence[JudgedImage], count: int, seed: int, paths: Sequence[str]
) -> list[JudgedImage]:
    """Return the rows with enough drawn images among them.

    Images that are missing to ``count`` drawn ones are drawn from those that have no row yet, so that nothing drawn
    before changes. Their weights refer to these.

    Args:
        count: of drawn images; fewer than are drawn already adds none.
        seed: of the draw; with the number of images drawn before it makes the seed of this one.
        paths: (M,), of the candidates' images.

    Raises:
        InputError: more images than there are.
    """
    drawn, known = sum(row.is_drawn for row in rows), {row.id for row in rows}
    missing = count - drawn
    if missing <= 0:
        return list(rows)
    free = np.array([place for place, id_ in enumerate(candidates.index) if int(id_) not in known], dtype=np.int64)
    if missing > len(free):
        raise InputError(
            f"--images {count}: there are {len(candidates.index)} held-out images; give at most {drawn + len(free)}"
        )
    probabilities, given = candidates.probabilities[:, free], candidates.given[free]
    weights = judging_weights(probabilities, given, missing)
    new = images_to_judge(probabilities, given, missing, seed + drawn)
    # An image that is drawn with certainty has weight 1, which marks images of a person's own choice.
    return [
        *rows,
        *(
            JudgedImage(int(candidates.index[free[place]]), paths[free[place]], "", float(max(weights[place], DRAWN)))
            for place in new
        ),
    ]


DRAWN = 1.0 + 1e-9
"""Least weight of a drawn image."""


def with_answers(
    rows: Sequence[JudgedImage], answers: dict[int, str], candidates: Candidates, paths: Sequence[str]
) -> list[JudgedImage]:
    """Return the rows with answers by id; an image without a row is one of the person's own choice."""
    left = dict(answers)
    told = [replace(row, answer=left.pop(row.id)) if row.id in left else row for row in rows]
    places = candidates.positions(left)
    return [*told, *(JudgedImage(id_, paths[place], left[id_]) for id_, place in zip(left, places, strict=True))]


def read_answers(path: Path, candidates: Candidates, words: Words) -> dict[int, str]:
    """Return the answers of a form by id; rows without an answer are left out.

    A spreadsheet program may have saved the form: with semicolons or tabs, in UTF-16, numbers as 7.0.

    Raises:
        InputError: the file is absent or no form, or a row has an id or an answer that the run does not have, or an id
            twice; with the line.
    """
    try:
        delimiter, encoding = table_form(path)
        text = path.read_text(encoding=encoding)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"--answers {path} cannot be read: {reason}; write a form with --form FILE.csv") from None
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    reader.fieldnames = [plain_name(name) for name in reader.fieldnames or []]
    missing = [name for name in ("id", "answer") if name not in reader.fieldnames]
    if missing:
        raise InputError(
            f"--answers {path}: the first line names the columns {','.join(COLUMNS)}, and {missing[0]!r} is missing; "
            "write a form with --form FILE.csv"
        )
    known, answers, seen = set(candidates.index.tolist()), {}, dict[int, int]()
    for row in reader:
        where = f"--answers {path}, line {reader.line_num}"
        # Spreadsheet programs write whole numbers of a column with gaps as 7.0.
        id_text = WHOLE_AS_FLOAT.sub(r"\1", (row["id"] or "").strip())
        answer = (row["answer"] or "").strip()
        if not words.knows(answer):
            answer = WHOLE_AS_FLOAT.sub(r"\1", answer)
        if None in row or not id_text.isdecimal() or int(id_text) not in known:
            raise InputError(
                f"{where}: {shown(id_text)!r} is no held-out image of this run; keep the column id as --form wrote it"
            )
        id_ = int(id_text)
        if id_ in seen:
            raise InputError(f"{where}: image {id_} stands in line {seen[id_]}, too; keep one of them")
        seen[id_] = reader.line_num
        words.check(answer, where)
        if answer:
            answers[id_] = answer
    return answers


# ---- the choice


@dataclass(frozen=True)
class Judgement:
    """The trial that the answers choose.

    Attributes:
        number: of the trial.
        choice: scores and probabilities, in the order of ``numbers``.
        numbers: of the trials compared.
        counted: answers that count.
        unknown: answers "cannot tell".
        own: counted answers to images of the person's own choice.
        experiment: the truth of the dataset is known.
    """

    number: int
    choice: Choice
    numbers: list[int]
    counted: int
    unknown: int
    own: int
    experiment: bool

    @property
    def probability(self) -> float:
        """That the trial is the best of those compared."""
        return float(self.choice.probabilities[self.choice.best])


def decide(candidates: Candidates, rows: Sequence[JudgedImage], words: Words, *, experiment: bool) -> Judgement | None:
    """Return the choice by the answers; ``None`` while none counts."""
    counted = [(row, seen) for row in rows if (seen := words.true_class(row.answer)) is not None]
    if not counted:
        return None
    index = candidates.positions(row.id for row, _ in counted)
    true, weights = np.array([seen for _, seen in counted]), np.array([row.weight for row, _ in counted])
    choice = choose(Answered.of(candidates.probabilities, candidates.given, index, true, weights))
    return Judgement(
        number=candidates.numbers[choice.best],
        choice=choice,
        numbers=candidates.numbers,
        counted=len(counted),
        unknown=sum(row.answer == UNKNOWN for row in rows),
        own=sum(not row.is_drawn for row, _ in counted),
        experiment=experiment,
    )


def write_judgement(files: RunFolder, judgement: Judgement) -> None:
    """Write ``judged.yaml``; from then on the trial is the answer of the run in every view."""
    content = {
        "number": judgement.number,
        "probability": round(judgement.probability, 4),
        "answers": judgement.counted,
        "unknown": judgement.unknown,
        "own_choice": judgement.own,
        "trials": judgement.numbers,
        # Answers taken from a known truth show how well judging works; they are not what a user would have.
        "experiment": judgement.experiment,
    }
    files.write(files.judgement, "# The trial chosen by the answers in judged.csv.\n" + dump_yaml(content))
