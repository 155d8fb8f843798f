"""Where the token of a Ray cluster is found: as Ray itself does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tune_lnl.tuning.engine.auth import private_token, ray_dashboard_line, read_token, token_place


def test_the_variable_comes_first_then_the_path_then_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert (token_place({}), read_token({})) == ("~/.ray/auth_token", None)

    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("of the home\n")
    assert read_token({}) == "of the home"

    (tmp_path / "token").write_text("of the path")
    environment = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    assert (token_place(environment), read_token(environment)) == (str(tmp_path / "token"), "of the path")

    environment["RAY_AUTH_TOKEN"] = "of the variable"
    assert (token_place(environment), read_token(environment)) == ("the variable RAY_AUTH_TOKEN", "of the variable")


def test_a_path_that_cannot_be_read_is_no_token(tmp_path: Path) -> None:
    assert read_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "absent")}) is None
    assert read_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path)}) is None
    (tmp_path / "empty").write_text("\n")
    assert read_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "empty")}) is None


class TestTheDashboard:
    def test_where_the_token_is(self) -> None:
        on = {"RAY_AUTH_MODE": "token"}
        url = "127.0.0.1:8265"
        line = ray_dashboard_line(url, on)
        assert line == (
            "  Ray dashboard: http://127.0.0.1:8265\n"
            "    sign in with the token in ~/.ray/auth_token; this prints it:\n"
            "    cat ~/.ray/auth_token"
        )
        assert "in /run/secrets/ray" in ray_dashboard_line(url, {**on, "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray"})
        secret = ray_dashboard_line(url, {**on, "RAY_AUTH_TOKEN": "s3cret"})
        assert "the token in the variable RAY_AUTH_TOKEN" in secret
        assert "s3cret" not in secret

    @pytest.mark.parametrize("environment", [{}, {"RAY_AUTH_MODE": "disabled"}])
    def test_no_token_is_asked_for(self, environment: dict[str, str]) -> None:
        assert ray_dashboard_line("127.0.0.1:8265", environment) == "  Ray dashboard: http://127.0.0.1:8265"

    @pytest.mark.parametrize("url", [None, ""])
    def test_it_did_not_start(self, url: str | None) -> None:
        assert "not started" in ray_dashboard_line(url, {})
        assert "pip install 'ray[default]'" in ray_dashboard_line(url, {})


class TestALocalSearch:
    """Its token is private, whoever had it readable before."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
            monkeypatch.delenv(name, raising=False)
        return tmp_path

    def test_it_has_a_token_of_its_own(self, tmp_path: Path) -> None:
        told: list[str] = []
        with private_token(tmp_path, told.append, lambda: None):
            own = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            assert own.parent == tmp_path
            assert own.stat().st_mode & 0o777 == 0o600
            assert len(read_token() or "") == 64
            assert os.environ["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
        assert "RAY_AUTH_MODE" not in os.environ
        assert not (tmp_path / ".ray").exists()
        assert told == []

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
    def test_a_readable_token_is_tightened_told_and_not_used(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / ".ray" / "auth_token"
        path.parent.mkdir()
        path.write_text("known to others")
        path.chmod(mode)
        told: list[str] = []
        with private_token(tmp_path, told.append, lambda: None):
            assert read_token() != "known to others"
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(told) == 1
        assert f"other users could read the Ray token {path} (mode {mode:03o}); it is 600 now" in told[0]

    def test_one_that_the_user_names_is_used_and_tightened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "mine"
        path.write_text("of the user")
        path.chmod(0o644)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
        told: list[str] = []
        with private_token(tmp_path, told.append, lambda: None):
            assert read_token() == "of the user"
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(told) == 1

    def test_to_turn_it_off_is_warned_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        told: list[str] = []
        with private_token(tmp_path, told.append, lambda: None):
            assert "RAY_AUTH_TOKEN_PATH" not in os.environ
        assert "every user of this machine can run code as you" in told[0]
