// correlate by the matrix unit: each of its rows is a position, its depth channels and neighbouring
// taps, its columns the result's channels:
//
//     result[position][k] = Σ_tap Σ_c source[position + tap][c] · filter[tap][c][k]
//
// The source's elements lie in a padded block as direct.inl has it, so that every tap is a shift of
// it, or, where channels are neighbours and no tap meets the padding, in the source itself. A row's
// positions fall into pieces of equal length, the last of which begins earlier than where the one
// before it ends if they do not fill it; two pieces, of one row or of two, share the filter. Their
// sums are complete when they leave the unit. Scratch a task: the blocks of some samples, the sums
// of two pieces.

constexpr int64_t kAmxBytes = 3 << 17;     // of a task's blocks: they stay in the L2
constexpr int64_t kAmxRowBytes = 1 << 21;  // of the block of one row, at most
constexpr int64_t kAmxFilter = 1 << 16;    // bytes of a filter's panels that share two pieces

struct AmxBlocks {
  int64_t taps, depth;               // of the job, the depth in pairs
  int64_t together;                  // taps of a row that are one run
  int64_t unit_depth, steps, pitch;  // products of a run; pairs of a position
  int64_t pieces, piece;             // of a row, and its positions
  int64_t panels, panel_block, row_block, sample_block;

  explicit AmxBlocks(const CorrelateJob& job)
      : taps(job.h.taps * job.w.taps), depth(quotient_up(job.depth, 2)) {
    bool neighbours = job.w.offset[job.w.taps - 1] - job.w.offset[0] == job.w.taps - 1;
    together = neighbours && depth <= kUnitDepth ? job.w.taps : 1;
    steps = quotient_up(together * depth, kUnitDepth);
    if (together > 1)
      while (together * depth % steps != 0) ++steps;
    unit_depth = quotient_up(together * depth, steps);
    pitch = together > 1 ? depth : unit_depth * steps;
    pieces = quotient_up(job.w.positions, kUnitRows);
    piece = quotient_up(job.w.positions, pieces);
    panels = panel_block = quotient_up(job.rows, kColumns<float>);

    row_block = job.h.positions;
    while (row_block > 1 && block_bytes(job) > kAmxBytes) --row_block;
    row_block = quotient_up(job.h.positions, row_blocks(job));
    sample_block = 1;
    if (row_block == job.h.positions)
      sample_block = most<int64_t>(1, least(job.batch, kAmxBytes / block_bytes(job)));
    // Few tasks would leave threads idle: cut a small result finer.
    while (tasks(job) < 8)
      if (panel_block > 1 && panel_block * panel_size() > sample_block * block_bytes(job))
        panel_block = quotient_up(panel_block, 2);
      else if (sample_block > 1)
        sample_block = quotient_up(sample_block, 2);
      else if (row_block > 4)
        row_block = quotient_up(row_block, 2);
      else if (panel_block > 1)
        panel_block = quotient_up(panel_block, 2);
      else
        break;
  }
  int64_t block_bytes(const CorrelateJob& job) const {
    return PaddedBlock(job.h, job.w, row_block).positions() * pitch * sizeof(Pair);
  }
  int64_t panel_size() const { return taps * pitch * kColumns<Pair>; }
  int64_t row_blocks(const CorrelateJob& job) const {
    return quotient_up(job.h.positions, row_block);
  }
  int64_t panel_blocks() const { return quotient_up(panels, panel_block); }
  int64_t sample_blocks(const CorrelateJob& job) const {
    return quotient_up(job.batch, sample_block);
  }
  int64_t tasks(const CorrelateJob& job) const {
    return job.segments * job.groups * panel_blocks() * sample_blocks(job) * row_blocks(job);
  }
};

template <class S>
struct Amx {
  using V = Vector<float>::type;
  static constexpr int64_t lanes = Vector<float>::lanes;
  static constexpr int64_t kPacked = 2;  // panels packed at once

