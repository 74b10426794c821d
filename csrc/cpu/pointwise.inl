// correlate with a 1x1 filter where positions are neighbours in source and result: a matrix product
// over one line of positions a channel,
//
//     result[k][position] = Σ_c filter[k][c] · source[c][position]
//
// Vectors run along the positions. A panel of them is copied once a chunk of channels, so that its
// lines stay in the L1 whatever their distance is, and serves all of the result's channels; where
// these are one tile, it reads the source itself. Sums are kept in the result. Scratch a task: one
// panel, one tile for positions left over.

constexpr int64_t kPointwisePanels = 8;  // of a task: they share a chunk of the filter

template <class S>
struct Pointwise {
  using T = typename Compute<S>::type;
  static constexpr int64_t lanes = Vector<T>::lanes, width = kColumns<T>;

  static double cost(const CorrelateJob& job) {
    if (!std::is_same_v<S, T> || job.components != 1 || job.rows_along_vectors) return kNever;
    if (job.depth == 0 || !is_plain(job.h) || !is_plain(job.w)) return kNever;
    if (step_of_positions(job.source, job.h, job.w) != 1) return kNever;
    if (step_of_positions(job.result, job.h, job.w) != 1) return kNever;
    double vectors = quotient_up(positions(job), lanes);
    bool copies = job.rows > kRows || positions(job) % lanes != 0;
    double products = job.depth * (1.1 * job.rows + (copies ? 15 : 3));
    return job.groups * vectors * (products + 10.0 * job.rows);
  }

  static int64_t packed_filter_size(const CorrelateJob& job) {
    return Correlate<S>::packed_filter_size(job);
  }
  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    return Correlate<S>::pack_filter_tasks(job);
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Correlate<S>::pack_filter(job, filter, packed, task);
  }

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.batch * job.groups * quotient_up(positions(job), block(job));
  }
  static int64_t scratch(const CorrelateJob&) { return (kDepthBlock + kRows) * width * sizeof(T); }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    int64_t parts = quotient_up(positions(job), block(job));
    int64_t first = task % parts * block(job), count = least(block(job), positions(job) - first);
    task /= parts;
    int64_t group = task % job.groups, sample = task / job.groups;
    T* panel = static_cast<T*>(scratch);
    T* left_over = panel + kDepthBlock * width;
    CorrelateBlocks<S> blocks(job);
    int64_t unit = sample / job.batch * job.groups + group;
    const T* filter = static_cast<const T*>(job.filter) +
                      unit * round_up(job.rows, kRows) * blocks.chunks.depth();
    const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n +
                      group * job.depth * job.source.c + first;
    S* result = static_cast<S*>(job.result.data) + sample * job.result.n +
                group * job.rows * job.result.c + first;
    for (int64_t index = 0; index < blocks.chunks.count(); ++index) {
      Chunk chunk = blocks.chunks.at(index);
      bool last = index + 1 == blocks.chunks.count();
      for (int64_t j = 0; j < count; j += width) {
        int64_t some = least(width, count - j);
        const S* at = source + chunk.channel * job.source.c + j;
        bool once = job.rows <= kRows && some % lanes == 0;
        if (!once) copy_panel<T>(at, job.source.c, chunk.channels, some, panel);
        for (int64_t m = 0; m < job.rows; m += kRows) {
          int64_t rows = least(kRows, job.rows - m);
          const T* a = filter + m * blocks.chunks.depth() + chunk.first * kRows;
          S* to = result + m * job.result.c + j;
          if constexpr (std::is_same_v<S, T>) {
            if (once)
              multiply_panel(rows, some, chunk.channels, a, LongLines<T>{at, job.source.c}, to,
                             job.result.c, index > 0, left_over);
            else
              multiply_panel(rows, some, chunk.channels, a,
                             m == 0 ? CopiedPanel<T, S>{panel, at + width, job.source.c}
                                    : CopiedPanel<T, S>{panel, panel, 0},
                             to, job.result.c, index > 0, left_over);
          }
          if (last && job.bias) add_bias(job, group * job.rows + m, rows, some, to);
        }
      }
    }
  }

 private:
  static int64_t positions(const CorrelateJob& job) { return job.h.positions * job.w.positions; }
  static int64_t block(const CorrelateJob& job) {
    int64_t whole = kPointwisePanels * width;
    bool few = job.segments * job.batch * job.groups * quotient_up(positions(job), whole) < 8;
    return few ? whole / 4 : whole;
  }
  // A tile of the result; of a panel that is not full by way of `left_over`.
  template <class B>
  static void multiply_panel(int64_t rows, int64_t count, int64_t depth, const T* a, B panel, T* to,
                             int64_t stride, bool add, T* left_over) {
    auto multiply = count > lanes ? tile_of<T, Rows::panels, 2, kRows, B>
                                  : tile_of<T, Rows::panels, 1, kRows, B>;
    if (count % lanes == 0) return multiply(rows, depth, a, 0, panel, to, stride, add);
    multiply(rows, depth, a, 0, panel, left_over, width, false);
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t i = 0; i < count; ++i)
        to[m * stride + i] = left_over[m * width + i] + (add ? to[m * stride + i] : T(0));
  }

  static void add_bias(const CorrelateJob& job, int64_t row, int64_t rows, int64_t count, S* to) {
    for (int64_t m = 0; m < rows; ++m, to += job.result.c) {
      T bias = widen(static_cast<const S*>(job.bias)[(row + m) * job.bias_stride]);
      for (int64_t i = 0; i < count; ++i) narrow(widen(to[i]) + bias, to[i]);
    }
  }
};
