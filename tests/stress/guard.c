// Guard pages around every tensor and all scratch, in a process that preloads this library.
//
// torch allocates tensors with posix_memalign and the kernels' scratch comes from aligned_alloc;
// these two are replaced. A block lies between two pages that may not be touched and, by
// guard_side, ends where the second begins or begins where the first ends: to read or write one
// byte beyond is a fault. What was freed may not be touched either: no address is given out twice.
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

extern void __libc_free(void*);
extern void* __libc_realloc(void*, size_t);

enum { kPage = 4096 };
static const size_t kSpace = (size_t)1 << 45;  // of addresses: only blocks in it have memory
static _Atomic(char*) space;
static atomic_size_t used;
static atomic_int at_start;

void guard_side(int start) { at_start = start; }

// How many bytes of addresses blocks and their guards have taken.
size_t guard_used(void) { return used; }

static char* reserved(void) {
  char* found = space;
  if (found) return found;
  char* fresh = mmap(NULL, kSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fresh == MAP_FAILED) abort();
  if (atomic_compare_exchange_strong(&space, &found, fresh)) return fresh;
  munmap(fresh, kSpace);
  return found;
}

static int is_guarded(const void* block) {
  const char* start = space;
  return start && (const char*)block >= start && (const char*)block < start + kSpace;
}

// [its size] [guard] [the block's pages] [guard]. Alignment is that of the size: 64 bytes for
// scratch, whose size is a multiple of that, and the element's for tensors.
static void* allocate(size_t size) {
  size_t room = (size + kPage - 1) / kPage * kPage;
  size_t offset = atomic_fetch_add(&used, room + 3 * kPage);
  if (room < size || offset + room + 3 * kPage > kSpace) return NULL;
  char* head = reserved() + offset;
  char* block = head + 2 * kPage;
  if (mprotect(head, kPage, PROT_READ | PROT_WRITE)) return NULL;
  if (room && mprotect(block, room, PROT_READ | PROT_WRITE)) return NULL;
  *(size_t*)head = room;
  memset(block, 0xff, room);  // NaN in every floating-point type
  return at_start ? block : block + room - size;
}

int posix_memalign(void** block, size_t alignment, size_t size) {
  (void)alignment;
  *block = allocate(size);
  return *block ? 0 : ENOMEM;
}

void* aligned_alloc(size_t alignment, size_t size) {
  (void)alignment;
  return allocate(size);
}

void free(void* block) {
  if (!is_guarded(block)) {
    __libc_free(block);
    return;
  }
  int error = errno;
  char* head = (char*)((size_t)block / kPage * kPage) - 2 * kPage;
  size_t taken = *(size_t*)head + 2 * kPage;
  madvise(head, taken, MADV_DONTNEED);
  mprotect(head, taken, PROT_NONE);
  errno = error;
}

void* realloc(void* block, size_t size) {
  if (is_guarded(block)) abort();  // torch never does
  return __libc_realloc(block, size);
}
