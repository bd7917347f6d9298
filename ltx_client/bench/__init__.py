"""Measure what `ltx bench` reports."""
