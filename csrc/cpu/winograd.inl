// correlate by Winograd's minimal filtering (transforms.inl), for filters that fall into parts of
// RH by RW taps, or one less (winograd_tiles.inl): tiles of NH x NW inputs give mh x mw outputs, m
// = N + 1 - R, and the sum over channels and parts is taken between the transforms, as one matrix
// product for each of the NH · NW points:
//
//     product[point][tile][row] = Σ_depth inputs[point][tile][depth] · filters[point][depth][row]
//
// For 16 outputs a 3 x 3 filter takes 36 products where the sum itself takes 144, a 5 x 5 filter of
// stride 2, which is 3 x 3, 3 x 2, 2 x 3 and 2 x 2 in its phases, 121 for 400; for 9 outputs a 4 x
// 4 filter 36 for 144, a 7 x 7 filter 121 for 441; for 4 a row of 3 taps 6 for 12. full_convolve is
// the same: its taps run backwards.
//
// A task owns some tiles, across the batch, by some of a group's rows. It transforms the tiles of a
// chunk of channels, multiplies, and transforms back, all in scratch that stays in the cache. The
// filter is transformed once and kept where it serves many tasks, else by the task that needs it.
// A tile's sums depend on no other tile.
//
// The transforms spread a NaN, an Inf or an overflow over the whole tile. Whoever sees one in a
// result says so in `spread`, and the sample is done again by a way that does not.

template <class S, int RH, int RW>
struct WinogradBlocks {
  using T = typename Compute<S>::type;
  static constexpr int64_t mh = kOutputs<RH>, mw = kOutputs<RW>, lanes = Vector<T>::lanes;
  // Of a task, whose operands and products stay in the second-level cache while the filter streams
  // from the third (a line's tile has a sixth of the points); a sum over more than kChain channels
  // is cut, for the rounding.
  static constexpr int64_t kTiles = (RH == 1 || RW == 1 ? 168 : 28) / kRows * kRows;
  static constexpr int64_t kFilterRows = 128, kFewChannels = 64;

  TapParts<RH> h;
  TapParts<RW> w;
  Tiles image;
  int64_t tiles;  // of a segment
  int64_t row_block, row_blocks, depth_block, depth_blocks, parts, tile_block;

  explicit WinogradBlocks(const CorrelateJob& job)
      : h(job.h),
        w(job.w),
        image{TiledAxis(job.h, mh), TiledAxis(job.w, mw)},
        tiles(job.batch * image.count()),
        row_block(round_up(quotient_up(job.rows, row_parts(job)), kColumns<T>)),
        row_blocks(quotient_up(job.rows, row_block)),
        depth_block(quotient_up(job.depth, quotient_up(job.depth, kChain))),
        depth_blocks(quotient_up(job.depth, depth_block)),
        parts(h.count() * w.count() * depth_blocks),
        tile_block(keeps_filter() && depth_block + row_block > kFewChannels ? kTiles : 2 * kTiles) {
    tile_block = round_up(quotient_up(tiles, quotient_up(tiles, tile_block)), kRows);
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
  int64_t filter_size() const { return h.points() * w.points() * depth_blocks * filter_plane(); }
};

template <class S, int RH, int RW>
struct Winograd {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Blocks = WinogradBlocks<S, RH, RW>;
  static constexpr int64_t mh = Blocks::mh, mw = Blocks::mw, lanes = Vector<T>::lanes;
  static constexpr int64_t NH = kPoints<RH>, NW = kPoints<RW>, all = NH * NW, kTaps = RH * RW;
  static constexpr int64_t kStrip = NH * (kStripColumns + RW - 1) * lanes;  // the largest

