// The CPU engine without torch, for processors that only a cross-compiler and an emulator are here
// for: its micro-kernel, its 16-bit types, and whole contractions of random layers, compared with
// the sums that define them.
//
//     engine [LAYERS [SEED]]
//
// Operands are integers up to 3, whose sums are exact: direct results must be, too, after one
// rounding. Minimal filtering rounds, within the bound of tests/test_winograd.py. What lies between
// and around a result's elements must stay as it was.
#include "cpu/contractions.h"
#include "cpu/engine_baseline.cpp"  // its micro-kernel is nothing that another file could call
#include "views.h"

#include <array>
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>

using namespace fullconv;

const InstructionSet& fullconv::instruction_set() { return baseline_instruction_set; }

namespace {

using Number = std::complex<double>;
std::mt19937_64 generator;

int64_t random(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(generator);
}
int64_t one_of(std::initializer_list<int64_t> choices) {
  return choices.begin()[random(0, static_cast<int64_t>(choices.size()) - 1)];
}

[[noreturn]] void fail(const std::string& what) {
  std::printf("FAILED: %s\n", what.c_str());
  std::exit(1);
}

// The definition of a 16-bit floating point number.
double decode(uint16_t bits, int exponent_bits) {
  int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  int fraction = bits & ((1 << fraction_bits) - 1);
  double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

double read(float value) { return value; }
double read(double value) { return value; }
double read(BFloat16 value) { return decode(value.bits, 8); }
double read(Half value) { return decode(value.bits, 5); }

// The nearest number of that many significant bits, the even one of two.
double rounded(double value, int bits) {
  int exponent;
  double fraction = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits);
}

struct Type {
  const char* name;
  int64_t bytes;  // of a real scalar
  int bits;       // significant ones of a result,
  int sum_bits;   // and of the sums that it is made of
};
constexpr Type types[] = {// in Dtype's order
                          {"float32", 4, 24, 24},   {"float64", 8, 53, 53},
                          {"bfloat16", 2, 8, 24},   {"float16", 2, 11, 24},
                          {"complex64", 4, 24, 24}, {"complex128", 8, 53, 53}};

const Type& type_of(Dtype dtype) { return types[static_cast<int>(dtype)]; }

template <class F>
auto with_type(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::f64:
    case Dtype::c128: return f(double{});
    case Dtype::bf16: return f(BFloat16{});
    case Dtype::f16: return f(Half{});
    default: return f(float{});
  }
}

// Five axes, the first of them segments: the values, and the memory that holds them in any order of
// axes, with holes.
struct Tensor {
  Dtype dtype;
  std::array<int64_t, 5> size, stride;
  std::vector<Number> value;
  std::vector<unsigned char> memory;
  static constexpr int64_t kAround = 64;  // bytes before and behind

  Tensor(Dtype dtype, std::array<int64_t, 5> size) : dtype(dtype), size(size) {
    std::array<int, 5> order{4, 3, 2, 1, 0};
    if (random(0, 1)) order = {2, 4, 3, 1, 0};  // channels_last
    if (random(0, 3) == 0) std::shuffle(order.begin(), order.end() - 1, generator);
    int64_t next = one_of({1, 1, 1, 2});
    for (int axis : order) {
      stride[axis] = next;
      next = next * size[axis] + one_of({0, 0, 0, 3});
    }
    value.resize(size[0] * size[1] * size[2] * size[3] * size[4]);
    int64_t scalars = next * components_of(dtype);
    memory.assign(2 * kAround + scalars * type_of(dtype).bytes, 0xff);
  }

  Tensor& fill() {
    bool complex = components_of(dtype) > 1;
    for (Number& v : value)
      v = {static_cast<double>(random(-3, 3)), complex ? static_cast<double>(random(-3, 3)) : 0.};
    for_parts([](auto* to, double& part) {
      narrow(static_cast<decltype(widen(*to))>(part), *to);
      if (read(*to) != part) fail("an integer is not stored");
    });
    return *this;
  }

