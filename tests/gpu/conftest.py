"""python -m pytest tests/gpu: needs a CUDA card, PyTorch and a built liboctavo-cuda (deno task build --backend cuda)."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
