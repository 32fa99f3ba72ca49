// The step buffer of octavo.h: where its tables lie, views of them, and the checks of what they hold.
#pragma once

#include <cstdint>
#include <vector>

#include "octavo.h"
#include "ops/sampling_params.h"

namespace octavo {

// Throws Error (OCTAVO_INVALID_ARGUMENT) naming the first field of config out of its range.
void check_engine_config(const octavo_engine_config& config);

// Throws Error (OCTAVO_INVALID_ARGUMENT) where there are masks and their length does not fit the vocabulary.
void check_mask_words(const octavo_engine_config& config, int32_t vocab_size);

// Offsets of the tables for a config, each a multiple of 64. Throws Error when the buffer would pass 2 GB.
octavo_step_layout make_step_layout(const octavo_engine_config& config);

// The tables of one buffer; S, T, R, P, L, E, M, W, X as in octavo.h.
struct StepView {
  const int32_t* header;              // [16]
  const int32_t* tokens;              // [T]
  const int32_t* query_len;           // [S]
  const int32_t* seq_len;             // [S]
  const int32_t* page_table;          // [S][P]
  const int32_t* sample;              // [S]
  const float* temperature;           // [S]
  const int32_t* top_k;               // [S]
  const float* top_p;                 // [S]
  const float* min_p;                 // [S]
  const float* repetition_penalty;    // [S]
  const float* presence_penalty;      // [S]
  const float* frequency_penalty;     // [S]
  const uint32_t* seed;               // [S][2]
  const int32_t* sample_index;        // [S]
  const int32_t* num_logprobs;        // [S]
  const int32_t* edit_begin;          // [S + 1]
  const int32_t* edit_token;          // [E]
  const int32_t* edit_count;          // [E]
  const int32_t* edit_flags;          // [E]
  const float* edit_bias;             // [E]
  const int32_t* mask_index;          // [R]
  const uint32_t* token_masks;        // [M][W]
  const int32_t* score_index;         // [X]
  const int32_t* score_token;         // [X]
  const int32_t* score_num_logprobs;  // [X]
  const int32_t* kv_index;            // [S]
  int32_t* sampled;                   // [R]
  float* sampled_logprob;             // [R]
  int32_t* top_token;                 // [R][L]
  float* top_logprob;                 // [R][L]
  float* score_logprob;               // [X]
  int32_t* score_rank;                // [X]
  int32_t* score_top_token;           // [X][L]
  float* score_top_logprob;           // [X][L]

  int32_t num_seqs() const { return header[0]; }
  int32_t num_tokens() const { return header[1]; }
  int32_t num_logit_edits() const { return header[2]; }
  int32_t num_token_masks() const { return header[3]; }
  int32_t num_scores() const { return header[4]; }
  // The masks that may differ from what earlier steps had in their places.
  int32_t first_new_mask() const { return header[5] == 0 ? 0 : header[6]; }
  int32_t num_new_masks() const { return header[5] == 0 ? num_token_masks() : header[7]; }
  int32_t count_rows() const;
  // Those of the sequence's first row.
  SamplingParams sampling_params(int32_t seq_index) const;
  LogitEdits logit_edits(int32_t seq_index) const;
  // The mask that the row obeys, or nullptr. words: W.
  const uint32_t* token_mask(int32_t row, int32_t words) const;
};

// Sequences of a step that are stored in one KV dtype; they stand together.
struct KvGroup {
  int32_t kv_index;
  int32_t first_seq;
  int32_t num_seqs;
  int32_t first_token;
  int32_t num_tokens;
  int32_t max_query_len;
  int32_t max_decode_len;  // the longest query_len of the few tokens that a decode has; 0: there is no decode
  int32_t shortest_prompt;  // of the others: the fewest new tokens; 0: there are none
  int32_t prompt_granules;  // and granules of 16 tokens, that all of their tokens lie in, at most
};

struct KvGroups {
  KvGroup group[OCTAVO_MAX_KV_DTYPES];
  int32_t count = 0;

  const KvGroup* begin() const { return group; }
  const KvGroup* end() const { return group + count; }
};

// Throws Error (OCTAVO_INVALID_ARGUMENT) unless the buffer has the layout's size and is aligned to 8 bytes.
void check_step_buffer(const octavo_step_layout& layout, const uint8_t* step_buffer, double size_bytes);

StepView view_step_buffer(const octavo_step_layout& layout, uint8_t* step_buffer);

// The groups of a checked step, in order.
KvGroups list_kv_groups(const StepView& step);

// What a step's input is checked against.
struct StepLimits {
  octavo_engine_config config;
  int32_t vocab_size;
  int32_t max_model_len;
  int32_t last_num_rows;  // of the step before, which tokens may name
};

// Checks every value of the input tables that a step reads; sampling columns only of sequences that sample. Throws Error
// (OCTAVO_INVALID_ARGUMENT) naming the place and the value. page_writer: [num_pages], all -1; it is left so.
void check_step(const StepView& step, const StepLimits& limits, std::vector<int32_t>& page_writer);

// Throws Error (OCTAVO_INVALID_ARGUMENT) unless there is such a row of the last step.
void check_row(int32_t row, int32_t num_rows);

}  // namespace octavo
