"""GGUF files, read as the model folders that they were made of."""
