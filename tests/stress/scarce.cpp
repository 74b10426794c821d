// Memory that runs out, in a process that preloads this library: the n-th allocation fails.
//
// Counted are those of torch_fullconv's library (vectors, scratch) and of torch's allocator of
// tensors, in any thread, from a size on. The one after scarce_after's count gets nothing, and that
// is the end of the count. Those of Python, of torch's own objects and of the OpenMP runtime, which
// ends a process where it cannot begin a thread, are granted.
#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

constexpr long kOff = -1;
std::atomic<long> left{kOff};
std::atomic<size_t> least{0};

bool is_counted(const void* caller) {
  Dl_info found;
  if (!dladdr(caller, &found) || !found.dli_fname) return false;
  const char* name = std::strrchr(found.dli_fname, '/');
  name = name ? name + 1 : found.dli_fname;
  return !std::strncmp(name, "_C.", 3) || !std::strcmp(name, "libc10.so");
}

bool fails(size_t size, const void* caller) {
  if (left.load() == kOff || size < least.load() || !is_counted(caller)) return false;
  return left.fetch_sub(1) == 0;
}

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

void* allocate(size_t size) {
  void* memory = std::malloc(size ? size : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace

#define CALLER __builtin_return_address(0)

extern "C" {

void scarce_after(long count, size_t size) {
  least = size;
  left = count;
}

// How many more would have been granted; below zero, one has failed.
long scarce_left() { return left.exchange(kOff); }

void* aligned_alloc(size_t alignment, size_t size) {
  static auto* const real = next<void*(size_t, size_t)>("aligned_alloc");
  return fails(size, CALLER) ? nullptr : real(alignment, size);
}

int posix_memalign(void** memory, size_t alignment, size_t size) {
  static auto* const real = next<int(void**, size_t, size_t)>("posix_memalign");
  return fails(size, CALLER) ? ENOMEM : real(memory, alignment, size);
}
}

void* operator new(size_t size) {
  if (fails(size, CALLER)) throw std::bad_alloc();
  return allocate(size);
}

void* operator new[](size_t size) {
  if (fails(size, CALLER)) throw std::bad_alloc();
  return allocate(size);
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
