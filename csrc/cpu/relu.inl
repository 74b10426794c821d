// ReLU and its gradient, element by element: x is kept unless it is below 0, and so is a gradient
// where the output is above 0. That leaves -0 and NaN as they are and lets a NaN's gradient pass,
// as stock does. 16-bit floats are compared as the integers that they are stored in.

// Of a number or a vector of them.
template <class S>
struct Sign {
  using Stored = S;
  template <class V>
  static auto below_zero(V x) {
    return x < 0;
  }
  template <class V>
  static auto at_most_zero(V x) {
    return x <= 0;
  }
};

// From the bits: the sign, then the magnitude, of which all above infinity's are NaN.
template <uint16_t INFINITY_BITS>
struct SignOfBits {
  using Stored = uint16_t;
  template <class V>
  static auto below_zero(V bits) {
    return static_cast<V>(bits - uint16_t{0x8001}) <= uint16_t{INFINITY_BITS - 1};
  }
  template <class V>
  static auto at_most_zero(V bits) {
    return (bits == 0) | (static_cast<V>(bits - uint16_t{0x8000}) <= INFINITY_BITS);
  }
};
template <>
struct Sign<BFloat16> : SignOfBits<0x7f80> {};
template <>
struct Sign<Half> : SignOfBits<0x7c00> {};

template <class S>
struct Relu {
  static constexpr int64_t kBlock = 1 << 14;  // elements a task: some 10 microseconds

  // A task: some whole lines, or a piece of one.
  struct Cut {
    int64_t lines, pieces;
    explicit Cut(const ReluJob& job)
        : lines(most<int64_t>(1, kBlock / most<int64_t>(1, job.length))),
          pieces(quotient_up(job.length, kBlock)) {}
  };

  static int64_t tasks(const ReluJob& job) {
    Cut cut(job);
    return quotient_up(job.lines, cut.lines) * cut.pieces;
  }

  static void run(const ReluJob& job, int64_t task) {
    Cut cut(job);
    int64_t start = task % cut.pieces * kBlock, count = least(kBlock, job.length - start);
    int64_t line = task / cut.pieces * cut.lines, end = least(line + cut.lines, job.lines);
    for (; line < end; ++line) {
      int64_t x = start * job.x_step, grad = start * job.grad_step,
              result = start * job.result_step;
      for (int64_t axis = job.axes - 1, rest = line; axis >= 0; --axis) {
        int64_t at = rest % job.size[axis];
        rest /= job.size[axis];
        x += at * job.x_stride[axis];
        grad += at * job.grad_stride[axis];
        result += at * job.result_stride[axis];
      }
      const X* from = static_cast<const X*>(job.x) + x;
      X* to = static_cast<X*>(job.result) + result;
      if (job.grad)
        mask(from, job.x_step, static_cast<const X*>(job.grad) + grad, job.grad_step, to,
             job.result_step, count);
      else
        rectify(from, job.x_step, to, job.result_step, count);
    }
  }

 private:
  using X = typename Sign<S>::Stored;

  // Memory bounds these. It is read fastest by two vectors of 32 bytes at a time, whatever the
  // registers have.
  typedef X Some __attribute__((vector_size(32), aligned(alignof(X)), may_alias));
  static constexpr int64_t kLanes = 32 / sizeof(X), kVectors = 2;

  static void rectify(const X* x, int64_t x_step, X* to, int64_t step, int64_t count) {
    int64_t i = 0;
    if (x_step == 1 && step == 1)
      for (; i + kVectors * kLanes <= count; i += kVectors * kLanes) {
        Some value[kVectors];
        for (int64_t v = 0; v < kVectors; ++v) value[v] = at(x, i, v);
        for (int64_t v = 0; v < kVectors; ++v)
          at(to, i, v) = Sign<S>::below_zero(value[v]) ? Some{} : value[v];
      }
    for (; i < count; ++i) to[i * step] = Sign<S>::below_zero(x[i * x_step]) ? X{} : x[i * x_step];
  }

  static void mask(const X* x, int64_t x_step, const X* grad, int64_t grad_step, X* to,
                   int64_t step, int64_t count) {
    int64_t i = 0;
    if (x_step == 1 && step == 1 && grad_step == 1)
      for (; i + kVectors * kLanes <= count; i += kVectors * kLanes) {
        Some value[kVectors], output[kVectors];
        for (int64_t v = 0; v < kVectors; ++v) output[v] = at(x, i, v), value[v] = at(grad, i, v);
        for (int64_t v = 0; v < kVectors; ++v)
          at(to, i, v) = Sign<S>::at_most_zero(output[v]) ? Some{} : value[v];
      }
    for (; i < count; ++i)
      to[i * step] = Sign<S>::at_most_zero(x[i * x_step]) ? X{} : grad[i * grad_step];
  }

  static const Some& at(const X* from, int64_t i, int64_t v) {
    return *reinterpret_cast<const Some*>(from + i + v * kLanes);
  }
  static Some& at(X* from, int64_t i, int64_t v) {
    return *reinterpret_cast<Some*>(from + i + v * kLanes);
  }
};
