"""The network: what it judges with, how it is trained, and how well it does."""

from pathlib import Path

# Here, so that the page can read the card without loading ONNX Runtime.
SHIPPED = Path(__file__).parent / "weights" / "cxr-3.onnx"
CARD = SHIPPED.with_suffix(".json")
