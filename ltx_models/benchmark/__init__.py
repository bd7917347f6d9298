"""Measure how fast the models are on this machine."""
