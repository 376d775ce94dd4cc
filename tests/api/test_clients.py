from hypothesis import given, settings
from hypothesis import strategies as st

from api.clients import (
    MAX_OWN,
    MAX_REMEMBERED,
    REMEMBER_S,
    TRAFFIC_ROWS,
    TRAFFIC_S,
    Allowance,
    Clients,
    clean_name,
)
from engine.events import ClientConnected, ClientDisconnected, ClientMetrics, Event


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Clients, list[Event], Clock]:
    events: list[Event] = []
    clock = Clock()
    return Clients(events.append, clock), events, clock


def test_coming_and_going_is_published() -> None:
    clients, events, _ = make()
    client = clients.connect("script", "live")
    assert client.connections == 1
    clients.disconnect(client, "lost")
    assert client.connections == 0
    came, went = events
    assert isinstance(came, ClientConnected)
    assert isinstance(went, ClientDisconnected)
    assert (came.client_id, came.name, came.origin) == (client.client_id, "script", "live")
    assert (went.client_id, went.reason) == (client.client_id, "lost")


def test_without_a_key_every_connection_is_another_client() -> None:
    clients, _, _ = make()
    first = clients.connect("a", "live")
    clients.disconnect(first, "closed")
    assert clients.connect("a", "live").client_id != first.client_id


def test_a_key_keeps_identity_generations_and_the_cut() -> None:
    clients, _, clock = make()
    client = clients.connect("a", "live", "key")
    client.add_own("g")
    client.last_cut = "slow"
    clients.disconnect(client, "slow")
    clock.now += REMEMBER_S - 1
    again = clients.connect("b", "live", "key")
    assert again is client
    assert (again.own, again.last_cut, again.name) == ({"g"}, "slow", "b")


def test_a_key_is_forgotten_after_ten_minutes() -> None:
    clients, _, clock = make()
    client = clients.connect("a", "live", "key")
    clock.now += 2 * REMEMBER_S  # while it is connected, nothing is forgotten
    assert clients.connect("a", "live", "key") is client
    clients.disconnect(client, "closed")
    clients.disconnect(client, "closed")
    clock.now += REMEMBER_S + 1
    assert clients.connect("a", "live", "key") is not client


def test_two_connections_of_one_key_are_one_client() -> None:
    clients, events, _ = make()
    first, second = clients.connect("a", "live", "key"), clients.connect("", "live", "key")
    assert first is second
    assert first.name == "a"
    clients.disconnect(first, "closed")
    assert len(events) == 1
    clients.disconnect(second, "closed")
    assert len(events) == 2


def test_traffic_is_told_while_there_is_some() -> None:
    clients, events, clock = make()
    follower, idle = clients.connect("a", "live"), clients.connect("b", "live")
    waiting = [(5000, 7)]
    follower.backlogs.append(lambda: waiting[0])
    events.clear()

    def told(after_s: float) -> list[ClientMetrics]:
        clock.now += after_s
        clients.tell_traffic(clock.now)
        metrics = [event for event in events if isinstance(event, ClientMetrics)]
        events.clear()
        return metrics

    follower.sent_bytes, follower.sent_events, follower.merged = 4000, 20, 3
    assert told(TRAFFIC_S / 2) == []  # not yet
    (event,) = told(TRAFFIC_S * 1.5)
    (row,) = event.clients
    assert row.client_id == follower.client_id != idle.client_id
    assert (row.bytes_per_s, row.events_per_s) == (4000 / (2 * TRAFFIC_S), 20 / (2 * TRAFFIC_S))
    assert (row.backlog_bytes, row.behind, row.merged, row.cuts) == (5000, 7, 3, 0)
    (event,) = told(TRAFFIC_S)  # what waits is told, too
    assert event.clients[0].bytes_per_s == 0
    waiting[0] = (0, 0)
    (event,) = told(TRAFFIC_S)  # the end is told once
    assert event.clients == []
    assert told(TRAFFIC_S) == []


def test_traffic_of_many_clients_is_told_less_often() -> None:
    clients, events, clock = make()
    for number in range(3 * TRAFFIC_ROWS):
        clients.connect(f"{number}", "live").sent_bytes = 1
    for _ in range(65):
        clock.now += TRAFFIC_S / 10
        clients.tell_traffic(clock.now)
    told = [event for event in events if isinstance(event, ClientMetrics)]
    assert [len(event.clients) for event in told] == [3 * TRAFFIC_ROWS, 0]


@settings(max_examples=200)
@given(st.floats(1, 1000), st.integers(1, 1000), st.lists(st.floats(0, 10), max_size=200))
def test_an_allowance_lets_through_no_more_than_it_says(
    per_s: float, burst: int, pauses: list[float]
) -> None:
    allowance = Allowance(per_s, burst)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        if allowance.take(now):
            taken += 1
        else:
            assert allowance.wait_s > 0
            assert not allowance.take(now)
            now += allowance.wait_s + 1e-6
            assert allowance.take(now)
            taken += 1
        assert taken <= burst + now * per_s + 1


def test_memory_is_bounded() -> None:
    clients, _, clock = make()
    for number in range(MAX_REMEMBERED + 50):
        clock.now += 0.01
        clients.disconnect(clients.connect("a", "live", f"key {number}"), "closed")
    kept = clients.connect("a", "live", "the last")
    assert len(clients._by_key) <= MAX_REMEMBERED + 1
    for number in range(MAX_OWN + 10):
        kept.add_own(f"g{number}")
    assert len(kept.own) == MAX_OWN
    assert "g0" not in kept.own


def test_names_are_one_clean_line() -> None:
    assert clean_name("  my\nscript\x1b[31m ") == "my script [31m"
    assert clean_name("x" * 500) == "x" * 80
    assert clean_name("a\u202eb") == "a b"
    clients, _, _ = make()
    assert clients.connect("", "live").name == "live"
