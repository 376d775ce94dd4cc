"""Responses with `store: false`: only the connection that asked for them can go on from them."""

from __future__ import annotations

from collections import OrderedDict

from api.responses.hub import Context

MAX_CHARS = 32 << 20
"""Of one connection: about so many characters, of which the latest response may be more."""


class LocalResponses:
    """Of each lane the latest one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Context, int]] = OrderedDict()
        self._latest: dict[str | None, str] = {}

    def context(self, response_id: str) -> Context | None:
        kept = self._kept.get(response_id)
        return None if kept is None else kept[0]

    def keep(self, lane: str | None, response_id: str, context: Context) -> None:
        self._kept.pop(self._latest.get(lane, ""), None)
        self._latest[lane] = response_id
        self._kept[response_id] = (context, len(str(context)))
        while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > MAX_CHARS:
            self._kept.popitem(last=False)
