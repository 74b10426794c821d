// correlate_weight for depthwise layers whose channels are neighbours in memory, read where they
// lie, as depthwise.inl does:
//
//     result[tap][c] = Σ_position grad[position][c] · input[position + tap][c]
//
// Vectors run along the channels; the last one ends with them, over a part of the one before. The
// sums of some rows of the filter stay in registers while the kernel walks some rows of the
// gradient, for one vector of channels after the other, and nothing is copied. What the next vector
// reads is asked for meanwhile. Positions at the ends of a row look for the padding, others do not.
// Numbers that are widened when they are loaded gain nothing here.

template <class S>
struct DepthwiseWeight {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;
  static constexpr int kSums = FULLCONV_VECTOR_BYTES == 64 ? 28 : 12;  // in registers
  static constexpr int64_t kRowBytes = 1 << 18;  // that some rows meet, in a near cache

  // Weighed by hand, beside channels_weight.inl.
  static double cost(const WeightJob& job) {
    if (!std::is_same_v<S, T> || job.components != 1 || job.groups < lanes) return kNever;
    if (job.channels != 1 || job.filters != 1 || job.input.c != 1 || job.grad.c != 1) return kNever;
    if (job.w.taps != 3 && job.w.taps != 5 && job.w.taps != 7) return kNever;
    if (job.h.padding != Padding::zeros || job.h.taps * job.h.positions * job.w.positions == 0)
      return kNever;
    auto [top, bottom] = inner_positions(job.h);
    double positions = 1.0 * job.h.positions * job.w.positions;
    double pieces = Cut(job).pieces + job.h.positions - (bottom - top);
    bool across_lines = job.groups % kLine<S> != 0;  // of the cache
    double products = taps(job) * ((across_lines ? 0.8 : 0.6) * positions + 24 * pieces);
    return job.batch * vectors(job) * (products + 28 * positions);
  }

  // Parts of the batch's rows, no more than 64.
  static int64_t splits(const WeightJob& job) {
    return most<int64_t>(1, least<int64_t>(64, job.batch * Cut(job).pieces));
  }
  // [segment][split][vector of channels][tap][lane]
  static int64_t partial_size(const WeightJob& job) {
    return job.segments * job.splits * vectors(job) * taps(job) * lanes * sizeof(T);
  }
  static int64_t tasks(const WeightJob& job) { return job.segments * job.splits * Cut(job).parts; }
  static int64_t scratch(const WeightJob&) { return 0; }

  static void run(const WeightJob& job, int64_t task, void*) {
    Cut cut(job);
    int64_t part = task % cut.parts, split = task / cut.parts % job.splits;
    int64_t segment = task / cut.parts / job.splits, units = job.batch * cut.pieces;
    int64_t first = vectors(job) * part / cut.parts, end = vectors(job) * (part + 1) / cut.parts;
    clear(partial(job, segment, split, first), 1, (end - first) * taps(job) * lanes);
    for (int64_t unit = units * split / job.splits; unit < units * (split + 1) / job.splits;
         ++unit) {
      int64_t n = segment * job.batch + unit / cut.pieces, row = unit % cut.pieces * cut.rows;
      GradRows rows{job, n, row, least(cut.rows, job.h.positions - row)};
      for (int64_t v = first; v < end; ++v)
        add_vector(rows, channel_of(job, v), partial(job, segment, split, v));
    }
  }

  static int64_t reduce_tasks(const WeightJob& job) { return job.segments * vectors(job); }

  static void reduce(const WeightJob& job, int64_t task) {
    int64_t v = task % vectors(job), segment = task / vectors(job);
    T* sum = partial(job, segment, 0, v);
    add_parts(sum, job.splits, vectors(job) * taps(job) * lanes, taps(job) * lanes);
    // The first lanes of the last vector are the vector's before it.
    int64_t channel = channel_of(job, v), fresh = v * lanes - channel;
    S* to = static_cast<S*>(job.result) + segment * job.segment + channel * job.k;
    for (int64_t r = 0; r < job.h.taps; ++r)
      for (int64_t s = 0; s < job.w.taps; ++s, sum += lanes)
        for (int64_t lane = fresh; lane < lanes; ++lane)
          narrow(sum[lane], to[lane * job.k + r * job.r + s * job.s]);
  }

 private:
  // A task: some of the pieces of rows of all samples, for some of the vectors of channels.
  struct Cut {
    int64_t rows, pieces, parts;
    explicit Cut(const WeightJob& job) {
      int64_t row = job.h.step * job.w.limit * job.groups * sizeof(S);
      rows = least(quotient_up(kChain, job.w.positions), 1 + kRowBytes / row);
      pieces = quotient_up(job.h.positions, rows);
      parts = ChannelBlocks{1, 1, job.groups, lanes}.parts(rows * job.w.positions * taps(job));
    }
  };

  struct GradRows {  // some rows of one sample's gradient
    const WeightJob& job;
    int64_t sample, row, count;

    const S* grad(int64_t i, int64_t channel) const {
      return static_cast<const S*>(job.grad.data) + sample * job.grad.n + i * job.grad.h + channel;
    }
    const S* input(int64_t y, int64_t channel) const {
      return static_cast<const S*>(job.input.data) + sample * job.input.n + y * job.input.h +
             channel;
    }
  };

