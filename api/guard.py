"""Who may come in: Host, Origin and token, checked in this order before anything else is looked at.

Each check is a method of its own, so that tests can leave out one and show that it is what stops an attack.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from urllib.parse import parse_qsl, urlsplit

from websockets.datastructures import Headers

from api.permissions import NOBODY, Grant
from api.tokens import Tokens
from engine.errors import TokenglassError

SUBPROTOCOL = "tokenglass.v1"
LIVE_PATH = "/v1/live"
HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"
RESPONSES_PATH = "/v1/responses"
WEBSOCKET_PATHS = frozenset((LIVE_PATH, RESPONSES_PATH))
"""Where browsers may give the token in another place than a header, which they can't set there."""
MODEL_PATHS = "/v1/models/"
"""And what follows: one model."""
METHODS: dict[str, str] = {
    LIVE_PATH: "GET",
    HEALTH_PATH: "GET",
    METRICS_PATH: "GET",
    "/v1/schema": "GET",
    "/v1/asyncapi": "GET",
    "/v1/models": "GET",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/embeddings": "POST",
    RESPONSES_PATH: "GET, POST",
}
"""The paths that are there, with their methods."""
MAX_QUERY_FIELDS = 16
MAX_KEY_CHARS = 200
MAX_OFFERED = 4
"""Tokens that one request may try; more are not looked at."""

_RESPONSE = re.compile(rf"{RESPONSES_PATH}/[^/]+(/cancel|/input_items)?")
_RESPONSE_METHODS = {"": "GET, DELETE", "/cancel": "POST", "/input_items": "GET"}
_BEARER = re.compile(r"(?i:bearer) +(\S+) *")
_TARGET = re.compile(r"/(?!/)[!-\"$-~]*")
"""A path with a query: neither an address with a scheme and a host of its own, nor `*`."""
_ORIGIN = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer instead of what was asked for."""

    status: int
    message: str
    allow: str | None = None
    """The path's method, where it was another."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever passed: what its address says about it."""

    path: str
    key: str | None
    name: str
    preflight: bool = False
    """A browser asks whether a page of an allowed origin may send its request."""
    grant: Grant = NOBODY
    """What came with its token; NOBODY where none was needed."""


class Guard:
    """The checks for one listening address."""

    def __init__(self, host: str, port: int, tokens: Tokens, allow_origins: tuple[str, ...] = ()) -> None:
        self.tokens = tokens
        self._origins = frozenset(check_origin(origin) for origin in allow_origins)
        names = {"127.0.0.1", "localhost", f"[{host}]" if ":" in host else host}
        self._hosts = frozenset(f"{name}:{port}" for name in names)

    def check(self, method: str, target: str, headers: Headers) -> Visitor | Refusal:
        """Judge a request by everything but the number of clients."""
        if not self.knows_host(headers):
            return Refusal(421, "this server answers to its loopback address only")
        if not self.knows_origin(headers):
            return Refusal(403, "web pages of this origin may not connect (--allow-origin)")
        try:
            if not self.is_address(target):
                raise ValueError(target)
            parts = urlsplit(target)
            query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
        except ValueError:
            return Refusal(400, "the address can't be read")
        if method == "HEAD" and parts.path not in WEBSOCKET_PATHS:
            method = "GET"
        if parts.path == HEALTH_PATH and method == "GET":
            return Visitor(HEALTH_PATH, None, "")
        if "Origin" in headers and method == "OPTIONS" and "Access-Control-Request-Method" in headers:
            return Visitor(parts.path, None, "", preflight=True)  # browsers send no token with it
        stream = method == "GET" and parts.path in WEBSOCKET_PATHS
        grant = self.grant(headers, query if stream else None)
        if grant is None:
            return Refusal(401, "the token is missing or wrong (server.json has it)")
        allowed = method_of(parts.path)
        if allowed is None:
            return Refusal(404, f"there is nothing here; the stream is at {LIVE_PATH}")
        if method not in allowed.split(", "):
            return Refusal(405, f"only {allowed}", allowed)
        if parts.path != LIVE_PATH:
            return Visitor(parts.path, None, "", grant=grant)
        key = query.get("client") or None
        if key is not None and len(key) > MAX_KEY_CHARS:
            return Refusal(400, f"client: at most {MAX_KEY_CHARS} characters")
        return Visitor(LIVE_PATH, key, query.get("name", ""), grant=grant)

    def origin(self, headers: Headers) -> str | None:
        """The page's origin, where it may read the answer."""
        origins = headers.get_all("Origin")
        return origins[0] if len(origins) == 1 and origins[0] in self._origins else None

    # ---- the checks

    def knows_host(self, headers: Headers) -> bool:
        """Exactly one `Host`, and exactly ours: a page that was rebound to this address gives its own."""
        hosts = headers.get_all("Host")
        return len(hosts) == 1 and hosts[0].lower() in self._hosts

    def knows_origin(self, headers: Headers) -> bool:
        """No `Origin`, as scripts have none, or exactly one that is allowed."""
        return not headers.get_all("Origin") or self.origin(headers) is not None

    def is_address(self, target: str) -> bool:
        """A plain path: one that names a host of its own could be read in two ways."""
        return _TARGET.fullmatch(target) is not None

    def grant(self, headers: Headers, query: dict[str, str] | None) -> Grant | None:
        """What the token gives; None without a good one.

        It stands in the header, and where there is a query also in that or in the subprotocols.
        """
        self.tokens.refresh()
        return self.tokens.find(islice(_offered(headers, query), MAX_OFFERED))


def _offered(headers: Headers, query: dict[str, str] | None) -> Iterator[str]:
    for value in headers.get_all("Authorization"):
        if match := _BEARER.fullmatch(value):
            yield match[1]
    if query is None:
        return
    if "token" in query:
        yield query["token"]
    for value in headers.get_all("Sec-WebSocket-Protocol"):
        for name in value.split(","):
            if (name := name.strip()).startswith("bearer."):
                yield name.removeprefix("bearer.")


def method_of(path: str) -> str | None:
    """The method of a path, or several with commas; None where there is nothing."""
    if match := _RESPONSE.fullmatch(path):
        return _RESPONSE_METHODS[match[1] or ""]
    if path.startswith(MODEL_PATHS) and path != MODEL_PATHS:
        return "GET"
    return METHODS.get(path)


def check_origin(origin: str) -> str:
    """An origin that may be allowed, as browsers write it.

    Raises TokenglassError `invalid_argument` for what isn't one, and for `null`, `*` and `file://`: any page
    can be these.
    """
    text = origin.strip().lower().rstrip("/")
    if not _ORIGIN.fullmatch(text):
        raise TokenglassError(
            "invalid_argument",
            f"{origin[:100]!r} isn't an origin that can be allowed",
            path="allow_origin",
            hint="give scheme, host and port, e.g. http://localhost:3000",
        )
    return text


def check_host(host: str) -> str:
    """A loopback address to listen on. Raises TokenglassError `invalid_argument` for any other."""
    name = "127.0.0.1" if host.lower() == "localhost" else host.strip("[]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise TokenglassError(
            "invalid_argument", f"{host!r} isn't a loopback address; nothing else is offered", path="host"
        )
    return str(address)
