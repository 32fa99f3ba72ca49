#include "gemm/stream_instances.cuh"

namespace octavo {

StreamLauncher find_stream_e4m3_bf16(int columns, bool hopper) {
  return find_stream_launcher<OCTAVO_F8_E4M3, OCTAVO_BF16>(columns, hopper);
}

}  // namespace octavo
