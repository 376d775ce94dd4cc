"""Takes the README's pictures: the real window, the starter model, a real answer, half way through.

    python tests/bench/screenshots.py [FOLDER] [--size 1440x900]

Off-screen, in a home of its own; one picture a theme (`window-dark.png`, `window-light.png`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from PySide6.QtCore import Qt  # noqa: E402
from PySide6.QtTest import QTest  # noqa: E402
from qasync import QEventLoop  # noqa: E402

from api.bus import Envelope  # noqa: E402
from api.client import LiveClient  # noqa: E402
from api.core import Options  # noqa: E402
from desktop.app import make_application, running  # noqa: E402
from desktop.controller import Controller  # noqa: E402
from desktop.window import Window  # noqa: E402

EARLIER = (
    "What does first-token time mean?",
    "Show me a table of the cards",
    "What is 17 + 25?",
    "How do I load another model?",
)
QUESTIONS = ("How do I follow the stream with a script?", "Tell me a story about a lighthouse")
"""Asked in the conversation of the picture; the answer to the last one is caught on its way."""
TRIES = 12
OTHERS = ("storyteller.py", "nightly.py")


async def ask(controller: Controller, question: str) -> None:
    """Type the question into the composer, press Return, and wait for the whole answer."""
    composer, chat = controller.window.chat.composer, controller.window.chat
    composer.input.setPlainText(question)
    QTest.keyClick(composer.input, Qt.Key.Key_Return)
    await asyncio.sleep(0.5)
    while chat.running:  # noqa: ASYNC110 - widgets have no event to wait for
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)


def grab_in_mid_answer(controller: Controller, path: Path) -> Callable[[Sequence[Envelope]], None]:
    """A consumer of frames that takes the picture once the answer has come some way."""

    def streaming() -> bool:
        turns = controller.window.chat.model.turns
        last_question = len(turns) == 2 * len(QUESTIONS)
        return last_question and turns[-1].status == "streaming" and len(turns[-1].text) > 60

    def grab() -> None:
        if streaming() and not path.exists() and controller.window.panel is not None:
            controller.window.panel.draw()
            controller.window.grab().save(str(path))

    def look(_: Sequence[Envelope]) -> None:
        if streaming():
            asyncio.get_running_loop().call_later(0.012, grab)  # once the frame is painted

    return look


async def talk(home: Path, name: str) -> None:
    """Another program that lets the model talk, so that there is something to see beside the chat."""
    async with LiveClient.discover(home, name=name) as client:
        while True:
            message = {"role": "user", "content": "Tell me a long story about the sea."}
            async for _ in client.generate(messages=[message], max_tokens=400):
                pass
            await asyncio.sleep(0.05)


async def take(folder: Path, width: int, height: int, model: str) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
    with tempfile.TemporaryDirectory() as home:
        window = Window(Path(home) / "window.ini")
        window.resize(width, height)
        window.show()
        async with running(window, Options(home=Path(home), port=0, threads=1, model=model)) as controller:
            while controller.engine.state != "ready":  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
            for question in EARLIER:
                controller.new_chat()
                await ask(controller, question)
            for theme in ("dark", "light"):
                await controller.client.request("settings.set", settings={"theme": theme})
                path = folder / f"window-{theme}.png"
                path.unlink(missing_ok=True)
                controller.new_chat()
                await ask(controller, QUESTIONS[0])
                others = [asyncio.create_task(talk(Path(home), name)) for name in OTHERS]
                await asyncio.sleep(20)
                controller.bridge.add_consumer(grab_in_mid_answer(controller, path))
                for _ in range(TRIES):
                    await ask(controller, QUESTIONS[1])
                    if path.exists():
                        break
                    controller.new_chat()
                    await ask(controller, QUESTIONS[0])
                for other in others:
                    other.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                if not path.exists():
                    raise SystemExit(f"no answer was long enough for {path.name}")
        window.dispose()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "assets" / "screenshots")
    parser.add_argument("--size", default="1440x900")
    parser.add_argument("--model", default="starter")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    width, height = map(int, arguments.size.split("x"))
    app = make_application()
    with asyncio.Runner(loop_factory=lambda: QEventLoop(app)) as runner:
        runner.run(take(arguments.folder, width, height, arguments.model))


if __name__ == "__main__":
    main()
