// Strips: some rows and columns of one vector of channels, in compute precision, as
// [row][column][lane]. What transforms tiles of an image reads and writes strips, and is the same
// for every layout, storage type and padding mode.

constexpr int64_t kStripColumns = 32;  // of the tiles of a strip, beside what they overlap

// Where a strip is in an image: its first row and column, counted as base + offset of the axis
// maps, and the steps to the next ones.
struct Place {
  int64_t y, x, rows, columns, step_y, step_x;
};

template <class S, class T>
inline void load_pixel(const S* from, int64_t stride, int64_t channels, T* to) {
  constexpr int64_t lanes = Vector<T>::lanes;
  if (stride == 1) {
    *reinterpret_cast<typename Vector<T>::type*>(to) = load_some<T>(from, channels);
  } else {
    for (int64_t c = 0; c < channels; ++c) to[c] = widen(from[c * stride]);
    for (int64_t c = channels; c < lanes; ++c) to[c] = 0;
  }
}

// `from` is the first of `channels` channels, at most a vector of them.
template <class S, class T>
void load_strip(const S* from, const View& strides, int64_t channels, const AxisMap& h,
                const AxisMap& w, const Place& place, T* to) {
  constexpr int64_t lanes = Vector<T>::lanes;
  int64_t low = place.x >= 0 ? 0 : least(place.columns, quotient_up(-place.x, place.step_x));
  int64_t high = least(place.columns, quotient_up(w.limit - place.x, place.step_x));
  if (high < low) high = low;
  for (int64_t i = 0; i < place.rows; ++i, to += place.columns * lanes) {
    int64_t y = source_or_none(h, place.y + i * place.step_y);
    if (y < 0) {
      clear(to, 1, place.columns * lanes);
      continue;
    }
    const S* row = from + y * strides.h;
    auto edge = [&](int64_t j, int64_t end) {
      for (; j < end; ++j) {
        int64_t x = source_or_none(w, place.x + j * place.step_x);
        if (x < 0)
          clear(to + j * lanes, 1, lanes);
        else
          load_pixel(row + x * strides.w, strides.c, channels, to + j * lanes);
      }
    };
    edge(0, low);
    int64_t j = low, step = place.step_x * strides.w;
    if (strides.c != 1 && (step == 1 || step == 2)) {
      const S* first = row + place.x * strides.w + j * step;
      if (step == 1)
        load_transposed<1>(first, strides.c, channels, high - j, to + j * lanes, lanes);
      else
        load_transposed<2>(first, strides.c, channels, high - j, to + j * lanes, lanes);
      j = high;
    }
    for (; j < high; ++j)
      load_pixel(row + place.x * strides.w + j * step, strides.c, channels, to + j * lanes);
    edge(high, place.columns);
  }
}

// The first `rows` x `columns` of a strip of `width` columns, to where `to` and `strides` say.
template <class S, class T>
void store_strip(const T* from, int64_t width, int64_t rows, int64_t columns, int64_t channels,
                 S* to, const View& strides) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  for (int64_t i = 0; i < rows; ++i, from += width * lanes, to += strides.h) {
    if (strides.c != 1 && strides.w == 1) {
      store_transposed<1>(from, lanes, columns, channels, to, strides.c);
    } else if (strides.c != 1 && strides.w == 2) {
      store_transposed<2>(from, lanes, columns, channels, to, strides.c);
    } else {
      for (int64_t j = 0; j < columns; ++j) {
        const T* pixel = from + j * lanes;
        S* at = to + j * strides.w;
        if (strides.c == 1)
          store_some<T>(*reinterpret_cast<const V*>(pixel), channels, at);
        else
          for (int64_t c = 0; c < channels; ++c) narrow(pixel[c], at[c * strides.c]);
      }
    }
  }
}

// Asks for the lines of a strip that is going to be read or written. Inlined always: GCC takes a
// function that only prefetches for one that does nothing, and leaves its calls out.
template <bool WRITTEN, class S>
__attribute__((always_inline)) inline void prefetch_strip(int64_t rows, int64_t columns,
                                                          int64_t channels, const S* to,
                                                          const View& strides) {
  bool along_channels = strides.c == 1;
  int64_t inner = along_channels ? channels : columns, outer = along_channels ? columns : channels;
  int64_t step = along_channels ? strides.w : strides.c;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < outer; ++j)
      for (int64_t k = 0; k < inner; k += kLine<S>)
        __builtin_prefetch(to + i * strides.h + j * step + k, WRITTEN);
}

// Asks for row i of a strip that load_strip is going to read; inlined like prefetch_strip.
template <class S>
__attribute__((always_inline)) inline void prefetch_row(const S* from, View strides,
                                                        int64_t channels, const AxisMap& h,
                                                        const AxisMap& w, const Place& place,
                                                        int64_t i) {
  int64_t y = source_or_none(h, place.y + i * place.step_y);
  int64_t low = place.x >= 0 ? 0 : quotient_up(-place.x, place.step_x);
  int64_t high = least(place.columns, quotient_up(w.limit - place.x, place.step_x));
  if (y < 0 || high <= low) return;
  from += y * strides.h + (place.x + low * place.step_x) * strides.w;
  strides.w *= place.step_x;
  prefetch_strip<false>(1, high - low, channels, from, strides);
}
