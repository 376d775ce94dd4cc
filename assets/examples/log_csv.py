"""Log every generation of everybody to a CSV file: who, which model, what was asked, how fast it was."""

import csv
import sys
import time
from contextlib import suppress

from api.client import SyncClient

with open(sys.argv[1] if len(sys.argv) > 1 else "generations.csv", "a", newline="") as file:
    log = csv.writer(file)
    with suppress(KeyboardInterrupt), SyncClient.discover(name="log") as client:
        client.request("subscribe", events=["generation.queued", "generation.finished"])
        asked = {}
        for event in client.events():
            if event["type"] == "generation.queued":
                asked[event["generation_id"]] = event
            elif event["type"] == "generation.finished" and (told := asked.pop(event["generation_id"], None)):
                usage, timings = event["usage"], event["timings"]
                log.writerow([
                    time.strftime("%F %T"), told["client_name"], told["origin"], told["model"],
                    event["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"],
                    timings["ttft_ms"], timings["tokens_per_second"], told["input"],
                ])
                file.flush()
