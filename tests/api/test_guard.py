import contextlib
import string
from random import Random

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request
from websockets.streams import StreamReader

from api import heads
from api.guard import METHODS, Guard, Refusal, Visitor, check_host, check_origin
from api.permissions import NOBODY, OWNER
from api.tokens import Tokens
from engine.errors import TokenglassError

PORT = 7317
TOKEN = "s3cret-token"
LIVE = "/v1/live"


def headers(*pairs: tuple[str, str], host: str | None = f"127.0.0.1:{PORT}", token: bool = True) -> Headers:
    built = Headers()
    if host is not None:
        built["Host"] = host
    if token:
        built["Authorization"] = f"Bearer {TOKEN}"
    for name, value in pairs:
        built[name] = value
    return built


@pytest.fixture
def guard() -> Guard:
    return Guard("127.0.0.1", PORT, Tokens(TOKEN), ("http://localhost:3000",))


def status(guard: Guard, built: Headers, target: str = LIVE, method: str = "GET") -> int:
    verdict = guard.check(method, target, built)
    return verdict.status if isinstance(verdict, Refusal) else 101


def test_a_script_with_the_token_comes_in(guard: Guard) -> None:
    assert guard.check("GET", LIVE, headers()) == Visitor(LIVE, None, "", grant=OWNER)


@pytest.mark.parametrize("host", ("127.0.0.1:7317", "localhost:7317", "LOCALHOST:7317"))
def test_hosts_that_are_ours(guard: Guard, host: str) -> None:
    assert status(guard, headers(host=host)) == 101


@pytest.mark.parametrize(
    "host",
    (
        None,
        "",
        "evil.test:7317",
        "127.0.0.1",
        "127.0.0.1:80",
        "0.0.0.0:7317",
        "[::1]:7317",
        "localhost.evil.test:7317",
        "127.0.0.1:7317.evil.test",
        "2130706433:7317",
        "user@127.0.0.1:7317",
        "127.0.0.1:7317, evil.test",
        "a" * 8000,
        "http://[",
    ),
)
def test_other_hosts_get_421_for_everything(guard: Guard, host: str | None) -> None:
    for target in (LIVE, "/health", "/"):
        for method in ("GET", "POST"):
            assert status(guard, headers(host=host), target, method) == 421


def test_two_hosts_get_421(guard: Guard) -> None:
    assert status(guard, headers(("Host", f"127.0.0.1:{PORT}"))) == 421


@pytest.mark.parametrize(
    "origin",
    (
        "http://evil.test",
        "http://127.0.0.1:7317",
        "http://localhost:3001",
        "https://localhost:3000",
        "http://localhost:3000.evil.test",
        "null",
        "file://",
        "",
        "*",
        "http://localhost:3000 http://evil.test",
    ),
)
def test_other_origins_get_403_even_with_the_token(guard: Guard, origin: str) -> None:
    assert status(guard, headers(("Origin", origin))) == 403
    assert status(guard, headers(("Origin", origin)), "/health") == 403


def test_an_allowed_origin_comes_in_once(guard: Guard) -> None:
    allowed = ("Origin", "http://localhost:3000")
    assert status(guard, headers(allowed)) == 101
    assert status(guard, headers(allowed, allowed)) == 403


def test_a_rebound_page_gets_421(guard: Guard) -> None:
    page = "evil.test:7317"
    assert status(guard, headers(("Origin", f"http://{page}"), host=page)) == 421


@pytest.mark.parametrize(
    "authorization",
    ("", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x",
     f"Bearer {TOKEN} {TOKEN}", "Bearer x", f"bearer\t{TOKEN}", "Bearer \xff\xfe"),
)  # fmt: skip
def test_wrong_tokens_get_401(guard: Guard, authorization: str) -> None:
    assert status(guard, headers(("Authorization", authorization), token=False)) == 401


@pytest.mark.parametrize("target", (LIVE, "/", "/v1/models", "/v1/live/", "/healthz", "/../health"))
def test_nothing_is_told_without_the_token(guard: Guard, target: str) -> None:
    assert status(guard, headers(token=False), target) == 401


def test_the_token_in_its_three_places(guard: Guard) -> None:
    assert status(guard, headers(("Authorization", f"bearer {TOKEN}"), token=False)) == 101
    assert status(guard, headers(token=False), f"{LIVE}?token={TOKEN}") == 101
    assert status(guard, headers(token=False), f"{LIVE}?token=x") == 401
    offered = ("Sec-WebSocket-Protocol", f"tokenglass.v1, bearer.{TOKEN}")
    assert status(guard, headers(offered, token=False)) == 101
    assert status(guard, headers(("Sec-WebSocket-Protocol", "bearer.x"), token=False)) == 401


