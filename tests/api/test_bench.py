"""`tokenglass bench`: both sides really run, and the figures are what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api import cli
from api.commands import bench


@pytest.mark.real
def test_both_sides_run(tmp_path: Path, starter_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--home", str(tmp_path), "--model", str(starter_model), "--json"]
    assert cli.main([*arguments, "--pairs", "2", "--tokens", "24", "--subscribers", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pairs"] == 2
    assert result["bare_tokens_per_second"] > 0
    assert result["app_tokens_per_second"] > 0
    low, high = result["ratio_95"]
    assert low <= result["ratio"] <= high
    assert 0 < result["worker_to_client_ms"]["p50"] <= result["worker_to_client_ms"]["p99"]
    assert result["model"] in bench.report(result)


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("fake:", str(tmp_path / "missing.gguf")):
        assert cli.main(["bench", "--home", str(tmp_path), "--model", model]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "Traceback" not in message


def test_a_run_is_counted_from_its_first_token() -> None:
    run = bench.as_run(1.0, [1.5, 1.6, 1.7])
    assert run.first_token_s == 0.5
    assert run.tokens_per_second == pytest.approx(10)


def test_the_interval_holds_the_median() -> None:
    middle, low, high = bench.interval([0.9, 1.0, 1.1, 0.95, 1.05, 1.0, 0.98])
    assert middle == 1.0
    assert 0.9 <= low <= middle <= high <= 1.1
