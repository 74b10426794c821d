// correlate where a sample has one position, as after global pooling or under a filter as large as
// the input: a matrix product with no more columns than there are samples,
//
//     result[n][row] = Σ_c filter[row][c] · source[n][c]
//
// Each number of the filter meets few of the source, so that to pack it would take longer than the
// products: it is read where it lies. Where its channels are neighbours (forward), vectors run
// along them, and the lanes of a square of sums are added up by turning it, as in dots.inl; else
// along the rows, neighbours in input gradients, or copied. A task owns some rows for some samples,
// whose channels it takes chunk by chunk. Scratch a task: a chunk of them, sums, a panel.

template <class S>
struct Linear {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes, width = kColumns<T>;
  static constexpr int64_t kLeastDepth = 128;          // of less, a square takes longer to add up
  static constexpr int64_t kSamples = 42;              // of a task: whole tiles of 14 and of 6
  static constexpr int64_t kDotRows = 64, kRow = 256;  // rows of a task, along channels or not
  static constexpr int64_t kDotDepth = 8192 / sizeof(T), kDepth = 64;  // channels of a chunk
  static constexpr int64_t kSide =
      FULLCONV_VECTOR_BYTES == 64 ? 4 : 2;  // filters, by 4 samples, of some squares of sums

  static double cost(const CorrelateJob& job) {
    bool one = job.h.positions == 1 && job.w.positions == 1 && is_plain(job.h) && is_plain(job.w);
    if (!one || job.components != 1 || job.depth < kLeastDepth) return kNever;
    return 1.1 * job.groups * job.depth * quotient_up(job.rows, lanes);
  }

