"""Who leaves: the cache, its books and one file per policy."""
