"""The application core: bus, service, storage, and the doors to it (WebSocket, command line). No Qt."""
