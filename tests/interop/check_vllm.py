#!/usr/bin/env python3
"""Runs vLLM's own code for loading KV scales on a checkpoint that `octavo calibrate --save-model` wrote; needs no GPU.

usage: check_vllm.py FOLDER

vLLM's CompressedTensorsConfig reads config.json; for each attention layer CompressedTensorsKVCacheMethod makes its
parameters, vLLM's iterator over safetensors files and its name mapping (maybe_remap_kv_scale_name) bring the tensors to
them, and process_weights_after_loading turns them into what its kernels use. These must be the scales of the file, bit for
bit. Only the layer around them is ours. Prints one line a check; exit code 1 when one fails.

pip install vllm
"""
import glob, json, os, sys
import torch
import vllm
from safetensors.torch import load_file
from vllm.model_executor.layers.attention.attention import set_default_quant_scales
from vllm.model_executor.layers.quantization.compressed_tensors import compressed_tensors as ct
from vllm.model_executor.model_loader.weight_utils import default_weight_loader, maybe_remap_kv_scale_name, safetensors_weights_iterator

# One process: what vLLM asks its process groups.
ct.get_tensor_model_parallel_rank = lambda: 0
ct.get_tensor_model_parallel_world_size = lambda: 1


class Layer(torch.nn.Module):
    """Of vLLM's Attention, what the method reads."""

    def __init__(self, num_kv_heads: int):
        super().__init__()
        self.num_kv_heads = num_kv_heads
        self.kv_cache_dtype = "fp8"
        set_default_quant_scales(self, register_buffer=True)


def main() -> int:
    (folder,) = sys.argv[1:]
    config = json.load(open(os.path.join(folder, "config.json")))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    quantization = ct.CompressedTensorsConfig.from_config(
        config["quantization_config"] | {"total_num_heads": heads, "total_num_kv_heads": kv_heads}
    )
    method = ct.CompressedTensorsKVCacheMethod(quantization)
    layers = {f"model.layers.{i}.self_attn.attn": Layer(kv_heads) for i in range(config["num_hidden_layers"])}
    for layer in layers.values():
        method.create_weights(layer)
    parameters = {f"{prefix}.{name}": value for prefix, layer in layers.items() for name, value in layer.named_parameters()}

    paths = sorted(glob.glob(os.path.join(folder, "*.safetensors")))
    for name, tensor in safetensors_weights_iterator(paths, use_tqdm_on_load=False):
        mapped = maybe_remap_kv_scale_name(name, parameters)
        if mapped is not None and mapped in parameters:
            parameter = parameters[mapped]
            getattr(parameter, "weight_loader", default_weight_loader)(parameter, tensor)

    stored = {name: value for path in paths for name, value in load_file(path).items()}
    failures = 0
    print(f"vllm {vllm.__version__}, scheme {quantization.kv_cache_scheme}")
    for prefix, layer in layers.items():
        method.process_weights_after_loading(layer)
        for kind in "kv":
            expected = stored[f"{prefix.removesuffix('.attn')}.{kind}_scale"].float().flatten()
            found = getattr(layer, f"_{kind}_scale").float().flatten()
            largest = getattr(layer, f"_{kind}_scale_float")
            holds = torch.equal(found, expected) and largest == expected.max().item()
            failures += not holds
            print(f"{'ok    ' if holds else 'FAILED'} {prefix}._{kind}_scale {found.tolist()}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
