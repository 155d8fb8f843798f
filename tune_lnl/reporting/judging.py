"""``judge RUN``: a person's answers to held-out images, by a page in the browser or by a form, choose the trial."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.pictures.rows import PictureRows
from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full, no_formula, whole_file
from tune_lnl.reporting.judging_page import Page, png
from tune_lnl.reporting.label_table import printable
from tune_lnl.reporting.write import report_after_search
from tune_lnl.tuning.runs.best import write_best
from tune_lnl.tuning.runs.judged import (
    COLUMNS,
    Candidates,
    JudgedImage,
    Judgement,
    Words,
    decide,
    read_answers,
    read_candidates,
    read_judged,
    with_answers,
    with_drawn,
    write_judged,
    write_judgement,
)
from tune_lnl.tuning.runs.location import ResultsDir, nearby
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.wording import counted

NAMED = 3
"""Trials that the outcome names."""
WORTH = 0.002
"""Expected gain in true accuracy, a fraction, from which further answers are worth their time."""


@dataclass(frozen=True)
class JudgeOptions:
    """The command's arguments.

    Attributes:
        run: name under ``results_dir``, or path.
        images: number of held-out images to draw.
        form: write a form there and end.
        answers: read the answers from there.
        data_dir: where the dataset lies; None: where the search found it.
        open: shows an address in a browser; None: none is opened.
    """

    run: str
    results_dir: ResultsDir
    images: int = 30
    form: Path | None = None
    answers: Path | None = None
    data_dir: Path | None = None
    open: Callable[[str], None] | None = None

    @property
    def command(self) -> str:
        """The command without its other options."""
        place = "" if str(self.results_dir) == "results" else f" --results-dir {shlex.quote(str(self.results_dir))}"
        return f"python -m tune_lnl.judge {shlex.quote(self.run)}{place}"


def judge(options: JudgeOptions, say: Callable[[str], None]) -> None:
    """Write a form, read one, or serve the page until its end; then say which trial is best.

    Raises:
        InputError: run, files, answers or data that cannot be used; nothing is written then.
    """
    if options.images < 1:
        raise InputError(f"--images is at least 1, got {options.images}; 30 is usual")
    if options.form is not None:
        _require_new(options.form)
    run = load_run(options.run, options.results_dir)
    candidates = read_candidates(run)
    data = _held_out_data(run, candidates, options.data_dir)
    words = Words([printable(name) for name in data.class_names[: data.num_classes]])
    paths = _paths(data, candidates)
    before = read_judged(run.files)
    for row in before:
        words.check(row.answer, str(run.files.judged))
    answers = None if options.answers is None else read_answers(options.answers, candidates, words)
    seed = int(run.settings.get("seed", 0))
    # Answers of a form alone need no draw: they may all be to images of the person's own choice.
    rows = before if answers is not None else with_drawn(candidates, before, options.images, seed, paths)
    if answers is not None:
        rows = with_answers(rows, answers, candidates, paths)
    write_judged(run.files, rows)
    if candidates.left_out:
        numbers = ", ".join(map(str, candidates.left_out))
        say(f"left out, without held-out predictions: trial {numbers}")
    experiment = data.true_labels is not None
    if options.form is not None:
        _write_form(options.form, rows, data)
        say(f"{options.form}: fill in the column answer with a class, none or unknown; then:")
        say(f"  {options.command} --answers {shlex.quote(str(options.form))}")
        return
    if answers is None:
        rows = _serve(options, run, candidates, rows, data, words, say)
    judgement = decide(candidates, rows, words, experiment=experiment)
    for line in outcome(judgement, rows, options.command):
        say(line)
    if judgement is None:
        return
    write_judgement(run.files, judgement)
    write_best(run)
    say(f"  answers: {nearby(run.files.judged)}")
    say(f"  config: {nearby(run.files.best)}")
    report_after_search(options.run, options.results_dir, say)


def outcome(judgement: Judgement | None, rows: Sequence[JudgedImage], command: str) -> list[str]:
    """Return what the answers say, a sentence a line: the best trial, how sure that is, and what more would bring."""
    if judgement is None:
        return [
            f"no answer counts yet, so nothing is chosen; continue with: {command}",
        ]
    probabilities = judgement.choice.probabilities
    order = [place for place in np.argsort(-probabilities, kind="stable") if place != judgement.choice.best]
    others = [f"trial {judgement.numbers[place]} with {probabilities[place]:.2f}" for place in order[: NAMED - 1]]
    unknown = f", {judgement.unknown} unknown left out" if judgement.unknown else ""
    lines = [
        f"{counted(judgement.counted, 'answer')} counted{unknown}; {len(judgement.numbers)} complete trials compared",
        f"best: trial {judgement.number}, with probability {judgement.probability:.2f}; next: {', '.join(others)}",
    ]
    gains = judgement.choice.gains
    expected = ", ".join(f"{more} more {100 * gain:.1f}" for more, gain in gains.items())
    worth = [more for more, gain in gains.items() if gain >= WORTH]
    lines.append(f"points of true accuracy that further answers are expected to gain: {expected}")
    if worth:
        drawn = sum(row.is_drawn for row in rows)
        lines.append(f"they are worth it; for {worth[0]} more: {command} --images {drawn + worth[0]}")
    else:
        lines.append("more answers are hardly worth it")
    if judgement.own:
        lines.append(
            f"{judgement.own} of the images were not drawn here but are of your own choice: they count with weight 1, "
            "and the estimate is yours, good for images like these"
        )
    if judgement.experiment:
        lines.append(
            "the truth of this dataset is known: answers taken from it make this an experiment, and it is marked as one"
        )
    return lines


# ---- images


def _held_out_data(run: Run, candidates: Candidates, data_dir: Path | None) -> NoisyData:
    """Load the dataset of the run.

    Raises:
        InputError: it is absent, or not the one that the trials were trained on.
    """
    stored = run.settings.get("data_dir")
    place = data_dir or (None if stored is None else Path(stored))
    data = load_noisy(run.space.any_config().dataset, place)
    ids = candidates.index
    if ids.max() >= len(data.given_labels) or not np.array_equal(data.given_labels[ids], candidates.given):
        raise InputError(
            f"the data of run {run.name} has changed since its trials were trained: other images or labels"
            f"{'' if place is None else f' in {place}'}; give the folder with the earlier data as --data-dir"
        )
    return data


def _paths(data: NoisyData, candidates: Candidates) -> list[str]:
    """Return the paths of the candidates' images relative to the dataset; empty ones where images are no files."""
    if data.train_names is None:
        return [""] * len(candidates.index)
    return [printable(data.train_names[int(row)]) for row in data.rows[candidates.index]]


