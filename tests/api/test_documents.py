"""The contract's documents as the running app gives them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from api import documents, schema
from tests.api.harness import app, run
from tests.api.test_http import BEARER, ask

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {documents.SCHEMA_PATH: schema.schema(), documents.ASYNCAPI_PATH: schema.asyncapi()}


def get(path: str, more: str = BEARER) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n{more}\r\n"


@pytest.mark.parametrize("path", sorted(documents.FILES))
def test_a_document_is_given_once_and_then_known(tmp_path: Path, path: str) -> None:
    async def body() -> None:
        async with app(tmp_path) as core:
            status, headers, text = await ask(core, get(path))
            assert (status, text) == (200, WRITTEN[path])
            assert int(headers["content-length"]) == len(text)
            assert headers["content-type"].split(";")[0].endswith("+json")
            assert "no-store" not in headers["cache-control"]
            assert json.loads(text)
            tag = headers["etag"]
            for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                status, headers, text = await ask(core, get(path, f"{BEARER}If-None-Match: {known}\r\n"))
                assert (status, text, headers["etag"]) == (304, b"", tag)
                assert "content-length" not in headers
            for unknown in ('"other"', tag.strip('"')):
                assert (await ask(core, get(path, f"{BEARER}If-None-Match: {unknown}\r\n")))[0] == 200
            assert (await ask(core, get(path, f"If-None-Match: {tag}\r\n")))[0] == 401

    run(body())


def test_the_two_are_told_apart(tmp_path: Path) -> None:
    async def body() -> None:
        async with app(tmp_path) as core:
            _, first, text = await ask(core, get(documents.SCHEMA_PATH))
            assert json.loads(text)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
            _, second, text = await ask(core, get(documents.ASYNCAPI_PATH))
            assert json.loads(text)["asyncapi"] == "3.0.0"
            assert first["etag"] != second["etag"]

    run(body())


def test_installed_and_packaged_apps_have_them() -> None:
    """They are data beside the code, which only a build that is told takes along."""
    names = {name for name, _ in documents.FILES.values()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["package-data"]["api"]) == names
    spec = (ROOT / "packaging" / "tokenglass.spec").read_text(encoding="utf-8")
    assert all(f'"{name}"' in spec for name in names)
