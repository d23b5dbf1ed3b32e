"""OpenAI's protocol: request schemas, response shapes and server-sent events.

Shared by the gateway, which validates a request and writes its canonical form, and by a worker, which reads that form
again and writes the answer. This file re-exports nothing: a client that only reads events need not load the schemas.
"""
