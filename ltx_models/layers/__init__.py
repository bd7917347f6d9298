"""The layers that models share: linear layers in several precisions, quantization, timestep embeddings."""
