// The device sampler's arithmetic on single logits, for the kernel and for tests on the host. It rounds as the CPU's
// sampler does, step by step, so that both give a token the same weight.
#pragma once

#include <cstdint>
#include <cstring>

#include "arch/host_device.h"
#include "ops/sampling_params.h"

namespace octavo {

// Products and sums that the compiler must not contract to one rounding.
OCTAVO_HOST_DEVICE inline float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

OCTAVO_HOST_DEVICE inline float add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

OCTAVO_HOST_DEVICE inline float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

OCTAVO_HOST_DEVICE inline uint32_t float_bits(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

OCTAVO_HOST_DEVICE inline float bits_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

// --- Logits as integers in the same order -------------------------------------------------------------------------

constexpr uint32_t kLowestKey = 0x007FFFFF;    // of -infinity: cannot be sampled
constexpr uint32_t kInfinityKey = 0xFF800000;  // of +infinity

// A logit as it is compared: NaN cannot be sampled, and -0 is 0.
OCTAVO_HOST_DEVICE inline float clean_logit(float x) { return x == x ? add(x, 0.0f) : bits_float(0xFF800000); }

// Greater for greater logits. x: clean.
OCTAVO_HOST_DEVICE inline uint32_t logit_key(float x) {
  const uint32_t bits = float_bits(x);
  return (bits & 0x80000000) != 0 ? ~bits : bits | 0x80000000;
}

OCTAVO_HOST_DEVICE inline float key_logit(uint32_t key) {
  return bits_float((key & 0x80000000) != 0 ? key & 0x7FFFFFFF : ~key);
}

// A token with its logit's key, in the order of likelihood: higher logit first, then the lower token.
OCTAVO_HOST_DEVICE inline uint64_t ranked_token(uint32_t key, int32_t token) {
  return (static_cast<uint64_t>(key) << 32) | static_cast<uint32_t>(~token);
}

OCTAVO_HOST_DEVICE inline uint32_t ranked_key(uint64_t ranked) { return static_cast<uint32_t>(ranked >> 32); }
OCTAVO_HOST_DEVICE inline int32_t ranked_id(uint64_t ranked) { return ~static_cast<int32_t>(ranked & 0xFFFFFFFF); }

// One logit after one edit (octavo.h: order of logit processing).
OCTAVO_HOST_DEVICE inline float edit_logit(float logit, const SamplingParams& params, int32_t count, int32_t flags,
                                           float bias) {
  if ((flags & kEditBanned) != 0) return bits_float(0xFF800000);
  if ((flags & kEditSeen) != 0) {
    logit = logit > 0 ? divide(logit, params.repetition_penalty) : multiply(logit, params.repetition_penalty);
  }
  logit = add(logit, -multiply(params.frequency_penalty, static_cast<float>(count)));
  if (count > 0) logit = add(logit, -params.presence_penalty);
  return clean_logit(add(logit, bias));
}

// --- Weights ------------------------------------------------------------------------------------------------------

// exp(x) for x <= 0: ops/vector_ops.inc's exp_lanes, lane by lane (Cephes' expf); 0 below -87.33.
OCTAVO_HOST_DEVICE inline float exp_not_positive(float x) {
  constexpr float kRound = 12582912.0f;
  if (x < -87.33f) return 0.0f;
  const float shifted = add(multiply(x, 1.44269504088896341f), kRound);
  const float count = add(shifted, -kRound);
  const float r = add(add(x, -multiply(count, 0.693359375f)), -multiply(count, -2.12194440e-4f));
  float p = 1.9875691500e-4f;
  p = add(multiply(p, r), 1.3981999507e-3f);
  p = add(multiply(p, r), 8.3334519073e-3f);
  p = add(multiply(p, r), 4.1665795894e-2f);
  p = add(multiply(p, r), 1.6666665459e-1f);
  p = add(multiply(p, r), 5.0000001201e-1f);
  p = add(add(multiply(multiply(p, r), r), r), 1.0f);
  return multiply(p, bits_float((float_bits(shifted) + 127) << 23));
}

// exp((x - max) / temperature); 0 where that is no number, as with infinities.
OCTAVO_HOST_DEVICE inline float logit_weight(float x, float max, float temperature) {
  const float exponent = divide(add(x, -max), temperature);
  return exponent <= 0 ? exp_not_positive(exponent) : 0.0f;
}

// Weights are summed in units of 2^-44 of the most likely token's: integers add up to the same in any order, and 2^19
// tokens of weight 1 still fit.
constexpr double kWeightUnit = 0x1p-44;
constexpr int32_t kMaxSampledVocab = 1 << 19;

OCTAVO_HOST_DEVICE inline uint64_t integer_weight(float weight) {
  return static_cast<uint64_t>(multiply(weight, 0x1p44f));
}

// The least sum of integer weights that is fraction (0, 1] of total, at least 1.
OCTAVO_HOST_DEVICE inline uint64_t fraction_of(uint64_t total, float fraction) {
  const double product = static_cast<double>(fraction) * static_cast<double>(total);
  uint64_t target = static_cast<uint64_t>(product);
  if (static_cast<double>(target) < product || target == 0) ++target;
  return target < total ? target : total;
}

// --- Bins of a histogram ------------------------------------------------------------------------------------------

constexpr int32_t kBins = 256;

// The first histogram's bins are equally wide in logits, from the most likely token down; the last one takes the rest.
// 16 temperatures reach down to weight 1e-7.
OCTAVO_HOST_DEVICE inline float linear_scale(float temperature) {
  return static_cast<float>(kBins - 1) / (16.0f * (temperature > 1 ? temperature : 1.0f));
}

OCTAVO_HOST_DEVICE inline int32_t linear_bin(float x, float max, float scale) {
  const float bin = multiply(add(max, -x), scale);
  return bin < static_cast<float>(kBins - 1) ? static_cast<int32_t>(bin) : kBins - 1;
}

// The others' bins are 2^shift keys wide, from high down: the least shift that covers low .. high.
OCTAVO_HOST_DEVICE inline int32_t key_shift(uint32_t low, uint32_t high) {
  int32_t shift = 0;
  while (((high - low) >> shift) >= static_cast<uint32_t>(kBins)) ++shift;
  return shift;
}

}  // namespace octavo
