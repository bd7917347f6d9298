"""Test farms whose clients and workers are of several versions."""
