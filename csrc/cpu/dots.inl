// correlate with a few 1x1 filters where the channels of a position are neighbours: each result is
// the dot product of two lines,
//
//     result[position][k] = Σ_c filter[k][c] · source[position][c]
//
// Vectors run along the channels, and nothing is copied. The sums of as many positions as a vector
// has lanes are a square; turned, its vectors add up to the positions' results.

template <class S>
struct Dots {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;
  static constexpr int64_t kMost = lanes > 1 ? lanes / 2 : 1;  // filters; more fill vectors
  static constexpr int64_t kFilters = 4;                       // at once, a square for each
  static constexpr int64_t kTask = 1024;                       // positions

  static double cost(const CorrelateJob& job) {
    if (job.components != 1 || job.rows > kMost || job.source.c != 1) return kNever;
    if (job.depth == 0 || !is_plain(job.h) || !is_plain(job.w)) return kNever;
    if (!lies_flat(job.source, job) || !lies_flat(job.result, job)) return kNever;
    return job.groups * positions(job) * (3.7 * job.rows * quotient_up(job.depth, lanes) + 53);
  }

  // [segment][group][row][line(job)], zeros behind a row
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return job.segments * job.groups * job.rows * line(job) * sizeof(T);
  }
  static int64_t pack_filter_tasks(const CorrelateJob& job) { return job.segments * job.groups; }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    T* to = static_cast<T*>(packed) + task * job.rows * line(job);
    const S* from = static_cast<const S*>(filter.data) + task / job.groups * filter.segment +
                    task % job.groups * filter.group + job.h.tap[0] * filter.r +
                    job.w.tap[0] * filter.s;
    for (int64_t row = 0; row < job.rows; ++row, to += line(job), from += filter.row) {
      copy(to, 1, from, filter.depth, job.depth);
      clear(to + job.depth, 1, line(job) - job.depth);
    }
  }

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.batch * job.groups * quotient_up(positions(job), kTask);
  }
  static int64_t scratch(const CorrelateJob&) { return 0; }

  static void run(const CorrelateJob& job, int64_t task, void*) {
    constexpr void (*kBlocks[])(const CorrelateJob&, int64_t, const S*, const T*, const T*, S*) = {
        block<1>, block<2>, block<3>, block<4>};
    int64_t parts = quotient_up(positions(job), kTask), first = task % parts * kTask;
    int64_t count = least(kTask, positions(job) - first);
    task /= parts;
    int64_t group = task % job.groups, sample = task / job.groups;
    const T* filter = static_cast<const T*>(job.filter) +
                      (sample / job.batch * job.groups + group) * job.rows * line(job);
    T bias[kMost] = {};
    if (job.bias)
      copy(bias, 1, static_cast<const S*>(job.bias) + group * job.rows * job.bias_stride,
           job.bias_stride, job.rows);
    const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n +
                      group * job.depth + first * job.source.w;
    S* result = static_cast<S*>(job.result.data) + sample * job.result.n +
                group * job.rows * job.result.c + first * job.result.w;
    for (int64_t i = 0; i < count; i += lanes)
      for (int64_t k = 0; k < job.rows; k += kFilters)
        kBlocks[least(kFilters, job.rows - k) - 1](
            job, least(lanes, count - i), source + i * job.source.w, filter + k * line(job),
            bias + k, result + i * job.result.w + k * job.result.c);
  }

 private:
  static int64_t positions(const CorrelateJob& job) { return job.h.positions * job.w.positions; }
  static int64_t line(const CorrelateJob& job) { return round_up(job.depth, lanes); }

  static bool lies_flat(const View& view, const CorrelateJob& job) {
    return view.h == job.w.positions * view.w || job.h.positions == 1;
  }

  // `count` positions, at most as many as there are lanes.
  template <int ROWS>
  static void block(const CorrelateJob& job, int64_t count, const S* source, const T* filter,
                    const T* bias, S* result) {
    V square[ROWS][lanes] = {};
    for (int64_t i = 0; i < count; ++i) {
      const S* from = source + i * job.source.w;
      V sum[ROWS] = {};
      for (int64_t c = 0; c < job.depth; c += lanes) {
        V value = load_some<T>(from + c, job.depth - c);
        for (int k = 0; k < ROWS; ++k) sum[k] += value * load<T>(filter + k * line(job) + c);
      }
      for (int k = 0; k < ROWS; ++k) square[k][i] = sum[k];
    }
    for (int k = 0; k < ROWS; ++k) {
      transpose<T>(square[k]);
      for (int64_t half = lanes / 2; half > 0; half /= 2)
        for (int64_t i = 0; i < half; ++i) square[k][i] += square[k][i + half];
      T sums[lanes];
      store<T>(square[k][0] + bias[k], sums);
      for (int64_t i = 0; i < count; ++i)
        narrow(sums[i], result[i * job.result.w + k * job.result.c]);
    }
  }
};
