// The emulated GPU: fibers, their scheduler, barriers, asynchronous copies.
//
// ThreadSanitizer sees each fiber as a thread, and barriers as the only order between them. This
// file itself is compiled without its instrumentation; what a copy touches is told to it by name.
#include "cuda_emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(CUDA_EMULATOR_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(const void* address, size_t bytes);
void __tsan_write_range(void* address, size_t bytes);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

Index3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulator {
namespace {

constexpr size_t kStack = 256 << 10;
constexpr size_t kSharedUnlessAllowed = 48 << 10, kSharedAtMost = 99 << 10;  // sm_86 has no more

// While one lives, ThreadSanitizer looks away.
struct Unseen {
#if defined(CUDA_EMULATOR_TSAN)
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}
#endif
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool wanted;
};

struct Barrier {
  std::vector<int> waiting;
  int line = 0;
  char order;  // ThreadSanitizer's name for it
};

struct Fiber {
  Index3 index;
  bool done;
  const char* waits_for;
  int line;                              // of a barrier
  std::vector<Copy> copies;              // not committed yet
  std::deque<std::vector<Copy>> groups;  // committed, not waited for yet
  unsigned exchanges;                    // how many its warp has had, as far as it knows
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack;
#endif
#if defined(CUDA_EMULATOR_TSAN)
  void* tsan;
#endif
};

struct Warp {
  Barrier barrier;
  Exchange exchange[2];  // one may still be read while the next is written
};

constexpr int kHost = -1;

struct Device {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<int> ready;
#if defined(CUDA_EMULATOR_TSAN)
  std::vector<void*> tsan;  // a fiber's, for all blocks
#endif
  Barrier barrier;
  Fiber host;
  char started, ended;
  int current, alive;
  unsigned char* stacks = nullptr;
  size_t stack_count = 0;
  unsigned char* shared = nullptr;
  void (*run)(void*);
  void* what;
  std::string error;
  std::mt19937_64 random{[] {
    const char* seed = std::getenv("CUDA_EMULATOR_SEED");
    return seed ? std::strtoull(seed, nullptr, 10) : 1;
  }()};
  std::map<const void*, size_t> shared_allowed;
} device;

Fiber& fiber(int index) { return index == kHost ? device.host : device.fibers[index]; }
Fiber& self() { return fiber(device.current); }

// A warp's own index; 32 threads follow each other.
Warp& warp() { return device.warps[device.current / 32]; }
int warp_size() {
  int first = device.current / 32 * 32;
  return std::min<int>(32, device.fibers.size() - first);
}

void enter();

#if defined(__x86_64__)
// Saves the caller's registers on its stack, and goes on with another's.
extern "C" void cuda_emulator_switch(void** from, void* to);
asm(R"(.text
.globl cuda_emulator_switch
cuda_emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi); movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

void prepare(Fiber& fiber, unsigned char* stack) {
  void** top = reinterpret_cast<void**>(stack + kStack) - 2;  // a function's stack is 8 off 16
  *top = reinterpret_cast<void*>(enter);
  top -= 6;
  std::fill_n(top, 6, nullptr);
  fiber.stack_pointer = top;
}
void switch_stacks(Fiber& from, Fiber& to) {
  cuda_emulator_switch(&from.stack_pointer, to.stack_pointer);
}
#else
void prepare(Fiber& fiber, unsigned char* stack) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStack;
  makecontext(&fiber.context, enter, 0);
}
void switch_stacks(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

#if defined(__SANITIZE_ADDRESS__)
const void* host_stack = nullptr;
size_t host_stack_size = 0;
#endif

void switch_to(int next) {
  Fiber &from = self(), &to = fiber(next);
  device.current = next;
  threadIdx = to.index;
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_switch_to_fiber(to.tsan, 1);  // 1: a switch orders nothing
#endif
#if defined(__SANITIZE_ADDRESS__)
  void** save = from.done ? nullptr : &from.fake_stack;
  if (next == kHost)
    __sanitizer_start_switch_fiber(save, host_stack, host_stack_size);
  else
    __sanitizer_start_switch_fiber(save, device.stacks + next * kStack, kStack);
#endif
  switch_stacks(from, to);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// A thread drawn from all that can go on; the host when all are done.
void switch_to_any() {
  if (device.ready.empty()) {
    if (device.alive == 0) return switch_to(kHost);
    std::string waiting;
    for (size_t i = 0, named = 0; i < device.fibers.size() && named < 4; ++i)
      if (!device.fibers[i].done) {
        ++named;
        waiting += "; thread " + std::to_string(i) + " at " + device.fibers[i].waits_for + " " +
                   std::to_string(device.fibers[i].line);
      }
    fail("%d of %zu threads wait for ever%s", device.alive, device.fibers.size(), waiting.c_str());
  }
  std::swap(device.ready[device.random() % device.ready.size()], device.ready.back());
  int next = device.ready.back();
  device.ready.pop_back();
  if (next != device.current) switch_to(next);
}

void release(Barrier& barrier) {
  Unseen unseen;
  device.ready.insert(device.ready.end(), barrier.waiting.begin(), barrier.waiting.end());
  barrier.waiting.clear();
}

void wait_at(Barrier& barrier, int threads, const char* name, int line) {
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_release(&barrier.order);
#endif
  self().waits_for = name;
  self().line = line;
  {
    Unseen unseen;
    barrier.waiting.push_back(device.current);
    if (static_cast<int>(barrier.waiting.size()) == threads) release(barrier);
  }
  switch_to_any();
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_acquire(&barrier.order);
#endif
}

void note_write(void* to, size_t bytes) {
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_write_range(to, bytes);
#else
  (void)to, (void)bytes;
#endif
}

// Where a fiber starts.
void enter() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!host_stack) host_stack = bottom, host_stack_size = size;  // the host starts the first one
#endif
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_acquire(&device.started);
#endif
  device.run(device.what);
  Fiber& fiber = self();
  bool copies_left = !fiber.copies.empty();
  for (auto& group : fiber.groups) copies_left = copies_left || !group.empty();
  if (copies_left) fail("a thread ends with asynchronous copies that it has not waited for");
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_release(&device.ended);
#endif
  fiber.done = true;
  --device.alive;
  if (device.alive > 0 && static_cast<int>(device.barrier.waiting.size()) == device.alive)
    release(device.barrier);
  switch_to_any();
  std::abort();
}

