/*
 * octavo.h: the C ABI of Octavo's native library. This file is its only definition: ffi/symbols.ts is checked
 * against it by tests/ffi/abi_test.ts (names, order, types, struct sizes and offsets).
 *
 * One header, three builds (liboctavo-cpu, liboctavo-cuda, liboctavo-hip) with the same symbols and meaning.
 *
 * Conventions
 *  - Every function but the plain queries returns an octavo_status (0 = OCTAVO_OK) or, where it creates a handle,
 *    a pointer that is NULL on failure. octavo_last_error() then gives one sentence that names the value found.
 *    After a failure the handle passed in is unchanged and usable, unless a function says otherwise.
 *  - No C++ exception and no abort crosses this boundary. Every size, offset and index is checked.
 *  - Memory passed in belongs to the caller and is not kept after the call, unless a function says otherwise.
 *  - Threads: a handle may be used by one thread at a time. Functions without a handle may be called from any thread.
 *    octavo_last_error() is per thread.
 *  - Parameters are only: `const uint8_t *`/`uint8_t *`-like buffers, int32_t, uint32_t, float, double, and opaque
 *    handles: the types Deno calls fastest, and those that need no bare --allow-ffi.
 *  - Structs hold only 4- and 8-byte fields and fixed char arrays, naturally aligned, without implicit padding.
 *  - "host or device pointer": host memory for the CPU build, device memory for the CUDA and HIP builds.
 */
#ifndef OCTAVO_H
#define OCTAVO_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define OCTAVO_API __declspec(dllexport)
#else
#define OCTAVO_API __attribute__((visibility("default")))
#endif

/* Raised with every change of a symbol, a struct or a meaning. */
#define OCTAVO_ABI_VERSION 11

typedef struct octavo_model octavo_model;   /* weights, immutable after octavo_model_finish */
typedef struct octavo_engine octavo_engine; /* KV pages, scratch memory and threads for one model */
typedef struct octavo_stream octavo_stream; /* a cudaStream_t or hipStream_t of the caller's */

typedef enum octavo_status {
  OCTAVO_OK = 0,
  OCTAVO_INVALID_ARGUMENT = 1, /* a value out of its range; nothing was changed */
  OCTAVO_OUT_OF_MEMORY = 2,
  OCTAVO_IO = 3,          /* a file could not be opened, mapped or is too short */
  OCTAVO_UNSUPPORTED = 4, /* valid, but not offered by this build or machine */
  OCTAVO_DEVICE = 5,      /* the device failed; the handle must be freed */
  OCTAVO_INTERNAL = 6     /* a fault of ours; the handle must be freed */
} octavo_status;

/* Element types of tensors in model files. Block formats are those of GGML (GGUF files), numbered as there. */
typedef enum octavo_dtype {
  OCTAVO_F32 = 0,
  OCTAVO_F16 = 1,
  OCTAVO_Q4_0 = 2,
  OCTAVO_Q4_1 = 3,
  OCTAVO_Q5_0 = 6,
  OCTAVO_Q5_1 = 7,
  OCTAVO_Q8_0 = 8,
  OCTAVO_Q2_K = 10,
  OCTAVO_Q3_K = 11,
  OCTAVO_Q4_K = 12,
  OCTAVO_Q5_K = 13,
  OCTAVO_Q6_K = 14,
  OCTAVO_IQ4_NL = 20,
  OCTAVO_IQ4_XS = 23,
  OCTAVO_BF16 = 30,
  OCTAVO_F8_E4M3 = 100 /* OCP E4M3FN with scales beside it (octavo_tensor.num_scales); not GGML's */
} octavo_dtype;

/* How K and V are stored. Names in the configuration: float32, float16, bfloat16, fp8_e4m3 (fp8), fp8_e5m2,
 * fp8_per_token_head, int8, int8_per_token_head, k8v4, int4.
 *
 * The formats from OCTAVO_KV_FP8_PER_TOKEN_HEAD on keep their scales with the tokens (octavo_kv_shape says where), so
 * they take none from the caller. A scale is absmax / largest code of the values that share it (rounded to f16 where it
 * is stored so, no larger than 65504), or 1 where that is 0; infinite values count as the largest finite one. In the
 * integer formats a NaN makes its scale NaN, and with it all values that share it.
 *
 * "Rotated" formats store H x in place of x, for K and V, with H the normalised Hadamard matrix (order: Sylvester's) of
 * the largest power of two that divides head_dim, block by block over head_dim. Attention rotates q and turns its output
 * back, so that callers see nothing of it but smaller errors. */
