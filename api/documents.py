"""`GET /v1/schema` and `GET /v1/asyncapi`: the contract's documents, from the files beside this one."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from websockets.datastructures import Headers

from api.heads import combined
from api.http import Answer

SCHEMA_PATH = "/v1/schema"
ASYNCAPI_PATH = "/v1/asyncapi"
FILES: dict[str, tuple[str, str]] = {
    SCHEMA_PATH: ("schema.json", "application/schema+json"),
    ASYNCAPI_PATH: ("asyncapi.json", "application/vnd.aai.asyncapi+json;version=3.0.0"),
}
"""File and content type by path. `api.schema` writes the files; making one takes 0.1 s, reading it none."""


@functools.cache
def load(name: str) -> tuple[bytes, str]:
    """A document as text, and its entity tag. Raises OSError."""
    text = Path(__file__).with_name(name).read_bytes()
    return text, f'"{hashlib.sha256(text).hexdigest()[:32]}"'


def answer(path: str, headers: Headers) -> Answer:
    """The document of a path, or 304 where the client says that it has it already."""
    name, content_type = FILES[path]
    text, tag = load(name)
    caching = (("ETag", tag), ("Cache-Control", "private, no-cache"))
    known = {each.strip().removeprefix("W/") for each in combined(headers, "If-None-Match").split(",")}
    if tag in known or "*" in known:
        return Answer(304, b"", content_type, caching)
    return Answer(200, text, content_type, caching)
