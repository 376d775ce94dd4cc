"""The items of a response while they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from api.openai.calls import ToldCall
from engine.types import ToolCall

Kind = Literal["message", "reasoning"]


@dataclass(slots=True)
class WrittenText:
    """A message or a piece of reasoning, being written or done."""

    kind: Kind
    item_id: str
    index: int
    texts: list[str] = field(default_factory=list)
    logprobs: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Of each token of the text, with its index."""
    status: str = "in_progress"

    @property
    def text(self) -> str:
        if len(self.texts) > 1:
            self.texts = ["".join(self.texts)]
        return self.texts[0] if self.texts else ""

    @property
    def told_logprobs(self) -> list[dict[str, Any]]:
        return [told for _, told in self.logprobs]

    def part(self) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.told_logprobs,
        }

    def item(self, *, empty: bool = False) -> dict[str, Any]:
        content = [] if empty else [self.part()]
        head = {"id": self.item_id, "type": self.kind, "status": self.status}
        if self.kind == "reasoning":
            return {**head, "summary": [], "content": content}
        return {**head, "role": "assistant", "content": content}


@dataclass(slots=True)
class WrittenCall:
    """A call, being written or done."""

    item_id: str
    index: int
    call_id: str
    call: ToldCall
    status: str = "in_progress"

    @property
    def whole(self) -> ToolCall:
        return ToolCall(id=self.call_id, name=self.call.name, arguments=self.call.told)

    def item(self, *, empty: bool = False) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.call.name,
            "arguments": "" if empty else self.call.told,
        }
