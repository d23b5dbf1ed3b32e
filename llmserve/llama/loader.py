"""Brings a model up in a thread, so that the worker answers `/health` while it loads."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.errors import InvalidModel, WrongModelKind
from llmserve.llama.adapter_sets import Adapters
from llmserve.llama.built_in_templates import built_in, choose_built_in
from llmserve.llama.chat_output import ModelOutput
from llmserve.llama.constraint import ConstraintFactory
from llmserve.llama.embedder import Embedder
from llmserve.llama.embedding_service import EmbeddingModel, EmbeddingService
from llmserve.llama.engine import Engine
from llmserve.llama.grammar_work import vocabulary_setup
from llmserve.llama.growth import Growth
from llmserve.llama.kv_cache import Limits, UnifiedCache
from llmserve.llama.model_defaults import METADATA_KEYS, choices_of_metadata
from llmserve.llama.output.formats import OutputFormat, detect
from llmserve.llama.pairs import PairWriter
from llmserve.llama.prefix_archive import PrefixArchive
from llmserve.llama.prefix_keeper import PrefixKeeper
from llmserve.llama.preparation import Preparer
from llmserve.llama.prompt import PromptBuilder
from llmserve.llama.scheduler import Scheduler
from llmserve.llama.service import ModelFacts, Service
from llmserve.llama.split_cache import SplitCache
from llmserve.llama.step_budget import StepBudget
from llmserve.llama.templates import DEFAULT, NAMES, Templates
from llmserve.llama.tokens import TokenService
from llmserve.openai.chat_input import ChatInput
from llmserve.planning.rules import FEW_STREAMS
from llmserve.types import EnginePlan

if TYPE_CHECKING:
    from llmserve.llama.runner import Runner

# Slots for finished sequences beside the running ones, so that their prefixes can be shared.
_IDLE_SLOTS = 32
_MOST_SLOTS = 256
# Attention on a CPU walks over every used cell, whoever owns it: 500 idle ones cost about a tenth of the speed. So
# short finished sequences, quickly computed again, make way for the next request, and long ones keep a bounded part.
_IDLE_CELLS_CPU = 8192
_WORTH_KEEPING_CPU = 512
# Tokens of texts that are embedded in one step. On two cores more than 128 gain little, and whoever comes next waits
# for all of them (docs/architecture.md has the measurements). A GPU needs more to be busy.
_EMBEDDING_STEP_CPU = 128
_EMBEDDING_STEP_GPU = 2048

_log = logging.getLogger(__name__)


class Loader:
    """`service` and `tokens` are None until the model is ready; `progress` runs from 0 to 1 before that.

    `prefixes` is the directory in which prefixes of this model are kept from run to run; None: nowhere. `template` is a
    file with the chat template to use instead of those in the model's, `adapters` are those that change its weights.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        plan: EnginePlan,
        prefixes: Path | None = None,
        template: Path | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self._name = name
        self._path = path
        self._plan = plan
        self._prefixes = prefixes
        self._template = template
        self._adapters = adapters or Adapters()
        self._watching: asyncio.Task[None] | None = None
        self.progress = 0.0
        self.service: Service | EmbeddingService | None = None
        self.tokens: TokenService | None = None
        self._for_templates = Preparer("templates")
        self._for_grammars = Preparer("grammars")

    async def load(self) -> None:
        """Load the model and start its engine. Raises `InvalidModel` where llama.cpp or a check refuses it."""
        loop = asyncio.get_running_loop()
        # In a thread that ends afterwards: OpenMP keeps a team of threads for every thread that ever computed, and once
        # the teams outnumber the processors it hardly waits awake between two operations, which halves the speed.
        with ThreadPoolExecutor(1, thread_name_prefix="load") as loading:
            bring_up = self._bring_up if self._plan.kind == "generate" else self._bring_up_embedding
            self.service = await loop.run_in_executor(loading, bring_up, loop)
        if isinstance(self.service, Service) and self.service.prefixes is not None:
            self._watching = asyncio.create_task(self.service.prefixes.watch())

    def close(self) -> None:
        """Stop computing, after the prefixes that are worth it were written: blocks for some seconds at most."""
        if self._watching is not None:
            self._watching.cancel()
        if isinstance(self.service, EmbeddingService):
            self.service.close()
            self.service.embedder.close()
        elif self.service is not None:
            self.service.close()
            self.service.engine.close()
        self._for_templates.close()
        self._for_grammars.close()

    def _bring_up_embedding(self, loop: asyncio.AbstractEventLoop) -> EmbeddingService:
        from llmserve.llama.embedding_runner import EmbeddingRunner

        runner = EmbeddingRunner(self._path, self._plan, self._report)
        step_tokens = _EMBEDDING_STEP_GPU if self._plan.gpu_layers else _EMBEDDING_STEP_CPU
        embedder = Embedder(runner, step_tokens, loop.call_soon_threadsafe)
        model = EmbeddingModel(self._name, runner.context, runner.width, runner.ranks)
        pairs = PairWriter(runner.vocabulary, runner.pair_marks, runner.rerank_template)

        def no_chat(_: ChatInput) -> list[int]:
            raise WrongModelKind.of(self._name, "rank" if runner.ranks else "embed")

        self.tokens = TokenService(runner.vocabulary, runner.context, no_chat)
        runner.warm_up()
        embedder.start()
        return EmbeddingService(embedder, model, runner.vocabulary, pairs)

    def _bring_up(self, loop: asyncio.AbstractEventLoop) -> Service:
        from llmserve.llama.runner import Runner

        # Their libraries load while the model does.
        self._for_templates.start()
        self._for_grammars.start()
        plan = self._plan
        runner = Runner(self._path, plan, _first_slots(plan), self._report, self._adapters.sets)
        slots, vocabulary = runner.slots, runner.vocabulary
        limits = _limits(plan, slots, runner.cells, cuttable=runner.cuttable)
        cache = SplitCache(limits) if plan.kv_layout == "split" else UnifiedCache(limits)
        scheduler = Scheduler(cache, StepBudget(plan.batch))
        engine = Engine(
            runner,
            scheduler,
            vocabulary.piece,
            vocabulary.ends,
            loop.call_soon_threadsafe,
        )
        if plan.kv_layout == "split" and slots < plan.parallel:
            stages = [
                _limits(plan, streams, cache.longest * streams, cuttable=runner.cuttable)
                for streams in sorted({min(FEW_STREAMS, plan.parallel), plan.parallel})
                if streams > slots
            ]
            engine.growth = Growth(runner, scheduler, stages, engine.call)
        context = min(plan.context, cache.longest)
        templates = self._templates(runner)
        prompts = PromptBuilder(vocabulary, templates, context)
        facts = ModelFacts(
            self._name,
            context,
            vocabulary.size,
            vocabulary.ends,
            vocabulary.piece,
            vocabulary.spelling,
            choices_of_metadata(runner.metadata(METADATA_KEYS)),
            drafts=plan.speculation and runner.cuttable,
            adapters=self._adapters,
        )
        self._for_grammars.set_up(
            lambda: vocabulary_setup(vocabulary.spellings(), vocabulary.special(), vocabulary.ends)
        )
        constraints = ConstraintFactory(self._for_grammars.ask, runner.grammar_tokenizer, vocabulary.size)
        output = self._output(runner, templates, prompts)
        self.tokens = TokenService(vocabulary, context, lambda asked: prompts.chat_tokens(output.chat(asked)))
        runner.warm_up()
        engine.start()
        return Service(engine, facts, output, prompts, constraints, self._keeper(engine, scheduler, runner))

    def _keeper(self, engine: Engine, scheduler: Scheduler, runner: Runner) -> PrefixKeeper | None:
        limits = scheduler.cache.limits
        if self._prefixes is None or not self._plan.prefix_disk_bytes or not limits.shelf:
            return None
        layout = runner.state_layout(self._plan)
        # The directory is the model's, whose digest says what each of its adapters is.
        layouts = [layout, *(f"{layout} adapter={adapter.name}" for adapter in self._adapters.named)]
        archives = [
            PrefixArchive(self._prefixes, layout, self._plan.prefix_disk_bytes, cuttable=limits.cuttable)
            for layout in layouts
        ]
        try:
            for archive in archives:
                archive.open(longest=min(scheduler.cache.longest, limits.shelf))
        except OSError as error:
            _log.warning("no prefixes are kept on the disk: %s", error)
            return None
        return PrefixKeeper(engine, scheduler, runner, archives)

    def _output(self, runner: Runner, templates: Templates, prompts: PromptBuilder) -> ModelOutput:
        vocabulary = runner.vocabulary
        special = {vocabulary.text(token): token for token in vocabulary.special()}

        def output_format(*, tools: bool) -> OutputFormat:
            source = templates.source(templates.choose(tools=tools))
            accepts_tools = prompts.capabilities(tools=tools).tools
            name = None if self._plan.output_format == "template" else self._plan.output_format
            return detect(source, runner.architecture, accepts_tools=accepts_tools, name=name)

        return ModelOutput(
            plain=output_format(tools=False),
            with_tools=output_format(tools=True),
            special_tokens=special,
            invisible=frozenset(token for token in special.values() if not vocabulary.piece(token)),
            tokenize=lambda text: vocabulary.tokenize(text, special=True),
            spell=vocabulary.text,
        )

    def _templates(self, runner: Runner) -> Templates:
        vocabulary = runner.vocabulary
        if self._template is not None:
            sources: dict[str, str | None] = {DEFAULT: _read_template(self._template)}
        else:
            sources = {name: runner.chat_template(None if name == DEFAULT else name) for name in NAMES}
        # For some files llama.cpp gives the name of a form it knows instead of a template.
        if "{" not in (sources[DEFAULT] or ""):
            sources[DEFAULT] = built_in(choose_built_in(runner.architecture, vocabulary.control_texts()))
        tokens = {"bos_token": vocabulary.text(vocabulary.bos), "eos_token": vocabulary.text(vocabulary.eos)}
        templates = Templates(
            {name: source for name, source in sources.items() if source is not None}, self._for_templates.ask, tokens
        )
        self._for_templates.set_up(templates.setup)
        return templates

    def _report(self, progress: float) -> None:
        self.progress = progress


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModel("the model's chat template cannot be read as text") from error


def _first_slots(plan: EnginePlan) -> int:
    """Slots of the cache that is opened at the start."""
    if plan.kv_layout == "split":
        return plan.first_streams or plan.parallel
    return min(_MOST_SLOTS, plan.parallel + _IDLE_SLOTS)


def _limits(plan: EnginePlan, slots: int, cells: int, *, cuttable: bool) -> Limits:
    """The bookkeeping that fits a context with so many slots and cells."""
    return Limits(
        parallel=slots if plan.kv_layout == "split" or not cuttable else min(plan.parallel, slots - 1),
        slots=slots,
        cells=cells,
        idle_cells=cells if plan.gpu_layers else min(cells, _IDLE_CELLS_CPU),
        worth_keeping=0 if plan.gpu_layers else _WORTH_KEEPING_CPU,
        cuttable=cuttable,
        shelf=plan.saved_tokens,
        spare_rows=plan.spare_rows,
    )
