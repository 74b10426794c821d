// Pooling with vectors along a row of the result. Rows of the source are copied once to lines that
// fall apart by the stride, line[u mod step][u / step], with neutral elements around them, so that
// each tap is a shifted load (as in lines.inl). Fits any strides. Scratch a task: the lines of a
// band of rows (kLines elements, or those of one row), and a row of results.

template <class S, Pooling POOLING>
struct PoolLines {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Integers = typename Lanes<T>::type;
  using Integer = typename Lanes<T>::Integer;
  using Reduce = Reduction<S, POOLING>;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static bool fits(const PoolJob&) { return true; }

  static int64_t tasks(const PoolJob& job) {
    Cut cut(job);
    return quotient_up(job.batch * job.channels, cut.planes) * cut.bands;
  }

  static int64_t scratch(const PoolJob& job) {
    Cut cut(job);
    return cut.shape.elements(cut.source_rows) * sizeof(T) +
           width(job) * (2 * sizeof(T) + sizeof(Integer)) + cut.shape.phases * sizeof(Piece) +
           shifts(job) * sizeof(int64_t);
  }

  static void run(const PoolJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    int64_t band = task % cut.bands, plane = task / cut.bands * cut.planes;
    int64_t end = least(plane + cut.planes, job.batch * job.channels);
    int64_t row = band * cut.rows, rows = least(cut.rows, job.h.positions - row);
    Space space(job, cut, scratch);
    space.fill(job, cut.shape);
    for (; plane < end; ++plane) {
      int64_t n = plane / job.channels, c = plane % job.channels;
      run_band(job, cut.shape, space, n, c, row, rows);
    }
  }

 private:
  // How a row of the source lies in a line: source index first + phase + a·step is line[phase][a].
  struct Shape {
    int64_t first, step, phases, phase_length;

