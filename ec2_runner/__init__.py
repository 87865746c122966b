"""The inference host: what runs on it."""