  Array array() {
    Array array{memory.data() + kAround, {}, {}, stride[0]};
    std::copy_n(size.begin() + 1, 4, array.size);
    std::copy_n(stride.begin() + 1, 4, array.stride);
    return array;
  }

  Number& at(int64_t g, int64_t a, int64_t b, int64_t c, int64_t d) {
    return value[(((g * size[1] + a) * size[2] + b) * size[3] + c) * size[4] + d];
  }

  // Compares memory with the values, exactly or within `bound`, and clears it.
  void check(const std::string& what, double bound) {
    int bits = type_of(dtype).bits;
    for_parts([&](auto* from, double& part) {
      double found = read(*from), right = bound ? part : rounded(part, bits);
      double most = bound ? bound + std::ldexp(std::abs(part) + bound, -bits) + 0x1p-25 : 0;
      if (!(std::abs(found - right) <= most))
        fail(what + ": " + std::to_string(found) + " instead of " + std::to_string(right));
      std::memset(from, 0xff, sizeof(*from));
    });
    for (unsigned char byte : memory)
      if (byte != 0xff) fail(what + ": written outside of the result");
  }

 private:
  template <class F>
  void for_parts(F f) {
    with_type(dtype, [&](auto scalar) {
      auto* data = reinterpret_cast<decltype(scalar)*>(memory.data() + kAround);
      int64_t components = components_of(dtype);
      for (int64_t i = 0; i < static_cast<int64_t>(value.size()); ++i) {
        int64_t place = 0, rest = i;
        for (int axis = 4; axis >= 0; --axis) {
          place += rest % size[axis] * stride[axis];
          rest /= size[axis];
        }
        for (int64_t part = 0; part < components; ++part)
          f(data + place * components + part, reinterpret_cast<double*>(&value[i])[part]);
      }
    });
  }
};

// An axis with at least one output.
Axis random_axis(Padding padding, bool padded, bool wide, int64_t kernel, int64_t stride,
                 int64_t dilation) {
  for (;;) {
    int64_t size = wide ? one_of({16, 17, 31, 33, 50, 66}) : random(1, 14),
            most = padded ? one_of({0, 1, 4}) : 0;
    if (padding == Padding::reflect) most = std::min(most, size - 1);
    if (padding == Padding::circular) most = std::min(most, size);
    Axis axis{size, kernel, stride, random(0, most), random(0, most), dilation, padding};
    if (axis.outputs() > 0) return axis;
  }
}

Geometry random_geometry() {
  Geometry geometry{};
  auto padding = static_cast<Padding>(one_of({0, 0, 0, 1, 2, 3}));
  int64_t kernel = one_of({1, 1, 2, 3, 3, 3, 4, 5, 5}), stride = one_of({1, 1, 1, 2, 3, 5});
  int64_t dilation = one_of({1, 1, 1, 2, 4});
  bool pointwise = random(0, 4) == 0;
  if (pointwise) kernel = stride = dilation = 1;
  bool alike = pointwise || random(0, 2) > 0;
  geometry.groups = one_of({1, 1, 1, 2, 3, 16, 17});
  geometry.h = random_axis(padding, !pointwise, false, kernel, stride, dilation);
  geometry.w = random_axis(padding, !pointwise, random(0, 1), alike ? kernel : random(1, 5),
                           alike ? stride : random(1, 5), alike ? dilation : random(1, 3));
  geometry.algorithm = static_cast<Algorithm>(random(0, 2));
  return geometry;
}

std::set<std::string> seen;  // the ways that were gone

void note(const std::string& operation, const std::string& ways) {
  for (size_t begin = 0; begin <= ways.size();) {
    size_t end = std::min(ways.find('+', begin), ways.size());
    seen.insert(operation + " " + ways.substr(begin, end - begin));
    begin = end + 1;
  }
}

