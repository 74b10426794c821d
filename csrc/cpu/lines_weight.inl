// correlate_weight for few filters a group: with vectors along the positions, not along the
// filters, which would fill only part of one.
//
//     result[k][(c, tap)] = Σ_position grad[k][position] · lines[offset(c, tap) + position]
//
// The source lies in padded lines (lines.inl), each tap a shifted load; the lanes of a sum are
// added when a block of rows is done. Behind a row's last position the lines hold what other taps
// meet: those lanes are masked, since a NaN times a zero of the gradient is still one. Where the
// source's own rows are such lines, without padding and whole vectors long, they are read in place.
// Scratch a task: the lines, the gradients of the block of rows.

template <class S>
struct LinesWeight {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;
  static constexpr int kTaps = 6, kFilters = 2;  // sums in registers
  static constexpr int64_t kGrads = 2 * kLines;  // gradients of a block of rows, or of one row

  static double cost(const WeightJob& job) {
    if (job.components != 1 || rows(job) * job.filters == 0 ||
        job.h.positions * job.w.positions == 0)
      return kNever;
    if (job.channels * one_row(job).plane() > 4 * kLines) return kNever;
    if (job.filters * width(job) > 4 * kGrads) return kNever;
    LineLayout layout(job.h, job.w, 0, job.h.positions, lanes);
    double vectors = job.h.positions * quotient_up(job.w.positions, lanes), filters = job.filters;
    double products = 1.4 * vectors * round_up(rows(job), kTaps) * round_up(job.filters, kFilters);
    bool in_order = job.input.w == 1 && job.w.step == 1;
    double line = layout.line() * (35.0 / lanes + (in_order ? 0 : 1.5)) + 30;
    double filling = in_place(job) ? 0 : job.channels * layout.height * line;
    double grads = 2.8 * vectors * (job.grad.w == 1 ? 1 : lanes) + 25.0 * job.h.positions;
    double blocks = quotient_up(job.h.positions, row_block(job));
    double sums = 40 * blocks * rows(job) * filters;
    return job.groups * job.batch * (products + filling + filters * grads + sums);
  }

  static int64_t splits(const WeightJob& job) {
    int64_t owners = job.segments * job.groups;
    int64_t wanted = owners > 0 ? quotient_up(32, owners) : 1;
    return least(wanted, units(job) > 0 ? units(job) : 1);
  }
  static int64_t partial_size(const WeightJob& job) {
    return tasks(job) * rows(job) * job.filters * sizeof(T);
  }
  static int64_t tasks(const WeightJob& job) { return job.splits * job.segments * job.groups; }

  static int64_t scratch(const WeightJob& job) {
    LineLayout layout(job.h, job.w, 0, row_block(job), lanes);
    int64_t elements = job.channels * layout.plane() + job.filters * row_block(job) * width(job);
    return elements * sizeof(T) + round_up(rows(job), 8) * sizeof(int64_t);
  }

  static void run(const WeightJob& job, int64_t task, void* scratch) {
    int64_t group = task % job.groups, segment = task / job.groups % job.segments;
    int64_t split = task / job.groups / job.segments;
    int64_t* offsets = static_cast<int64_t*>(scratch);
    T* grads = reinterpret_cast<T*>(offsets + round_up(rows(job), 8));
    T* lines = grads + job.filters * row_block(job) * width(job);
    T* sums = partial(job, split, segment, group);
    clear(sums, 1, rows(job) * job.filters);
    const S* input = static_cast<const S*>(job.input.data) + group * job.channels * job.input.c;
    const S* grad = static_cast<const S*>(job.grad.data) + group * job.filters * job.grad.c;
    int64_t blocks = quotient_up(job.h.positions, row_block(job));
    for (int64_t unit = units(job) * split / job.splits;
         unit < units(job) * (split + 1) / job.splits; ++unit) {
      int64_t n = segment * job.batch + unit / blocks, row = unit % blocks * row_block(job);
      int64_t height = least(row_block(job), job.h.positions - row);
      SourceLines source =
          in_place(job) ? own_lines(job, input + n * job.input.n, row, offsets)
                        : copied_lines(job, input + n * job.input.n, row, height, lines, offsets);
      for (int64_t k = 0; k < job.filters; ++k)
        for (int64_t i = 0; i < height; ++i) {
          T* to = grads + (k * row_block(job) + i) * width(job);
          copy(to, 1, grad + n * job.grad.n + k * job.grad.c + (row + i) * job.grad.h, job.grad.w,
               job.w.positions);
          clear(to + job.w.positions, 1, width(job) - job.w.positions);
        }
      for (int64_t k = 0; k < job.filters; k += kFilters)
        for (int64_t r = 0; r < rows(job); r += kTaps)
          add_products(job, height, source, offsets, grads, r, k, sums);
    }
  }

  static int64_t reduce_tasks(const WeightJob& job) { return job.segments * job.groups; }

  static void reduce(const WeightJob& job, int64_t task) {
    int64_t group = task % job.groups, segment = task / job.groups;
    T* sum = partial(job, 0, segment, group);
    int64_t size = rows(job) * job.filters;
    add_parts(sum, job.splits, job.segments * job.groups * size, size);
    S* to = static_cast<S*>(job.result) + segment * job.segment + group * job.filters * job.k;
    for (int64_t r = 0; r < rows(job); ++r) {
      int64_t tap = r % taps(job);
      S* at = to + r / taps(job) * job.c + tap / job.w.taps * job.r + tap % job.w.taps * job.s;
      for (int64_t k = 0; k < job.filters; ++k) narrow(sum[r * job.filters + k], at[k * job.k]);
    }
  }

