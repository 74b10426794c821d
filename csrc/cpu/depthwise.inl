// Depthwise correlation: one source channel, one result channel a group. There is no matrix product
// in it, each element of the source meets one filter, so the work is bound by memory and by loads:
//
//     result[c][position] = Σ_tap filter[c][tap] · source[c][position + tap]
//
// channels beside each other    vectors run along the channels; a pointer for each (tap, position)
// leads
//                               into the source, or to a line of zeros where there is padding
// positions beside each other   vectors run along a row; the rows that a block of the result needs
// are
//                               copied to lines that hold the padding too, and fall apart by the
//                               stride (line[v mod step][v / step]), so that each tap is a plain
//                               shifted load
//
// The filter gradient walks the same way, with an accumulator for each tap.

constexpr int64_t kLineBytes = 1 << 17;  // lines of a task, about

template <class T, class S>
inline typename Vector<T>::type load(const S* from) {
  typename Vector<T>::type result;
  for (int64_t i = 0; i < Vector<T>::lanes; ++i) result[i] = widen(from[i]);
  return result;
}

template <class T>
inline typename Vector<T>::type load(const T* from) {
  return *reinterpret_cast<const typename Vector<T>::type*>(from);
}

template <class T, class S>
inline typename Vector<T>::type load_some(const S* from, int64_t count) {
  typename Vector<T>::type result = {};
  for (int64_t i = 0; i < count; ++i) result[i] = widen(from[i]);
  return result;
}

template <class T>
inline bool is_depthwise(int64_t depth, int64_t rows, int64_t components, const AxisMap& h,
                         const AxisMap& w) {
  return depth == 1 && rows == 1 && components == 1 && h.step > 0 && w.step > 0;
}

// Pointers to what a piece of a row of positions meets, [tap][position], for channel 0.
template <class S>
void find_sources(const Patches<S>& p, int64_t n, int64_t row, int64_t column, int64_t count,
                  int64_t room, const S* zeros, const S** to) {
  for (int64_t tap_h = 0; tap_h < p.h.taps; ++tap_h) {
    int64_t y = source_index(p.h, 0, tap_h, row);
    for (int64_t tap_w = 0; tap_w < p.w.taps; ++tap_w)
      for (int64_t i = 0; i < room; ++i) {
        int64_t x = y < 0 || i >= count ? -1 : source_index(p.w, 0, tap_w, column + i);
        *to++ = x < 0 ? zeros : p.data + n * p.strides.n + y * p.strides.h + x * p.strides.w;
      }
  }
}

// The lines that a block of rows needs of one channel, widened and padded.
struct LineLayout {
  int64_t first_v, rows_of_lines;         // source rows, in virtual coordinates base + offset
  int64_t first_u, phases, phase_length;  // columns likewise, by remainder

  LineLayout(const AxisMap& h, const AxisMap& w, int64_t row, int64_t rows, int64_t slack) {
    auto bounds = [](const AxisMap& axis) {
      std::pair<int64_t, int64_t> found{axis.offset[0], axis.offset[0]};
      for (int64_t tap = 1; tap < axis.taps; ++tap) {
        found.first = least(found.first, axis.offset[tap]);
        found.second = -least(-found.second, -axis.offset[tap]);
      }
      return found;
    };
    auto [low_h, high_h] = bounds(h);
    auto [low_w, high_w] = bounds(w);
    first_v = h.base[0] + h.step * row + low_h;
    rows_of_lines = h.step * (rows - 1) + high_h - low_h + 1;
    first_u = w.base[0] + low_w;
    phases = w.step;
    phase_length = round_up(w.positions, slack) + (high_w - low_w) / w.step + 1;
  }
  int64_t line() const { return phases * phase_length; }
  int64_t size() const { return rows_of_lines * line(); }
};

template <class S, class T>
void fill_lines(const LineLayout& layout, const S* channel, const View& strides, const AxisMap& h,
                const AxisMap& w, T* to) {
  clear(to, 1, layout.size());
  for (int64_t i = 0; i < layout.rows_of_lines; ++i) {
    int64_t y = shown_or_none(layout.first_v + i, h);
    if (y < 0) continue;
    const S* row = channel + y * strides.h;
    for (int64_t phase = 0; phase < layout.phases; ++phase) {
      T* line = to + i * layout.line() + phase * layout.phase_length;
      int64_t u = layout.first_u + phase;  // of line[0]; line[a] shows u + a·phases
      int64_t low = u >= 0 ? 0 : least(layout.phase_length, quotient_up(-u, layout.phases));
      int64_t high =
          u >= w.limit ? 0 : least(layout.phase_length, quotient_up(w.limit - u, layout.phases));
      if (high > low)
        copy<false>(line + low, 1, row + (u + low * layout.phases) * strides.w,
                    layout.phases * strides.w, high - low);
      if (w.padding == Padding::zeros) continue;
      for (int64_t a = 0; a < layout.phase_length; ++a) {
        if (a == low && high > low) a = high;
        if (a >= layout.phase_length) break;
        int64_t x = shown_or_none(u + a * layout.phases, w);
        if (x >= 0) line[a] = widen(row[x * strides.w]);
      }
    }
  }
}

// Where tap (tap_h, tap_w) of the first row's first position lies in the lines.
inline int64_t line_offset(const LineLayout& layout, const AxisMap& h, const AxisMap& w,
                           int64_t row, int64_t tap_h, int64_t tap_w) {
  int64_t v = h.base[0] + h.step * row + h.offset[tap_h] - layout.first_v;
  int64_t u = w.base[0] + w.offset[tap_w] - layout.first_u;
  return v * layout.line() + u % layout.phases * layout.phase_length + u / layout.phases;
}
