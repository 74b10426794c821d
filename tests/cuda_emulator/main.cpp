// Runs calls of csrc/cuda/launch.h that it reads from standard input, and writes their results.
//
// A call is 64-bit integers, in the order in which they are read below, and tensors: each a whole
// storage, in memory of its very size. The answer is the message (its length first, -1 for none)
// and the result's storage.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "launch.h"

namespace {

using namespace fullconv;

bool read(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

int64_t read_integer() {
  int64_t value = 0;
  if (!read(&value, sizeof value)) std::exit(3);
  return value;
}

struct Tensor {
  void* storage;
  int64_t bytes;
  Array array;
};

Tensor read_tensor(int64_t scalar) {
  Tensor tensor{};
  tensor.bytes = read_integer();
  int64_t offset = read_integer();
  tensor.array.segment_stride = read_integer();
  for (int64_t& size : tensor.array.size) size = read_integer();
  for (int64_t& stride : tensor.array.stride) stride = read_integer();
  if (posix_memalign(&tensor.storage, 64, tensor.bytes) != 0) std::exit(3);
  if (!read(tensor.storage, tensor.bytes)) std::exit(3);
  tensor.array.data = static_cast<char*>(tensor.storage) + offset * scalar;
  return tensor;
}

Axis read_axis(Padding padding) {
  Axis axis{};
  for (int64_t* field :
       {&axis.size, &axis.kernel, &axis.stride, &axis.pad_before, &axis.pad_after, &axis.dilation})
    *field = read_integer();
  axis.padding = padding;
  return axis;
}

void call(int64_t operation) {
  Dtype dtype = static_cast<Dtype>(read_integer());
  constexpr int64_t sizes[] = {4, 8, 2, 2, 8, 16};  // in Dtype's order
  int64_t scalar = sizes[static_cast<int>(dtype)];
  std::vector<void*> scratch;
  cuda::Context context{};
  context.allow_tf32 = read_integer();
  context.allocate = [&](int64_t bytes) {
    scratch.push_back(std::malloc(bytes));
    return std::memset(scratch.back(), 0xff, bytes);
  };
  int64_t segments = read_integer();
  Geometry geometry{};
  geometry.groups = read_integer();
  Padding padding = static_cast<Padding>(read_integer());
  geometry.h = read_axis(padding);
  geometry.w = read_axis(padding);
  Tensor first = read_tensor(scalar), second = read_tensor(scalar), bias = read_tensor(scalar),
         result = read_tensor(scalar);
  const Array* added = bias.bytes ? &bias.array : nullptr;

  const char* message = "unknown operation";
  if (operation == 0)
    message = cuda::correlate(context, dtype, geometry, segments, first.array, second.array, added,
                              result.array);
  if (operation == 1)
    message = cuda::full_convolve(context, dtype, geometry, segments, first.array, second.array,
                                  added, result.array);
  if (operation == 2)
    message = cuda::correlate_weight(context, dtype, geometry, segments, first.array, second.array,
                                     result.array);
  if (operation == 3) message = cuda::channel_sum(context, dtype, first.array, result.array.data);

  int64_t length = message ? std::strlen(message) : -1;
  std::fwrite(&length, sizeof length, 1, stdout);
  if (message) std::fwrite(message, 1, length, stdout);
  std::fwrite(result.storage, 1, result.bytes, stdout);
  for (Tensor* tensor : {&first, &second, &bias, &result}) std::free(tensor->storage);
  for (void* memory : scratch) std::free(memory);
}

}  // namespace

int main() {
  for (int64_t operation; read(&operation, sizeof operation);) call(operation);
}
