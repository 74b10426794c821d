// correlate for depthwise layers whose channels are neighbours in memory, read where they lie:
//
//     result[position][c] = bias[c] + Σ_tap filter[tap][c] · source[position + tap][c]
//
// Vectors run along the channels; the last one ends with them, over a part of the one before. The
// sums of some positions of a row, or of two rows that meet the same lines of the source, stay in
// registers while the kernel walks the lines, for one vector of channels after the other: so the
// source is read a row of pixels at a time, and nothing is copied, while the lines that a row meets
// stay in a near cache. The lines that the next rows read and write are asked for meanwhile. Tiles
// at the ends of a row load zeros for the padding; others do not look for it.
// Scratch a task: where the lines are that its rows meet.

template <class S>
struct Depthwise {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;
  static constexpr int kRowsAtOnce = 2;  // of the result, at once, where they share lines
  static constexpr int kPositions =      // positions whose sums are in registers
      FULLCONV_VECTOR_BYTES == 64 ? 8 : 4;
  static constexpr int64_t kTask = 4096;          // vectors of the result, about
  static constexpr int64_t kLineBytes = 1 << 18;  // bytes that a row meets

  // Weighed by hand, over some twenty layers a type timed beside channels.inl.
  static double cost(const CorrelateJob& job) {
    if (job.components != 1 || job.depth != 1 || job.rows != 1 || job.groups < lanes) return kNever;
    if (job.source.c != 1 || job.result.c != 1 || job.w.position_step > 1) return kNever;
    if (job.h.padding != Padding::zeros || job.h.taps * job.w.taps == 0) return kNever;
    if (job.h.taps * job.w.limit * job.groups * static_cast<int64_t>(sizeof(S)) > kLineBytes)
      return kNever;
    double positions = job.w.positions;
    double products = terms_of(job.h) * job.w.taps * (positions + edges(job.w));
    double product = (kTogether > 1 ? 0.7 : 1.3) + (sizeof(S) < sizeof(T) ? 0.2 : 0);
    return vectors(job) * (product * products + 29 * job.h.positions * positions);
  }

