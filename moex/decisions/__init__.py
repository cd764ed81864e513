"""What decides: policy, cache, rows, prefetcher and miss handler, without torch."""
