"""Stop strings: never shown, whatever the tokens; everything before them is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.stops import StopMatcher


def feed(stops: list[str], chunks: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(chunk) for chunk in chunks) + matcher.finish()
    return text, matcher.stopped


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """By the definition: the first stop string to be complete ends the text; of those, the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def test_text_is_withheld_only_while_it_may_become_a_stop_string() -> None:
    matcher = StopMatcher(["###", "User:"])
    assert matcher.push("a #") == "a "
    assert matcher.push("b") == "#b"
    assert matcher.push("Us") == ""
    assert matcher.push("er") == ""
    assert matcher.push("s") == "Users"
    assert matcher.push(" ##") == " "
    assert matcher.finish() == "##"
    assert not matcher.stopped


def test_nothing_comes_after_a_stop_string() -> None:
    matcher = StopMatcher(["ab"])
    assert matcher.push("xa") == "x"
    assert matcher.push("bc") == ""
    assert matcher.stopped
    assert matcher.push("more") == ""
    assert matcher.finish() == ""


def test_a_longer_beginning_falls_back_to_a_shorter_one() -> None:
    assert feed(["aab"], ["a", "a", "a", "b", "c"]) == ("a", True)
    assert feed(["abcd", "bc"], ["abcd"]) == ("a", True)
    assert feed(["bc", "abc"], ["xabc"]) == ("x", True)


_alphabet = st.text(alphabet="abé", max_size=40)
_stops = st.lists(st.text(alphabet="abé", min_size=1, max_size=5), min_size=1, max_size=5)


@given(stops=_stops, chunks=st.lists(_alphabet, max_size=20))
def test_equals_the_definition_for_any_cut(stops: list[str], chunks: list[str]) -> None:
    text, stopped = feed(stops, chunks)
    assert (text, stopped) == expected(stops, "".join(chunks))
    if not stopped:
        assert not any(stop in text for stop in stops)


@given(stops=_stops, text=_alphabet)
def test_never_shows_what_may_yet_be_a_stop_string(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for i, character in enumerate(text):
        shown += matcher.push(character)
        assert not any(stop in shown for stop in stops)
        if not matcher.stopped:
            withheld = text[len(shown) : i + 1]
            assert withheld == "" or any(stop.startswith(withheld) for stop in stops)
