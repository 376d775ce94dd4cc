"""A client of `/v1/live` for programs in Python: finds the running app, sends commands, follows events.

`LiveClient` is for asyncio, `SyncClient` for scripts without a loop. Both come back by themselves when
their connection goes.
"""

from api.client.generation import Generation
from api.client.live import LiveClient
from api.client.opening import ConnectionLostError, Frame, NotRunningError, running_app
from api.client.sync import SyncClient, SyncGeneration
from api.client.typed import StreamFrame

__all__ = [
    "ConnectionLostError",
    "Frame",
    "Generation",
    "LiveClient",
    "NotRunningError",
    "StreamFrame",
    "SyncClient",
    "SyncGeneration",
    "running_app",
]
