"""Composition root of the core, without Qt: everything is made, started and stopped here, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api import chat_templates, discovery, logs
from api.bus import Envelope, EventBus
from api.clients import Clients
from api.fit import Fit
from api.guard import Guard, check_host
from api.history import History
from api.library import Library
from api.local import LocalClient
from api.paths import Paths
from api.recorder import Recorder
from api.server import LiveServer, allow_many_files, listen
from api.service import Service
from api.settings import SettingsStore
from api.state import State
from api.supervisor import Supervisor
from api.telemetry import Telemetry
from api.tokens import Tokens
from api.version import VERSION
from engine.errors import TokenglassError
from engine.events import LogLine, ModelFailed, ModelLoaded
from engine.fakespec import FakeSpec, is_fake
from engine.machine import N_BATCH
from engine.types import Origin, WorkerConfig

logger = logging.getLogger(__name__)

STARTER = "starter"
FAKE = "fake"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}")


@dataclass(frozen=True)
class Options:
    """What the command line says; None leaves it to the settings."""

    home: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    model: str | None = None
    token: str | None = None
    allow_origins: tuple[str, ...] = ()
    parallel: int | None = None
    ctx: int | None = None
    kv: int | None = None
    threads: int | None = None
    threads_batch: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    gpu_layers: int | None = None
    log_level: str | None = None


class Core:
    """The running app but for its window. Made by `open`."""

    version = VERSION

    def __init__(
        self, options: Options, paths: Paths, settings: SettingsStore, history: History, token: str
    ) -> None:
        self.options = options
        self.paths = paths
        self.settings = settings
        self.history = history
        self.token = token
        self._learning: set[asyncio.Task[None]] = set()
        self.quit = asyncio.Event()
        """Set it to end the app."""
        self.run_id = secrets.token_hex(8)
        self.url = ""
        self.base_url = ""
        self.bus = EventBus()
        self.state = State()
        self.bus.add_fold(self.state.fold)
        self.library = Library(paths, settings)
        self.supervisor = Supervisor(
            self.bus, self.state, paths.log_file.parent, lambda config: self.fit.plan(config)
        )
        self.fit = Fit(paths.fit_file, lambda: self.supervisor.worker_pid)
        self.clients = Clients(self.bus.publish)
        self.service = Service(
            self.bus,
            self.state,
            self.supervisor,
            history,
            settings,
            find_model=self.find_model,
            library=self.library,
            fit=self.fit,
            worker_config=self.worker_config,
        )
        self.telemetry = Telemetry(self.bus.publish, lambda: self.supervisor.worker_pid)

    @classmethod
    @asynccontextmanager
    async def open(cls, options: Options, *, memory_history: bool = False) -> AsyncIterator[Core]:
        """Start everything, in order, and stop it in reverse, in about 2 s at most whatever clients do.

        `memory_history` starts with no stored conversations and stores none: for a window whose
        database can't be opened. Raises TokenglassError: `bad_state` where the home's app runs already,
        `storage`, `invalid_argument`, `not_found` (the model that was asked for).
        """
        host = check_host(options.host)
        paths = Paths.resolve(options.home)
        async with AsyncExitStack() as stack:
            lock = stack.enter_context(discovery.InstanceLock(paths.runtime_dir))
            if not lock.acquire():
                raise discovery.already_running(paths.server_file)
            settings = SettingsStore(paths.settings_file)
            settings.load()
            token = _token(options)
            logs.configure(paths.log_file, options.log_level or settings.current.log_level, secrets=[token])
            stack.callback(logs.close)
            history = await History.open(None if memory_history else paths.database)
            stack.push_async_callback(history.close)
            core = cls(options, paths, settings, history, token)
            await core._start(stack, host)
            logger.info("Tokenglass %s is up at %s", VERSION, core.url)
            yield core
            core.quit.set()
            logger.info("quitting")

    async def _start(self, stack: AsyncExitStack, host: str) -> None:
        recorder = Recorder(self.history, self.bus.publish)
        self.bus.add_fold(recorder.fold)
        self.bus.add_fold(self._remember_model)
        self.bus.add_fold(self._learn)
        first = await self._first_model()
        allowed = (*self.settings.current.allow_origins, *self.options.allow_origins)
        tokens = Tokens(self.token, self.paths.tokens_file)
        allow_many_files()
        sock = listen(host, self.options.port, self.settings.current.port)
        stack.callback(sock.close)
        port = sock.getsockname()[1]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.url, self.base_url = f"ws://{place}/v1/live", f"http://{place}/v1"
        about = {"name": "tokenglass", "version": VERSION, "pid": os.getpid()}
        self._server = LiveServer(self.bus, self.state, self.service, self.clients, about, self.run_id)
        await self._server.start(sock, Guard(host, port, tokens, allowed))
        stack.push_async_callback(self._stop)
        announcement = discovery.Announcement(self.paths.server_file, self.paths.token_file)
        stack.callback(announcement.withdraw)
        announcement.publish(self.url, self.base_url, self.token, VERSION)
        self.telemetry.start()
        stack.callback(self.telemetry.stop)
        for message in self.settings.messages:
            self.bus.publish(LogLine(level="warning", message=message))
        if first is not None:
            await self._load_first(self.worker_config(first))

    async def _stop(self) -> None:
        """Let go of clients and worker at the same time; what overruns is logged and left."""
        self.supervisor.announce_stop()
        for task in tuple(self._learning):
            task.cancel()
        results = await asyncio.gather(self._server.stop(), self.supervisor.stop(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                logger.error("stopping: %r", result)

    # ---- models

    @property
    def model_id(self) -> str | None:
        """The model that runs or is being loaded."""
        return self.supervisor.model_id

    async def find_model(self, name: str) -> dict[str, Any]:
        """The library's entry for an id. Raises TokenglassError `not_found` or what is wrong with the file.

        An app that was started with a fake model can also change to another fake one.
        """
        if is_fake(name) and self.options.model is not None and is_fake(self.options.model):
            return _fake_entry(name)
        return await self.library.get(name)

    def worker_config(self, entry: dict[str, Any]) -> WorkerConfig:
        """What a worker needs for an entry of the library: options first, then settings."""
        options, settings = self.options, self.settings.current
        return WorkerConfig(
            model_id=entry["id"],
            model_path=entry["path"],
            chat_template=self._chat_template(entry),
            n_slots=_first(options.parallel, settings.parallel),
            n_ctx=_first(options.ctx, settings.ctx),
            n_kv=_first(options.kv, settings.kv),
            n_batch=_first(options.batch_size, settings.batch_size) or N_BATCH,
            n_ubatch=_first(options.ubatch_size, settings.ubatch_size),
            n_threads=_first(options.threads, settings.threads),
            n_threads_batch=_first(options.threads_batch, settings.threads_batch),
            n_gpu_layers=_first(options.gpu_layers, settings.gpu_layers),
        )

    def _chat_template(self, entry: dict[str, Any]) -> str | None:
        """The template that stands in for the model's own; one that can't be read is told and left out."""
        if (file := entry.get("template_file")) is None:
            return None
        try:
            return chat_templates.read(file)
        except TokenglassError as error:
            message = f"{error}; {entry['id']} is loaded with its own chat template"
            self.bus.publish(LogLine(level="warning", message=message))
            return None

    async def _first_model(self) -> dict[str, Any] | None:
        """The model to begin with: the one asked for, else the one used last, else the starter."""
        asked = self.options.model
        if asked is not None:
            return _fake_entry(asked) if is_fake(asked) else await self.library.find(asked)
        for name in (self.settings.current.model, STARTER):
            if name is None:
                continue
            try:
                return await self.library.find(name)
            except TokenglassError as error:
                self.bus.publish(LogLine(level="warning", message=str(error)))
        return None

    async def _load_first(self, config: WorkerConfig) -> None:
        """Load the model to begin with, but for one that can't fit: nobody can be asked yet."""
        refusal = await self.fit.refusal(config)
        if refusal is None:
            self.supervisor.load(config)
            return
        logger.error("%s (%s)", refusal.message, refusal.hint)
        self.bus.publish(ModelFailed(model=config.model_id, error=refusal))

    def _learn(self, envelope: Envelope) -> None:
        """Keep what a load really took."""
        if isinstance(envelope.event, ModelLoaded) and (config := self.supervisor.config) is not None:
            task = asyncio.get_running_loop().create_task(self.fit.learn(config, envelope.event.info))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)

    def _remember_model(self, envelope: Envelope) -> None:
        """Keep the model that was loaded for the next start."""
        if isinstance(envelope.event, ModelLoaded) and (config := self.supervisor.config) is not None:
            model = config.model_id if not is_fake(config.model_path) else None
            if model is not None and model != self.settings.current.model:
                asyncio.get_running_loop().run_in_executor(None, self._store_model, model)

    def _store_model(self, model: str) -> None:
        with contextlib.suppress(TokenglassError):  # the next start takes the former one
            self.settings.update({"model": model})

    # ---- clients

    def connect_local(
        self, name: str, origin: Origin, on_ready: Callable[[], None] = lambda: None
    ) -> LocalClient:
        """A client inside this process. `on_ready` is called when its subscription has something to drain."""
        return LocalClient(self.bus, self.service, self.clients, name, origin, on_ready)


def _fake_entry(spec: str) -> dict[str, Any]:
    FakeSpec.parse(spec)
    return {"id": FAKE, "name": FAKE, "path": spec}


def _first(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given


def _token(options: Options) -> str:
    """The token of this run. Raises TokenglassError `invalid_argument` for one that protects nothing."""
    # taken out of the environment, so that the worker and other children don't inherit it
    from_environment = os.environ.pop("TOKENGLASS_TOKEN", None)
    token = options.token if options.token is not None else from_environment
    if token is None:
        return discovery.new_token()
    if not _TOKEN.fullmatch(token):
        raise TokenglassError(
            "invalid_argument",
            "the token is empty or has characters that can't stand in a header",
            path="token",
            hint="use letters and digits, or leave it out for a random one",
        )
    return token
