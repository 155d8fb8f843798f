"""README and docs/: commands and snippets run, links have a target, figures equal the reference results."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules

import pytest
from real_data import real_cifar100

import tune_lnl
from tune_lnl.cli import search_options
from tune_lnl.config.overrides import parse_overrides
from tune_lnl.config.registry import METHODS, dataset_names
from tune_lnl.config.yaml import load_yaml
from tune_lnl.search import FOLDER_SPACE
from tune_lnl.training.seeds import resolve_config
from tune_lnl.tuning.space.named import space_files
from tune_lnl.tuning.space.space import PRUNERS, SAMPLERS, condition_names, load_space

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "deploy/*.md", "results/README.md")
    for path in ROOT.glob(pattern)
    if path.name not in ("commands.md", "settings.md")
)
GENERATED = [ROOT / "docs" / name for name in ("commands.md", "settings.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(python -m tune_lnl\.\w+ [^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_.]*|[A-Z_]+/.*|.*/YOU/.*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """Return the path on the first line if the block is the content of a file."""
        named = re.match(r"# ([\w/.]+\.(?:py|yaml|yml|toml))(?:, in \w+)?$", self.text.partition("\n")[0])
        return named and named[1]


def blocks(page: Path) -> list[Block]:
    return [Block(page, *found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def command_lines(page: Path) -> Iterator[str]:
    """Yield every command of the page, in fenced blocks and between backticks, with continued lines joined."""
    for block in blocks(page):
        if block.language in ("", "sh", "bash"):
            for line in block.text.replace("\\\n", " ").split("\n"):
                command = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*((?:python|make) .*)", line)
                if command:
                    yield command[1]
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    yield from (re.sub(r"\s+", " ", found) for found in INLINE.findall(text))


COMMANDS = [(page, command) for page in PAGES for command in dict.fromkeys(command_lines(page))]
DOORS = [(page, command) for page, command in COMMANDS if command.startswith("python -m tune_lnl.")]
CHEAP = [
    words
    for words in map(list, dict.fromkeys(tuple(shlex.split(command, comments=True)) for _, command in DOORS))
    if words[3:] in (["--list"], ["--runs"], ["list"], ["check", "digits8no"])
]
"""Commands that need no training, no data and no run."""
ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]


def parser_of(door: str) -> Callable[[], ArgumentParser]:
    found: Callable[[], ArgumentParser] = importlib.import_module(f"tune_lnl.{door}").parser
    return found


def parsed(command: str) -> tuple[str, Namespace]:
    words = shlex.split(command, comments=True)
    door = words[2].removeprefix("tune_lnl.")
    assert door in {module.name for module in iter_modules(tune_lnl.__path__)}
    return door, parser_of(door)().parse_args(words[3:])


def is_placeholder(value: object) -> bool:
    return PLACEHOLDER.fullmatch(str(value)) is not None


def page_id(value: object) -> str | None:
    return name_of(value) if isinstance(value, Path) else None


# ---- commands


def test_readme_opens_with_the_two_commands_the_first_search_and_a_picture() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    opening = text[: text.index("## Why")]
    order = [opening.index(part) for part in ("make demo", "make test", "tune_lnl.search act_cifar80no", "<img ")]
    assert order == sorted(order)


class TestCommands:
    def test_there_are_some(self) -> None:
        assert len(DOORS) > 40
        assert len(CHEAP) >= 3
        assert {name_of(page) for page, _ in DOORS} >= {"README.md", "CONTRIBUTING.md", "docs/tutorial_cifar80n.md"}

    @pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in DOORS), ids=page_id)
    def test_every_command_is_one_that_would_start(self, page: Path) -> None:
        """Name each command of the page that the parsers or the rules below refuse, and why."""
        refused = []
        for command in [command for where, command in DOORS if where == page]:
            try:
                door, arguments = parsed(command)
                check = {"search": check_search, "train": check_train, "data": check_data}.get(door, check_run)
                check(page, arguments)
            except (Exception, SystemExit) as error:  # argparse exits
                refused.append(f"{command}: {error!r}")
        assert refused == []

    def test_make_targets_exist(self) -> None:
        makefile = (ROOT / "Makefile").read_text()
        for page in PAGES:
            code = "\n".join(re.findall(r"```.*?```|`[^`]+`", page.read_text(encoding="utf-8"), flags=re.DOTALL))
            for target in set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", code, flags=re.MULTILINE)):
                assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE), f"{page.name}: make {target}"

    def test_scripts_exist_and_know_the_flags(self) -> None:
        for page, command in COMMANDS:
            words = shlex.split(command, comments=True)
            if words[0] != "python" or words[1] == "-m":
                continue
            source = (ROOT / words[1]).read_text()
            assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--")), f"{page.name}: {command}"

    def test_cheap_ones_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for words in CHEAP:
            assert importlib.import_module(words[2]).main(words[3:]) == 0, words
            assert capsys.readouterr().err == "", words


def runs_of(page: Path) -> set[str]:
    """Return the names of the runs that the page's searches make, and of the shipped spaces: a run's default names."""
    searches = [parsed(command)[1] for where, command in DOORS if where == page and "tune_lnl.search" in command]
    named = {str(search.name) for search in searches if search.name}
    return named | {str(search.space) for search in searches if search.space} | set(space_files())


def spaces_on(page: Path) -> set[str]:
    """Return the spaces whose file is written out on the page."""
    return {Path(block.file).stem for block in blocks(page) if block.file and block.language == "yaml"}


def check_search(page: Path, arguments: Namespace) -> None:
    if arguments.list or arguments.runs:
        return
    if arguments.space is None and arguments.data is not None:
        arguments.space = FOLDER_SPACE
    options = search_options(arguments)
    assert options.sampler in (None, *SAMPLERS)
    assert options.pruner in (None, *PRUNERS)
    if options.warm_start:
        assert {*options.warm_start} <= runs_of(page)
    if options.space in spaces_on(page) or is_placeholder(options.space):
        parse_overrides(options.overrides)
        return
    assert options.space in space_files()
    for condition in condition_names(options.space) if options.all_conditions else [options.condition]:
        load_space(options.space, condition, options.epochs, options.overrides)


def check_train(page: Path, arguments: Namespace) -> None:
    config = Path(arguments.config)
    if "://" in arguments.config:
        # In object storage: a search of the page has this results folder.
        run, place = config.parent.name, str(arguments.config).rpartition("/")[0].rpartition("/")[0]
        assert any(where == page and run in command and f"--results-dir {place}" in command for where, command in DOORS)
        return
    if is_placeholder(config) or config == Path("best.yaml"):  # any run's
        parse_overrides(arguments.overrides)
        return
    assert config.parts[0] == "results"
    assert config.name in ("best.yaml", "confirmed.yaml")
    assert config.parent.relative_to("results").as_posix().partition("/")[0] in runs_of(page)
    searches = [parsed(command)[1] for where, command in DOORS if where == page and "tune_lnl.search" in command]
    spaces = {str(search.name or search.space): search.space for search in searches if search.space}
    run = config.parts[1]
    overrides = parse_overrides(arguments.overrides)
    if overrides.get("method", "standard") in METHODS and spaces.get(run, run) in space_files():
        space = load_space(spaces.get(run, run))
        resolve_config(space.config(space.start[0]).sections(), overrides, arguments.epochs, "the page")


def check_data(page: Path, arguments: Namespace) -> None:
    if arguments.command != "list":
        assert arguments.name in dataset_names() or is_placeholder(arguments.name) or arguments.name.startswith("./")
        if arguments.settings:
            assert all(key.startswith("dataset.") for key in parse_overrides(arguments.settings))


def check_run(page: Path, arguments: Namespace) -> None:
    """Check the arguments of a door that takes runs or files of a run."""
    named = arguments.runs if hasattr(arguments, "runs") else [getattr(arguments, "run", None)]
    for run in named:
        if run is not None:
            assert is_placeholder(run) or run.removeprefix("results/").partition("/")[0] in runs_of(page)


# ---- links, blocks and snippets


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *GENERATED]:
        for link in links_in(FENCE.sub("", page.read_text(encoding="utf-8"))):
            if link.startswith(("http://", "https://")):
                continue
            path, _, fragment = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{name_of(page)} links to {link}"
            assert not fragment or fragment in anchors(target), f"{name_of(page)} links to {link}"


def links_in(text: str) -> list[str]:
    return [markdown or html for markdown, html in LINK.findall(text)]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links_in(index)}
    assert {page for page in ROOT.glob("docs/*.md") if page.name != "README.md"} <= linked


def test_no_page_names_a_path_of_one_machine() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"/(?:tmp(?!/ray/)|work|root)/\S+", text) == [], name_of(page)
        assert not re.search(r"[A-Z]+_(?:TABLE|OUTPUT|SNIPPET)\b", text), f"a placeholder was left in {name_of(page)}"


def test_yaml_and_json_can_be_read() -> None:
    for block in ALL_BLOCKS:
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            load_yaml(block.text, name_of(block.page))


def test_a_space_that_is_shown_is_a_space(tmp_path: Path) -> None:
    shown = [
        b for b in ALL_BLOCKS if b.language == "yaml" and re.search("^search:", b.text, re.MULTILINE) and not b.file
    ]
    assert shown
    path = tmp_path / "shown.yaml"
    for block in shown:
        path.write_text(block.text)
        for condition in [None, *condition_names(str(path))]:
            load_space(str(path), condition)


SNIPPETS = [block for block in ALL_BLOCKS if block.language == "python"]


def test_python_compiles() -> None:
    for block in SNIPPETS:
        if block.file is None or ", in " not in block.text.partition("\n")[0]:
            compile(block.text, name_of(block.page), "exec")


def test_what_a_snippet_prints_is_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = ROOT / "docs" / "choosing_without_the_test_set.md"
    code, output = next(
        (first.text, second.text)
        for first, second in zip(blocks(page), blocks(page)[1:], strict=False)
        if (first.language, second.language) == ("python", "text")
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page.name, "exec"), {})
    assert printed.getvalue() == output


@pytest.mark.slow
def test_snippets_that_search_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the snippets as written, with a shorter search."""
    searching = [block for block in SNIPPETS if "run_search" in block.text and not block.file]
    assert searching
    for number, block in enumerate(searching):
        code, changes = re.subn(r"trials=\d+, epochs=\d+", "trials=2, epochs=3", block.text)
        assert changes >= 1
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        exec(compile(code, name_of(block.page), "exec"), {})


