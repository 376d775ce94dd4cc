"""What the user wants, turned into commands; what the stream says, turned into what the window shows.

Everything goes through client zero: the same commands and the same events as a script's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject
from PySide6.QtGui import QGuiApplication

from api.bus import Envelope
from api.core import Core
from api.paths import assets_dir
from desktop import dialogs, fitting, theme
from desktop.bridge import Bridge
from desktop.conversations import PAGE
from desktop.engine_status import EngineStatus
from desktop.live_status import LiveStatus
from desktop.steering import Steering
from desktop.tasks import Tasks
from desktop.topbar import describe
from desktop.window import Window
from engine.errors import ErrorInfo, TokenglassError
from engine.events import (
    BaseEvent,
    ConversationChanged,
    ConversationDeleted,
    EngineExited,
    LogLine,
    ModelFailed,
    ModelLoaded,
    SettingsChanged,
)
from engine.fakespec import is_fake
from engine.fit import Estimate

logger = logging.getLogger(__name__)

_SCRIPT = Path("examples") / "follow.py"


class Controller(QObject):
    """Joins one window to one core."""

    def __init__(self, core: Core, window: Window) -> None:
        super().__init__()
        self.core = core
        self.window = window
        self.engine = EngineStatus()
        self.live = LiveStatus()
        self.bridge = Bridge(window.meter)
        self.client = core.connect_local("window", "window", self.bridge.on_ready)
        self.tasks = Tasks(self._task_failed)
        self.steering = Steering(window, self.client, self.tasks)
        self._conversation: str | None = None
        self._names: dict[str, str] = {}
        self._frames_before = 0
        self._restarting = False
        self._connect()

    # ---- start and end

    def _connect(self) -> None:
        window, chat, sidebar, top = self.window, self.window.chat, self.window.sidebar, self.window.top
        chat.sendRequested.connect(lambda text: self.tasks.spawn(self._send(text)))
        chat.stopRequested.connect(lambda generation_id: self.tasks.spawn(self._stop(generation_id)))
        chat.regenerateRequested.connect(lambda parent: self.tasks.spawn(self._regenerate(parent)))
        chat.variantRequested.connect(lambda leaf: self.tasks.spawn(self._show_conversation(leaf=leaf)))
        sidebar.newChat.connect(self.new_chat)
        sidebar.selected.connect(self._selected)
        sidebar.liveSelected.connect(self.show_live)
        sidebar.searched.connect(lambda query: self.tasks.spawn(self._search(query)))
        sidebar.deleteRequested.connect(lambda key: self.tasks.spawn(self._delete(key)))
        sidebar.restoreRequested.connect(lambda key: self.tasks.spawn(self._restore(key)))
        sidebar.model.moreRequested.connect(lambda offset: self.tasks.spawn(self._page(offset)))
        sidebar.model.renamed.connect(lambda key, title: self.tasks.spawn(self._rename(key, title)))
        top.modelMenuRequested.connect(lambda: self.tasks.spawn(self._model_menu()))
        top.modelChosen.connect(lambda model: self.tasks.spawn(self.load_model(model)))
        top.unloadRequested.connect(lambda: self.tasks.spawn(self._unload()))
        top.openFileRequested.connect(lambda: self.tasks.spawn(self._open_file()))
        top.samplingChanged.connect(lambda values: self.tasks.spawn(self._set_sampling(values)))
        top.themeChosen.connect(lambda choice: self.tasks.spawn(self._set({"theme": choice})))
        window.fileDropped.connect(lambda path: self.tasks.spawn(self._add_and_load(Path(path))))
        window.status.copyRequested.connect(self._copy)
        window.ticked.connect(self._tick)
        self.bridge.overrun.connect(lambda: self.tasks.spawn(self._after_overrun()))

    async def start(self) -> None:
        """Ask for everything from the beginning of the run on, and show what is stored."""
        window, client = self.window, self.client
        if window.panel is not None:
            window.panel.clients.set_own(client.client_id)
            self.bridge.add_consumer(window.panel.consume)
        self.bridge.add_consumer(window.chat.consume)
        self.bridge.add_consumer(self._consume)
        self.core.service.raise_window = window.bring_to_front
        window.status.show_address(self.core.url)
        self._show_settings((await client.request("settings.get"))["settings"])
        if self.core.model_id is None:
            self.engine.state = "no_model"
        self._show_engine()
        await client.request("subscribe", events=["*"], since=0)
        self.bridge.attach(client.subscription)
        await self._page(0)
        window.chat.focus_composer()
        self.tasks.spawn(self._learn_library())

    async def close(self) -> None:
        """Let go of the core; the window shows what it showed last."""
        self.core.service.raise_window = None
        self.bridge.detach()
        await self.tasks.close()
        self.client.close()

    # ---- what the stream says

    def _consume(self, envelopes: Sequence[Envelope]) -> None:
        changed = live = False
        for envelope in envelopes:
            event = envelope.event
            changed |= self.engine.feed(event)
            live |= self.live.feed(event)
            self._notice(event)
        if changed:
            self._show_engine()
        if live:
            self.window.sidebar.live.show_state(self.live.words, running=self.live.running)
        self._show_counts()

    def _notice(self, event: BaseEvent) -> None:
        sidebar, banner = self.window.sidebar, self.window.banner
        match event:
            case ConversationChanged():
                sidebar.model.upsert(event.conversation)
                if event.conversation["id"] == self._conversation:
                    sidebar.select(self._conversation)
            case ConversationDeleted():
                sidebar.model.remove(event.conversation_id)
                if event.conversation_id == self._conversation:
                    self.new_chat()
            case SettingsChanged():
                self._show_settings(event.settings)
            case ModelFailed():
                hint = event.error.hint or "Choose another model above"
                name = self._names.get(event.model, event.model)
                choose = ("Choose how to load", lambda: self.tasks.spawn(self.load_model(event.model)))
                banner.show_notice(
                    f"{name}: {event.error.message}",
                    hint,
                    level="error",
                    action=choose if event.error.code == "out_of_memory" else None,
                )
            case EngineExited() if not event.expected and event.epoch >= self.engine.epoch:
                self._engine_ended(event)
            case ModelLoaded() if self._restarting:
                self._restarting = False
                banner.hide()
            case LogLine() if event.level != "info":
                banner.show_notice(event.message, level="error" if event.level == "error" else "warn")

    def _engine_ended(self, event: EngineExited) -> None:
        if event.will_restart:
            how = event.signal or f"exit code {event.exit_code}"
            self._restarting = True
            kept = "Answers go on where they are" if self.engine.running else "Your chats are kept"
            self.window.banner.show_notice(f"The engine ended unexpectedly ({how}) and is restarting", kept)
            return
        self._restarting = False
        self.window.banner.show_notice(
            event.error.message if event.error else "The engine ended and is not restarted",
            "The log has the details",
            level="error",
            action=("Restart engine", self.restart_engine),
        )

    def _show_engine(self) -> None:
        engine, window = self.engine, self.window
        detail = engine.error.message if engine.state == "failed" and engine.error else ""
        window.status.show_engine(engine.words, engine.colour, detail)
        # While a model loads, what is sent is queued and answered when it is there.
        window.chat.set_engine_state("ready" if engine.state == "loading" else engine.state, detail)
        if engine.state == "loading":
            name = self._names.get(engine.loading_model or "", engine.loading_model or "Loading…")
            window.top.model_button.show_model(name, engine.progress)
        elif engine.model is not None:
            name = self._names.get(engine.model.id, engine.model.name)
            window.top.model_button.show_model(name)
        else:
            window.top.model_button.show_model("No model" if engine.state != "starting" else "Starting…")

    def _show_counts(self) -> None:
        panel, engine = self.window.panel, self.engine
        clients = panel.clients.count if panel is not None else 1
        self.window.status.show_counts(
            clients, len(engine.running), engine.model.n_slots if engine.model else None
        )

    def _show_settings(self, settings: dict[str, Any]) -> None:
        self.window.top.show_sampling(settings["sampling"])
        choice: theme.Choice = settings["theme"]
        self.window.top.show_theme_choice(choice)
        theme.manager().set_choice(choice)

    def _tick(self) -> None:
        """Once a second: what this window itself does."""
        frames = self.bridge.frames - self._frames_before
        self._frames_before = self.bridge.frames
        if self.window.panel is not None:
            self.window.panel.clients.show_own(f"{frames} frames/s" if frames > 2 else "connected")

    async def _after_overrun(self) -> None:
        snapshot = await self.client.request("snapshot")
        self.engine.restore(snapshot)
        self.window.chat.reset_stream(snapshot)
        if self.window.panel is not None:
            self.window.panel.restore(snapshot)
        self._show_engine()
        self._show_counts()
        await self._page(0)
        if self._conversation is not None:
            await self._show_conversation()

    # ---- chat

    def new_chat(self) -> None:
        """An empty conversation, which exists from its first message on."""
        self._conversation = None
        self.window.sidebar.select(None)
        self.window.chat.show_conversation(None)
        self.window.chat.focus_composer()

    def _selected(self, conversation_id: str) -> None:
        self._conversation = conversation_id
        self.tasks.spawn(self._show_conversation())

    async def _show_conversation(self, leaf: str | None = None) -> None:
        wanted = self._conversation
        if wanted is None:
            return
        data = await self.client.request("conversations.get", conversation_id=wanted, leaf=leaf)
        if wanted == self._conversation:  # the user may have gone on meanwhile
            self.window.chat.show_conversation(data)

    def show_live(self) -> None:
        """What other programs generate."""
        self._conversation = None
        self.window.sidebar.select_live()
        self.window.chat.show_live()
        self.window.sidebar.list.setFocus()

    async def _send(self, text: str) -> None:
        chat = self.window.chat
        chat.set_busy(True)
        conversation_id = self._conversation  # the user may open another one meanwhile
        try:
            if conversation_id is None:
                created = await self.client.request("conversations.create")
                conversation_id = str(created["conversation"]["id"])
                if self._conversation is None:
                    self._conversation = conversation_id
                    await self._show_conversation()
            await self.client.request(
                "generate", conversation_id=conversation_id, content=text, logprobs=self.steering.logprobs
            )
        except TokenglassError:
            if not chat.composer.text:
                chat.composer.set_text(text)
            raise
        finally:
            chat.set_busy(False)

    async def _regenerate(self, parent: str) -> None:
        if self._conversation is not None:
            await self.client.request(
                "generate", conversation_id=self._conversation, parent=parent, logprobs=self.steering.logprobs
            )

    async def _stop(self, generation_id: str) -> None:
        await self.client.request("cancel", generation_id=generation_id)

    # ---- conversations

    async def _page(self, offset: int) -> None:
        result = await self.client.request("conversations.list", limit=PAGE, offset=offset)
        self.window.sidebar.show_page(result["conversations"], first=offset == 0)

    async def _search(self, query: str) -> None:
        if not query:
            await self._page(0)
            return
        result = await self.client.request("conversations.search", query=query, limit=PAGE)
        if query == self.window.sidebar.search.text().strip():
            self.window.sidebar.show_results(result["results"])

    async def _rename(self, conversation_id: str, title: str) -> None:
        await self.client.request("conversations.rename", conversation_id=conversation_id, title=title)

    async def _delete(self, conversation_id: str) -> None:
        row = self.window.sidebar.model.row_of(conversation_id)
        title = self.window.sidebar.model.conversation(row)["title"] if row is not None else ""
        await self.client.request("conversations.delete", conversation_id=conversation_id)
        self.window.sidebar.offer_undo(conversation_id, title or "New chat")

    async def _restore(self, conversation_id: str) -> None:
        await self.client.request("conversations.restore", conversation_id=conversation_id)

    # ---- models

    async def _model_menu(self) -> None:
        result = await self.client.request("models.list")
        self._learn_names(result["models"])
        self.window.top.show_models(result["models"], result.get("loaded"))

    async def _learn_library(self) -> None:
        """Know the models' names with their quantization, for the switcher."""
        self._learn_names((await self.client.request("models.list"))["models"])
        self._show_engine()

    def _learn_names(self, models: Sequence[dict[str, Any]]) -> None:
        self._names.update({str(model["id"]): describe(model) for model in models})

    async def _open_file(self) -> None:
        path = await dialogs.choose_gguf(self.window)
        if path is not None:
            await self._add_and_load(path)

    async def _add_and_load(self, path: Path) -> None:
        added = (await self.client.request("models.add", path=str(path)))["model"]
        self._learn_names([added])
        await self.load_model(str(added["id"]))

    async def load_model(self, model: str) -> None:
        """Load a model of the library; where it can't fit or generations run, ask first."""
        decision = await self._fitting(model)
        if decision is None:
            return
        force = decision.force
        if self.engine.busy:
            answer = await dialogs.ask(
                self.window,
                "Switch the model",
                "Answers are being written.",
                ("Stop them and switch", "Keep the model"),
                detail="They end where they are; what is written stays in the chat.",
            )
            if answer != "Stop them and switch":
                return
            force = True
        self.window.banner.hide()
        given = {"ctx": decision.ctx} if decision.ctx is not None else {}
        await self.client.request("models.load", model=model, force=force, **given)

    async def _fitting(self, model: str) -> fitting.Decision | None:
        """How to load a model, by its estimate; where there is none, as it comes."""
        try:
            found = Estimate.model_validate(await self.client.request("models.estimate", model=model))
        except TokenglassError:  # what is wrong with it, the load says
            return fitting.Decision()
        if found.fits != "no":
            return fitting.Decision()
        return await fitting.ask(self.window, self._names.get(model, model), found)

    async def _unload(self) -> None:
        """Free the model's memory; where generations run, ask first."""
        force = False
        if self.engine.busy:
            answer = await dialogs.ask(
                self.window,
                "Unload the model",
                "Answers are being written.",
                ("Stop them and unload", "Keep the model"),
                detail="They end where they are; what is written stays in the chat.",
            )
            if answer != "Stop them and unload":
                return
            force = True
        await self.client.request("models.unload", force=force)

    def restart_engine(self) -> None:
        """Load the present model again."""
        model = self.core.model_id
        if model is not None:
            self.tasks.spawn(self._load_again(model))

    async def _load_again(self, model: str) -> None:
        config = self.core.supervisor.config
        if config is not None and is_fake(config.model_path):
            model = config.model_path  # the library knows nothing of fake models
        ctx = config.n_ctx if config is not None else 0
        await self.client.request("models.load", model=model, ctx=ctx or None, force=True)

    # ---- the rest

    async def _set_sampling(self, values: dict[str, Any]) -> None:
        """For the next answers, and at once for the one that runs."""
        await self.steering.update(values)
        await self._set({"sampling": values})

    async def _set(self, settings: dict[str, Any]) -> None:
        await self.client.request("settings.set", settings=settings)

    def _copy(self, what: str) -> None:
        texts: dict[str, Callable[[], str]] = {
            "address": lambda: self.core.url,
            "token": lambda: self.core.token,
            "script": self._script,
        }
        try:
            text = texts[what]()
        except OSError as error:
            self.window.banner.show_notice(f"The script can't be read: {error.strerror}", level="error")
            return
        QGuiApplication.clipboard().setText(text)
        self.window.status.confirm_copied(what.capitalize())

    def _script(self) -> str:
        """The example that follows the stream, told where this app announces its address and token."""
        text = (assets_dir() / _SCRIPT).read_text(encoding="utf-8")
        return text.replace("SERVER_JSON", self.core.paths.server_file.as_posix())

    def _task_failed(self, error: BaseException) -> None:
        if isinstance(error, TokenglassError):
            self.window.banner.show_error(error.info)
            return
        logger.error("a task of the window failed", exc_info=error)
        self.window.banner.show_error(
            ErrorInfo(
                code="internal", message="Something went wrong in the window", hint="The log has the details"
            )
        )
