"""How models write reasoning and tool calls, and the parser that tells them apart.

`learn` finds a template's format by rendering known conversations; `AnswerParser` follows one answer.
"""

from engine.formats.forced import call_grammar
from engine.formats.format import HERMES, CallSyntax, Format, Header
from engine.formats.learn import Learned, learn
from engine.formats.parser import AnswerParser, CallText, Piece, ReasoningText

__all__ = [
    "HERMES",
    "AnswerParser",
    "CallSyntax",
    "CallText",
    "Format",
    "Header",
    "Learned",
    "Piece",
    "ReasoningText",
    "call_grammar",
    "learn",
]
