"""Provide the farm's storage: a folder, a share or S3, behind one class."""
