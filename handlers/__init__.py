"""The Lambda entry points. Local mode calls the same functions with the same events."""
