"""What the gateway knows of an engine: whether it is usable here, and how to start it. No engine is imported."""