 private:
  static int64_t taps(const WeightJob& job) { return job.h.taps * job.w.taps; }
  static int64_t rows(const WeightJob& job) { return job.channels * taps(job); }
  static int64_t width(const WeightJob& job) { return round_up(job.w.positions, lanes); }
  static LineLayout one_row(const WeightJob& job) { return LineLayout(job.h, job.w, 0, 1, lanes); }
  static int64_t row_block(const WeightJob& job) {
    LineLayout one = one_row(job);
    int64_t spare = kLines / (job.channels * one.line()) - one.height;
    int64_t rows = least(spare > 0 ? 1 + spare / job.h.step : 1, job.h.positions);
    return most<int64_t>(1, least(rows, kGrads / (job.filters * width(job))));
  }
  static int64_t units(const WeightJob& job) {
    return job.batch * quotient_up(job.h.positions, row_block(job));
  }
  static T* partial(const WeightJob& job, int64_t split, int64_t segment, int64_t group) {
    int64_t index = (split * job.segments + segment) * job.groups + group;
    return static_cast<T*>(job.partial) + index * rows(job) * job.filters;
  }

  struct SourceLines {
    const T* data;
    int64_t step;  // from a row of the result to the next
  };

  // Copies what `height` rows of the result from `row` on meet, and finds where the first meets the
  // taps.
  static SourceLines copied_lines(const WeightJob& job, const S* sample, int64_t row,
                                  int64_t height, T* lines, int64_t* offsets) {
    LineLayout layout(job.h, job.w, row, height, lanes);
    for (int64_t c = 0; c < job.channels; ++c)
      for (int64_t i = 0; i < layout.height; ++i)
        fill_line(layout, i, sample + c * job.input.c, job.input, job.h, job.w,
                  lines + c * layout.plane() + i * layout.line());
    for (int64_t r = 0; r < rows(job); ++r)
      offsets[r] = r / taps(job) * layout.plane() + layout.offset(job.h, job.w, row, r % taps(job));
    return {lines, job.h.step * layout.line()};
  }

  static bool in_place(const WeightJob& job) {
    if (!std::is_same_v<S, T> || job.input.w != 1 || job.w.step != 1) return false;
    return job.w.positions % lanes == 0 && is_inside(job.h) && is_inside(job.w);
  }
  static SourceLines own_lines(const WeightJob& job, const S* sample, int64_t row,
                               int64_t* offsets) {
    for (int64_t r = 0; r < rows(job); ++r) {
      int64_t y = job.h.base[row] + job.h.offset[r % taps(job) / job.w.taps];
      int64_t x = job.w.base[0] + job.w.offset[r % job.w.taps];
      offsets[r] = r / taps(job) * job.input.c + y * job.input.h + x;
    }
    return {reinterpret_cast<const T*>(sample), job.h.step * job.input.h};
  }

  static V masked(V value, Words mask) { return bits_as<V>(bits_as<Words>(value) & mask); }

  // kTaps rows of the result by kFilters, over a block of the gradient's rows. Where fewer are
  // left, the last is done again, and not added.
  static void add_products(const WeightJob& job, int64_t height, const SourceLines& lines,
                           const int64_t* offsets, const T* grads, int64_t first_row,
                           int64_t first_filter, T* sums) {
    const T* at[kTaps];
    const T* with[kFilters];
    for (int t = 0; t < kTaps; ++t)
      at[t] = lines.data + offsets[least(first_row + t, rows(job) - 1)];
    for (int f = 0; f < kFilters; ++f)
      with[f] = grads + least(first_filter + f, job.filters - 1) * row_block(job) * width(job);
    int64_t whole = job.w.positions / lanes * lanes, rest = job.w.positions - whole;
    T edge[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane)
      edge[lane] = lane < rest ? bits_as<T>(~typename Bits<T>::type(0)) : T(0);
    Words mask;
    __builtin_memcpy(&mask, edge, sizeof(mask));
    V sum[kTaps][kFilters] = {};
    for (int64_t i = 0; i < height; ++i) {
      int64_t line = i * lines.step, row = i * width(job);
      for (int64_t j = 0; j < job.w.positions; j += lanes) {
        V g[kFilters];
        for (int f = 0; f < kFilters; ++f) g[f] = load<T>(with[f] + row + j);
#pragma GCC unroll 6
        for (int t = 0; t < kTaps; ++t) {
          V x = load<T>(at[t] + line + j);
          if (j >= whole) x = masked(x, mask);
          for (int f = 0; f < kFilters; ++f) sum[t][f] += x * g[f];
        }
      }
    }
    for (int t = 0; t < kTaps && first_row + t < rows(job); ++t)
      for (int f = 0; f < kFilters && first_filter + f < job.filters; ++f) {
        T total = 0;
        for (int64_t lane = 0; lane < lanes; ++lane) total += sum[t][f][lane];
        sums[(first_row + t) * job.filters + first_filter + f] += total;
      }
  }
};