def test_health_needs_no_token_but_the_right_host(guard: Guard) -> None:
    assert guard.check("GET", "/health", headers(token=False)) == Visitor("/health", None, "")


def test_what_can_be_got_can_be_asked_for_its_head(guard: Guard) -> None:
    assert guard.check("HEAD", "/health", headers(token=False)) == Visitor("/health", None, "")
    assert guard.check("HEAD", "/v1/models", headers()) == guard.check("GET", "/v1/models", headers())
    assert status(guard, headers(token=False), "/v1/models", "HEAD") == 401
    assert status(guard, headers(), LIVE, "HEAD") == 405
    assert status(guard, headers(), "/v1/completions", "HEAD") == 405


@pytest.mark.parametrize("method", ("POST", "OPTIONS", "DELETE", "CONNECT", "get"))
def test_other_methods_get_405(guard: Guard, method: str) -> None:
    for target in (LIVE, "/health"):
        assert status(guard, headers(), target, method) == 405
        assert status(guard, headers(token=False), target, method) == 401


def test_other_paths_get_404(guard: Guard) -> None:
    for target in ("/", "/v1", "/v1/chat", "/v1/models/", "/v1/responses/"):
        for method in ("GET", "POST"):
            assert status(guard, headers(), target, method) == 404


def test_the_address_names_the_client(guard: Guard) -> None:
    verdict = guard.check("GET", f"{LIVE}?client=abc&name=My%20script", headers())
    assert verdict == Visitor(LIVE, "abc", "My script", grant=OWNER)
    assert guard.check("GET", f"{LIVE}?client=&name=", headers()) == Visitor(LIVE, None, "", grant=OWNER)
    assert status(guard, headers(), f"{LIVE}?client={'x' * 201}") == 400
    assert status(guard, headers(), f"{LIVE}?" + "&".join(f"a{n}=1" for n in range(99))) == 400


