"""PyTorch's scaled_dot_product_attention on the cells of `gpu_attention --set prefill`, as JSON lines.

Dense bf16 Q, K, V with the kv heads repeated; the chunk's queries are the last of the context. Each backend that takes
the shape is timed; TFLOPS count what the causal mask leaves, as the bench does.
"""

import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from _gpu_timing import time_us

# batch, chunk, context, q heads, head_dim
CELLS = [(1, 512, 8192, 32, 128), (1, 1024, 8192, 32, 128), (1, 2048, 2048, 32, 128), (1, 2048, 8192, 32, 128),
         (1, 2048, 32768, 32, 128), (1, 4096, 4096, 32, 128), (1, 8192, 8192, 32, 128), (1, 8192, 32768, 32, 128),
         (8, 2048, 2048, 32, 128), (1, 8192, 8192, 8, 128), (1, 8192, 8192, 32, 64), (1, 8192, 8192, 16, 256)]


for batch, chunk, context, heads, dim in CELLS:
    q = torch.randn(batch, heads, chunk, dim, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(batch, heads, context, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    keys = batch * (chunk * (context - chunk) + chunk * (chunk + 1) / 2)
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        if chunk == context:
            mask = dict(is_causal=True)
        else:
            mask = dict(attn_mask=causal_lower_right(chunk, context))
        try:
            with sdpa_kernel(backend):
                us = time_us(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, **mask), calls=8)
        except RuntimeError as error:
            print(json.dumps({"cell": f"{batch}*{chunk}x{context} {heads} d{dim}", "backend": backend.name,
                              "error": str(error).split("\n")[0][:80]}))
            continue
        print(json.dumps({"cell": f"{batch}*{chunk}x{context} {heads} d{dim}", "backend": backend.name,
                          "us": round(us, 1), "tflops": round(4 * keys * dim * heads / us * 1e-6, 1)}), flush=True)
