"""OpenAI's HTTP API over the same service and bus as the stream."""
