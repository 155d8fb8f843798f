"""The commands that repeat, continue and use a run."""

from __future__ import annotations

import shlex

from tune_lnl.reporting.run_data import RunView
from tune_lnl.reporting.trainings import PLAIN
from tune_lnl.tuning.plan.resume import resume_command
from tune_lnl.tuning.runs.location import location

SEARCH = "tune_lnl.search"


def commands_of(view: RunView) -> list[tuple[str, str]]:
    """Return (purpose, command line); commands are to be run in the folder where the search was run."""
    command = str(view.run.settings["command"])
    root = location(view.run.files.root)
    found = [("Run the whole search again (under another --name)", command)]
    if SEARCH in command:
        resume = resume_command(command, view.asked)
        found.append(("Resume it" if not view.finished else "Resume it with more trials", _more(resume, view)))
        confirmed = view.run.confirmation
        if view.finished and (confirmed is None or confirmed.is_race) and "--confirm" not in command:
            found.append(("Confirm its winner on fresh splits and seeds", f"{resume} --confirm 3x5"))
    else:
        found.append(("Resume it, from Python", _python_resume(view)))
    if view.best is not None:
        found.append(("Train its best config again, on three seeds", _train(view, "best")))
        plain = PLAIN.get(view.base.settings.task)
        if plain is not None and plain != view.method:
            name = "Train plain cross-entropy on the same data, to compare with"
            found.append((name, _train(view, "plain", "--set", f"method={plain}")))
        found.append(("Export its best config", shlex.join(["python", "-m", "tune_lnl.export", root])))
    watch = "Watch it: a table, this page and the study's dashboard, with their addresses"
    found.append((watch, shlex.join(["python", "-m", "tune_lnl", "watch", root])))
    found.append(("Write this page again", shlex.join(["python", "-m", "tune_lnl.report", root])))
    return found


def _train(view: RunView, what: str, *more: str) -> str:
    """Return the command of a training whose folder the next report of the run finds."""
    folder = view.run.files.root
    output = folder.parent / "train" / f"{folder.name}-{what}"
    command = [
        "python",
        "-m",
        "tune_lnl.train",
        location(view.run.files.best),
        "--seeds",
        "0,1,2",
        "--output",
        str(output),
    ]
    return shlex.join([*command, *more])


def _more(resume: str, view: RunView) -> str:
    if not view.finished:
        return resume
    words = shlex.split(resume)
    if "--trials" in words:
        place = words.index("--trials")
        del words[place : place + 2]
    return shlex.join([*[word for word in words if not word.startswith("--trials=")], "--trials", "+12"])


def _python_resume(view: RunView) -> str:
    folder = view.run.files.root
    where = f"name={folder.name!r}, results_dir={location(folder.parent)!r}"
    return f"tune_lnl.run_search({view.run.space.name!r}, {where}, resume=True)"
