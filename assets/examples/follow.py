import json
import sys

from websockets.sync.client import connect

server = json.load(open(sys.argv[1] if len(sys.argv) > 1 else "SERVER_JSON"))
headers = {"Authorization": f"Bearer {server['token']}"}
with connect(server["url"], additional_headers=headers, proxy=None, max_size=None) as stream:
    stream.send('{"id": 1, "type": "subscribe"}')  # everything, whoever started it
    for event in map(json.loads, stream):
        if event["type"] in ("generation.delta", "generation.finished"):
            print(event["text"] if "tokens" in event else f"\n{event['timings']}\n", end="", flush=True)
