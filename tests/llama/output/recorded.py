"""Outputs as the families write them, and what each means."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llmserve.llama.output.tools import Tool

WEATHER = Tool(
    "get_weather",
    "The weather in a city",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "details": {"type": "boolean"},
        },
        "required": ["city"],
    },
)
SEARCH = Tool(
    "search.web",
    "Search the web",
    {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": ["integer", "null"]},
            "filters": {"type": "object"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
    },
)
WRITE = Tool(
    "write_file",
    None,
    {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}},
)
NOW = Tool("now")
TOOLS = (WEATHER, SEARCH, WRITE, NOW)


Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Recording:
    """`calls` are names and arguments in order; `prompt_end` is what the rendered prompt ended with."""

    format: str
    text: str
    calls: tuple[Call, ...] = ()
    content: str = ""
    reasoning: str = ""
    prompt_end: str = ""


ROME: Call = ("get_weather", {"city": "Rome"})
ROME_3: Call = ("get_weather", {"city": "Rome", "days": 3})
CALL_NOW: Call = ("now", {})
QUOTES: Call = ("write_file", {"path": "a.py", "text": 'print("hi")\n'})
MIXED: Call = ("search.web", {"query": "größe <b>&", "limit": None, "filters": {"site": ["a", 1.5, True]}, "tags": []})


def _object(call: Call, arguments: str = "arguments", **options: Any) -> str:
    return json.dumps({"name": call[0], arguments: call[1]}, ensure_ascii=False, **options)


def _hermes(call: Call) -> str:
    return f"<tool_call>\n{_object(call)}\n</tool_call>"


HERMES = (
    Recording("hermes", _hermes(ROME), (ROME,)),
    Recording("hermes", f"{_hermes(ROME)}\n{_hermes(CALL_NOW)}", (ROME, CALL_NOW)),
    Recording("hermes", f"Let me look.\n\n{_hermes(MIXED)}", (MIXED,), "Let me look."),
    Recording("hermes", f"<think>\nRome, then.\n</think>\n\n{_hermes(ROME_3)}", (ROME_3,), reasoning="Rome, then."),
    Recording("hermes", f"Easy.\n</think>\n\nOn it. {_hermes(QUOTES)}", (QUOTES,), "On it.", "Easy.", "<think>\n"),
    Recording("hermes", "<think>\n\n</think>\n\nHello there.", content="Hello there."),
    Recording("hermes", "Use a <tool> or 1 < 2, or <tool_ca", content="Use a <tool> or 1 < 2, or <tool_ca"),
    Recording("hermes", _hermes(ROME).replace("\n", ""), (ROME,)),
    Recording("hermes", f"<tool_call>{_object(MIXED, indent=2)}</tool_call>\n\nDone.", (MIXED,), "Done."),
    Recording("hermes", '<tool_call>\n{"arguments": {"city": "Rome"}, "name": "get_weather"}\n</tool_call>', (ROME,)),
    Recording("hermes", '<tool_call>\n{"name": "now"}\n</tool_call>', (CALL_NOW,)),
    Recording("hermes", f"<tool_call>\n{_object(ROME)}", (ROME,)),
    Recording(
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}\n</tool_call>',
        (ROME,),
    ),
    Recording(
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "details": True, "days": None}}\n'
        "</tool_call>",
        (("get_weather", {"city": "Rome", "details": True, "days": None}),),
    ),
    Recording(
        "hermes",
        '<tool_call>\n{"name": "write_file", "arguments": {"path": "a.py", "text": "print(\\"hi\\")\n"}}\n</tool_call>',
        (QUOTES,),
    ),
)

GENERIC = (
    Recording("generic", _hermes(ROME), (ROME,)),
    Recording("generic", f"{_hermes(ROME)}{_hermes(CALL_NOW)}{_hermes(QUOTES)}", (ROME, CALL_NOW, QUOTES)),
    Recording("generic", "I cannot say.", content="I cannot say."),
    Recording("generic", f"Sure! {_hermes(ROME_3)} I wait.", (ROME_3,), "Sure! I wait."),
    Recording("generic", f"<tool_call>[{_object(ROME)}, {_object(CALL_NOW)}]</tool_call>", (ROME, CALL_NOW)),
    Recording("generic", f"<tool_call>\n{_object(ROME)}\n{_object(CALL_NOW)}\n</tool_call>", (ROME, CALL_NOW)),
    Recording("generic", f"<tool_call>\n{_object(ROME, 'parameters')}\n</tool_call>", (ROME,)),
    Recording(
        "generic",
        '<tool_call>{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}'
        "</tool_call>",
        (ROME,),
    ),
)

QWEN3_CODER = (
    Recording(
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
        (ROME,),
    ),
    Recording(
        "qwen3-coder",
        "I look it up.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n"
        "3\n</parameter>\n</function>\n</tool_call>",
        (ROME_3,),
        "I look it up.",
    ),
    Recording("qwen3-coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>", (CALL_NOW,)),
    Recording(
        "qwen3-coder",
        '<tool_call>\n<function=write_file>\n<parameter=path>\na.py\n</parameter>\n<parameter=text>\nprint("hi")\n\n'
        "</parameter>\n</function>\n</tool_call>",
        (QUOTES,),
    ),
    Recording(
        "qwen3-coder",
        "<tool_call>\n<function=search.web>\n<parameter=query>\ngröße <b>&\n</parameter>\n<parameter=limit>\nnull\n"
        '</parameter>\n<parameter=filters>\n{"site": ["a", 1.5, true]}\n</parameter>\n<parameter=tags>\n[]\n'
        "</parameter>\n</function>\n</tool_call>",
        (MIXED,),
    ),
    Recording(
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        (ROME, CALL_NOW),
    ),
    Recording(
        "qwen3-coder",
        "<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
        (ROME,),
        "</tool_call>",
    ),
    Recording(
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n<parameter=days>\n3\n</function>\n</tool_call>",
        (ROME_3,),
    ),
    Recording(
        "qwen3-coder",
        "<tool_call>\n<function=other>\n<parameter=a>\n7\n</parameter>\n<parameter=b>\nseven\n</parameter>\n</function>\n"
        "</tool_call>",
        (("other", {"a": 7, "b": "seven"}),),
    ),
    Recording("qwen3-coder", '<function=get_weather>{"city": "Rome"}</function>', (ROME,)),
)

GLM = (
    Recording(
        "glm",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>",
        (ROME,),
    ),
    Recording(
        "glm",
        "\n<think>Rome it is.</think>\nOne moment.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
        "<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
        (ROME_3,),
        "One moment.",
        "Rome it is.",
    ),
    Recording("glm", "<tool_call>now\n</tool_call>", (CALL_NOW,)),
    Recording("glm", "<tool_call>now</tool_call>", (CALL_NOW,)),
    Recording(
        "glm",
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>"
        "<tool_call>now</tool_call>",
        (ROME, CALL_NOW),
    ),
    Recording(
        "glm",
        "<tool_call>write_file\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n<arg_key>text</arg_key>\n"
        '<arg_value>print("hi")\n</arg_value>\n</tool_call>',
        (QUOTES,),
    ),
    Recording(
        "glm",
        "<tool_call>search.web\n<arg_key>query</arg_key>\n<arg_value>größe <b>&</arg_value>\n<arg_key>limit</arg_key>\n"
        '<arg_value>null</arg_value>\n<arg_key>filters</arg_key>\n<arg_value>{"site": ["a", 1.5, true]}</arg_value>\n'
        "<arg_key>tags</arg_key>\n<arg_value>[]</arg_value>\n</tool_call>",
        (MIXED,),
    ),
    Recording("glm", "<think></think>\nJust text.", content="Just text."),
    Recording("glm", '<tool_call>get_weather\n{"city": "Rome"}\n</tool_call>', (ROME,)),
)

LLAMA = (
    Recording("llama3-json", _object(ROME, "parameters"), (ROME,)),
    Recording("llama3-json", f"<|python_tag|>{_object(ROME, 'parameters')}", (ROME,)),
    Recording("llama3-json", f"{_object(ROME, 'parameters')}; {_object(CALL_NOW, 'parameters')}", (ROME, CALL_NOW)),
    Recording("llama3-json", f"{_object(MIXED, 'parameters')}\n{_object(QUOTES, 'parameters')}", (MIXED, QUOTES)),
    Recording(
        "llama3-json",
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Rome", "days": 3}}',
        (ROME_3,),
    ),
    Recording(
        "llama3-json",
        '<|python_tag|>brave_search.call(query="snow in Rome")',
        (("brave_search", {"query": "snow in Rome"}),),
    ),
    Recording("llama3-json", '{"answer": 42, "name": "now"}', content='{"answer": 42, "name": "now"}'),
    Recording("llama3-json", '{"name": "Rome", "parameters": {}}', content='{"name": "Rome", "parameters": {}}'),
    Recording("llama3-json", "It is sunny {really}.", content="It is sunny {really}."),
    Recording("llama3-json", f"Here: {_object(ROME, 'parameters')}", (ROME,), "Here:"),
    Recording("llama3-json", f"[{_object(ROME)}, {_object(CALL_NOW)}]", (ROME, CALL_NOW)),
    Recording("llama3-json", f"```json\n{_object(ROME, 'parameters', indent=4)}\n```", (ROME,)),
)

PYTHONIC = (
    Recording("pythonic", '[get_weather(city="Rome")]', (ROME,)),
    Recording("pythonic", "[get_weather(city='Rome', days=3), now()]", (ROME_3, CALL_NOW)),
    Recording("pythonic", "<|python_start|>[get_weather(city='Rome')]<|python_end|>", (ROME,)),
    Recording("pythonic", "<|tool_call_start|>[now()]<|tool_call_end|>Wait.", (CALL_NOW,), "Wait."),
    Recording(
        "pythonic",
        "[search.web(query='gr\\u00f6\\xdfe <b>&', limit=None, filters={'site': ['a', 1.5, True]}, tags=[])]",
        (MIXED,),
    ),
    Recording("pythonic", 'write_file("a.py", """print("hi")\n""")', (QUOTES,)),
    Recording(
        "pythonic", "[1] is a reference, get_weather(x) no call.", content="[1] is a reference, get_weather(x) no call."
    ),
    Recording("pythonic", "So:\n[get_weather(city='Rome',)]", (ROME,), "So:"),
    Recording("pythonic", '{"name": "get_weather", "parameters": {"city": "Rome"}}', (ROME,)),
    Recording(
        "pythonic",
        "[write_file(path='it\\'s', text='tab\\tsnow \\N \\101 \\U0001F600')]",
        (("write_file", {"path": "it's", "text": "tab\tsnow \\N A 😀"}),),
    ),
)

MISTRAL = (
    Recording("mistral", f"[TOOL_CALLS] [{_object(ROME)}]", (ROME,)),
    Recording("mistral", f"[TOOL_CALLS] [{_object(ROME_3)}, {_object(CALL_NOW)}]", (ROME_3, CALL_NOW)),
    Recording("mistral", f"Wait.[TOOL_CALLS][{_object(MIXED)}]", (MIXED,), "Wait."),
    Recording("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}', (ROME,)),
    Recording("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}[TOOL_CALLS]now[ARGS]{}', (ROME, CALL_NOW)),
    Recording("mistral", '[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Rome"}', (ROME,)),
    Recording("mistral", '[TOOL_CALLS] get_weather{"city": "Rome"}', (ROME,)),
    Recording("mistral", "[THINK]Rome.[/THINK]Now.[TOOL_CALLS]now[ARGS]{}", (CALL_NOW,), "Now.", "Rome."),
    Recording("mistral", '[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "VvvODy9mT"}]', (CALL_NOW,)),
    Recording("mistral", "An array [1, 2] and [TOOL.", content="An array [1, 2] and [TOOL."),
)


def _deepseek(*calls: str) -> str:
    return "<｜tool▁calls▁begin｜>" + "\n".join(calls) + "<｜tool▁calls▁end｜>"


def _v3(call: Call) -> str:
    arguments = json.dumps(call[1], ensure_ascii=False)
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call[0]}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"


def _v31(call: Call) -> str:
    return f"<｜tool▁call▁begin｜>{call[0]}<｜tool▁sep｜>{json.dumps(call[1], ensure_ascii=False)}<｜tool▁call▁end｜>"


DEEPSEEK = (
    Recording("deepseek", _deepseek(_v3(ROME)), (ROME,)),
    Recording("deepseek", _deepseek(_v3(ROME), _v3(CALL_NOW)), (ROME, CALL_NOW)),
    Recording(
        "deepseek",
        f"Rome.\n</think>\n\nWait.{_deepseek(_v3(MIXED))}",
        (MIXED,),
        "Wait.",
        "Rome.",
        "<｜Assistant｜><think>\n",
    ),
    Recording("deepseek", _deepseek(_v31(ROME_3)), (ROME_3,)),
    Recording("deepseek", f"Wait. {_deepseek(_v31(QUOTES), _v31(CALL_NOW))}", (QUOTES, CALL_NOW), "Wait."),
    Recording("deepseek", "<think>Hm.</think>Rome is fine.", content="Rome is fine.", reasoning="Hm."),
    Recording("deepseek", _v31(ROME), (ROME,)),
    Recording("deepseek", f"<｜tool_calls_begin｜>{_v3(ROME)}", (ROME,)),
    Recording("deepseek", "Never ends", reasoning="Never ends", prompt_end="<think>"),
)

_START = "<|start|>assistant"
HARMONY = (
    Recording(
        "harmony",
        "<|channel|>analysis<|message|>Need the weather.<|end|>"
        f"{_START}<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Rome"}<|call|>',
        (ROME,),
        reasoning="Need the weather.",
    ),
    Recording("harmony", "<|channel|>final<|message|>Hello <b>.<|return|>", content="Hello <b>."),
    Recording(
        "harmony",
        f"<|channel|>analysis<|message|>Easy.<|end|>{_START}<|channel|>final<|message|>Four.",
        content="Four.",
        reasoning="Easy.",
    ),
    Recording(
        "harmony",
        "<|channel|>commentary<|message|>I look.<|end|>"
        f'{_START}<|channel|>commentary to=functions.get_weather<|message|>{{"city": "Rome", "days": 3}}',
        (ROME_3,),
        "I look.",
    ),
    Recording(
        "harmony",
        " to=functions.now<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        (CALL_NOW,),
    ),
    Recording(
        "harmony",
        f'<|channel|>commentary to=functions.get_weather<|message|>{{"city": "Rome"}}<|call|>{_START}'
        "<|channel|>commentary to=functions.now<|message|>{}<|call|>",
        (ROME, CALL_NOW),
    ),
    Recording("harmony", "Plain words.", content="Plain words."),
    Recording(
        "harmony",
        " on.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        content="Yes.",
        reasoning=" on.",
        prompt_end="<|start|>assistant<|channel|>analysis<|message|>Go",
    ),
    Recording(
        "harmony",
        f"<|channel|>analysis<|message|>One.<|end|>{_START}<|channel|>analysis<|message|>Two.<|end|>",
        reasoning="One.\n\nTwo.",
    ),
)

GEMMA = (
    Recording("gemma", "[get_weather(city='Rome')]", (ROME,)),
    Recording("gemma", "```tool_code\nget_weather(city='Rome', days=3)\n```", (ROME_3,)),
    Recording("gemma", '```tool_code\nprint(get_weather(city="Rome"))\n```', (ROME,)),
    Recording("gemma", f"```json\n{_object(ROME, 'parameters')}\n```", (ROME,)),
    Recording("gemma", f"```json\n[{_object(ROME)},\n{_object(CALL_NOW)}]\n```", (ROME, CALL_NOW)),
    Recording("gemma", _object(MIXED, "parameters"), (MIXED,)),
    Recording("gemma", "```python\nprint(1)\n```", content="```python\nprint(1)\n```"),
    Recording("gemma", "```tool_code\nprint(default_api.now())\nget_weather(city='Rome')\n```", (CALL_NOW, ROME)),
    Recording("gemma", f"Okay.\n{_hermes(ROME)}", (ROME,), "Okay."),
)

_Q = '<|"|>'
GEMMA_4 = (
    Recording("gemma4", f"<|tool_call>call:get_weather{{city:{_Q}Rome{_Q}}}<tool_call|>", (ROME,)),
    Recording("gemma4", f"<|tool_call>call:get_weather{{city:{_Q}Rome{_Q},days:3}}<tool_call|>", (ROME_3,)),
    Recording("gemma4", "<|tool_call>call:now{}<tool_call|>", (CALL_NOW,)),
    Recording(
        "gemma4",
        f"<|tool_call>call:get_weather{{city:{_Q}Rome{_Q}}}<tool_call|><|tool_call>call:now{{}}<tool_call|>",
        (ROME, CALL_NOW),
    ),
    Recording(
        "gemma4",
        "<|channel>thought\nRome.\n<channel|>Wait.<|tool_call>call:now{}<tool_call|>",
        (CALL_NOW,),
        "Wait.",
        "Rome.",
    ),
    Recording(
        "gemma4",
        f"<|tool_call>call:search.web{{filters:{{site:[{_Q}a{_Q},1.5,true]}},limit:null,query:{_Q}größe <b>&{_Q},"
        "tags:[]}<tool_call|>",
        (MIXED,),
    ),
    Recording(
        "gemma4",
        f'<|tool_call>call:write_file{{path:{_Q}a.py{_Q},text:{_Q}print("hi")\n{_Q}}}<tool_call|>',
        (QUOTES,),
    ),
    Recording("gemma4", "<|channel>thought\n<channel|>Hello.", content="Hello."),
    Recording("gemma4", '<|tool_call>call:get_weather{"city": "Rome"}<tool_call|>', (ROME,)),
)

_E = "<escape>"
FUNCTION_GEMMA = (
    Recording(
        "functiongemma",
        f"<start_function_call>call:get_weather{{city:{_E}Rome{_E}}}<end_function_call>",
        (ROME,),
    ),
    Recording(
        "functiongemma",
        f"<start_function_call>call:get_weather{{days:3,city:{_E}Rome{_E}}}<end_function_call><start_function_call>"
        "call:now{}<end_function_call>",
        (ROME_3, CALL_NOW),
    ),
    Recording("functiongemma", "I cannot.", content="I cannot."),
)

GRANITE = (
    Recording("granite", f"<|tool_call|>[{_object(ROME)}]", (ROME,)),
    Recording("granite", f"<|tool_call|> [{_object(ROME_3)}, {_object(CALL_NOW)}]", (ROME_3, CALL_NOW)),
    Recording("granite", f"<tool_call>{_object(MIXED)}</tool_call>", (MIXED,)),
    Recording("granite", f"<function_call>{_object(QUOTES)}", (QUOTES,)),
    Recording(
        "granite",
        "<think>Rome.</think><response>It rains.</response>",
        content="It rains.",
        reasoning="Rome.",
    ),
    Recording(
        "granite",
        "Here is my thought process:\nRome.\n\nHere is my response:\nIt rains.",
        content="It rains.",
        reasoning="Rome.",
    ),
    Recording("granite", f"<think>Rome.</think>\n<|tool_call|>[{_object(ROME)}]", (ROME,), reasoning="Rome."),
    Recording("granite", "Here is my list: one.", content="Here is my list: one."),
    Recording("granite", "<|tool_call|>[]", content=""),
)

PHI = (
    Recording("phi4", f"<|tool_call|>[{_object(ROME)}]<|/tool_call|>", (ROME,)),
    Recording("phi4", f"<|tool_call|>{_object(ROME)}<|/tool_call|>", (ROME,)),
    Recording("phi4", f"functools[{_object(ROME_3)}]", (ROME_3,)),
    Recording("phi4", f"functools[{_object(ROME)}, {_object(CALL_NOW)}]", (ROME, CALL_NOW)),
    Recording("phi4", f"<|tool_call|>{_object(MIXED)}<|/tool_call|>\n<|tool_call|>{_object(QUOTES)}", (MIXED, QUOTES)),
    Recording("phi4", f"Sure. <|tool_call|>[{_object(CALL_NOW)}]<|/tool_call|>", (CALL_NOW,), "Sure."),
    Recording("phi4", "The functools module.", content="The functools module."),
    Recording("phi4", f"<tool_call>\n{_object(ROME)}\n</tool_call>", (ROME,)),
    Recording("phi4", "<think>Hm.</think>Yes.", content="Yes.", reasoning="Hm."),
)

OTHERS = (
    Recording("nemotron", f"<TOOLCALL>[{_object(ROME)}, {_object(CALL_NOW)}]</TOOLCALL>", (ROME, CALL_NOW)),
    Recording(
        "seed",
        "<seed:think>Rome.</seed:think>\n<seed:tool_call>\n<function=get_weather>\n<parameter=city>Rome</parameter>\n"
        "</function>\n</seed:tool_call>",
        (ROME,),
        reasoning="Rome.",
    ),
)

RECORDINGS: tuple[Recording, ...] = (
    *(*HERMES, *GENERIC, *QWEN3_CODER, *GLM, *LLAMA, *PYTHONIC, *MISTRAL, *DEEPSEEK),
    *(*HARMONY, *GEMMA, *GEMMA_4, *FUNCTION_GEMMA, *GRANITE, *PHI, *OTHERS),
)
