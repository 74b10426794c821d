// A padded block: what a block of output rows needs of some channels of the source, with the
// padding's zeros or mirrored elements around it and the channels innermost, so that every tap is a
// shift of it. Copied once, from any layout. Rows and columns are counted as base + offset.

struct PaddedBlock {
  int64_t rows;           // of the output
  int64_t low_h, low_w;   // the smallest offsets
  int64_t height, width;  // of the block

  PaddedBlock(const AxisMap& h, const AxisMap& w, int64_t rows) : rows(rows) {
    low_h = low_offset(h), low_w = low_offset(w);
    height = h.step * (rows - 1) + high_offset(h) - low_h + 1;
    width = w.step * (w.positions - 1) + high_offset(w) - low_w + 1;
  }
  int64_t positions() const { return area(height, width); }
  // Whether a tap meets a row, counted as base + offset of the first of the output's rows, from one
  // of them, `step` apart.
  bool is_read(const AxisMap& h, int64_t row, int64_t step) const {
    bool falls = h.offset[0] > h.offset[h.taps - 1];
    auto offset = [&](int64_t r) { return h.offset[falls ? h.taps - 1 - r : r]; };
    int64_t r = 0;
    for (int64_t end = h.taps; r < end;) {  // the first tap that is near enough
      int64_t middle = (r + end) / 2;
      if (offset(middle) > row - rows * h.step)
        end = middle;
      else
        r = middle + 1;
    }
    for (; r < h.taps && offset(r) <= row; ++r)
      if ((row - offset(r)) % step == 0) return true;
    return false;
  }
};

// Whether no tap meets the padding, so that what is read may be read where it lies.
inline bool is_inside(const AxisMap& axis) {
  for (int64_t r = 0; r < axis.taps; ++r)
    if (axis.inner[r].first > 0 || axis.inner[r].second < axis.positions) return false;
  return true;
}

// Bytes of a pixel: longer ones share few sets of the first-level cache, which matters where more
// panels than these meet them.
constexpr int64_t kPixelInPlace = 1 << 10, kPanelsInPlace = 4;
// Whether a tile's rows are most of a cache line, so that to ask for the next tile's costs little.
template <class E>
constexpr bool kFillsLines = 2 * kRows > kLine<E>;

// Whether a tensor's channels, as elements, and positions lie as a block's, so that no copy is
// needed for some panels.
template <class S, class E>
bool is_block(const View& view, int64_t channels, int64_t panels, const AxisMap& h,
              const AxisMap& w) {
  if (kNumbers<E> * sizeof(S) != sizeof(E) || !kFillsLines<E> || view.c != 1) return false;
  for (int64_t step : {channels, view.n, view.h, view.w})
    if (step % kNumbers<E> != 0) return false;
  return reinterpret_cast<uintptr_t>(view.data) % sizeof(E) == 0 &&
         (channels * static_cast<int64_t>(sizeof(S)) <= kPixelInPlace ||
          panels <= kPanelsInPlace) &&
         is_inside(h) && is_inside(w);
}

constexpr int64_t kFewLines = 4;  // fewer are copied element by element, not turned

// to[element][line] of so many lines, of which compilers make shuffles.
template <int LINES, class S, class E>
void copy_interleaved(Source<S, E> from, int64_t stride, int64_t count, E* to) {
  for (int64_t x = 0; x < count; ++x)
    for (int line = 0; line < LINES; ++line) to[x * LINES + line] = from[line * stride + x];
}

// The same of any lines.
template <class S, class E>
void copy_lines(Source<S, E> from, int64_t stride, int64_t position_step, int64_t lines,
                int64_t count, E* to, int64_t pitch) {
  bool beside = position_step == 1 && lines == pitch;
  if (beside && lines == 2) return copy_interleaved<2>(from, stride, count, to);
  if (beside && lines == 3) return copy_interleaved<3>(from, stride, count, to);
  for (int64_t line = 0; line < lines; ++line)
    copy(to + line, pitch, from + line * stride, position_step, count);
}

