// Runs calls of csrc/cuda/launch.h and layers.h that it reads from standard input, and writes their
// results.
//
// A call is 64-bit integers, in the order in which they are read below, and tensors: each a whole
// storage, in memory of its very size. The answer is the message (its length first, -1 for none)
// and the result's storage.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "launch.h"
#include "layers.h"

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

// Device memory, full of NaN.
class Scratch {
 public:
  ~Scratch() {
    for (void* memory : all_) std::free(memory);
  }
  void* allocate(int64_t bytes) {
    all_.push_back(std::malloc(bytes));
    return std::memset(all_.back(), 0xff, bytes);
  }

 private:
  std::vector<void*> all_;
};

void answer(const char* message, const Tensor& result) {
  int64_t length = message ? std::strlen(message) : -1;
  std::fwrite(&length, sizeof length, 1, stdout);
  if (message) std::fwrite(message, 1, length, stdout);
  std::fwrite(result.storage, 1, result.bytes, stdout);
}

void free_all(std::initializer_list<Tensor> tensors) {
  for (const Tensor& tensor : tensors) std::free(tensor.storage);
}

void contraction(int64_t operation) {
  Dtype dtype = static_cast<Dtype>(read_integer());
  constexpr int64_t sizes[] = {4, 8, 2, 2, 8, 16};  // in Dtype's order
  int64_t scalar = sizes[static_cast<int>(dtype)];
  Scratch scratch;
  cuda::Context context{};
  context.allow_tf32 = read_integer();
  context.allocate = [&](int64_t bytes) { return scratch.allocate(bytes); };
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

  answer(message, result);
  free_all({first, second, bias, result});
}

Window read_window() {
  Window window{};
  for (int64_t* field :
       {&window.size, &window.kernel, &window.stride, &window.pad, &window.dilation})
    *field = read_integer();
  window.ceil_mode = read_integer();
  return window;
}

Strided strided(const Array& array) { return {array.data, {array.stride, array.stride + 4}}; }

// relu, then Pooling's kinds. max_indices answers with the indices.
void layer(int64_t operation) {
  Element element = static_cast<Element>(read_integer());
  constexpr int64_t sizes[] = {4, 8, 2, 2, 1, 1, 2, 4, 8};  // in Element's order
  int64_t scalar = sizes[static_cast<int>(element)];
  Pool pool{};
  pool.h = read_window();
  pool.w = read_window();
  pool.count_include_pad = read_integer();
  pool.divisor = read_integer();
  Pooling pooling = static_cast<Pooling>(operation - 1);
  Tensor first = read_tensor(scalar), second = read_tensor(operation == 0 ? scalar : 8),
         result = read_tensor(scalar);

  const char* message;
  if (operation == 0) {
    Strided grad = strided(second.array);
    message =
        cuda::relu({}, element, {first.array.size, first.array.size + 4}, strided(first.array),
                   second.bytes ? &grad : nullptr, strided(result.array));
  } else {
    message = cuda::pool({}, element, pooling, pool, first.array,
                         second.bytes ? &second.array : nullptr, result.array);
  }
  answer(message, pooling == Pooling::max_indices ? second : result);
  free_all({first, second, result});
}

}  // namespace

int main() {
  for (int64_t operation; read(&operation, sizeof operation);)
    operation < 4 ? contraction(operation) : layer(operation - 4);
}
