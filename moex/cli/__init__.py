"""From the command line to typed parts and back to the screen."""
