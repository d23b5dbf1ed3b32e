"""Models on this disk: which exist, where they come from, and proof that a file is the one that was asked for."""