def _image(data: NoisyData, id_: int) -> NDArray[np.uint8]:
    """Return one training image, uint8 (h, w, 1 or 3); a picture file is not cropped."""
    row = data.rows[[id_]]
    images = data.train_images
    image: NDArray[np.uint8] = images.uncropped(row)[0] if isinstance(images, PictureRows) else images[row][0]
    return image


# ---- form and page


def _require_new(path: Path) -> None:
    exists = os.path.lexists(path)  # a link, too, wherever it leads
    if exists or not path.absolute().parent.is_dir():
        rule = "exists already" if exists else "lies in no existing folder"
        raise InputError(f"--form names a new file, and {path} {rule}; name another")


def _write_form(path: Path, rows: Sequence[JudgedImage], data: NoisyData) -> None:
    """Write the drawn images without an answer, with a copy of each: the path of a picture can name its given label."""
    import csv

    folder = path.with_name(f"{path.stem}-images")
    is_new = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in (row for row in rows if row.is_drawn and not row.answer):
                picture = folder / f"{row.id}.png"
                picture.write_bytes(png(_image(data, row.id)))
                writer.writerow([row.id, no_formula(f"{folder.name}/{picture.name}"), ""])
    except OSError as error:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        if is_disk_full(error):
            raise
        raise InputError(f"--form {path} cannot be written: {error.strerror}; name another file") from None


def _serve(
    options: JudgeOptions,
    run: Run,
    candidates: Candidates,
    rows: list[JudgedImage],
    data: NoisyData,
    words: Words,
    say: Callable[[str], None],
) -> list[JudgedImage]:
    """Serve the page until the person ends it; return the rows with the answers."""
    shown = [row for row in rows if row.is_drawn]
    answers = {row.id: row.answer for row in shown if row.answer}

    def save(id_: int, answer: str) -> None:
        words.check(answer, "answer")
        answers[id_] = answer
        write_judged(run.files, with_answers(rows, answers, candidates, []))

    def finish() -> list[str]:
        told = with_answers(rows, answers, candidates, [])
        judgement = decide(candidates, told, words, experiment=data.true_labels is not None)
        return outcome(judgement, told, options.command)

    page = Page(
        run.name, words.classes, [row.id for row in shown], answers, lambda id_: png(_image(data, id_)), save, finish
    )
    say(f"{len(shown)} held-out images to judge, {len(answers)} answered; open on this machine:")
    with page.served() as url:
        say(f"  {url}")
        say(f"every answer is saved at once in {nearby(run.files.judged)}; Ctrl-C ends and keeps them")
        if options.open:
            options.open(url)
        try:
            page.wait()
        except KeyboardInterrupt:
            say(f"{len(answers)} answers are kept; continue with: {options.command}")
            raise
    return with_answers(rows, answers, candidates, [])
