"""Pages in a real Chromium that hold the token and still get nothing, because of one check each.

Each page is opened twice: against the app as it is, and against one where just the checks that are meant to
stop it are out. There it gets what it wants, so it had valid values for everything else, and neither the
browser nor a mistake of the attack's own was what stopped it here.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from api.client import SyncClient
from tests.attacks.chromium import Chromium, Rebound, Site, rebound, site
from tests.e2e.harness import ROOT, START_LIMIT_S, Serve, serve

PAGES = Path(__file__).with_name("pages")
MODEL = "fake:tokens=4"
Sites = tuple[Site, Site]
"""One whose origin isn't allowed, one whose origin is."""
LOG_HAS_ROOM = 10
"""After so many refusals the log has room for those of one more page."""


@dataclass(frozen=True)
class Attack:
    """A page, the checks that stop it, and what it gets without them."""

    name: str
    page: str
    """How it is opened: see `Scene.open`."""
    checks: str
    refused_with: int
    gets: str
    """Where they are out. `reads`: stream and answers; `starts`: a generation, which it can't read;
    `nothing`: it is answered, and can't read it."""


ATTACKS = (
    Attack("at another port of 127.0.0.1", "foreign", "origin", 403, "reads"),
    Attack("at `localhost` where `127.0.0.1` is allowed", "localhost", "origin", 403, "reads"),
    Attack("a file", "file", "origin", 403, "reads"),
    Attack("in a sandboxed frame (origin `null`)", "frame", "origin", 403, "reads"),
    Attack("a `data:` address (origin `null`)", "data", "origin", 403, "reads"),
    Attack("a worker of such a page", "worker", "origin", 403, "reads"),
    Attack("at a rebound name (DNS rebinding)", "rebound", "host", 421, "reads"),
    Attack("an allowed page that asks `0.0.0.0`", "0.0.0.0", "host", 421, "reads"),
    Attack("`[::ffff:127.0.0.1]`", "[::ffff:127.0.0.1]", "host", 421, "reads"),
    Attack("`app.localhost`", "app.localhost", "host", 421, "reads"),
    Attack("`localhost.`", "localhost.", "host", 421, "reads"),
    Attack("`fetch` without CORS, GET", "fetch", "token", 401, "nothing"),
    Attack("an image", "img", "token", 401, "nothing"),
    Attack("a script", "script", "token", 401, "nothing"),
    Attack("a frame", "iframe", "token", 401, "nothing"),
    Attack("leading the whole page there", "navigation", "token", 401, "nothing"),
    Attack("`EventSource`", "eventsource", "origin token", 403, "nothing"),
    Attack("`fetch` without CORS, POST", "post", "origin token", 403, "starts"),
    Attack("`sendBeacon`", "beacon", "origin token", 403, "starts"),
    Attack("a form with a `text/plain` body", "form", "origin token", 403, "starts"),
    Attack("that over a redirect", "redirect", "origin token", 403, "starts"),
)