void check_layer(int64_t number) {
  auto dtype = static_cast<Dtype>(random(0, 5));
  Geometry g = random_geometry();
  int64_t segments = one_of({1, 1, 1, 2, 3}), batch = random(1, 3);
  int64_t depth = g.groups > 3 ? one_of({1, 1, 1, 2, 4}) : one_of({1, 2, 3, 5, 8, 17, 33});
  int64_t rows = g.groups > 3 ? one_of({1, 1, 2, 4}) : one_of({1, 2, 3, 7, 16, 33});
  int64_t n = batch * segments, k = rows * g.groups, p = g.h.outputs(), q = g.w.outputs();
  Tensor x(dtype, {1, n, depth * g.groups, g.h.size, g.w.size}), y(dtype, {1, n, k, p, q});
  Tensor f(dtype, {segments, k, depth, g.h.kernel, g.w.kernel}), o(dtype, y.size);
  Tensor dx(dtype, x.size), df(dtype, f.size), bias(dtype, {1, k, 1, 1, 1}),
      sum(dtype, {1, k, 1, 1, 1});
  sum.stride = {1, 1, 1, 1, 1};
  x.fill(), f.fill(), o.fill(), bias.fill();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t m = 0; m < k; ++m)
      for (int64_t a = 0; a < p; ++a)
        for (int64_t b = 0; b < q; ++b) {
          y.at(0, i, m, a, b) += bias.at(0, m, 0, 0, 0);
          sum.at(0, m, 0, 0, 0) += o.at(0, i, m, a, b);
          for (int64_t r = 0; r < g.h.kernel; ++r) {
            int64_t h = shown_index(a * g.h.stride + r * g.h.dilation - g.h.pad_before, g.h.size,
                                    g.h.padding);
            for (int64_t s = 0; h >= 0 && s < g.w.kernel; ++s) {
              int64_t w = shown_index(b * g.w.stride + s * g.w.dilation - g.w.pad_before, g.w.size,
                                      g.w.padding);
              for (int64_t c = 0; w >= 0 && c < depth; ++c) {
                int64_t channel = m / rows * depth + c;
                Number &source = x.at(0, i, channel, h, w), &tap = f.at(i / batch, m, c, r, s),
                       &grad = o.at(0, i, m, a, b);
                y.at(0, i, m, a, b) += source * tap;
                dx.at(0, i, channel, h, w) += grad * tap;
                df.at(i / batch, m, c, r, s) += source * grad;
              }
            }
          }
        }
  Array input = x.array(), filter = f.array(), grad = o.array(), added = bias.array();
  Array output = y.array(), input_grad = dx.array(), filter_grad = df.array();
  cpu::Ways ways = cpu::ways(dtype, g, segments, input, filter, output);
  ways.full_convolve = cpu::ways(dtype, g, segments, input_grad, filter, grad).full_convolve;
  ways.correlate_weight = cpu::ways(dtype, g, segments, input, filter_grad, grad).correlate_weight;
  note("correlate", ways.correlate);
  note("full_convolve", ways.full_convolve);
  note("correlate_weight", ways.correlate_weight);
  auto compare = [&](Tensor& result, const char* operation, const std::string& way, int64_t terms) {
    bool rounds = way.find("winograd") != std::string::npos;
    double bound = rounds ? 2.0 * terms * 64 * 9 * std::ldexp(1, -type_of(dtype).sum_bits) : 0;
    result.check("layer " + std::to_string(number) + ", " + operation + " of " +
                     type_of(dtype).name + " by " + way,
                 bound * components_of(dtype));
  };
  int64_t taps = g.h.kernel * g.w.kernel;
  cpu::correlate(dtype, g, segments, input, filter, &added, output);
  compare(y, "correlate", ways.correlate, depth * taps);
  cpu::full_convolve(dtype, g, segments, grad, filter, nullptr, input_grad);
  compare(dx, "full_convolve", ways.full_convolve, rows * taps);
  cpu::correlate_weight(dtype, g, segments, input, grad, filter_grad);
  compare(df, "correlate_weight", ways.correlate_weight, (n + 1) * (p + 5) * (q + 5));
  cpu::channel_sum(dtype, grad, sum.array().data);
  compare(sum, "channel_sum", "", 0);
}

