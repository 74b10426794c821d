// correlate_weight by the matrix unit: its rows are channels, its depth positions, its columns
// filters:
//
//     result[(tap, c)][k] = Σ_position input[c][position + tap] · grads[position][k]
//
// A block is some rows of some samples. A pair (elements.inl) is of a row in its first half and the
// one that lies as far in its second half, so that few rows of the input are in two pairs. The
// input lies in lines along a row, one for each channel and pair of rows, those that one tap meets
// behind each other: so a tap is a shift, and its positions are a run from row to row. Between the
// rows the gradients have zeros for what the lines have at their ends. A NaN or Inf there spreads
// to taps that do not meet it: then another way does the segment again.
//
// Two neighbouring (channels, tap) share the gradients. Scratch a task: the block's lines, its
// gradients, the sums.

constexpr int64_t kAmxPositions = 256;    // of a block, pairs, about
constexpr int64_t kAmxWeightRows = 1280;  // (tap, channel) of a task, about
constexpr int64_t kAmxSums = 5 << 17;     // bytes of a task's sums, about
constexpr int64_t kAmxLines = 1 << 20;    // bytes of a block's lines, about
constexpr int64_t kAmxStep = 16;          // at most

// The lines of a channel in a block, by the remainders of row and column by the steps, so that a
// tap's lines follow each other.
struct AmxLines {
  int64_t rows;                                 // pairs of rows of positions
  int64_t low_h, low_w;                         // the smallest offsets
  int64_t classes_h, classes_w, height, width;  // a class has `height` lines of `width` pairs
  int64_t positions;                            // of a run: all rows' but for the last one's end

  AmxLines(const WeightJob& job, int64_t rows) : rows(rows) {
    const AxisMap &h = job.h, &w = job.w;
    low_h = low_offset(h), low_w = low_offset(w);
    classes_h = h.step;
    classes_w = w.step;
    height = rows + (high_offset(h) - low_h) / classes_h;
    width = w.positions + (high_offset(w) - low_w) / classes_w;
    positions = area(rows - 1, width) + w.positions;
  }
  int64_t steps() const { return quotient_up(positions, kUnitDepth); }
  int64_t grads() const { return steps() * kUnitDepth; }  // of a panel, positions
  // Of a channel. A whole number of cache lines, an odd one, so that channels meet all sets.
  int64_t size() const {
    int64_t pairs = area(classes_h * classes_w, area(height, width)) + kUnitDepth;
    return (quotient_up(pairs, kUnitDepth) | 1) * kUnitDepth;
  }
  int64_t line(int64_t v, int64_t class_w) const {
    return ((v % classes_h * classes_w + class_w) * height + v / classes_h) * width;
  }
  int64_t tap(const WeightJob& job, int64_t r, int64_t s) const {
    int64_t u = job.w.offset[s] - low_w;
    return line(job.h.offset[r] - low_h, u % classes_w) + u / classes_w;
  }
};

struct AmxWeightBlocks {
  WeightJob job;  // of joined groups, as in amx.inl: what is of two groups is left out
  int64_t joined;
  int64_t taps, channel_block, unit_rows, units;  // a task's channels in `units` of some rows
  int64_t panels, panel_block;
  int64_t rows, row_block, sample_block;  // rows in pairs

  explicit AmxWeightBlocks(const WeightJob& apart)
      : job(apart),
        joined(joined_groups(job.groups, job.channels, job.filters, kUnitRows, kUnitRows)),
        taps(job.h.taps * job.w.taps),
        rows(quotient_up(job.h.positions, 2)) {
    job.groups /= joined, job.channels *= joined, job.filters *= joined;
    int64_t wanted = least<int64_t>(256, round_up(quotient_up(kAmxWeightRows, taps), kUnitRows));
    channel_block = quotient_up(job.channels, quotient_up(job.channels, wanted));
    if (channel_block < job.channels) channel_block = round_up(channel_block, kUnitRows);
    units = quotient_up(channel_block, kUnitRows);
    unit_rows = quotient_up(channel_block, units);
    panels = quotient_up(job.filters, kColumns<float>);
    panel_block = most<int64_t>(1, least<int64_t>(panels, kAmxSums / (panel_size() * 4)));
    panel_block = quotient_up(panels, quotient_up(panels, panel_block));
    row_block = rows;
    while (row_block > 1 &&
           (AmxLines(job, row_block).positions > kAmxPositions || lines_bytes() > kAmxLines))
      --row_block;
    row_block = quotient_up(rows, quotient_up(rows, row_block));
    sample_block = 1;
    if (row_block == rows)
      sample_block = most<int64_t>(
          1, least(kAmxPositions / AmxLines(job, rows).grads(), kAmxLines / lines_bytes()));
    sample_block = least(job.batch, sample_block);
  }
  int64_t channels() const { return units * unit_rows; }  // with those that fill the last unit
  int64_t panel_size() const { return taps * channels() * kColumns<float>; }
  int64_t lines_bytes() const {  // of a sample
    return area(AmxLines(job, row_block).size(), channels() * sizeof(Pair));
  }
  int64_t row_blocks() const { return quotient_up(rows, row_block); }
  int64_t channel_blocks(const WeightJob& job) const {
    return quotient_up(job.channels, channel_block);
  }
  int64_t panel_blocks() const { return quotient_up(panels, panel_block); }
  int64_t blocks() const { return quotient_up(job.batch, sample_block) * row_blocks(); }
  int64_t owners() const {
    return job.segments * job.groups * channel_blocks(job) * panel_blocks();
  }
  int64_t size() const { return panel_block * panel_size(); }  // of a task's sums
};

