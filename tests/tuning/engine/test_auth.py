"""Where the token of a Ray cluster is found: as Ray itself does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_lnl.tuning.engine.auth import ray_dashboard_line, read_token, token_place


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
        assert line == "  Ray dashboard: http://127.0.0.1:8265 (sign in with the token in ~/.ray/auth_token)"
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
