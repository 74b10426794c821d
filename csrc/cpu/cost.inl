// What a way costs: about how long it takes, counted from the geometry, in multiply-adds of a
// vector. Of the ways that can do a job the cheapest does it.
//
// A cost is a sum of counts (products, loads that products do not hide, elements copied, results
// stored), each with a weight: least squares of the times of some thousand random layers, measured
// one way after the other (docs/decisions.md). It is one sample's, so that no result depends on the
// batch; a filter gradient's is one segment's.

// Pairs of a position and a tap that direct sums take: zeros of the padding are left out.
inline double terms_of(const AxisMap& axis) {
  if (axis.padding != Padding::zeros) return 1.0 * axis.positions * axis.taps;
  double terms = 0;
  for (int64_t r = 0; r < axis.taps; ++r) terms += axis.inner[r].second - axis.inner[r].first;
  return terms;
}
