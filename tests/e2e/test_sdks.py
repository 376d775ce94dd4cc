"""Unmodified SDKs against the app, each in a program of its own with nothing but address and key set.

`pytest -s` prints what each of them saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import ROOT, Serve, serve

STARTER = str(ROOT / "assets" / "starter" / "starter.gguf")
AGENTS = Path(sys.prefix) / "agents"
LIMIT_S = 900.0
TOKEN = "sdk-test-token-0123456789abcdef"
COMMON = (
    *("text", "streaming", "usage", "tool loop", "streamed tools", "structured output"),
    *("cancel by closing", "errors"),
)
SDKS = {
    "openai": ("openai_script", (*COMMON, "embeddings", "logprobs", "batch")),
    "langchain-openai": ("langchain_script", (*COMMON, "embeddings", "logprobs", "batch", "responses")),
    "pydantic-ai": ("pydantic_ai_script", (*COMMON, "responses", "responses websocket")),
    "openai-agents": ("agents_script", (*COMMON, "responses", "responses websocket")),
}
pytestmark = pytest.mark.timeout(LIMIT_S + 100)


@dataclass
class Apps:
    """Apps that run for all tests: one whose model answers with what was said, the starter, embeddings."""

    echo: Serve
    starter: Serve
    embedding: Serve

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "OPENAI_BASE_URL": self.echo.ready["base_url"],
            "OPENAI_API_KEY": TOKEN,
            "STARTER_URL": self.starter.ready["base_url"],
            "EMBEDDING_URL": self.embedding.ready["base_url"],
        }


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    def app(model: str) -> contextlib.AbstractContextManager[Serve]:
        return serve(tmp_path_factory.mktemp("home"), model, "--token", TOKEN)

    with (
        app("fake:echo=1,delay_ms=2,ctx=32768") as echo,
        app(STARTER) as starter,
        app("fake:embedding=1") as embedding,
    ):
        yield Apps(echo, starter, embedding)


def told_by(script: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    """What a script printed, line by line."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.e2e.sdks.{script}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("sdk", SDKS)
def test_sdk(sdk: str, apps: Apps) -> None:
    script, wanted = SDKS[sdk]
    environment = apps.environment
    if sdk == "openai-agents":
        if not AGENTS.is_dir():
            pytest.skip("`make setup-dev` puts openai-agents into .venv/agents")
        environment["PYTHONPATH"] = str(AGENTS)
    told = told_by(script, environment)
    print(f"\n{sdk}")
    for line in told:
        print(f"  {line['feature']:20} {line.get('error') or line['result'] or 'nothing reached'}")
    failed = [line for line in told if "error" in line]
    assert not failed, "\n".join(f"{line['feature']}: {line['error']}" for line in failed)
    results = {line["feature"]: line["result"] for line in told}
    assert results.pop("elsewhere") == "", "it wanted to reach another machine"
    assert set(results) == set(wanted)


def test_what_an_sdk_asks_is_seen_live(apps: Apps) -> None:
    """Each generation is seen by who follows, with the SDK's own name for itself."""

    async def test() -> None:
        async with apps.echo.client() as wire:
            await wire.command("subscribe", events=["generation.*", "metrics.custom"])
            for sdk, name in (("openai", "OpenAI/Python"), ("pydantic-ai", "pydantic-ai/")):
                seen = len(wire.frames)
                await asyncio.to_thread(told_by, SDKS[sdk][0], {**apps.environment, "FEATURES": "text"})
                await wire.command("publish", series=sdk, value=1)
                await wire.event("metrics.custom", series=sdk)
                names = {
                    frame["client_name"].lower()
                    for frame in wire.frames[seen:]
                    if frame["type"] == "generation.queued"
                }
                assert names
                assert any(name.lower() in one for one in names), names
                origins = {frame["origin"] for frame in wire.frames[seen:] if "origin" in frame}
                assert origins <= {"chat_completions", "completions"}

    asyncio.run(test())


def test_metrics_are_read_by_prometheus(apps: Apps) -> None:
    url = apps.echo.ready["base_url"].removesuffix("/v1") + "/metrics"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    said = {"model": "x", "messages": [{"role": "user", "content": "one two three"}]}
    answer = httpx2.post(
        f"{apps.echo.ready['base_url']}/chat/completions", json=said, headers=bearer, timeout=LIMIT_S
    )
    assert answer.json()["choices"][0]["message"]["content"] == "one two three"
    told = httpx2.get(url, headers=bearer, timeout=LIMIT_S)
    families = {family.name: family for family in text_string_to_metric_families(told.text)}
    assert families
    for family in families.values():
        assert family.name.startswith("tokenglass_"), family.name
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
    histograms = [family for family in families.values() if family.type == "histogram"]
    assert histograms
    for family in histograms:
        counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
        assert counts == sorted(counts)
        assert counts[-1] == next(s.value for s in family.samples if s.name.endswith("_count"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl(apps: Apps) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--max-time", "180", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout

    base_url = apps.echo.ready["base_url"]
    bearer = ("--header", f"Authorization: Bearer {TOKEN}", "--header", "Content-Type: application/json")
    said = json.dumps({"messages": [{"role": "user", "content": "Hello, curl!"}]})
    whole = json.loads(curl(f"{base_url}/chat/completions", *bearer, "--data", said))
    assert whole["choices"][0]["message"]["content"] == "Hello, curl!"
    streamed = json.dumps({**json.loads(said), "stream": True})
    lines = curl(f"{base_url}/chat/completions", "--no-buffer", *bearer, "--data", streamed).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "Hello, curl!"
    # a body that is announced first (`Expect: 100-continue`), and one in chunks
    long = json.dumps({"messages": [{"role": "user", "content": "x" * 3000}], "max_tokens": 1})
    for how in ("Expect: 100-continue", "Transfer-Encoding: chunked"):
        answer = json.loads(curl(f"{base_url}/chat/completions", *bearer, "--header", how, "--data", long))
        assert answer["usage"]["completion_tokens"] == 1
    head = curl("--head", *bearer, f"{base_url}/models")
    assert "200" in head.splitlines()[0]
    assert "Content-Length: " in head
