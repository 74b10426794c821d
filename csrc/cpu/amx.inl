// correlate by the matrix unit: its rows are positions, its depth channels and neighbouring taps,
// its columns the result's channels:
//
//     result[position][k] = Σ_tap Σ_c source[position + tap][c] · filter[tap][c][k]
//
// The source's elements lie in a padded block as direct.inl has it, so that every tap is a shift of
// it, or, where channels are neighbours and no tap meets the padding, in the source itself.
// Positions fall into pieces of equal length, of a row each, or where rows are short of several,
// with what lies between them: that is multiplied too, and left out of the result. A last piece
// begins earlier than where the one before it ends if the positions do not fill it. Two pieces
// share the filter, and their sums are complete when they leave the unit.
//
// Groups of few channels are joined, as many as a product takes, with zeros in the filter where a
// channel is of another group than a column. There a NaN or Inf of the source spreads to other
// groups' results: then another way does the sample again. Scratch a task: the blocks of some
// samples, the sums of two pieces.

constexpr int64_t kAmxBytes = 3 << 18;    // of a task's blocks: they stay in the L2
constexpr size_t kAmxRowBytes = 1 << 21;  // of the block of one row, at most
constexpr int64_t kAmxFilter = 1 << 16;   // bytes of a filter's panels that share two pieces
constexpr int64_t kAmxShort = 12;         // rows of the unit: with fewer, loads take the time

// How many groups are one, so that neither their depth nor their columns exceed a product's.
inline int64_t joined_groups(int64_t groups, int64_t depth, int64_t columns, int64_t most_depth,
                             int64_t most_columns) {
  int64_t joined = 1;
  for (int64_t g = 2; g <= groups && g * depth <= most_depth && g * columns <= most_columns; ++g)
    if (groups % g == 0 && g * depth % 2 == 0) joined = g;
  return joined;
}

struct AmxBlocks {
  CorrelateJob job;  // of joined groups
  int64_t joined;
  int64_t taps, depth;               // of the job, the depth in pairs
  int64_t together;                  // taps of a row that are one run
  int64_t unit_depth, steps, pitch;  // products of a run; pairs of a position
  int64_t groups;                    // of a block: all that there are, or one
  int64_t width;                     // positions from row to row, if a piece may have several, or 0
  int64_t pieces, piece;             // of a row, or of all rows of a sample; positions of one
  int64_t panels, panel_block, row_block, sample_block;

  explicit AmxBlocks(const CorrelateJob& apart)
      : job(apart), joined(1), taps(job.h.taps * job.w.taps) {
    if (!job.exact)
      joined = joined_groups(job.groups, job.depth, job.rows, 2 * kUnitDepth, kColumns<float>);
    job.groups /= joined, job.depth *= joined, job.rows *= joined;
    depth = quotient_up(job.depth, 2);
    bool neighbours = job.w.offset[job.w.taps - 1] - job.w.offset[0] == job.w.taps - 1;
    together = job.groups == 1 && neighbours && depth <= kUnitDepth ? job.w.taps : 1;
    // Zeros behind the channels let a run fill the unit; without them the source may do as it is.
    int64_t run = together * depth;
    steps = quotient_up(run, kUnitDepth);
    int64_t even = steps;
    while (run % even != 0) ++even;
    if (together > 1 || 3 * even <= 4 * steps) steps = even;
    unit_depth = quotient_up(run, steps);
    pitch = together > 1 ? depth : unit_depth * steps;
    int64_t row = PaddedBlock(job.h, job.w, 1).positions();
    bool fit = area(row, job.groups * pitch) * sizeof(Pair) <= kAmxRowBytes;
    groups = fit && job.depth == 2 * pitch ? job.groups : 1;
    panels = panel_block = groups * panels_of_group();

    int64_t row_bytes = PaddedBlock(job.h, job.w, 1).width * groups * pitch * sizeof(Pair);
    row_block = least(job.h.positions, 1 + kAmxBytes / row_bytes);
    while (row_block > 1 && read_bytes() > kAmxBytes) --row_block;
    row_block = quotient_up(job.h.positions, row_blocks());
    sample_block = 1;
    if (row_block == job.h.positions)
      sample_block = most<int64_t>(1, least(job.batch, kAmxBytes / block_bytes()));
    // Few tasks would leave threads idle: cut a small result finer.
    while (tasks() < 8)
      if (panel_block > 1 && panel_block * panel_size() > sample_block * block_bytes())
        panel_block = quotient_up(panel_block, 2);
      else if (sample_block > 1)
        sample_block = quotient_up(sample_block, 2);
      else if (row_block > 4)
        row_block = quotient_up(row_block, 2);
      else if (panel_block > 1)
        panel_block = quotient_up(panel_block, 2);
      else
        break;
    cut_rows();
  }
  int64_t panels_of_group() const { return quotient_up(job.rows, kColumns<float>); }
  int64_t panel_size() const { return taps * pitch * kColumns<Pair>; }
  int64_t block_bytes() const {
    return PaddedBlock(job.h, job.w, row_block).positions() * groups * pitch * sizeof(Pair);
  }
  // Of the block's rows that taps meet: where these are far apart, few.
  int64_t read_bytes() const {
    PaddedBlock block(job.h, job.w, row_block);
    return block_bytes() / block.height * least(block.height, job.h.taps * row_block);
  }
  int64_t row_blocks() const { return quotient_up(job.h.positions, row_block); }
  int64_t panel_blocks() const { return quotient_up(panels, panel_block); }
  int64_t sample_blocks() const { return quotient_up(job.batch, sample_block); }
  int64_t tasks() const {
    return job.segments * job.groups / groups * panel_blocks() * sample_blocks() * row_blocks();
  }
  // Whether the job needs no block.
  bool in_source() const {
    return job.source.c == 1 && job.depth == 2 * pitch && is_inside(job.h) && is_inside(job.w) &&
           (together == 1 || job.source.w == job.depth);
  }

