"""Ollama's native API: `/api/chat`, `/api/generate`, `/api/embed` and the routes about models."""
