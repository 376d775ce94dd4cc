"""Follow everything that a running Tokenglass generates, whoever asked. Needs: pip install websockets"""

import json
from pathlib import Path

from websockets.sync.client import connect

app = json.loads(Path("SERVER_JSON").expanduser().read_text())  # its address and token
with connect(f"{app['url']}?token={app['token']}&name=follow.py") as live:
    live.send(json.dumps({"id": 1, "type": "subscribe", "events": ["generation.*"]}))
    for event in map(json.loads, live):
        print(event["text"] if event["type"] == "generation.delta" else "", end="", flush=True)