 private:
  void cut_rows() {
    pieces = quotient_up(job.w.positions, kUnitRows);
    piece = quotient_up(job.w.positions, pieces);
    width = 0;
    if (job.h.step != 1 || job.w.step != 1) return;
    int64_t wide = PaddedBlock(job.h, job.w, 1).width;
    if (in_source()) {
      if (job.source.w == 0 || job.source.h % job.source.w != 0) return;
      wide = job.source.h / job.source.w;
    }
    // Rows of a view may overlap.
    if (wide < job.w.positions || wide >= pieces * most(piece, kAmxShort)) return;
    width = wide;
    int64_t last = job.h.positions - (row_blocks() - 1) * row_block;  // rows of the last block
    piece = least(kUnitRows, (last - 1) * width + job.w.positions);
  }
};

// One task of Amx: some rows of some samples, and some panels of the filter.
template <class S>
class AmxTask {
 public:
  static int64_t scratch(const AmxBlocks& blocks) {
    int64_t block = blocks.in_source() ? 0 : round_up(blocks.block_bytes(), 64);
    return 2 * kSums * sizeof(float) + 2 * blocks.taps * sizeof(RunPlace) + 64 +
           blocks.sample_block * block;
  }

  AmxTask(const AmxBlocks& blocks, int64_t task, void* scratch)
      : job_(blocks.job),
        blocks_(blocks),
        block_(job_.h, job_.w, 1),
        sums_(static_cast<float*>(scratch)) {
    row_ = task % blocks.row_blocks() * blocks.row_block;
    rows_ = least(blocks.row_block, job_.h.positions - row_);
    task /= blocks.row_blocks();
    sample_ = task % blocks.sample_blocks() * blocks.sample_block;
    samples_ = least(blocks.sample_block, job_.batch - sample_);
    task /= blocks.sample_blocks();
    panel_ = task % blocks.panel_blocks() * blocks.panel_block;
    panels_ = least(blocks.panel_block, blocks.panels - panel_);
    int64_t index = task / blocks.panel_blocks();
    group_ = index * blocks.groups % job_.groups;
    sample_ += index * blocks.groups / job_.groups * job_.batch;
    filter_ = static_cast<const Pair*>(job_.filter) +
              (index * blocks.panels + panel_) * blocks.panel_size();
    block_ = PaddedBlock(job_.h, job_.w, rows_);
    all_runs_ = reinterpret_cast<RunPlace*>(sums_ + 2 * kSums);
    some_runs_ = all_runs_ + blocks.taps;
    place_source(reinterpret_cast<char*>(some_runs_ + blocks.taps));
    find_all_runs();
  }

