/**
 * Every function of octavo.h, in its order, with each argument's C declaration beside it. `tests/ffi/abi_test.ts` checks
 * names, order and types against the header.
 *
 * @module
 */

/** The symbol table for `Deno.dlopen`. Only types that Deno calls fastest and that a path-scoped --allow-ffi permits. */
export const SYMBOLS = {
  octavo_abi_version: { parameters: [], result: "i32" },
  octavo_last_error: {
    parameters: [
      "buffer", // char *message
      "i32", // int32_t capacity
    ],
    result: "i32",
  },
  octavo_device_info: {
    parameters: [
      "buffer", // octavo_device_info_t *info
    ],
    result: "i32",
  },
  octavo_model_create: {
    parameters: [
      "buffer", // const octavo_model_config *config
      "buffer", // const octavo_layer_config *layers
      "buffer", // const float *inv_freq
    ],
    result: "pointer",
  },
  octavo_model_add_file: {
    parameters: [
      "pointer", // octavo_model *model
      "buffer", // const char *path
    ],
    result: "i32",
  },
  octavo_model_load_tensor: {
    parameters: [
      "pointer", // octavo_model *model
      "buffer", // const octavo_tensor *tensor
    ],
    result: "i32",
  },
  octavo_model_finish: {
    parameters: [
      "pointer", // octavo_model *model
    ],
    result: "i32",
  },
  octavo_model_weight_bytes: {
    parameters: [
      "pointer", // const octavo_model *model
    ],
    result: "f64",
  },
  octavo_model_close: {
    parameters: [
      "pointer", // octavo_model *model
    ],
    result: "void",
  },
  octavo_engine_scratch_bytes: {
    parameters: [
      "pointer", // const octavo_model *model
      "buffer", // const octavo_engine_config *config
    ],
    result: "f64",
  },
  octavo_kv_page_bytes: {
    parameters: [
      "pointer", // const octavo_model *model
      "i32", // int32_t kv_dtype
      "i32", // int32_t page_size
    ],
    result: "f64",
  },
  octavo_step_layout_get: {
    parameters: [
      "buffer", // const octavo_engine_config *config
      "buffer", // octavo_step_layout *layout
    ],
    result: "i32",
  },
  octavo_engine_create: {
    parameters: [
      "pointer", // const octavo_model *model
      "buffer", // const octavo_engine_config *config
      "buffer", // const float *kv_scales
      "buffer", // const float *k_mean
    ],
    result: "pointer",
  },
  octavo_step: {
    parameters: [
      "pointer", // octavo_engine *engine
      "buffer", // uint8_t *step_buffer
      "f64", // double size_bytes
    ],
    result: "i32",
  },
  octavo_step_submit: {
    parameters: [
      "pointer", // octavo_engine *engine
      "buffer", // uint8_t *step_buffer
      "f64", // double size_bytes
    ],
    result: "i32",
  },
  octavo_step_finish: {
    parameters: [
      "pointer", // octavo_engine *engine
      "buffer", // uint8_t *step_buffer
    ],
    result: "i32",
  },
  octavo_engine_logits: {
    parameters: [
      "pointer", // const octavo_engine *engine
      "i32", // int32_t row
      "buffer", // float *logits
    ],
    result: "i32",
  },
  octavo_engine_kv_scales: {
    parameters: [
      "pointer", // const octavo_engine *engine
      "buffer", // float *kv_scales
    ],
    result: "i32",
  },
  octavo_engine_freeze_kv_scales: {
    parameters: [
      "pointer", // octavo_engine *engine
    ],
    result: "i32",
  },
  octavo_engine_kv_stats: {
    parameters: [
      "pointer", // const octavo_engine *engine
      "buffer", // double *stats
      "buffer", // double *num_tokens
    ],
    result: "i32",
  },
  octavo_engine_kv_histograms: {
    parameters: [
      "pointer", // const octavo_engine *engine
      "buffer", // float *absmax
      "buffer", // double *histogram
      "buffer", // double *k_sum
    ],
    result: "i32",
  },
  octavo_engine_save_pages: {
    parameters: [
      "pointer", // octavo_engine *engine
      "buffer", // const int32_t *pages
      "buffer", // const int32_t *host_pages
      "i32", // int32_t num_pages
    ],
    result: "i32",
  },
  octavo_engine_restore_pages: {
    parameters: [
      "pointer", // octavo_engine *engine
      "buffer", // const int32_t *pages
      "buffer", // const int32_t *host_pages
      "i32", // int32_t num_pages
    ],
    result: "i32",
  },
  octavo_engine_transfer_stats: {
    parameters: [
      "pointer", // octavo_engine *engine
      "buffer", // octavo_transfer_stats *stats
    ],
    result: "i32",
  },
  octavo_engine_host_page: {
    parameters: [
      "pointer", // octavo_engine *engine
      "i32", // int32_t host_page
      "buffer", // uint8_t *bytes
      "f64", // double size_bytes
    ],
    result: "i32",
  },
  octavo_engine_page_checksum: {
    parameters: [
      "pointer", // octavo_engine *engine
      "i32", // int32_t page
      "buffer", // uint32_t *checksum
    ],
    result: "i32",
  },
  octavo_engine_close: {
    parameters: [
      "pointer", // octavo_engine *engine
    ],
    result: "void",
  },
  octavo_stream_set: {
    parameters: [
      "pointer", // octavo_stream *stream
    ],
    result: "i32",
  },
  octavo_kv_layer_page_bytes: {
    parameters: [
      "buffer", // const octavo_kv_shape *shape
    ],
    result: "f64",
  },
  octavo_quantize: {
    parameters: [
      "i32", // int32_t kv_dtype
      "buffer", // const float *x
      "i32", // int32_t n
      "f32", // float scale
      "buffer", // uint8_t *stored
    ],
    result: "i32",
  },
  octavo_dequantize: {
    parameters: [
      "i32", // int32_t kv_dtype
      "buffer", // const uint8_t *stored
      "i32", // int32_t n
      "f32", // float scale
      "buffer", // float *x
    ],
    result: "i32",
  },
  octavo_kv_append: {
    parameters: [
      "buffer", // const octavo_kv_shape *shape
      "buffer", // uint8_t *pages
      "buffer", // const float *k
      "buffer", // const float *v
      "buffer", // const int32_t *slot_mapping
      "i32", // int32_t num_tokens
      "buffer", // const float *scales
      "buffer", // const float *k_mean
    ],
    result: "i32",
  },
  octavo_paged_attention: {
    parameters: [
      "buffer", // const octavo_kv_shape *shape
      "buffer", // const octavo_attention_config *config
      "buffer", // const uint8_t *pages
      "buffer", // const float *q
      "buffer", // const int32_t *query_len
      "buffer", // const int32_t *seq_len
      "buffer", // const int32_t *page_table
      "buffer", // const float *scales
      "buffer", // const float *sinks
      "buffer", // float *out
      "buffer", // float *lse
    ],
    result: "i32",
  },
  octavo_kv_pack: {
    parameters: [
      "buffer", // const octavo_kv_shape *shape
      "buffer", // uint8_t *pages
      "buffer", // const uint8_t *k
      "buffer", // const uint8_t *v
      "buffer", // const int32_t *slot_mapping
      "i32", // int32_t num_tokens
    ],
    result: "i32",
  },
  octavo_kv_unpack: {
    parameters: [
      "buffer", // const octavo_kv_shape *shape
      "buffer", // const uint8_t *pages
      "buffer", // uint8_t *k
      "buffer", // uint8_t *v
      "buffer", // const int32_t *slot_mapping
      "i32", // int32_t num_tokens
    ],
    result: "i32",
  },
  octavo_matmul: {
    parameters: [
      "i32", // int32_t dtype
      "buffer", // const uint8_t *w
      "f64", // double weight_bytes
      "i32", // int32_t rows
      "i32", // int32_t cols
      "buffer", // const float *x
      "i32", // int32_t m
      "buffer", // float *y
      "i32", // int32_t num_threads
    ],
    result: "i32",
  },
  octavo_sample: {
    parameters: [
      "buffer", // const octavo_sampling *sampling
      "buffer", // const float *logits
      "i32", // int32_t vocab_size
      "buffer", // const int32_t *edit_token
      "buffer", // const int32_t *edit_count
      "buffer", // const int32_t *edit_flags
      "buffer", // const float *edit_bias
      "buffer", // int32_t *sampled
      "buffer", // float *sampled_logprob
    ],
    result: "i32",
  },
  octavo_compare_logits: {
    parameters: [
      "buffer", // const float *reference_logits
      "buffer", // const float *logits
      "i32", // int32_t vocab_size
      "i32", // int32_t count
      "buffer", // const int32_t *targets
      "buffer", // octavo_comparison *comparisons
      "i32", // int32_t num_threads
    ],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;
