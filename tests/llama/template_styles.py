"""Small templates in the styles that models' own are written in, each with what it can show."""

from __future__ import annotations

from llmserve.llama.template_capabilities import TemplateCapabilities

_PROMPT = "{% if add_generation_prompt %}<a>{% endif %}"
_TOOLS = "{% if tools %}{% for tool in tools %}{{ tool|tojson }}{% endfor %}{% endif %}"

STYLES: dict[str, tuple[str, TemplateCapabilities]] = {
    "strings": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + _PROMPT,
        TemplateCapabilities(),
    ),
    "parts": (
        "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
        "{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(parts=True),
    ),
    "strings or parts": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{{ p.text }}{% endfor %}{% endif %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(),
    ),
    "refuses system": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}" + _PROMPT,
        TemplateCapabilities(system=False),
    ),
    "drops system": (
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}" + _PROMPT,
        TemplateCapabilities(system=False),
    ),
    "hermes": (
        _TOOLS
        + "{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{% for call in m.tool_calls or [] %}"
        '<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments|tojson }}}'
        "</tool_call>{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True),
    ),
    "either arguments": (
        _TOOLS + "{% for m in messages %}{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function.name }}"
        "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
        "{{ call.function.arguments|tojson }}{% endif %}{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True),
    ),
    "arguments as text": (
        _TOOLS + "{% for m in messages %}{{ m.content }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```' }}{% endfor %}{% endfor %}"
        + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True, argument_objects=False),
    ),
    "arguments printed": (
        _TOOLS + "{% for m in messages %}{{ m.content }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.name }}{{ call.function.arguments }}{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True, argument_objects=False),
    ),
    "arguments as tags": (
        _TOOLS + "{% for m in messages %}{{ m.content }}{% for call in m.tool_calls or [] %}"
        "<function={{ call.function.name }}>{% for name, value in call.function.arguments.items() %}"
        "<parameter={{ name }}>{{ value }}</parameter>{% endfor %}{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True),
    ),
    "calls only without content": (
        _TOOLS + "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}"
        "{% for call in m.tool_calls %}{{ call.function.name }}{{ call.function.arguments|tojson }}{% endfor %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True, null_content=True),
    ),
    "short identifiers": (
        _TOOLS
        + "{% for m in messages %}{{ m.content }}{% for call in m.tool_calls or [] %}{% if call.id|length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        "{{ call.function|tojson }}{{ call.id }}{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True, call_id_length=9),
    ),
    "no results": (
        _TOOLS + "{% for m in messages if m.role != 'tool' %}{{ m.content }}{% for call in m.tool_calls or [] %}"
        "{{ call.function|tojson }}{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True),
    ),
    "thinking": (
        _TOOLS + "{% for m in messages %}{% if m.thinking %}<t>{{ m.thinking }}</t>{% endif %}{{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function|tojson }}{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True, reasoning_field="thinking"),
    ),
    "only with tools": (
        "{% for tool in tools %}{{ tool|tojson }}{% endfor %}{% for m in messages %}{{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function|tojson }}{% endfor %}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_calls=True, tool_results=True),
    ),
    "results without calls": (
        _TOOLS + "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + _PROMPT,
        TemplateCapabilities(tools=True, tool_results=True),
    ),
    "documents": (
        "{% for d in documents or [] %}[{{ d.title }}: {{ d.text }}]{% endfor %}{% for m in messages %}{{ m.content }}"
        "{% endfor %}" + _PROMPT,
        TemplateCapabilities(documents=True),
    ),
    "always fails": ("{{ raise_exception('no') }}", TemplateCapabilities(system=False)),
}