template <class S>
struct AmxWeight {
  using V = Vector<float>::type;
  static constexpr int64_t lanes = Vector<float>::lanes;

  static double cost(const WeightJob& job) {
    if (job.exact || job.components != 1) return kNever;
    if (job.filters == 0 || job.channels == 0 || job.batch == 0) return kNever;
    if (job.h.taps * job.w.taps == 0 || job.h.positions * job.w.positions == 0) return kNever;
    if (job.h.step > kAmxStep || job.w.step > kAmxStep) return kNever;
    if (area(AmxLines(job, 1).size(), least<int64_t>(job.channels, 64)) > 1 << 19) return kNever;
    AmxWeightBlocks blocks(job);
    const WeightJob& joined = blocks.job;
    AmxLines lines(joined, blocks.row_block);
    double units = 1.0 * blocks.taps * blocks.units * blocks.channel_blocks(joined);
    double products = 6.0 * most<int64_t>(8, blocks.unit_rows) * units * lines.steps();
    double sums = 110 * units / blocks.sample_block;
    double filling = 1.0 * least(lines.classes_h, job.h.taps) * least(lines.classes_w, job.w.taps) *
                     lines.height * lines.width * joined.channels * (job.input.c == 1 ? 1.8 : 1);
    double grads = lines.positions * (job.grad.c == 1 ? 25 : 60);
    return joined.groups * job.batch * blocks.row_blocks() *
           (blocks.panels * (products + sums + grads) + filling);
  }

  // As many parts as make 8 tasks.
  static int64_t splits(const WeightJob& job) {
    AmxWeightBlocks blocks(job);
    int64_t owners = blocks.owners();
    return owners > 0 ? least(blocks.blocks(), quotient_up(8, owners)) : 1;
  }
  static int64_t partial_size(const WeightJob& job) {
    return job.splits == 1 ? 0 : tasks(job) * AmxWeightBlocks(job).size() * sizeof(float);
  }
  static int64_t tasks(const WeightJob& job) { return job.splits * AmxWeightBlocks(job).owners(); }

  static int64_t scratch(const WeightJob& apart) {
    AmxWeightBlocks blocks(apart);
    const WeightJob& job = blocks.job;
    AmxLines lines(job, blocks.row_block);
    int64_t grads = blocks.sample_block * lines.grads() * kColumns<Pair>;
    return blocks.size() * sizeof(float) +
           (grads + blocks.sample_block * blocks.channels() * lines.size()) * sizeof(Pair) +
           blocks.sample_block * sizeof(RunPlace);
  }

  static void run(const WeightJob& apart, int64_t task, void* scratch) {
    AmxWeightBlocks blocks(apart);
    const WeightJob& job = blocks.job;
    AmxLines lines(job, blocks.row_block);
    WeightPlace place(job, blocks, task / job.splits);
    int64_t split = task % job.splits;
    float* sums = static_cast<float*>(scratch);
    Pair* grads = reinterpret_cast<Pair*>(sums + blocks.size());
    Pair* input = grads + blocks.sample_block * lines.grads() * kColumns<Pair>;
    int64_t sample_size = blocks.channels() * lines.size();
    RunPlace* runs = reinterpret_cast<RunPlace*>(input + blocks.sample_block * sample_size);
    if (job.splits > 1) sums = static_cast<float*>(job.partial) + task * blocks.size();
    MatrixUnit unit(blocks.unit_rows, kUnitDepth);
    int64_t count = blocks.blocks();
    for (int64_t index = count * split / job.splits; index < count * (split + 1) / job.splits;
         ++index) {
      int64_t first = index / blocks.row_blocks() * blocks.sample_block;
      int64_t samples = least(blocks.sample_block, job.batch - first);
      int64_t row = index % blocks.row_blocks() * 2 * blocks.row_block;
      int64_t rows = least(2 * blocks.row_block, job.h.positions - row);
      AmxLines some(job, quotient_up(rows, 2));
      for (int64_t n = 0; n < samples; ++n) {
        fill_lines(job, some, place, place.segment * job.batch + first + n, row, lines.size(),
                   input + n * sample_size);
        runs[n] = {n * sample_size * static_cast<int64_t>(sizeof(Pair)),
                   n * some.grads() * kColumns<Pair>};
      }
      for (int64_t panel = 0; panel < place.panels; ++panel) {
        for (int64_t n = 0; n < samples; ++n)
          fill_grads(job, some, place, place.segment * job.batch + first + n, row, rows,
                     place.panel + panel, grads + runs[n].b);
        bool wide = job.filters - (place.panel + panel) * kColumns<float> > lanes;
        bool add = index > count * split / job.splits;
        multiply(job, blocks, some, unit, runs, samples, input, lines.size(), grads, wide, add,
                 sums + panel * blocks.panel_size());
      }
    }
    if (job.splits == 1) finish(apart, blocks, place, sums);
  }

