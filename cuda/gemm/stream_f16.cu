#include "gemm/stream_instances.cuh"

namespace octavo {

StreamLauncher find_stream_f16(int columns, bool hopper) {
  return find_stream_launcher<OCTAVO_F16, OCTAVO_F16>(columns, hopper);
}

}  // namespace octavo
