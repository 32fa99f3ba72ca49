// The KV dtypes of an engine, and the tokens that a page holds of each, by a step's kv_index.
#pragma once

#include <algorithm>
#include <cstdint>

#include "octavo.h"

namespace octavo {

inline int32_t num_kv_dtypes(const octavo_engine_config& config) { return 1 + config.num_more_kv_dtypes; }

inline int32_t kv_dtype_of(const octavo_engine_config& config, int32_t kv_index) {
  return kv_index == 0 ? config.kv_dtype : config.more_kv_dtypes[kv_index - 1];
}

inline int32_t page_size_of(const octavo_engine_config& config, int32_t kv_index) {
  return kv_index == 0 ? config.page_size : config.more_page_sizes[kv_index - 1];
}

// The tokens of the page that holds most.
inline int32_t largest_page_size(const octavo_engine_config& config) {
  int32_t largest = config.page_size;
  for (int32_t kv = 1; kv < num_kv_dtypes(config); ++kv) largest = std::max(largest, page_size_of(config, kv));
  return largest;
}

}  // namespace octavo
