"""The expert cache, its statistics, and one file per eviction policy."""
