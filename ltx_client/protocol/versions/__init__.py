"""Contain what a farm of several versions needs: the features of jobs and workers, and how newer records are read."""
