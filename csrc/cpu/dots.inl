// correlate with a few filters where the channels of a position are neighbours: each result is the
// sum of a tap's dot products,
//
//     result[position][k] = Σ_tap Σ_c filter[k][tap][c] · source[position + tap][c]
//
// Vectors run along the channels, and nothing is copied: a position finds a tap's channels by a
// table of columns, and in the padding a line of zeros. The sums of as many positions as a vector
// has lanes are a square; turned, its vectors add up to the positions' results. Scratch a task: the
// table, the zeros.

template <class S>
struct Dots {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;
  static constexpr int64_t kMost = lanes > 1 ? lanes / 2 : 1;  // filters; more fill vectors
  static constexpr int64_t kFilters = 4;                       // at once, a square for each
  static constexpr int64_t kPixels = FULLCONV_VECTOR_BYTES == 64 ? 4 : lanes > 1 ? 2 : 1;
  static constexpr int64_t kTask = 1024;  // positions, about

  struct Taps {              // where the taps of some positions meet the source
    const S* const* lines;   // [tap of a column] or null
    const int64_t* columns;  // [tap of a row][width(job)] in a line, or -1
    const S* zeros;
  };

  static double cost(const CorrelateJob& job) {
    int64_t taps = job.h.taps * job.w.taps, positions = job.h.positions * job.w.positions;
    if (job.components != 1 || job.rows > kMost || job.source.c != 1) return kNever;
    if (job.rows * job.depth * taps * positions == 0) return kNever;
    double squares = quotient_up(job.rows, kFilters);
    double products = quotient_up(job.depth, lanes) * (0.75 * job.rows + 2 * squares);
    constexpr double some = FULLCONV_VECTOR_BYTES == 64 ? 8 : 16;  // what fills no vector
    double finding = squares * (job.depth % lanes == 0 ? 2.5 : some);
    return job.groups * positions * (taps * (products + finding) + 12 * job.rows + 60 * squares);
  }

