// correlate and full_convolve as implicit GEMM. A task owns a block of the result, some positions
// (across rows and samples) by some of a group's channels; for each chunk of the depth it packs the
// positions' patches and multiplies them with the packed filter:
//
//     result[row][position] = Σ filter[row][depth] · patches[depth][position]
//
// with positions along the vectors for contiguous results, whose positions are neighbours, and
//
//     result[position][row] = Σ patches[position][depth] · filter[depth][row]
//
// with rows along them for channels_last.
// Scratch a task: the block in compute precision and one chunk of patches.

constexpr int64_t kDepthBlock = 256;  // of a chunk: a panel of b, 32 columns of float, is 32 KiB

template <class S>
struct CorrelateBlocks {
  using T = typename Compute<S>::type;

  int64_t rows, positions, row_block, position_block;
  Chunks chunks;

  explicit CorrelateBlocks(const CorrelateJob& job)
      : rows(job.components * job.rows),
        positions(job.batch * job.h.positions * job.w.positions),
        chunks(job.components, job.depth, job.h.taps * job.w.taps, kDepthBlock) {
    int64_t unit = width(job), other = job.rows_along_vectors ? kRows : kColumns<T>;
    position_block = round_up(768 / static_cast<int64_t>(sizeof(T)), other);
    row_block = round_up(256, unit);
    // Few tasks would leave threads idle: cut a small result finer.
    if (job.segments * job.groups * row_blocks() * position_blocks() < 16) {
      row_block = round_up(64, unit);
      position_block = least(position_block, round_up(64, other));
    }
  }
  // A panel of the packed filter: rows of a tile, or columns.
  static int64_t width(const CorrelateJob& job) {
    return job.rows_along_vectors ? kColumns<T> : kRows;
  }
  int64_t row_blocks() const { return quotient_up(rows, row_block); }
  int64_t position_blocks() const { return quotient_up(positions, position_block); }
};

