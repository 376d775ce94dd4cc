"""Settings of the end-to-end tests."""

from __future__ import annotations

from tests.e2e.harness import patient_clients

__all__ = ["patient_clients"]
