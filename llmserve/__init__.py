"""llmserve: a local LLM inference server that probes, plans, serves, and says why."""

__version__ = "0.1.0"
