"""Brings a model up in a thread, so that the worker answers `/health` while it loads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmserve.llama.chat_template import CHATML, ChatTemplate
from llmserve.llama.constraint import ConstraintFactory
from llmserve.llama.engine import Engine
from llmserve.llama.kv_cache import KvCache, Limits, UnifiedCache
from llmserve.llama.prompt import PromptBuilder
from llmserve.llama.scheduler import Scheduler
from llmserve.llama.service import ModelFacts, Service
from llmserve.llama.split_cache import SplitCache
from llmserve.llama.step_budget import StepBudget
from llmserve.types import EnginePlan

# Slots for finished sequences beside the running ones, so that their prefixes can be shared.
_IDLE_SLOTS = 32
_MOST_SLOTS = 256
# Attention on a CPU walks over every used cell, whoever owns it: 500 idle ones cost about a tenth of the speed. So
# short finished sequences, quickly computed again, make way for the next request, and long ones keep a bounded part.
_IDLE_CELLS_CPU = 8192
_WORTH_KEEPING_CPU = 512


class Loader:
    """`service` is None until the model is ready; `progress` runs from 0 to 1 before that."""

    def __init__(self, name: str, path: Path, plan: EnginePlan) -> None:
        self._name = name
        self._path = path
        self._plan = plan
        self.progress = 0.0
        self.service: Service | None = None

    async def load(self) -> None:
        """Load the model and start its engine. Raises `InvalidModel` where llama.cpp or a check refuses it."""
        loop = asyncio.get_running_loop()
        # In a thread that ends afterwards: OpenMP keeps a team of threads for every thread that ever computed, and once
        # the teams outnumber the processors it hardly waits awake between two operations, which halves the speed.
        with ThreadPoolExecutor(1, thread_name_prefix="load") as loading:
            self.service = await loop.run_in_executor(loading, self._bring_up, loop)

    def close(self) -> None:
        if self.service is not None:
            self.service.close()
            self.service.engine.close()

    def _bring_up(self, loop: asyncio.AbstractEventLoop) -> Service:
        from llmserve.llama.runner import Runner

        plan = self._plan
        slots = plan.parallel if plan.kv_layout == "split" else min(_MOST_SLOTS, plan.parallel + _IDLE_SLOTS)
        runner = Runner(self._path, plan, slots, self._report)
        vocabulary = runner.vocabulary
        cache = _cache(plan, slots, runner.cells, cuttable=runner.cuttable)
        engine = Engine(
            runner,
            Scheduler(cache, StepBudget(plan.batch)),
            vocabulary.piece,
            vocabulary.ends,
            loop.call_soon_threadsafe,
        )
        context = min(plan.context, cache.longest)
        template = ChatTemplate(
            runner.chat_template or CHATML, bos=vocabulary.text(vocabulary.bos), eos=vocabulary.text(vocabulary.eos)
        )
        facts = ModelFacts(self._name, context, vocabulary.size, vocabulary.ends)
        constraints = ConstraintFactory(runner.grammar_tokenizer, vocabulary.size)
        runner.warm_up()
        engine.start()
        return Service(engine, facts, PromptBuilder(vocabulary, template, context), constraints)

    def _report(self, progress: float) -> None:
        self.progress = progress


def _cache(plan: EnginePlan, slots: int, cells: int, *, cuttable: bool) -> KvCache:
    """The bookkeeping that fits the context the runner opened."""
    split = plan.kv_layout == "split"
    limits = Limits(
        parallel=plan.parallel if split else min(plan.parallel, slots - 1),
        slots=slots,
        cells=cells,
        idle_cells=cells if plan.gpu_layers else min(cells, _IDLE_CELLS_CPU),
        worth_keeping=0 if plan.gpu_layers else _WORTH_KEEPING_CPU,
        cuttable=cuttable,
        shelf=plan.saved_tokens,
    )
    return SplitCache(limits) if split else UnifiedCache(limits)