typedef enum octavo_kv_dtype {
  OCTAVO_KV_FLOAT32 = 0,
  OCTAVO_KV_FLOAT16 = 1,
  OCTAVO_KV_BFLOAT16 = 2,
  OCTAVO_KV_FP8_E4M3 = 3, /* OCP E4M3FN: max 448, no infinity, NaN 0x7F/0xFF; writes saturate, NaN stays NaN */
  OCTAVO_KV_FP8_E5M2 = 4, /* OCP E5M2: max 57344; writes saturate (infinity too), NaN stays NaN */
  OCTAVO_KV_FP8_PER_TOKEN_HEAD = 5, /* E4M3, one f32 scale for each token and kv head; NaN stays NaN by itself */
  OCTAVO_KV_INT8 = 6,               /* rotated; -127 .. 127, one f32 scale for each token and kv head */
  OCTAVO_KV_INT8_PER_TOKEN_HEAD = 7, /* the same without rotation */
  OCTAVO_KV_K8V4 = 8,                /* K as INT8, V as INT4 */
  OCTAVO_KV_INT4 = 9 /* rotated; -7 .. 7 stored as code + 8, two a byte, the lower dim in the low bits; one f16 scale
                        for 32 dims. head_dim must be a multiple of 32, for K8V4 too (else OCTAVO_UNSUPPORTED) */
} octavo_kv_dtype;

/* How a GPU build keeps the weights of the layers' matrices. */
typedef enum octavo_quantization {
  OCTAVO_QUANTIZATION_NONE = 0, /* FP8 ones as they are, all others as compute_dtype */
  OCTAVO_QUANTIZATION_FP8 = 1   /* E4M3 with one scale a row: absmax / 448 */
} octavo_quantization;

typedef enum octavo_activation {
  OCTAVO_SILU = 0,     /* x * sigmoid(x) */
  OCTAVO_GELU_TANH = 1 /* tanh approximation of GELU */
} octavo_activation;

/* What a tensor is for. "rows x cols" is the matrix as used: y[rows] = W x[cols]. */
typedef enum octavo_role {
  OCTAVO_ROLE_TOKEN_EMBEDDING = 0, /* vocab_size x hidden_size */
  OCTAVO_ROLE_OUTPUT_NORM = 1,     /* hidden_size */
  OCTAVO_ROLE_LM_HEAD = 2,         /* vocab_size x hidden_size; absent: the token embedding is used */
  OCTAVO_ROLE_ROPE_FACTORS = 3,    /* head_dim / 2; divides inv_freq table 0; optional */
  OCTAVO_ROLE_ATTN_NORM = 16,      /* hidden_size; roles from here on are per layer */
  OCTAVO_ROLE_Q_PROJ = 17,         /* num_q_heads*head_dim x hidden_size */
  OCTAVO_ROLE_K_PROJ = 18,         /* num_kv_heads*head_dim x hidden_size */
  OCTAVO_ROLE_V_PROJ = 19,         /* num_kv_heads*head_dim x hidden_size */
  OCTAVO_ROLE_O_PROJ = 20,         /* hidden_size x num_q_heads*head_dim */
  OCTAVO_ROLE_Q_BIAS = 21,         /* num_q_heads*head_dim */
  OCTAVO_ROLE_K_BIAS = 22,         /* num_kv_heads*head_dim */
  OCTAVO_ROLE_V_BIAS = 23,         /* num_kv_heads*head_dim */
  OCTAVO_ROLE_O_BIAS = 24,         /* hidden_size */
  OCTAVO_ROLE_Q_NORM = 25,         /* head_dim; RMSNorm of each q head before RoPE */
  OCTAVO_ROLE_K_NORM = 26,         /* head_dim */
  OCTAVO_ROLE_ATTN_POST_NORM = 27, /* hidden_size; Gemma 2/3: norm of the attention output before the residual add */
  OCTAVO_ROLE_FFN_NORM = 28,       /* hidden_size */
  OCTAVO_ROLE_GATE_PROJ = 29,      /* intermediate_size x hidden_size */
  OCTAVO_ROLE_UP_PROJ = 30,        /* intermediate_size x hidden_size */
  OCTAVO_ROLE_DOWN_PROJ = 31,      /* hidden_size x intermediate_size */
  OCTAVO_ROLE_FFN_POST_NORM = 32,  /* hidden_size; Gemma 2/3 */
  OCTAVO_ROLE_ATTN_SINKS = 33      /* num_q_heads; gpt-oss: one extra logit per head in the softmax's denominator */
} octavo_role;

typedef struct octavo_device_info_t {
  int32_t abi_version; /* OCTAVO_ABI_VERSION of the library */
  int32_t num_cores;   /* physical cores usable by this process (CPU), multiprocessors (GPU) */
  double memory_bytes; /* memory of the device in all; CPU: what this process may use (cgroup v2) */
  double memory_free_bytes;
  char backend[16];    /* "cpu", "cuda", "hip"; NUL-terminated UTF-8, as all char arrays here */
  char name[128];      /* the processor or card */
  char isa[64];        /* code path in use: "portable", "avx2", "avx512", "avx512_vnni"; GPU: "sm_90" ... */
} octavo_device_info_t;

