// Winograd's minimal filtering: m outputs of a correlation with r taps from N = m + r - 1 products.
//
//     y = Aᵀ [(G g) ⊙ (Bᵀ d)]        d: N inputs, g: r taps, y: m outputs
//
// Both polynomials are evaluated at N points, multiplied there, and the product is interpolated
// (Toom-Cook, transposed; S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and
// S. Gray, Fast Algorithms for Convolutional Neural Networks, 2016). Of 6 points 0, ±5/8, ±3/2, ∞
// round less than half as much as the usual 0, ±1, ±2, ∞, and are exact in binary; 4 points, for 2
// taps, are 0, ±1, ∞, which round about as direct sums do (6 would round three times as much); the
// one point for 1 tap is ∞, where nothing is transformed. In two dimensions each transform is
// applied to columns, then to rows.

template <int N>
constexpr double kPoint[N - 1] = {0, 0.625, -0.625, 1.5, -1.5};  // and ∞
template <>
constexpr double kPoint<4>[3] = {0, 1, -1};
template <>
constexpr double kPoint<1>[1] = {};  // none

template <int ROWS, int COLUMNS>
struct Matrix {
  double at[ROWS][COLUMNS] = {};
};

// Aᵀ: powers of the points; ∞ has the highest alone.
template <int N, int M>
constexpr Matrix<M, N> interpolation() {
  Matrix<M, N> a;
  for (int j = 0; j < N - 1; ++j) {
    double power = 1;
    for (int i = 0; i < M; ++i, power *= kPoint<N>[j]) a.at[i][j] = power;
  }
  a.at[M - 1][N - 1] = 1;
  return a;
}

// G: powers of the points, over the derivative there of ∏(x - point).
template <int N, int R>
constexpr Matrix<N, R> filter_evaluation() {
  Matrix<N, R> g;
  for (int i = 0; i < N - 1; ++i) {
    double power = 1;
    for (int other = 0; other < N - 1; ++other)
      if (other != i) power /= kPoint<N>[i] - kPoint<N>[other];
    for (int j = 0; j < R; ++j, power *= kPoint<N>[i]) g.at[i][j] = power;
  }
  g.at[N - 1][R - 1] = 1;
  return g;
}

// Bᵀ: the coefficients of ∏(x - other points); of all of them in the last row.
template <int N>
constexpr Matrix<N, N> input_evaluation() {
  Matrix<N, N> b;
  for (int i = 0; i < N; ++i) {
    b.at[i][0] = 1;
    for (int other = 0, degree = 0; other < N - 1; ++other) {
      if (other == i) continue;
      for (int j = ++degree; j >= 0; --j)
        b.at[i][j] = (j > 0 ? b.at[i][j - 1] : 0) - kPoint<N>[other] * b.at[i][j];
    }
  }
  return b;
}

template <int N, int R>
struct FilterEvaluation {
  static constexpr int points = N, columns = R;
  static constexpr Matrix<N, R> matrix = filter_evaluation<N, R>();
};
template <int N>
struct InputEvaluation {
  static constexpr int points = N, columns = N;
  static constexpr Matrix<N, N> matrix = input_evaluation<N>();
};

template <class E>
constexpr int next_factor(int row, int j, int step) {  // the first that is not zero, from j on
  while (j < E::columns && E::matrix.at[row][j] == 0) j += step;
  return j;
}

// Σ_j matrix[ROW][j] · x[j] for j = FIRST, FIRST + STEP, ...; a zero costs nothing.
template <class E, int ROW, int FIRST, int STEP, class V>
inline V dot(const V* x) {
  using T = std::remove_reference_t<decltype(x[0][0] + x[0][0])>;
  constexpr int j = next_factor<E>(ROW, FIRST, STEP);
  constexpr int next = next_factor<E>(ROW, j + STEP, STEP);
  constexpr T factor = E::matrix.at[ROW][j];
  V term = factor == 1 ? x[j] : factor * x[j];
  if constexpr (next < E::columns)
    return term + dot<E, ROW, next, STEP>(x);
  else
    return term;
}

