"""OpenAI's Responses API over the same service and bus as the stream: WebSocket mode and HTTP."""
