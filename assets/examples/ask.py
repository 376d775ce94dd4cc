"""A chat in under twenty lines: every line you type is a turn; Ctrl-C stops an answer, Ctrl-D leaves."""

from api.client import SyncClient

messages = [{"role": "system", "content": "Answer briefly."}]
with SyncClient.discover(name="ask") as client:
    while True:
        try:
            messages.append({"role": "user", "content": input("> ")})
        except (EOFError, KeyboardInterrupt):
            break
        answer = client.generate(messages=messages)
        try:
            for piece in answer.text():
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            answer.cancel()
        print()
        messages.append({"role": "assistant", "content": answer.finished()["text"]})
