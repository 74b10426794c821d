// Pooling of small planes whose rows fill no vector: as many planes as a vector has lanes are
// turned in scratch, so that they are the channels of pool_channels.inl. Fits any strides.

template <class S, Pooling POOLING>
struct PoolTurned {
  static constexpr int64_t lanes = Vector<typename Compute<S>::type>::lanes;

  static bool fits(const PoolJob& job) {
    return job.w.positions <= lanes / 2 && (from(job) + to(job)) * lanes <= kLines;
  }
  static int64_t tasks(const PoolJob& job) { return quotient_up(job.batch * job.channels, lanes); }
  static int64_t scratch(const PoolJob& job) {
    return to(job) * lanes * sizeof(int64_t) + (from(job) + to(job)) * lanes * sizeof(S);
  }

  static void run(const PoolJob& job, int64_t task, void* scratch) {
    int64_t first = task * lanes, planes = least(lanes, job.batch * job.channels - first);
    int64_t rows = job.h.positions, columns = job.w.positions;
    int64_t* indices = static_cast<int64_t*>(scratch);
    S* source = reinterpret_cast<S*>(indices + to(job) * lanes);
    S* result = source + from(job) * lanes;
    turn<S, false>(job, job.source, first, planes, job.source_rows, job.source_columns, source);

    PoolJob turned = job;
    turned.batch = 1;
    turned.channels = lanes;
    turned.source = {source, 0, 1, job.source_columns * lanes, lanes};
    turned.result = {result, 0, 1, columns * lanes, lanes};
    if constexpr (POOLING == Pooling::max_indices)
      turned.indices = {indices, 0, 1, columns * lanes, lanes};
    using Way = PoolChannels<S, POOLING>;
    for (int64_t part = 0; part < Way::tasks(turned); ++part) Way::run(turned, part, nullptr);

    turn<S, true>(job, job.result, first, planes, rows, columns, result);
    if constexpr (POOLING == Pooling::max_indices)
      turn<int64_t, true>(job, job.indices, first, planes, rows, columns, indices);
  }

 private:
  static int64_t from(const PoolJob& job) { return job.source_rows * job.source_columns; }
  static int64_t to(const PoolJob& job) { return job.h.positions * job.w.positions; }

  // Copies planes to tile[row][column][lane], or BACK.
  template <class X, bool BACK>
  static void turn(const PoolJob& job, const View& view, int64_t first, int64_t planes,
                   int64_t rows, int64_t columns, X* tile) {
    for (int64_t lane = 0; lane < planes; ++lane) {
      int64_t plane = first + lane;
      X* data = static_cast<X*>(view.data) + plane / job.channels * view.n +
                plane % job.channels * view.c;
      X* at = tile + lane;
      for (int64_t y = 0; y < rows; ++y)
        for (int64_t x = 0; x < columns; ++x, at += lanes)
          if constexpr (BACK)
            data[y * view.h + x * view.w] = *at;
          else
            *at = data[y * view.h + x * view.w];
    }
  }
};
