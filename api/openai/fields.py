"""Fields of a request's JSON, read strictly. Every function raises Refused for what can't stand there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.openai.errors import Refused

SAMPLING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "repeat_penalty",
)
"""The last three aren't OpenAI's, but other local servers take them too."""
TEMPLATE_VARIABLES = ("enable_thinking", "reasoning_effort")
"""Variables of chat templates that clients also send as fields of their own."""


def given(data: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null: that counts as left out."""
    return {name: value for name, value in data.items() if value is not None}


def flag(data: Mapping[str, Any], name: str, otherwise: bool) -> bool:
    value = data.get(name, otherwise)
    if not isinstance(value, bool):
        raise Refused(400, "invalid_type", f"{name}: true or false", name)
    return value


def object_of(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Empty where it is left out."""
    value = data.get(name, {})
    if not isinstance(value, dict):
        raise Refused(400, "invalid_type", f"{name}: an object", name)
    return value


def sampling(data: Mapping[str, Any]) -> dict[str, Any]:
    """The command's sampling parameters, as they were given."""
    taken = {name: data[name] for name in SAMPLING if name in data}
    if (seed := data.get("seed")) is not None:
        # any whole number is a seed there; here it has 32 bits
        taken["seed"] = seed % 2**32 if type(seed) is int else seed
    return taken


def stop(data: Mapping[str, Any]) -> Any:
    """The command's list of stop strings; one may stand by itself."""
    return [data["stop"]] if isinstance(data["stop"], str) else data["stop"]


def joined_text(parts: list[Any], where: str, kinds: Mapping[str, str]) -> str:
    """The text of parts; `kinds`: by type, which field of a part has it."""
    texts = []
    for i, part in enumerate(parts):
        place = f"{where}[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        name = kinds.get(kind) if isinstance(kind, str) else None
        if name is None:
            message = f"{place}: parts of text only, not {str(kind)[:100]!r}"
            raise Refused(400, "unsupported_content", message, place)
        text = part.get(name)
        if not isinstance(text, str):
            raise Refused(400, "invalid_type", f"{place}: its text is missing", place)
        texts.append(text)
    return "\n".join(texts)