// y = matrix · x. The rows of p and -p share the sums over even and over odd powers.
template <class E, int ROW = 0, class V>
inline void evaluate(const V* x, V* y) {
  if constexpr (ROW == 0 || ROW == E::points - 1) {
    y[ROW] = dot<E, ROW, 0, 1>(x);
  } else {
    V even = dot<E, ROW, 0, 2>(x), odd = dot<E, ROW, 1, 2>(x);
    y[ROW] = even + odd;
    y[ROW + 1] = even - odd;
  }
  constexpr int next = ROW == 0 || ROW == E::points - 1 ? ROW + 1 : ROW + 2;
  if constexpr (next < E::points) evaluate<E, next>(x, y);
}

// y = Aᵀ · x, M outputs of N products; again p and -p share what they can.
template <int N, int M, class V>
inline void interpolate(const V* x, V* y) {
  using T = std::remove_reference_t<decltype(y[0][0] + y[0][0])>;
  if constexpr (N == 1) {
    y[0] = x[0];
  } else {
    constexpr int pairs = N / 2 - 1;
    constexpr Matrix<M, N> a = interpolation<N, M>();
    V even[pairs], odd[pairs];
    for (int j = 0; j < pairs; ++j) {
      even[j] = x[2 * j + 1] + x[2 * j + 2];
      odd[j] = x[2 * j + 1] - x[2 * j + 2];
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const V* part = i % 2 == 0 ? even : odd;
      y[i] = i == 0 ? x[0] + part[0] : T(a.at[i][1]) * part[0];
      if constexpr (pairs > 1) y[i] += i == 0 ? part[1] : T(a.at[i][3]) * part[1];
    }
    y[M - 1] += x[N - 1];
  }
}

// The points of a transform along both axes: all, or without ∞.
struct Points {
  int64_t rows, columns;
  int64_t count() const { return rows * columns; }
};

// to[point] = matrix · tile · matrixᵀ, by H's matrix and W's, for a tile of vectors in lines of
// `width` ones. The lines `next` behind are asked for: with that many planes to write to, stores
// that find none in the first-level cache are what a processor waits for.
template <class H, class W, class T>
inline void evaluate_tile(const T* tile, int64_t width, const Points& points, T* to, int64_t plane,
                          int64_t next) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V half[H::points][W::columns];
#pragma GCC unroll 8
  for (int j = 0; j < W::columns; ++j) {
    V column[H::columns], values[H::points];
    for (int i = 0; i < H::columns; ++i)
      column[i] = *reinterpret_cast<const V*>(tile + (i * width + j) * lanes);
    evaluate<H>(column, values);
    for (int i = 0; i < H::points; ++i) half[i][j] = values[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < H::points; ++i) {
    if (i == H::points - 1 && points.rows < H::points) break;
    V line[W::points];
    evaluate<W>(half[i], line);
    for (int j = 0; j < W::points; ++j, to += plane) {
      if (j == W::points - 1 && points.columns < W::points) break;
      *reinterpret_cast<V*>(to) = line[j];
      __builtin_prefetch(to + next, 1);
    }
  }
}

// tile = Aᵀ · product · A + bias, of OH x OW vectors, from NH x NW, in lines of `width` ones;
// `next` as above. Returns a number that is not 0 where one of them is a NaN or Inf. Never inlined:
// its caller would leave it too few registers.
template <int NH, int NW, int OH, int OW, class T>
__attribute__((noinline)) typename Vector<T>::type interpolate_tile(const T* product, int64_t plane,
                                                                    int64_t next,
                                                                    typename Vector<T>::type bias,
                                                                    T* tile, int64_t width) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V half[OH][NW], special = {};
#pragma GCC unroll 8
  for (int j = 0; j < NW; ++j) {
    V column[NH], values[OH];
    for (int i = 0; i < NH; ++i) {
      const T* place = product + (i * NW + j) * plane;
      column[i] = *reinterpret_cast<const V*>(place);
      __builtin_prefetch(place + next);
    }
    interpolate<NH, OH>(column, values);
    for (int i = 0; i < OH; ++i) half[i][j] = values[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < OH; ++i) {
    V line[OW];
    interpolate<NW, OW>(half[i], line);
    for (int j = 0; j < OW; ++j) {
      V value = line[j] + bias;
      special += value * 0;
      *reinterpret_cast<V*>(tile + (i * width + j) * lanes) = value;
    }
  }
  return special;
}
