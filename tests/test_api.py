"""From Python: the same search as by the command, its frames, and notebooks."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tune_lnl import load_run, run_search
from tune_lnl.config.yaml import read_mapping
from tune_lnl.search import main, parser
from tune_lnl.tuning.plan.options import command_line
from tune_lnl.tuning.runs.run import Run

SMALL: dict[str, Any] = {
    "trials": 3,
    "epochs": 4,
    "overrides": ["dataset.subset=0.1"],
    "dashboard": False,
    "concurrent": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_search("act_digits8no", name="mine", results_dir=tmp_path_factory.mktemp("out"), quiet=True, **SMALL)


@pytest.mark.slow
class TestRun:
    def test_it_writes_what_the_command_writes(self, run: Run, tmp_path: Path) -> None:
        words = command_line("act_digits8no", {**SMALL, "results_dir": tmp_path, "trials": "3"})
        assert main(words[3:]) == 0
        by_command = load_run("act_digits8no", tmp_path)
        assert {path.name for path in run.files.root.iterdir()} == {
            path.name for path in by_command.files.root.iterdir()
        }
        assert (run.files.root / "report.html").stat().st_size > 10_000
        assert [row.params for row in run.rows()] == [row.params for row in by_command.rows()]
        assert [row.value for row in run.rows()] == [row.value for row in by_command.rows()]

    def test_run_yaml_holds_a_command_that_can_be_typed(self, run: Run) -> None:
        command = shlex.split(read_mapping(run.files.settings)["command"])
        read = parser().parse_args(command[3:])
        assert (read.space, read.name, read.trials, read.epochs) == ("act_digits8no", "mine", "3", "4")
        assert read.overrides == ["dataset.subset=0.1"]

    def test_frames_hold_what_the_rows_hold(self, run: Run) -> None:
        trials, epochs = run.trials_frame(), run.epochs_frame()
        assert trials.index.name == "number"
        assert list(trials.index) == [0, 1, 2]
        for row in run.rows():
            assert trials.loc[row.number, "value"] == row.value
            assert trials.loc[row.number, "state"] == row.state
            assert trials.loc[row.number, "params.lr"] == row.params["lr"]
            curve = epochs.loc[row.number]
            assert list(curve.index) == list(range(1, row.epochs + 1))
            assert curve["objective"].iloc[-1] == row.value
        assert epochs.index.names == ["number", "epoch"]
        assert {"val_accuracy", "lr", "train_loss"} <= set(epochs.columns)

    def test_the_small_table_of_a_notebook(self, run: Run) -> None:
        html = run._repr_html_()
        assert html.count("<tr>") == 1 + 3
        assert "<b>mine</b>" in html
        assert run.best is not None
        assert f"<td>{run.best.number}</td>" in html

    def test_names_are_escaped_there(self, run: Run) -> None:
        named = Run(run.files, {**run.settings, "run": "<script>alert(1)</script>"}, run.space, run.trials)
        assert "<script>" not in named._repr_html_()

    def test_in_a_thread_and_beside_a_running_event_loop(self, tmp_path: Path) -> None:
        async def beside() -> tuple[Run, int]:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.05)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            with ThreadPoolExecutor(1) as pool:
                found = await asyncio.get_running_loop().run_in_executor(pool, self.small_search, tmp_path / "thread")
            ticking.cancel()
            return found, ticks

        found, ticks = asyncio.run(beside())
        assert len(found.trials) == SMALL["trials"]
        assert ticks > 10

    @staticmethod
    def small_search(results: Path) -> Run:
        return run_search("act_digits8no", results_dir=results, quiet=True, **SMALL)


# ---- notebooks


class Kernel:
    """A fresh notebook kernel, and what its cells put out."""

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell; its outputs in order, an error among them."""
        messages: list[dict[str, Any]] = []
        self.client.execute_interactive(code, timeout=500, output_hook=messages.append)
        return [message["content"] | {"type": message["msg_type"]} for message in messages]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    manager = pytest.importorskip("jupyter_client.manager").KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=200)
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def said(outputs: list[dict[str, Any]]) -> str:
    return "".join(output["text"] for output in outputs if output["type"] == "stream")


def errors(outputs: list[dict[str, Any]]) -> list[str]:
    return [f"{output['ename']}: {output['evalue']}" for output in outputs if output["type"] == "error"]


def shown(outputs: list[dict[str, Any]]) -> dict[str, str]:
    """The value of the last line, by kind."""
    found: dict[str, str] = next(output["data"] for output in outputs if output["type"] == "execute_result")
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestNotebook:
    """A cell runs in the main thread, inside a running event loop."""

    def test_a_search_says_its_lines_and_shows_a_table(self, kernel: Kernel) -> None:
        options = 'trials=2, epochs=4, overrides=["dataset.subset=0.1"], dashboard=False'
        outputs = kernel.run(f'from tune_lnl import run_search\nrun = run_search("act_digits8no", {options})\nrun')
        assert errors(outputs) == []
        assert "\x1b" not in said(outputs)
        assert said(outputs).count("] trial ") == 2
        assert "report:" in said(outputs)
        assert "Tune Status" not in str(outputs), "Ray's own table"
        assert {output["type"] for output in outputs}.isdisjoint({"clear_output", "display_data"}), "nothing is erased"
        assert "INFO" not in said(outputs), "Ray's chatter stays in search.log"
        assert "<table>" in shown(outputs)["text/html"]

    def test_the_stop_button_keeps_what_is_done_and_resume_goes_on(self, kernel: Kernel, tmp_path: Path) -> None:
        call = 'run = run_search("act_digits8no", trials=3, epochs=30, dashboard=False'
        epochs = tmp_path / "results" / "act_digits8no" / "trials" / "000" / "epochs.jsonl"
        with ThreadPoolExecutor(1) as pool:
            cell = pool.submit(kernel.run, f"from tune_lnl import run_search\n{call})")
            began = time.monotonic()
            while not epochs.exists() and not cell.done():
                assert time.monotonic() - began < 400
                time.sleep(0.1)
            kernel.manager.interrupt_kernel()
            outputs = cell.result()
        assert errors(outputs) == ["KeyboardInterrupt: "]
        assert "--resume" in said(outputs)
        assert errors(kernel.run(f"{call}, resume=True, quiet=True)")) == []
        states = shown(kernel.run("sorted(set(run.trials_frame().state)), len(run.trials)"))["text/plain"]
        assert states in ("(['COMPLETE'], 3)", "(['COMPLETE', 'PRUNED'], 3)")

    def test_the_notebook_of_the_docs_runs(self, kernel: Kernel) -> None:
        cells = code_cells()
        assert len(cells) >= 5
        assert [name for source in cells for name in errors(kernel.run(source))] == []


def code_cells() -> list[str]:
    """Of the notebook in docs/."""
    path = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_of_the_docs_is_python() -> None:
    for source in code_cells():
        compile(source, "notebook.ipynb", "exec")
