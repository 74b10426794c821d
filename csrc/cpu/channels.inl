// Depthwise layers with their channels beside each other: vectors run along the channels, and each
// channel keeps its own sum.
//
//     result[position][c] = Σ_tap filter[tap][c] · source[position + tap][c]
//     filter[tap][c]      = Σ_position grad[position][c] · source[position + tap][c]
//
// A pointer for each (tap, position) of a piece of a row leads into the source, or to a line of
// zeros where the padding is; all channels share them. The first sum keeps kPiece positions in
// registers while it walks the taps, the second kPiece taps while it walks the positions of a row.
// Scratch a task: the pointers of a row, the line of zeros.

constexpr int64_t kPiece = 8;

// Pointers to what row `row` of sample n meets, channel 0: [piece of the row][tap][kPiece].
template <class S>
void find_pieces(const Patches<S>& p, int64_t n, int64_t row, const S* zeros, const S** to) {
  for (int64_t first = 0; first < p.w.positions; first += kPiece)
    for (int64_t tap = 0; tap < p.h.taps * p.w.taps; ++tap) {
      int64_t y = source_index(p.h, tap / p.w.taps, row);
      const S* line = p.data + n * p.strides.n + y * p.strides.h;
      for (int64_t i = first; i < first + kPiece; ++i) {
        int64_t x = y < 0 || i >= p.w.positions ? -1 : source_index(p.w, tap % p.w.taps, i);
        *to++ = x < 0 ? zeros : line + x * p.strides.w;
      }
    }
}

inline int64_t pieces_of_row(const AxisMap& w) { return quotient_up(w.positions, kPiece); }

template <class S>
struct Channels {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static bool fits(const CorrelateJob& job) {
    return job.rows_along_vectors && job.source.c == 1 && job.result.c == 1 && job.depth == 1 &&
           job.rows == 1 && job.components == 1;
  }

  // [tap][channel], as one panel.
  static int64_t pack_filter_tasks(const CorrelateJob& job) { return job.segments; }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return job.segments * job.h.taps * job.w.taps * padded(job) * sizeof(T);
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t segment) {
    T* to = static_cast<T*>(packed) + segment * job.h.taps * job.w.taps * padded(job);
    const S* from = static_cast<const S*>(filter.data) + segment * filter.segment;
    T special = 0;
    for (int64_t tap = 0; tap < job.h.taps * job.w.taps; ++tap, to += padded(job)) {
      const S* at =
          from + job.h.tap[tap / job.w.taps] * filter.r + job.w.tap[tap % job.w.taps] * filter.s;
      copy(to, 1, at, filter.group, job.groups);
      for (int64_t c = 0; c < job.groups; ++c) special += to[c] * 0;
      clear(to + job.groups, 1, padded(job) - job.groups);
    }
    if (special != 0) __atomic_store_n(job.special, true, __ATOMIC_RELAXED);
  }

  static int64_t tasks(const CorrelateJob& job) {
    return job.segments * job.batch * job.h.positions;
  }

  static int64_t scratch(const CorrelateJob& job) {
    int64_t pointers = pieces_of_row(job.w) * job.h.taps * job.w.taps * kPiece;
    return pointers * sizeof(void*) + padded(job) * sizeof(S);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    int64_t row = task % job.h.positions, sample = task / job.h.positions;
    int64_t taps = job.h.taps * job.w.taps, width = padded(job);
    const S** pointers = static_cast<const S**>(scratch);
    S* zeros = reinterpret_cast<S*>(pointers + pieces_of_row(job.w) * taps * kPiece);
    __builtin_memset(zeros, 0, width * sizeof(S));
    Patches<S> from{static_cast<const S*>(job.source.data), job.source, job.h, job.w};
    find_pieces(from, sample, row, zeros, pointers);

    const T* filter = static_cast<const T*>(job.filter) + sample / job.batch * taps * width;
    const S* bias = static_cast<const S*>(job.bias);
    S* result = static_cast<S*>(job.result.data) + sample * job.result.n +
                job.h.position[row] * job.result.h;
    for (int64_t first = 0; first < job.w.positions; first += kPiece, pointers += taps * kPiece) {
      int64_t count = least(kPiece, job.w.positions - first);
      for (int64_t c = 0; c < job.groups; c += lanes) {
        int64_t some = least(lanes, job.groups - c);
        V sum[kPiece] = {};
        for (int64_t tap = 0; tap < taps; ++tap) {
          V f = load<T>(filter + tap * width + c);
          const S* const* at = pointers + tap * kPiece;
#pragma GCC unroll 8
          for (int64_t i = 0; i < kPiece; ++i) sum[i] += f * load_some<T>(at[i] + c, some);
        }
        for (int64_t i = 0; i < count; ++i) {
          S* to = result + job.w.position[first + i] * job.result.w + c;
          for (int64_t lane = 0; lane < some; ++lane)
            narrow(bias ? sum[i][lane] + widen(bias[(c + lane) * job.bias_stride]) : sum[i][lane],
                   to[lane]);
        }
      }
    }
  }

 private:
  static int64_t padded(const CorrelateJob& job) { return round_up(job.groups, lanes); }
};

