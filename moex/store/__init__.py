"""Where the master copies of experts live, and the places they are loaded into."""
