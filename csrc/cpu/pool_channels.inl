// Pooling of channels_last tensors: vectors along the channels, whose windows are the same. Nothing
// is copied; the last vector of a pixel overlaps the one before. max_scatter gathers too: a pixel
// adds the gradients of those windows over it whose indices name it, if these are few.

template <class S, Pooling POOLING>
struct PoolChannels {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Integers = typename Lanes<T>::type;
  using Integer = typename Lanes<T>::Integer;
  static constexpr int64_t lanes = Vector<T>::lanes;
  static constexpr int64_t kTask = 1 << 13;  // elements of a task's result
  // Indices take registers of their own, so that fewer vectors of a pixel are reduced at once. The
  // more there are, the longer the pieces of memory that are read one after another.
  static constexpr bool kIndexed =
      POOLING == Pooling::max_indices || POOLING == Pooling::max_scatter;
  static constexpr int64_t kCovering = 4;  // windows a pixel, up to which max_scatter gains here

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
    for (int64_t end = least(y + rows_of_task(job), job.h.positions); y < end; ++y)
      for (int64_t x = 0; x < job.w.positions; ++x) {
        int64_t c = 0;
        if constexpr (!kIndexed)
          for (; c + 8 * lanes <= job.channels; c += 8 * lanes) reduce<8>(job, n, c, y, x);
        for (; c + 4 * lanes <= job.channels; c += 4 * lanes) reduce<4>(job, n, c, y, x);
        for (; c < job.channels; c += lanes)
          reduce<1>(job, n, least(c, job.channels - lanes), y, x);
      }
  }

 private:
  static int64_t rows_of_task(const PoolJob& job) {
    return most<int64_t>(1, kTask / (job.w.positions * job.channels + 1));
  }

  // Some vectors of one pixel.
  template <int64_t VECTORS>
  static void reduce(const PoolJob& job, int64_t n, int64_t c, int64_t y, int64_t x) {
    const View &from = job.source, &out = job.result, &chosen = job.indices;
    const S* source = static_cast<const S*>(from.data) + n * from.n + c;
    int64_t* own = static_cast<int64_t*>(chosen.data);
    if constexpr (kIndexed) own += n * chosen.n + c;
    if constexpr (POOLING == Pooling::max_indices) own += y * chosen.h + x * chosen.w;
    // The window's first element, from which indices count.
    int64_t origin =
        POOLING == Pooling::max_indices ? job.h.first[y] * job.width + job.w.first[x] : 0;
    Reduction<S, POOLING> sum[VECTORS];
    if constexpr (POOLING == Pooling::max_scatter)
      for (Reduction<S, POOLING>& own : sum) own.index += static_cast<Integer>(y * job.width + x);
    for (int64_t i = job.h.first[y]; i < job.h.end[y]; i += job.h.step)
      for (int64_t j = job.w.first[x]; j < job.w.end[x]; j += job.w.step) {
        const S* at = source + i * from.h + j * from.w;
#pragma GCC unroll 8
        for (int64_t v = 0; v < VECTORS; ++v) {
          V value = load<T>(at + v * lanes);
          if constexpr (POOLING == Pooling::average_adjoint)
            value = divide<T>(value, divisor<T>(job, i, j));
          if constexpr (POOLING == Pooling::max_scatter)
            sum[v].add(value, load_low<T>(own + i * chosen.h + j * chosen.w + v * lanes));
          else
            sum[v].add(value, Integers{} + static_cast<Integer>(i * job.width + j - origin));
        }
      }
    S* to = static_cast<S*>(out.data) + n * out.n + c + y * out.h + x * out.w;
#pragma GCC unroll 8
    for (int64_t v = 0; v < VECTORS; ++v) {
      if constexpr (POOLING == Pooling::average)
        sum[v].value = divide<T>(sum[v].value, divisor<T>(job, y, x));
      store<T>(sum[v].value, to + v * lanes);
      if constexpr (POOLING == Pooling::max_indices) {
        Integer numbers[lanes];
        store_integers<T>(sum[v].index, numbers);
        for (int64_t lane = 0; lane < lanes; ++lane) own[v * lanes + lane] = origin + numbers[lane];
      }
    }
  }
};