@pytest.mark.parametrize(
    "target",
    ("//[", "//evil.test/health", f"http://127.0.0.1:{PORT}/health", "http://evil.test/v1/live", "*", "",
     "health", "/v1/li\tve", "/v1/live\n", "/v1/live#x", "/v1/l\xefve", " /v1/live", "127.0.0.1:7317"),
)  # fmt: skip
def test_other_forms_of_an_address_get_400(guard: Guard, target: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert status(guard, headers(), target, method) == 400


def test_each_path_has_its_method(guard: Guard) -> None:
    for path, methods in {**METHODS, "/v1/models/some/model": "GET"}.items():
        grant = NOBODY if path == "/health" else OWNER
        for method in methods.split(", "):
            assert guard.check(method, path, headers()) == Visitor(path, None, "", grant=grant)
        other = next(name for name in ("GET", "POST", "PUT") if name not in methods.split(", "))
        assert guard.check(other, path, headers()) == Refusal(405, f"only {methods}", methods)


@pytest.mark.parametrize("path", sorted(set(METHODS) - {LIVE, "/health"}))
def test_http_takes_the_token_in_its_header_only(guard: Guard, path: str) -> None:
    method = METHODS[path].rpartition(" ")[2]
    assert status(guard, headers(token=False), path, method) == 401
    assert status(guard, headers(token=False), f"{path}?token={TOKEN}", method) == 401
    offered = ("Sec-WebSocket-Protocol", f"tokenglass.v1, bearer.{TOKEN}")
    assert status(guard, headers(offered, token=False), path, method) == 401
    assert status(guard, headers(("Origin", "http://evil.test")), path, method) == 403
    assert status(guard, headers(host="evil.test:7317"), path, method) == 421


def test_a_preflight_needs_an_allowed_origin_and_no_token(guard: Guard) -> None:
    asked = ("Access-Control-Request-Method", "POST")
    allowed = headers(("Origin", "http://localhost:3000"), asked, token=False)
    assert guard.check("OPTIONS", "/v1/models", allowed) == Visitor("/v1/models", None, "", preflight=True)
    assert status(guard, headers(asked, token=False), "/v1/models", "OPTIONS") == 401
    evil = headers(("Origin", "http://evil.test"), asked, token=False)
    assert status(guard, evil, "/v1/models", "OPTIONS") == 403


def test_without_a_token_there_is_no_server() -> None:
    for empty in ("", " ", "\n"):
        with pytest.raises(TokenglassError):
            Tokens(empty)


@pytest.mark.parametrize("origin", ("null", "*", "file://", "file:///x", "localhost:3000", "", "http://a b"))
def test_origins_that_any_page_can_have_are_not_allowed(origin: str) -> None:
    with pytest.raises(TokenglassError) as caught:
        check_origin(origin)
    assert caught.value.info.path == "allow_origin"


def test_an_origin_is_compared_as_browsers_write_it() -> None:
    assert check_origin("HTTP://LocalHost:3000/") == "http://localhost:3000"
    assert check_origin("chrome-extension://abcdef") == "chrome-extension://abcdef"


@pytest.mark.parametrize("host", ("127.0.0.1", "localhost", "127.0.0.2", "::1", "[::1]"))
def test_loopback_addresses(host: str) -> None:
    assert check_host(host) in ("127.0.0.1", "127.0.0.2", "::1")


@pytest.mark.parametrize(
    "host", ("0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.1", "::ffff:1.2.3.4")
)
def test_other_addresses_are_refused(host: str) -> None:
    with pytest.raises(TokenglassError):
        check_host(host)


def test_ipv6_and_further_loopback_hosts() -> None:
    six = Guard("::1", PORT, Tokens(TOKEN))
    assert status(six, headers(host=f"[::1]:{PORT}")) == 101
    assert status(Guard("127.0.0.2", PORT, Tokens(TOKEN)), headers(host=f"127.0.0.2:{PORT}")) == 101


def test_garbage_is_always_answered(guard: Guard) -> None:
    chance = Random(7)
    letters = string.printable[:94] + " \t\xff\xe9"
    for _ in range(500):
        built = Headers()
        for _ in range(chance.randint(1, 4)):
            name = chance.choice(("Host", "Origin", "Authorization", "Sec-WebSocket-Protocol"))
            built[name] = "".join(chance.choices(letters, k=chance.choice((0, 1, 10, 300))))
        target = "/" + "".join(chance.choices(string.printable[:94], k=20))
        assert 400 <= status(guard, built, target) < 500


# ---- heads


LINES = st.lists(
    st.sampled_from(
        ("Host: a", "Host:a ", "X: y", "X:", ": y", " y", "\ty", "X : y", "X: \x00", "X: \x0b", "X: \xff",
         "\xff: x", "Content-Length: 0", "content-length: 0", "Transfer-Encoding: chunked",
         "Authorization: Bearer x", "X")
    )
    | st.text(st.characters(max_codepoint=255), max_size=12),
    max_size=6,
)  # fmt: skip


@given(
    LINES, st.sampled_from(("\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n")), st.sampled_from(("1.1", "1.0"))
)
@example(["Host: a", "X: y"], "\r\n", "1.1")
def test_what_passes_is_read_alike_by_both_parsers(lines: list[str], line_end: str, version: str) -> None:
    text = line_end.join([f"GET / HTTP/{version}", *lines, "", ""])
    data = text.encode("latin-1")
    end = heads.END.search(data)
    if end is None or heads.problem(head := data[: end.end()]) is not None:
        return
    assert head == data[: data.index(b"\r\n\r\n") + 4]
    told = [tuple(line.split(b":", 1)) for line in head.split(b"\r\n")[1:-2]]
    wanted = [(name.lower(), value.strip(b" \t")) for name, value in told]
    first = h11.Connection(h11.SERVER)
    first.receive_data(head)
    with contextlib.suppress(h11.RemoteProtocolError):
        event = first.next_event()
        assert isinstance(event, h11.Request)
        assert list(event.headers) == wanted
    reader = StreamReader()
    reader.feed_data(head)
    with contextlib.suppress(ValueError, EOFError, NotImplementedError, InvalidHandshake):
        parsing = Request.parse(reader.read_line)
        with pytest.raises(StopIteration) as done:
            next(parsing)
        pairs = done.value.value.headers.raw_items()
        assert [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs] == wanted


def test_a_clean_head_passes() -> None:
    assert heads.problem(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\t y\r\n\r\n") is None
    assert heads.problem(b"GET / HTTP/1.1\r\n\r\n") is None
    many = b"".join(b"X%d: y\r\n" % number for number in range(heads.MAX_HEADERS))
    assert heads.problem(b"GET / HTTP/1.1\r\n" + many + b"\r\n") is None
    assert heads.problem(b"GET / HTTP/1.1\r\nX: y\r\n" + many + b"\r\n") == (
        431,
        "a request may have 100 headers",
    )
