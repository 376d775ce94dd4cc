"""Settings and fixtures for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_API", "pyside6")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background by a shell; what tests start would inherit it, and never hear a Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

SOAK = bool(os.environ.get("TOKENGLASS_SOAK"))

settings.register_profile(
    "quick", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "soak", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("soak" if SOAK else "quick")

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `soak` run only with TOKENGLASS_SOAK=1 (`make soak`)."""
    if not SOAK:
        skip = pytest.mark.skip(reason="a long run: make soak")
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's own files, even one that forgets to give a home."""
    monkeypatch.setenv("TOKENGLASS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TOKENGLASS_TOKEN", raising=False)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of real tiny models from elsewhere, where there is one."""
    folder = ROOT.parent / "shared" / "data" / "models"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/models here")
    return folder


@pytest.fixture(scope="session")
def starter_model() -> Path:
    path = ROOT / "assets" / "starter" / "starter.gguf"
    if not path.is_file():
        pytest.fail("assets/starter/starter.gguf is missing")
    return path
