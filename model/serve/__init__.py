"""Judge an image file without torch."""

import os

# ONNX Runtime's official builds otherwise report each process to Microsoft, with an identifier that they keep
# in the user's cache folder: github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md. Read at the start.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
