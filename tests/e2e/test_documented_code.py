"""The Python that README.md and PROTOCOL.md show, taken from there and run beside a real app."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from api.client import SyncClient
from tests.e2e.harness import END_LIMIT_S, ROOT, START_LIMIT_S, Serve, serve

SAYS = "Fair winds"
BLOCKS = [
    (name, code)
    for name in ("README.md", "api/PROTOCOL.md")
    for code in re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)
]


def prepared(code: str, app: Serve) -> str:
    """With the address, the token and the folder of this app where the text has a placeholder."""
    about = json.loads(app.server_file.read_text())
    code = code.replace("http://127.0.0.1:7317/v1", about["base_url"])
    return code.replace('"TOKEN"', repr(about["token"])).replace("DIR/", f"{app.home}/")


def test_the_documents_show_code() -> None:
    assert [name for name, _ in BLOCKS].count("README.md") >= 4
    assert "api/PROTOCOL.md" in dict(BLOCKS)
    for name, code in BLOCKS:
        assert len(code.splitlines()) <= 20, f"{name}: ten lines do something useful"


@pytest.mark.parametrize("place", range(len(BLOCKS)), ids=lambda place: f"{BLOCKS[place][0]}-{place}")
def test_it_does_what_it_says(tmp_path: Path, place: int) -> None:
    """It prints what is generated, by itself or by somebody else; what follows for ever is ended then."""
    with serve(tmp_path / "home", f"fake:delay_ms=5,script={SAYS.replace(' ', '%20')}") as app:
        script = tmp_path / "script.py"
        script.write_text(prepared(BLOCKS[place][1], app))
        output = tmp_path / "output.txt"
        with output.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-u", str(script), str(app.server_file)],
                env=os.environ | {"TOKENGLASS_HOME": str(app.home), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            end = time.monotonic() + START_LIMIT_S
            with SyncClient.discover(app.home, name="somebody") as client:
                while (written := output.read_text()).replace("\n", "").count(SAYS) == 0:
                    if '"text": "Fair"' in written or "'text': 'Fair'" in written:  # whole events
                        break
                    assert time.monotonic() < end, written
                    assert process.poll() in (None, 0), written
                    client.generate(prompt="hello").finished()
            if process.poll() is None:
                process.terminate()
            process.wait(END_LIMIT_S)
            assert "Traceback" not in output.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
