"""Stores hold the master copies of experts; slots are the device memory they are loaded into."""
