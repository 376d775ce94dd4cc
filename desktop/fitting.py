"""What the window says and asks where a model can't fit into memory. No state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PySide6.QtWidgets import QWidget

from api.fit import gigabytes
from desktop import dialogs
from engine.fit import Estimate

ANYWAY = "Load it anyway"
KEEP = "Don't load it"


@dataclass(frozen=True, slots=True)
class Decision:
    """How to load: with another context, or against the estimate."""

    ctx: int | None = None
    force: bool = False


async def ask(parent: QWidget | None, name: str, found: Estimate) -> Decision | None:
    """Show the figures and let the user choose. None: don't load."""
    smaller = smaller_context(found)
    choices = [smaller] if smaller else []
    choices += [KEEP, ANYWAY]
    answer = await dialogs.ask(
        parent,
        "Not enough memory",
        f"{name} doesn't fit into the free memory.",
        choices,
        detail=figures(found),
    )
    if answer == ANYWAY:
        return Decision(force=True)
    return Decision(ctx=found.max_ctx) if answer is not None and answer == smaller else None


def smaller_context(found: Estimate) -> str | None:
    """The choice that would fit; None where no context does."""
    if 0 < found.max_ctx < found.n_ctx:
        return f"Load with a context of {found.max_ctx:,} tokens"
    return None


def figures(found: Estimate) -> str:
    """What is needed, what is free, and what else would help."""
    slots = f"{found.n_slots} chats at once" if found.n_slots > 1 else "one chat"
    parts: dict[str, Any] = {
        "weights": found.weights,
        "KV cache": found.kv_cache,
        "state": found.state,
        "computing": found.compute,
        "the engine itself": found.overhead,
    }
    needed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items() if size)
    lines = [f"For {slots} with {found.n_ctx:,} tokens each it needs {gigabytes(found.total)}: {needed}."]
    if len(found.devices) == 1:
        lines.append(f"{gigabytes(found.devices[0].memory_free)} are free.")
    else:
        lines += [
            f"{use.device}: {gigabytes(use.total)} of {gigabytes(use.memory_free)} free."
            for use in found.devices
        ]
    # what the choices say already isn't said again
    hints = [hint for hint in found.hints if not hint.startswith("a context of")]
    lines += [f"{hint[:1].upper()}{hint[1:]}." for hint in hints]
    return "\n".join(lines)