  // [segment][vector of channels][bias, taps of rows from left to right][lane]
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return pack_filter_tasks(job) * packed(job) * sizeof(T);
  }
  static int64_t pack_filter_tasks(const CorrelateJob& job) { return job.segments * vectors(job); }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed_filter,
                          int64_t task) {
    int64_t channel = channel_of(job, task % vectors(job));
    T* to = static_cast<T*>(packed_filter) + task * packed(job);
    clear(to, 1, lanes);
    if (job.bias)
      copy(to, 1, static_cast<const S*>(job.bias) + channel * job.bias_stride, job.bias_stride,
           lanes);
    const S* from = static_cast<const S*>(filter.data) + task / vectors(job) * filter.segment +
                    channel * filter.group;
    T special = 0;  // to which a NaN or Inf, times 0, adds a NaN
    for (int64_t r = 0; r < job.h.taps; ++r)
      for (int64_t s = 0; s < job.w.taps; ++s) {
        to += lanes;
        copy(to, 1, from + job.h.tap[r] * filter.r + job.w.tap[from_left(job.w, s)] * filter.s,
             filter.group, lanes);
        for (int64_t i = 0; i < lanes; ++i) special += to[i] * 0;
      }
    mark(job.special, special != 0);
  }

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.batch * quotient_up(job.h.positions, row_block(job));
  }
  static int64_t scratch(const CorrelateJob& job) {
    return kRowsAtOnce * job.h.taps * sizeof(Line);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    int64_t parts = quotient_up(job.h.positions, row_block(job));
    int64_t row = task % parts * row_block(job), end = least(row + row_block(job), job.h.positions);
    int64_t sample = task / parts;
    const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n;
    S* result = static_cast<S*>(job.result.data) + sample * job.result.n;
    SomeRows at(job, sample, static_cast<Line*>(scratch));
    int64_t together = at.share_lines() ? kRowsAtOnce : 1;
    for (int64_t count; row < end; row += count) {
      count = least(together, end - row);
      at.find_lines(row, count, source, result);
      if (count == kRowsAtOnce)
        sum_rows<kRowsAtOnce>(at);
      else
        sum_rows<1>(at);
    }
  }

 private:
  struct Line {
    int64_t y;
    const S* from;                 // or null, outside
    const T* filter[kRowsAtOnce];  // for each row of the result the row of the filter, or null
  };

  // Some rows of the result, and what their positions have in common.
  struct SomeRows {
    const CorrelateJob& job;
    Line* lines;  // that meet the source: all, with a NaN or Inf in the filter, or those within
    int64_t count = 0, vectors, packed, taps;
    const T* filter;
    S* to[kRowsAtOnce];
    const S* next;        // behind the lines
    bool asks;            // for what follows: of larger steps it would not need all
    int64_t left, right;  // the positions that meet no padding, or none with a NaN or Inf

    SomeRows(const CorrelateJob& job, int64_t sample, Line* lines)
        : job(job),
          lines(lines),
          vectors(Depthwise::vectors(job)),
          packed(Depthwise::packed(job)),
          taps(job.w.taps),
          filter(static_cast<const T*>(job.filter) + sample / job.batch * vectors * packed) {
      auto [begin, end] = inner_positions(job.w);
      left = begin, right = *job.special ? begin : end;
      asks = job.h.step <= 2 && job.w.step <= 2;
    }

    // Whether a row meets what the row before it meets, but for one line.
    bool share_lines() const {
      const AxisMap& h = job.h;
      int64_t apart = h.taps > 1 ? h.offset[1] - h.offset[0] : 0;
      return h.step == 1 && (apart == 1 || apart == -1);
    }

    void find_lines(int64_t row, int64_t rows, const S* source, S* result) {
      count = 0;
      int64_t last = 0;
      for (int64_t q = 0; q < rows; ++q) {
        to[q] = result + job.h.position[row + q] * job.result.h;
        for (int64_t tap = 0; tap < job.h.taps; ++tap) {
          int64_t r = from_left(job.h, tap);  // from the top
          int64_t y = source_or_none(job.h, job.h.base[row + q] + job.h.offset[r]);
          if (y < 0 && !*job.special) continue;
          Line* line = lines;
          while (line < lines + count && (y < 0 || line->y != y)) ++line;
          if (line == lines + count) {
            *line = {y, y < 0 ? nullptr : source + y * job.source.h, {}};
            ++count;
          }
          line->filter[q] = filter + (1 + r * taps) * lanes;
          last = most(last, y);
        }
      }
      next = source + (last + 1) * job.source.h;
    }
    int64_t offset(int64_t s) const { return job.w.offset[from_left(job.w, s)]; }
  };

  static int64_t edges(const AxisMap& w) {
    auto [left, right] = inner_positions(w);
    return w.positions - (right - left);
  }
  static int64_t vectors(const CorrelateJob& job) { return quotient_up(job.groups, lanes); }
  static int64_t packed(const CorrelateJob& job) { return (1 + job.h.taps * job.w.taps) * lanes; }
  static int64_t channel_of(const CorrelateJob& job, int64_t vector) {
    return least(vector * lanes, job.groups - lanes);
  }
  static int64_t row_block(const CorrelateJob& job) {
    return quotient_up(kTask, job.w.positions * vectors(job));
  }

  // Rows of the result, in even pieces.
  template <int ROWS>
  static void sum_rows(const SomeRows& at) {
    int64_t all = at.job.w.positions, piece = quotient_up(all, quotient_up(all, kPositions));
    for (int64_t j = 0, count; j < all; j += count) {
      count = least(piece, all - j);
      if (j >= at.left && j + count <= at.right)
        sum_some<false, ROWS>(count, at, j);
      else
        sum_some<true, ROWS>(count, at, j);
    }
  }

  template <bool EDGE, int ROWS, int COUNT = kPositions>
  static void sum_some(int64_t count, const SomeRows& at, int64_t j) {
    if constexpr (COUNT > 1)
      if (count < COUNT) return sum_some<EDGE, ROWS, COUNT - 1>(count, at, j);
    const CorrelateJob& job = at.job;
    int64_t column = job.w.base[j] + at.offset(0), x = column * job.source.w;
    for (int64_t v = 0; v < at.vectors; ++v) {
      int64_t channel = channel_of(job, v);
      V sum[ROWS][COUNT], bias = load<T>(at.filter + v * at.packed);
      for (int q = 0; q < ROWS; ++q)
        for (int i = 0; i < COUNT; ++i) sum[q][i] = bias;
      if (at.asks && v * lanes % kLine<S> == 0)
        ask_for_next<ROWS, COUNT>(at, j, x + channel, channel);
      for (const Line* line = at.lines; line < at.lines + at.count; ++line)
        add_line<EDGE>(*line, v * at.packed, x + channel, column, at, sum);
      for (int q = 0; q < ROWS; ++q)
        for (int i = 0; i < COUNT; ++i)
          store<T>(sum[q][i], at.to[q] + job.w.position[j + i] * job.result.w + channel);
    }
  }

  // Asks for what the next rows read and write at these positions and channels. Inlined always: to
  // GCC, a function that asks has no effect. With counters of 64 bits the loops are tighter, and
  // a Zen 5 reads rows of stride 2 from memory 1.6 times slower.
  template <int ROWS, int COUNT>
  __attribute__((always_inline)) static void ask_for_next(const SomeRows& at, int64_t j, int64_t x,
                                                          int64_t channel) {
    const CorrelateJob& job = at.job;
    for (int q = 0; q < ROWS * job.h.step; ++q)
      for (int i = 0; i < COUNT * job.w.step; ++i)
        __builtin_prefetch(at.next + x + q * job.source.h + i * job.source.w, 0, 2);
    for (int q = 0; q < ROWS; ++q)
      for (int i = 0; i < COUNT; ++i)
        __builtin_prefetch(
            at.to[q] + channel + ROWS * job.result.h + job.w.position[j + i] * job.result.w, 0, 2);
  }

  // A line of the source, from which taps share what they load if they meet neighbours.
  template <bool EDGE, int ROWS, int COUNT>
  static void add_line(const Line& line, int64_t filter, int64_t x, int64_t column,
                       const SomeRows& at, V (&sum)[ROWS][COUNT]) {
    int64_t s = 0, apart = at.taps > 1 ? at.offset(1) - at.offset(0) : 0;
    auto add = [&](auto taps) {
      add_taps<EDGE, taps.value>(line, filter + s * lanes, x + s * apart * at.job.source.w,
                                 column + s * apart, at, sum);
      s += taps.value;
    };
    if (kTogether > 1 && apart == at.job.w.step)
      while (s + kTogether <= at.taps) add(std::integral_constant<int, kTogether>());
    while (s < at.taps) add(std::integral_constant<int, 1>());
  }

  template <bool EDGE, int TAPS, int ROWS, int COUNT>
  static void add_taps(const Line& line, int64_t filter, int64_t x, int64_t column,
                       const SomeRows& at, V (&sum)[ROWS][COUNT]) {
    static constexpr S zeros[lanes] = {};
    int64_t step = at.job.w.step, pixel = step * at.job.source.w;
    int64_t limit = line.from ? at.job.w.limit : 0;
    V value[COUNT + TAPS - 1];
#pragma GCC unroll 16
    for (int i = 0; i < COUNT + TAPS - 1; ++i) {
      int64_t u = column + i * step;
      bool shown = !EDGE || static_cast<uint64_t>(u) < static_cast<uint64_t>(limit);
      value[i] = load<T>(shown ? line.from + x + i * pixel : zeros);
    }
#pragma GCC unroll 16
    for (int q = 0; q < ROWS; ++q)
      if (ROWS == 1 || line.filter[q]) add_products(line.filter[q] + filter, value, sum[q]);
  }

  template <int VALUES, int COUNT>
  static void add_products(const T* filter, const V (&value)[VALUES], V (&sum)[COUNT]) {
#pragma GCC unroll 16
    for (int s = 0; s <= VALUES - COUNT; ++s) {
      V f = load<T>(filter + s * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < COUNT; ++i) sum[i] += f * value[i + s];
    }
  }
};
