from __future__ import annotations

from pathlib import Path

from clock import Clock

from tune_lnl.tuning.resources.memory import GPU_INTERVAL, GpuUse, GpuWatch, memory_in_use, parse_gpus


def test_memory(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       1000 kB\nMemFree: 100 kB\nMemAvailable:    400 kB\nHugePages_Total:       0\n")
    assert memory_in_use(file) == (600 * 1024, 1000 * 1024)


def test_memory_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert memory_in_use(tmp_path / "none") is None
    (tmp_path / "other").write_text("something else\n")
    assert memory_in_use(tmp_path / "other") is None


def test_gpus_that_tell_and_one_that_does_not() -> None:
    assert parse_gpus("71, 1024, 81559\n[N/A], [N/A], 1\n0, 3, 81559\n") == [
        GpuUse(71.0, 1024.0, 81559.0),
        GpuUse(0.0, 3.0, 81559.0),
    ]
    assert parse_gpus("") == []


def test_the_driver_is_not_asked_all_the_time() -> None:
    clock, asked = Clock(), []

    def ask() -> str:
        asked.append(clock.now)
        return f"{len(asked)}, 1, 2"

    watch = GpuWatch(ask, clock)
    assert [watch.now()[0].busy, watch.now()[0].busy] == [1.0, 1.0]
    clock.now += GPU_INTERVAL
    assert watch.now()[0].busy == 2.0