    explicit Shape(const PoolJob& job) : first(0), step(1) {
      int64_t last = 0;
      for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w) {
        if (w->taps == 0) continue;
        int64_t a = w->base[0] + w->offset[0], b = w->base[0] + w->offset[w->taps - 1];
        step = w->step;
        first = least(first, least(a, b));
        last = most(last, most(a, b));
      }
      phases = least(step, last - first + 1);
      phase_length = (last - first) / step + width(job);
    }
    int64_t elements(int64_t rows) const { return rows * phases * phase_length; }
    int64_t at(int64_t index) const {
      return (index - first) % step * phase_length + (index - first) / step;
    }
  };

  struct Piece {  // of a phase: elements low ... high - 1 are the source's, from index `from` on
    int64_t low, high, from;
  };

  // A task: a band of a plane, or some small planes.
  struct Cut {
    Shape shape;
    int64_t rows, bands, planes, source_rows;

    explicit Cut(const PoolJob& job) : shape(job) {
      int64_t all = shape.elements(job.source_rows) + 1;
      rows = most<int64_t>(1, least(job.h.positions, job.h.positions * kLines / all));
      bands = quotient_up(job.h.positions, rows);
      planes = most<int64_t>(1, bands > 1 ? 1 : kLines / 4 / (all + job.h.positions * width(job)));
      source_rows = 0;
      for (int64_t row = 0; row < job.h.positions; row += rows) {
        Met band(job.h, row, least(rows, job.h.positions - row));
        source_rows = most(source_rows, band.end - band.begin);
      }
    }
  };

  static int64_t width(const PoolJob& job) {
    int64_t widest = 0;
    for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w)
      widest = most(widest, w->positions);
    return round_up(widest, lanes);
  }
  static int64_t shifts(const PoolJob& job) {
    int64_t count = 0;
    for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w) count += w->taps;
    return count;
  }

  struct Space {
    int64_t* shifts;  // of all maps' taps
    Piece* pieces;
    T* row;             // a row of the result
    T* extents;         // what an average counts in each column
    Integer* integers;  // what max chose in a row
    T* lines;

    Space(const PoolJob& job, const Cut& cut, void* scratch)
        : shifts(static_cast<int64_t*>(scratch)),
          pieces(reinterpret_cast<Piece*>(shifts + PoolLines::shifts(job))),
          row(reinterpret_cast<T*>(pieces + cut.shape.phases)),
          extents(row + width(job)),
          integers(reinterpret_cast<Integer*>(extents + width(job))),
          lines(reinterpret_cast<T*>(integers + width(job))) {}

    void fill(const PoolJob& job, const Shape& shape) const {
      int64_t* to = shifts;
      for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w)
        for (int64_t s = 0; s < w->taps; ++s) *to++ = shape.at(w->base[0] + w->offset[s]);
      for (int64_t phase = 0; phase < shape.phases; ++phase) {
        int64_t u = shape.first + phase, length = shape.phase_length;
        int64_t low = u >= 0 ? 0 : least(length, quotient_up(-u, shape.step));
        int64_t high =
            u >= job.source_columns ? 0 : quotient_up(job.source_columns - u, shape.step);
        pieces[phase] = {low, most(low, least(length, high)), u + low * shape.step};
      }
    }
  };

  static void run_band(const PoolJob& job, const Shape& shape, const Space& space, int64_t n,
                       int64_t c, int64_t row, int64_t rows) {
    Met band(job.h, row, rows);
    const S* source = static_cast<const S*>(job.source.data) + n * job.source.n + c * job.source.c;
    for (int64_t y = band.begin; y < band.end; ++y)
      fill(job, shape, space.pieces, y, source + y * job.source.h,
           space.lines + shape.elements(y - band.begin));
    for (int64_t y = row; y < row + rows; ++y) {
      const int64_t* shifts = space.shifts;
      for (const AxisMap* w = job.columns; w < job.columns + job.column_maps; ++w) {
        run_row(job, shape, space, band.begin, y, *w, shifts);
        shifts += w->taps;
        store_row(job, space, n, c, y, *w);
      }
    }
  }

  // One line: what row y of the source shows, phase by phase.
  static void fill(const PoolJob& job, const Shape& shape, const Piece* pieces, int64_t y,
                   const S* row, T* to) {
    for (int64_t phase = 0; phase < shape.phases; ++phase, to += shape.phase_length) {
      Piece piece = pieces[phase];
      for (int64_t a = 0; a < piece.low; ++a) to[a] = Reduce::neutral();
      copy_as(row + piece.from * job.source.w, shape.step * job.source.w, piece.high - piece.low,
              to + piece.low);
      for (int64_t a = piece.high; a < shape.phase_length; ++a) to[a] = Reduce::neutral();
      if constexpr (POOLING == Pooling::average_adjoint)  // whose sources are a step apart
        for (int64_t a = piece.low; a < piece.high; ++a)
          to[a] /= divisor<T>(job, y, piece.from + a - piece.low);
    }
  }

  // The vectors of one row's positions, all taps of one map.
  static void run_row(const PoolJob& job, const Shape& shape, const Space& space, int64_t first_row,
                      int64_t y, const AxisMap& w, const int64_t* shifts) {
    // Where the row's window starts, as an index in the input's plane; constants of the taps are
    // counted from there, and those of the lanes' columns come on top.
    int64_t origin = POOLING == Pooling::max_indices ? job.h.first[y] * job.width : 0;
    prepare(job, space, y, w);
    for (int64_t j = 0; j < w.positions; j += lanes) {
      Reduce sum;
      if constexpr (POOLING == Pooling::max_indices)
        sum.index = load_integers<T>(space.integers + j);
      for (int64_t i = job.h.first[y]; i < job.h.end[y]; i += job.h.step) {
        const T* line = space.lines + shape.elements(i - first_row) + j;
        int64_t row_index = i * job.width - origin;
        for (int64_t t = 0; t < w.taps; ++t) {
          // The adjoint's taps run against its sources, which are added in ascending order.
          int64_t s = POOLING == Pooling::average_adjoint ? w.taps - 1 - t : t;
          sum.add(load<T>(line + shifts[s]),
                  Integers{} + static_cast<Integer>(row_index + w.offset[s]));
        }
      }
      if constexpr (POOLING == Pooling::average)
        sum.value = job.divisor ? divide(sum.value, static_cast<T>(job.divisor))
                                : sum.value / load<T>(space.extents + j);
      store<T>(sum.value, space.row + j);
      if constexpr (POOLING == Pooling::max_indices)
        store_integers<T>(sum.index, space.integers + j);
    }
  }

  // What the positions of a row start from or end with.
  static void prepare(const PoolJob& job, const Space& space, int64_t y, const AxisMap& w) {
    if constexpr (POOLING == Pooling::max_indices)
      for (int64_t j = 0; j < w.positions; ++j)
        space.integers[j] = static_cast<Integer>(job.w.first[j] - w.base[j]);
    if constexpr (POOLING == Pooling::average)
      for (int64_t j = 0; j < round_up(w.positions, lanes); ++j)
        space.extents[j] = divisor<T>(job, y, least(j, w.positions - 1));
  }

  static void store_row(const PoolJob& job, const Space& space, int64_t n, int64_t c, int64_t y,
                        const AxisMap& w) {
    const View& out = job.result;
    S* to = static_cast<S*>(out.data) + n * out.n + c * out.c + y * out.h;
    if (w.position_step == 1 && out.w == 1)
      for (int64_t j = 0; j < w.positions; ++j) narrow(space.row[j], to[j + w.position[0]]);
    else if (w.position_step == 2 && out.w == 1)
      for (int64_t j = 0; j < w.positions; ++j) narrow(space.row[j], to[2 * j + w.position[0]]);
    else
      for (int64_t j = 0; j < w.positions; ++j) narrow(space.row[j], to[w.position[j] * out.w]);
    if constexpr (POOLING == Pooling::max_indices) {
      int64_t* indices = static_cast<int64_t*>(job.indices.data) + n * job.indices.n +
                         c * job.indices.c + y * job.indices.h;
      int64_t origin = job.h.first[y] * job.width;
      if (job.indices.w == 1)
        for (int64_t j = 0; j < w.positions; ++j)
          indices[j] = origin + j * w.step + space.integers[j];
      else
        for (int64_t j = 0; j < w.positions; ++j)
          indices[j * job.indices.w] = origin + j * w.step + space.integers[j];
    }
  }
};
