"""The settings that decide a run: policy, cache, rows, prefetcher, miss handler; no torch."""