void run_block(size_t shared_bytes) {
  size_t threads = blockDim.x * blockDim.y * blockDim.z;
  if (shared_bytes) std::memset(device.shared, 0xff, shared_bytes);  // NaN
  device.barrier.waiting.clear();
  device.fibers.resize(threads);
  device.warps.resize((threads + 31) / 32);
  for (Warp& warp : device.warps) warp.barrier.waiting.clear();
  device.ready.resize(threads);
  std::iota(device.ready.begin(), device.ready.end(), 0);
  device.alive = threads;
#if defined(__SANITIZE_ADDRESS__)
  // The last block's frames were left, not returned from.
  __asan_unpoison_memory_region(device.stacks, threads * kStack);
#endif
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = device.fibers[i];
    fiber.index = {static_cast<unsigned>(i % blockDim.x),
                   static_cast<unsigned>(i / blockDim.x % blockDim.y),
                   static_cast<unsigned>(i / blockDim.x / blockDim.y)};
    fiber.done = false;
    fiber.exchanges = 0;
    fiber.copies.clear();
    fiber.groups.clear();
    prepare(fiber, device.stacks + i * kStack);
#if defined(CUDA_EMULATOR_TSAN)
    if (i == device.tsan.size()) device.tsan.push_back(__tsan_create_fiber(0));  // slow
    fiber.tsan = device.tsan[i];
#endif
  }
  device.current = kHost;
#if defined(CUDA_EMULATOR_TSAN)
  device.host.tsan = __tsan_get_current_fiber();
  __tsan_release(&device.started);
#endif
  switch_to_any();
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_acquire(&device.ended);
#endif
}

}  // namespace