/* A decoder-only transformer. All counts > 0 unless said. */
typedef struct octavo_model_config {
  int32_t vocab_size;
  int32_t hidden_size;
  int32_t intermediate_size;
  int32_t num_layers;
  int32_t num_q_heads;  /* a multiple of num_kv_heads */
  int32_t num_kv_heads;
  int32_t head_dim;     /* a multiple of 8, at most 256 */
  int32_t max_model_len; /* positions 0 .. max_model_len-1 may be used */
  int32_t activation;   /* octavo_activation */
  int32_t num_threads;  /* CPU: threads used to load and repack; 0 = physical cores. Ignored by GPU builds. */
  int32_t compute_dtype; /* GPU: activations and weights, OCTAVO_F16 or OCTAVO_BF16. Ignored by the CPU build (f32). */
  int32_t quantization; /* octavo_quantization; the CPU build offers NONE only */
  float rms_norm_eps;
  float norm_weight_offset;  /* added to every RMSNorm weight: 1 for Gemma safetensors, else 0 */
  float embedding_scale;     /* multiplies token embeddings: sqrt(hidden_size) for Gemma, else 1 */
  float attn_softmax_scale;  /* multiplies q.k, e.g. 1/sqrt(head_dim) */
  float attn_logit_softcap;  /* c > 0: c * tanh(logit / c); 0 = none */
  float final_logit_softcap; /* the same for the output logits */
  float rope_attn_factor[2]; /* multiplies cos and sin of RoPE table 0 and 1 (YaRN's mscale), else 1 */
} octavo_model_config;

typedef struct octavo_layer_config {
  int32_t sliding_window; /* keys visible to a query incl. itself: j > i - sliding_window; 0 = all */
  int32_t rope_table;     /* 0 or 1: which row of inv_freq */
  int32_t kv_dtype;       /* octavo_kv_dtype of this layer's cache in every engine; -1: the engine's */
} octavo_layer_config;

/* octavo_tensor.file of a tensor that lies in no file but is made up: norms 1 in effect, rope_factors 1, all else normally
 * distributed with mean 0 and standard deviation 0.02, the same in every build. offset_bytes is the seed. */
#define OCTAVO_FILE_RANDOM (-1)

/* Where one tensor lies in a file. OCTAVO_F8_E4M3 (matrices only): weight = element x scale of its row. */
typedef struct octavo_tensor {
  int32_t role;  /* octavo_role */
  int32_t layer; /* 0 .. num_layers-1; -1 for roles below 16 */
  int32_t dtype; /* octavo_dtype */
  int32_t file;  /* index returned by octavo_model_add_file, or OCTAVO_FILE_RANDOM */
  int64_t offset_bytes; /* from the start of the file */
  int64_t size_bytes;   /* must be exactly what rows, cols and dtype need */
  int32_t rows;  /* 1 for vectors */
  int32_t cols;
  int32_t interleaved_heads; /* > 0: rows are this many heads whose RoPE pairs lie side by side (GGUF's llama
                                architecture); they are reordered to halves (pair i = rows i, i + head_dim/2) */
  int32_t num_scales;        /* OCTAVO_F8_E4M3: 1 (for all rows) or rows; else 0 */
  int32_t scale_file;        /* where the scales lie, one after another; 0 where there are none */
  int32_t scale_dtype;       /* OCTAVO_F32, OCTAVO_F16 or OCTAVO_BF16; 0 where there are none */
  int64_t scale_offset_bytes;
} octavo_tensor;

/* KV dtypes of one engine at most. */
#define OCTAVO_MAX_KV_DTYPES 8

/* An engine may store sequences in several KV dtypes. All pages have the same bytes then, those of the largest, and any page
 * may hold any dtype; page_size, the tokens that it holds, is the dtype's. */
typedef struct octavo_engine_config {
  int32_t kv_dtype;               /* octavo_kv_dtype, but for layers that name their own */
  int32_t page_size;              /* tokens of a page: 16, 32 or 64 */
  int32_t num_pages;
  int32_t max_num_seqs;           /* sequences of one step */
  int32_t max_num_batched_tokens; /* tokens of one step */
  int32_t max_samples;            /* tokens that one step can sample, 1 .. 2^24 */
  int32_t max_pages_per_seq;      /* the longest sequence has so many pages, or max_model_len tokens if that is less */
  int32_t max_logprobs;           /* top log-probabilities a sequence may ask for, 0 .. 64 */
  int32_t max_logit_edits;        /* entries of the logit edit tables of one step, >= 0 */
  int32_t max_token_masks;        /* token masks of one step, >= 0 */
  int32_t token_mask_words;       /* 32-bit words of a mask: ceil(vocab_size / 32); 0 with max_token_masks 0 */
  int32_t max_scores;             /* tokens whose log-probability one step can tell, 0 .. max_num_batched_tokens */
  int32_t num_threads;            /* CPU: 0 = physical cores. Ignored by GPU builds. */
  int32_t calculate_kv_scales;    /* 1: the first step sets one K and one V scale a layer from its own values, absmax
                                     / 200 and / 100; octavo_engine_freeze_kv_scales sets them once more. Of values that
                                     are finite. fp8_e4m3 or fp8_e5m2 without kv_scales only. 0: off */
  int32_t kv_stats;               /* octavo_kv_stats_mode */
  int32_t num_host_pages;         /* pages of host memory that pages can be saved to, >= 0 */
  int32_t num_more_kv_dtypes;     /* 0 .. OCTAVO_MAX_KV_DTYPES - 1 */
  int32_t more_kv_dtypes[7];      /* those of kv_index 1, 2, ... of a step */
  int32_t more_page_sizes[7];    /* theirs */
} octavo_engine_config;

