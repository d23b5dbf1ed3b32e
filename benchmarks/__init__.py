"""Measurements against peers; each prints its figures and ratios, none is a test."""
