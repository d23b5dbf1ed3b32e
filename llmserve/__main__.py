"""`python -m llmserve`: the same program as the `llmserve` command."""

import sys

from llmserve.cli.main import program

if __name__ == "__main__":
    sys.exit(program())