void fail(const char* format, ...) {
  char text[1000];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  device.error = std::string(text) + " (block " + std::to_string(blockIdx.x) + ", thread " +
                 std::to_string(threadIdx.x) + ")";
  switch_to(kHost);
  std::abort();
}

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  if (static_cast<size_t>(bytes) > kSharedAtMost) return cudaErrorInvalidValue;
  device.shared_allowed[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config, void (*run)(void*),
                   void* what) {
  size_t threads = size_t{config.blockDim.x} * config.blockDim.y * config.blockDim.z;
  const dim3& grid = config.gridDim;
  size_t blocks = size_t{grid.x} * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || blocks == 0 || grid.x > 0x7fffffff || grid.y > 0xffff ||
      grid.z > 0xffff)
    return cudaErrorInvalidConfiguration;
  size_t bytes = config.dynamicSmemBytes;
  auto allowed = device.shared_allowed.find(kernel);
  if (bytes > (allowed == device.shared_allowed.end() ? kSharedUnlessAllowed : allowed->second))
    return cudaErrorInvalidValue;

  if (threads > device.stack_count) {
    if (device.stacks) munmap(device.stacks, device.stack_count * kStack);
    device.stack_count = threads;
    device.stacks =
        static_cast<unsigned char*>(mmap(nullptr, threads * kStack, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  device.shared = static_cast<unsigned char*>(std::aligned_alloc(128, (bytes + 127) / 128 * 128));
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(device.shared + bytes, (128 - bytes % 128) % 128);
#endif
  device.run = run;
  device.what = what;
  device.error.clear();
  blockDim = config.blockDim;
  gridDim = grid;
  std::vector<size_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), device.random);
  for (size_t block : order) {
    blockIdx = {static_cast<unsigned>(block % grid.x),
                static_cast<unsigned>(block / grid.x % grid.y),
                static_cast<unsigned>(block / grid.x / grid.y)};
    run_block(bytes);
    if (!device.error.empty()) break;
  }
  std::free(device.shared);
  return device.error.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

unsigned char* shared_memory() { return device.shared; }

void start_copy(void* to, const void* from, int bytes, bool wanted) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0)
    fail("an asynchronous copy of %d bytes at a misaligned address", bytes);
  Unseen unseen;
  self().copies.push_back({to, from, bytes, wanted});
}

void commit_copies() {
  Unseen unseen;
  self().groups.push_back(std::move(self().copies));
  self().copies.clear();
}

void wait_for_copies(size_t groups) {
  while (self().groups.size() > groups) {
    for (const Copy& copy : self().groups.front()) {
      note_write(copy.to, copy.bytes);
      if (copy.wanted) note_read(copy.from, copy.bytes);
      Unseen unseen;
      if (copy.wanted)
        std::memcpy(copy.to, copy.from, copy.bytes);
      else
        std::memset(copy.to, 0, copy.bytes);
    }
    Unseen unseen;
    self().groups.pop_front();
  }
}

Exchange& exchange() { return warp().exchange[self().exchanges % 2]; }

void wait_for_warp(const char* what) {
  if (warp_size() < 32) fail("%s: the warp has less than 32 lanes", what);
  ++self().exchanges;
  wait_at(warp().barrier, 32, what, self().exchanges);
}

void note_read(const void* from, size_t bytes) {
#if defined(CUDA_EMULATOR_TSAN)
  __tsan_read_range(from, bytes);
#else
  (void)from, (void)bytes;
#endif
}

}  // namespace cuda_emulator

void __syncthreads(int line) {
  using namespace cuda_emulator;
  if (device.barrier.waiting.empty()) device.barrier.line = line;
  if (device.barrier.line != line)
    fail("threads meet at different barriers, of lines %d and %d", device.barrier.line, line);
  wait_at(device.barrier, device.alive, "the barrier of line", line);
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return cuda_emulator::device.error.c_str();
  if (error == cudaErrorInvalidConfiguration) return "invalid configuration argument";
  if (error == cudaErrorInvalidValue) return "invalid argument";
  return "no error";
}
