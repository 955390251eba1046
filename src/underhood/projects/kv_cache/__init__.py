"""Project 13: the KV cache."""
