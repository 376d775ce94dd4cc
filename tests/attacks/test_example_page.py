"""The example page in a real Chromium, served as its first lines say, from an origin that the app allows."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.client import SyncClient
from tests.attacks.chromium import VISIT_LIMIT_S, Chromium, Site, site
from tests.e2e.harness import LASTING, ROOT, START_LIMIT_S, Serve, serve

SLOW = LASTING.replace("delay_ms=5", "delay_ms=20")
# What a person does: fill in the form, wait for the next one, ask, press Stop.
CONNECT = "door.url.value = {url}; door.token.value = {token}; door.requestSubmit();"
ASK = """
const asking = setInterval(() => {{
  if (ask.hidden) return;
  clearInterval(asking);
  ask.prompt.value = {question};
  ask.requestSubmit();
}}, 20);
"""
STOP = """
setInterval(() => {
  const articles = [...document.querySelectorAll("article")];
  if (articles.length < 3 || !articles.every((article) => article.querySelector("p").textContent)) return;
  articles.forEach((article) => article.querySelector("button")?.click());
}, 20);
"""


def ended(n: int) -> str:
    """An expression: the texts of so many answers once all have ended, the latest first."""
    return f"""
    document.querySelectorAll("article").length === {n} && !document.querySelector("article button") &&
      [...answers.children].map((article) => [...article.children].map((part) => part.textContent))
    """


@pytest.fixture
def pages() -> Iterator[Site]:
    with site() as place:
        place.files["/browser.html"] = (ROOT / "assets/examples/browser.html").read_bytes()
        yield place


def asking(app: Serve, question: str) -> str:
    connect = CONNECT.format(url=json.dumps(app.ready["url"]), token=json.dumps(app.token))
    return connect + ASK.format(question=json.dumps(question))


def test_it_asks_the_starter_model(tmp_path: Path, browser: Chromium, pages: Site) -> None:
    with (
        serve(tmp_path / "home", "starter", "--allow-origin", pages.origin()) as app,
        SyncClient.discover(app.home, name="owner") as owner,
    ):
        owner.request("subscribe", events=["generation.finished"])
        script = asking(app, "What is <b>prefill</b>?")
        [[question, answer, speed]] = browser.visit(f"{pages.origin()}/browser.html", ended(1), script)
        finished = next(owner.events())
        assert question == "browser: What is <b>prefill</b>?"
        assert answer == finished["text"] != ""
        rate, unit, end = speed.replace(" · ", " ").split(" ")
        assert (float(rate) > 0, unit, end) == (True, "tokens/s", finished["finish_reason"])


def test_it_shows_what_others_ask_and_do_and_stops_it(tmp_path: Path, browser: Chromium, pages: Site) -> None:
    with (
        serve(tmp_path / "home", SLOW, "--allow-origin", pages.origin()) as app,
        SyncClient.discover(app.home, name="me") as me,
        ThreadPoolExecutor(1) as pool,
    ):
        me.request("subscribe", events=["generation.delta", "generation.finished"])

        def steer() -> list[str]:
            """Take back tokens of the page's answer, let a branch begin, ask too; the texts at the end."""
            events = iter(me.events())
            late = next(event for event in events if event["tokens"] and event["tokens"][-1]["index"] > 5)
            me.request("rewind", generation_id=late["generation_id"], tokens=4)
            me.request("fork", generation_id=late["generation_id"], at_token=2)
            me.request("generate", prompt="Go on for long")
            ends = (event for event in events if event["type"] == "generation.finished")
            return [next(ends)["text"] for _ in range(3)]

        steered = pool.submit(steer)
        script = asking(app, "And you?") + STOP
        shown = browser.visit(f"{pages.origin()}/browser.html", ended(3), script)
        asked, texts, speeds = zip(*shown, strict=True)
        assert asked == ("me: Go on for long", "me: And you?", "browser: And you?")
        assert sorted(texts) == sorted(steered.result(VISIT_LIMIT_S))
        assert all(texts)
        assert all(speed.endswith(" · cancelled") for speed in speeds)


def test_the_lines_in_the_readme(tmp_path: Path, browser: Chromium, pages: Site) -> None:
    found = re.search(r"```js\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    with (
        serve(tmp_path / "home", "fake:script=Hello%20there", "--allow-origin", pages.origin()) as app,
        SyncClient.discover(app.home, name="owner") as owner,
        ThreadPoolExecutor(1) as pool,
    ):
        lines = found[1].replace("127.0.0.1:7317", app.ready["url"].split("/")[2])
        page = f"<body><script>const token = {json.dumps(app.token)};\n{lines}</script>"
        pages.files["/readme.html"] = page.encode()
        seen = threading.Event()

        def ask_until_seen() -> None:
            while not seen.is_set():
                owner.generate(prompt="hi").finished()

        asking = pool.submit(ask_until_seen)
        try:
            until = "document.body.innerText.includes('Hello there')"
            assert browser.visit(f"{pages.origin()}/readme.html", until) is True
        finally:
            seen.set()
        asking.result(VISIT_LIMIT_S)


def test_it_says_why_it_is_not_let_in(tmp_path: Path, browser: Chromium, pages: Site) -> None:
    with serve(tmp_path / "home", "fake:", "--allow-origin", pages.origin()) as app:
        refused = "state.textContent.startsWith('not connected') && [state.textContent, door.hidden]"
        page = f"{pages.origin('localhost')}/browser.html"
        text, hidden = browser.visit(page, refused, asking(app, "hi"))
        assert "origin allowed?" in text
        assert not hidden
        end = time.monotonic() + START_LIMIT_S
        while " refused: 403 " not in app.stderr:  # it comes through a pipe
            assert time.monotonic() < end, app.stderr
            time.sleep(0.02)