  // The transformed filter is taken to serve some samples, however many there are.
  static double cost(const CorrelateJob& job) {
    if (job.algorithm == Algorithm::direct || job.exact || job.components != 1) return kNever;
    if (job.rows == 0 || job.depth == 0 || job.batch == 0) return kNever;
    constexpr bool line = RH == 1 || RW == 1;
    if (line && least(job.h.taps, job.w.taps) > 2) return kNever;  // squares of them save more
    // Of few terms would show what six points round.
    if (job.h.taps < least(RH, 3) || job.w.taps < least(RW, 3)) return kNever;
    TapParts<RH> h_parts(job.h);
    TapParts<RW> w_parts(job.w);
    if (!h_parts.fit() || !w_parts.fit()) return kNever;
    const TiledAxis h(job.h, mh), w(job.w, mw);
    double points = 1.0 * h_parts.points() * w_parts.points(), tiles = h.tiles * w.tiles;
    double parts = h_parts.count() * w_parts.count();
    if (points >= 1.0 * mh * mw * job.h.taps * job.w.taps) return kNever;
    bool forced = job.algorithm == Algorithm::winograd;
    if (!forced && (!kSaves<S, RH, RW> || points * tiles >= terms_of(job.h) * terms_of(job.w)))
      return kNever;
    double depth = quotient_up(job.depth, lanes), rows = quotient_up(job.rows, lanes);
    constexpr bool few = RH == 2 && RW == 2;
    double point = line || (few && parts > 1) ? 30 : 17;  // lines and small tiles share less
    double inputs = point * points / parts * depth, results = point * all * rows;
    // Seconds are turned at some cost, columns further apart not at all; of large steps a line of
    // the tensor is met again in each phase.
    int64_t from = w.spacing(), to = w.dilation * job.w.position_step;
    if (job.source.c != 1 && from > 1)
      inputs += (job.w.step > 2 ? 90 : from == 2 ? 10 : line ? 40 : 23) * NH * mw * depth;
    if (job.result.c != 1 && to > 1)
      results += (job.w.position_step > 2 ? 248 : to > 2 ? 17 : 8) * mh * mw * rows;
    if (few) {  // whose strips are short for squares
      if (job.source.c != 1 && from == 1) inputs += 60 * depth;
      if (job.result.c != 1) results += 150;
    }
    // A pixel's last channels take time where they fill no vector.
    if (job.source.c == 1 && job.depth % lanes != 0) inputs += 10 * all;
    if (job.result.c == 1 && job.rows % lanes != 0) results += 15 * mh * mw;
    inputs *= quotient_up(job.rows, Blocks::kFilterRows);
    // Each part but the first adds to sums in memory.
    double products = (1.25 * points * job.depth + 5 * (points - all)) * rows;
    double cost = job.groups *
                  (tiles * (products + parts * inputs + results) + 2.8 * points * job.depth * rows);
    return forced ? kForced * cost : cost;
  }

  static int64_t pack_filter_tasks(const CorrelateJob& job) {
    Blocks blocks(job);
    if (!blocks.keeps_filter()) return 0;
    return job.segments * job.groups * blocks.row_blocks * blocks.parts;
  }
  static int64_t packed_filter_size(const CorrelateJob& job) {
    Blocks blocks(job);
    if (!blocks.keeps_filter()) return 0;
    return job.segments * job.groups * blocks.row_blocks * blocks.filter_size() * sizeof(T);
  }
  static void pack_filter(const CorrelateJob& job, const FilterView& filter, void* packed,
                          int64_t task) {
    Blocks blocks(job);
    Part part(blocks, job, task % blocks.parts);
    int64_t owner = task / blocks.parts;
    transform_filter(job, filter, owner, part,
                     static_cast<T*>(packed) + owner * blocks.filter_size() +
                         part.before * blocks.filter_plane());
  }

  static int64_t tasks(const CorrelateJob& job) {
    Blocks blocks(job);
    return job.segments * job.groups * blocks.row_blocks * blocks.tile_blocks();
  }

