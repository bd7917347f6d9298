"""The machine: its power, heat, folders and programs, and whether it is fit to take jobs."""
