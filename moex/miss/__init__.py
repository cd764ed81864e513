"""Miss handlers: they decide how absent experts are handled; one file each."""