  void run() {
    MatrixUnit unit(blocks_.piece, blocks_.unit_depth);
    int64_t bytes = blocks_.panel_size() * static_cast<int64_t>(sizeof(Pair));
    int64_t together = most<int64_t>(1, kAmxFilter / bytes);
    for (int64_t p = 0; p < panels_; p += together)
      multiply_panels(unit, filter_ + p * blocks_.panel_size(), panel_ + p,
                      panel_ + least(p + together, panels_));
  }

 private:
  using V = Vector<float>::type;
  static constexpr int64_t lanes = Vector<float>::lanes;
  static constexpr int64_t kSums = kUnitRows * kColumns<float>;  // of a piece
  static constexpr int64_t kSize = sizeof(S);

  // Where the block's corner lies, or what would be there; strides in bytes.
  struct Shifts {
    const char* data;
    int64_t sample, row, column;
  };
  // Positions from column j of row i of sample n on, and how many rows they reach.
  struct Piece {
    int64_t n, i, j, rows;
  };

  void place_source(char* memory) {
    const View& view = job_.source;
    const S* source =
        static_cast<const S*>(view.data) + sample_ * view.n + group_ * job_.depth * view.c;
    if (blocks_.in_source()) {
      source +=
          (job_.h.base[row_] + block_.low_h) * view.h + (job_.w.base[0] + block_.low_w) * view.w;
      a_ = {reinterpret_cast<const char*>(source), view.n * kSize, view.h * kSize, view.w * kSize};
      return;
    }
    memory = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
    int64_t column = blocks_.groups * blocks_.pitch * sizeof(Pair), line = block_.width * column;
    a_ = {memory, round_up(block_.height * line, 64), line, column};
    for (int64_t n = 0; n < samples_; ++n)
      fill_block(source + n * view.n, reinterpret_cast<Pair*>(memory + n * a_.sample));
  }

  // One sample's elements, zeros behind the channels.
  void fill_block(const S* sample, Pair* to) const {
    int64_t depth = blocks_.groups * job_.depth, pitch = blocks_.groups * blocks_.pitch;
    if (MatrixUnit::spreads(depth, pitch) && job_.source.c == 1 && job_.source.w == depth &&
        job_.w.padding == Padding::zeros)
      return spread_block(sample, depth, to, pitch);
    int64_t count = quotient_up(depth, 2);
    fill_channels(job_, block_, row_, sample, depth, count, to, pitch);
    for (int64_t c = count; c < pitch; ++c)
      for (int64_t i = 0; i < block_.positions(); ++i) to[i * pitch + c] = 0;
  }

  // The same, of few neighbouring channels, some positions at once.
  void spread_block(const S* sample, int64_t depth, Pair* to, int64_t pitch) const {
    int64_t first_u = job_.w.base[0] + block_.low_w, width = block_.width;
    int64_t first_v = job_.h.base[row_] + block_.low_h;
    int64_t low = first_u < 0 ? least(width, -first_u) : 0;
    int64_t high = most(low, least(width, job_.w.limit - first_u));
    for (int64_t i = 0; i < block_.height; ++i, to += width * pitch) {
      if (!block_.is_read(job_.h, first_v + i - job_.h.base[row_], job_.h.step)) continue;
      int64_t y = source_or_none(job_.h, first_v + i);
      int64_t from = y < 0 ? width : low, end = y < 0 ? width : high;
      clear(to, 1, from * pitch);
      if (from < end)
        MatrixUnit::spread(sample + y * job_.source.h + (first_u + from) * depth, depth, end - from,
                           to + from * pitch, pitch);
      clear(to + end * pitch, 1, (width - end) * pitch);
    }
  }

  // A run for each tap, or for each row of taps; and between which positions every tap is met.
  void find_all_runs() {
    const AxisMap &h = job_.h, &w = job_.w;
    skips_ = h.padding == Padding::zeros && !*job_.special;
    bottom_ = h.positions, right_ = w.positions;
    for (int64_t r = 0; r < h.taps; ++r) {
      top_ = most(top_, h.inner[r].first), bottom_ = least(bottom_, h.inner[r].second);
      for (int64_t s = 0; s < w.taps; s += blocks_.together) {
        left_ = most(left_, w.inner[s].first), right_ = least(right_, w.inner[s].second);
        all_runs_[count_++] = {
            (h.offset[r] - block_.low_h) * a_.row + (w.offset[s] - block_.low_w) * a_.column,
            (r * w.taps + s) * blocks_.pitch * kColumns<Pair>};
      }
    }
  }

