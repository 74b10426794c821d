// max_scatter: each gradient is added to the element of the input that its window chose. A task
// owns a band of input rows of some channels, clears it, and goes through the windows that reach
// into it in their order; an index outside the band is another task's or, outside the plane,
// nobody's. 16-bit sums are kept in float, in scratch: a band of kLines elements, or one row's.

template <class S>
struct PoolScatter {
  using T = typename Compute<S>::type;

  static bool fits(const PoolJob&) { return true; }

  static int64_t tasks(const PoolJob& job) {
    Cut cut(job);
    return job.batch * quotient_up(job.channels, cut.channels) * cut.bands;
  }
  static int64_t scratch(const PoolJob& job) {
    Cut cut(job);
    return kDirect ? 0 : cut.rows * job.w.positions * cut.channels * sizeof(T);
  }

  static void run(const PoolJob& job, int64_t task, void* scratch) {
    Cut cut(job);
    int64_t row = task % cut.bands * cut.rows, rows = least(cut.rows, job.h.positions - row);
    int64_t blocks = quotient_up(job.channels, cut.channels);
    int64_t channel = task / cut.bands % blocks * cut.channels, n = task / cut.bands / blocks;
    int64_t channels = least(cut.channels, job.channels - channel);
    const View& out = job.result;  // fresh, so rows lie behind each other: h = width · w
    S* result = static_cast<S*>(out.data) + n * out.n + channel * out.c + row * out.h;
    Sums sums{static_cast<T*>(scratch), cut.channels, 1, row * job.width, rows * job.width};
    if constexpr (kDirect) sums.data = result, sums.step = out.w, sums.channel_step = out.c;

    sums.clear(channels);
    add(job, n, channel, channels, row, rows, sums);
    if constexpr (!kDirect) {
      if (channels == 1 && out.w == 1)
        for (int64_t p = 0; p < sums.count; ++p) narrow(sums.data[p * sums.step], result[p]);
      else
        for (int64_t p = 0; p < sums.count; ++p)
          for (int64_t c = 0; c < channels; ++c)
            narrow(sums.data[p * sums.step + c], result[p * out.w + c * out.c]);
    }
  }

 private:
  static constexpr bool kDirect = std::is_same_v<S, T>;

  struct Cut {
    int64_t channels, rows, bands;
    explicit Cut(const PoolJob& job)
        // A cache line of channels that lie beside each other, else one.
        : channels(job.result.c == 1 ? least<int64_t>(job.channels, 64 / sizeof(S)) : 1),
          rows(most<int64_t>(1, least(job.h.positions, kLines / (job.w.positions * channels + 1)))),
          bands(quotient_up(job.h.positions, rows)) {}
  };

  struct Sums {  // of `count` elements from index `first` of a plane on, some channels
    T* data;
    int64_t step, channel_step;
    int64_t first, count;

    void clear(int64_t channels) const {
      if (channels == 1 && step == 1)
        for (int64_t p = 0; p < count; ++p) data[p] = 0;
      else if (channel_step == 1)
        for (int64_t p = 0; p < count; ++p)
          for (int64_t c = 0; c < channels; ++c) data[p * step + c] = 0;
      else
        for (int64_t p = 0; p < count; ++p) data[p * step] = 0;  // of the one channel
    }
  };

  // Along a row of one pixel's channels (STEP 1), or of one channel's pixels (STEP 0).
  template <int64_t STEP>
  static void add_line(const Sums& sums, const S* grad, int64_t grad_step, const int64_t* index,
                       int64_t index_step, int64_t length) {
    T* data = sums.data;
    int64_t step = sums.step, first = sums.first;
    uint64_t count = static_cast<uint64_t>(sums.count);
    for (int64_t i = 0; i < length; ++i) {
      uint64_t at = static_cast<uint64_t>(index[i * index_step] - first);
      if (at < count)
        data[static_cast<int64_t>(at) * step + i * STEP] += widen(grad[i * grad_step]);
    }
  }

  static void add(const PoolJob& job, int64_t n, int64_t channel, int64_t channels, int64_t row,
                  int64_t rows, const Sums& sums) {
    int64_t begin = job.h.begin[row], end = job.h.begin[row + rows];
    if (begin == end) return;
    int64_t first = job.source_rows, last = -1;
    for (int64_t k = begin; k < end; ++k) {
      first = least(first, job.h.index[k]);
      last = most(last, job.h.index[k]);
    }
    const View &from = job.source, &chosen = job.indices;
    const S* grads = static_cast<const S*>(from.data) + n * from.n + channel * from.c;
    const int64_t* indices =
        static_cast<const int64_t*>(chosen.data) + n * chosen.n + channel * chosen.c;
    for (int64_t i = first; i <= last; ++i) {
      const S* grad = grads + i * from.h;
      const int64_t* index = indices + i * chosen.h;
      if (channels == 1)
        add_line<0>(sums, grad, from.w, index, chosen.w, job.source_columns);
      else
        for (int64_t j = 0; j < job.source_columns; ++j)
          add_line<1>(sums, grad + j * from.w, from.c, index + j * chosen.w, chosen.c, channels);
    }
  }
};
