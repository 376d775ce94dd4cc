"""Follow everything that happens, whoever started it, and go on after the app was started anew."""

from contextlib import suppress

from api.client import SyncClient

with suppress(KeyboardInterrupt), SyncClient.discover(name="everything") as client:
    for event in client.events(connection=True):
        kind = event["type"]
        if kind in ("connection.lost", "connection.restored", "reset"):
            print(f"\n[{kind}] {event.get('reason', '')}", flush=True)
        elif kind == "generation.queued":
            print(f"\n[{event['client_name']} asks] {event['input']}", flush=True)
        elif kind == "generation.delta":
            print(event["text"], end="", flush=True)
        elif kind == "generation.finished":
            speed = event["timings"]["tokens_per_second"] or 0
            print(f"\n[{event['finish_reason']}] {speed:.1f} tokens/s", flush=True)
        elif not kind.startswith(("metrics.", "generation.")):
            print(f"[{kind}]", flush=True)
