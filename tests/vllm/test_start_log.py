"""Logs of real starts: vLLM 0.32 on a processor as captured, and the lines that GPUs add, from its own sources."""

from __future__ import annotations

from llmserve.vllm.start_log import Measured, StartLog

CPU_START = """\
(APIServer pid=4519) INFO 11-24 20:45:31 [model.py:733] Resolved architecture: LlamaForCausalLM
(EngineCore pid=5362) INFO 11-24 20:45:45 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'
(Worker pid=5464) INFO 11-24 20:46:00 [cpu_model_runner.py:68] Starting to load model /models/smollm2-bf16...
Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]
\rLoading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  2.06it/s]
(Worker pid=5464) INFO 11-24 20:46:01 [default_loader.py:501] Loading weights took 0.49 seconds
(EngineCore pid=5362) INFO 11-24 20:46:02 [kv_cache_utils.py:2327] CPU KV cache size: 46,592 tokens, Maximum \
concurrency for 4,096 tokens per request: 11.38x
(EngineCore pid=5362) INFO 11-24 20:46:04 [core.py:402] init engine (profile, create kv cache, warmup model) took 2.22 s
(APIServer pid=4519) INFO 11-24 20:46:07 [entry.py:140] Starting vLLM server on unix:/run/1.sock
"""
GPU_LINES = """\
(EngineCore pid=1) INFO 11-24 20:46:01 [gpu_model_runner.py:4] Model loading took 15.2683 GiB memory and 3.9 seconds
(EngineCore pid=1) INFO 11-24 20:46:02 [backends.py:9] Dynamo bytecode transform time: 4.60 s
(EngineCore pid=1) INFO 11-24 20:46:09 [monitor.py:7] torch.compile took 18.51 s in total
(EngineCore pid=1) INFO 11-24 20:46:10 [gpu_worker.py:7] Available KV cache memory: 3.81 GiB
(EngineCore pid=1) INFO 11-24 20:46:10 [kv_cache_utils.py:7] GPU KV cache size: 31,232 tokens
Capturing CUDA graphs (decode, FULL):  40%|####      | 14/35 [00:01<00:01, 12.6it/s]
(EngineCore pid=1) INFO 11-24 20:46:12 [gpu_model_runner.py:9] Graph capturing finished in 2 secs, took 0.58 GiB
"""


def phases(log: str) -> list[tuple[str, float | None]]:
    """What it says after each line, repetitions left out."""
    reader = StartLog()
    seen = [(reader.phase, reader.share)]
    for line in log.splitlines(keepends=True):
        reader.feed(line.encode())
        if seen[-1] != (reader.phase, reader.share):
            seen.append((reader.phase, reader.share))
    return seen


def test_a_start_on_a_processor() -> None:
    assert phases(CPU_START) == [
        ("starting", None),
        ("loading weights", None),
        ("loading weights", 0.0),
        ("loading weights", 0.5),
        ("measuring memory", None),
        ("starting the server", None),
    ]


def test_a_start_on_a_gpu() -> None:
    assert phases(GPU_LINES) == [
        ("starting", None),
        ("measuring memory", None),
        ("compiling", None),
        ("warming up", None),
        ("capturing graphs", 0.4),
        ("warming up", None),
    ]


def test_what_was_measured() -> None:
    reader = StartLog()
    reader.feed((GPU_LINES + CPU_START).encode())
    assert reader.measured == Measured(15.2683, 3.81, 46592, 0.58, 2.22)


def test_a_log_may_arrive_cut_anywhere() -> None:
    whole, cut = StartLog(), StartLog()
    whole.feed((CPU_START + GPU_LINES).encode())
    for byte in (CPU_START + GPU_LINES).encode():
        cut.feed(bytes([byte]))
    assert (cut.phase, cut.share, cut.measured) == (whole.phase, whole.share, whole.measured)


def test_anything_at_all_is_read() -> None:
    reader = StartLog()
    reader.feed(b"\xff\xfe\x00" * 100_000 + b"\n(((((pid=\nINFO\n")
    assert (reader.phase, reader.measured) == ("starting", Measured())