FOLLOWED = {
    "README.md": ("act_digits8no", "results/act_digits8no"),
    "docs/tutorial_folder.md": ("folder", "mine", "./digits"),
    "docs/tutorial_cifar80n.md": ("small", "check cifar80no"),
}
"""Page -> words. The page's commands that contain one of the words are run in order."""
WANTS_CIFAR = "docs/tutorial_cifar80n.md"
NOT_FOLLOWED = ("core_sprites", "--trials 36", "--epochs 100", "logs small 3")
"""Left out: another run, the source of a picture, the long form of a search, and a trial that the short form lacks."""
SHORTER = {
    "search": ["--epochs", "3", "--trials", "2", "--no-dashboard"],
    "search --confirm": ["--confirm", "1x2"],
    "train": ["--epochs", "3", "--seeds", "0"],
    "export --labels": ["--folds", "2", "--epochs", "2"],
}
"""Flags appended to shorten a command; the last flag wins."""

IN_THIS_PROCESS = ("tune_lnl.export", "tune_lnl.data")
"""Doors that train nothing run without a process of their own, which would take longer than they do."""


def shortened(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    door = words[2].removeprefix("tune_lnl.")
    kinds = [door, *(f"{door} {flag}" for flag in words if flag.startswith("--"))]
    return words[1:] + [flag for kind in kinds if "--dry-run" not in words for flag in SHORTER.get(kind, [])]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_reader_can_follow_the_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / name
    if name == WANTS_CIFAR:
        monkeypatch.setenv("TUNE_LNL_DATA", str(real_cifar100().resolve().parent))
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.language == "python" and "run_search" not in block.text and not block.file:
            exec(compile(block.text, name, "exec"), {})
    doors = [command for followed, command in DOORS if followed == page]
    commands = [command for command in doors if any(word in command for word in FOLLOWED[name])]
    commands = [command for command in commands if not any(part in command for part in NOT_FOLLOWED)]
    assert len(commands) >= 5
    for command in commands:
        words = shortened(command)
        if words[1] in IN_THIS_PROCESS and "--labels" not in words:
            assert importlib.import_module(words[1]).main(words[2:]) == 0, command
            continue
        ended = subprocess.run(
            [sys.executable, *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"


# ---- figures


def test_the_pictures_are_small_enough_to_load() -> None:
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    assert pictures
    assert all(picture.stat().st_size < 300_000 for picture in pictures)


def test_the_tutorial_tells_the_reference_ablation() -> None:
    text = (ROOT / "docs" / "tutorial_cifar80n.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "results" / "reference" / "ablation_digits8no.json").read_text())["rows"]
    assert len(measured) == 6
    for modules, row in measured.items():
        assert f"| {modules} | {row['mean']:.2f} ± {row['std']:.2f} |" in text


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("choosing", ("judged 8", "judged 30", "judged 120", "prototype 30")),
        ("choosing_consensus", ("consensus", "consensus, no guard", "truth")),
    ],
)
def test_how_well_a_model_is_chosen_is_the_reference_result(name: str, rules: tuple[str, ...]) -> None:
    measured = json.loads((ROOT / "results" / "reference" / f"{name}.json").read_text())
    rows = {(row["condition"], row["trials"], row["rule"]): row for row in measured["rows"]}
    text = (ROOT / "docs" / "choosing_without_the_test_set.md").read_text(encoding="utf-8")
    assert f"{measured['draws']} draws" in text
    for condition, trials in {(condition, trials) for condition, trials, _ in rows}:
        cells = [f"{rows[condition, trials, 'noisy']['regret']:.2f}"]
        for rule in rules:
            row = rows[condition, trials, rule]
            low, high = row["ratio_interval"]
            cells.append(f"{row['regret']:.2f}: {row['ratio']:.2f} [{low:.2f}, {high:.2f}]")
        assert f"| {condition} | {trials} | {' | '.join(cells)} |" in text


def test_how_well_a_config_is_chosen_is_the_reference_result() -> None:
    measured = json.loads((ROOT / "results" / "reference" / "choosing_config.json").read_text())
    rows = {(row["testbed"], row["budget"], row["rule"]): row for row in measured["rows"]}
    text = (ROOT / "docs" / "choosing_without_the_test_set.md").read_text(encoding="utf-8")
    for name in (*measured["recorded"], "pooled"):
        for budget in (10, 20, 40):
            rules = ("published", "stock", "objective", "answer")
            cells = [f"{rows[name, budget, rule]['accuracy']['mean']:.2f}" for rule in rules]
            for other in ("minus_published", "minus_stock"):
                cells.append("{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**rows[name, budget, "answer"][other]))
            assert f"| {name} | {budget} | {' | '.join(cells)} |" in text


def test_the_page_of_labels_tells_the_reference_results() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from labels import markdown

    text = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8").split("\n")
    lines = markdown(json.loads((ROOT / "results" / "reference" / "labels.json").read_text()))
    assert len(lines) > 10
    assert [line for line in lines if line not in text] == []


def test_the_comparison_of_methods_is_the_reference_result() -> None:
    rows = json.loads((ROOT / "results" / "reference" / "baselines_digits8no.json").read_text())["rows"]
    table = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| .+ \| (\d+\.\d+ ± \d+\.\d+) \| (.+) \|$", table, flags=re.MULTILINE)
    expected = []
    for row in rows.values():
        kept = [f"{row[name]:.1f}" for name in ("selection_precision", "selection_recall") if name in row]
        expected.append((f"{row['mean']:.2f} ± {row['std']:.2f}", " / ".join(kept) or "all of them"))
    assert told == expected


def test_the_comparison_tells_the_reference_results() -> None:
    text = (ROOT / "docs" / "compared_with_ray_and_optuna.md").read_text(encoding="utf-8")
    reference = ROOT / "results" / "reference"
    replayed = [line for line in (reference / "scoreboard.md").read_text().split("\n") if line.startswith("|")]
    assert len(replayed) > 8
    assert all(line in text for line in replayed)

    measured = json.loads((reference / "stock_engine.json").read_text())
    versions = measured["versions"]
    assert f"Ray {versions['ray']} and Optuna {versions['optuna']}" in text
    stock, ours = measured["states"]["stock"], measured["states"]["ours"]

    def states(found: dict[str, dict[str, int]]) -> str:
        return ", ".join(f"{count} {state}" for state, count in found["states in the study"].items())

    stock_kills, our_kills = measured["restores"]["stock"], measured["restores"]["ours"]
    whole, lost = "restored, and every trial finished once", "trials lost"
    for row in (
        f"| states in the study | {states(stock)} | {states(ours)} |",
        f"| the trial that reported NaN | {stock['state of the NaN trial']} | {ours['state of the NaN trial']} |",
        f"| the trial that crashed | {stock['state of the crashed trial']} | {ours['state of the crashed trial']} |",
        f"| the best trial | {stock['best']} | {ours['best']} |",
        f"| kills | {stock_kills['tries']} | {our_kills['tries']} |",
        f"| continued, and every trial finished once | {stock_kills[whole]} | {our_kills[whole]} |",
        f"| trials lost | {stock_kills[lost]} | {our_kills[lost]} |",
    ):
        assert row in text
