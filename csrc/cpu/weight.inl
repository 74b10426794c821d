// correlate_weight as implicit GEMM with the positions as depth:
//
//     result[(c, tap)][k] = Σ_position patches[(c, tap)][position] · grad[position][k]
//
// A task owns a block of the result and a part of the sum. The parts and the order in them follow
// from the shape alone; a second pass adds the parts in order and puts complex results together. A
// filter per sample is the same sum, cut at the samples. Scratch a task: the block in compute
// precision, and one chunk of positions of patches and gradients.

constexpr int64_t kRowBlock = 192;       // (c, tap) of a task
constexpr int64_t kColumnBlock = 128;    // k of a task
constexpr int64_t kPositionBlock = 256;  // positions of a chunk
constexpr int64_t kChain = 64;           // positions added one after the other, for the rounding

// Adds to the first of a sum's parts the others in order; they lie `stride` apart.
template <class T>
inline void add_parts(T* sum, int64_t parts, int64_t stride, int64_t count) {
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < count; ++i) sum[i] += sum[part * stride + i];
}

template <class S>
struct WeightBlocks {
  using T = typename Compute<S>::type;

  Chunks rows;
  int64_t columns, positions;

  explicit WeightBlocks(const WeightJob& job)
      : rows(job.components, job.channels, job.h.taps * job.w.taps, kRowBlock),
        columns(job.components * job.filters),
        positions(job.batch * job.h.positions * job.w.positions) {}
  int64_t column_blocks() const { return quotient_up(columns, kColumnBlock); }
  int64_t size() const { return rows.depth() * columns; }
};

template <class S>
struct Weight {
  using T = typename Compute<S>::type;
  using Blocks = WeightBlocks<S>;

  static double cost(const WeightJob& job) {
    constexpr int64_t lanes = Vector<T>::lanes;
    Blocks blocks(job);
    double taps = job.h.taps * job.w.taps, depth = blocks.rows.depth();
    double positions = job.h.positions * job.w.positions;
    double columns = blocks.columns, vectors = quotient_up(blocks.columns, lanes);
    double products =
        vectors * (1.6 * positions * round_up(blocks.rows.depth(), kRows) +
                   6.7 * quotient_up(job.h.positions * job.w.positions, kChain) * depth);
    double packing;
    if (job.input.c == 1) {
      packing = positions * (10 * taps + 3.5 * depth + 15 * vectors);
    } else {
      double row = job.w.step == 1 ? quotient_up(job.w.positions, lanes) : job.w.positions;
      packing = job.h.positions * depth * (31 + 2.3 * row);
      if (is_plain(job.h) && is_plain(job.w))
        packing = 2.3 * depth * quotient_up(job.h.positions * job.w.positions, lanes);
      packing += 1.7 * positions * columns;
    }
    double storing = depth * columns * (job.components == 1 && job.c == 1 ? 0 : 12);
    return job.groups * (job.batch * (products + packing) + storing);
  }

  // As many parts as make 32 tasks, of at least 4 chunks each.
  static int64_t splits(const WeightJob& job) {
    Blocks blocks(job);
    int64_t owners = job.segments * job.groups * blocks.rows.count() * blocks.column_blocks();
    int64_t most = blocks.positions / (4 * kPositionBlock);
    int64_t wanted = owners > 0 ? quotient_up(32, owners) : 1;
    return most < 1 ? 1 : least(wanted, most);
  }

  static bool direct(const WeightJob& job) { return job.splits == 1 && job.components == 1; }

  static int64_t partial_size(const WeightJob& job) {
    return direct(job) ? 0
                       : job.splits * job.segments * job.groups * Blocks(job).size() * sizeof(T);
  }

  static int64_t tasks(const WeightJob& job) {
    Blocks blocks(job);
    return job.splits * job.segments * job.groups * blocks.rows.count() * blocks.column_blocks();
  }

  static int64_t scratch(const WeightJob&) {
    int64_t line = kPositionBlock + kColumns<T>;
    int64_t elements =
        kRowBlock * kColumnBlock + (kRowBlock + kRows) * line + kColumnBlock * kPositionBlock;
    return elements * sizeof(T) + kPositionBlock * sizeof(Run);
  }

  static void run(const WeightJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    int64_t column = task % blocks.column_blocks() * kColumnBlock;
    task /= blocks.column_blocks();
    Chunk chunk = blocks.rows.at(task % blocks.rows.count());
    task /= blocks.rows.count();
    int64_t group = task % job.groups, segment = task / job.groups % job.segments;
    int64_t split = task / job.groups / job.segments;
    int64_t rows = chunk.depth(), columns = least(kColumnBlock, blocks.columns - column);
    int64_t position = blocks.positions * split / job.splits,
            end = blocks.positions * (split + 1) / job.splits;

    T* block = static_cast<T*>(scratch);
    T* patches = block + kRowBlock * kColumnBlock;
    T* grads = patches + (kRowBlock + kRows) * (kPositionBlock + kColumns<T>);
    Run* runs = reinterpret_cast<Run*>(grads + kColumnBlock * kPositionBlock);
    if (position == end) clear(block, 1, kRowBlock * kColumnBlock);

    const S* input = static_cast<const S*>(job.input.data) + chunk.component +
                     segment * job.batch * job.input.n + group * job.channels * job.input.c;
    Patches<S> from{input, job.input, job.h, job.w};
    bool strided = job.input.c != 1;
    for (bool add = false; position < end; position += kPositionBlock, add = true) {
      int64_t count = least(kPositionBlock, end - position);
      pack_grads(job, segment, group, column, columns, position, count, grads, runs);
      int64_t panel = count * kColumns<T>;
      if (strided) {
        int64_t line = count + Vector<T>::lanes;
        pack<Panels::positions>(from, chunk, position, count, Packed<T>{patches, line, 0}, runs);
        for (int64_t i = 0; i < count; i += kChain)
          multiply<T, Rows::strided>(rows, columns, least(kChain, count - i), {patches + i, line},
                                     {grads + i * kColumns<T>, panel}, block, kColumnBlock,
                                     add || i > 0);
      } else {
        pack<Panels::depth>(from, chunk, position, count, Packed<T>{patches, kRows, count * kRows},
                            runs);
        for (int64_t i = 0; i < count; i += kChain)
          multiply<T, Rows::panels>(
              rows, columns, least(kChain, count - i), {patches + i * kRows, count * kRows},
              {grads + i * kColumns<T>, panel}, block, kColumnBlock, add || i > 0);
      }
    }
    if (direct(job)) return store(job, segment, group, chunk, column, columns, block, kColumnBlock);
    T* to = partial(job, split, segment, group) + chunk.first * blocks.columns + column;
    for (int64_t m = 0; m < rows; ++m)
      copy(to + m * blocks.columns, 1, block + m * kColumnBlock, 1, columns);
  }