  bool one_row(const Piece& at) const { return at.rows == 1 && blocks_.together == 1; }
  bool meets_all(const Piece& at) const {
    int64_t row = row_ + at.i;
    bool columns = !one_row(at) || most(at.j, left_) < least(at.j + blocks_.piece, right_);
    return most(row, top_) < least(row + at.rows, bottom_) && columns;
  }
  bool meets(const Piece& at, int64_t run) const {
    int64_t row = row_ + at.i, runs_of_row = job_.w.taps / blocks_.together;
    auto [top, bottom] = job_.h.inner[run / runs_of_row];
    if (most(row, top) >= least(row + at.rows, bottom)) return false;
    if (!one_row(at)) return true;
    auto [left, right] = job_.w.inner[run % runs_of_row];
    return most(at.j, left) < least(at.j + blocks_.piece, right);
  }
  // The runs that either of two pieces meets.
  const RunPlace* find_runs(const Piece (&pieces)[2], int64_t& count) {
    count = count_;
    if (!skips_ || (meets_all(pieces[0]) && meets_all(pieces[1]))) return all_runs_;
    count = 0;
    for (int64_t run = 0; run < count_; ++run)
      if (meets(pieces[0], run) || meets(pieces[1], run)) some_runs_[count++] = all_runs_[run];
    return some_runs_;
  }

  int64_t pieces_of_sample() const {
    if (blocks_.width == 0) return rows_ * blocks_.pieces;
    return quotient_up((rows_ - 1) * blocks_.width + job_.w.positions, blocks_.piece);
  }
  Piece piece_at(int64_t index) const {
    int64_t n = index / pieces_of_sample(), at = index % pieces_of_sample();
    if (blocks_.width == 0) {
      int64_t j = at % blocks_.pieces * blocks_.piece;
      return {n, at / blocks_.pieces, least(j, job_.w.positions - blocks_.piece), 1};
    }
    int64_t last = (rows_ - 1) * blocks_.width + job_.w.positions - blocks_.piece;
    int64_t first = least(at * blocks_.piece, last), i = first / blocks_.width;
    return {n, i, first % blocks_.width, (first + blocks_.piece - 1) / blocks_.width - i + 1};
  }

  // All pieces with some panels of the filter, two at a time.
  void multiply_panels(const MatrixUnit& unit, const Pair* filter, int64_t panel, int64_t end) {
    int64_t all = samples_ * pieces_of_sample(), line = job_.w.step * a_.column;
    auto start = [&](const Piece& at) {
      return a_.data + at.n * a_.sample + at.i * job_.h.step * a_.row + at.j * line;
    };
    for (int64_t index = 0, count; index < all; index += 2) {
      bool two = index + 1 < all;
      Piece pieces[2] = {piece_at(index), piece_at(two ? index + 1 : index)};
      const RunPlace* runs = find_runs(pieces, count);
      const char *first = start(pieces[0]), *second = start(pieces[1]);
      const Pair* with = filter;
      for (int64_t p = panel; p < end; ++p, with += blocks_.panel_size()) {
        int64_t channels = p / blocks_.panels_of_group() * blocks_.pitch * sizeof(Pair);
        unit.clear_sums();
        unit.add_products(1 + two, columns_of(p) > lanes, runs, count, blocks_.steps,
                          first + channels, second + channels, line, with);
        unit.store_sums(sums_, sums_ + kSums);
        for (int half = 0; half < 1 + two; ++half) {
          if (blocks_.joined > 1) find_special(pieces[half], sums_ + half * kSums);
          store_piece(pieces[half], p, sums_ + half * kSums);
        }
      }
    }
  }
  int64_t columns_of(int64_t panel) const {
    return least(kColumns<float>, job_.rows - panel % blocks_.panels_of_group() * kColumns<float>);
  }