class Scene:
    """An app, its owner, and pages that hold the app's token."""

    def __init__(self, app: Serve, owner: SyncClient, evil: Rebound, foreign: Site, allowed: Site) -> None:
        self._app = app
        self._owner = owner
        self._events = owner.events()
        self._evil = evil
        self._foreign = foreign
        self._allowed = allowed
        self.port = evil.port
        self._marks = 0
        self._log_start = 0

    def open(self, browser: Chromium, page: str) -> Any:
        """Let a page attack, and give its report."""
        scripted = self._page("script.html")
        if page == "foreign":
            return browser.visit(self._put(self._foreign, "/script.html", scripted))
        if page in ("allowed", "localhost"):
            url = self._put(self._allowed, "/script.html", scripted)
            return browser.visit(url if page == "allowed" else url.replace("127.0.0.1", page))
        if page == "file":
            file = self._app.home / "page.html"
            file.write_bytes(scripted)
            return browser.visit(file.as_uri())
        if page == "frame":
            self._put(self._foreign, "/script.html", scripted)
            return browser.visit(self._put(self._foreign, "/frame.html", self._page("frame.html")))
        if page == "data":
            return browser.visit(f"data:text/html;charset=utf-8,{quote(scripted)}")
        if page == "rebound":
            self._evil.page = self._page("script.html", app=f"evil.test:{self.port}")
            return browser.visit(self._evil.url)
        if page in ("0.0.0.0", "[::ffff:127.0.0.1]", "app.localhost", "localhost."):
            asking = self._page("script.html", app=f"{page}:{self.port}")
            return browser.visit(self._put(self._allowed, "/script.html", asking))
        chat = f"http://127.0.0.1:{self.port}/v1/chat/completions?token={self._app.token}"
        self._foreign.files["/redirect"] = chat.encode()
        url = self._put(self._foreign, "/element.html", self._page("element.html", technique=page))
        if page == "navigation":
            shown = f"location.port === '{self.port}' && {{ outcome: document.body.innerText }}"
            return browser.visit(url, shown)
        return browser.visit(url)

    def _page(self, name: str, **aim: str) -> bytes:
        aims = {"app": f"127.0.0.1:{self.port}", "token": self._app.token, **aim}
        return (PAGES / name).read_text().replace("AIM", json.dumps(aims)).encode()

    @staticmethod
    def _put(place: Site, path: str, content: bytes) -> str:
        place.files[path] = content
        return place.origin() + path

    def mark(self) -> list[dict[str, Any]]:
        """What the owner has seen of clients and generations since the last mark."""
        self._marks += 1
        self._owner.request("publish", series="mark", value=self._marks)
        seen = []
        for event in self._events:
            if event["type"] == "metrics.custom" and event["value"] == self._marks:
                break
            seen.append(event)
        return seen

    def until_started(self) -> list[dict[str, Any]]:
        """The same, waiting for a generation; a page isn't told when its request has arrived."""
        end = time.monotonic() + START_LIMIT_S
        seen = self.mark()
        while not generations(seen):
            assert time.monotonic() < end, f"no generation was started: {self.log()}"
            time.sleep(0.05)  # below the most that a client may publish
            seen += self.mark()
        return seen

    @property
    def refusals(self) -> int:
        return self._app.stderr.count(" refused: ")

    @property
    def token_is_logged(self) -> bool:
        return self._app.token in self._app.stderr

    def log(self) -> str:
        """What the app has logged since `forget`."""
        return self._app.stderr[self._log_start :]

    def forget(self) -> None:
        """A new attack begins."""
        self.mark()
        self._log_start = len(self._app.stderr)

    def until_log(self, condition: Callable[[str], object]) -> None:
        end = time.monotonic() + START_LIMIT_S
        while not condition(self.log()):
            assert time.monotonic() < end, f"it isn't in the log: {self.log()}"
            time.sleep(0.02)


def refusals(log: str) -> set[int]:
    return {int(status) for status in re.findall(r" refused: (\d+) ", log)}


def messages_read(report: dict[str, Any]) -> int:
    """Messages of a stream that came to the page, over all its attempts."""
    attempts = [part for part in report.values() if isinstance(part, dict)]
    return int(report.get("messages", 0)) + sum(int(part.get("messages", 0)) for part in attempts)


def answers_read(report: dict[str, Any]) -> int:
    """Answers with content that the page could look into."""
    attempts = [part for part in report.values() if isinstance(part, dict)]
    good = sum(part.get("status") == 200 and part["chars"] > 0 for part in attempts)
    return int(good + (report.get("chars", 0) > 0))


def generations(events: list[dict[str, Any]]) -> int:
    return sum(event["type"] == "generation.queued" for event in events)


@contextlib.contextmanager
def scene(home: Path, sites: Sites, program: tuple[str, ...] = ("-m", "desktop")) -> Iterator[Scene]:
    """An app that allows one site's origin and, so that only its Host is wrong, the rebound name's."""
    foreign, allowed = sites
    with rebound() as evil, contextlib.ExitStack() as stack:
        options = ("--port", str(evil.port), "--log-level", "info")
        allow = ("--allow-origin", allowed.origin(), "--allow-origin", evil.origin)
        app = stack.enter_context(serve(home, MODEL, *options, *allow, program=program))
        assert app.ready["base_url"] == f"http://127.0.0.1:{evil.port}/v1"
        owner = stack.enter_context(SyncClient.discover(home, name="owner"))
        owner.request("subscribe", events=["client.*", "generation.queued", "metrics.custom"])
        yield Scene(app, owner, evil, foreign, allowed)


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with site() as foreign, site() as allowed:
        yield foreign, allowed


