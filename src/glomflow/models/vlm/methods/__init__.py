"""Adaptation methods, one per file."""
