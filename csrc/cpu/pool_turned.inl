// Pooling of planes whose rows are lines of memory, or fill no vector: as many planes as a vector
// has lanes are turned in scratch, so that they are the channels of pool_channels.inl. Fits any
// strides. A task: a band of rows of the result. Scratch: what the band meets and its result, some
// kTurned elements of each plane, or those of one row.

template <class S, Pooling POOLING>
struct PoolTurned {
  // What the planes are turned to: 16-bit floats are widened at once.
  using X = std::conditional_t<std::is_integral_v<S>, S, typename Compute<S>::type>;
  static constexpr int64_t lanes = Vector<typename Compute<S>::type>::lanes;
  static constexpr int64_t kTurned = 1 << 10, kMost = 8 * kTurned;
  static constexpr bool kIndexed = POOLING == Pooling::max_indices;

  static bool fits(const PoolJob& job) {
    Cut cut(job);
    bool lines = job.source.w == 1 && job.result.w == 1;
    bool full = 3 * cut.planes >= 2 * cut.blocks * lanes;  // of what vectors hold, most is used
    return cut.elements <= kMost && (job.w.positions <= lanes / 2 || (lines && full));
  }
  static int64_t tasks(const PoolJob& job) {
    Cut cut(job);
    return cut.samples * cut.blocks * cut.bands;
  }
  static int64_t scratch(const PoolJob& job) {
    Cut cut(job);
    return cut.elements * lanes * (sizeof(X) + (kIndexed ? sizeof(int64_t) : 0));
  }

  static void run(const PoolJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    int64_t y = task % cut.bands * cut.rows, rows = least(cut.rows, job.h.positions - y);
    int64_t block = task / cut.bands % cut.blocks * lanes;
    Planes planes{task / cut.bands / cut.blocks, block, least(lanes, cut.planes - block)};
    Met band(job.h, y, rows);
    int64_t columns = job.w.positions, source_columns = job.source_columns;
    int64_t* indices = static_cast<int64_t*>(scratch);
    X* result = reinterpret_cast<X*>(indices + (kIndexed ? rows * columns * lanes : 0));
    X* source = result + rows * columns * lanes;
    turn<S, false>(job.source, planes, {band.begin, band.end - band.begin, source_columns}, source);

    PoolJob turned = job;
    turned.batch = 1;
    turned.channels = lanes;
    turned.h = {rows, job.h.first + y, job.h.end + y, job.h.step};
    if constexpr (POOLING == Pooling::average) turned.extent_h += y;
    int64_t line = source_columns * lanes;  // of row band.begin, from which the others are counted
    turned.source = {source - band.begin * line, 0, 1, line, lanes};
    turned.result = {result, 0, 1, columns * lanes, lanes};
    if constexpr (kIndexed) turned.indices = {indices, 0, 1, columns * lanes, lanes};
    using Way = PoolChannels<X, POOLING>;
    for (int64_t part = 0; part < Way::tasks(turned); ++part) Way::run(turned, part, nullptr);

    turn<S, true>(job.result, planes, {y, rows, columns}, result);
    if constexpr (kIndexed) turn<int64_t, true>(job.indices, planes, {y, rows, columns}, indices);
  }

 private:
  struct Cut {
    int64_t samples, planes, blocks;  // of a sample: planes, and vectors of them
    int64_t rows, bands;
    int64_t elements;  // of a plane, that a band takes

    explicit Cut(const PoolJob& job) {
      // Where the planes of all samples are equally far from each other, they are those of one.
      auto apart = [&](const View& view) { return view.n != job.channels * view.c; };
      bool each = apart(job.source) || apart(job.result) || (kIndexed && apart(job.indices));
      samples = each ? job.batch : 1;
      planes = job.batch / samples * job.channels;
      blocks = quotient_up(planes, lanes);
      int64_t all = job.source_rows * job.source_columns + job.h.positions * job.w.positions;
      rows = most<int64_t>(1, least(job.h.positions, job.h.positions * kTurned / all));
      bands = quotient_up(job.h.positions, rows);
      int64_t met = 0;
      for (int64_t y = 0; y < job.h.positions; y += rows) {
        Met band(job.h, y, least(rows, job.h.positions - y));
        met = most(met, band.end - band.begin);
      }
      elements = met * job.source_columns + rows * job.w.positions;
    }
  };

  struct Planes {  // of a sample
    int64_t sample, first, count;
  };
  struct Rows {
    int64_t first, count, columns;
  };

  // Lines are asked for one after another, as memory is read best, before squares of them are.
  template <class Turned>
  static void load_lines(const S* from, int64_t stride, int64_t lines, int64_t length, Turned* to) {
    for (int64_t line = 0; line < lines; ++line)
      for (int64_t x = 0; x < length; x += kLine<S>) __builtin_prefetch(from + line * stride + x);
    load_transposed(from, stride, lines, length, to, lanes);
  }

  // Copies rows of planes to tile[row][column][lane], or BACK.
  template <class Stored, bool BACK, class Turned>
  static void turn(const View& view, const Planes& planes, Rows rows, Turned* tile) {
    Stored* data = static_cast<Stored*>(view.data) + planes.sample * view.n +
                   planes.first * view.c + rows.first * view.h;
    constexpr bool squares = std::is_floating_point_v<Turned>;
    if (view.h == rows.columns * view.w) rows = {0, 1, rows.count * rows.columns};  // one line
    for (int64_t y = 0; y < rows.count; ++y, data += view.h, tile += rows.columns * lanes) {
      if constexpr (squares)
        if (view.w == 1) {
          if constexpr (BACK)
            store_transposed(tile, lanes, rows.columns, planes.count, data, view.c);
          else
            load_lines(data, view.c, planes.count, rows.columns, tile);
          continue;
        }
      for (int64_t lane = 0; lane < planes.count; ++lane)
        for (int64_t x = 0; x < rows.columns; ++x) {
          Stored& stored = data[lane * view.c + x * view.w];
          Turned& turned = tile[x * lanes + lane];
          if constexpr (BACK)
            narrow(turned, stored);
          else
            turned = widen(stored);
        }
    }
  }
};
