// max_gather: each window takes the element whose index it chose, and 0 where the index is of no
// element of the plane. A task: some rows of windows, of one channel or in channels_last of all.

template <class S>
struct PoolGather {
  static constexpr int64_t kTask = 1 << 12;  // elements of a task's result

  static bool fits(const PoolJob&) { return true; }

  static int64_t tasks(const PoolJob& job) {
    Rows rows(job);
    return quotient_up(rows.count, rows.together);
  }
  static int64_t scratch(const PoolJob&) { return 0; }

  static void run(const PoolJob& job, int64_t task, void*) {
    Rows rows(job);
    int64_t row = task * rows.together, end = least(row + rows.together, rows.count);
    for (; row < end; ++row) {
      int64_t y = row % job.h.positions, image = row / job.h.positions;
      run_row(job, image / rows.blocks, image % rows.blocks, rows.channels, y);
    }
  }

 private:
  struct Rows {
    int64_t channels, blocks;  // of them
    int64_t count, together;   // rows of blocks, and those of a task
    explicit Rows(const PoolJob& job)
        : channels(job.result.c == 1 ? job.channels : 1),
          blocks(job.channels / channels),
          count(job.batch * blocks * job.h.positions),
          together(quotient_up(kTask, job.w.positions * channels)) {}
  };

  static void run_row(const PoolJob& job, int64_t n, int64_t c, int64_t channels, int64_t y) {
    const View &from = job.source, &out = job.result, &chosen = job.indices;
    const S* source = static_cast<const S*>(from.data) + n * from.n + c * from.c;
    S* result = static_cast<S*>(out.data) + n * out.n + c * out.c + y * out.h;
    const int64_t* index =
        static_cast<const int64_t*>(chosen.data) + n * chosen.n + c * chosen.c + y * chosen.h;
    int64_t columns = job.w.positions;
    if (channels == 1) return take(job, source, 0, index, chosen.w, columns, result, out.w);
    for (int64_t x = 0; x < columns; ++x)
      take(job, source, from.c, index + x * chosen.w, chosen.c, channels, result + x * out.w, 1);
  }

  // Along a row of one channel's windows, or of one window's channels.
  static void take(const PoolJob& job, const S* source, int64_t source_step, const int64_t* index,
                   int64_t index_step, int64_t length, S* result, int64_t result_step) {
    // Unsigned, so that what a wrong index would lead to may overflow.
    uint64_t width = most<int64_t>(job.width, 1), count = job.source_rows * job.width;
    uint64_t row = job.source.h, column = job.source.w;
    for (int64_t i = 0; i < length; ++i) {
      uint64_t at = index[i * index_step];
      uint64_t place = row == width * column  // then rows behind each other are one
                           ? at * column
                           : at / width * row + at % width * column;
      result[i * result_step] = at < count ? source[place + i * source_step] : S{};
    }
  }
};
