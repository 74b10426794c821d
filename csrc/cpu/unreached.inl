// correlate where no tap of the filter arrives: positions of a strided layer's input gradient that
// lie between those its filter meets. They show the bias, or zero.

template <class S>
struct Unreached {
  static double cost(const CorrelateJob& job) {
    if (job.h.taps * job.w.taps > 0) return kNever;
    double elements = 1.0 * job.groups * job.rows * job.h.positions * job.w.positions;
    return elements * (job.result.c == 1 || lies_together(job) ? 0.5 : 1.5);
  }

  static int64_t packed_filter_size(const CorrelateJob&) { return 0; }
  static int64_t pack_filter_tasks(const CorrelateJob&) { return 0; }
  static void pack_filter(const CorrelateJob&, const FilterView&, void*, int64_t) {}

  static int64_t tasks(const CorrelateJob& job) {  // a row of a sample each
    return job.segments * job.batch * job.h.positions;
  }
  static int64_t scratch(const CorrelateJob&) { return 0; }

  static void run(const CorrelateJob& job, int64_t task, void*) {
    const View& out = job.result;
    const AxisMap& w = job.w;
    int64_t sample = task / job.h.positions, row = job.h.position[task % job.h.positions];
    int64_t channels = job.groups * job.rows;
    S* line = static_cast<S*>(out.data) + sample * out.n + row * out.h;
    const S* bias = static_cast<const S*>(job.bias);
    if (!bias && out.c == job.components && out.w == channels * out.c) {
      for (int64_t j = 0, run; j < w.positions; j += run) {
        for (run = 1; j + run < w.positions && w.position[j + run] == w.position[j] + run;) ++run;
        __builtin_memset(line + w.position[j] * out.w, 0, run * out.w * sizeof(S));
      }
      return;
    }
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t component = 0; component < job.components; ++component) {
        S value = bias ? bias[c * job.bias_stride + component] : S{};
        S* to = line + c * out.c + component;
        if (lies_together(job))
          std::fill_n(to + w.position[0], w.positions, value);
        else
          for (int64_t j = 0; j < w.positions; ++j) to[w.position[j] * out.w] = value;
      }
  }

 private:
  static bool lies_together(const CorrelateJob& job) {  // a row of a channel
    return job.result.w == 1 && job.w.position_step == 1;
  }
};
