"""Provide the Lambda entry points; local mode calls the same functions with the same events."""