  // Whether sums of joined groups have a NaN or Inf.
  void find_special(const Piece& piece, const float* sums) const {
    V special = {};
    for (int64_t i = 0; i < blocks_.piece * kColumns<float>; i += lanes)
      special += load<float>(sums + i) * 0;
    mark(job_.spread + sample_ + piece.n, any_lane(special));
  }

  // Row by row.
  void store_piece(const Piece& piece, int64_t panel, const float* sums) const {
    int64_t of_group = blocks_.panels_of_group(), columns = columns_of(panel);
    int64_t channel = (group_ + panel / of_group) * job_.rows + panel % of_group * kColumns<float>;
    alignas(64) float bias[kColumns<float>] = {};
    if (job_.bias)
      copy(bias, 1, static_cast<const S*>(job_.bias) + channel * job_.bias_stride, job_.bias_stride,
           columns);
    const View& out = job_.result;
    S* to = static_cast<S*>(out.data) + (sample_ + piece.n) * out.n + channel * out.c;
    int64_t done = 0;
    for (int64_t i = piece.i, j = piece.j; i < piece.i + piece.rows; ++i, j = 0) {
      int64_t count = least(job_.w.positions - j, blocks_.piece - done);
      S* row = to + job_.h.position[row_ + i] * out.h;
      if (count > 0 && out.w == 1 && job_.w.position_step == 1)
        store_turned(sums, bias, columns, done, count, row + job_.w.position[j], out.c);
      else
        store_rows(sums + done * kColumns<float>, bias, columns, j, count, row);
      done += blocks_.width == 0 ? count : blocks_.width - j;
    }
  }

  void store_rows(const float* sums, const float* bias, int64_t columns, int64_t j, int64_t count,
                  S* to) const {
    const View& out = job_.result;
    const int64_t* position = job_.w.position + j;
    const float* end = sums + count * kColumns<float>;
    if (out.c != 1) {
      for (; sums < end; sums += kColumns<float>, ++position)
        for (int64_t k = 0; k < columns; ++k)
          narrow(sums[k] + bias[k], to[*position * out.w + k * out.c]);
      return;
    }
    V low = load<float>(bias), high = load<float>(bias + lanes);
    if (columns == kColumns<float>)
      for (; sums < end; sums += kColumns<float>, ++position)
        MatrixUnit::store_rounded(load<float>(sums) + low, load<float>(sums + lanes) + high,
                                  to + *position * out.w);
    else
      for (; sums < end; sums += kColumns<float>, ++position)
        MatrixUnit::store_rounded(load<float>(sums) + low, load<float>(sums + lanes) + high,
                                  columns, to + *position * out.w);
  }

  // to[column·stride + i] = sums[first + i][column] + bias[column]
  static void store_turned(const float* sums, const float* bias, int64_t columns, int64_t first,
                           int64_t count, S* to, int64_t stride) {
    for (int64_t k = 0; k < columns; k += lanes) {
      V square[lanes];
      load_turned<float>(sums + k, kColumns<float>, square);
      for (int64_t i = 0; i < least(lanes, columns - k); ++i)
        MatrixUnit::store_rounded(square[i] + bias[k + i], first, count, to + (k + i) * stride);
    }
  }

  const CorrelateJob& job_;
  const AmxBlocks& blocks_;
  int64_t group_, sample_, samples_, row_, rows_, panel_, panels_;
  const Pair* filter_;
  PaddedBlock block_;
  Shifts a_;
  bool skips_;  // runs that meet the padding alone
  int64_t top_ = 0, bottom_, left_ = 0, right_, count_ = 0;
  RunPlace *all_runs_, *some_runs_;
  float* sums_;
};

template <class S>
struct Amx {
  static constexpr int64_t kPacked = 2;  // panels packed at once

