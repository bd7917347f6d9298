"""From a prompt to what the transformer reads: T5 and its tokenizer."""
