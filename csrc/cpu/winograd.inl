// correlate by Winograd's minimal filtering (transforms.inl), for filters of R x R taps a phase
// (winograd_tiles.inl): tiles of N x N inputs give m x m outputs, m = N + 1 - R, and the sum over
// channels and phases is taken between the transforms, as one matrix product for each of the N²
// points:
//
//     product[point][tile][row] = Σ_depth inputs[point][tile][depth] · filters[point][depth][row]
//
// A 3 x 3 filter takes 36 products for 16 outputs where the sum itself takes 144, a 5 x 5 filter 36
// for 100, a 4 x 4 filter of stride 2, which is 2 x 2 in each of four phases, 64 for 144.
// full_convolve is the same: its taps run backwards.
//
// A task owns some tiles, across the batch, by some of a group's rows. It transforms the tiles of a
// chunk of channels, multiplies, and transforms back, all in scratch that stays in the cache. The
// filter is transformed once and kept where it serves many tasks, else by the task that needs it.
// A tile's sums depend on no other tile.
//
// The transforms spread a NaN, an Inf or an overflow over the whole tile. Whoever sees one in a
// result says so in `spread`, and the sample is done again by a way that does not.

template <class S, int R>
struct WinogradBlocks {
  using T = typename Compute<S>::type;
  static constexpr int64_t m = kOutputs<R>, lanes = Vector<T>::lanes;
  // Of a task, whose operands and products stay in the second-level cache while the filter streams
  // from the third; a sum over more than kChain channels is cut, for the rounding.
  static constexpr int64_t kTiles = 28 / kRows * kRows, kFilterRows = 128, kFewChannels = 64;

  Tiles image;
  int64_t tiles;  // of a segment
  int64_t row_block, row_blocks, depth_block, depth_blocks, parts, tile_block;

  explicit WinogradBlocks(const CorrelateJob& job)
      : image{TiledAxis(job.h, m), TiledAxis(job.w, m)},
        tiles(job.batch * image.count()),
        row_block(round_up(quotient_up(job.rows, row_parts(job)), kColumns<T>)),
        row_blocks(quotient_up(job.rows, row_block)),
        depth_block(quotient_up(job.depth, quotient_up(job.depth, kChain))),
        depth_blocks(quotient_up(job.depth, depth_block)),
        parts(image.h.tap_phases * image.w.tap_phases * depth_blocks),
        tile_block(keeps_filter() && depth_block + row_block > kFewChannels ? kTiles : 2 * kTiles) {
  }

  int64_t tile_blocks() const { return quotient_up(tiles, tile_block); }
  // One task would leave threads idle.
  int64_t row_parts(const CorrelateJob& job) const {
    bool one = job.segments * job.groups == 1 && tiles <= 2 * kTiles && job.rows <= kFilterRows;
    return one ? 2 : quotient_up(job.rows, kFilterRows);
  }
  // A filter that serves few tiles is cheaper to transform again than to read from memory.
  bool keeps_filter() const { return tiles > 4 * kTiles; }
  // Lines and planes are longer than their data, so that they do not fall into one cache set.
  int64_t input_line() const { return round_up(depth_block, lanes) + lanes; }
  int64_t input_plane() const { return tile_block * input_line(); }
  int64_t product_plane() const { return tile_block * row_block + lanes; }
  int64_t filter_plane() const { return depth_block * row_block + lanes; }
  int64_t filter_size() const { return kPoints<R> * kPoints<R> * filter_plane(); }
};

template <class S, int R>
struct Winograd {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Blocks = WinogradBlocks<S, R>;
  static constexpr int64_t m = Blocks::m, lanes = Vector<T>::lanes, N = kPoints<R>, all = N * N;
  static constexpr int64_t kStripColumns = m * kStripTiles + N - m;

