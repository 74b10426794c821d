// The CPU engine without torch and on plain threads, for ThreadSanitizer: layers large enough for
// several workers, computed by two callers at once, each with the bits of one thread alone.
//
//     threads [small]
//
// Every way of the contractions and of pooling is met, with and without a NaN in the filter, which
// workers report to each other. `small` is for valgrind, which is slow: some layers, in one type.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu/contractions.h"
#include "cpu/engine.h"
#include "cpu/layers.h"
#include "torch/csrc/stable/ops.h"

using namespace fullconv;

const InstructionSet& fullconv::instruction_set() { return baseline_instruction_set; }

namespace {

template <class S>
struct Tensor {
  std::vector<S> memory;
  Array array;

  Tensor(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last)
      : memory(n * c * h * w), array{memory.data(), {n, c, h, w}, {}, n * c * h * w} {
    int64_t plain[] = {c * h * w, h * w, w, 1}, last[] = {c * h * w, 1, w * c, c};
    std::memcpy(array.stride, channels_last ? last : plain, sizeof plain);
  }
  Tensor(const Tensor&) = delete;

  void fill(int seed) {
    std::mt19937 generator(seed);
    for (S& value : memory) value = static_cast<S>(static_cast<int>(generator() % 7) - 3);
  }
};

// A layer, and all results of it.
template <class S>
struct Layer {
  const char* name;
  Geometry geometry;
  Tensor<S> input, filter, grad, output, input_grad, filter_grad, sums, pooled, pool_grad;
  Tensor<int64_t> indices;
  static constexpr Dtype dtype = sizeof(S) == 4 ? Dtype::f32 : Dtype::f64;
  static constexpr Element element = sizeof(S) == 4 ? Element::f32 : Element::f64;

  Layer(const char* name, const int64_t (&n)[7], int64_t stride, Algorithm algorithm, bool last,
        bool special)
      : name(name),
        geometry{n[6],
                 {n[2], n[5], stride, n[5] / 2, n[5] / 2, 1, Padding::zeros},
                 {n[3], n[5], stride, n[5] / 2, n[5] / 2, 1, Padding::zeros},
                 algorithm,
                 false},
        input(n[0], n[1], n[2], n[3], last),
        filter(n[4], n[1] / n[6], n[5], n[5], last),
        grad(n[0], n[4], geometry.h.outputs(), geometry.w.outputs(), last),
        output(n[0], n[4], geometry.h.outputs(), geometry.w.outputs(), last),
        input_grad(n[0], n[1], n[2], n[3], last),
        filter_grad(n[4], n[1] / n[6], n[5], n[5], last),
        sums(1, 1, 1, n[4], false),
        pooled(n[0], n[1], n[2], n[3], last),
        pool_grad(n[0], n[1], n[2], n[3], last),
        indices(n[0], n[1], n[2], n[3], last) {
    input.fill(1);
    filter.fill(2);
    grad.fill(3);
    if (special)
      for (std::vector<S>* memory : {&input.memory, &filter.memory})
        for (size_t i = 0; i < memory->size(); i += 3)
          (*memory)[i] = std::numeric_limits<S>::quiet_NaN();
  }

