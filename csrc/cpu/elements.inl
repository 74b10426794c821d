// What the dense ways multiply: the elements of their packed blocks. An element is a number in
// compute precision, or, where the processor has an instruction for it (AVX512_BF16's vdpbf16ps), a
// pair of bfloat16 that follow each other in the sum:
//
//     sum[lane] += a.first · b[lane].first + a.second · b[lane].second
//
// Pairs halve the bytes of a block and the steps of a sum; loops over elements stay as they are.
// Sums are float. The instruction takes subnormal numbers as zero, and adds the second product
// first, each sum rounded to nearest even.

using Pair = uint32_t;  // the first in the low half

template <class S>
struct Element {
  using type = typename Compute<S>::type;
};
#ifdef FULLCONV_BF16_PAIRS
template <>
struct Element<BFloat16> {
  using type = Pair;
};
#endif

template <class E>
struct Sum {
  using type = E;
};
template <>
struct Sum<Pair> {
  using type = float;
};

template <class E>
constexpr int64_t kNumbers = std::is_same_v<E, Pair> ? 2 : 1;  // of an element
constexpr Pair kFirstOnly = 0xffff;

// What an element consists of in memory, where a pair may begin at any number.
template <class E>
using Number = std::conditional_t<std::is_same_v<E, Pair>, BFloat16, E>;
template <class E>
inline E element_at(const Number<E>* at) {
  E element;
  __builtin_memcpy(&element, at, sizeof(E));
  return element;
}

// sum + a · b, in each lane of b.
template <class V, class E>
inline V multiply_add(E a, typename Vector<E>::type b, V sum) {
#ifdef FULLCONV_BF16_PAIRS
  if constexpr (std::is_same_v<E, Pair>)
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)),
                               (__m512bh)b);
  else
#endif
    return sum + a * b;
}

// Where elements are read: numbers at from[i], or pairs of those at from[i] and from[i + second],
// as far as `shown` has bits for them.
template <class S, class E>
struct Source {
  const S* from;
  int64_t second = 0;
  Pair shown = ~Pair{0};
  bool is_read = true;  // by some tap

  static Source unread() { return {nullptr, 0, 0, false}; }
  static Source first_only(const S* from) { return {from, 0, kFirstOnly}; }
  // Numbers of two lines, either of which may be less than 0 for zeros.
  static Source lines(const S* from, int64_t stride, int64_t first, int64_t second) {
    if (first < 0 && second < 0) return {from, 0, 0};
    if (second < 0) return first_only(from + first * stride);
    if (first < 0) return {from + second * stride, 0, 0xffff0000u};
    return {from + first * stride, (second - first) * stride};
  }

  Source operator+(int64_t offset) const { return {from + offset, second, shown}; }
  int64_t reach() const { return second > 0 ? second : 0; }

  E operator[](int64_t i) const {
    if constexpr (std::is_same_v<E, Pair>)
      return (from[i].bits | static_cast<Pair>(from[i + second].bits) << 16) & shown;
    else if constexpr (std::is_same_v<S, E>)
      return from[i];
    else
      return widen(from[i]);
  }
  // A vector of elements that lie STEP numbers apart: one, or as many as they have.
  template <int64_t STEP = 1>
  auto vector() const {
    if constexpr (!std::is_same_v<E, Pair>) {
      return load<E>(from);
    } else if constexpr (STEP == kNumbers<E>) {
      typename Vector<E>::type pairs;
      __builtin_memcpy(&pairs, from, sizeof(pairs));
      return pairs & shown;
    } else {
      HalfWords bits[2];
      __builtin_memcpy(&bits[0], from, sizeof(HalfWords));
      __builtin_memcpy(&bits[1], from + second, sizeof(HalfWords));
      return (words(bits[0]) | words(bits[1]) << 16) & shown;
    }
  }
};

// Element `index` of a line of `count` numbers that lie `stride` apart.
template <class E, class S>
inline Source<S, E> element_of_line(const S* from, int64_t stride, int64_t index, int64_t count) {
  from += index * kNumbers<E> * stride;
  if (kNumbers<E> * index + 1 < count) return {from, stride};
  return Source<S, E>::first_only(from);
}

template <class E>
inline int64_t elements(int64_t numbers) {
  return quotient_up(numbers, kNumbers<E>);
}

// Whether elements of a source that lie `step` numbers apart are neighbours in memory.
template <class S, class E>
inline bool beside_each_other(const Source<S, E>& source, int64_t step) {
  return step == 1 || (step == kNumbers<E> && source.second == 1 && source.shown == ~Pair{0});
}

template <class S, class E>
inline void copy(E* to, int64_t to_step, Source<S, E> from, int64_t from_step, int64_t count) {
  if (to_step == 1 && from_step == 1)
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  else if (to_step == 1 && beside_each_other(from, from_step))
    __builtin_memcpy(to, from.from, count * sizeof(E));
  else
    for (int64_t i = 0; i < count; ++i) to[i * to_step] = from[i * from_step];
}

// Loads `lanes` lines of `lanes` elements and turns them: square[i] is element i of each line. The
// last of `lines` stands for those behind it.
template <int64_t STEP, class S, class E>
inline void load_turned(Source<S, E> from, int64_t stride, int64_t lines,
                        typename Vector<E>::type (&square)[Vector<E>::lanes]) {
  if (lines >= Vector<E>::lanes) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < Vector<E>::lanes; ++i)
      square[i] = (from + i * stride).template vector<STEP>();
  } else {
    for (int64_t i = 0; i < Vector<E>::lanes; ++i)
      square[i] = (from + least(i, lines - 1) * stride).template vector<STEP>();
  }
  transpose<E>(square);
}

// Whether there is a NaN or Inf among the elements seen.
template <class E>
class Special {
 public:
  void see(typename Vector<E>::type value) {
    if constexpr (std::is_same_v<E, Pair>)  // adding carries where all bits of an exponent are set
      found_ |= ((value & 0x7f807f80u) + 0x00800080u) & 0x80008000u;
    else
      found_ += value * 0;
  }
  bool any() const { return any_lane(found_); }

 private:
  typename Vector<E>::type found_ = {};
};
