// Huge pages for large results and packed filters. Fresh memory is handed out a page at a time when
// it is first written, and in pages of 4 KiB that takes longer than most layers take to fill them.
// Linux gives pages of 2 MiB to those who ask
// (https://docs.kernel.org/admin-guide/mm/transhuge.html), as NumPy does for its arrays of 4 MiB
// and more. Asked for are those pages that lie in the memory whole: nothing becomes larger.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fullconv {

inline void ask_for_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  if (bytes < int64_t{2} << 21) return;
  uintptr_t start = reinterpret_cast<uintptr_t>(memory), end = (start + bytes) / page * page;
  start = (start + page - 1) / page * page;
  if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
}

}  // namespace fullconv
