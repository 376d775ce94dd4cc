from api.clients import MAX_OWN, MAX_REMEMBERED, REMEMBER_S, Clients, clean_name
from engine.events import ClientConnected, ClientDisconnected, Event


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
