"""Formats that a template's renderings don't tell, or not wholly.

These are messages with headers, blocks around content, and templates that leave past calls out.
"""

from __future__ import annotations

from typing import Final

from engine.formats.format import HERMES, CallSyntax, Format, Header

HARMONY: Final = Format(
    "harmony",
    header=Header(
        open="<|start|>assistant",
        begins=("<|channel|>", "to=", "<|constrain|>"),
        close="<|message|>",
        ends=("<|end|>", "<|call|>", "<|return|>"),
        reasoning=r"^(?!.*\bto=(?!assistant\b)).*<\|channel\|>analysis",
        call=r"\bto=(?!assistant\b)(?:functions\.)?([A-Za-z0-9_.-]{1,64})",
        call_header=" to=functions.{name}<|channel|>commentary json<|message|>",
    ),
)
"""gpt-oss: each message has a channel, and calls a recipient."""

MUSE: Final = Format(
    "muse",
    header=Header(
        open="<|start|>assistant",
        begins=("to=",),
        close="<|message|>",
        ends=("<|eom|>", "<|eot|>"),
        reasoning=r"\bto=self\b",
        call="",
    ),
    calls=CallSyntax(
        "parameters",
        section_open="<atem:function_calls>\n",
        section_close="</atem:function_calls>",
        open='<atem:invoke name="',
        name_close='">\n',
        parameter_open='<atem:parameter name="',
        value_open='">',
        value_close="</atem:parameter>\n",
        close="</atem:invoke>\n",
    ),
)

FUNCTIONARY: Final = Format(
    "functionary-v3.2",
    header=Header(
        open=">>>",
        begins=(),
        close="\n",
        ends=(),
        reasoning=r"(?!)",
        call=r"^\s*(?!all\s*$)([A-Za-z0-9_.-]{1,64})\s*$",
        call_header="{name}\n",
    ),
)

SOLAR: Final = Format(
    "solar-open",
    reasoning_open="<|think|>",
    reasoning_close="<|end|>",
    skip=("<|begin|>assistant", "<|content|>", "<|end|>"),
    calls=CallSyntax(
        "name_json",
        section_open="<|tool_calls|>",
        section_close="<|calls|>",
        open="<|tool_call:begin|>",
        id_rule="[a-zA-Z0-9]{9}",
        name_open="<|tool_call:name|>",
        name_close="<|tool_call:args|>",
        close="<|tool_call:end|>",
    ),
)

KIMI_K3: Final = Format(
    "kimi-k3",
    reasoning_open="<|open|>think<|sep|>",
    reasoning_close="<|close|>think<|sep|>",
    skip=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    calls=CallSyntax(
        "parameters",
        id_open='" index="',
        id_rule="[0-9]+",
        section_open="<|open|>tools<|sep|>",
        section_close="<|close|>tools<|sep|>",
        open='<|open|>call tool="',
        name_close='"<|sep|>',
        parameter_open='<|open|>argument key="',
        value_open='"<|sep|>',
        value_close="<|close|>argument<|sep|>",
        string_open='" type="string',
        other_open='" type="object',
        close="<|close|>call<|sep|>",
    ),
)

COMMAND_R: Final = Format(
    "command-r7b",
    reasoning_open="<|START_THINKING|>",
    reasoning_close="<|END_THINKING|>",
    skip=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    calls=CallSyntax(
        "json",
        section_open="<|START_ACTION|>[\n    ",
        separator=",\n    ",
        section_close="\n]<|END_ACTION|>",
        name_key="tool_name",
        arguments_key="parameters",
        before_name='{"tool_call_id": "0", "tool_name": ',
        before_arguments=', "parameters": ',
        after_arguments="}",
    ),
)

LFM2: Final = Format(
    "lfm2",
    calls=CallSyntax(
        "python",
        section_open="<|tool_call_start|>[",
        separator=", ",
        section_close="]<|tool_call_end|>",
    ),
)

GRANITE_3: Final = Format(
    "granite-3",
    skip=("<response>", "</response>"),
    calls=CallSyntax(
        "json",
        section_open="<|tool_call|>[",
        separator=", ",
        section_close="]",
        before_name='{"name": ',
        before_arguments=', "arguments": ',
        after_arguments="}",
    ),
)

_BY_SIGNATURE: Final[tuple[tuple[tuple[str, ...], Format], ...]] = (
    (("<|channel|>", "<|message|>", "<|call|>"), HARMONY),
    (("<atem:function_calls>", "<|eom|>"), MUSE),
    ((">>>all", ">>>${recipient}"), FUNCTIONARY),
    (("<|tool_call:begin|>", "<|tool_call:args|>"), SOLAR),
    (("<|open|>", "<|close|>", "<|end_of_msg|>"), KIMI_K3),
    (("<|START_ACTION|>", "<|END_THINKING|>"), COMMAND_R),
)
"""What stands in the source of a template, all of it, whose models write in this format."""

CALLS_BY_SIGN: Final[tuple[tuple[str, Format], ...]] = (
    ("<|tool_list_start|>", LFM2),
    ("List of tools: [", LFM2),
    ("<|tool_call|>", GRANITE_3),
    ("<tool_call>", HERMES),
)
"""What tells how calls are written where a template leaves them out of past answers."""


def named_format(source: str) -> Format | None:
    return next((form for signs, form in _BY_SIGNATURE if all(sign in source for sign in signs)), None)


def named_calls(source: str) -> Format | None:
    return next((form for sign, form in CALLS_BY_SIGN if sign in source), None)