// Every number of rows and both widths of the micro-kernel, in each order of its left operand.
template <class T, Rows LAYOUT, int VECTORS>
void check_tiles() {
  constexpr int64_t columns = VECTORS * Vector<T>::lanes, most = 9, a_step = kRows + 2;
  for (int64_t rows = 1; rows <= kRows; ++rows)
    for (int64_t depth : {int64_t{0}, int64_t{1}, int64_t{2}, most})
      for (bool add : {false, true}) {
        std::vector<T> a(a_step * (kRows + most)), b(kColumns<T> * most), c(kRows * columns);
        for (auto* operand : {&a, &b, &c})
          for (T& v : *operand) v = static_cast<T>(random(-3, 3));
        constexpr int64_t row = LAYOUT == Rows::strided ? a_step : 1;
        constexpr int64_t next = LAYOUT == Rows::panels    ? kRows
                                 : LAYOUT == Rows::columns ? a_step
                                                           : 1;
        std::vector<T> right = c;
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < columns; ++j) {
            T& sum = right[i * columns + j];
            if (!add) sum = 0;
            for (int64_t k = 0; k < depth; ++k)
              sum += a[i * row + k * next] * b[k * kColumns<T> + j];
          }
        tile_of<T, LAYOUT, VECTORS>(rows, depth, a.data(), a_step, Panel<T>{b.data()}, c.data(),
                                    columns, add);
        if (c != right) fail("a tile of " + std::to_string(rows) + " rows");
      }
}

template <class T>
void check_micro_kernel() {
  check_tiles<T, Rows::panels, 1>(), check_tiles<T, Rows::panels, 2>();
  check_tiles<T, Rows::strided, 1>(), check_tiles<T, Rows::strided, 2>();
  check_tiles<T, Rows::columns, 1>(), check_tiles<T, Rows::columns, 2>();
}

// Every 16-bit number, widened and stored again by vectors.
template <class S>
void check_conversions() {
  constexpr int64_t lanes = Vector<float>::lanes;
  for (int64_t first = 0; first < 1 << 16; first += lanes) {
    S from[lanes], back[lanes];
    for (int64_t i = 0; i < lanes; ++i) from[i].bits = static_cast<uint16_t>(first + i);
    auto wide = load<float>(from);
    store<float>(wide, back);
    for (int64_t i = 0; i < lanes; ++i) {
      double right = read(from[i]);
      bool nan = std::isnan(right);
      if (nan ? !std::isnan(wide[i]) : wide[i] != right || back[i].bits != from[i].bits)
        fail("16-bit number " + std::to_string(first + i));
      if (nan && !std::isnan(read(back[i]))) fail("NaN " + std::to_string(first + i));
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  int64_t layers = count > 1 ? std::atoll(arguments[1]) : 1000;
  generator.seed(count > 2 ? std::atoll(arguments[2]) : 1);
  check_micro_kernel<float>();
  check_micro_kernel<double>();
  check_conversions<BFloat16>();
  check_conversions<Half>();
  std::printf("micro-kernel of %lld rows and 16-bit types: right\n", (long long)kRows);
  for (int64_t number = 0; number < layers; ++number) check_layer(number);
  std::printf("%lld layers are right:", (long long)layers);
  for (const std::string& way : seen) std::printf("\n  %s", way.c_str());
  std::printf("\n");
  for (const char* way :
       {"correlate channels", "correlate winograd", "correlate pointwise", "correlate direct",
        "correlate lines", "correlate gemm", "full_convolve scatter", "full_convolve winograd",
        "correlate_weight channels", "correlate_weight winograd", "correlate_weight lines",
        "correlate_weight direct", "correlate_weight gemm"})
    if (layers >= 1000 && !seen.count(way)) fail(std::string(way) + " never ran");
}
