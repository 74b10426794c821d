// Packing: the only code that knows how a tensor lies in memory. It copies a block of patches (for
// each position and each (tap, channel) of a chunk, the element of the source that they meet) to
// where the micro-kernel reads it, widened, with zeros or mirrored elements where the padding is.
// So any strides, storage type and padding mode cost one pass over a cache block, and no copy of a
// tensor is ever made.
//
// The copy walks along whichever of positions and channels lies closer together in the source, and
// writes panels of either:
//
//     Panels::positions   to[panel of positions][chunk depth][width positions]
//     Panels::depth       to[panel of depth][position][width of the depth]

// Depth is ordered (component, block of channels, tap, channel in the block); a chunk is a part of
// it.
struct Chunk {
  int64_t component, channel, channels, tap, taps, first;
  int64_t depth() const { return channels * taps; }
};

struct Chunks {
  int64_t components, channels, taps, channel_block, tap_block;

  // Blocks of at most `limit`; where there are many taps, of 64 channels, so that copies stay long.
  Chunks(int64_t components, int64_t channels, int64_t taps, int64_t limit)
      : components(components), channels(channels), taps(taps) {
    int64_t wanted = limit / least(taps > 0 ? taps : 1, limit / 64);
    int64_t blocks = quotient_up(channels, wanted);
    channel_block = blocks > 0 ? quotient_up(channels, blocks) : 1;
    int64_t parts = quotient_up(taps, limit / channel_block);
    tap_block = parts > 0 ? quotient_up(taps, parts) : 1;
  }
  int64_t channel_blocks() const { return quotient_up(channels, channel_block); }
  int64_t tap_blocks() const { return quotient_up(taps, tap_block); }
  int64_t count() const { return components * channel_blocks() * tap_blocks(); }
  int64_t depth() const { return components * channels * taps; }

  Chunk at(int64_t index) const {
    int64_t tap = index % tap_blocks() * tap_block;
    index /= tap_blocks();
    int64_t channel = index % channel_blocks() * channel_block;
    int64_t component = index / channel_blocks();
    Chunk chunk{component,
                channel,
                least(channel_block, channels - channel),
                tap,
                least(tap_block, taps - tap),
                0};
    chunk.first = (component * channels + channel) * taps + tap * chunk.channels;
    return chunk;
  }
};

template <class S>
struct Patches {
  const S* data;  // the group's first channel
  View strides;
  const AxisMap& h;
  const AxisMap& w;
};

// The source index that base + offset shows, or -1 for a zero.
inline int64_t shown_source(const AxisMap& axis, int64_t index) {
  return index >= 0 && index < axis.limit ? index : shown_index(index, axis.limit, axis.padding);
}

// An index that positions beyond the last one would meet shows a zero, whatever the padding mode.
inline int64_t source_or_none(const AxisMap& axis, int64_t index) {
  int64_t shown = shown_source(axis, index);
  return shown < axis.limit ? shown : -1;
}

inline int64_t source_index(const AxisMap& axis, int64_t tap, int64_t position) {
  return shown_source(axis, axis.base[position] + axis.offset[tap]);
}

// Positions all of whose taps meet the source: from, and below.
inline std::pair<int64_t, int64_t> inner_positions(const AxisMap& axis) {
  int64_t first = 0, end = axis.positions;
  for (int64_t s = 0; s < axis.taps; ++s) {
    first = most(first, axis.inner[s].first);
    end = least(end, axis.inner[s].second);
  }
  first = least(first, axis.positions);
  return {first, most(first, end)};
}

// Offsets run one way.
inline int64_t low_offset(const AxisMap& axis) {
  return least(axis.offset[0], axis.offset[axis.taps - 1]);
}
inline int64_t high_offset(const AxisMap& axis) {
  return most(axis.offset[0], axis.offset[axis.taps - 1]);
}

// The taps of an axis from left to right, whichever way their offsets run.
inline int64_t from_left(const AxisMap& w, int64_t s) {
  return w.offset[0] > w.offset[w.taps - 1] ? w.taps - 1 - s : s;
}

// Calls f(n, row, column, count, at) for each piece of a row that a block of positions holds.
template <class F>
inline void for_rows(const AxisMap& h, const AxisMap& w, int64_t first, int64_t count, F f) {
  int64_t column = first % w.positions, rows = first / w.positions;
  int64_t row = rows % h.positions, n = rows / h.positions;
  for (int64_t at = 0; at < count;) {
    int64_t piece = least(count - at, w.positions - column);
    f(n, row, column, piece, at);
    at += piece;
    column = 0;
    if (++row == h.positions) row = 0, ++n;
  }
}

// Positions whose sources lie at from, from + step, ... in each channel; zeros where from < 0.
struct Run {
  int64_t at, count, from;
};

class Runs {
 public:
  Runs(Run* runs, int64_t step) : runs_(runs), step_(step) {}

  void add(int64_t at, int64_t count, int64_t from) {
    if (count <= 0) return;
    if (count_ > 0) {
      Run& last = runs_[count_ - 1];
      if (from < 0 ? last.from < 0 : last.from >= 0 && last.from + last.count * step_ == from) {
        last.count += count;
        return;
      }
    }
    runs_[count_++] = {at, count, from};
  }
  const Run* begin() const { return runs_; }
  const Run* end() const { return runs_ + count_; }

 private:
  Run* runs_;
  int64_t step_, count_ = 0;
};

