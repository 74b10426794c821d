// Winograd's minimal filtering: m outputs of a correlation with r taps from m + r - 1 = 6 products.
//
//     y = Aᵀ [(G g) ⊙ (Bᵀ d)]        d: 6 inputs, g: r taps, y: m = 7 - r outputs
//
// Both polynomials are evaluated at six points, multiplied there, and the product is interpolated
// (Toom-Cook, transposed; S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and
// S. Gray, Fast Algorithms for Convolutional Neural Networks, 2016). The points 0, ±5/8, ±3/2, ∞
// round less than half as much as the usual 0, ±1, ±2, ∞, and are exact in binary. In two
// dimensions each transform is applied to columns, then to rows.

constexpr int kPoints = 6;
constexpr double kPoint[kPoints - 1] = {0, 0.625, -0.625, 1.5, -1.5};  // and ∞

template <int ROWS, int COLUMNS>
struct Matrix {
  double at[ROWS][COLUMNS] = {};
};

// Aᵀ: powers of the points; ∞ has the highest alone.
template <int M>
constexpr Matrix<M, kPoints> interpolation() {
  Matrix<M, kPoints> a;
  for (int j = 0; j < kPoints - 1; ++j) {
    double power = 1;
    for (int i = 0; i < M; ++i, power *= kPoint[j]) a.at[i][j] = power;
  }
  a.at[M - 1][kPoints - 1] = 1;
  return a;
}

// G: powers of the points, over the derivative there of ∏(x - point).
template <int R>
constexpr Matrix<kPoints, R> filter_evaluation() {
  Matrix<kPoints, R> g;
  for (int i = 0; i < kPoints - 1; ++i) {
    double power = 1;
    for (int other = 0; other < kPoints - 1; ++other)
      if (other != i) power /= kPoint[i] - kPoint[other];
    for (int j = 0; j < R; ++j, power *= kPoint[i]) g.at[i][j] = power;
  }
  g.at[kPoints - 1][R - 1] = 1;
  return g;
}

// Bᵀ: the coefficients of ∏(x - other points); of all of them in the last row.
constexpr Matrix<kPoints, kPoints> input_evaluation() {
  Matrix<kPoints, kPoints> b;
  for (int i = 0; i < kPoints; ++i) {
    b.at[i][0] = 1;
    for (int other = 0, degree = 0; other < kPoints - 1; ++other) {
      if (other == i) continue;
      for (int j = ++degree; j >= 0; --j)
        b.at[i][j] = (j > 0 ? b.at[i][j - 1] : 0) - kPoint[other] * b.at[i][j];
    }
  }
  return b;
}

template <int R>
struct FilterEvaluation {
  static constexpr int columns = R;
  static constexpr Matrix<kPoints, R> matrix = filter_evaluation<R>();
};
struct InputEvaluation {
  static constexpr int columns = kPoints;
  static constexpr Matrix<kPoints, kPoints> matrix = input_evaluation();
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
template <class E, class V>
inline void evaluate(const V* x, V* y) {
  y[0] = dot<E, 0, 0, 1>(x);
  V even = dot<E, 1, 0, 2>(x), odd = dot<E, 1, 1, 2>(x);
  y[1] = even + odd;
  y[2] = even - odd;
  even = dot<E, 3, 0, 2>(x), odd = dot<E, 3, 1, 2>(x);
  y[3] = even + odd;
  y[4] = even - odd;
  y[5] = dot<E, 5, 0, 1>(x);
}

// y = Aᵀ · x, M outputs; again p and -p share what they can.
template <int M, class V>
inline void interpolate(const V* x, V* y) {
  using T = std::remove_reference_t<decltype(y[0][0] + y[0][0])>;
  constexpr Matrix<M, kPoints> a = interpolation<M>();
  V even[2] = {x[1] + x[2], x[3] + x[4]}, odd[2] = {x[1] - x[2], x[3] - x[4]};
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
    const V* part = i % 2 == 0 ? even : odd;
    y[i] = i == 0 ? x[0] + part[0] + part[1] : T(a.at[i][1]) * part[0] + T(a.at[i][3]) * part[1];
  }
  y[M - 1] += x[5];
}

// to[point] = matrix · tile · matrixᵀ, for a tile of SIZE x SIZE vectors in lines of `width` ones.
// The lines `next` behind are asked for: with 36 planes to write to, stores that find none in the
// first-level cache are what a processor waits for.
template <class E, int SIZE, class T>
inline void evaluate_tile(const T* tile, int64_t width, T* to, int64_t plane, int64_t next) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V half[kPoints][SIZE], line[kPoints];
#pragma GCC unroll 8
  for (int j = 0; j < SIZE; ++j) {
    V column[SIZE];
    for (int i = 0; i < SIZE; ++i)
      column[i] = *reinterpret_cast<const V*>(tile + (i * width + j) * lanes);
    evaluate<E>(column, line);
    for (int i = 0; i < kPoints; ++i) half[i][j] = line[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPoints; ++i) {
    evaluate<E>(half[i], line);
    for (int j = 0; j < kPoints; ++j) {
      T* place = to + (i * kPoints + j) * plane;
      *reinterpret_cast<V*>(place) = line[j];
      __builtin_prefetch(place + next, 1);
    }
  }
}

// tile = Aᵀ · product · A + bias, of M x M vectors in lines of `width` ones; `next` as above.
// Returns a number that is not 0 where one of them is a NaN or Inf.
template <int M, class T>
inline typename Vector<T>::type interpolate_tile(const T* product, int64_t plane, int64_t next,
                                                 typename Vector<T>::type bias, T* tile,
                                                 int64_t width) {
  using V = typename Vector<T>::type;
  constexpr int64_t lanes = Vector<T>::lanes;
  V half[M][kPoints], line[M], special = {};
#pragma GCC unroll 8
  for (int j = 0; j < kPoints; ++j) {
    V column[kPoints];
    for (int i = 0; i < kPoints; ++i) {
      const T* place = product + (i * kPoints + j) * plane;
      column[i] = *reinterpret_cast<const V*>(place);
      __builtin_prefetch(place + next);
    }
    interpolate<M>(column, line);
    for (int i = 0; i < M; ++i) half[i][j] = line[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
    interpolate<M>(half[i], line);
    for (int j = 0; j < M; ++j) {
      V value = line[j] + bias;
      special += value * 0;
      *reinterpret_cast<V*>(tile + (i * width + j) * lanes) = value;
    }
  }
  return special;
}
