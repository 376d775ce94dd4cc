import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.settings import Settings, SettingsStore
from engine.errors import TokenglassError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


def aside(file: Path) -> list[Path]:
    return sorted(file.parent.glob("settings.json.damaged-*"))


def test_defaults_without_a_file_and_nothing_is_written(file: Path) -> None:
    store = SettingsStore(file)
    assert store.load() == Settings()
    assert store.current.port == 7317
    assert not file.exists()


def test_update_is_kept(file: Path) -> None:
    SettingsStore(file).update({"theme": "dark", "sampling": {"temperature": 0}, "model": "starter"})
    store = SettingsStore(file)
    store.load()
    assert store.messages == []
    assert store.current.theme == "dark"
    assert store.current.sampling.temperature == 0
    assert store.current.sampling.top_k == Settings().sampling.top_k
    assert file.stat().st_mode & 0o777 == 0o600


def test_origins_are_written_as_browsers_do(file: Path) -> None:
    store = SettingsStore(file)
    store.update({"allow_origins": ["http://Localhost:3000/"]})
    assert store.current.allow_origins == ["http://localhost:3000"]


def test_a_cache_has_cells_enough_for_something(file: Path) -> None:
    store = SettingsStore(file)
    with pytest.raises(TokenglassError, match=r"settings\.kv: must be 0 .* or at least 256"):
        store.update({"kv": 1})
    for kv in (256, 0):
        assert store.update({"kv": kv}).kv == kv


def test_sampling_changes_field_by_field(file: Path) -> None:
    store = SettingsStore(file)
    store.update({"sampling": {"temperature": 0.1, "seed": 3}})
    store.update({"sampling": {"top_p": 0.5}})
    assert (store.current.sampling.temperature, store.current.sampling.top_p) == (0.1, 0.5)
    assert store.current.sampling.seed == 3


@pytest.mark.parametrize(
    ("partial", "path"),
    (
        ({"port": 70000}, "settings.port"),
        ({"port": "7317"}, "settings.port"),
        ({"kv": 1}, "settings.kv"),
        ({"kv": 255}, "settings.kv"),
        ({"colour": "blue"}, "settings.colour"),
        ({"version": 2}, "settings.version"),
        ({"sampling": {"temperature": -1}}, "settings.sampling.temperature"),
        ({"sampling": {"temperature": float("nan")}}, "settings.sampling.temperature"),
        ({"sampling": {"heat": 1}}, "settings.sampling.heat"),
        ({"sampling": None}, "settings.sampling"),
        ({"theme": "pink"}, "settings.theme"),
        ({"allow_origins": ["*"]}, "settings.allow_origins.0"),
        ({"allow_origins": ["http://a", "null"]}, "settings.allow_origins.1"),
        ({"allow_origins": ["file://x"]}, "settings.allow_origins.0"),
        ({"theme": "dark", "parallel": 0}, "settings.parallel"),
    ),
)
def test_wrong_update_changes_nothing(file: Path, partial: dict[str, Any], path: str) -> None:
    store = SettingsStore(file)
    store.update({"parallel": 3})
    before = file.read_bytes()
    with pytest.raises(TokenglassError) as caught:
        store.update(partial)
    assert caught.value.code == "invalid_argument"
    assert caught.value.info.path == path
    assert store.current.parallel == 3
    assert store.current.theme == "system"
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", (b"{oops", b"", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000))
def test_damaged_file_is_set_aside(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    store = SettingsStore(file)
    assert store.load() == Settings()
    assert "damaged" in store.messages[0]
    assert [path.read_bytes() for path in aside(file)] == [content]
    store.update({"theme": "light"})
    assert json.loads(file.read_text())["theme"] == "light"


def test_wrong_values_are_reset_alone_and_the_old_file_is_kept(file: Path) -> None:
    content = json.dumps({"port": "x", "theme": "dark", "sampling": {"top_k": -1}})
    file.write_text(content)
    store = SettingsStore(file)
    loaded = store.load()
    assert (loaded.port, loaded.theme, loaded.sampling) == (7317, "dark", Settings().sampling)
    assert "port, sampling" in store.messages[0]
    assert [path.read_text() for path in aside(file)] == [content]
    again = SettingsStore(file)
    again.load()
    assert again.messages == []
    assert len(aside(file)) == 1


def test_unknown_fields_of_a_newer_version_survive(file: Path) -> None:
    file.write_text(json.dumps({"version": 2, "hologram": {"on": True}, "theme": "dark"}))
    store = SettingsStore(file)
    store.load()
    assert store.messages == []
    store.update({"theme": "light"})
    assert json.loads(file.read_text()) | {} == {
        **Settings(theme="light").model_dump(mode="json"),
        "version": 2,
        "hologram": {"on": True},
    }


def test_unreadable_file_is_one_message(file: Path) -> None:
    file.mkdir()
    with pytest.raises(TokenglassError) as caught:
        SettingsStore(file).load()
    assert caught.value.code == "storage"


def test_failed_write_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SettingsStore(file)
    store.update({"parallel": 3})

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("api.settings.write_atomically", full)
    with pytest.raises(TokenglassError, match="No space"):
        store.update({"parallel": 5})
    assert store.current.parallel == 3
    assert json.loads(file.read_text())["parallel"] == 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(st.sampled_from([*Settings.model_fields, "other"]), json_values, max_size=6))
def test_any_object_loads_and_any_update_is_taken_or_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(data))
    store = SettingsStore(file)
    loaded = store.load()
    assert Settings.model_validate(loaded.model_dump()) == loaded
    try:
        store.update(data)
    except TokenglassError:
        assert store.current == loaded
    fresh = SettingsStore(file)
    assert fresh.load() == store.current