/* What an engine counts of the K (after RoPE) and V that its steps store. Values that are no number count nowhere. */
typedef enum octavo_kv_stats_mode {
  OCTAVO_KV_STATS_OFF = 0,
  OCTAVO_KV_STATS_ERRORS = 1,    /* for octavo_engine_kv_stats */
  OCTAVO_KV_STATS_HISTOGRAMS = 2 /* for octavo_engine_kv_histograms */
} octavo_kv_stats_mode;

/* Bins of a histogram of magnitudes: bin i holds those from 2^(i/8 - 24) * (1 + i%8 / 8) (i/8 rounded down) to where bin
 * i+1 begins; the first one all that is smaller, the last one all that is larger. */
#define OCTAVO_KV_STATS_BINS 512

/* What an engine's transfers have done since it was opened: one is a call of octavo_engine_save_pages or
 * octavo_engine_restore_pages, and they finish in the order of the calls. Bytes and seconds are those of finished ones. */
typedef struct octavo_transfer_stats {
  double num_submitted;
  double num_finished;
  double saved_bytes;
  double saved_seconds;
  double restored_bytes;
  double restored_seconds;
} octavo_transfer_stats;

/*
 * The step buffer: one flat block of host memory, allocated by the caller, octavo_step_layout.total_bytes long, 8-byte
 * aligned. Input tables are written and output tables read in place, through typed-array views at the offsets
 * that octavo_step_layout_get() gives (each a multiple of 64). S = max_num_seqs, T = max_num_batched_tokens,
 * R = max_samples, P = max_pages_per_seq, L = max_logprobs, E = max_logit_edits, M = max_token_masks,
 * W = token_mask_words, X = max_scores.
 *
 * Rows are what the step samples: 0, 1, ... by sequence, and within one by position. A sequence may sample after several
 * of its last tokens, so that guesses at its next tokens can be checked in one step: each row's result is the one that a
 * step ending there would give, so a guess may be kept when it equals the token of the row before it. K and V of the
 * guesses that are not kept are overwritten when their positions are computed again.
 *
 *   tokens    | a b c | d | e f g h |      query_len 3 1 4, sample 1 0 3
 *   rows            0         1 2 3        row 2 samples the token after g
 *
 *  1. header              int32[16]  [0] num_seqs  [1] num_tokens  [2] num_logit_edits  [3] num_token_masks
 *                                    [4] num_scores  [5] 0: every token mask may be new; 1: only [7] masks
 *                                    from [6] on may differ from what the engine's steps last had in their places
 *                                    [8..15] 0
 *  2. tokens              int32[T]   token ids of all sequences, one after another; -(r+1): the token that row r of the
 *                                    step submitted before sampled
 *  3. query_len           int32[S]   tokens of this step, >= 1; they add up to num_tokens
 *  4. seq_len             int32[S]   tokens incl. this step's: positions seq_len-query_len .. seq_len-1
 *  5. page_table          int32[S*P] row s: ids of the pages of sequence s in order; ceil(seq_len/page_size) are read,
 *                                    with the page_size of its kv_index
 *  6. sample              int32[S]   tokens to sample, one after each of this many last tokens of the sequence, at most
 *                                    query_len; 0: fill the cache only. They add up to R at most
 *  7. temperature         float[S]   0 = greedy (ties: the lowest id)
 *  8. top_k               int32[S]   0 = all
 *  9. top_p               float[S]   (0, 1]
 * 10. min_p               float[S]   [0, 1]
 * 11. repetition_penalty  float[S]   > 0; 1 = none
 * 12. presence_penalty    float[S]
 * 13. frequency_penalty   float[S]
 * 14. seed                uint32[S*2] low and high word
 * 15. sample_index        int32[S]   tokens sampled before in this sequence, for its first row; one more for each row
 *                                    after: the random number depends only on (seed, that index)
 * 16. num_logprobs        int32[S]   -1 none; n >= 0: the sampled token's and the n most likely ones', n <= L
 * 17. edit_begin          int32[S+1] logit edits of sequence s: entries edit_begin[s] .. edit_begin[s+1]-1
 * 18. edit_token          int32[E]   token id, at most once a sequence
 * 19. edit_count          int32[E]   times generated so far (presence and frequency penalty)
 * 20. edit_flags          int32[E]   bit 0: in prompt or output (repetition penalty); bit 1: banned (-infinity)
 * 21. edit_bias           float[E]   added to the logit
 * 22. mask_index          int32[R]   which token mask row r obeys, -1 = none; several may name the same.
 *                                    Not read where num_token_masks is 0
 * 23. token_masks         uint32[M*W] bit t % 32 of word t / 32: token t may be sampled; others are banned
 * 24. score_index         int32[X]   which token of the step, 0 .. num_tokens-1, stands before the scored one
 * 25. score_token         int32[X]   the token whose log-probability is asked for, in the place after it
 * 26. score_num_logprobs  int32[X]   how many most likely tokens are asked for there, 0 .. L
 * 27. kv_index            int32[S]   how the sequence's pages are stored: 0 = kv_dtype, i = more_kv_dtypes[i-1]. It
 *                                    must not fall from a sequence to the next
 *  out:
 * 28. sampled             int32[R]   the token; -1 where no logit that is not banned is a number above -infinity (broken
 *                                    weights), which no other sequence feels
 * 29. sampled_logprob     float[R]   natural log-probability, after penalties and edits, before temperature and
 *                                    filters; 0 where num_logprobs is -1
 * 30. top_token           int32[R*L] most likely tokens, best first; -1 fills up
 * 31. top_logprob         float[R*L]
 * 32. score_logprob       float[X]   natural log-probability by the logits as they are: no penalty, edit or mask
 * 33. score_rank          int32[X]   1 for the most likely token: 1 + the number of those above it
 * 34. score_top_token     int32[X*L] as top_token
 * 35. score_top_logprob   float[X*L]
 *
 * Order of logit processing: repetition penalty (logit > 0 ? logit / r : logit * r), then frequency and presence
 * penalty, bias, bans and mask; log-probabilities; temperature; top-k; top-p; min-p; draw.
 */