// Elements [0, count) of each of `channels` lines to[element][channel]; `end` is the tensor's.
template <class S, class E>
void copy_turned(Source<S, E> from, int64_t channel_step, int64_t position_step, int64_t channels,
                 int64_t count, E* to, int64_t pitch, const S* end) {
  constexpr int64_t lanes = Vector<E>::lanes;
  int64_t turned = 0;
  if (position_step == 1 && channel_step > 0)
    for (; turned + kFewLines <= channels; turned += lanes) {
      int64_t lines = least(lanes, channels - turned);
      for (int64_t i = 0; i < count; i += lanes) {
        int64_t x = count < lanes ? i : least(i, count - lanes);  // the last may overlap
        Source<S, E> at = from + turned * channel_step + x;
        int64_t some = least(lanes, count - x);
        E* place = to + x * pitch + turned;
        if (at.from + (lines - 1) * channel_step + at.reach() + lanes > end) {
          copy_lines(at, channel_step, 1, lines, some, place, pitch);
          continue;
        }
        typename Vector<E>::type square[lanes];
        load_turned<1>(at, channel_step, lines, square);
#pragma GCC unroll 16
        for (int64_t k = 0; k < lanes; ++k)
          if (k < some) store_some<E>(square[k], lines, place + k * pitch);
      }
    }
  if (turned < channels)
    copy_lines(from + turned * channel_step, channel_step, position_step, channels - turned, count,
               to + turned, pitch);
}

// Numbers, which no vector has lanes of: pairs are made of one or three channels of them.
inline void copy_turned(Source<BFloat16, BFloat16> from, int64_t channel_step,
                        int64_t position_step, int64_t channels, int64_t count, BFloat16* to,
                        int64_t pitch, const BFloat16*) {
  copy_lines(from, channel_step, position_step, channels, count, to, pitch);
}

// Rows to a padded block of `pitch` elements a position, `channels` of them at `to`; row(v) is
// where the elements of row v are, if any tap reads them, first_v the block's first row.
template <class S, class E, class Row>
void fill_padded(const PaddedBlock& block, int64_t first_v, Row row, int64_t channel_step,
                 int64_t position_step, const AxisMap& w, int64_t channels, E* to, int64_t pitch,
                 const S* end) {
  int64_t first_u = w.base[0] + block.low_w, line = block.width * pitch;
  int64_t low = first_u < 0 ? least(block.width, -first_u) : 0;
  int64_t high = least(block.width, w.limit - first_u);
  if (high < low) high = low;
  for (int64_t i = 0; i < block.height; ++i, to += line) {
    Source<S, E> source = row(first_v + i);
    if (!source.is_read) continue;
    auto edge = [&](int64_t x, int64_t last) {
      for (; x < last; ++x) {
        int64_t shown = source.shown == 0 ? -1 : source_or_none(w, first_u + x);
        if (shown < 0)
          clear(to + x * pitch, 1, channels);
        else
          copy(to + x * pitch, 1, source + shown * position_step, channel_step, channels);
      }
    };
    if (source.shown == 0) {
      edge(0, block.width);
      continue;
    }
    edge(0, low);
    Source<S, E> inner = source + (first_u + low) * position_step;
    if (!beside_each_other(source, channel_step))
      copy_turned(inner, channel_step, position_step, channels, high - low, to + low * pitch, pitch,
                  end);
    else if (position_step == channels * channel_step && channels == pitch)
      copy(to + low * pitch, 1, inner, channel_step, (high - low) * pitch);
    else
      for (int64_t x = low; x < high; ++x, inner = inner + position_step)
        copy(to + x * pitch, 1, inner, channel_step, channels);
    edge(high, block.width);
  }
}

// Some channels of a sample's rows from `row` on, `depth` numbers from `from` on, as `count`
// elements of a position; of a depth that fills no last element, that apart.
template <class S, class E>
void fill_channels(const CorrelateJob& job, const PaddedBlock& block, int64_t row, const S* from,
                   int64_t depth, int64_t count, E* to, int64_t pitch) {
  const View& view = job.source;
  const S* end =
      end_of<S>(view, job.segments * job.batch, job.groups * job.depth, job.h.limit, job.w.limit);
  int64_t complete = least(count, depth / kNumbers<E>);
  auto fill = [&](int64_t index, int64_t some) {
    Source<S, E> source = element_of_line<E>(from, view.c, index, depth);
    auto row_at = [&](int64_t v) {
      if (!block.is_read(job.h, v - job.h.base[row], job.h.step)) return Source<S, E>::unread();
      int64_t y = source_or_none(job.h, v);
      return y < 0 ? Source<S, E>{from, 0, 0} : source + y * view.h;
    };
    fill_padded(block, job.h.base[row] + block.low_h, row_at, kNumbers<E> * view.c, view.w, job.w,
                some, to + index, pitch, end);
  };
  if (complete > 0) fill(0, complete);
  if (complete < count) fill(complete, 1);
}
