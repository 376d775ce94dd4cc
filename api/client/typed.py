"""Frames as models: the same types as the app's own, for who likes attributes and a type checker."""

from __future__ import annotations

from typing import get_args

from api.client.opening import Frame
from api.frames import Reset, SnapshotFrame
from engine.events import Event, EventAdapter

StreamFrame = Event | Reset | SnapshotFrame

_MODELS = get_args(get_args(Event)[0])
EVENT_NAMES = frozenset(name for model in _MODELS for name in get_args(model.model_fields["type"].annotation))
KNOWN = EVENT_NAMES | {"reset", "snapshot"}
"""Names of the frames that have a model. A newer app may send others, which are to be ignored."""


def parse_frame(frame: Frame) -> StreamFrame:
    """A frame of `events` as its model. Raises pydantic's ValidationError for what isn't known here."""
    match frame["type"]:
        case "reset":
            return Reset.model_validate(frame)
        case "snapshot":
            return SnapshotFrame.model_validate(frame)
        case _:
            return EventAdapter.validate_python(frame)