@pytest.fixture(scope="module")
def guarded_apps(tmp_path_factory: pytest.TempPathFactory, sites: Sites) -> Iterator[Callable[[], Scene]]:
    """Gives the app as it is; now and then a new one, since its log tells only of so many refusals."""
    with contextlib.ExitStack() as stack:
        there: list[Scene] = []

        def fresh() -> Scene:
            if not there or there[-1].refusals > LOG_HAS_ROOM:
                stack.close()
                there.append(stack.enter_context(scene(tmp_path_factory.mktemp("guarded"), sites)))
            return there[-1]

        yield fresh


@pytest.fixture
def guarded(guarded_apps: Callable[[], Scene]) -> Scene:
    return guarded_apps()


@pytest.fixture(scope="module")
def checks_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names the checks that the unguarded app leaves out."""
    path = tmp_path_factory.mktemp("checks") / "out"
    path.write_text("")
    return path


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory, sites: Sites, checks_out: Path) -> Iterator[Scene]:
    program = ("-m", "tests.attacks.unguarded", str(checks_out))
    with scene(tmp_path_factory.mktemp("unguarded"), sites, program) as there:
        yield there


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """One line for each attack, printed at the end (`pytest -s`)."""
    lines: list[str] = []
    yield lines
    print("\nmessages of the stream, answers read and generations started, with the check and without")
    for line in lines:
        print(line)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.page)
def test_one_check_stops_the_page(
    attack: Attack, browser: Chromium, guarded: Scene, unguarded: Scene, checks_out: Path, table: list[str]
) -> None:
    guarded.forget()
    report = guarded.open(browser, attack.page)
    guarded.until_log(refusals)
    seen = guarded.mark()
    assert refusals(guarded.log()) == {attack.refused_with}
    assert (messages_read(report), answers_read(report), seen) == (0, 0, [])
    assert not guarded.token_is_logged

    unguarded.forget()
    checks_out.write_text(attack.checks)
    try:
        loot = unguarded.open(browser, attack.page)
        unguarded.until_log(lambda log: "let in: " in log)
        missed = unguarded.mark() if attack.gets != "starts" else unguarded.until_started()
    finally:
        checks_out.write_text("")
    assert (messages_read(loot) > 0) is (attack.gets == "reads"), loot
    assert (answers_read(loot) > 0) is (attack.gets == "reads" and attack.page != "worker"), loot
    assert (generations(missed) > 0) is (attack.gets != "nothing"), missed
    table.append(
        f"{attack.name:<46} {attack.refused_with} {attack.checks:<13}"
        f"{messages_read(report):4}{answers_read(report):4}{generations(seen):4}  ->"
        f"{messages_read(loot):4}{answers_read(loot):4}{generations(missed):4}"
    )


def test_an_allowed_page_gets_everything(browser: Chromium, guarded: Scene) -> None:
    guarded.forget()
    report = guarded.open(browser, "allowed")
    for stream in ("subprotocol", "query", "responses"):
        assert report[stream]["finished"], report
    for answer in ("models", "metrics", "schema", "chat", "response"):
        assert report[answer]["status"] == 200, report
    assert generations(guarded.mark()) == 5


GETS = {
    "reads": "reads the stream and answers, starts generations",
    "starts": "starts a generation, can't read it",
    "nothing": "is answered, can't read it",
}


def test_the_security_document_has_the_table() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for (status, checks, gets), group in groupby(
        ATTACKS, lambda attack: (attack.refused_with, attack.checks, attack.gets)
    ):
        pages = "; ".join(attack.name for attack in group)
        assert f"| {pages} | {status} {checks.replace(' ', ', ')} | nothing | {GETS[gets]} |" in text