typedef struct octavo_step_layout {
  double total_bytes;
  int32_t header;
  int32_t tokens;
  int32_t query_len;
  int32_t seq_len;
  int32_t page_table;
  int32_t sample;
  int32_t temperature;
  int32_t top_k;
  int32_t top_p;
  int32_t min_p;
  int32_t repetition_penalty;
  int32_t presence_penalty;
  int32_t frequency_penalty;
  int32_t seed;
  int32_t sample_index;
  int32_t num_logprobs;
  int32_t edit_begin;
  int32_t edit_token;
  int32_t edit_count;
  int32_t edit_flags;
  int32_t edit_bias;
  int32_t mask_index;
  int32_t token_masks;
  int32_t score_index;
  int32_t score_token;
  int32_t score_num_logprobs;
  int32_t kv_index;
  int32_t sampled;
  int32_t sampled_logprob;
  int32_t top_token;
  int32_t top_logprob;
  int32_t score_logprob;
  int32_t score_rank;
  int32_t score_top_token;
  int32_t score_top_logprob;
} octavo_step_layout;

/* --- The library ------------------------------------------------------------------------------------------ */

/* OCTAVO_ABI_VERSION of the library. */
OCTAVO_API int32_t octavo_abi_version(void);

/* Copies the calling thread's last error as UTF-8 (cut to capacity, NUL-terminated) and returns its full length in
 * bytes without the NUL, at most 1023; 0 if there was none. A call that succeeds leaves it. message may be NULL when
 * capacity is 0. */
OCTAVO_API int32_t octavo_last_error(char *message, int32_t capacity);

/* Fills *info. Errors: OCTAVO_UNSUPPORTED when no usable device is found. */
OCTAVO_API int32_t octavo_device_info(octavo_device_info_t *info);

/* --- Models ----------------------------------------------------------------------------------------------- */

/* Starts a model. layers: octavo_layer_config[num_layers]. inv_freq: float[2][head_dim/2], RoPE's inverse frequencies
 * in radians per position (angle = position * inv_freq), table 0 and 1. Returns NULL on failure. */
OCTAVO_API octavo_model *octavo_model_create(const octavo_model_config *config, const octavo_layer_config *layers,
                                             const float *inv_freq);

/* Maps a file read-only until octavo_model_finish; it must not become shorter until then. path: NUL-terminated UTF-8.
 * Returns its index (>= 0), or -1 with octavo_last_error() set (OCTAVO_IO). */
OCTAVO_API int32_t octavo_model_add_file(octavo_model *model, const char *path);

/* Reads one tensor and repacks it (GPU builds: brings it to the device, block formats as compute_dtype). Errors:
 * OCTAVO_INVALID_ARGUMENT (shape does not fit the config, size does not fit the shape, range outside the file, given
 * twice, a scale that is no number), OCTAVO_UNSUPPORTED (dtype), OCTAVO_OUT_OF_MEMORY. */
OCTAVO_API int32_t octavo_model_load_tensor(octavo_model *model, const octavo_tensor *tensor);

/* Checks that every needed tensor is there and unmaps the files. No engine can be opened before.
 * Errors: OCTAVO_INVALID_ARGUMENT naming the first missing tensor. */
OCTAVO_API int32_t octavo_model_finish(octavo_model *model);

/* Bytes that the weights take in memory. */
OCTAVO_API double octavo_model_weight_bytes(const octavo_model *model);

/* Closes the model; its memory is freed with the last of its engines. NULL is allowed. */
OCTAVO_API void octavo_model_close(octavo_model *model);

/* --- Engines ---------------------------------------------------------------------------------------------- */

/* Bytes of the device's memory that an engine of this config takes beside its pages (whose number makes no difference):
 * scratch for the largest step, workspaces, graphs. What is left may be pages. 0 with octavo_last_error() set when an
 * argument is out of range. */
OCTAVO_API double octavo_engine_scratch_bytes(const octavo_model *model, const octavo_engine_config *config);

/* Bytes of one page over all layers, K and V, kv_dtype being that of the layers that name none; 0 with
 * octavo_last_error() set when an argument is out of range. */
OCTAVO_API double octavo_kv_page_bytes(const octavo_model *model, int32_t kv_dtype, int32_t page_size);

