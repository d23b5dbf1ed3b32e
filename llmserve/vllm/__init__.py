"""How vLLM is spoken to: its command line, requests, answers, log and metrics. Pure; vLLM itself is never imported."""
