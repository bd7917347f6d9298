"""Turn a prompt into what the transformer reads: T5 and its tokenizer."""