template <class S>
Runs find_runs(const Patches<S>& p, int64_t tap, int64_t first, int64_t count, Run* space) {
  const AxisMap &h = p.h, &w = p.w;
  int64_t tap_h = tap / w.taps, tap_w = tap % w.taps;
  Runs runs(space, w.step * p.strides.w);
  for_rows(
      h, w, first, count, [&](int64_t n, int64_t row, int64_t column, int64_t piece, int64_t at) {
        int64_t line = source_index(h, tap_h, row);
        if (line < 0) return runs.add(at, piece, -1);
        int64_t start = n * p.strides.n + line * p.strides.h;
        auto one_by_one = [&](int64_t from, int64_t to) {
          for (int64_t i = from; i < to; ++i) {
            int64_t source = source_index(w, tap_w, i);
            runs.add(at + i - column, 1, source < 0 ? -1 : start + source * p.strides.w);
          }
        };
        int64_t end = column + piece;
        int64_t low = least(end, w.inner[tap_w].first), high = least(end, w.inner[tap_w].second);
        if (low < column) low = column;
        if (high <= low) return one_by_one(column, end);
        one_by_one(column, low);
        runs.add(at + low - column, high - low,
                 start + (w.base[low] + w.offset[tap_w]) * p.strides.w);
        one_by_one(high, end);
      });
  return runs;
}

template <class S, class T>
inline void copy(T* to, int64_t to_step, const S* from, int64_t from_step, int64_t count) {
  if (to_step == 1 && from_step == 1)
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
  else
    for (int64_t i = 0; i < count; ++i) to[i * to_step] = widen(from[i * from_step]);
}

template <class T>
inline void clear(T* to, int64_t step, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i * step] = T{};
}

enum class Panels { positions, depth };

template <class T>
struct Packed {  // where a block goes
  T* data;
  int64_t width, panel;  // elements of a panel's line, elements from panel to panel
};

// Calls f(to, step, done, count) for the pieces of a line of `count` elements at `at`: a line along
// the panels is cut where they end, a line across them is one piece of stride `width`.
template <bool ALONG, class T, class F>
inline void for_pieces(const Packed<T>& to, int64_t at, int64_t across, int64_t count, F f) {
  if constexpr (ALONG) {
    for (int64_t done = 0; done < count;) {
      int64_t lane = (at + done) % to.width, piece = least(count - done, to.width - lane);
      f(to.data + (at + done) / to.width * to.panel + across * to.width + lane, int64_t{1}, done,
        piece);
      done += piece;
    }
  } else {
    f(to.data + across / to.width * to.panel + at * to.width + across % to.width, to.width,
      int64_t{0}, count);
  }
}

template <Panels PANELS, class S, class T>
void pack_along_positions(const Patches<S>& p, const Chunk& chunk, int64_t first, int64_t count,
                          Packed<T> to, Run* space) {
  int64_t step = p.w.step * p.strides.w;
  for (int64_t tap = 0; tap < chunk.taps; ++tap) {
    Runs runs = find_runs(p, chunk.tap + tap, first, count, space);
    for (int64_t c = 0; c < chunk.channels; ++c) {
      const S* source = p.data + (chunk.channel + c) * p.strides.c;
      for (const Run& run : runs)
        for_pieces<PANELS == Panels::positions>(
            to, run.at, tap * chunk.channels + c, run.count,
            [&](T* place, int64_t place_step, int64_t done, int64_t piece) {
              if (run.from < 0)
                clear(place, place_step, piece);
              else
                copy(place, place_step, source + run.from + done * step, step, piece);
            });
    }
  }
}

template <Panels PANELS, class S, class T>
void pack_along_channels(const Patches<S>& p, const Chunk& chunk, int64_t first, int64_t count,
                         Packed<T> to) {
  auto rows = [&](int64_t n, int64_t row, int64_t column, int64_t piece, int64_t at) {
    const S* sample = p.data + n * p.strides.n + chunk.channel * p.strides.c;
    for (int64_t i = 0; i < piece; ++i)
      for (int64_t tap = 0; tap < chunk.taps; ++tap) {
        int64_t y = source_index(p.h, (chunk.tap + tap) / p.w.taps, row);
        int64_t x = source_index(p.w, (chunk.tap + tap) % p.w.taps, column + i);
        const S* source = sample + y * p.strides.h + x * p.strides.w;
        for_pieces<PANELS == Panels::depth>(
            to, tap * chunk.channels, at + i, chunk.channels,
            [&](T* place, int64_t place_step, int64_t done, int64_t some) {
              if (y < 0 || x < 0)
                clear(place, place_step, some);
              else
                copy(place, place_step, source + done * p.strides.c, p.strides.c, some);
            });
      }
  };
  for_rows(p.h, p.w, first, count, rows);
}

template <Panels PANELS, class S, class T>
void pack(const Patches<S>& p, const Chunk& chunk, int64_t first, int64_t count, Packed<T> to,
          Run* space) {
  if (p.strides.c == 1 && chunk.channels > 1)
    pack_along_channels<PANELS>(p, chunk, first, count, to);
  else
    pack_along_positions<PANELS>(p, chunk, first, count, to, space);
}

// The maps of an output gradient, whose patches are its own elements.
struct OneTap {
  int64_t zero = 0;
  std::pair<int64_t, int64_t> inner_h, inner_w;
  AxisMap h, w;

  OneTap(const AxisMap& h, const AxisMap& w) : inner_h(0, h.positions), inner_w(0, w.positions) {
    this->h = map(h, &inner_h);
    this->w = map(w, &inner_w);
  }
  OneTap(const OneTap&) = delete;

 private:
  AxisMap map(const AxisMap& axis, const std::pair<int64_t, int64_t>* inner) const {
    AxisMap result = axis;  // the forward map of a 1x1 filter: base = position
    result.taps = result.step = 1;
    result.limit = axis.positions;
    result.padding = Padding::zeros;
    result.base = axis.position;
    result.offset = &zero;
    result.inner = inner;
    return result;
  }
};
