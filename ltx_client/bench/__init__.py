"""What `ltx bench` measures with."""
