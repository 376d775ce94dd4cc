"""The chat template of the starter, as it stands in the GGUF's metadata."""

# ruff: noqa: E501  (the template keeps its own lines)

TEMPLATE = """{%- macro text(c) -%}
{%- if c is string -%}{{ c }}{%- elif c is iterable and c is not mapping -%}
{%- for part in c -%}{{ part if part is string else (part.text if part.text else '') }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(system='', start=0) -%}
{%- if messages and messages[0].role in ['system', 'developer'] -%}
{%- set ns.system = text(messages[0].content) -%}{%- set ns.start = 1 -%}
{%- endif -%}
{%- if tools -%}
<|system|>{{ ns.system }}{{ '\\n\\n' if ns.system else '' }}Tools:
{%- for tool in tools -%}
{%- set f = tool.function if tool.function else tool -%}
{{ '\\n' + f.name + '(' }}
{%- if f.parameters and f.parameters.properties -%}{{ f.parameters.properties | list | join(', ') }}{%- endif -%}
{{ ')' + (': ' + f.description if f.description else '') }}
{%- endfor -%}
<|end|>
{%- elif ns.start == 1 -%}
<|system|>{{ ns.system }}<|end|>
{%- endif -%}
{%- for m in messages[ns.start:] -%}
{%- if m.role in ['system', 'developer'] -%}
<|system|>{{ text(m.content) }}<|end|>
{%- elif m.role == 'assistant' -%}
<|assistant|>{{ text(m.content) }}
{%- if m.tool_calls -%}
{%- for call in m.tool_calls -%}
{%- set f = call.function if call.function else call -%}
{{ '<tool_call>{"name": "' + f.name + '", "arguments": ' }}
{%- if f.arguments is string -%}{{ f.arguments if f.arguments else '{}' }}{%- else -%}{{ f.arguments | tojson }}{%- endif -%}
{{ '}</tool_call>' }}
{%- endfor -%}
{%- endif -%}
<|end|>
{%- elif m.role in ['tool', 'function'] -%}
<|tool|>{{ text(m.content) }}<|end|>
{%- else -%}
<|user|>{{ text(m.content) }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{%- endif -%}
"""
