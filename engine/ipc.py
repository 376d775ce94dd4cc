"""Messages on the pipe between app and worker: JSON of the contract types, one message a step."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import Connection

from engine.commands import WorkerCommand, WorkerCommandAdapter
from engine.replies import Message, MessageListAdapter


def send_messages(connection: Connection, messages: Sequence[Message]) -> None:
    """Blocks while the pipe is full. Raises OSError when the other side is gone."""
    connection.send_bytes(b"[" + b",".join(message.model_dump_json().encode() for message in messages) + b"]")


def receive_messages(connection: Connection) -> list[Message]:
    """Blocks until a message is there. Raises EOFError or OSError when the other side is gone."""
    return MessageListAdapter.validate_json(connection.recv_bytes())


def send_command(connection: Connection, command: WorkerCommand) -> None:
    connection.send_bytes(command.model_dump_json().encode())


def receive_command(connection: Connection) -> WorkerCommand:
    return WorkerCommandAdapter.validate_json(connection.recv_bytes())
