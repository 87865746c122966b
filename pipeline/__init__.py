"""The shared language of the system, and the way of one X-ray through it."""
