// In place of torch's header of this name: its two functions that the engine calls, on one thread.
#pragma once

#include <cstdint>

namespace torch::stable {

inline uint32_t get_num_threads() { return 2; }

template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  for (; begin < end; begin += grain) f(begin, begin + grain < end ? begin + grain : end);
}

}  // namespace torch::stable
