"""The measurement of how many trials share a device, by real processes on the CPU, and its cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_search import tiny_space

from tune_lnl.tuning.resources.measure import ProbeGroup, Question, measure_sharing, read_cached, write_cached
from tune_lnl.tuning.resources.probe import ProbeError
from tune_lnl.tuning.resources.sharing import Gpu, Reading, heavy_configs

MB, GB = 10**6, 10**9
CARD = Gpu(0, "Some Card", 80 * GB, 79 * GB)


@pytest.fixture
def _own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))


def question(folder: Path, **changes: Any) -> Question:
    asked = Question([*heavy_configs(tiny_space(folder))], None, cpus=2, gpus=0)
    return replace(asked, **changes)


def readings(*speeds: float) -> list[Reading]:
    return [Reading(2**level, speed, 2 * GB, GB // 2) for level, speed in enumerate(speeds)]


class TestProbes:
    @pytest.mark.slow
    def test_two_at_once_on_the_cpu(self, tmp_path: Path) -> None:
        asked = question(tmp_path)
        with ProbeGroup(asked.configs[0], asked, None, seconds=0.5) as group:
            alone, both = group.read(1), group.read(2)
            processes = [probe._process for probe in group._probes]
            assert len(processes) == 2
        assert alone is not None
        assert both is not None
        assert (alone.trials, both.trials) == (1, 2)
        assert alone.images_per_second > 0
        assert both.images_per_second > 0
        assert 50 * MB < alone.overhead <= both.overhead < 4 * GB
        assert alone.peak <= both.peak < 2 * GB
        assert not any(process.is_alive() for process in processes)

    @pytest.mark.slow
    def test_a_failed_training_is_reported_with_its_reason(self, tmp_path: Path) -> None:
        asked = question(tmp_path)
        config = replace(asked.configs[0], method="absent")
        reason = r"--gpus-per-trial auto: .*unknown method 'absent'.*give a share, 1 or 1/k"
        with ProbeGroup(config, asked, None) as group, pytest.raises(ProbeError, match=reason):
            group.read(1)

    @pytest.mark.slow
    def test_a_killed_process_was_out_of_memory(self, tmp_path: Path) -> None:
        asked = question(tmp_path)
        with ProbeGroup(asked.configs[0], asked, None) as group:
            assert group.start(1) is not None
            group._probes[0]._process.kill()
            assert group.read(1) is None


class TestWhatIsAsked:
    def test_a_device_has_its_part_of_the_cores(self, tmp_path: Path) -> None:
        asked = question(tmp_path, cpus=16, gpus=2)
        assert (asked.cores, asked.most) == (8, 8)
        assert [asked.threads_of(trials) for trials in (1, 2, 4, 8)] == [8, 4, 2, 1]
        assert question(tmp_path, cpus=2, gpus=4).cores == 1

    def test_what_was_given_stays(self, tmp_path: Path) -> None:
        assert question(tmp_path, cpus=16, cpus_per_trial=4.0).most == 4
        assert question(tmp_path, cpus=16, cpus_per_trial=4.0).threads_of(2) == 4
        assert question(tmp_path, cpus=16, threads=1).threads_of(1) == 1
        assert question(tmp_path, cpus=16, gpus=2, wanted=3).most == 2


@pytest.mark.usefixtures("_own_cache_folder")
class TestWhatIsKept:
    def test_a_search_measures_once(self, tmp_path: Path) -> None:
        taken = []

        def measure(asked: Question, gpu: Gpu | None, room: int) -> list[Reading]:
            taken.append((gpu, room))
            return readings(1000, 1900, 2000)

        asked, said = question(tmp_path, cpus=16, gpus=1), list[str]()
        for _ in range(2):
            sharing = measure_sharing(asked, said.append, lambda: [CARD], measure)
            assert (sharing.trials, sharing.device, sharing.on_gpu) == (2, "Some Card", True)
        assert taken == [(CARD, 79 * GB)]
        assert len(said) == 1
        measure_sharing(replace(asked, cpus=8), said.append, lambda: [CARD], measure)
        measure_sharing(asked, said.append, lambda: [replace(CARD, name="Other")], measure)
        assert len(taken) == 3

    def test_other_lrs_and_noises_are_other_readings_only_where_they_cost(self, tmp_path: Path) -> None:
        taken = []

        def measure(asked: Question, gpu: Gpu | None, room: int) -> list[Reading]:
            taken.append(asked)
            return readings(1000)

        for overrides in ([], ["seed=5"], ["dataset.noise=asymmetric"], ["batch_size=32"]):
            configs = [*heavy_configs(tiny_space(tmp_path, overrides))]
            measure_sharing(question(tmp_path, configs=configs), measure=measure, load=lambda: 0.0)
        assert len(taken) == 2

    @pytest.mark.parametrize(("load", "times"), [(1.0, 1), (1.1, 2)])
    def test_on_busy_cpus_nothing_is_kept(self, tmp_path: Path, load: float, times: int) -> None:
        taken = []

        def measure(asked: Question, gpu: Gpu | None, room: int) -> list[Reading]:
            taken.append(asked)
            return readings(1000)

        for _ in range(2):
            sharing = measure_sharing(question(tmp_path, cpus=2), measure=measure, load=lambda: load)
        assert len(taken) == times
        assert sharing.quiet == (times == 1)
        assert ("measures again" in sharing.lines()[-1]) == (times == 2)

    def test_on_a_gpu_that_others_use_nothing_is_kept_and_the_room_is_what_is_left(self, tmp_path: Path) -> None:
        busy = replace(CARD, free=5 * GB)
        taken = []

        def measure(asked: Question, gpu: Gpu | None, room: int) -> list[Reading]:
            taken.append(room)
            return readings(1000, 2000)

        for _ in range(2):
            sharing = measure_sharing(question(tmp_path, gpus=2), gpus=lambda: [CARD, busy], measure=measure)
            assert sharing.trials == 1  # two would need 5.5 GB
        assert taken == [5 * GB, 5 * GB]

    def test_of_different_gpus_the_smallest_is_measured(self, tmp_path: Path) -> None:
        small = Gpu(1, "Small Card", 24 * GB, 24 * GB)
        asked = []

        def measure(_: Question, gpu: Gpu | None, room: int) -> list[Reading]:
            asked.append(gpu)
            return readings(1000, 2000, 4000, 8000, 16000)

        sharing = measure_sharing(question(tmp_path, gpus=2), gpus=lambda: [CARD, small], measure=measure)
        assert asked == [small]
        assert (sharing.device, sharing.trials) == ("Small Card", 8)  # 8 x 2.75 GB of 24

    @pytest.mark.parametrize("damage", ["", "{}", "[]", '{"key": {"a": 1}, "readings": []}', '{"key": {"a": 1}, "re'])
    def test_a_damaged_file_is_measured_anew(self, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "kept" / "a.json"
        key = {"a": 1}
        write_cached(path, key, readings(1, 2))
        assert read_cached(path, key) == readings(1, 2)
        assert read_cached(path, {"a": 2}) is None
        assert [found.name for found in path.parent.iterdir()] == ["a.json"]
        path.write_text(damage)
        assert read_cached(path, key) is None

    def test_a_cache_that_cannot_be_written_costs_only_time(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        write_cached(tmp_path / "file" / "a.json", {}, readings(1))
        assert (tmp_path / "file").read_text() == ""

    def test_no_gpu_that_a_process_sees(self, tmp_path: Path) -> None:
        with pytest.raises(ProbeError, match="sees no GPU; give a share, 1 or 1/k"):
            measure_sharing(question(tmp_path, gpus=1), gpus=list)
