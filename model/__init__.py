"""Serve, train and measure the network."""

from pathlib import Path

# Kept here so that the page can read the card without loading ONNX Runtime.
SHIPPED = Path(__file__).parent / "weights" / "cxr-3.onnx"
CARD = SHIPPED.with_suffix(".json")
