"""Put a hand on a running answer: hold it, take words back, put others in, and see two ways on from there."""

from api.client import SyncClient
from engine.errors import TokenglassError


def held(client, question):
    """An answer that is paused before its first token; asked again where it was too quick for the hand."""
    while True:
        answer = client.generate(messages=[{"role": "user", "content": question}], max_tokens=300)
        try:
            if (written := answer.pause()["at_token"]) > 0:
                answer.rewind(written)
            return answer
        except TokenglassError as error:
            if error.code != "bad_state":
                raise


with SyncClient.discover(name="steer") as client:
    answer = held(client, "Tell me a story about a lighthouse")
    answer.step(12)
    while (event := next(answer))["type"] != "generation.paused" or event["at_token"] != 12:
        pass
    answer.rewind(4)
    answer.inject(" But the sea was purple,")
    branch = answer.fork(8)  # parts from it where the words were put in
    answer.update(temperature=0.2)
    answer.resume()
    print("steered:", answer.finished()["text"])
    print("branch:", branch.finished()["text"])
