"""What instructor does, in an environment of its own; the server is named by the environment. Writes what it did."""

from __future__ import annotations

import json
import os
from typing import Annotated, Literal

import instructor
import openai
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """The weather in a city."""

    city: Annotated[str, Field(max_length=20)]
    unit: Literal["celsius", "fahrenheit"]


ASKED = {
    "model": os.environ["MODEL"],
    "messages": [{"role": "user", "content": "How warm is it in Paris, in celsius?"}],
    "temperature": 0,
    "max_tokens": 100,
}


def main() -> None:
    raw = openai.OpenAI(base_url=f"{os.environ['URL']}/v1", api_key=os.environ["KEY"], max_retries=0)
    done = []
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        weather = instructor.from_openai(raw, mode=mode).create(response_model=Weather, max_retries=2, **ASKED)
        if not isinstance(weather, Weather):
            raise TypeError(f"{mode} gave {weather!r}")
        done.append(mode.name.lower())
    parts = list(instructor.from_openai(raw).create_partial(response_model=Weather, **ASKED))
    Weather.model_validate(parts[-1].model_dump())
    print(json.dumps([*done, "partial"]))


if __name__ == "__main__":
    main()
