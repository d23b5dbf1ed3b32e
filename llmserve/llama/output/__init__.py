"""What a model's text means: reasoning, answer and tool calls, whatever form its family writes them in."""