  static int64_t reduce_tasks(const WeightJob& job) {
    return job.splits == 1 ? 0 : AmxWeightBlocks(job).owners();
  }
  static void reduce(const WeightJob& job, int64_t owner) {
    AmxWeightBlocks blocks(job);
    WeightPlace place(blocks.job, blocks, owner);
    float* sum = static_cast<float*>(job.partial) + owner * job.splits * blocks.size();
    add_parts(sum, job.splits, blocks.size(), place.panels * blocks.panel_size());
    finish(job, blocks, place, sum);
  }

 private:
  static void finish(const WeightJob& job, const AmxWeightBlocks& blocks, const WeightPlace& place,
                     const float* sums) {
    for (int64_t g = 0; g < blocks.joined; ++g) {
      WeightPlace own = place;
      own.group = place.group * blocks.joined + g;
      own.channels = place.channels / blocks.joined;
      store_sums<S>(job, own, blocks.channels(),
                    sums + g * own.channels * kColumns<float> + g * job.filters);
    }
    V special = {};
    for (int64_t panel = 0; panel < place.panels; ++panel)
      for (int64_t tap = 0; tap < blocks.taps; ++tap) {
        const float* from =
            sums + (panel * blocks.taps + tap) * blocks.channels() * kColumns<float>;
        for (int64_t i = 0; i < place.channels * kColumns<float>; i += lanes)
          special += load<float>(from + i) * 0;
      }
    mark(job.spread + place.segment, any_lane(special));
  }

  // The lines that some tap meets, of a sample's rows of positions from `row` on; zeros where a run
  // may read beyond them.
  static void fill_lines(const WeightJob& job, const AmxLines& lines, const WeightPlace& place,
                         int64_t n, int64_t row, int64_t pitch, Pair* to) {
    const View& view = job.input;
    const S* sample = static_cast<const S*>(view.data) + n * view.n +
                      (place.group * job.channels + place.channel) * view.c;
    const S* end = end_of<S>(view, job.segments * job.batch, job.groups * job.channels, job.h.limit,
                             job.w.limit);
    int64_t class_size = lines.height * lines.width;
    auto is_met = [](const AxisMap& axis, int64_t low, int64_t remainder, int64_t classes) {
      for (int64_t tap = 0; tap < axis.taps; ++tap)
        if ((axis.offset[tap] - low) % classes == remainder) return true;
      return false;
    };
    auto clear_channels = [&](int64_t at, int64_t count) {
      for (int64_t c = 0; c < place.channels; ++c) clear(to + c * pitch + at, 1, count);
    };
    for (int64_t a = 0; a < lines.classes_h; ++a)
      for (int64_t b = 0; b < lines.classes_w; ++b) {
        int64_t at = (a * lines.classes_w + b) * class_size;
        if (!is_met(job.h, lines.low_h, a, lines.classes_h) ||
            !is_met(job.w, lines.low_w, b, lines.classes_w)) {
          clear_channels(at, least(kUnitDepth, class_size));
          continue;
        }
        for (int64_t i = 0; i < lines.height; ++i, at += lines.width) {
          int64_t v = job.h.base[row] + lines.low_h + a + i * lines.classes_h;
          Source<S, Pair> source =
              Source<S, Pair>::lines(sample, view.h, source_or_none(job.h, v),
                                     source_or_none(job.h, v + lines.rows * job.h.step));
          if (source.shown == 0)
            clear_channels(at, lines.width);
          else
            fill_line(job, lines, place.channels, source, b, pitch, to + at, end);
        }
      }
    clear_channels(lines.classes_h * lines.classes_w * class_size, kUnitDepth);
  }

