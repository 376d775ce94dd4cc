"""Who may come in: Host, Origin and token, checked in this order before anything else is looked at."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from websockets.datastructures import Headers

from engine.errors import TokenglassError

SUBPROTOCOL = "tokenglass.v1"
LIVE_PATH = "/v1/live"
HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"
WEBSOCKET_PATHS = frozenset((LIVE_PATH, "/v1/responses"))
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
}
"""The paths that are there, each with its one method."""
NOT_BUILT_PATHS = frozenset(
    (
        "/v1/responses",
    )
)
"""Paths of the contract that answer 501, whatever the method."""
MAX_QUERY_FIELDS = 16
MAX_KEY_CHARS = 200

_BEARER = re.compile(r"(?i:bearer) +(\S+) *")
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


class Guard:
    """The checks for one listening address. Raises TokenglassError `invalid_argument` for an empty token."""

    def __init__(self, host: str, port: int, token: str, allow_origins: tuple[str, ...] = ()) -> None:
        if not token.strip():
            raise TokenglassError("invalid_argument", "an empty token would let everybody in", path="token")
        self._token = token.encode()
        self._origins = frozenset(check_origin(origin) for origin in allow_origins)
        names = {"127.0.0.1", "localhost", f"[{host}]" if ":" in host else host}
        self._hosts = frozenset(f"{name}:{port}" for name in names)

    def check(self, method: str, target: str, headers: Headers) -> Visitor | Refusal:
        """Judge a request by everything but the number of clients."""
        hosts = headers.get_all("Host")
        if len(hosts) != 1 or hosts[0].strip().lower() not in self._hosts:
            return Refusal(421, "this server answers to its loopback address only")
        origins = headers.get_all("Origin")
        if origins and (len(origins) != 1 or origins[0].strip() not in self._origins):
            return Refusal(403, "web pages of this origin may not connect (--allow-origin)")
        try:
            parts = urlsplit(target)
            query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
        except ValueError:
            return Refusal(400, "the address can't be read")
        if parts.path == HEALTH_PATH and method == "GET":
            return Visitor(HEALTH_PATH, None, "")
        if origins and method == "OPTIONS" and "Access-Control-Request-Method" in headers:
            return Visitor(parts.path, None, "", preflight=True)  # browsers send no token with it
        if not self._knows_token(headers, query if parts.path in WEBSOCKET_PATHS else None):
            return Refusal(401, "the token is missing or wrong (server.json has it)")
        if parts.path in NOT_BUILT_PATHS:
            return Refusal(501, f"{parts.path} is not built yet; the stream is at {LIVE_PATH}")
        allowed = method_of(parts.path)
        if allowed is None:
            return Refusal(404, f"there is nothing here; the stream is at {LIVE_PATH}")
        if method != allowed:
            return Refusal(405, f"only {allowed}", allowed)
        if parts.path != LIVE_PATH:
            return Visitor(parts.path, None, "")
        key = query.get("client") or None
        if key is not None and len(key) > MAX_KEY_CHARS:
            return Refusal(400, f"client: at most {MAX_KEY_CHARS} characters")
        return Visitor(LIVE_PATH, key, query.get("name", ""))

    def origin(self, headers: Headers) -> str | None:
        """The page's origin, where it may read the answer."""
        origins = headers.get_all("Origin")
        return origins[0].strip() if len(origins) == 1 and origins[0].strip() in self._origins else None

    def _knows_token(self, headers: Headers, query: dict[str, str] | None) -> bool:
        """Looks into the header, and where there is a query also into it and the subprotocols."""
        matches = map(_BEARER.fullmatch, headers.get_all("Authorization"))
        offered = [match[1] for match in matches if match]
        if query is not None and "token" in query:
            offered.append(query["token"])
        for value in headers.get_all("Sec-WebSocket-Protocol") if query is not None else ():
            names = [name.strip() for name in value.split(",")]
            offered += [name.removeprefix("bearer.") for name in names if name.startswith("bearer.")]
        good = False
        for token in offered:
            good |= hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)
        return good


def method_of(path: str) -> str | None:
    """The method of a path; None where there is nothing."""
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
