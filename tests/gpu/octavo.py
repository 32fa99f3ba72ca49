"""The kernels of liboctavo-cuda for PyTorch, through ctypes.

Tensors stay on the GPU; every call runs on PyTorch's current stream, so it can be captured in a CUDA graph.
OCTAVO_LIB names the library; without it the local build is taken.
"""

import ctypes
import os
import pathlib

import torch

FLOAT16, BFLOAT16, FP8_E4M3, FP8_E5M2 = 1, 2, 3, 4
FP8_PER_TOKEN_HEAD, INT8, INT8_PER_TOKEN_HEAD, K8V4, INT4 = 5, 6, 7, 8, 9  # with scales of their own
TORCH_DTYPES = {FLOAT16: torch.float16, BFLOAT16: torch.bfloat16, FP8_E4M3: torch.float8_e4m3fn, FP8_E5M2: torch.float8_e5m2}
_WEIGHT_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30, torch.float8_e4m3fn: 100}
_Q_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}


class KvShape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in
                ("kv_dtype", "page_size", "num_pages", "num_kv_heads", "head_dim", "page_stride")]


class AttentionConfig(ctypes.Structure):
    _fields_ = ([(name, ctypes.c_int32) for name in
                 ("num_seqs", "num_tokens", "num_q_heads", "max_pages_per_seq", "sliding_window", "num_threads")]
                + [("softmax_scale", ctypes.c_float), ("logit_softcap", ctypes.c_float)]
                + [(name, ctypes.c_int32) for name in ("q_dtype", "max_query_len", "reuse_plan", "reserved")])


class DeviceInfo(ctypes.Structure):
    _fields_ = [("abi_version", ctypes.c_int32), ("num_cores", ctypes.c_int32), ("memory_bytes", ctypes.c_double),
                ("memory_free_bytes", ctypes.c_double), ("backend", ctypes.c_char * 16), ("name", ctypes.c_char * 128),
                ("isa", ctypes.c_char * 64)]


def _load():
    local = pathlib.Path(__file__).parents[2] / "build/cuda/liboctavo-cuda.so"
    library = ctypes.CDLL(os.environ.get("OCTAVO_LIB", str(local)))
    library.octavo_kv_layer_page_bytes.restype = ctypes.c_double
    return library


library = _load()


class OctavoError(RuntimeError):
    def __init__(self, status):
        message = ctypes.create_string_buffer(1024)
        library.octavo_last_error(message, 1024)
        super().__init__(f"status {status}: {message.value.decode()}")
        self.status = status


def _call(function, *arguments):
    library.octavo_stream_set(ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
    status = function(*arguments)
    if status != 0:
        raise OctavoError(status)


def _pointer(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def device_info():
    info = DeviceInfo()
    _call(library.octavo_device_info, ctypes.byref(info))
    return info


def page_bytes(shape):
    """Bytes of one page of one layer."""
    size = library.octavo_kv_layer_page_bytes(ctypes.byref(shape))
    if size == 0:
        raise OctavoError(1)
    return int(size)


def quantize(kv_dtype, x, scale=1.0):
    """f32 to stored elements, as a tensor of the stored torch dtype."""
    stored = torch.empty(x.shape, dtype=TORCH_DTYPES[kv_dtype], device=x.device)
    _call(library.octavo_quantize, kv_dtype, _pointer(x), x.numel(), ctypes.c_float(scale), _pointer(stored))
    return stored


def dequantize(kv_dtype, stored, scale=1.0):
    """Stored elements to f32."""
    x = torch.empty(stored.shape, dtype=torch.float32, device=stored.device)
    _call(library.octavo_dequantize, kv_dtype, _pointer(stored), x.numel(), ctypes.c_float(scale), _pointer(x))
    return x


def kv_append(shape, pages, k, v, slot_mapping, scales=None, k_mean=None):
    """Quantises k and v (f32, [tokens, kv heads, head_dim]) into their slots (int32; -1 skips)."""
    _call(library.octavo_kv_append, ctypes.byref(shape), _pointer(pages), _pointer(k), _pointer(v),
          _pointer(slot_mapping), k.shape[0], _pointer(scales), _pointer(k_mean))


def kv_pack(shape, pages, k, v, slot_mapping):
    """Copies stored elements ([tokens, kv heads, head_dim] of the stored dtype, or rows of bytes in formats with scales
    of their own) into their slots."""
    _call(library.octavo_kv_pack, ctypes.byref(shape), _pointer(pages), _pointer(k), _pointer(v),
          _pointer(slot_mapping), k.shape[0])


def packed_bytes(kv_dtype, head_dim, part):
    """Bytes of a row of k or v ("k", "v") in formats with scales of their own: codes, then scales."""
    int4 = kv_dtype == INT4 or kv_dtype == K8V4 and part == "v"
    return head_dim // 2 + head_dim // 16 if int4 else head_dim + 4


def kv_unpack(shape, pages, slot_mapping):
    """Copies stored elements, or rows of bytes in formats with scales of their own, out of their slots: (k, v)."""
    dtype = TORCH_DTYPES.get(shape.kv_dtype, torch.uint8)

    def rows(part):
        width = shape.head_dim if shape.kv_dtype in TORCH_DTYPES else packed_bytes(shape.kv_dtype, shape.head_dim, part)
        return torch.empty((slot_mapping.shape[0], shape.num_kv_heads, width), dtype=dtype, device=pages.device)

    k, v = rows("k"), rows("v")
    _call(library.octavo_kv_unpack, ctypes.byref(shape), _pointer(pages), _pointer(k), _pointer(v),
          _pointer(slot_mapping), slot_mapping.shape[0])
    return k, v


def paged_attention(shape, pages, q, query_len, seq_len, page_table, *, softmax_scale, scales=None, sinks=None,
                    sliding_window=0, logit_softcap=0.0, max_query_len=0, reuse_plan=False, out=None, lse=None):
    """Causal attention of new tokens q ([tokens, q heads, head_dim]; f32, f16 or bf16) over the pages."""
    config = AttentionConfig(seq_len.shape[0], q.shape[0], q.shape[1], page_table.shape[1], sliding_window, 0,
                             softmax_scale, logit_softcap, _Q_DTYPES[q.dtype], max_query_len, int(reuse_plan), 0)
    out = torch.empty_like(q) if out is None else out
    _call(library.octavo_paged_attention, ctypes.byref(shape), ctypes.byref(config), _pointer(pages), _pointer(q),
          _pointer(query_len), _pointer(seq_len), _pointer(page_table), _pointer(scales), _pointer(sinks),
          _pointer(out), _pointer(lse))
    return out


def matmul(w, x):
    """x W^T in f32; w [rows, cols] in f16, bf16 or e4m3, x [m, cols] in f32."""
    y = torch.empty(x.shape[0], w.shape[0], dtype=torch.float32, device=x.device)
    _call(library.octavo_matmul, _WEIGHT_DTYPES[w.dtype], _pointer(w), ctypes.c_double(w.numel() * w.element_size()),
          w.shape[0], w.shape[1], _pointer(x), x.shape[0], _pointer(y), 0)
    return y
