"""FlashAttention 3 on the cells of `gpu_attention --set prefill`, as JSON lines.

    python3 bench/prefill_fa3.py PATH/_vllm_fa3_C.abi3.so

The extension comes from a vLLM wheel (vllm/vllm_flash_attn); PyTorch loads it by itself. K and V are dense, or in pages
of 16 or 128 tokens in random order as vLLM has them; the fastest of its split settings counts. With FP8, Q is FP8 too.
TFLOPS count what the causal mask leaves, as the bench does.
"""

import json
import sys

import torch

from _gpu_timing import time_us

# batch, chunk, context, q heads, kv heads, head_dim
CELLS = [(1, 512, 8192, 32, 8, 128), (1, 1024, 8192, 32, 8, 128), (1, 2048, 2048, 32, 8, 128),
         (1, 2048, 8192, 32, 8, 128), (1, 2048, 32768, 32, 8, 128), (1, 2048, 131072, 32, 8, 128),
         (1, 4096, 4096, 32, 8, 128), (1, 8192, 8192, 32, 8, 128), (1, 8192, 32768, 32, 8, 128),
         (8, 2048, 2048, 32, 8, 128), (1, 8192, 8192, 32, 32, 128), (1, 8192, 8192, 8, 1, 128),
         (1, 8192, 8192, 32, 8, 64), (1, 8192, 8192, 16, 8, 256)]
PAGES = [0, 16, 128]  # 0: dense


def attend(q, k, v, begins, lengths, chunk, context, table, splits):
    """The operator's 37 arguments: what is not named here is absent."""
    one = torch.ones(1, device="cuda").expand(lengths.shape[0], k.shape[-2]) if q.dtype.itemsize == 1 else None
    dense = table is None
    cu_k = torch.arange(lengths.shape[0] + 1, dtype=torch.int32, device="cuda") * context if dense else None
    out = torch.empty(q.shape, dtype=torch.bfloat16, device="cuda")
    arguments = [q, k, v, None, None, None, out, begins, cu_k, None, None, None if dense else lengths, chunk, context,
                 table, None, None, None, None, None, one, one, one, q.shape[-1] ** -0.5, True, -1, -1, 0.0, True, None,
                 splits, None, 0, None, 1, 0, None]
    return lambda: torch.ops._vllm_fa3_C.fwd(*arguments)[0]


def check(run, q, k, v, heads, kv_heads):
    """A dense cell of one sequence against PyTorch."""
    q, k, v = (x.float().transpose(0, 1)[None] for x in (q, k, v))
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device="cuda").tril(k.shape[2] - q.shape[2])
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=heads != kv_heads)
    return ((run().float() - expected[0].transpose(0, 1)).norm() / expected.norm()).item()


def main():
    torch.ops.load_library(sys.argv[1])
    for dtype in (torch.float8_e4m3fn, torch.bfloat16):
        for batch, chunk, context, heads, kv_heads, dim in CELLS:
            q = torch.randn(batch * chunk, heads, dim, device="cuda", dtype=torch.bfloat16).to(dtype)
            k, v = (torch.randn(batch * context, kv_heads, dim, device="cuda", dtype=torch.bfloat16).to(dtype)
                    for _ in range(2))
            begins = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * chunk
            lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
            keys = batch * (chunk * (context - chunk) + chunk * (chunk + 1) / 2)
            for page in PAGES:
                if page == 0:
                    table, pages = None, (k, v)
                else:
                    count = batch * context // page
                    table = torch.randperm(count, device="cuda").to(torch.int32).view(batch, -1).contiguous()
                    pages = tuple(x.view(count, page, kv_heads, dim) for x in (k, v))
                line = {"cell": f"{batch}*{chunk}x{context} {heads}/{kv_heads} d{dim}", "page": page,
                        "kv": "bfloat16" if dtype == torch.bfloat16 else "fp8_e4m3"}
                try:
                    run = {s: attend(q, *pages, begins, lengths, chunk, context, table, s) for s in (0, 1)}
                    if page == 0 and batch == 1 and chunk * context <= 2048 * 2048:
                        line["error"] = round(check(run[1], q, k, v, heads, kv_heads), 5)
                    us = {s: time_us(run[s], calls=4) for s in run}
                    best = min(us, key=us.get)
                    line |= {"splits": best, "us": round(us[best], 1),
                             "tflops": round(4 * keys * dim * heads / us[best] * 1e-6, 1)}
                except RuntimeError as error:
                    line["failed"] = str(error).split("\n")[0][:120]
                print(json.dumps(line), flush=True)


main()
