"""The README shows what is there: its script is the example that other tests run, its pictures exist."""

from __future__ import annotations

import re
from pathlib import Path

from api import cli

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_script_is_the_example() -> None:
    assert f"```python\n{(ROOT / 'assets/examples/follow.py').read_text()}```" in README


def test_links_and_pictures_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 5
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_the_commands_exist() -> None:
    named = set(re.findall(r"^\| `tokenglass ([a-z]+)", README, re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"[a-z]+", cli.build_parser().format_help()))
