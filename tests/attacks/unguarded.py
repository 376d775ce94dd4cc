"""The app with some of its checks taken out: `python -m tests.attacks.unguarded FILE serve …`.

FILE holds the names of the checks that are out just now: `host`, `origin`, `token`. All others still hold, so
an attack that gets in had valid values for them.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from websockets.datastructures import Headers

from api import cli, core
from api.guard import Guard, Refusal, Visitor
from api.permissions import OWNER, Grant

logger = logging.getLogger(__name__)


class Lenient(Guard):
    """A guard without the checks that are out; says in the log whom it lets in."""

    out: Path

    def is_out(self, check: str) -> bool:
        return check in self.out.read_text().split()

    def check(self, method: str, target: str, headers: Headers) -> Visitor | Refusal:
        verdict = super().check(method, target, headers)
        if isinstance(verdict, Visitor) and not verdict.preflight:
            logger.info("let in: %s %s", method, verdict.path)
        return verdict

    def knows_host(self, headers: Headers) -> bool:
        return self.is_out("host") or super().knows_host(headers)

    def knows_origin(self, headers: Headers) -> bool:
        return self.is_out("origin") or super().knows_origin(headers)

    def origin(self, headers: Headers) -> str | None:
        return headers.get("Origin") if self.is_out("origin") else super().origin(headers)

    def grant(self, headers: Headers, query: dict[str, str] | None) -> Grant | None:
        return OWNER if self.is_out("token") else super().grant(headers, query)


if __name__ == "__main__":
    Lenient.out = Path(sys.argv[1])
    vars(core)["Guard"] = Lenient  # where the app takes it from
    sys.exit(cli.main(sys.argv[2:]))