  static double cost(const CorrelateJob& job) {
    if (job.components != 1 || job.depth == 0 || job.batch == 0 || job.rows == 0) return kNever;
    if (job.h.taps * job.w.taps == 0 || job.h.positions * job.w.positions == 0) return kNever;
    if (area(PaddedBlock(job.h, job.w, 1).positions(), job.depth) * sizeof(S) > kAmxRowBytes)
      return kNever;
    AmxBlocks blocks(job);
    double vectors = quotient_up(job.rows, lanes), rows = most<int64_t>(8, blocks.piece);
    double pieces = job.h.positions * blocks.pieces;
    double products = 2 * rows * blocks.pieces * terms_of(job.h) * job.w.taps / blocks.together;
    double filling = job.source.c == 1 ? 3.7 * quotient_up(job.depth, lanes) : 1.0 * job.depth;
    filling *= in_source(job, blocks) ? 0 : PaddedBlock(job.h, job.w, job.h.positions).positions();
    double storing = vectors * pieces * blocks.piece * (job.result.c == 1 ? 10 : 25);
    return job.groups * (products * blocks.steps * vectors + filling + storing);
  }

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    return job.segments * job.groups * quotient_up(AmxBlocks(job).panels, kPacked);
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    AmxBlocks blocks(job);
    return job.segments * job.groups * blocks.panels * blocks.panel_size() * sizeof(Pair);
  }
  // Some panels; a panel is [tap][channel][column].
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    AmxBlocks blocks(job);
    int64_t parts = quotient_up(blocks.panels, kPacked), unit = task / parts;
    int64_t panel = task % parts * kPacked, count = least(kPacked, blocks.panels - panel);
    int64_t column = panel * kColumns<Pair>;
    Pair* to = static_cast<Pair*>(packed) + (unit * blocks.panels + panel) * blocks.panel_size();
    if (blocks.pitch > blocks.depth) clear(to, 1, count * blocks.panel_size());
    const S* from = static_cast<const S*>(filter.data) + unit / job.groups * filter.segment +
                    unit % job.groups * filter.group + column * filter.row;
    FilterChunk<S, Pair> chunk{from,
                               filter,
                               job.h,
                               job.w,
                               least(count * kColumns<Pair>, job.rows - column),
                               job.depth,
                               to,
                               blocks.panel_size(),
                               blocks.pitch};
    if (chunk.pack()) __atomic_store_n(job.special, true, __ATOMIC_RELAXED);
  }

  static int64_t tasks(const CorrelateJob& job) { return AmxBlocks(job).tasks(job); }

  static int64_t scratch(const CorrelateJob& job) {
    AmxBlocks blocks(job);
    int64_t block = in_source(job, blocks) ? 0 : round_up(blocks.block_bytes(job), 64);
    return 2 * kSums * sizeof(float) + blocks.sample_block * block + blocks.taps * sizeof(RunPlace);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    AmxBlocks blocks(job);
    Place place(job, blocks, task);
    float* sums = static_cast<float*>(scratch);
    char* padded = reinterpret_cast<char*>(sums + 2 * kSums);
    PaddedBlock block(job.h, job.w, place.rows);
    const View& view = job.source;
    const S* source =
        static_cast<const S*>(view.data) + place.sample * view.n + place.group * job.depth * view.c;
    Shifts a;
    RunPlace* runs = reinterpret_cast<RunPlace*>(padded);
    if (in_source(job, blocks)) {
      a = {reinterpret_cast<const char*>(source + (job.h.base[place.row] + block.low_h) * view.h +
                                         (job.w.base[0] + block.low_w) * view.w),
           view.n * 2, view.h * 2, view.w * 2};
    } else {
      int64_t position = blocks.pitch * sizeof(Pair), line = block.width * position;
      a = {padded, round_up(block.height * line, 64), line, position};
      for (int64_t n = 0; n < place.samples; ++n)
        fill_block(job, blocks, block, place, n, reinterpret_cast<Pair*>(padded + n * a.sample));
      runs = reinterpret_cast<RunPlace*>(padded + place.samples * a.sample);
    }
    const Pair* filter = static_cast<const Pair*>(job.filter) +
                         (place.unit * blocks.panels + place.panel) * blocks.panel_size();
    MatrixUnit unit(blocks.piece, blocks.unit_depth);
    int64_t together = most<int64_t>(1, kAmxFilter / (blocks.panel_size() * sizeof(Pair)));
    for (int64_t p = 0; p < place.panels; p += together)
      multiply_panels(job, blocks, place, block, unit, a, runs, filter + p * blocks.panel_size(),
                      place.panel + p, place.panel + least(p + together, place.panels), sums);
  }

 private:
  static constexpr int64_t kSums = kUnitRows * kColumns<float>;  // of a piece

  struct Place {  // what a task owns
    int64_t unit, group, sample, samples, row, rows, panel, panels;

    Place(const CorrelateJob& job, const AmxBlocks& blocks, int64_t task) {
      row = task % blocks.row_blocks(job) * blocks.row_block;
      rows = least(blocks.row_block, job.h.positions - row);
      task /= blocks.row_blocks(job);
      sample = task % blocks.sample_blocks(job) * blocks.sample_block;
      samples = least(blocks.sample_block, job.batch - sample);
      task /= blocks.sample_blocks(job);
      panel = task % blocks.panel_blocks() * blocks.panel_block;
      panels = least(blocks.panel_block, blocks.panels - panel);
      unit = task / blocks.panel_blocks();
      group = unit % job.groups;
      sample += unit / job.groups * job.batch;
    }
  };

  // Where the elements lie that position 0 of the task's first row and tap (0, 0) meet, counted
  // from the block's corner; strides in bytes.
  struct Shifts {
    const char* data;
    int64_t sample, row, column;
  };

  // Whether the job needs no block.
  static bool in_source(const CorrelateJob& job, const AmxBlocks& blocks) {
    auto inside = [](const AxisMap& axis) {
      for (int64_t tap = 0; tap < axis.taps; ++tap)
        if (axis.inner[tap].first > 0 || axis.inner[tap].second < axis.positions) return false;
      return true;
    };
    return job.source.c == 1 && job.depth == 2 * blocks.pitch && inside(job.h) && inside(job.w) &&
           (blocks.together == 1 || job.source.w == job.depth);
  }

  // One sample's elements, zeros behind the channels; those of a last pair apart that is not full.
  static void fill_block(const CorrelateJob& job, const AmxBlocks& blocks, const PaddedBlock& block,
                         const Place& place, int64_t n, Pair* to) {
    const View& view = job.source;
    const S* end =
        end_of<S>(view, job.segments * job.batch, job.groups * job.depth, job.h.limit, job.w.limit);
    const S* from = static_cast<const S*>(view.data) + (place.sample + n) * view.n +
                    place.group * job.depth * view.c;
    int64_t first_v = job.h.base[place.row] + block.low_h, complete = job.depth / 2;
    auto fill = [&](int64_t index, int64_t count) {
      Source<S, Pair> source = element_of_line<Pair>(from, view.c, index, job.depth);
      auto row_at = [&](int64_t v) {
        if (!block.is_read(job.h, v - job.h.base[place.row], job.h.step))
          return Source<S, Pair>::unread();
        int64_t y = source_or_none(job.h, v);
        return y < 0 ? Source<S, Pair>{from, 0, 0} : source + y * view.h;
      };
      fill_padded(block, first_v, row_at, 2 * view.c, view.w, job.w, count, to + index,
                  blocks.pitch, end);
    };
    if (complete > 0) fill(0, complete);
    if (complete < blocks.depth) fill(complete, 1);
    for (int64_t c = blocks.depth; c < blocks.pitch; ++c)
      for (int64_t i = 0; i < block.positions(); ++i) to[i * blocks.pitch + c] = 0;
  }

  // A piece of a row of a sample, each counted from the task's first.
  struct Piece {
    int64_t n, i, j;
  };
  static Piece piece_at(const CorrelateJob& job, const AmxBlocks& blocks, const Place& place,
                        int64_t index) {
    int64_t j = least(index % blocks.pieces * blocks.piece, job.w.positions - blocks.piece);
    index /= blocks.pieces;
    return {index / place.rows, index % place.rows, j};
  }

  // The runs of the taps that either of two pieces meets.
  static int64_t find_runs(const CorrelateJob& job, const AmxBlocks& blocks, const Place& place,
                           const PaddedBlock& block, const Shifts& a, const Piece* pieces,
                           RunPlace* runs) {
    bool skips = job.h.padding == Padding::zeros && !*job.special;
    auto meets = [&](const Piece& at, int64_t r, int64_t s) {
      auto [top, bottom] = job.h.inner[r];
      auto [left, right] = job.w.inner[s];
      bool outside = blocks.together == 1 && (at.j + blocks.piece <= left || at.j >= right);
      return place.row + at.i >= top && place.row + at.i < bottom && !outside;
    };
    RunPlace* to = runs;
    for (int64_t r = 0; r < job.h.taps; ++r)
      for (int64_t s = 0; s < job.w.taps; s += blocks.together)
        if (!skips || meets(pieces[0], r, s) || meets(pieces[1], r, s))
          *to++ = {
              (job.h.offset[r] - block.low_h) * a.row + (job.w.offset[s] - block.low_w) * a.column,
              (r * job.w.taps + s) * blocks.pitch * kColumns<Pair>};
    return to - runs;
  }

  // All pieces of the task's rows with some panels of the filter, two at a time.
  static void multiply_panels(const CorrelateJob& job, const AmxBlocks& blocks, const Place& place,
                              const PaddedBlock& block, const MatrixUnit& unit, const Shifts& a,
                              RunPlace* runs, const Pair* filter, int64_t panel, int64_t end,
                              float* sums) {
    int64_t all = place.samples * place.rows * blocks.pieces, line = job.w.step * a.column;
    auto start = [&](const Piece& at) {
      return a.data + at.n * a.sample + at.i * job.h.step * a.row + at.j * line;
    };
    for (int64_t index = 0; index < all; index += 2) {
      bool two = index + 1 < all;
      Piece pieces[2] = {piece_at(job, blocks, place, index),
                         piece_at(job, blocks, place, two ? index + 1 : index)};
      int64_t count = find_runs(job, blocks, place, block, a, pieces, runs);
      const char *at = start(pieces[0]), *second = start(pieces[1]);
      for (int64_t p = panel; p < end; ++p) {
        const Pair* with = filter + (p - panel) * blocks.panel_size();
        bool wide = job.rows - p * kColumns<float> > lanes;
        unit.clear_sums();
        if (two && wide)
          unit.add_products<2, 2>(runs, count, blocks.steps, at, second, line, with);
        else if (two)
          unit.add_products<2, 1>(runs, count, blocks.steps, at, second, line, with);
        else if (wide)
          unit.add_products<1, 2>(runs, count, blocks.steps, at, second, line, with);
        else
          unit.add_products<1, 1>(runs, count, blocks.steps, at, second, line, with);
        unit.store_sums(sums, sums + kSums);
        for (int64_t half = 0; half < 1 + two; ++half)
          store_piece(job, blocks, place, pieces[half], p, sums + half * kSums);
      }
    }
  }

  static void store_piece(const CorrelateJob& job, const AmxBlocks& blocks, const Place& place,
                          const Piece& piece, int64_t panel, const float* sums) {
    const View& out = job.result;
    int64_t first = panel * kColumns<float>, columns = least(kColumns<float>, job.rows - first);
    int64_t channel = place.group * job.rows + first, step = job.w.position_step * out.w;
    S* to = static_cast<S*>(out.data) + (place.sample + piece.n) * out.n +
            job.h.position[place.row + piece.i] * out.h + job.w.position[piece.j] * out.w +
            channel * out.c;
    alignas(64) float bias[kColumns<float>] = {};
    if (job.bias)
      copy(bias, 1, static_cast<const S*>(job.bias) + channel * job.bias_stride, job.bias_stride,
           columns);
    if (out.w == 1 && job.w.position_step == 1)
      return store_turned(sums, bias, columns, blocks.piece, to, out.c);
    if (out.c == 1 && columns == kColumns<float> && job.w.position_step != 0) {
      V low = load<float>(bias), high = load<float>(bias + lanes);
      for (int64_t i = 0; i < blocks.piece; ++i, sums += kColumns<float>, to += step)
        MatrixUnit::store_rounded(load<float>(sums) + low, load<float>(sums + lanes) + high, to);
      return;
    }
    const int64_t* position = job.w.position + piece.j;
    for (int64_t i = 0; i < blocks.piece; ++i, sums += kColumns<float>) {
      S* at = to + (position[i] - position[0]) * out.w;
      for (int64_t k = 0; k < columns; k += lanes)
        if (V value = load<float>(sums + k) + load<float>(bias + k); out.c == 1)
          store_some<float>(value, columns - k, at + k);
        else
          for (int64_t x = k; x < least(columns, k + lanes); ++x)
            narrow(value[x - k], at[x * out.c]);
    }
  }

  // to[column][position] = sums[position][column] + bias[column]
  static void store_turned(const float* sums, const float* bias, int64_t columns, int64_t positions,
                           S* to, int64_t stride) {
    for (int64_t k = 0; k < columns; k += lanes) {
      V square[lanes];
      load_turned<float>(sums + k, kColumns<float>, square);
      for (int64_t i = 0; i < least(lanes, columns - k); ++i)
        store_some<float>(square[i] + bias[k + i], positions, to + (k + i) * stride);
    }
  }
};