  // All results, by that many threads.
  std::vector<std::vector<S>> run(uint32_t threads) {
    torch::stable::threads = threads;
    cpu::correlate(dtype, geometry, 1, input.array, filter.array, nullptr, output.array);
    cpu::full_convolve(dtype, geometry, 1, grad.array, filter.array, nullptr, input_grad.array);
    cpu::correlate_weight(dtype, geometry, 1, input.array, grad.array, filter_grad.array);
    cpu::channel_sum(dtype, grad.array, sums.memory.data());
    std::vector<std::vector<S>> found{output.memory, input_grad.memory, filter_grad.memory,
                                      sums.memory};
    Pool pool{{input.array.size[2], 3, 1, 1, 1, false},
              {input.array.size[3], 3, 1, 1, 1, false},
              true,
              0};
    auto keep = [&](Tensor<S>& result) { found.push_back(result.memory); };
    cpu::pool(element, Pooling::max_indices, pool, input.array, &indices.array, pooled.array);
    keep(pooled);
    cpu::pool(element, Pooling::max_gather, pool, input.array, &indices.array, pool_grad.array);
    keep(pool_grad);
    cpu::pool(element, Pooling::max_scatter, pool, pooled.array, &indices.array, pool_grad.array);
    keep(pool_grad);
    cpu::pool(element, Pooling::average, pool, input.array, nullptr, pooled.array);
    keep(pooled);
    cpu::pool(element, Pooling::average_adjoint, pool, pooled.array, nullptr, pool_grad.array);
    keep(pool_grad);
    const int64_t* size = input.array.size;
    Strided x{input.array.data, {input.array.stride, input.array.stride + 4}};
    cpu::relu(element, {size, size + 4}, x, nullptr, {pooled.array.data, x.stride});
    keep(pooled);
    return found;
  }
};

template <class S>
void check(const char* name, const int64_t (&sizes)[7], int64_t stride, Algorithm algorithm) {
  for (bool last : {false, true})
    for (bool special : {false, true}) {
      auto caller = [&](bool report) {
        Layer<S> layer(name, sizes, stride, algorithm, last, special);
        auto alone = layer.run(1);
        auto together = layer.run(4);
        for (size_t i = 0; i < alone.size(); ++i)
          if (std::memcmp(alone[i].data(), together[i].data(), alone[i].size() * sizeof(S))) {
            std::printf("FAILED: result %zu of %s is not one thread's\n", i, name);
            std::_Exit(1);
          }
        if (!report) return;
        cpu::Ways ways = cpu::ways(Layer<S>::dtype, layer.geometry, 1, layer.input.array,
                                   layer.filter.array, layer.output.array);
        std::printf("%s: %s, %s, %s\n", name, ways.correlate.c_str(), ways.full_convolve.c_str(),
                    ways.correlate_weight.c_str());
      };
      std::thread other(caller, false);
      caller(true);
      other.join();
    }
}

template <class S>
void check_all() {
  // N, C, H, W, K, kernel, groups
  check<S>("filters of 3", {2, 24, 20, 21, 25, 3, 1}, 1, Algorithm::direct);
  check<S>("minimal filtering", {2, 24, 20, 21, 25, 3, 1}, 1, Algorithm::winograd);
  check<S>("minimal filtering of 5", {2, 16, 20, 21, 17, 5, 1}, 1, Algorithm::winograd);
  check<S>("strided", {2, 24, 28, 27, 25, 3, 1}, 2, Algorithm::direct);
  check<S>("few channels", {2, 3, 60, 64, 8, 5, 1}, 1, Algorithm::direct);
  check<S>("few filters", {2, 40, 30, 31, 2, 3, 1}, 1, Algorithm::direct);
  check<S>("lines", {2, 2, 60, 120, 2, 5, 1}, 1, Algorithm::direct);
  check<S>("one column", {2, 70, 900, 1, 65, 1, 1}, 1, Algorithm::direct);
  check<S>("pointwise", {2, 70, 20, 21, 65, 1, 1}, 1, Algorithm::direct);
  check<S>("depthwise", {2, 48, 40, 41, 48, 3, 48}, 1, Algorithm::direct);
  check<S>("groups", {2, 48, 30, 31, 48, 3, 12}, 1, Algorithm::direct);
  check<S>("large filters", {1, 8, 40, 40, 9, 9, 1}, 3, Algorithm::direct);
}

}  // namespace

int main(int count, char**) {
  if (count > 1) {
    check<float>("filters of 3", {1, 17, 5, 7, 9, 3, 1}, 1, Algorithm::direct);
    check<float>("minimal filtering", {1, 17, 9, 7, 9, 3, 1}, 1, Algorithm::winograd);
    check<float>("strided", {2, 3, 8, 9, 5, 3, 1}, 2, Algorithm::direct);
    check<float>("depthwise", {1, 7, 6, 9, 7, 3, 7}, 1, Algorithm::direct);
    check<float>("pointwise", {1, 17, 4, 8, 9, 1, 1}, 1, Algorithm::direct);
    return 0;
  }
  check_all<float>();
  check_all<double>();
}
