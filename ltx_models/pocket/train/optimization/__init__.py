"""The recipe, the loop and the optimizer of the training."""
