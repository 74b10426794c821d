// Pooling: what its ways share. They gather, also the averages' adjoint: a position of the result
// reduces what it meets in the source, a window of the input or the windows that cover it.
//
// A vector of indices has integers as wide as the values, counted from the window's first element:
// a window spans less than 2^31 elements. Where max_scatter gathers, it compares indices and never
// follows one.

template <class T>
inline typename Lanes<T>::type load_integers(const typename Lanes<T>::Integer* from) {
  typename Lanes<T>::type value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <class T>
inline void store_integers(typename Lanes<T>::type value, typename Lanes<T>::Integer* to) {
  __builtin_memcpy(to, &value, sizeof(value));
}

// The low bits of as many indices as there are lanes.
template <class T, int... I>
inline typename Lanes<T>::type load_low(const int64_t* from,
                                        std::integer_sequence<int, I...> /*lanes*/) {
  if constexpr (sizeof(T) == sizeof(int64_t)) {
    return load_integers<T>(reinterpret_cast<const typename Lanes<T>::Integer*>(from));
  } else {
    const T* words = reinterpret_cast<const T*>(from);
    typename Vector<T>::type low =
        shuffle<T, (2 * I)...>(load<T>(words), load<T>(words + Vector<T>::lanes));
    return bits_as<typename Lanes<T>::type>(low);
  }
}
template <class T>
inline typename Lanes<T>::type load_low(const int64_t* from) {
  return load_low<T>(from, std::make_integer_sequence<int, Vector<T>::lanes>());
}

// from[i * stride] to to[i], widened.
template <class From, class To>
inline void copy_as(const From* from, int64_t stride, int64_t count, To* to) {
  if (stride == 1)
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
  else if (stride == 2)  // a constant, so that this is vector code too
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[2 * i]);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i * stride]);
}

// How many all positions of an axis meet.
inline int64_t count_of(const Meetings& axis) {
  int64_t count = 0;
  for (int64_t p = 0; p < axis.positions; ++p)
    count += quotient_up(most<int64_t>(axis.end[p] - axis.first[p], 0), axis.step);
  return count;
}

// Where the indices lie that some positions meet.
struct Met {
  int64_t begin = 0, end = 0;
  Met(const Meetings& axis, int64_t position, int64_t count) {
    for (int64_t p = position; p < position + count; ++p) {
      if (axis.first[p] >= axis.end[p]) continue;
      begin = end == 0 ? axis.first[p] : least(begin, axis.first[p]);
      end = most(end, axis.end[p]);
    }
  }
};

// What the average at output (i, j) divides by.
template <class T>
inline T divisor(const PoolJob& job, int64_t i, int64_t j) {
  return static_cast<T>(job.divisor ? job.divisor : job.extent_h[i] * job.extent_w[j]);
}

// value / by. A power of two has an exact inverse, and products are cheaper. The lowest integer
// over -1 is beyond them all: it wraps, where a division stops the process.
template <class T>
inline typename Vector<T>::type divide(typename Vector<T>::type value, T by) {
  if constexpr (!std::is_integral_v<T>) {
    T inverse = 1 / by;
    constexpr auto significand = (typename Bits<T>::type(1) << (sizeof(T) == 4 ? 23 : 52)) - 1;
    if ((bits_as<typename Bits<T>::type>(by) & significand) == 0) return value * inverse;
  } else if (by == -1) {
    return -value;
  }
  return value / by;
}

// The storage type's lowest number.
template <class S>
constexpr typename Compute<S>::type lowest() {
  using T = typename Compute<S>::type;
  if constexpr (!std::is_integral_v<S>)
    return -static_cast<T>(__builtin_inf());
  else if constexpr (std::is_unsigned_v<S>)
    return 0;
  else
    return static_cast<T>(T(-1) << (8 * sizeof(S) - 1));
}

// A vector of positions while they reduce what they meet.
template <class S, Pooling POOLING>
struct Reduction {
  using T = typename Compute<S>::type;
  using V = typename Vector<T>::type;
  using Integers = typename Lanes<T>::type;
  static constexpr bool kMax = POOLING == Pooling::max || POOLING == Pooling::max_indices;

  V value = V{} + neutral();
  Integers index = Integers{};  // of the largest so far; the position's own

  static constexpr T neutral() { return kMax ? lowest<S>() : T(0); }

  void add(V met, Integers met_index) {
    if constexpr (kMax) {
      if constexpr (POOLING == Pooling::max_indices) {
        index = met > value ? met_index : index;
        index = met != met ? met_index : index;
      }
      value = met > value ? met : value;
      value = met != met ? met : value;
    } else if constexpr (POOLING == Pooling::max_scatter) {
      value = met_index == index ? value + met : value;
    } else {
      value += met;
    }
  }
};
