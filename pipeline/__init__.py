"""Define the shared language of the system and how one X-ray flows through it."""
