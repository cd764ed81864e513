"""The offloaded forward pass: transformers models whose experts go through moex."""
