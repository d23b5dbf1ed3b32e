"""Pure decisions: how much memory a model needs, how to run it on a machine, which loaded models make room."""
