"""Batches: files of requests that are answered line by line, each line once, whatever happens meanwhile."""