  static int64_t scratch(const CorrelateJob& job) {
    Blocks blocks(job);
    int64_t elements = all * (blocks.input_plane() + blocks.product_plane()) + kStrip;
    if (!blocks.keeps_filter()) elements += all * blocks.filter_plane();
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
    T* own_filter = strip + kStrip;
    for (int64_t index = 0; index < blocks.parts; ++index) {
      Part part(blocks, job, index);
      View source = job.source;
      source.data = static_cast<S*>(source.data) + segment * job.batch * source.n +
                    (group * job.depth + part.first) * source.c;
      transform_tiles<S, InputEvaluation<NH>, InputEvaluation<NW>>(
          source, part.depth, job.h, job.w, {part.h.origin(job.h), part.w.origin(job.w)},
          blocks.image, tile, tiles, strip, inputs,
          {blocks.input_line(), lanes, blocks.input_plane(), part.points()});
      const T* filters = own_filter;
      if (blocks.keeps_filter())
        filters = static_cast<const T*>(job.filter) + owner * blocks.filter_size() +
                  part.before * blocks.filter_plane();
      else
        transform_filter(job, job.unpacked, owner, part, own_filter);
      const T* input = inputs;
      for (int64_t i = 0; i < NH; ++i)
        for (int64_t j = 0; j < NW; ++j) {
          bool is_there = i < part.h.points && j < part.w.points;
          if (!is_there && index > 0) continue;  // else it is a sum of nothing
          multiply<T, Rows::strided>(
              tiles, rows, is_there ? part.depth : 0, {input, blocks.input_line()},
              {filters, blocks.depth_block * kColumns<T>},
              products + (i * NW + j) * blocks.product_plane(), blocks.row_block, index > 0);
          if (!is_there) continue;
          input += blocks.input_plane();
          filters += blocks.filter_plane();
        }
    }
    for (int64_t k = 0; k < rows; k += lanes)
      transform_back(job, segment, group * job.rows + row + k, least(lanes, rows - k), tile, tiles,
                     products + k, strip);
  }

 private:
  // Part of a sum: some of the depth, by some of the taps.
  struct Part {
    TapPart h, w;
    int64_t first, depth;
    int64_t before;  // points of the parts before this one

    Part(const Blocks& blocks, const CorrelateJob& job, int64_t index)
        : h(blocks.h.at(index / blocks.depth_blocks / blocks.w.count())),
          w(blocks.w.at(index / blocks.depth_blocks % blocks.w.count())),
          first(index % blocks.depth_blocks * blocks.depth_block),
          depth(least(blocks.depth_block, job.depth - first)),
          before((h.before * blocks.w.points() + h.points * w.before) * blocks.depth_blocks +
                 index % blocks.depth_blocks * points().count()) {}

    Points points() const { return {h.points, w.points}; }
  };

