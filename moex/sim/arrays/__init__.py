"""The replay as functions over arrays, compiled with the rules of a policy."""
