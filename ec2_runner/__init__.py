"""Run the inference host."""