/* Fills *layout for this config. Errors: OCTAVO_INVALID_ARGUMENT. */
OCTAVO_API int32_t octavo_step_layout_get(const octavo_engine_config *config, octavo_step_layout *layout);

/* Opens an engine on a finished model and keeps the model's memory until it is closed. kv_scales:
 * float[num_layers][2][num_kv_heads], K then V, all finite and > 0 (real = stored x scale); NULL = 1; for what is
 * stored as fp8_e4m3 or fp8_e5m2 only. k_mean: float[num_layers][num_kv_heads][head_dim], all finite, what rotated
 * formats take off K (octavo_kv_append); NULL = 0; not used for layers of other formats, and must be 0 in layers whose
 * softmax sees more than differences of logits: with a soft-cap or sinks. Returns NULL on failure. */
OCTAVO_API octavo_engine *octavo_engine_create(const octavo_model *model, const octavo_engine_config *config,
                                               const float *kv_scales, const float *k_mean);

/* Runs one step on a step buffer of size_bytes and returns when it is done: octavo_step_submit and octavo_step_finish,
 * with no other step under way. Checks all of its input first: with OCTAVO_INVALID_ARGUMENT nothing was run and no page
 * was written. */
OCTAVO_API int32_t octavo_step(octavo_engine *engine, uint8_t *step_buffer, double size_bytes);

/* Starts a step and returns as soon as it can: GPU builds have only enqueued it, the CPU build has run it. Steps run in
 * the order they are submitted. The buffer may be written again only after octavo_step_finish; at most two steps are
 * under way, each with a buffer of its own. With tokens of -(r+1) a step follows another whose tokens the host does not
 * know yet; where that row got -1 (its logits hold no number), token 0 is taken and this sequence's result is worth
 * nothing. Checks as octavo_step; OCTAVO_INVALID_ARGUMENT too for a third step and for a buffer already under way. */
OCTAVO_API int32_t octavo_step_submit(octavo_engine *engine, uint8_t *step_buffer, double size_bytes);

/* Waits for the oldest step under way, whose buffer must be given, and fills the buffer's output tables.
 * Errors: OCTAVO_INVALID_ARGUMENT (another buffer, none under way), OCTAVO_DEVICE (this step and those after it are
 * lost). */
OCTAVO_API int32_t octavo_step_finish(octavo_engine *engine, uint8_t *step_buffer);

/* Copies the raw logits (before penalties and edits, after final soft-cap) of a row of the step submitted last, waiting
 * for it; logits: float[vocab_size]. Errors: OCTAVO_INVALID_ARGUMENT where it has no such row. */
OCTAVO_API int32_t octavo_engine_logits(const octavo_engine *engine, int32_t row, float *logits);

/* Copies the KV scales in use; kv_scales: float[num_layers][2][num_kv_heads]. With calculate_kv_scales they are 1
 * before the first step is finished. */
OCTAVO_API int32_t octavo_engine_kv_scales(const octavo_engine *engine, float *kv_scales);

/* Ends what calculate_kv_scales began: sets the scales from the values of all steps so far, and keeps them. Where they
 * differ from those before, what the pages hold must not be read any more. Errors: OCTAVO_INVALID_ARGUMENT without
 * calculate_kv_scales, before the first step, the second time, and while a step is under way. */
OCTAVO_API int32_t octavo_engine_freeze_kv_scales(octavo_engine *engine);

/* Copies what has been counted of steps submitted so far, waiting for them. stats: double[num_layers][2][num_kv_heads][4],
 * K then V; of each:
 *  [0] largest magnitude
 *  [1] elements stored as the format's largest value because they are beyond it; 0 in formats with scales of their own
 *  [2] sum of squares of the elements of sampled tokens: of about one slot in 64, always the same ones
 *  [3] sum of squares of the errors of these, by what was stored
 * num_tokens: double[1], the tokens stored. Errors: OCTAVO_INVALID_ARGUMENT unless kv_stats is OCTAVO_KV_STATS_ERRORS. */
OCTAVO_API int32_t octavo_engine_kv_stats(const octavo_engine *engine, double *stats, double *num_tokens);

/* Copies what has been counted: absmax: float[num_layers][2][num_kv_heads], K then V; histogram: double[num_layers][2]
 * [num_kv_heads][OCTAVO_KV_STATS_BINS]; k_sum: double[num_layers][num_kv_heads][head_dim], K added up over all tokens.
 * Errors: OCTAVO_INVALID_ARGUMENT unless kv_stats is OCTAVO_KV_STATS_HISTOGRAMS. */
OCTAVO_API int32_t octavo_engine_kv_histograms(const octavo_engine *engine, float *absmax, double *histogram,
                                               double *k_sum);

/* Copies whole pages, all layers of each: pages[i] to host page host_pages[i], or back, for i < num_pages. The host pages
 * are the engine's own, num_host_pages of them. GPU builds only enqueue the copies: they run beside the steps under way,
 * none of which may read or write these pages, and a step submitted later waits until the pages it reads or writes have
 * been copied. All copies are made one after another, in order. Errors: OCTAVO_INVALID_ARGUMENT (a page that there is not). */