  static int64_t reduce_tasks(const WeightJob& job) {
    return direct(job) ? 0 : job.segments * job.groups * Blocks(job).rows.count() / job.components;
  }

  // Adds the parts of some rows into the first one, and stores them.
  static void reduce(const WeightJob& job, int64_t task) {
    Blocks blocks(job);
    int64_t chunks = blocks.rows.count() / job.components;
    Chunk chunk = blocks.rows.at(task % chunks);
    int64_t group = task / chunks % job.groups, segment = task / chunks / job.groups;
    int64_t half =
        blocks.rows.channels * blocks.rows.taps;  // rows from the real to the imaginary part
    T* sum = partial(job, 0, segment, group);
    for (int64_t component = 0; component < job.components; ++component)
      add_parts(sum + (chunk.first + component * half) * blocks.columns, job.splits,
                job.segments * job.groups * blocks.size(), chunk.depth() * blocks.columns);
    T* real = sum + chunk.first * blocks.columns;
    if (job.components ==
        2)  // (a + ib)(u + iv) = (au - bv) + i(av + bu), rows a and b, columns u and v
      for (int64_t m = 0; m < chunk.depth(); ++m)
        for (int64_t k = 0; k < job.filters; ++k) {
          T* a = real + m * blocks.columns + k;
          T* b = a + half * blocks.columns;
          T imaginary = a[job.filters] + b[0];
          a[0] -= b[job.filters];
          a[job.filters] = imaginary;
        }
    store(job, segment, group, chunk, 0, blocks.columns, real, blocks.columns);
  }

 private:
  static T* partial(const WeightJob& job, int64_t split, int64_t segment, int64_t group) {
    return static_cast<T*>(job.partial) +
           ((split * job.segments + segment) * job.groups + group) * Blocks(job).size();
  }

  static void pack_grads(const WeightJob& job, int64_t segment, int64_t group, int64_t column,
                         int64_t columns, int64_t position, int64_t count, T* to, Run* runs) {
    OneTap maps(job.h, job.w);
    for (int64_t done = 0, piece; done < columns;
         done += piece) {  // columns of one component at a time
      int64_t component = (column + done) / job.filters, k = (column + done) % job.filters;
      piece = least(columns - done, job.filters - k);
      const S* grad = static_cast<const S*>(job.grad.data) + component +
                      segment * job.batch * job.grad.n + group * job.filters * job.grad.c;
      // Columns start at a panel's lane: piece by piece up to the panels' ends.
      int64_t lane = done % kColumns<T>;
      piece = lane == 0 ? piece : least(piece, kColumns<T> - lane);
      T* start = to + done / kColumns<T> * count * kColumns<T> + lane;
      pack<Panels::depth>(Patches<S>{grad, job.grad, maps.h, maps.w},
                          Chunk{component, k, piece, 0, 1, 0}, position, count,
                          Packed<T>{start, kColumns<T>, count * kColumns<T>}, runs);
    }
  }

  // rows of one chunk; for complex tensors both components of its columns.
  static void store(const WeightJob& job, int64_t segment, int64_t group, const Chunk& chunk,
                    int64_t column, int64_t columns, const T* block, int64_t ld) {
    constexpr int64_t lanes = Vector<T>::lanes;
    bool real = job.components == 1, turned = real && job.c == 1 && ld % lanes == 0;
    S* filter = static_cast<S*>(job.result) + segment * job.segment + group * job.filters * job.k;
    for (int64_t tap = 0; tap < chunk.taps; ++tap, block += chunk.channels * ld) {
      int64_t r = (chunk.tap + tap) / job.w.taps, s = (chunk.tap + tap) % job.w.taps;
      S* at = filter + chunk.channel * job.c + r * job.r + s * job.s;
      if (turned) {  // channels are neighbours
        for (int64_t k = 0; k < columns; k += lanes)
          store_transposed(block + k, ld, chunk.channels, columns - k, at + (column + k) * job.k,
                           job.k);
        continue;
      }
      auto row = [&](int64_t c) { return block + c * ld; };
      if (real) {
        store_lines(columns, chunk.channels, row, at + column * job.k, job.k, job.c);
        continue;
      }
      for (int64_t c = 0; c < chunk.channels; ++c, at += job.c)
        for (int64_t k = 0; k < columns; ++k)
          narrow(row(c)[k], at[(column + k) % job.filters * job.k + (column + k) / job.filters]);
    }
  }
};
