"""`python -m llmserve`: the same program as the `llmserve` command."""

import sys

from llmserve.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
