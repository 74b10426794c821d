// Pooling of channels_last tensors: vectors along the channels, whose windows are the same. Nothing
// is copied; the last vector of a pixel overlaps the one before. max_scatter gathers too: a pixel
// adds the gradients of those windows over it whose indices name it, if these are few.
//
// What the next window brings is fetched while one is reduced: a window's rows are too short for
// the processor to foresee where the next ones lie.

template <class S, Pooling POOLING>
struct PoolChannels {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Integers = typename Lanes<T>::type;
  using Integer = typename Lanes<T>::Integer;
  static constexpr int64_t lanes = Vector<T>::lanes;
  static constexpr int64_t kTask = 1 << 13;  // elements of a task's result
  // Indices take registers of their own, so that fewer vectors of a pixel are reduced at once.
  static constexpr bool kIndexed =
      POOLING == Pooling::max_indices || POOLING == Pooling::max_scatter;
  // The averages' adjoint meets a smaller tensor, most of it in the pixel before.
  static constexpr bool kFetches = POOLING != Pooling::average_adjoint;
  // Windows a pixel, up to which max_scatter gains here: pool_scatter.inl meets each element once.
  static constexpr int64_t kCovering = 9;

  static bool fits(const PoolJob& job) {
    if (POOLING == Pooling::max_scatter) {
      int64_t pixels = job.h.positions * job.w.positions;
      if (job.stray || count_of(job.h) * count_of(job.w) > kCovering * pixels) return false;
    }
    return job.source.c == 1 && job.result.c == 1 && (!job.indices.data || job.indices.c == 1) &&
           job.channels >= lanes;
  }

  static int64_t tasks(const PoolJob& job) {
    return job.batch * quotient_up(job.h.positions, rows_of_task(job));
  }
  static int64_t scratch(const PoolJob&) { return 0; }

  static void run(const PoolJob& job, int64_t task, void*) {
    int64_t bands = quotient_up(job.h.positions, rows_of_task(job));
    int64_t n = task / bands, y = task % bands * rows_of_task(job);
    // Where the channels end that are taken by eight vectors, by four and by two.
    int64_t eights = kIndexed ? 0 : job.channels / (8 * lanes) * (8 * lanes);
    int64_t fours = job.channels / (4 * lanes) * (4 * lanes);
    int64_t beyond_one = most<int64_t>(job.channels - fours - lanes, 0);
    int64_t twos = fours + round_up(beyond_one, 2 * lanes);
    for (int64_t end = least(y + rows_of_task(job), job.h.positions); y < end; ++y) {
      if constexpr (!kIndexed)
        if (eights > 0) reduce<8>(job, n, y, 0, eights);
      if (fours > eights) reduce<4>(job, n, y, eights, fours);
      if (twos > fours) reduce<2>(job, n, y, fours, twos);
      if (twos < job.channels) reduce<1>(job, n, y, job.channels - lanes, job.channels);
    }
  }

 private:
  static int64_t rows_of_task(const PoolJob& job) {
    return most<int64_t>(1, kTask / (job.w.positions * job.channels + 1));
  }

  // Some channels of a row's pixels, VECTORS at once. A function of its own, whose loops have the
  // registers.
  template <int64_t VECTORS>
  static __attribute__((noinline)) void reduce(const PoolJob& of_all, int64_t n, int64_t y,
                                               int64_t begin, int64_t end) {
    const PoolJob job = of_all;  // a copy, which no store can change
    const View &from = job.source, &out = job.result, &chosen = job.indices;
    const S* source = static_cast<const S*>(from.data) + n * from.n;
    S* to = static_cast<S*>(out.data) + n * out.n + y * out.h;
    int64_t* own = static_cast<int64_t*>(chosen.data);
    if constexpr (kIndexed) own += n * chosen.n;
    if constexpr (POOLING == Pooling::max_indices) own += y * chosen.h;

    const int64_t row = job.h.first[y], end_row = job.h.end[y];
    for (int64_t x = 0; x < job.w.positions; ++x) {
      const int64_t column = job.w.first[x], end_column = job.w.end[x];
      // The window's first element, from which indices count.
      const int64_t origin = POOLING == Pooling::max_indices ? row * job.width + column : 0;
      for (int64_t c = begin; c < end; c += VECTORS * lanes) {
        // The last vector may overlap the one before.
        const int64_t last = least((VECTORS - 1) * lanes, job.channels - lanes - c);
        auto lane = [&](int64_t v) { return c + (v == VECTORS - 1 ? last : v * lanes); };
        if (kFetches && x + 1 < job.w.positions)
          for (int64_t i = row; i < end_row; i += job.h.step)
            for (int64_t j = most(end_column, job.w.first[x + 1]); j < job.w.end[x + 1];
                 j += job.w.step)
              for (int64_t v = 0; v < VECTORS; ++v)
                __builtin_prefetch(source + i * from.h + j * from.w + lane(v));

        Reduction<S, POOLING> sum[VECTORS];
        if constexpr (POOLING == Pooling::max_scatter)
          for (auto& vector : sum) vector.index += static_cast<Integer>(y * job.width + x);
        for (int64_t i = row; i < end_row; i += job.h.step)
          for (int64_t j = column; j < end_column; j += job.w.step) {
            const S* pixel = source + i * from.h + j * from.w;
#pragma GCC unroll 8
            for (int64_t v = 0; v < VECTORS; ++v) {
              V value = load<T>(pixel + lane(v));
              if constexpr (POOLING == Pooling::average_adjoint)
                value = divide<T>(value, divisor<T>(job, i, j));
              if constexpr (POOLING == Pooling::max_scatter)
                sum[v].add(value, load_low<T>(own + i * chosen.h + j * chosen.w + lane(v)));
              else
                sum[v].add(value, Integers{} + static_cast<Integer>(i * job.width + j - origin));
            }
          }

#pragma GCC unroll 8
        for (int64_t v = 0; v < VECTORS; ++v) {
          if constexpr (POOLING == Pooling::average)
            sum[v].value = divide<T>(sum[v].value, divisor<T>(job, y, x));
          store<T>(sum[v].value, to + lane(v));
          if constexpr (POOLING == Pooling::max_indices) {
            Integer numbers[lanes];
            store_integers<T>(sum[v].index, numbers);
            for (int64_t i = 0; i < lanes; ++i) own[lane(v) + i] = origin + numbers[i];
          }
        }
      }
      to += out.w;
      if constexpr (POOLING == Pooling::max_indices) own += chosen.w;
    }
  }
};
