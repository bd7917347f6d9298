"""What `ltx bench model` measures of LTX-Video and a self-test compares, with random weights."""
