#!/usr/bin/env python3
"""Loads a checkpoint with KV scales, as `octavo calibrate --save-model` or LLM Compressor wrote it, with transformers and
compressed-tensors.

usage: check_transformers.py FOLDER GOLDEN.json

Checks that compressed-tensors recognises the KV scheme, that every attention layer holds the scales of the file, bit for
bit, and that the logits of its own quantised cache are those which GOLDEN.json has from Octavo: {"tokens": [..],
"logits": [[..], ..]}, as tests/interop/write_golden.ts writes it. Prints one line a check; exit code 1 when one fails.

pip install torch transformers compressed-tensors accelerate
"""
import glob, json, os, sys
import compressed_tensors, torch, transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main() -> int:
    folder, golden_path = sys.argv[1:]
    golden = json.load(open(golden_path))
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    failures = 0

    def check(what: str, holds: bool) -> None:
        nonlocal failures
        failures += not holds
        print(f"{'ok    ' if holds else 'FAILED'} {what}")

    print(f"transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__}, torch {torch.__version__}")
    scheme = json.load(open(os.path.join(folder, "config.json")))["quantization_config"]["kv_cache_scheme"]
    stored = {name: value for path in glob.glob(os.path.join(folder, "*.safetensors")) for name, value in load_file(path).items()}
    for layer, block in enumerate(model.model.layers):
        known = block.self_attn.quantization_scheme.input_activations
        found = (known.type, known.num_bits, known.strategy, known.dynamic)
        check(f"layer {layer} has the scheme {found}", found == ("float", 8, scheme["strategy"], False))
        for kind in "kv":
            expected = stored[f"model.layers.{layer}.self_attn.{kind}_scale"].float().flatten()
            found = getattr(block.self_attn, f"{kind}_scale").detach().float().flatten()
            check(f"layer {layer} {kind}_scale {found.tolist()}", torch.equal(found, expected))

    logits = model(torch.tensor([golden["tokens"]])).logits[0].double()
    worst = (logits - torch.tensor(golden["logits"]).double()).abs().max().item()
    check(f"logits with its quantised cache, largest difference {worst:.2e}", worst < 1e-3)
    exact = torch.tensor(golden["exact"]).double()
    check(f"which differ from an exact cache's by {(logits - exact).abs().max().item():.2e}", (logits - exact).abs().max().item() > 1e-2)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
