"""Metrics, intervals and comparison tests."""
