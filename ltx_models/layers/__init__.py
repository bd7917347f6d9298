"""What models are made of: linear layers in several precisions, quantization, embeddings of timesteps."""
