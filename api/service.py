"""The use cases: every command of the contract, whoever sends it, window, socket or terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from api import exchange, permissions, protocol, starts
from api.bus import EventBus
from api.clients import Client
from api.fit import Fit, estimated_config
from api.hands import Answer, Hand, Hands
from api.history import History, stored_events
from api.library import Library
from api.markdown import markdown
from api.settings import SettingsStore
from api.state import State
from api.supervisor import Supervisor
from api.toolresults import ToolResults
from engine import commands
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    ConversationChanged,
    ConversationDeleted,
    CustomMetric,
    Event,
    GenerationFinished,
    SettingsChanged,
)
from engine.structured import check_wanted
from engine.types import ChatMessage, SamplingParams, Timings, Usage, WorkerConfig


class Outcome(NamedTuple):
    """What a command answers, and what to do once the reply is on its way."""

    result: dict[str, Any]
    after: Callable[[], None] | None = None


@dataclass(slots=True)
class Service:
    """Carries commands out. Loop thread only."""

    bus: EventBus
    state: State
    supervisor: Supervisor
    history: History
    settings: SettingsStore
    library: Library
    find_model: Callable[[str], Awaitable[dict[str, Any]]]
    """The library's entry for an id; raises TokenglassError `not_found`."""
    fit: Fit
    worker_config: Callable[[dict[str, Any]], WorkerConfig]
    """From an entry of the library to what a worker needs."""
    raise_window: Callable[[], None] | None = None
    """Set by the window; without one `window.raise` answers `not_found`."""
    hands: Hands = field(init=False)
    tool_results: ToolResults = field(init=False)

    def __post_init__(self) -> None:
        self.hands = Hands(self.bus, self.state, self.supervisor, self.history)
        self.tool_results = ToolResults(self.bus, self.state, self.supervisor, self.history)

    async def execute(
        self, client: Client, command: protocol.Command, received_t: float, answer: Answer
    ) -> None:
        """Carry one command out: `answer` gets its result, before any event that follows from it.

        Raises TokenglassError with what the client is told instead.
        """
        permissions.check(client.grant, command, client.own)
        if isinstance(command, Hand):
            await self.hands.do(command, answer)
        elif isinstance(command, protocol.Fork):
            await self.hands.fork(client, command, received_t, answer)
        elif isinstance(command, protocol.ToolResult):
            await self.tool_results.give(client, command, received_t, answer)
        elif isinstance(command, protocol.Embed):
            await self.hands.embed(command, answer)
        else:
            if isinstance(command, protocol.Generate):
                result, after = await self._generate(client, command, received_t)
            elif isinstance(command, protocol.Publish):
                result, after = self._own_metric(client, command)
            elif isinstance(command, protocol.Snapshot):
                result, after = self.snapshot(client), None
            elif handler := _HANDLERS.get(type(command)):
                result, after = await handler(self, command)
            else:
                raise TokenglassError("internal", f"{command.type} belongs to a connection")
            answer(result)
            if after is not None:
                after()

    # ---- generations

    async def _generate(self, client: Client, command: protocol.Generate, received_t: float) -> Outcome:
        await self._check_model(command.model)
        if command.constrained:
            # in a thread: this may take a second
            await asyncio.to_thread(
                check_wanted, command.grammar, command.response_format, command.tool_choice, command.tools
            )
        self.supervisor.reserve()
        try:
            return await self._accept(client, command, received_t)
        except BaseException:
            self.supervisor.release()
            raise

    async def _accept(self, client: Client, command: protocol.Generate, received_t: float) -> Outcome:
        model = self.supervisor.model_id
        assert model is not None
        generation_id = starts.new_generation_id()
        result: dict[str, Any] = {"generation_id": generation_id}
        messages, prompt, sampling = command.messages, command.prompt, self._sampling(command)
        changed: list[Event] = []
        if command.conversation_id is not None:
            told, messages, changed = await self._store_turn(client, command, generation_id, model)
            result |= told
        work = commands.Generate(
            generation_id=generation_id,
            received_t=received_t,
            client_id=client.client_id,
            origin=client.origin,
            messages=messages,
            prompt=prompt,
            trim=command.conversation_id is not None,
            tools=command.tools if command.tool_choice != "none" else [],
            sampling=sampling,
            max_tokens=command.max_tokens or self.settings.current.max_tokens,
            stop=command.stop,
            logprobs=command.logprobs,
            tool_choice=command.tool_choice,
            parallel_tool_calls=command.parallel_tool_calls,
            chat_template_kwargs=command.chat_template_kwargs,
            response_format=command.response_format,
            grammar=command.grammar,
            prompt_lookup_num_tokens=command.prompt_lookup_num_tokens,
        )
        shown = starts.shown_input(messages, prompt)
        queued = starts.queued(client, generation_id, received_t, model=model, shown=shown, place=result)
        client.add_own(generation_id)

        def start() -> None:
            self.bus.publish_all(changed)
            self.bus.publish(queued)
            self.tool_results.watch(work, queued, command.on_disconnect)
            self.supervisor.submit(work)

        return Outcome(result, start)

    async def _store_turn(
        self, client: Client, command: protocol.Generate, generation_id: str, model: str
    ) -> tuple[dict[str, Any], list[ChatMessage], list[Event]]:
        """Commit the user's message and the place of its answer.

        Answers what the reply tells of them, what the model is asked, and the events about it.
        """
        conversation_id = command.conversation_id
        assert conversation_id is not None
        where = (generation_id, model, client.origin)
        if command.content is not None:
            user, answer = await self.history.add_turn(conversation_id, command.content, *where)
            user_id, new = user["id"], [user, answer]
        else:
            assert command.parent is not None
            answer = await self.history.add_variant(conversation_id, command.parent, *where)
            user_id, new = command.parent, [answer]
        try:
            messages = await self.history.prompt_messages(user_id)
            conversation = await self.history.conversation(conversation_id)
        except BaseException:
            # the conversation must not wait for an answer that nobody writes
            self.history.submit_finish(_given_up(generation_id))
            raise
        told = {
            "conversation_id": conversation_id,
            "user_message_id": user_id,
            "message_id": answer["id"],
        }
        return told, messages, stored_events(conversation, new)

    async def _check_model(self, model: str | None) -> None:
        loaded = self.supervisor.model_id
        if model is None or model == loaded:
            return
        entry = await self.find_model(model)
        if entry["id"] != loaded:
            raise TokenglassError(
                "bad_state",
                f"{entry['id']} isn't loaded, but {loaded or 'nothing'} is",
                path="model",
                hint="load it with models.load",
            )

    def _sampling(self, command: protocol.Generate) -> SamplingParams:
        """What the client gave, over the user's defaults."""
        defaults = self.settings.current.sampling
        if "sampling" not in command.model_fields_set:
            return defaults
        self.state.check_token_ids(command.sampling.logit_bias)
        given = {name: getattr(command.sampling, name) for name in command.sampling.model_fields_set}
        return defaults.model_copy(update=given)

    async def _cancel(self, command: protocol.Cancel) -> Outcome:
        generation_id = command.generation_id
        if self.supervisor.knows(generation_id):
            return Outcome({"state": "cancelling"}, lambda: self.supervisor.cancel(generation_id))
        if generation_id in self.state.finished:
            return Outcome({"state": "finished"})
        raise TokenglassError("not_found", f"no generation {generation_id!r}", path="generation_id")

    # ---- the stream

    def snapshot(self, client: Client) -> dict[str, Any]:
        """The present state, as far as the client may see it."""
        shown = {"seq": self.bus.seq, **self.state.snapshot()}
        return permissions.visible(shown, client.grant, client.client_id, client.own)

    async def _ping(self, _command: protocol.Ping) -> Outcome:
        return Outcome({"t": time.monotonic(), "seq": self.bus.seq})

    def _own_metric(self, client: Client, command: protocol.Publish) -> Outcome:
        now = time.monotonic()
        if not client.publishing.take(now):
            raise TokenglassError("busy", f"more than {client.publishing.per_s:.0f} values a second")
        event = CustomMetric(
            t=now,
            client_id=client.client_id,
            series=command.series,
            value=command.value,
            unit=command.unit,
        )
        return Outcome({"t": now}, lambda: self._publish(event))

    # ---- models

    async def _models_list(self, _command: protocol.ModelsList) -> Outcome:
        return Outcome({"models": await self.library.list(), "loaded": self._loaded()})

    def _loaded(self) -> str | None:
        return self.state.model.id if self.state.model else None

    async def _models_load(self, command: protocol.ModelsLoad) -> Outcome:
        entry = await self.find_model(command.model)
        config = self.worker_config(entry)
        if command.ctx is not None and command.ctx != config.n_ctx:
            config = config.model_copy(update={"n_ctx": command.ctx, "n_kv": 0})
        if not command.force:
            self.supervisor.check_idle()
            if config != self.supervisor.config and (refusal := await self.fit.refusal(config)) is not None:
                raise TokenglassError.of(refusal)
        self.supervisor.load(config, force=command.force)
        return Outcome({"model": entry["id"], "state": self.supervisor.phase})

    async def _models_unload(self, command: protocol.ModelsUnload) -> Outcome:
        model = self.supervisor.model_id
        await self.supervisor.unload(force=command.force)
        return Outcome({"model": model})

    async def _models_estimate(self, command: protocol.ModelsEstimate) -> Outcome:
        entry = await self.find_model(command.model)
        config = estimated_config(
            self.worker_config(entry), command.ctx, command.parallel, command.gpu_layers
        )
        found = await self.fit.estimate(config)
        return Outcome({"model": entry["id"], **found.model_dump(mode="json")})

    async def _models_add(self, command: protocol.ModelsAdd) -> Outcome:
        if not Path(command.path).is_absolute():
            raise TokenglassError("invalid_argument", "path: must be absolute", path="path")
        return Outcome({"model": await self.library.add(command.path)})

    # ---- conversations

    async def _conversations_list(self, command: protocol.ConversationsList) -> Outcome:
        return Outcome({"conversations": await self.history.list(command.limit, command.offset)})

    async def _conversations_get(self, command: protocol.ConversationsGet) -> Outcome:
        return Outcome(await self.history.get(command.conversation_id, command.leaf))

    async def _conversations_create(self, command: protocol.ConversationsCreate) -> Outcome:
        system = command.system if command.system is not None else self.settings.current.system_prompt
        conversation = await self.history.create(command.title, system)
        return self._changed("conversation.created", conversation)

    async def _conversations_export(self, command: protocol.ConversationsExport) -> Outcome:
        conversation_id = command.conversation_id
        if command.format == "json":
            conversations = await self.history.export(conversation_id)
            return Outcome(await asyncio.to_thread(exchange.encoded, exchange.archive(conversations)))
        assert conversation_id is not None
        shown = await self.history.get(conversation_id)
        return Outcome({"markdown": await asyncio.to_thread(markdown, **shown)})

    async def _conversations_import(self, command: protocol.ConversationsImport) -> Outcome:
        read = await asyncio.to_thread(exchange.read, command.data)
        stored = await self.history.store_all(read)
        # as they are listed: the last one told is the one used last
        events = [
            ConversationChanged(type="conversation.created", conversation=conversation)
            for conversation in reversed(stored)
        ]
        return Outcome({"conversations": stored}, lambda: self.bus.publish_all(events))

    async def _conversations_rename(self, command: protocol.ConversationsRename) -> Outcome:
        conversation = await self.history.rename(command.conversation_id, command.title)
        return self._changed("conversation.updated", conversation)

    async def _conversations_delete(self, command: protocol.ConversationsDelete) -> Outcome:
        conversation_id = command.conversation_id
        await self.history.delete(conversation_id)

        def tell() -> None:
            self._publish(ConversationDeleted(conversation_id=conversation_id))
            for generation_id, generation in tuple(self.state.generations.items()):
                if generation.queued.conversation_id == conversation_id:
                    self.supervisor.cancel(generation_id)

        return Outcome({}, tell)

    async def _conversations_restore(self, command: protocol.ConversationsRestore) -> Outcome:
        conversation = await self.history.restore(command.conversation_id)
        return self._changed("conversation.created", conversation)

    async def _conversations_search(self, command: protocol.ConversationsSearch) -> Outcome:
        return Outcome({"results": await self.history.search(command.query, command.limit)})

    def _changed(self, kind: Any, conversation: dict[str, Any]) -> Outcome:
        event = ConversationChanged(type=kind, conversation=conversation)
        return Outcome({"conversation": conversation}, lambda: self._publish(event))

    # ---- settings and window

    async def _settings_get(self, _command: protocol.SettingsGet) -> Outcome:
        return Outcome({"settings": self.settings.current.model_dump(mode="json")})

    async def _settings_set(self, command: protocol.SettingsSet) -> Outcome:
        loop = asyncio.get_running_loop()
        settings = await loop.run_in_executor(None, self.settings.update, command.settings)
        shown = settings.model_dump(mode="json")
        event = SettingsChanged(settings=shown)
        return Outcome({"settings": shown}, lambda: self._publish(event))

    async def _window_raise(self, _command: protocol.WindowRaise) -> Outcome:
        if self.raise_window is None:
            raise TokenglassError("not_found", "this app runs without a window")
        return Outcome({}, self.raise_window)

    def _publish(self, event: Event) -> None:
        self.bus.publish(event)


