// For functions in headers that files of different instruction sets include: a shared out-of-line copy could be compiled
// for a processor newer than the one at hand, so there must be none.
#pragma once

#define OCTAVO_INLINE inline __attribute__((always_inline))
