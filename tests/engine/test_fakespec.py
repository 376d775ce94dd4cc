"""The grammar of `fake:…`."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TokenglassError
from engine.fakespec import FakeSpec, is_fake


def test_fake_paths_are_told_from_files() -> None:
    assert is_fake("fake:")
    assert is_fake("fake:tokens=3")
    assert not is_fake("fake")
    assert not is_fake("./fake:x.gguf")


def test_nothing_given_is_the_default() -> None:
    assert FakeSpec.parse("fake:") == FakeSpec()


def test_every_key() -> None:
    spec = FakeSpec.parse(
        "fake:tokens=5,script=a%2Cb%20%C3%A9%FF,bytes=1,ctx=64,slots=3,recurrent=1,embedding=1,delay_ms=1.5,"
        "prefill_ms=2,load_ms=3,load_fail=model_damaged,oom_at_load=0,load_abort=0,abort_after=1,exit_after=2,hang_after=3,"
        "fail_after=4,nan_after=0"
    )
    assert spec == FakeSpec(
        tokens=5,
        script=b"a,b \xc3\xa9\xff",
        bytes=True,
        ctx=64,
        slots=3,
        recurrent=True,
        embedding=True,
        delay_ms=1.5,
        prefill_ms=2.0,
        load_ms=3.0,
        load_fail="model_damaged",
        abort_after=1,
        exit_after=2,
        hang_after=3,
        fail_after=4,
        nan_after=0,
    )
    assert FakeSpec.parse("fake:echo=1").echo
    assert FakeSpec.parse("fake:script=").script == b""
    assert FakeSpec.parse("fake:script=so it = so").script == b"so it = so"


@pytest.mark.parametrize(
    ("path", "named"),
    (
        ("model.gguf", "not a fake model"),
        ("fake:token=3", "'token'"),
        ("fake:tokens", "tokens needs a value"),
        ("fake:tokens=", "tokens="),
        ("fake:tokens=-1", "tokens=-1"),
        ("fake:tokens=٣", "tokens="),
        ("fake:tokens=1e3", "tokens=1e3"),
        ("fake:tokens=9999999999", "tokens=9999999999"),
        ("fake:ctx=1", "from 2 up"),
        ("fake:slots=0", "from 1 up"),
        ("fake:echo=yes", "0 or 1"),
        ("fake:delay_ms=nan", "milliseconds"),
        ("fake:delay_ms=inf", "milliseconds"),
        ("fake:delay_ms=-1", "milliseconds"),
        ("fake:load_fail=oops", "error code"),
        ("fake:tokens=1,tokens=2", "twice"),
        ("fake:echo=1,script=a", "either echo or script"),
        ("fake:tokens=1,", "no key ''"),
        ("fake:=1", "no key ''"),
    ),
)
def test_mistakes_are_named(path: str, named: str) -> None:
    with pytest.raises(TokenglassError) as caught:
        FakeSpec.parse(path)
    assert caught.value.code == "load_failed"
    assert named in caught.value.info.message + (caught.value.info.hint or "")


@given(text=st.text(max_size=60))
def test_anything_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(TokenglassError):
        assert isinstance(FakeSpec.parse("fake:" + text), FakeSpec)