_Handler = Callable[[Service, Any], Awaitable[Outcome]]
_HANDLERS: dict[type[protocol.BaseCommand], _Handler] = {
    protocol.Cancel: Service._cancel,
    protocol.Ping: Service._ping,
    protocol.ModelsList: Service._models_list,
    protocol.ModelsLoad: Service._models_load,
    protocol.ModelsUnload: Service._models_unload,
    protocol.ModelsEstimate: Service._models_estimate,
    protocol.ModelsAdd: Service._models_add,
    protocol.ConversationsList: Service._conversations_list,
    protocol.ConversationsGet: Service._conversations_get,
    protocol.ConversationsCreate: Service._conversations_create,
    protocol.ConversationsExport: Service._conversations_export,
    protocol.ConversationsImport: Service._conversations_import,
    protocol.ConversationsRename: Service._conversations_rename,
    protocol.ConversationsDelete: Service._conversations_delete,
    protocol.ConversationsRestore: Service._conversations_restore,
    protocol.ConversationsSearch: Service._conversations_search,
    protocol.SettingsGet: Service._settings_get,
    protocol.SettingsSet: Service._settings_set,
    protocol.WindowRaise: Service._window_raise,
}


def _given_up(generation_id: str) -> GenerationFinished:
    return GenerationFinished(
        generation_id=generation_id,
        finish_reason="error",
        text="",
        usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0),
        timings=Timings(),
        error=ErrorInfo(code="internal", message="the generation could not be started"),
    )
