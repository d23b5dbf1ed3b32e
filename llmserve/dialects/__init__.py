"""The other protocols that clients speak, as translators onto OpenAI's chat request and from its answers.

Everything here is pure: bytes and values in and out. Each folder holds one dialect: its closed schemas, what its
requests mean in ours, and how a worker's answer reads in its words. The routes are in `llmserve.api`.
"""
