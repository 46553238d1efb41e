"""Short chat templates that write tools and calls as the families' own templates do, by the name of the format."""

from collections.abc import Mapping
from types import MappingProxyType

_OBJECT = """{{ '{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) ~ '}' }}"""
_PYTHON = (
    "{{ call.function.name }}({% for key, value in call.function.arguments.items() %}"
    """{{ ', ' if not loop.first }}{{ key }}="{{ value }}"{% endfor %})"""
)
_EACH = "{% for call in message.tool_calls %}"
_COMMA = "{{ ', ' if not loop.last }}"
_ITEMS = "{% for key, value in call.function.arguments.items() %}"
_VALUE = "{{ value if value is string else value | tojson }}"
_DSML = (
    '{% set mark = "｜DSML｜" %}<{{ mark }}OUTER>\n' + _EACH + '<{{ mark }}invoke name="{{ call.function.name }}">\n' + _ITEMS
    + '<{{ mark }}parameter name="{{ key }}" string="{{ "true" if value is string else "false" }}">' + _VALUE
    + "</{{ mark }}parameter>\n{% endfor %}</{{ mark }}invoke>\n{% endfor %}</{{ mark }}OUTER>"
)  # fmt: skip

_CALLS: Mapping[str, str] = {
    "hermes": _EACH + "{{ '<tool_call>\n' }}" + _OBJECT + "{{ '\n</tool_call>\n' }}{% endfor %}",
    "qwen-xml": (
        _EACH
        + "{{ '<tool_call>\n<function=' ~ call.function.name ~ '>\n' }}"
        + _ITEMS
        + "{{ '<parameter=' ~ key ~ '>\n' }}"
        + _VALUE
        + "{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>\n' }}{% endfor %}"
    ),
    "llama-json": (
        "{% set mark = '<|start_header_id|>' %}{% set call = message.tool_calls[0] %}"
        """{{ '{"name": "' ~ call.function.name ~ '", ' }}{{ '"parameters": ' }}{{ call.function.arguments | tojson }}}"""
    ),
    "llama-python": "{# [func_name1(param1=value1)] #}[" + _EACH + _PYTHON + _COMMA + "{% endfor %}]",
    "lfm2": "<|tool_call_start|>[" + _EACH + _PYTHON + _COMMA + "{% endfor %}]<|tool_call_end|>",
    "olmo3": "<function_calls>\n" + _EACH + _PYTHON + "{{ '\n' }}{% endfor %}</function_calls>",
    "mistral": (
        "[TOOL_CALLS] ["
        + _EACH
        + """{{ (call.function | tojson)[:-1] ~ ', "id": "' ~ call.id ~ '"}' }}"""
        + _COMMA
        + "{% endfor %}]"
    ),
    "mistral-v11": _EACH
    + "[TOOL_CALLS]{{ call.function.name }}[CALL_ID]{{ call.id }}[ARGS]{{ call.function.arguments | tojson }}{% endfor %}",
    "harmony": (
        "{{ '<|start|>assistant<|channel|>commentary to=functions.' ~ message.tool_calls[0].function.name }}"
        "{{ ' <|constrain|>json<|message|>' ~ (message.tool_calls[0].function.arguments | tojson) ~ '<|call|>' }}"
    ),
    "gemma4": (
        _EACH
        + "<|tool_call>call:{{ call.function.name }}{{ '{' }}"
        + _ITEMS
        + """{{ key }}:<|"|>{{ value }}<|"|>{{ ',' if not loop.last }}{% endfor %}{{ '}' }}<tool_call|>{% endfor %}"""
    ),
    "function-gemma": (
        _EACH
        + "<start_function_call>call:{{ call.function.name }}{{ '{' }}"
        + _ITEMS
        + "{{ key }}:<escape>{{ value }}<escape>{{ ',' if not loop.last }}{% endfor %}{{ '}' }}<end_function_call>{% endfor %}"
    ),
    "deepseek-v3": (
        "<｜tool▁calls▁begin｜>"
        + _EACH
        + "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ call.function.name }}{{ '\n```json\n' }}"
        + "{{ call.function.arguments | tojson }}{{ '\n```' }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>"
    ),
    "deepseek-v3.1": (
        "<｜tool▁calls▁begin｜>"
        + _EACH
        + "<｜tool▁call▁begin｜>{{ call.function.name }}<｜tool▁sep｜>{{ call.function.arguments | tojson }}"
        + "<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>"
    ),
    "deepseek-v3.2": _DSML.replace("OUTER", "function_calls"),
    "deepseek-v4": _DSML.replace("OUTER", "tool_calls"),
    "glm": (
        _EACH
        + "<tool_call>{{ call.function.name }}{{ '\n' }}"
        + _ITEMS
        + "<arg_key>{{ key }}</arg_key>{{ '\n' }}<arg_value>"
        + _VALUE
        + "</arg_value>{{ '\n' }}{% endfor %}</tool_call>{% endfor %}"
    ),
    "kimi-k2": (
        "<|tool_calls_section_begin|>"
        + _EACH
        + "<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>{{ call.function.arguments | tojson }}"
        + "<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>"
    ),
    "minimax-m2": (
        "<minimax:tool_call>{{ '\n' }}"
        + _EACH
        + '<invoke name="{{ call.function.name }}">{{ "\n" }}'
        + _ITEMS
        + '<parameter name="{{ key }}">'
        + _VALUE
        + "</parameter>{{ '\n' }}{% endfor %}</invoke>{{ '\n' }}{% endfor %}</minimax:tool_call>"
    ),
    "phi4-mini": "functools[" + _EACH + _OBJECT + _COMMA + "{% endfor %}]",
    "phi4-tags": _EACH + "<|tool_call|>" + _OBJECT + "<|/tool_call|>{% endfor %}",
    "granite3": "{# <|start_of_role|> #}<|tool_call|>[" + _EACH + _OBJECT + _COMMA + "{% endfor %}]",
    "command-r7b": (
        "<|START_ACTION|>["
        + _EACH
        + """{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ call.function.name }}", "parameters": """
        + "{{ call.function.arguments | tojson }}}"
        + _COMMA
        + "{% endfor %}]<|END_ACTION|>"
    ),
}

TOOL_TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        name: (
            "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
            "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
            "{% if message.tool_calls %}" + calls + "{% endif %}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
        for name, calls in _CALLS.items()
    }
)
"""Templates by the name of the format that their models write."""