  // [segment][group][row][tap][line(job)], zeros behind a line
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return job.segments * job.groups * job.rows * row_size(job) * sizeof(T);
  }
  static int64_t pack_filter_tasks(const CorrelateJob& job) { return job.segments * job.groups; }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    T* to = static_cast<T*>(packed) + task * job.rows * row_size(job);
    T special = 0;  // to which a NaN or Inf, times 0, adds a NaN
    for (int64_t row = 0; row < job.rows; ++row)
      for (int64_t r = 0; r < job.h.taps; ++r)
        for (int64_t s = 0; s < job.w.taps; ++s, to += line(job)) {
          const S* from = static_cast<const S*>(filter.data) + task / job.groups * filter.segment +
                          task % job.groups * filter.group + row * filter.row +
                          job.h.tap[r] * filter.r + job.w.tap[s] * filter.s;
          copy(to, 1, from, filter.depth, job.depth);
          clear(to + job.depth, 1, line(job) - job.depth);
          for (int64_t c = 0; c < job.depth; ++c) special += to[c] * 0;
        }
    mark(job.special, special != 0);
  }

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.batch * job.groups * quotient_up(job.h.positions, row_block(job));
  }
  static int64_t scratch(const CorrelateJob& job) {
    return job.w.taps * width(job) * sizeof(int64_t) + job.h.taps * sizeof(S*) +
           job.depth * sizeof(S);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    constexpr void (*kBlocks[])(const CorrelateJob&, const Taps&, int64_t, int64_t, const T*,
                                const T*, S*) = {block<1>, block<2>, block<3>, block<4>};
    int64_t parts = quotient_up(job.h.positions, row_block(job));
    int64_t row = task % parts * row_block(job), end = least(row + row_block(job), job.h.positions);
    task /= parts;
    int64_t group = task % job.groups, sample = task / job.groups;
    const T* filter = static_cast<const T*>(job.filter) +
                      (sample / job.batch * job.groups + group) * job.rows * row_size(job);
    T bias[kMost] = {};
    if (job.bias)
      copy(bias, 1, static_cast<const S*>(job.bias) + group * job.rows * job.bias_stride,
           job.bias_stride, job.rows);
    const S* source =
        static_cast<const S*>(job.source.data) + sample * job.source.n + group * job.depth;
    S* result =
        static_cast<S*>(job.result.data) + sample * job.result.n + group * job.rows * job.result.c;
    int64_t* columns = static_cast<int64_t*>(scratch);
    const S** lines = reinterpret_cast<const S**>(columns + job.w.taps * width(job));
    S* zeros = reinterpret_cast<S*>(lines + job.h.taps);
    find_columns(job, columns);
    std::fill_n(zeros, job.depth, S{});
    for (; row < end; ++row) {
      for (int64_t r = 0; r < job.h.taps; ++r) {
        int64_t y = source_or_none(job.h, job.h.base[row] + job.h.offset[r]);
        lines[r] = y < 0 ? nullptr : source + y * job.source.h;
      }
      for (int64_t j = 0; j < job.w.positions; j += lanes)
        for (int64_t k = 0; k < job.rows; k += kFilters)
          kBlocks[least(kFilters, job.rows - k) - 1](
              job, Taps{lines, columns + j, zeros}, j, least(lanes, job.w.positions - j),
              filter + k * row_size(job), bias + k,
              result + job.h.position[row] * job.result.h + k * job.result.c);
    }
  }

 private:
  static int64_t line(const CorrelateJob& job) { return round_up(job.depth, lanes); }
  static int64_t row_size(const CorrelateJob& job) { return job.h.taps * job.w.taps * line(job); }
  static int64_t width(const CorrelateJob& job) { return round_up(job.w.positions, lanes); }
  static int64_t row_block(const CorrelateJob& job) { return quotient_up(kTask, job.w.positions); }

  static void find_columns(const CorrelateJob& job, int64_t* to) {
    for (int64_t s = 0; s < job.w.taps; ++s)
      for (int64_t j = 0; j < width(job); ++j, ++to) {
        bool inside = j < job.w.positions;
        int64_t x = inside ? source_or_none(job.w, job.w.base[j] + job.w.offset[s]) : -1;
        *to = x < 0 ? -1 : x * job.source.w;
      }
  }

  // `count` positions from j on, at most as many as there are lanes.
  template <int ROWS>
  static void block(const CorrelateJob& job, const Taps& taps, int64_t j, int64_t count,
                    const T* filter, const T* bias, S* result) {
    V square[ROWS][lanes];
    int64_t depth = job.depth, row = row_size(job), columns = width(job), i = 0;
    for (; i < count; i += kPixels) {
      V sum[ROWS][kPixels] = {};
      const T* with = filter;
      for (int64_t r = 0; r < job.h.taps; ++r)
        for (int64_t s = 0; s < job.w.taps; ++s, with += line(job)) {
          const S* from[kPixels];
          for (int64_t p = 0; p < kPixels; ++p) {
            int64_t at = taps.columns[s * columns + i + p];
            from[p] = taps.lines[r] && at >= 0 ? taps.lines[r] + at : taps.zeros;
          }
          for (int64_t c = 0; c < depth; c += lanes) {
            V value[kPixels];
            for (int64_t p = 0; p < kPixels; ++p) value[p] = load_some<T>(from[p] + c, depth - c);
            for (int k = 0; k < ROWS; ++k) {
              V f = load<T>(with + k * row + c);
              for (int64_t p = 0; p < kPixels; ++p) sum[k][p] += value[p] * f;
            }
          }
        }
      for (int k = 0; k < ROWS; ++k)
        for (int64_t p = 0; p < kPixels; ++p) square[k][i + p] = sum[k][p];
    }
    for (int k = 0; k < ROWS; ++k) {
      std::fill(square[k] + i, square[k] + lanes, V{});
      transpose<T>(square[k]);
      for (int64_t half = lanes / 2; half > 0; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) square[k][lane] += square[k][lane + half];
      T sums[lanes];
      store<T>(square[k][0] + bias[k], sums);
      for (int64_t p = 0; p < count; ++p)
        narrow(sums[p], result[job.w.position[j + p] * job.result.w + k * job.result.c]);
    }
  }
};