template <class S>
struct Correlate {
  using T = typename Compute<S>::type;
  using Blocks = CorrelateBlocks<S>;

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    return job.segments * job.groups * quotient_up(job.components * job.rows, Blocks::width(job));
  }

  static int64_t packed_filter_size(const CorrelateJob& job) {
    return pack_filter_tasks(job) * Blocks::width(job) * Blocks(job).chunks.depth() * sizeof(T);
  }

  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    pack_panel(job, filter, Blocks(job).chunks, Blocks::width(job), packed, task);
  }

  // One panel: `width` rows of the filter, the taps of this job in the order of the chunks.
  static void pack_panel(const CorrelateJob& job, const FilterView& filter, const Chunks& chunks,
                         int64_t width, void* packed, int64_t task) {
    int64_t rows = job.components * job.rows, panels = quotient_up(rows, width);
    int64_t first = task % panels * width, lanes = least(width, rows - first);
    int64_t group = task / panels % job.groups, segment = task / panels / job.groups;
    T* to = static_cast<T*>(packed) + task * width * chunks.depth();
    const S* from =
        static_cast<const S*>(filter.data) + segment * filter.segment + group * filter.group;
    if (job.rows_along_vectors && job.components == 1 && chunks.tap_blocks() == 1) {
      bool special = false;
      for (int64_t index = 0; index < chunks.count(); ++index) {
        Chunk chunk = chunks.at(index);
        const S* at = from + first * filter.row + chunk.channel * filter.depth;
        special |=
            FilterChunk<S, T>{
                at, filter,        job.h, job.w, lanes, chunk.channels, to + chunk.first * width,
                0,  chunk.channels}
                .pack();
      }
      mark(job.special, special);
      return;
    }
    constexpr int64_t widest = kRows < kColumns<T> ? kColumns<T> : kRows;
    int64_t place[widest];
    T sign[widest], special[widest] = {};  // to which a NaN or Inf, times 0, adds a NaN
    for (int64_t index = 0; index < chunks.count(); ++index) {
      Chunk chunk = chunks.at(index);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        int64_t component = (first + lane) / job.rows;
        bool imaginary = component != chunk.component;
        place[lane] = (first + lane) % job.rows * filter.row + imaginary;
        sign[lane] = imaginary && component == 0 ? -1 : 1;
      }
      for (int64_t tap = 0; tap < chunk.taps; ++tap) {
        int64_t r = job.h.tap[(chunk.tap + tap) / job.w.taps];
        int64_t s = job.w.tap[(chunk.tap + tap) % job.w.taps];
        const S* at = from + r * filter.r + s * filter.s + chunk.channel * filter.depth;
        for (int64_t c = 0; c < chunk.channels; ++c, at += filter.depth, to += width) {
          for (int64_t lane = 0; lane < lanes; ++lane) {
            to[lane] = sign[lane] * widen(at[place[lane]]);
            special[lane] += to[lane] * 0;
          }
          clear(to + lanes, 1, width - lanes);
        }
      }
    }
    mark(job.special, any_lane(special));
  }

  static double cost(const CorrelateJob& job) {
    constexpr int64_t lanes = Vector<T>::lanes;
    double rows = job.components * job.rows, taps = job.h.taps * job.w.taps;
    double depth = job.components * job.depth * taps;
    if (job.rows_along_vectors) {
      double vectors = quotient_up(job.components * job.rows, lanes);
      double positions = job.h.positions * job.w.positions;
      return job.groups * positions * (depth * (1.9 * vectors + 0.7) + 30 * taps + 60 * vectors);
    }
    double vectors = job.h.positions * quotient_up(job.w.positions, lanes);
    double packing = job.w.step == 1 ? 33 * depth : 60 * depth + 25 * job.components * job.depth;
    if (job.source.w != 1) packing = 200 * depth;  // element by element
    return job.groups * vectors * (depth * 1.6 * rows + packing + 46 * rows);
  }

  static int64_t tasks(const CorrelateJob& job) {
    Blocks blocks(job);
    return job.segments * job.groups * blocks.row_blocks() * blocks.position_blocks();
  }

  // The result block; the patches, one line longer than deep where lines are strided, so that
  // lines do not fall into the same cache set; the runs.
  static int64_t scratch(const CorrelateJob& job) {
    Blocks blocks(job);
    int64_t block = blocks.row_block * blocks.position_block;
    int64_t patches = blocks.position_block * (kDepthBlock + kColumns<T>);
    return (block + patches) * sizeof(T) + blocks.position_block * sizeof(Run);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    if (job.rows_along_vectors)
      run_along<true>(job, task, scratch);
    else
      run_along<false>(job, task, scratch);
  }

  template <bool ROWS_ALONG_VECTORS>
  static void run_along(const CorrelateJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    int64_t position = task % blocks.position_blocks() * blocks.position_block;
    task /= blocks.position_blocks();
    int64_t row = task % blocks.row_blocks() * blocks.row_block;
    int64_t unit = task / blocks.row_blocks(), group = unit % job.groups,
            segment = unit / job.groups;
    int64_t positions = least(blocks.position_block, blocks.positions - position);
    int64_t rows = least(blocks.row_block, blocks.rows - row);

    T* block = static_cast<T*>(scratch);
    T* patches = block + blocks.row_block * blocks.position_block;
    Run* runs =
        reinterpret_cast<Run*>(patches + blocks.position_block * (kDepthBlock + kColumns<T>));
    int64_t ldc = ROWS_ALONG_VECTORS ? blocks.row_block : blocks.position_block;
    if (blocks.chunks.count() == 0) clear(block, 1, blocks.row_block * blocks.position_block);

    const S* source = static_cast<const S*>(job.source.data) + segment * job.batch * job.source.n +
                      group * job.depth * job.source.c;
    int64_t width = Blocks::width(job), panel = blocks.chunks.depth() * width;
    const T* filter = static_cast<const T*>(job.filter) +
                      (unit * quotient_up(blocks.rows, width) + row / width) * panel;
    for (int64_t index = 0; index < blocks.chunks.count(); ++index) {
      Chunk chunk = blocks.chunks.at(index);
      int64_t depth = chunk.depth();
      Patches<S> from{source + chunk.component, job.source, job.h, job.w};
      Block<T> filters{filter + chunk.first * width, panel};
      if constexpr (ROWS_ALONG_VECTORS) {
        int64_t line = depth + Vector<T>::lanes;
        pack<Panels::depth>(from, chunk, position, positions, Packed<T>{patches, line, 0}, runs);
        multiply<T, Rows::strided>(positions, rows, depth, {patches, line}, filters, block, ldc,
                                   index > 0);
      } else {
        pack<Panels::positions>(from, chunk, position, positions,
                                Packed<T>{patches, kColumns<T>, depth * kColumns<T>}, runs);
        multiply<T, Rows::panels>(rows, positions, depth, filters, {patches, depth * kColumns<T>},
                                  block, ldc, index > 0);
      }
    }
    store<ROWS_ALONG_VECTORS>(job, segment, group, row, rows, position, positions, block, ldc);
  }

  // Adds the bias, rounds to the storage type and scatters the block to the result's strides.
  template <bool ROWS_ALONG_VECTORS>
  static void store(const CorrelateJob& job, int64_t segment, int64_t group, int64_t row,
                    int64_t rows, int64_t position, int64_t positions, const T* block,
                    int64_t ldc) {
    constexpr int64_t lanes = Vector<T>::lanes;
    const View& out = job.result;
    auto channel = [&](int64_t m) { return group * job.rows + (row + m) % job.rows; };
    auto component = [&](int64_t m) { return (row + m) / job.rows; };
    auto bias = [&](int64_t m) {
      return job.bias ? widen(static_cast<const S*>(
                            job.bias)[channel(m) * job.bias_stride + component(m)])
                      : T(0);
    };
    auto place = [&](int64_t m) {
      return static_cast<S*>(out.data) + channel(m) * out.c + component(m);
    };
    for_rows(
        job.h, job.w, position, positions,
        [&](int64_t n, int64_t h, int64_t w, int64_t count, int64_t at) {
          int64_t line = (segment * job.batch + n) * out.n + job.h.position[h] * out.h;
          if constexpr (ROWS_ALONG_VECTORS) {
            // Rows of one component lie side by side.
            for (int64_t i = 0; i < count; ++i)
              for (int64_t m = 0, piece; m < rows; m += piece) {
                piece = least(rows - m, job.rows - (row + m) % job.rows);
                S* to = place(m) + line + job.w.position[w + i] * out.w;
                const T* from = block + (at + i) * ldc + m;
                const S* add =
                    static_cast<const S*>(job.bias) + channel(m) * job.bias_stride + component(m);
                if (!job.bias)
                  for (int64_t k = 0; k < piece; ++k) narrow(from[k], to[k * out.c]);
                else
                  for (int64_t k = 0; k < piece; ++k)
                    narrow(from[k] + widen(add[k * job.bias_stride]), to[k * out.c]);
              }
          } else {
            int64_t step = job.w.position_step * out.w;
            for (int64_t m = 0; m < rows; ++m) {
              const T* from = block + m * ldc + at;
              S* to = place(m) + line;
              T add = bias(m);
              if (step == 1)
                for (int64_t i = 0; i < count; i += lanes)
                  store_some<T>(load<T>(from + i) + add, count - i, to + job.w.position[w] + i);
              else
                for (int64_t i = 0; i < count; ++i)
                  narrow(from[i] + add, to[job.w.position[w + i] * out.w]);
            }
          }
        });
  }
};
