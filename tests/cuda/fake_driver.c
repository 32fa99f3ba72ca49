// Stands in for libcuda.so.1 as far as the CUDA runtime asks for its version: a driver of the 12 series.
#include <stdint.h>
#include <string.h>

static const int kVersion = 12080;
static const int kDriverTooOld = 35; // cudaErrorInsufficientDriver

int cuDriverGetVersion(int* version) {
  *version = kVersion;
  return 0;
}

int cuInit(unsigned flags) {
  (void)flags;
  return kDriverTooOld;
}

static int unknown(void) { return kDriverTooOld; }

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, void* status);

int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
  (void)flags;
  *function = (void*)unknown;
  if (strcmp(name, "cuInit") == 0) *function = (void*)cuInit;
  if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void*)cuDriverGetVersion;
  if (strcmp(name, "cuGetProcAddress") == 0) {
    *function = version < 12000 ? (void*)cuGetProcAddress : (void*)cuGetProcAddress_v2;
  }
  return 0;
}

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, void* status) {
  (void)status;
  return cuGetProcAddress(name, function, version, flags);
}
