// Runs the tasks of a job on torch's threads, and keeps the memory that they work in.
#pragma once

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <future>
#include <memory>
#include <new>
#include <vector>

#include "../huge_pages.h"

namespace fullconv::cpu {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

inline Memory allocate(int64_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) throw std::bad_alloc();
  return Memory(memory);
}

// Memory that the calling thread keeps for its next call, which then finds its pages ready; what is
// more than kMost is the call's own.
class Kept {
 public:
  static constexpr int64_t kMost = 1 << 26;

  char* get(int64_t bytes, Memory& own) {
    if (bytes > kMost) {
      own = allocate(bytes);
      ask_for_huge_pages(own.get(), bytes);
      return static_cast<char*>(own.get());
    }
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_ = allocate(bytes);
      size_ = bytes;
    }
    return static_cast<char*>(memory_.get());
  }

 private:
  Memory memory_;
  int64_t size_ = 0;
};

inline thread_local Kept kept_scratch;  // of all workers of a call
inline thread_local Kept kept_block;    // a call's packed filter, or the parts of its sums

// In a child of fork(), whether this is the thread that called it. GNU's OpenMP would have it wait
// for the threads that it had in the parent, for ever; a thread begun in the child has its own.
inline thread_local bool forked = false;
inline const int forks_are_seen = pthread_atfork(nullptr, nullptr, [] { forked = true; });

constexpr int64_t kCopying = 16;  // multiply-adds in the time that it takes to copy a byte

// The tasks that a worker begins with: so it finds in its caches what it wrote in the layer before.
// When it is done with its own it takes those that others have left.
struct alignas(64) Range {
  std::atomic<int64_t> next;
  int64_t end;
};

// Calls task(index, scratch) for each index below `tasks`. Which worker does which changes nothing
// in the result. `work` counts the multiply-adds of all tasks: waking a thread is worth it from
// some ten microseconds of them.
template <class F>
void for_tasks(int64_t tasks, int64_t work, int64_t scratch, const F& task) {
  constexpr int64_t work_of_a_thread = 1 << 19;
  int64_t workers = std::min(
      {tasks, 1 + work / work_of_a_thread, static_cast<int64_t>(torch::stable::get_num_threads())});
  scratch = (scratch + 63) / 64 * 64;
  Memory own;
  char* memory = kept_scratch.get(workers * scratch, own);
  if (workers <= 1) {
    for (int64_t index = 0; index < tasks; ++index) task(index, memory);
    return;
  }
  std::vector<Range> ranges(workers);
  for (int64_t w = 0; w < workers; ++w) {
    ranges[w].next = tasks * w / workers;
    ranges[w].end = tasks * (w + 1) / workers;
  }
  auto work_together = [&] {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker)
        for (int64_t other = 0; other < workers; ++other) {
          Range& range = ranges[(worker + other) % workers];
          for (int64_t index;
               (index = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;)
            task(index, memory + worker * scratch);
        }
    });
  };
  if (forked)
    std::async(std::launch::async, work_together).get();
  else
    work_together();
}

}  // namespace fullconv::cpu