  // One line of all channels, its columns those that leave the remainder `b`.
  static void fill_line(const WeightJob& job, const AmxLines& lines, int64_t channels,
                        Source<S, Pair> source, int64_t b, int64_t pitch, Pair* to, const S* end) {
    const View& view = job.input;
    int64_t step = lines.classes_w, first = job.w.base[0] + lines.low_w + b;
    // Columns [low, high) are the input's own, the others are the padding's.
    int64_t low = first < 0 ? least(lines.width, quotient_up(-first, step)) : 0;
    int64_t high = least(lines.width, quotient_up(most<int64_t>(0, job.w.limit - first), step));
    high = most(low, high);
    auto edge = [&](int64_t u, int64_t last) {
      for (; u < last; ++u) {
        int64_t shown = source_or_none(job.w, first + u * step);
        for (int64_t c = 0; c < channels; ++c)
          to[c * pitch + u] = shown < 0 ? 0 : source[shown * view.w + c * view.c];
      }
    };
    edge(0, low);
    Source<S, Pair> inner = source + (first + low * step) * view.w;
    if (view.c == 1)
      copy_turned(inner, step * view.w, view.c, high - low, channels, to + low, pitch, end);
    else
      for (int64_t c = 0; c < channels; ++c)
        copy(to + c * pitch + low, 1, inner + c * view.c, step * view.w, high - low);
    edge(high, lines.width);
  }

  // [position][column] of a panel, with zeros between the rows and behind the last one.
  static void fill_grads(const WeightJob& job, const AmxLines& lines, const WeightPlace& place,
                         int64_t n, int64_t row, int64_t rows, int64_t panel, Pair* to) {
    const View& view = job.grad;
    int64_t first = panel * kColumns<float>, columns = least(kColumns<float>, job.filters - first);
    int64_t width = job.w.positions;
    const S* sample = static_cast<const S*>(view.data) + n * view.n +
                      (place.group * job.filters + first) * view.c;
    const S* end = end_of<S>(view, job.segments * job.batch, job.groups * job.filters,
                             job.h.positions, job.w.positions);
    if (columns < kColumns<float>) clear(to, 1, lines.grads() * kColumns<Pair>);
    int64_t left = lines.grads();
    for (int64_t i = 0; i < lines.rows; ++i) {
      int64_t second = lines.rows + i;
      Source<S, Pair> source =
          Source<S, Pair>::lines(sample, view.h, row + i, second < rows ? row + second : -1);
      if (view.c != 1)
        copy_turned(source, view.c, view.w, columns, width, to, kColumns<Pair>, end);
      else if (columns == kColumns<float>)
        for (int64_t j = 0; j < width; ++j)
          for (int64_t k = 0; k < columns; k += lanes)
            store<Pair>((source + j * view.w + k).vector(), to + j * kColumns<Pair> + k);
      else
        for (int64_t j = 0; j < width; ++j)
          copy(to + j * kColumns<Pair>, 1, source + j * view.w, 1, columns);
      int64_t gap = least(lines.width, left) - width;
      clear(to + width * kColumns<Pair>, 1, gap * kColumns<Pair>);
      to += lines.width * kColumns<Pair>;
      left -= lines.width;
    }
    if (left > 0) clear(to, 1, left * kColumns<Pair>);
  }

  // Adds a block's products with one panel: taps of some channels, then of the next.
  static void multiply(const WeightJob& job, const AmxWeightBlocks& blocks, const AmxLines& lines,
                       const MatrixUnit& unit, const RunPlace* runs, int64_t samples,
                       const Pair* input, int64_t pitch, const Pair* grads, bool wide, bool add,
                       float* sums) {
    int64_t all = blocks.units * blocks.taps, line = pitch * sizeof(Pair);
    auto start = [&](int64_t index) {
      int64_t tap = index % blocks.taps, rows = index / blocks.taps * blocks.unit_rows;
      return reinterpret_cast<const char*>(input + rows * pitch +
                                           lines.tap(job, tap / job.w.taps, tap % job.w.taps));
    };
    auto place = [&](int64_t index) {
      int64_t tap = index % blocks.taps, rows = index / blocks.taps * blocks.unit_rows;
      return sums + (tap * blocks.channels() + rows) * kColumns<float>;
    };
    for (int64_t index = 0; index < all; index += 2) {
      int64_t other = least(index + 1, all - 1), steps = lines.steps();
      const char *a = start(index), *second = start(other);
      if (add)
        unit.load_sums(place(index), place(other));
      else
        unit.clear_sums();
      if (other > index && wide)
        unit.add_products<2, 2>(runs, samples, steps, a, second, line, grads);
      else if (other > index)
        unit.add_products<2, 1>(runs, samples, steps, a, second, line, grads);
      else if (wide)
        unit.add_products<1, 2>(runs, samples, steps, a, second, line, grads);
      else
        unit.add_products<1, 1>(runs, samples, steps, a, second, line, grads);
      unit.store_sums(place(index), place(other));
    }
  }
};
