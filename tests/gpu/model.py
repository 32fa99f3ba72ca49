"""Models and engines of any build of the library through ctypes, and small random models for them.

OCTAVO_LIB names the CUDA library and OCTAVO_CPU_LIB the CPU library that it is compared with; without them the local
builds are taken.
"""

import ctypes
import os
import pathlib
from dataclasses import dataclass, field

import numpy

ROOT = pathlib.Path(__file__).parents[2]
F32, F16, BF16 = 0, 1, 30
INVALID_ARGUMENT, UNSUPPORTED, DEVICE_FAILED = 1, 4, 5
KV = {"float32": 0, "float16": 1, "bfloat16": 2, "fp8_e4m3": 3, "fp8_e5m2": 4, "fp8_per_token_head": 5,
      "int8": 6, "int8_per_token_head": 7, "k8v4": 8, "int4": 9}

_i32, _i64, _f32 = ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class ModelConfig(ctypes.Structure):
    _fields_ = ([(name, _i32) for name in
                 ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_q_heads", "num_kv_heads", "head_dim",
                  "max_model_len", "activation", "num_threads", "compute_dtype", "quantization")]
                + [(name, _f32) for name in
                   ("rms_norm_eps", "norm_weight_offset", "embedding_scale", "attn_softmax_scale", "attn_logit_softcap",
                    "final_logit_softcap")]
                + [("rope_attn_factor", _f32 * 2)])


class Tensor(ctypes.Structure):
    _fields_ = [("role", _i32), ("layer", _i32), ("dtype", _i32), ("file", _i32), ("offset_bytes", _i64),
                ("size_bytes", _i64), ("rows", _i32), ("cols", _i32), ("interleaved_heads", _i32), ("num_scales", _i32),
                ("scale_file", _i32), ("scale_dtype", _i32), ("scale_offset_bytes", _i64)]


class EngineConfig(ctypes.Structure):
    _fields_ = ([(name, _i32) for name in
                 ("kv_dtype", "page_size", "num_pages", "max_num_seqs", "max_num_batched_tokens", "max_samples",
                  "max_pages_per_seq", "max_logprobs", "max_logit_edits", "max_token_masks", "token_mask_words",
                  "max_scores", "num_threads", "calculate_kv_scales", "kv_stats", "num_host_pages",
                  "num_more_kv_dtypes")]
                + [(name, _i32 * 7) for name in ("more_kv_dtypes", "more_page_sizes")])


_TABLES = ("header", "tokens", "query_len", "seq_len", "page_table", "sample", "temperature", "top_k", "top_p", "min_p",
           "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "sample_index", "num_logprobs",
           "edit_begin", "edit_token", "edit_count", "edit_flags", "edit_bias", "mask_index",
           "token_masks", "score_index", "score_token", "score_num_logprobs", "kv_index", "sampled", "sampled_logprob",
           "top_token", "top_logprob", "score_logprob", "score_rank", "score_top_token", "score_top_logprob")
_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "edit_bias",
           "sampled_logprob", "top_logprob", "score_logprob", "score_top_logprob")


class StepLayout(ctypes.Structure):
    _fields_ = [("total_bytes", ctypes.c_double)] + [(name, _i32) for name in _TABLES]


class TransferStats(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in
                ("num_submitted", "num_finished", "saved_bytes", "saved_seconds", "restored_bytes", "restored_seconds")]


class OctavoError(RuntimeError):
    def __init__(self, library, status):
        message = ctypes.create_string_buffer(1024)
        library.octavo_last_error(message, 1024)
        super().__init__(f"status {status}: {message.value.decode()}")
        self.status = status


