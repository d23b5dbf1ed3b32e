"""The `llmserve` command: prints what the other packages know and decide. One file per command."""