  // to[channel][r][s][lane]: taps in the order of the source, a vector of rows. Asks for those
  // `ahead` further on: they lie in more places than a processor follows.
  static void load_taps(const CorrelateJob& job, const Part& part, const FilterView& filter,
                        const S* from, int64_t ahead, int64_t rows, int64_t channels, T* to) {
    auto at = [&](int64_t r, int64_t s) {
      return from + part.h.tap(job.h, r) * filter.r + part.w.tap(job.w, s) * filter.s;
    };
    bool whole = part.h.taps == RH && part.w.taps == RW;
    int64_t next = RW > 1 ? at(0, 1) - at(0, 0) : at(1, 0) - at(0, 0);
    bool side_by_side = RH == 1 || RW == 1 || at(1, 0) - at(0, 0) == RW * next;
    if (whole && side_by_side && (next == 1 || next == -1)) {
      bool forwards = next == 1;
      from = forwards ? at(0, 0) : at(RH - 1, RW - 1);
      T* first = to + (forwards ? 0 : kTaps - 1) * lanes;
      int64_t together = forwards && filter.depth == kTaps ? channels : 1;
      for (int64_t c = 0; c < channels; c += together) {
        const S* at = from + c * filter.depth;
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t i = 0; i < together * kTaps; i += kLine<S>)
            __builtin_prefetch(at + ahead + row * filter.row + i);
        load_transposed(at, filter.row, rows, together * kTaps, first + c * kTaps * lanes,
                        next * lanes);
      }
      return;
    }
    int64_t places[kTaps], first = at(0, 0) - from, end = first;
    auto is_there = [&](int64_t tap) { return tap / RW < part.h.taps && tap % RW < part.w.taps; };
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      if (!is_there(tap)) continue;
      places[tap] = at(tap / RW, tap % RW) - from;
      first = least(first, places[tap]);
      end = most(end, places[tap] + 1);
    }
    clear(to, 1, channels * kTaps * lanes);
    if (filter.depth == 1 || filter.row == 1) {
      int64_t across = filter.depth == 1 ? filter.row : filter.depth;
      for (int64_t tap = 0; tap < kTaps; ++tap, to += lanes) {
        if (!is_there(tap)) continue;
        const S* at = from + places[tap];
        for (int64_t i = 0; i < lanes; ++i) __builtin_prefetch(at + ahead + i * across);
        if (filter.depth == 1)
          load_transposed(at, filter.row, rows, channels, to, kTaps * lanes);
        else
          for (int64_t c = 0; c < channels; ++c)
            load_pixel(at + c * filter.depth, 1, rows, to + c * kTaps * lanes);
      }
      return;
    }
    if (constexpr int64_t longest = 4 * kTaps; end - first <= longest) {
      T line[longest * lanes];  // from the first tap to the last
      for (int64_t c = 0; c < channels; ++c, to += kTaps * lanes) {
        const S* at = from + c * filter.depth + first;
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t i = 0; i < end - first; i += kLine<S>)
            __builtin_prefetch(at + ahead + row * filter.row + i);
        load_transposed(at, filter.row, rows, end - first, line, lanes);
        for (int64_t tap = 0; tap < kTaps; ++tap)
          if (is_there(tap))
            store<T>(load<T>(line + (places[tap] - first) * lanes), to + tap * lanes);
      }
      return;
    }
    // In the order of memory: lines that far from each other may all meet one set of a cache.
    bool by_rows = filter.row > filter.depth;
    for (int64_t i = 0; i < (by_rows ? rows : channels); ++i)
      for (int64_t j = 0; j < (by_rows ? channels : rows); ++j) {
        int64_t row = by_rows ? i : j, c = by_rows ? j : i;
        const S* at = from + row * filter.row + c * filter.depth;
        for (int64_t tap = 0; tap < kTaps; ++tap)
          if (is_there(tap)) to[(c * kTaps + tap) * lanes + row] = widen(at[places[tap]]);
      }
  }

  // A part of a (segment, group, block of rows) of the filter:
  // [point][panel of rows][depth][kColumns].
  static void transform_filter(const CorrelateJob& job, const FilterView& filter, int64_t owner,
                               const Part& part, T* to) {
    Blocks blocks(job);
    int64_t row = owner % blocks.row_blocks * blocks.row_block;
    int64_t rows = least(blocks.row_block, job.rows - row);
    int64_t unit = owner / blocks.row_blocks;
    const S* from = static_cast<const S*>(filter.data) + unit / job.groups * filter.segment +
                    unit % job.groups * filter.group + row * filter.row + part.first * filter.depth;
    V special = {};  // to which a NaN or Inf, times 0, adds a NaN
    T taps[lanes * kTaps * lanes];
    for (int64_t k = 0; k < rows; k += lanes)
      for (int64_t c = 0; c < part.depth; c += lanes) {
        int64_t channels = least(lanes, part.depth - c);
        int64_t next =
            c + lanes < part.depth ? lanes * filter.depth : lanes * filter.row - c * filter.depth;
        load_taps(job, part, filter, from + k * filter.row + c * filter.depth, next,
                  least(lanes, rows - k), channels, taps);
        T* place = to + k / kColumns<T> * blocks.depth_block * kColumns<T> + c * kColumns<T> +
                   k % kColumns<T>;
        for (int64_t i = 0; i < channels * kTaps; ++i)
          special += *reinterpret_cast<const V*>(taps + i * lanes) * 0;
        for (int64_t i = 0; i < channels; ++i)
          evaluate_tile<FilterEvaluation<NH, RH>, FilterEvaluation<NW, RW>>(
              taps + i * kTaps * lanes, RW, part.points(), place + i * kColumns<T>,
              blocks.filter_plane(), kColumns<T>);
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
      int64_t rows = least(mh, h.positions_from(now.row));
      int64_t columns = least(mw * tiles, w.positions_from(now.column));
      if (rows == 0 || columns == 0) continue;
      S* to = static_cast<S*>(result.data) + sample * result.n + channel * result.c +
              job.h.position[now.row] * job.result.h + job.w.position[now.column] * job.result.w;
      prefetch_strip<true>(rows, columns, channels, to, result);
      V special = {};
      for (int64_t tile = 0; tile < tiles; ++tile)
        special += interpolate_tile<NH, NW, mh, mw>(products + (at + tile) * blocks.row_block,
                                                    blocks.product_plane(), blocks.row_block, bias,
                                                    strip + tile * mw * lanes, mw * tiles);
      mark(job.spread + sample, any_lane(special));
      store_strip(strip, mw * tiles, rows, columns, channels, to, result);
    }
  }
};
