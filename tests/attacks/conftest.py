"""One browser for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import system

from tests.attacks.chromium import Chromium, chromium
from tests.e2e.harness import patient_clients

__all__ = ["patient_clients"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A real Chromium, where the system has its libraries (`make test` sees to them)."""
    if missing := system.missing_browser():
        pytest.skip(f"a browser needs packages: {system.install_command(missing)}")
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started