  static int64_t packed_filter_size(const CorrelateJob&) { return 0; }
  static int64_t pack_filter_tasks(const CorrelateJob&) { return 0; }
  static void pack_filter(const CorrelateJob&, const FilterView&, void*, int64_t) {}

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.groups * quotient_up(job.batch, kSamples) *
           quotient_up(job.rows, row_block(job));
  }
  static int64_t scratch(const CorrelateJob&) {
    return (kSamples * (kDotDepth + kRow) + kDepth * width) * sizeof(T);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    int64_t blocks = quotient_up(job.batch, kSamples),
            row_blocks = quotient_up(job.rows, row_block(job));
    int64_t n = task % blocks * kSamples, samples = least(kSamples, job.batch - n);
    int64_t row = task / blocks % row_blocks * row_block(job);
    int64_t rows = least(row_block(job), job.rows - row), unit = task / blocks / row_blocks;
    int64_t segment = unit / job.groups, group = unit % job.groups;
    const FilterView& view = job.unpacked;
    const S* filter = static_cast<const S*>(view.data) + segment * view.segment +
                      group * view.group + row * view.row + job.h.tap[0] * view.r +
                      job.w.tap[0] * view.s;
    const S* source = static_cast<const S*>(job.source.data) +
                      (segment * job.batch + n) * job.source.n + group * job.depth * job.source.c;
    T* copied = static_cast<T*>(scratch);
    T* sums = copied + kSamples * kDotDepth;  // [sample][row]
    clear(sums, 1, kSamples * kRow);
    int64_t chunk = along_channels(job) ? kDotDepth : kDepth;
    for (int64_t c = 0; c < job.depth; c += chunk) {
      int64_t depth = least(chunk, job.depth - c);
      Block<T> from = chunk_of(job, source + c * job.source.c, samples, depth, copied);
      if (along_channels(job))
        add_dots(rows, samples, depth, filter + c, view.row, from, sums);
      else
        add_rows(rows, samples, depth, filter + c * view.depth, view, from, sums,
                 sums + kSamples * kRow);
    }
    store_sums(job, segment * job.batch + n, samples, group * job.rows + row, rows, sums);
  }

 private:
  static bool along_channels(const CorrelateJob& job) { return job.unpacked.depth == 1; }
  static int64_t row_block(const CorrelateJob& job) {
    return along_channels(job) ? kDotRows : kRow;
  }

  // Some channels of the samples, copied where they are not as sums take them.
  static Block<T> chunk_of(const CorrelateJob& job, const S* from, int64_t samples, int64_t depth,
                           T* to) {
    if constexpr (std::is_same_v<S, T>)
      if (job.source.c == 1) return {from, job.source.n};
    for (int64_t n = 0; n < samples; ++n)
      copy(to + n * depth, 1, from + n * job.source.n, job.source.c, depth);
    return {to, depth};
  }

  // sums[n][row] += Σ_c filter[row][c] · source[n][c]. Squares that rows or samples do not fill
  // have the last of them again.
  static void add_dots(int64_t rows, int64_t samples, int64_t depth, const S* filter, int64_t line,
                       const Block<T>& source, T* sums) {
    for (int64_t row = 0; row < rows; row += kSide)
      for (int64_t n = 0; n < samples; n += 4) {
        const S* f[kSide];
        const T* x[4];
        for (int64_t k = 0; k < kSide; ++k) f[k] = filter + least(row + k, rows - 1) * line;
        for (int64_t i = 0; i < 4; ++i)
          x[i] = source.data + least(n + i, samples - 1) * source.stride;
        T dots[4 * kSide];
        multiply_lines(depth, f, x, dots);
        for (int64_t i = 0; i < least<int64_t>(4, samples - n); ++i)
          for (int64_t k = 0; k < least(kSide, rows - row); ++k)
            sums[(n + i) * kRow + row + k] += dots[i * kSide + k];
      }
  }

  static void multiply_lines(int64_t depth, const S* const (&filters)[kSide],
                             const T* const (&sources)[4], T* dots) {
    V sum[4 * kSide] = {};
    auto add = [&](int64_t c, int64_t count) {
      V f[kSide];
      for (int k = 0; k < kSide; ++k) f[k] = load_some<T>(filters[k] + c, count);
      for (int i = 0; i < 4; ++i) {
        V x = load_some<T>(sources[i] + c, count);
        for (int k = 0; k < kSide; ++k) sum[i * kSide + k] += f[k] * x;
      }
    };
    int64_t whole = depth / lanes * lanes;
    for (int64_t c = 0; c < whole; c += lanes) add(c, lanes);
    if (whole < depth) add(whole, depth - whole);
    for (V* square = sum; square < sum + 4 * kSide; square += lanes, dots += lanes) {
      transpose<T>(square);
      for (int64_t half = lanes / 2; half > 0; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) square[lane] += square[lane + half];
      store<T>(square[0], dots);
    }
  }

  // A filter's rows, where they lie; those of the next panel are asked for.
  struct FilterLines {
    static constexpr int64_t step = lanes, sum_step = lanes;
    const S* data;
    int64_t line;
    const S* at(int64_t k) const { return data + k * line; }
    void prefetch(int64_t k) const {
      for (int64_t i = 0; i < width; i += kLine<S>) __builtin_prefetch(at(k) + width + i);
    }
  };

  // The same with vectors along the rows.
  static void add_rows(int64_t rows, int64_t samples, int64_t depth, const S* filter,
                       const FilterView& view, const Block<T>& source, T* sums, T* panel) {
    auto multiply = [&](const auto& b, int64_t some, T* to) {
      for (int64_t n = 0; n < samples; n += kRows) {
        const T* a = source.data + n * source.stride;
        auto tile = some > lanes ? tile_of<T, Rows::strided, 2, kRows, std::decay_t<decltype(b)>>
                                 : tile_of<T, Rows::strided, 1, kRows, std::decay_t<decltype(b)>>;
        tile(samples - n, depth, a, source.stride, b, to + n * kRow, kRow, true);
      }
    };
    for (int64_t row = 0; row < rows; row += width, filter += width * view.row) {
      int64_t some = least(width, rows - row);
      if (view.row == 1 && some == width) {
        multiply(FilterLines{filter, view.depth}, width, sums + row);
        continue;
      }
      for (int64_t c = 0; c < depth; ++c) {
        copy(panel + c * width, 1, filter + c * view.depth, view.row, some);
        clear(panel + c * width + some, 1, width - some);
      }
      multiply(Panel<T>{panel}, some, sums + row);
    }
  }

  static void store_sums(const CorrelateJob& job, int64_t n, int64_t samples, int64_t row,
                         int64_t rows, const T* sums) {
    const S* bias = static_cast<const S*>(job.bias) + row * job.bias_stride;
    for (int64_t i = 0; i < samples; ++i, sums += kRow) {
      S* to = static_cast<S*>(job.result.data) + (n + i) * job.result.n + row * job.result.c;
      for (int64_t k = 0; k < rows; ++k)
        narrow(sums[k] + (job.bias ? widen(bias[k * job.bias_stride]) : T(0)),
               to[k * job.result.c]);
    }
  }
};
