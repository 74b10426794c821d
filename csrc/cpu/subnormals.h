// Subnormal numbers as zeros, where they are operands and where they would be results: on some
// x86 processors a product with one takes as long as a hundred others. Other processors multiply
// them as fast, and keep them.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fullconv::cpu {

// As long as it lives, in its thread.
class SubnormalsAsZeros {
#if defined(__x86_64__)
 public:
  SubnormalsAsZeros() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushed); }
  ~SubnormalsAsZeros() { _mm_setcsr(before_); }
  SubnormalsAsZeros(const SubnormalsAsZeros&) = delete;

 private:
  static constexpr unsigned kFlushed = 0x8040;  // FTZ and DAZ
  unsigned before_;
#endif
};

}  // namespace fullconv::cpu