  static int64_t vectors(const WeightJob& job) { return quotient_up(job.groups, lanes); }
  static int64_t taps(const WeightJob& job) { return job.h.taps * job.w.taps; }
  static int64_t channel_of(const WeightJob& job, int64_t vector) {
    return least(vector * lanes, job.groups - lanes);
  }
  static T* partial(const WeightJob& job, int64_t segment, int64_t split, int64_t vector) {
    int64_t index = (segment * job.splits + split) * vectors(job) + vector;
    return static_cast<T*>(job.partial) + index * taps(job) * lanes;
  }

  // All taps of one vector of channels, in even pieces of the filter's rows.
  static void add_vector(const GradRows& rows, int64_t channel, T* sums) {
    const AxisMap &h = rows.job.h, &w = rows.job.w;
    int64_t piece = quotient_up(h.taps, quotient_up(h.taps, kSums / w.taps));
    for (int64_t first = 0; first < h.taps; first += piece) {
      int64_t end = least(first + piece, h.taps);
      auto met = [&](int64_t row) {  // the taps that meet the source from there
        auto meets = [&](int64_t r) { return source_or_none(h, h.base[row] + h.offset[r]) >= 0; };
        std::pair<int64_t, int64_t> taps(first, end);
        while (taps.first < end && !meets(taps.first)) ++taps.first;
        while (taps.first < taps.second && !meets(taps.second - 1)) --taps.second;
        return taps;
      };
      for (int64_t row = rows.row, next, last = row + rows.count; row < last; row = next) {
        std::pair<int64_t, int64_t> taps = met(row);
        for (next = row + 1; next < last && met(next) == taps;) ++next;
        GradRows some{rows.job, rows.sample, row, next - row};
        auto add = w.taps == 3 ? add_some<3> : w.taps == 5 ? add_some<5> : add_some<7>;
        if (taps.first < taps.second)
          add(taps.second - taps.first, some, channel, taps.first, sums);
        add_padding(some, channel, first, taps.first, sums);
        add_padding(some, channel, taps.second, end, sums);
      }
    }
  }

  // What rows of the filter in the padding add: nothing, but where the gradient has a NaN or Inf.
  static void add_padding(const GradRows& rows, int64_t channel, int64_t r, int64_t end, T* sums) {
    if (r == end) return;
    const WeightJob& job = rows.job;
    V sum = {};
    for (int64_t i = rows.row; i < rows.row + rows.count; ++i)
      for (int64_t j = 0; j < job.w.positions; ++j)
        sum += load<T>(rows.grad(i, channel) + j * job.grad.w) * T(0);
    for (T* to = sums + r * job.w.taps * lanes; to < sums + end * job.w.taps * lanes; to += lanes)
      store<T>(load<T>(to) + sum, to);
  }

  // COUNT rows of the filter from r on, all of which meet the source.
  template <int TAPS, int COUNT = kSums / TAPS>
  static void add_some(int64_t count, const GradRows& rows, int64_t channel, int64_t r, T* sums) {
    if constexpr (COUNT > 1)
      if (count < COUNT) return add_some<TAPS, COUNT - 1>(count, rows, channel, r, sums);
    const WeightJob& job = rows.job;
    auto [left, right] = inner_positions(job.w);
    V sum[COUNT][TAPS] = {};
    for (int64_t i = rows.row; i < rows.row + rows.count; ++i) {
      const S* line[COUNT];
      for (int q = 0; q < COUNT; ++q)
        line[q] = rows.input(job.h.base[i] + job.h.offset[r + q], channel);
      const S* grad = rows.grad(i, channel);
      add_positions<true>(job, 0, left, grad, line, sum);
      add_positions<false>(job, left, right, grad, line, sum);
      add_positions<true>(job, right, job.w.positions, grad, line, sum);
    }
    sums += r * TAPS * lanes;
    for (int q = 0; q < COUNT; ++q)
      for (int s = 0; s < TAPS; ++s, sums += lanes) store<T>(load<T>(sums) + sum[q][s], sums);
  }

  // Asks for what the next vector reads: of the gradient, and of the lines that are new in a row.
  template <bool EDGE, int COUNT, int TAPS>
  static void add_positions(const WeightJob& job, int64_t j, int64_t end, const S* grad,
                            const S* const (&line)[COUNT], V (&sum)[COUNT][TAPS]) {
    const AxisMap& w = job.w;
    int64_t pixel = job.input.w, apart = (w.offset[1] - w.offset[0]) * pixel;
    const int new_rows = static_cast<int>(least<int64_t>(job.h.step, COUNT));
    const int new_columns = static_cast<int>(least<int64_t>(w.step, TAPS));
    for (; j < end; ++j) {
      int64_t u = w.base[j] + w.offset[0], x = u * pixel;
      V g = load<T>(grad + j * job.grad.w);
      __builtin_prefetch(grad + j * job.grad.w + lanes);
      for (int q = 0; q < new_rows && !EDGE; ++q)
        for (int a = 0; a < new_columns; ++a)
          __builtin_prefetch(line[COUNT - 1 - q] + x + a * pixel + lanes);
#pragma GCC unroll 8
      for (int s = 0; s < TAPS; ++s) {
        int64_t column = w.base[j] + w.offset[s];
        if (EDGE && (column < 0 || column >= w.limit)) {
          for (int q = 0; q < COUNT; ++q) sum[q][s] += g * T(0);
          continue;
        }
#pragma GCC unroll 8
        for (int q = 0; q < COUNT; ++q) sum[q][s] += g * load<T>(line[q] + x + s * apart);
      }
    }
  }
};