def open_library(backend):
    """The "cpu" or "cuda" build."""
    variable = "OCTAVO_LIB" if backend == "cuda" else "OCTAVO_CPU_LIB"
    library = ctypes.CDLL(os.environ.get(variable, str(ROOT / f"build/{backend}/liboctavo-{backend}.so")))
    for name in ("octavo_model_create", "octavo_engine_create"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("octavo_kv_page_bytes", "octavo_model_weight_bytes", "octavo_engine_scratch_bytes"):
        getattr(library, name).restype = ctypes.c_double
    return library


# --- Random models ------------------------------------------------------------------------------------------------

ROLES = {"token_embedding": 0, "output_norm": 1, "lm_head": 2, "rope_factors": 3, "attn_norm": 16, "q_proj": 17,
         "k_proj": 18, "v_proj": 19, "o_proj": 20, "q_bias": 21, "k_bias": 22, "v_bias": 23, "o_bias": 24, "q_norm": 25,
         "k_norm": 26, "attn_post_norm": 27, "ffn_norm": 28, "gate_proj": 29, "up_proj": 30, "down_proj": 31,
         "ffn_post_norm": 32, "attn_sinks": 33}
_REQUIRED = ("attn_norm", "q_proj", "k_proj", "v_proj", "o_proj", "ffn_norm", "gate_proj", "up_proj", "down_proj")


@dataclass
class ModelFile:
    """What a library needs to load a model: its config and where its tensors lie in files."""
    config: dict
    layers: list  # (sliding_window, rope_table) of each layer; all have the engine's kv_dtype
    inv_freq: numpy.ndarray  # f32[2, head_dim / 2]
    tensors: list  # dicts of Tensor's fields
    paths: list


@dataclass
class Recipe:
    """A two-layer model with random weights; what it has beyond Llama."""
    name: str
    config: dict = field(default_factory=dict)
    layers: tuple = ((0, 0), (0, 0))
    roles: tuple = ()
    untied: bool = False


_GEMMA = {"activation": 1, "norm_weight_offset": 1.0, "embedding_scale": 16.0}
RECIPES = [
    Recipe("llama"),
    Recipe("llama3_untied_rope_factors", roles=("rope_factors",), untied=True),
    Recipe("mistral_window_groups_of_8", {"num_q_heads": 8, "num_kv_heads": 1}, ((24, 0), (24, 0))),
    Recipe("qwen2_biases", {"num_q_heads": 6, "num_kv_heads": 2}, roles=("q_bias", "k_bias", "v_bias")),
    Recipe("qwen3_qk_norms_head_dim_128", {"head_dim": 128}, roles=("q_norm", "k_norm")),
    Recipe("gemma2_post_norms_softcaps", {**_GEMMA, "attn_logit_softcap": 50.0, "final_logit_softcap": 30.0},
           ((24, 0), (0, 0)), ("attn_post_norm", "ffn_post_norm")),
    Recipe("gemma3_head_dim_256_two_rope_tables", {**_GEMMA, "head_dim": 256, "num_q_heads": 4, "num_kv_heads": 1},
           ((24, 1), (0, 0)), ("attn_post_norm", "ffn_post_norm", "q_norm", "k_norm")),
    Recipe("gpt_oss_attention_sinks_biases", {"num_q_heads": 8, "num_kv_heads": 1, "rope_attn_factor": (1.2, 1.0)},
           ((24, 0), (0, 0)), ("q_bias", "k_bias", "v_bias", "o_bias", "attn_sinks")),
]


def shape_of(config, role):
    """Rows and columns of a role's tensor."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q, kv = config["num_q_heads"] * config["head_dim"], config["num_kv_heads"] * config["head_dim"]
    shapes = {"token_embedding": (config["vocab_size"], hidden), "lm_head": (config["vocab_size"], hidden),
              "rope_factors": (1, config["head_dim"] // 2), "q_proj": (q, hidden), "k_proj": (kv, hidden),
              "v_proj": (kv, hidden), "o_proj": (hidden, q), "q_bias": (1, q), "k_bias": (1, kv), "v_bias": (1, kv),
              "q_norm": (1, config["head_dim"]), "k_norm": (1, config["head_dim"]), "gate_proj": (inner, hidden),
              "up_proj": (inner, hidden), "down_proj": (hidden, inner), "attn_sinks": (1, config["num_q_heads"])}
    return shapes.get(role, (1, hidden))


def to_bf16(x):
    """f32 to the bits of bf16, towards zero."""
    return (numpy.ascontiguousarray(x, numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)


def make_model(recipe, folder, seed=1, broken_token=None):
    """Writes a random model's tensors as bf16; broken_token gets an embedding without a number."""
    config = {"vocab_size": 520, "hidden_size": 256, "intermediate_size": 320, "num_layers": len(recipe.layers),
              "num_q_heads": 4, "num_kv_heads": 2, "head_dim": 64, "max_model_len": 1024, "activation": 0,
              "num_threads": 2, "compute_dtype": BF16, "quantization": 0, "rms_norm_eps": 1e-5, "norm_weight_offset": 0.0,
              "embedding_scale": 1.0, "attn_logit_softcap": 0.0, "final_logit_softcap": 0.0, "rope_attn_factor": (1.0, 1.0),
              **recipe.config}
    config["attn_softmax_scale"] = config["head_dim"] ** -0.5
    half = config["head_dim"] // 2
    inv_freq = numpy.array([[base ** (-i / half) for i in range(half)] for base in (10000.0, 100.0)], numpy.float32)
    random = numpy.random.default_rng(seed)
    places = [("token_embedding", -1), ("output_norm", -1)] + ([("lm_head", -1)] if recipe.untied else [])
    places += [(role, -1) for role in recipe.roles if role == "rope_factors"]
    for layer in range(config["num_layers"]):
        places += [(role, layer) for role in _REQUIRED + recipe.roles if role != "rope_factors"]
    path = pathlib.Path(folder) / f"{recipe.name}.bin"
    tensors = []
    with open(path, "wb") as file:
        for role, layer in places:
            rows, cols = shape_of(config, role)
            scale = 0.3 if rows == 1 else 1.7 * cols ** -0.5
            center = 1 - config["norm_weight_offset"] if role.endswith("norm") else 1 if role == "rope_factors" else 0
            values = center + scale * random.uniform(-1, 1, (rows, cols)).astype(numpy.float32)
            if role == "token_embedding" and broken_token is not None:
                values[broken_token] = numpy.nan
            stored = to_bf16(values).tobytes()
            tensors.append({"role": ROLES[role], "layer": layer, "dtype": BF16, "file": 0, "offset_bytes": file.tell(),
                            "size_bytes": len(stored), "rows": rows, "cols": cols})
            file.write(stored)
    return ModelFile(config, list(recipe.layers), inv_freq, tensors, [str(path)])


# --- Handles ------------------------------------------------------------------------------------------------------

class Model:
    """A model loaded into a library."""

    def __init__(self, library, file, **changes):
        self.library, self.file = library, file
        self.config = {**file.config, **changes}
        config = ModelConfig(**{**self.config, "rope_attn_factor": (_f32 * 2)(*self.config["rope_attn_factor"])})
        layers = numpy.array([(*layer, -1) for layer in file.layers], numpy.int32)
        self.handle = library.octavo_model_create(ctypes.byref(config), layers.ctypes.data_as(ctypes.c_void_p),
                                                  file.inv_freq.ctypes.data_as(ctypes.c_void_p))
        self._require(self.handle)
        for path in file.paths:
            if library.octavo_model_add_file(ctypes.c_void_p(self.handle), path.encode()) < 0:
                raise OctavoError(library, INVALID_ARGUMENT)
        for tensor in file.tensors:
            self._check(library.octavo_model_load_tensor(ctypes.c_void_p(self.handle), ctypes.byref(Tensor(**tensor))))
        self._check(library.octavo_model_finish(ctypes.c_void_p(self.handle)))

    def _check(self, status):
        if status != 0:
            raise OctavoError(self.library, status)

    def _require(self, handle):
        if not handle:
            raise OctavoError(self.library, None)

    def close(self):
        if self.handle:
            self.library.octavo_model_close(ctypes.c_void_p(self.handle))
        self.handle = None

    __del__ = close


class StepBuffer:
    """Views of the tables of one step buffer, under their names of octavo.h."""

    def __init__(self, library, config):
        layout = StepLayout()
        status = library.octavo_step_layout_get(ctypes.byref(config), ctypes.byref(layout))
        if status != 0:
            raise OctavoError(library, status)
        self.bytes = numpy.zeros(int(layout.total_bytes), numpy.uint8)
        ends = [getattr(layout, name) for name in _TABLES[1:]] + [int(layout.total_bytes)]
        for name, end in zip(_TABLES, ends):
            dtype = numpy.float32 if name in _FLOATS else numpy.uint32 if name in ("seed", "token_masks") else numpy.int32
            setattr(self, name, self.bytes[getattr(layout, name):end].view(dtype))
        self.max_pages = config.max_pages_per_seq
        self.max_logprobs = config.max_logprobs
        self.mask_words = config.token_mask_words

    def fill(self, rows):
        """rows: dicts with tokens, pages; optional cached, sample, temperature, seed, sample_index, top_k, top_p,
        num_logprobs, kv_index, allowed (tokens), scores (tuples of place in tokens, scored token, number of likeliest).
        All masks are new: new_masks() says otherwise."""
        self.header[:] = 0
        self.edit_begin[:] = 0
        total = num_rows = num_masks = num_scores = 0
        for s, row in enumerate(rows):
            tokens = list(row["tokens"])
            for place, token, num_top in row.get("scores", ()):
                self.score_index[num_scores] = total + place
                self.score_token[num_scores] = token
                self.score_num_logprobs[num_scores] = num_top
                num_scores += 1
            self.mask_index[num_rows:num_rows + row.get("sample", 1)] = num_masks if "allowed" in row else -1
            num_rows += row.get("sample", 1)
            if "allowed" in row:
                bits = numpy.zeros(32 * self.mask_words, bool)
                bits[list(row["allowed"])] = True
                begin = num_masks * self.mask_words
                self.token_masks[begin:begin + self.mask_words] = numpy.packbits(bits, bitorder="little").view(numpy.uint32)
                num_masks += 1
            self.tokens[total:total + len(tokens)] = tokens
            total += len(tokens)
            self.query_len[s] = len(tokens)
            self.seq_len[s] = row.get("cached", 0) + len(tokens)
            self.page_table[s * self.max_pages:s * self.max_pages + len(row["pages"])] = row["pages"]
            self.sample[s] = row.get("sample", 1)
            self.temperature[s] = row.get("temperature", 0)
            self.top_k[s] = row.get("top_k", 0)
            self.top_p[s] = row.get("top_p", 1)
            self.min_p[s] = 0
            self.repetition_penalty[s] = 1
            self.presence_penalty[s] = self.frequency_penalty[s] = 0
            self.seed[2 * s:2 * s + 2] = (row.get("seed", 0), 0)
            self.sample_index[s] = row.get("sample_index", 0)
            self.num_logprobs[s] = row.get("num_logprobs", -1)
            self.kv_index[s] = row.get("kv_index", 0)
        self.header[:5] = (len(rows), total, 0, num_masks, num_scores)

    def new_masks(self, first, count):
        """Of the masks, only these may differ from what stood in their places before."""
        self.header[5:8] = (1, first, count)


class Engine:
    """An engine with two step buffers. more_kv: pairs of a KV dtype and its page size, for kv_index 1, 2, ..."""

    def __init__(self, model, kv_dtype="bfloat16", kv_scales=None, k_mean=None, more_kv=(), **changes):
        settings = {"kv_dtype": KV[kv_dtype], "page_size": 16, "num_pages": 128, "max_num_seqs": 8,
                    "max_num_batched_tokens": 256, "max_samples": 24, "max_pages_per_seq": 64, "max_logprobs": 4,
                    "max_logit_edits": 16, "num_threads": 2, "calculate_kv_scales": 0, "num_host_pages": 0, **changes}
        self.model, self.library = model, model.library
        config = self.config = EngineConfig(**settings)
        config.num_more_kv_dtypes = len(more_kv)
        for i, (dtype, page_size) in enumerate(more_kv):
            config.more_kv_dtypes[i], config.more_page_sizes[i] = KV[dtype], page_size
        self.buffers = [StepBuffer(self.library, config) for _ in range(2)]
        values = [None if one is None else numpy.ascontiguousarray(one, numpy.float32) for one in (kv_scales, k_mean)]
        self.handle = self.library.octavo_engine_create(
            ctypes.c_void_p(model.handle), ctypes.byref(config),
            *(None if one is None else one.ctypes.data_as(ctypes.c_void_p) for one in values))
        model._require(self.handle)

    def step(self, rows):
        """Runs one step; returns its buffer."""
        self.buffers[0].fill(rows)
        self.run(self.buffers[0])
        return self.buffers[0]

    def run(self, buffer):
        memory = buffer.bytes
        self._check(self.library.octavo_step(ctypes.c_void_p(self.handle), memory.ctypes.data_as(ctypes.c_void_p),
                                             ctypes.c_double(memory.size)))

    def submit(self, buffer):
        self._check(self.library.octavo_step_submit(ctypes.c_void_p(self.handle),
                                                    buffer.bytes.ctypes.data_as(ctypes.c_void_p),
                                                    ctypes.c_double(buffer.bytes.size)))

    def finish(self, buffer):
        self._check(self.library.octavo_step_finish(ctypes.c_void_p(self.handle),
                                                    buffer.bytes.ctypes.data_as(ctypes.c_void_p)))

    def logits(self, row):
        logits = numpy.empty(self.model.config["vocab_size"], numpy.float32)
        self._check(self.library.octavo_engine_logits(ctypes.c_void_p(self.handle), row,
                                                      logits.ctypes.data_as(ctypes.c_void_p)))
        return logits

    def save_pages(self, pages, host_pages):
        self._transfer(self.library.octavo_engine_save_pages, pages, host_pages)

    def restore_pages(self, pages, host_pages):
        self._transfer(self.library.octavo_engine_restore_pages, pages, host_pages)

    def _transfer(self, transfer, pages, host_pages):
        pages, host_pages = (numpy.ascontiguousarray(ids, numpy.int32) for ids in (pages, host_pages))
        self._check(transfer(ctypes.c_void_p(self.handle), pages.ctypes.data_as(ctypes.c_void_p),
                             host_pages.ctypes.data_as(ctypes.c_void_p), len(pages)))

    def transfer_stats(self):
        stats = TransferStats()
        self._check(self.library.octavo_engine_transfer_stats(ctypes.c_void_p(self.handle), ctypes.byref(stats)))
        return stats

    def page_checksum(self, page):
        checksum = numpy.zeros(1, numpy.uint64)
        self._check(self.library.octavo_engine_page_checksum(ctypes.c_void_p(self.handle), page,
                                                             checksum.ctypes.data_as(ctypes.c_void_p)))
        return int(checksum[0])

    def host_page(self, host_page):
        config = self.config
        kinds = [(config.kv_dtype, config.page_size),
                 *zip(config.more_kv_dtypes[:config.num_more_kv_dtypes], config.more_page_sizes)]
        # All pages have the bytes that the largest dtype's needs.
        size = max(self.library.octavo_kv_page_bytes(ctypes.c_void_p(self.model.handle), *kind) for kind in kinds)
        memory = numpy.empty(int(size), numpy.uint8)
        self._check(self.library.octavo_engine_host_page(ctypes.c_void_p(self.handle), host_page,
                                                         memory.ctypes.data_as(ctypes.c_void_p), ctypes.c_double(size)))
        return memory

    def kv_scales(self):
        config = self.model.config
        scales = numpy.empty((config["num_layers"], 2, config["num_kv_heads"]), numpy.float32)
        self._check(self.library.octavo_engine_kv_scales(ctypes.c_void_p(self.handle),
                                                         scales.ctypes.data_as(ctypes.c_void_p)))
        return scales

    def freeze_kv_scales(self):
        self._check(self.library.octavo_engine_freeze_kv_scales(ctypes.c_void_p(self.handle)))

    def kv_stats(self):
        """f64[num_layers, 2, num_kv_heads, 4] and the number of tokens."""
        config = self.model.config
        stats = numpy.empty((config["num_layers"], 2, config["num_kv_heads"], 4))
        num_tokens = numpy.empty(1)
        self._check(self.library.octavo_engine_kv_stats(ctypes.c_void_p(self.handle),
                                                        stats.ctypes.data_as(ctypes.c_void_p),
                                                        num_tokens.ctypes.data_as(ctypes.c_void_p)))
        return stats, num_tokens[0]

    def kv_histograms(self):
        """absmax f32[num_layers, 2, num_kv_heads], counts f64[..., 512] and sums of K f64[num_layers, num_kv_heads,
        head_dim]."""
        config = self.model.config
        rows = (config["num_layers"], 2, config["num_kv_heads"])
        absmax, counts = numpy.empty(rows, numpy.float32), numpy.empty((*rows, 512))
        k_sum = numpy.empty((config["num_layers"], config["num_kv_heads"], config["head_dim"]))
        self._check(self.library.octavo_engine_kv_histograms(
            ctypes.c_void_p(self.handle), *(one.ctypes.data_as(ctypes.c_void_p) for one in (absmax, counts, k_sum))))
        return absmax, counts, k_sum

    def _check(self, status):
        if status != 0:
            raise OctavoError(self.library, status)

    def close(self):
        if self.handle:
            self.library.octavo_engine_close(ctypes.c_void_p(self.handle))
        self.handle = None

    __del__ = close