  static double cost(const CorrelateJob& job) {
    if (job.components != 1 || job.depth == 0 || job.batch == 0 || job.rows == 0) return kNever;
    if (job.h.taps * job.w.taps == 0 || job.h.positions * job.w.positions == 0) return kNever;
    int64_t depth = most(job.depth, 2 * kUnitDepth);  // of a group, or of joined ones
    if (area(PaddedBlock(job.h, job.w, 1).positions(), depth) * sizeof(S) > kAmxRowBytes)
      return kNever;
    AmxBlocks blocks(job);
    const CorrelateJob& joined = blocks.job;
    constexpr int64_t lanes = Vector<float>::lanes;
    double vectors = quotient_up(joined.rows, lanes), unit_rows = most(kAmxShort, blocks.piece);
    double pieces = blocks.width == 0 ? job.h.positions * blocks.pieces
                                      : 1.0 * job.h.positions * blocks.width / blocks.piece;
    double runs = terms_of(job.h) / job.h.positions * job.w.taps / blocks.together;
    double filling = job.source.c == 1 ? 12 * quotient_up(joined.depth, lanes) : 1.4 * joined.depth;
    filling *= blocks.in_source() ? 0 : PaddedBlock(job.h, job.w, job.h.positions).positions();
    bool turned = job.result.w == 1 && job.w.position_step == 1;
    double storing = blocks.piece * (job.result.c == 1 ? 8 : turned ? 20 : 100);
    return joined.groups *
           (vectors * pieces * (2.2 * unit_rows * runs * blocks.steps + storing + 70) + filling);
  }

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    AmxBlocks blocks(job);
    int64_t groups = job.segments * blocks.job.groups;
    return blocks.joined > 1 ? groups : groups * quotient_up(blocks.panels_of_group(), kPacked);
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    AmxBlocks blocks(job);
    return job.segments * blocks.job.groups * blocks.panels_of_group() * blocks.panel_size() *
           sizeof(Pair);
  }
  // Some panels of a group; a panel is [tap][channel][column].
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    AmxBlocks blocks(job);
    if (blocks.joined > 1) return pack_joined(job, blocks, filter, packed, task);
    int64_t panels = blocks.panels_of_group(), parts = quotient_up(panels, kPacked);
    int64_t group = task / parts, panel = task % parts * kPacked;
    int64_t count = least(kPacked, panels - panel), column = panel * kColumns<Pair>;
    Pair* to = static_cast<Pair*>(packed) + (group * panels + panel) * blocks.panel_size();
    if (blocks.pitch > blocks.depth) clear(to, 1, count * blocks.panel_size());
    const S* from = static_cast<const S*>(filter.data) + group / job.groups * filter.segment +
                    group % job.groups * filter.group + column * filter.row;
    FilterChunk<S, Pair> chunk{from,
                               filter,
                               job.h,
                               job.w,
                               least(count * kColumns<Pair>, job.rows - column),
                               job.depth,
                               to,
                               blocks.panel_size(),
                               blocks.pitch};
    mark(job.special, chunk.pack());
  }

  static int64_t tasks(const CorrelateJob& job) { return AmxBlocks(job).tasks(); }
  static int64_t scratch(const CorrelateJob& job) { return AmxTask<S>::scratch(AmxBlocks(job)); }
  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    AmxBlocks blocks(job);
    AmxTask<S>(blocks, task, scratch).run();
  }

 private:
  // The one panel of some joined groups: theirs along the diagonal, else zeros.
  static void pack_joined(const CorrelateJob& job, const AmxBlocks& blocks,
                          const FilterView& filter, void* packed, int64_t task) {
    Pair* panel = static_cast<Pair*>(packed) + task * blocks.panel_size();
    clear(panel, 1, blocks.panel_size());
    S* numbers = reinterpret_cast<S*>(panel);
    float special = 0;  // to which a NaN or Inf, times 0, adds a NaN
    int64_t segment = task / blocks.job.groups, first = task % blocks.job.groups * blocks.joined;
    for (int64_t g = 0; g < blocks.joined; ++g)
      for (int64_t tap = 0; tap < blocks.taps; ++tap) {
        const S* from = static_cast<const S*>(filter.data) + segment * filter.segment +
                        (first + g) * filter.group + job.h.tap[tap / job.w.taps] * filter.r +
                        job.w.tap[tap % job.w.taps] * filter.s;
        for (int64_t c = 0; c < job.depth; ++c)
          for (int64_t k = 0; k < job.rows; ++k) {
            int64_t channel = g * job.depth + c, column = g * job.rows + k;
            S number = from[c * filter.depth + k * filter.row];
            special += widen(number) * 0;
            numbers[((tap * blocks.pitch + channel / 2) * kColumns<Pair> + column) * 2 +
                    channel % 2] = number;
          }
      }
    mark(job.special, special != 0);
  }
};
