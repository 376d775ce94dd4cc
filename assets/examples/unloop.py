"""Stop any generation that goes round in circles: the same piece three times in a row, or 24 tokens of it."""

from contextlib import suppress

from api.client import SyncClient

LONGEST = 40


def loops(tokens):
    """Whether the end is one piece of at most LONGEST tokens, over and over."""
    for n in range(1, LONGEST + 1):
        times = max(3, 24 // n)
        if len(tokens) >= n * times and tokens[-n * times :] == tokens[-n:] * times:
            return True
    return False


with suppress(KeyboardInterrupt), SyncClient.discover(name="unloop") as client:
    client.request("subscribe", events=["generation.*"])
    running = {}
    for event in client.events():
        tokens = running.setdefault(event.get("generation_id"), [])
        tokens += [token["id"] for token in event.get("tokens", ())]
        if event["type"] == "generation.rewound":
            del tokens[event["at_token"] :]
        elif event["type"] == "generation.finished":
            del running[event["generation_id"]]
        elif any(loops(tokens[: len(tokens) - back]) for back in range(len(event.get("tokens", ())))):
            print("it loops, and is stopped:", event["generation_id"], flush=True)
            client.request("cancel", generation_id=event["generation_id"])
            tokens.clear()