OCTAVO_API int32_t octavo_engine_save_pages(octavo_engine *engine, const int32_t *pages, const int32_t *host_pages,
                                            int32_t num_pages);
OCTAVO_API int32_t octavo_engine_restore_pages(octavo_engine *engine, const int32_t *pages, const int32_t *host_pages,
                                               int32_t num_pages);

/* Fills *stats without waiting. */
OCTAVO_API int32_t octavo_engine_transfer_stats(octavo_engine *engine, octavo_transfer_stats *stats);

/* Copies what a host page holds once the transfers submitted so far have finished. size_bytes: octavo_kv_page_bytes, the
 * largest of the engine's dtypes.
 * Errors: OCTAVO_INVALID_ARGUMENT. */
OCTAVO_API int32_t octavo_engine_host_page(octavo_engine *engine, int32_t host_page, uint8_t *bytes, double size_bytes);

/* A checksum of all bytes of a page after the steps and transfers submitted so far, waiting for them: pages that several
 * sequences share must not change. checksum: uint32_t[2], low and high word; the same in every build for the same bytes.
 * Errors: OCTAVO_INVALID_ARGUMENT (a page that there is not). */
OCTAVO_API int32_t octavo_engine_page_checksum(octavo_engine *engine, int32_t page, uint32_t *checksum);

/* Frees the engine. NULL is allowed. */
OCTAVO_API void octavo_engine_close(octavo_engine *engine);

/* --- Single kernels (tests, benches, other programs) ------------------------------------------------------ */

/* Tensors of the single kernels are host pointers in the CPU build and device pointers in GPU builds (of the current
 * device; structs and scalars are always the host's). GPU builds check only what the host can see: lengths, slots and
 * page ids on the device are kept inside the memory given, but not reported.
 *
 * Sets the stream on which the calling thread's single kernels run from now on; they then return at once and may be
 * captured in a graph. NULL (the start): they run on the default stream and have finished when they return.
 * Errors: OCTAVO_UNSUPPORTED in the CPU build unless NULL. */
OCTAVO_API int32_t octavo_stream_set(octavo_stream *stream);

/*
 * KV pages of one layer, granule layout, page_stride bytes from a page to the next:
 *   [page][kv_head][page_size/16 granules][K|V][column block][16 tokens][block bytes]
 * A row (one token's codes of K or V of one head) has row_bytes = head_dim * element size, rounded up to 16. It is cut into
 * column blocks of 128 bytes; the last one has what is left (all of it if row_bytes < 128). Inside a block of 128 bytes
 * the 16-byte chunk c of token t lies at chunk c ^ (t & 7); in a block of 64 bytes at c ^ ((t >> 1) & 3); other widths
 * are not swizzled.
 * So a granule has 2 * 16 * row_bytes bytes and is contiguous. Formats with scales of their own have them behind V:
 *   [K codes][V codes][K scales][V scales]
 * K scales, as V scales: float[16 tokens], or f16[head_dim/32 groups][16 tokens].
 */
typedef struct octavo_kv_shape {
  int32_t kv_dtype; /* octavo_kv_dtype */
  int32_t page_size;
  int32_t num_pages;
  int32_t num_kv_heads;
  int32_t head_dim; /* a multiple of 8, 8 .. 256 */
  int32_t page_stride; /* a multiple of 16, a page's bytes at least; 0: a page's bytes */
} octavo_kv_shape;

typedef struct octavo_attention_config {
  int32_t num_seqs;
  int32_t num_tokens;  /* sum of query_len */
  int32_t num_q_heads;
  int32_t max_pages_per_seq; /* columns of page_table */
  int32_t sliding_window; /* as octavo_layer_config */
  int32_t num_threads;    /* CPU */
  float softmax_scale;
  float logit_softcap;
  int32_t q_dtype;       /* octavo_dtype of q and out: OCTAVO_F32; GPU builds also OCTAVO_F16 and OCTAVO_BF16 */
  int32_t max_query_len; /* GPU: the largest query_len or more; 0 = look it up, which waits for the device */
  int32_t reuse_plan;    /* GPU: 1 = lengths, window and shape are those of this thread's last call with 0 (the layers
                            of one step share a plan); ignored by the CPU build, which makes none */
  int32_t reserved;      /* 0 */
} octavo_attention_config;

/* Bytes of one page of one layer; 0 with octavo_last_error() set when the shape is out of range. */
OCTAVO_API double octavo_kv_layer_page_bytes(const octavo_kv_shape *shape);

/* For the kv_dtypes without scales of their own, 0 .. 4.
 * stored = x / scale (f32 division), rounded to nearest even. Every kv_dtype but float32 saturates, infinity too; NaN
 * stays NaN. x: float[n]; stored: n elements of kv_dtype; scale: finite and > 0. */
OCTAVO_API int32_t octavo_quantize(int32_t kv_dtype, const float *x, int32_t n, float scale, uint8_t *stored);

/* x = stored * scale. */
OCTAVO_API int32_t octavo_dequantize(int32_t kv_dtype, const uint8_t *stored, int32_t n, float scale, float *x);

