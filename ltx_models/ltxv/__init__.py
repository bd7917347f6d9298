"""What belongs to LTX-Video 0.9.x besides its row, its networks and its pipeline.

footprint.py, diffusers_names.py   memory and names of tensors, without MLX
conversion.py                      what `ltx models convert` checks and writes
measured/                          what is measured and compared
"""
