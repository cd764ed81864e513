"""The command line: configuration to typed objects, and results to the screen."""
