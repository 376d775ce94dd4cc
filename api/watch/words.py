"""Events in a person's words, for both ways of watching."""

from __future__ import annotations

from typing import Any

HANDS = {
    "generation.paused": "is paused at token {at_token}",
    "generation.resumed": "goes on",
    "generation.updated": "has other sampling from token {at_token} on",
    "generation.rewound": "has {removed} tokens taken back, {at_token} are left",
    "generation.forked": "branches off at token {at_token}: {branch}",
    "generation.recovered": "goes on after token {at_token} in a new engine",
}


def describe(event: dict[str, Any]) -> str | None:
    """An event that is neither a generation's nor a metric; None where there is nothing to say."""
    match event["type"]:
        case "model.loading":
            return f"loading {event['model']}: {event['progress'] * 100:.0f} %"
        case "model.loaded":
            return f"{event['model']} is loaded ({event['info']['load_ms']:.0f} ms)"
        case "model.unloaded":
            return f"{event['model']} is unloaded"
        case "model.failed":
            return f"{event['model']} can't be loaded: {event['error']['message']}"
        case "engine.started":
            return f"engine started (epoch {event['epoch']}, pid {event['pid']})"
        case "engine.exited":
            how = event["signal"] or f"exit code {event['exit_code']}"
            return "engine ended" if event["expected"] else f"engine died: {how}"
        case "engine.restarting":
            return f"engine restarts in {event['delay_s']:g} s"
        case "client.connected":
            return f"+ {event['name']} ({event['origin']})"
        case "client.disconnected":
            return f"- {event['name']} ({event['reason']})"
        case "client.lagging":
            return f"a client reads slowly: {event['backlog_bytes']} bytes wait for it"
        case "log":
            return f"{event['level']}: {event['message']}"
        case "reset":
            return "(the app was started anew)" if event["reason"] == "run" else "(some events are gone)"
        case "connection.lost":
            return f"({event['reason']}; waiting for it to come back, Ctrl-C leaves)"
        case "connection.restored":
            app = event["hello"].get("app") or {}
            return f"(connected again to {app.get('name', 'tokenglass')} {app.get('version', '')})"
        case _:
            return None


def level_of(event: dict[str, Any]) -> str:
    """How bad it is: `info`, `warning` or `error`."""
    match event["type"]:
        case "log":
            return str(event["level"])
        case "model.failed":
            return "error"
        case "engine.exited":
            return "info" if event["expected"] else "error"
        case "engine.restarting" | "client.lagging" | "connection.lost" | "reset":
            return "warning"
        case _:
            return "info"