  // The transformed filter is taken to serve some samples, however many there are.
  static double cost(const CorrelateJob& job) {
    if (job.algorithm == Algorithm::direct || job.exact || job.components != 1) return kNever;
    if (!falls_into_taps<R>(job.h) || !falls_into_taps<R>(job.w)) return kNever;
    if (job.rows == 0 || job.depth == 0 || job.batch == 0) return kNever;
    if (job.algorithm == Algorithm::winograd) return 0;
    if (!kSaves<S, R>) return kNever;
    const auto [h, w] = Blocks(job).image;
    double phases = h.tap_phases * w.tap_phases, tiles = h.tiles * w.tiles;
    if (all * phases * tiles >= terms_of(job.h) * terms_of(job.w)) return kNever;
    double depth = quotient_up(job.depth, lanes), rows = quotient_up(job.rows, lanes);
    double inputs = 17 * all * depth, results = 17 * all * rows;
    // Seconds are turned at some cost, columns further apart not at all; of large steps a line of
    // the tensor is met again in each phase.
    int64_t from = w.spacing(), to = w.dilation * job.w.position_step;
    if (job.source.c != 1 && from > 1)
      inputs += (job.w.step > 2 ? 136 : from > 2 ? 35 : 15) * m * m * depth;
    if (job.result.c != 1 && to > 1)
      results += (job.w.position_step > 2 ? 248 : to > 2 ? 17 : 8) * m * m * rows;
    if (R == 2) {  // whose strips are short for squares
      if (job.source.c != 1 && from == 1) inputs += 60 * depth;
      if (job.result.c != 1) results += 150;
    }
    // A pixel's last channels take time where they fill no vector.
    if (job.source.c == 1 && job.depth % lanes != 0) inputs += 10 * all;
    if (job.result.c == 1 && job.rows % lanes != 0) results += 15 * m * m;
    inputs *= quotient_up(job.rows, Blocks::kFilterRows);
    double products = 1.2 * all * job.depth * rows;
    return job.groups * (tiles * (phases * (products + inputs) + results) +
                         2.8 * all * phases * job.depth * rows);
  }

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    Blocks blocks(job);
    if (!blocks.keeps_filter()) return 0;
    return job.segments * job.groups * blocks.row_blocks * blocks.parts;
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    return pack_filter_tasks(job) * Blocks(job).filter_size() * sizeof(T);
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Blocks blocks(job);
    transform_filter(job, filter, task / blocks.parts, task % blocks.parts,
                     static_cast<T*>(packed) + task * blocks.filter_size());
  }

  static int64_t tasks(const CorrelateJob& job) {
    Blocks blocks(job);
    return job.segments * job.groups * blocks.row_blocks * blocks.tile_blocks();
  }

  static int64_t scratch(const CorrelateJob& job) {
    Blocks blocks(job);
    int64_t elements =
        all * (blocks.input_plane() + blocks.product_plane()) + N * kStripColumns * lanes;
    if (!blocks.keeps_filter()) elements += blocks.filter_size();
    return elements * sizeof(T);
  }

  static void run(const CorrelateJob& job, int64_t task, void* scratch) {
    Blocks blocks(job);
    int64_t tile = task % blocks.tile_blocks() * blocks.tile_block;
    int64_t tiles = least(blocks.tile_block, blocks.tiles - tile);
    int64_t owner = task / blocks.tile_blocks();  // (segment, group, block of rows)
    int64_t row = owner % blocks.row_blocks * blocks.row_block;
    int64_t rows = least(blocks.row_block, job.rows - row);
    int64_t unit = owner / blocks.row_blocks, group = unit % job.groups,
            segment = unit / job.groups;

    T* inputs = static_cast<T*>(scratch);
    T* products = inputs + all * blocks.input_plane();
    T* strip = products + all * blocks.product_plane();
    T* own_filter = strip + N * kStripColumns * lanes;
    for (int64_t index = 0; index < blocks.parts; ++index) {
      Part part(blocks, job, index);
      View source = job.source;
      source.data = static_cast<S*>(source.data) + segment * job.batch * source.n +
                    (group * job.depth + part.first) * source.c;
      transform_tiles<S, InputEvaluation<N>, N>(source, part.depth, job.h, job.w,
                                                {origin(job.h, part.h), origin(job.w, part.w)},
                                                blocks.image, tile, tiles, strip, inputs,
                                                {blocks.input_line(), lanes, blocks.input_plane()});
      const T* filters = own_filter;
      if (blocks.keeps_filter())
        filters = static_cast<const T*>(job.filter) +
                  (owner * blocks.parts + index) * blocks.filter_size();
      else
        transform_filter(job, job.unpacked, owner, index, own_filter);
      for (int64_t point = 0; point < all; ++point)
        multiply<T, Rows::strided>(
            tiles, rows, part.depth, {inputs + point * blocks.input_plane(), blocks.input_line()},
            {filters + point * blocks.filter_plane(), blocks.depth_block * kColumns<T>},
            products + point * blocks.product_plane(), blocks.row_block, index > 0);
    }
    for (int64_t k = 0; k < rows; k += lanes)
      transform_back(job, segment, group * job.rows + row + k, least(lanes, rows - k), tile, tiles,
                     products + k, strip);
  }

 private:
  // Part of a sum: some of the depth, in one phase of the taps.
  struct Part {
    int64_t h, w, first, depth;

    Part(const Blocks& blocks, const CorrelateJob& job, int64_t index)
        : h(index / blocks.depth_blocks / blocks.image.w.tap_phases),
          w(index / blocks.depth_blocks % blocks.image.w.tap_phases),
          first(index % blocks.depth_blocks * blocks.depth_block),
          depth(least(blocks.depth_block, job.depth - first)) {}
  };

  // Tap r of a phase of the filter, in the order of the source; and where its first tile begins.
  static int64_t index(const AxisMap& axis, int64_t phase, int64_t r) {
    int64_t phases = axis.taps / R;
    return phase + phases * (axis.offset[1] > axis.offset[0] ? r : R - 1 - r);
  }
  static int64_t tap(const AxisMap& axis, int64_t phase, int64_t r) {
    return axis.tap[index(axis, phase, r)];
  }
  static int64_t origin(const AxisMap& axis, int64_t phase) {
    return axis.base[0] + axis.offset[index(axis, phase, 0)];
  }

  // to[channel][r][s][lane]: taps in the order of the source, a vector of rows. Asks for those
  // `ahead` further on: they lie in more places than a processor follows.
  static void load_taps(const CorrelateJob& job, const Part& part, const FilterView& filter,
                        const S* from, int64_t ahead, int64_t rows, int64_t channels, T* to) {
    auto at = [&](int64_t r, int64_t s) {
      return from + tap(job.h, part.h, r) * filter.r + tap(job.w, part.w, s) * filter.s;
    };
    int64_t right = at(0, 1) - at(0, 0);
    if ((right == 1 || right == -1) && at(1, 0) - at(0, 0) == R * right) {
      bool forwards = right == 1;
      T* first = to + (forwards ? 0 : R * R - 1) * lanes;
      int64_t together = forwards && filter.depth == R * R ? channels : 1;
      for (int64_t c = 0; c < channels; c += together) {
        const S* at = from + c * filter.depth;
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t i = 0; i < together * R * R; i += kLine<S>)
            __builtin_prefetch(at + ahead + row * filter.row + i);
        load_transposed(at, filter.row, rows, together * R * R, first + c * R * R * lanes,
                        right * lanes);
      }
      return;
    }
    int64_t places[R * R];
    for (int64_t tap = 0; tap < R * R; ++tap) places[tap] = at(tap / R, tap % R) - from;
    if (filter.depth == 1 || filter.row == 1) {
      int64_t across = filter.depth == 1 ? filter.row : filter.depth;
      for (int64_t tap = 0; tap < R * R; ++tap, to += lanes) {
        const S* at = from + places[tap];
        for (int64_t i = 0; i < lanes; ++i) __builtin_prefetch(at + ahead + i * across);
        if (filter.depth == 1)
          load_transposed(at, filter.row, rows, channels, to, R * R * lanes);
        else
          for (int64_t c = 0; c < channels; ++c)
            load_pixel(at + c * filter.depth, 1, rows, to + c * R * R * lanes);
      }
      return;
    }
    // In the order of memory: lines that far from each other may all meet one set of a cache.
    clear(to, 1, channels * R * R * lanes);
    bool by_rows = filter.row > filter.depth;
    for (int64_t i = 0; i < (by_rows ? rows : channels); ++i)
      for (int64_t j = 0; j < (by_rows ? channels : rows); ++j) {
        int64_t row = by_rows ? i : j, c = by_rows ? j : i;
        const S* at = from + row * filter.row + c * filter.depth;
        for (int64_t tap = 0; tap < R * R; ++tap)
          to[(c * R * R + tap) * lanes + row] = widen(at[places[tap]]);
      }
  }

  // Part `index` of a (segment, group, block of rows) of the filter:
  // [point][panel of rows][depth][kColumns].
  static void transform_filter(const CorrelateJob& job, const FilterView& filter, int64_t owner,
                               int64_t index, T* to) {
    Blocks blocks(job);
    Part part(blocks, job, index);
    int64_t row = owner % blocks.row_blocks * blocks.row_block;
    int64_t rows = least(blocks.row_block, job.rows - row);
    int64_t unit = owner / blocks.row_blocks;
    const S* from = static_cast<const S*>(filter.data) + unit / job.groups * filter.segment +
                    unit % job.groups * filter.group + row * filter.row + part.first * filter.depth;
    V special = {};  // to which a NaN or Inf, times 0, adds a NaN
    T taps[lanes * R * R * lanes];
    for (int64_t k = 0; k < rows; k += lanes)
      for (int64_t c = 0; c < part.depth; c += lanes) {
        int64_t channels = least(lanes, part.depth - c);
        int64_t next =
            c + lanes < part.depth ? lanes * filter.depth : lanes * filter.row - c * filter.depth;
        load_taps(job, part, filter, from + k * filter.row + c * filter.depth, next,
                  least(lanes, rows - k), channels, taps);
        T* place = to + k / kColumns<T> * blocks.depth_block * kColumns<T> + c * kColumns<T> +
                   k % kColumns<T>;
        for (int64_t i = 0; i < channels * R * R; ++i)
          special += *reinterpret_cast<const V*>(taps + i * lanes) * 0;
        for (int64_t i = 0; i < channels; ++i)
          evaluate_tile<FilterEvaluation<N, R>, R>(taps + i * R * R * lanes, R,
                                                   place + i * kColumns<T>, blocks.filter_plane(),
                                                   kColumns<T>);
      }
    mark(job.special, any_lane(special));
  }

  // Aᵀ product A, plus bias, for one vector of channels.
  static void transform_back(const CorrelateJob& job, int64_t segment, int64_t channel,
                             int64_t channels, int64_t first, int64_t count, const T* products,
                             T* strip) {
    Blocks blocks(job);
    V bias = {};
    if (job.bias)
      for (int64_t lane = 0; lane < channels; ++lane)
        bias[lane] = widen(static_cast<const S*>(job.bias)[(channel + lane) * job.bias_stride]);
    const auto& [h, w] = blocks.image;
    View result = job.result;
    result.h *= h.dilation * job.h.position_step;
    result.w *= w.dilation * job.w.position_step;
    for (int64_t at = 0, tiles; at < count; at += tiles) {
      Strip now = strip_at(blocks.image, first, count, at);
      tiles = now.tiles;
      int64_t sample = segment * job.batch + now.sample;
      int64_t rows = least(m, h.positions_from(now.row));
      int64_t columns = least(m * tiles, w.positions_from(now.column));
      if (rows == 0 || columns == 0) continue;
      S* to = static_cast<S*>(result.data) + sample * result.n + channel * result.c +
              job.h.position[now.row] * job.result.h + job.w.position[now.column] * job.result.w;
      prefetch_strip<true>(rows, columns, channels, to, result);
      V special = {};
      for (int64_t tile = 0; tile < tiles; ++tile)
        special += interpolate_tile<N, m>(products + (at + tile) * blocks.row_block,
                                          blocks.product_plane(), blocks.row_block, bias,
                                          strip + tile * m * lanes, m * tiles);
      mark(job.spread + sample, any_lane(special));
      store_strip(strip, m * tiles, rows, columns, channels, to, result);
    }
  }
};
