"""The llama worker: one GGUF model, served with continuous batching over llama.cpp's low-level API."""
