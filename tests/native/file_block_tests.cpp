// Decodes a file of elements as device code does: file_block_tests <octavo_dtype> <file>, f32 to stdout. Compiled and run
// by file_block_test.ts.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

#include "gemm/elements.h"
#include "gemm/file_block.h"

int main(int, char** argv) {
  const int32_t dtype = std::atoi(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> chars((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto* bytes = reinterpret_cast<const uint8_t*>(chars.data());
  std::vector<float> values;
  if (const int element_bytes = octavo::plain_bytes(dtype); element_bytes > 0) {
    for (size_t at = 0; at < chars.size(); at += static_cast<size_t>(element_bytes)) {
      values.push_back(octavo::load_element(dtype, bytes + at));
    }
  } else {
    const octavo::Format& format = octavo::kFormats[octavo::find_format(dtype)];
    const size_t block_cols = static_cast<size_t>(format.block_cols);
    values.resize(chars.size() / static_cast<size_t>(format.block_bytes) * block_cols);
    for (size_t block = 0; block * block_cols < values.size(); ++block) {
      octavo::dequantize_block(format, bytes + block * static_cast<size_t>(format.block_bytes),
                               &values[block * block_cols]);
    }
  }
  std::fwrite(values.data(), sizeof(float), values.size(), stdout);
}