template <class S>
struct ChannelsWeight {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  static constexpr int64_t lanes = Vector<T>::lanes;

  static bool fits(const WeightJob& job) {
    return job.input.c == 1 && job.grad.c == 1 && job.channels == 1 && job.filters == 1 &&
           job.components == 1 && job.groups > 1;
  }

  // Parts of at least 8 rows, and no more than 64 of them.
  static int64_t splits(const WeightJob& job) {
    return least<int64_t>(64, quotient_up(rows(job) + 1, 8));
  }
  static int64_t partial_size(const WeightJob& job) {
    return tasks(job) * taps(job) * padded(job) * sizeof(T);
  }
  static int64_t tasks(const WeightJob& job) { return job.segments * job.splits; }
  static int64_t scratch(const WeightJob& job) {
    return pieces_of_row(job.w) * taps(job) * kPiece * sizeof(void*) + padded(job) * sizeof(S);
  }

  static void run(const WeightJob& job, int64_t task, void* scratch) {
    int64_t segment = task / job.splits, split = task % job.splits, width = padded(job);
    T* sums = partial(job, segment, split);
    clear(sums, 1, taps(job) * width);
    const S** pointers = static_cast<const S**>(scratch);
    S* zeros = reinterpret_cast<S*>(pointers + pieces_of_row(job.w) * taps(job) * kPiece);
    __builtin_memset(zeros, 0, width * sizeof(S));
    Patches<S> from{static_cast<const S*>(job.input.data), job.input, job.h, job.w};
    for (int64_t row = rows(job) * split / job.splits; row < rows(job) * (split + 1) / job.splits;
         ++row) {
      int64_t n = segment * job.batch + row / job.h.positions, i = row % job.h.positions;
      find_pieces(from, n, i, zeros, pointers);
      const S* grad = static_cast<const S*>(job.grad.data) + n * job.grad.n + i * job.grad.h;
      for (int64_t c = 0; c < job.groups; c += lanes)
        for (int64_t tap = 0; tap < taps(job); tap += kPiece)
          add_row(job, pointers, grad + c, tap, c, sums + tap * width + c);
    }
  }

  static int64_t reduce_tasks(const WeightJob& job) { return job.segments * taps(job); }

  static void reduce(const WeightJob& job, int64_t task) {
    int64_t segment = task / taps(job), tap = task % taps(job), width = padded(job);
    T* sum = partial(job, segment, 0) + tap * width;
    for (int64_t split = 1; split < job.splits; ++split) {
      const T* part = partial(job, segment, split) + tap * width;
      for (int64_t c = 0; c < job.groups; ++c) sum[c] += part[c];
    }
    S* to = static_cast<S*>(job.result) + segment * job.segment + tap / job.w.taps * job.r +
            tap % job.w.taps * job.s;
    for (int64_t c = 0; c < job.groups; ++c) narrow(sum[c], to[c * job.k]);
  }

 private:
  static int64_t taps(const WeightJob& job) { return job.h.taps * job.w.taps; }
  static int64_t rows(const WeightJob& job) { return job.batch * job.h.positions; }
  static int64_t padded(const WeightJob& job) { return round_up(job.groups, lanes); }
  static T* partial(const WeightJob& job, int64_t segment, int64_t split) {
    return static_cast<T*>(job.partial) + (segment * job.splits + split) * taps(job) * padded(job);
  }

  // One row's products with up to kPiece taps, for one vector of channels.
  static void add_row(const WeightJob& job, const S* const* pointers, const S* grad, int64_t tap,
                      int64_t c, T* sums) {
    int64_t count = least(kPiece, taps(job) - tap), some = least(lanes, job.groups - c),
            width = padded(job);
    V sum[kPiece] = {};
    for (int64_t i = 0; i < job.w.positions; ++i) {
      V g = load_some<T>(grad + i * job.grad.w, some);
      const S* const* at = pointers + (i / kPiece * taps(job) + tap) * kPiece + i % kPiece;
      if (count == kPiece) {
#pragma GCC unroll 8
        for (int64_t t = 0; t < kPiece; ++t) sum[t] += g * load_some<T>(at[t * kPiece] + c, some);
      } else {
        for (int64_t t = 0; t < count; ++t) sum[t] += g * load_some<T>(at[t * kPiece] + c, some);
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      V* to = reinterpret_cast<V*>(sums + t * width);
      *to += sum[t];
    }
  }
};