/* Writes K and V of num_tokens tokens. k, v: float[num_tokens][num_kv_heads][head_dim] (K after RoPE). slot_mapping:
 * int32[num_tokens], page * page_size + offset, or -1 to skip the token. scales: float[2][num_kv_heads] or NULL = 1;
 * NULL for formats with scales of their own. k_mean: float[num_kv_heads][head_dim], subtracted from K before it is
 * rotated, or NULL = 0; NULL for formats that are not rotated. A constant in K adds the same to all logits of a query, so
 * attention gives what it gives for K itself, but for soft-caps, sinks and lse, which see the logits of what is stored. */
OCTAVO_API int32_t octavo_kv_append(const octavo_kv_shape *shape, uint8_t *pages, const float *k, const float *v,
                                    const int32_t *slot_mapping, int32_t num_tokens, const float *scales,
                                    const float *k_mean);

/* Attention of new tokens over the pages, in which their own K and V are already stored; causal. q and out:
 * float[num_tokens][num_q_heads][head_dim]; query_len, seq_len: int32[num_seqs]; page_table:
 * int32[num_seqs][max_pages_per_seq]; scales as in octavo_kv_append; sinks: float[num_q_heads] or NULL.
 * lse: float[num_tokens][num_q_heads] (natural log of the sum of exp of the scaled logits, sinks included) or NULL. */
OCTAVO_API int32_t octavo_paged_attention(const octavo_kv_shape *shape, const octavo_attention_config *config,
                                          const uint8_t *pages, const float *q, const int32_t *query_len,
                                          const int32_t *seq_len, const int32_t *page_table, const float *scales,
                                          const float *sinks, float *out, float *lse);

/* Copies what is stored between rows and pages, bit for bit. k, v: num_tokens x num_kv_heads rows of head_dim elements
 * of kv_dtype, in formats with scales of their own each followed by its scales: head_dim + 4 bytes (f32), or head_dim/2 +
 * head_dim/16 (f16) of 4-bit codes. */
OCTAVO_API int32_t octavo_kv_pack(const octavo_kv_shape *shape, uint8_t *pages, const uint8_t *k, const uint8_t *v,
                                  const int32_t *slot_mapping, int32_t num_tokens);
OCTAVO_API int32_t octavo_kv_unpack(const octavo_kv_shape *shape, const uint8_t *pages, uint8_t *k, uint8_t *v,
                                    const int32_t *slot_mapping, int32_t num_tokens);

/* y[m][rows] = x[m][cols] W^T with W of any octavo_dtype as it lies in a file (rows x cols, row-major blocks).
 * Packs W as octavo_model_load_tensor does. weight_bytes: size of w. GPU builds take OCTAVO_F16, OCTAVO_BF16 and
 * OCTAVO_F8_E4M3, aligned to 16 bytes, and round x to W's type (E4M3: to bf16). */
OCTAVO_API int32_t octavo_matmul(int32_t dtype, const uint8_t *w, double weight_bytes, int32_t rows, int32_t cols,
                                 const float *x, int32_t m, float *y, int32_t num_threads);

typedef struct octavo_sampling {
  float temperature;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  int32_t top_k;
  int32_t sample_index; /* of the first draw */
  uint32_t seed_low;
  uint32_t seed_high;
  int32_t num_edits;
  int32_t num_draws;    /* >= 1: sample_index, sample_index + 1, ... */
} octavo_sampling;

/* The sampler by itself, with the meaning of the step buffer's columns. logits: float[vocab_size], vocab_size at most
 * 2^24; edit_*: [num_edits]; sampled: int32[num_draws]; sampled_logprob: float[num_draws] or NULL. Errors:
 * OCTAVO_INVALID_ARGUMENT, also when no logit that is not banned is above -infinity: GPU builds, which cannot see that,
 * give token -1 then, and take vocab_size up to 2^19. */
OCTAVO_API int32_t octavo_sample(const octavo_sampling *sampling, const float *logits, int32_t vocab_size,
                                 const int32_t *edit_token, const int32_t *edit_count, const int32_t *edit_flags,
                                 const float *edit_bias, int32_t *sampled, float *sampled_logprob);

/* Two distributions of the next token, a reference's p and another's q, each the softmax of its logits. */
typedef struct octavo_comparison {
  double kl;                /* sum of p ln(p / q), in nats */
  double reference_logprob; /* ln p of the target */
  double logprob;           /* ln q of the target */
  int32_t reference_top;    /* the most likely token; ties: the lowest id */
  int32_t top;
} octavo_comparison;

/* Compares two sets of logits row by row. reference_logits, logits: float[count][vocab_size], in host memory in every
 * build; targets: int32[count], -1 = reference_top; comparisons: octavo_comparison[count]; num_threads: 0 = physical cores.
 * Errors: OCTAVO_INVALID_ARGUMENT for a target beyond the vocabulary, and for a row that holds NaN or an infinity above
 * 0, or nothing above -infinity. */
OCTAVO_API int32_t octavo_compare_logits(const float *reference_logits, const float *logits, int32_t vocab_size,
                                         int32_t count, const int32_t *targets, octavo_comparison *comparisons,
                                         int32_t num_threads);

#ifdef __cplusplus
}
#endif
#endif /* OCTAVO_H */
