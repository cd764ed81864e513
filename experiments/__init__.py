"""Questions, commands, results: the scripts of the four rooms, and what they share."""
