"""Fixtures for the tests of the core."""

from __future__ import annotations

import pytest

from api import server

LONG_S = 1000.0
"""Longer than any test may take: whoever waits for it to end fails."""


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's last words reach whoever reads, however slow the machine is."""
    monkeypatch.setattr(server, "LAST_WORDS_S", LONG_S)
    monkeypatch.setattr(server, "GOODBYE_S", LONG_S)
