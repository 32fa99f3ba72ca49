#include "gemm/stream_instances.cuh"

namespace octavo {

StreamLauncher find_stream_bf16(int columns, bool hopper) {
  return find_stream_launcher<OCTAVO_BF16, OCTAVO_BF16>(columns, hopper);
}

}  // namespace octavo
