"""Jinja in a sandbox, set up as Hugging Face's `apply_chat_template` sets it up.

Runs in the renderer's process and imports nothing heavy: that process is started with each model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from types import GeneratorType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Namespace

from engine.rendering import TemplateFailedError

MAX_RENDERED_CHARS = 4 << 20


class _RefusedError(jinja2.TemplateError):
    """The template called `raise_exception`."""


class SandboxedTemplate:
    """One compiled template. Compiling and rendering run the model maker's program in this process."""

    def __init__(self, source: str) -> None:
        """Raises TemplateFailedError `broken` or `memory`."""
        try:
            self._template = _environment().from_string(source)
        except MemoryError:
            raise TemplateFailedError("memory", "it needs too much memory") from None
        except Exception as error:  # noqa: BLE001 constants are folded, so a source may fail in any way
            raise TemplateFailedError("broken", _said(error)) from None

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises TemplateFailedError."""
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(variables):
                parts.append(part)
                length += len(part)
                if length > MAX_RENDERED_CHARS:
                    raise TemplateFailedError("too_long", "the rendered prompt is longer than 4 MiB")
            return "".join(parts)
        except TemplateFailedError:
            raise
        except _RefusedError as error:
            raise TemplateFailedError("refused", str(error)) from None
        except MemoryError:
            raise TemplateFailedError("memory", "it needs too much memory") from None
        except Exception as error:  # noqa: BLE001 a template is a program: it may fail in any way
            raise TemplateFailedError("failed", _said(error)) from None


def warm_up() -> None:
    """Have everything imported and read that Python and Jinja put off until it is needed."""
    for source in ("{{ strftime_now('%c') }}{{ [1] | tojson(indent=1) }}{{ nothing.at.all }}", "{% for %}"):
        with contextlib.suppress(TemplateFailedError):
            SandboxedTemplate(source).render({})


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _environment() -> SandboxedEnvironment:
    # Hugging Face's is immutable, but some templates append to lists, as llama.cpp lets them;
    # what they change is a copy that nobody else sees
    environment = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_listed,
    )


def _listed(value: Any) -> list[Any]:
    """What a filter as `map` gives; Hugging Face fails here, llama.cpp writes the list."""
    if isinstance(value, GeneratorType):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _raise_exception(message: object) -> NoReturn:
    raise _RefusedError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 local time without a zone, as the templates expect


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks an assistant's part for training."""

    tags = {"generation"}  # noqa: RUF012 declared so by Jinja

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` without the attributes of a class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` without attributes that mean something to Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # as Jinja's own: `namespace(self=…)` must work
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no attribute {name!r}")
