// Panels of positions: the micro-kernel's operand [depth][kColumns], copied from where positions
// lie in equal steps.

// The step from one position of an image to the next, or 0 if they do not lie in equal steps.
inline int64_t step_of_positions(const View& view, const AxisMap& h, const AxisMap& w) {
  if (h.positions == 1) return w.positions == 1 ? 1 : view.w;
  if (w.positions == 1) return view.h;
  return view.h == w.positions * view.w ? view.w : 0;
}

// Up to kColumns positions that are neighbours, zeros behind them.
template <class T, class S>
void copy_panel(const S* from, int64_t stride, int64_t depth, int64_t count, T* to) {
  constexpr int64_t width = kColumns<T>, lanes = Vector<T>::lanes;
  for (int64_t k = 0; k < depth; ++k, from += stride, to += width) {
    if (count == width) {
#pragma GCC unroll 4
      for (int64_t x = 0; x < width; x += lanes) store<T>(load<T>(from + x), to + x);
    } else {
      copy(to, 1, from, 1, count);
      clear(to + count, 1, width - count);
    }
  }
}

// Up to kColumns positions, `step` apart, of a depth whose elements are neighbours.
template <class T, class S>
void turn_panel(const S* from, int64_t step, int64_t depth, int64_t count, T* to) {
  constexpr int64_t lanes = Vector<T>::lanes;
  for (int64_t x = 0; x < kColumns<T>; x += lanes)
    load_transposed(from + x * step, step, most<int64_t>(count - x, 0), depth, to + x, kColumns<T>);
}

// A copied panel. Its first tile asks for what the next one will be copied from.
template <class T, class S>
struct CopiedPanel {
  static constexpr int64_t step = Vector<T>::lanes, sum_step = step;
  const T* data;
  const S* next;
  int64_t stride;
  const T* at(int64_t k) const { return data + k * kColumns<T>; }
  void prefetch(int64_t k) const {
    for (int64_t i = 0; i < kColumns<T>; i += kLine<S>)
      __builtin_prefetch(next + k * stride + i, 0, 2);
  }
};
