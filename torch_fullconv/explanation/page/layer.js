"use strict";
// A layer is a list of products: output O[i,j], filter tap F[r,s] and input X[y,x] meet once or not
// at all. Each pass adds the products of two of them up by the place of the third; everything the
// page shows is read off that list.

/** The number of outputs along one axis. */
function outputs({ size, kernel, stride, padding, dilation, surplus }) {
  const padded = size + 2 * padding + surplus;
  return Math.floor((padded - dilation * (kernel - 1) - 1) / stride) + 1;
}

/** Every [i, r, x] along one axis: output i meets input x through filter tap r. */
function meetings(axis) {
  const found = [];
  for (let i = 0; i < outputs(axis); i++)
    for (let r = 0; r < axis.kernel; r++) {
      const x = i * axis.stride + r * axis.dilation - axis.padding;
      if (x >= 0 && x < axis.size) found.push([i, r, x]);
    }
  return found;
}

/** Every product of a layer, as the three places that meet in it. */
function products([rows, columns]) {
  const across = meetings(columns);
  return meetings(rows).flatMap(([i, r, y]) =>
    across.map(([j, s, x]) => ({ O: [i, j], F: [r, s], X: [y, x] })),
  );
}

const PASSES = { O: ["F", "X"], dF: ["dO", "X"], dX: ["F", "dO"] };
const ROLES = {
  X: "input",
  F: "filter",
  O: "output",
  dX: "gradient",
  dF: "gradient",
  dO: "gradient",
};
const OPERATORS = { "⋆": "correlated with", "×": "times", "=": "is" };
const range = (count) => Array.from({ length: count }, (_, k) => k);
const same = (a, b) => a[0] === b[0] && a[1] === b[1];
const place = (product, name) => product[name.at(-1)]; // δX has the places of X

// What each view lays over what. `lay` gives, along one axis and for the chosen index k, each
// element of the piece and the board's coordinate that it lies on.
const tapsFrom = (axis, k) =>
  range(axis.kernel).map((r) => [r, k * axis.stride + r * axis.dilation - axis.padding]);
const VIEWS = {
  O: {
    source: ["X", "padded"],
    piece: "F",
    result: ["O", "plain"],
    chosenOn: "result",
    lay: tapsFrom,
    operator: "⋆",
    idea: "Lay F over X, multiply what lies on each other, add up. The next output is one stride further on.",
  },
  dF: {
    source: ["X", "padded"],
    piece: "dO",
    result: ["dF", "plain"],
    chosenOn: "result",
    operator: "⋆",
    lay: (axis, k) =>
      range(outputs(axis)).map((i) => [i, i * axis.stride + k * axis.dilation - axis.padding]),
    idea:
      "Each output used this tap once, on one element of X. So lay δO over those elements, a stride apart: " +
      "another correlation, of X with δO.",
  },
  gather: {
    source: ["dO", "spread"],
    piece: "F",
    result: ["dX", "plain"],
    chosenOn: "result",
    rotated: true,
    operator: "⋆",
    lay: (axis, k) => range(axis.kernel).map((r) => [r, k + axis.padding - r * axis.dilation]),
    idea:
      "Ask one element of X which outputs used it: the first through its last tap, the last through its first. " +
      "Seen from X, F lies on δO rotated by 180°.",
  },
  scatter: {
    source: ["dO", "plain"],
    piece: "F",
    result: ["dX", "padded"],
    chosenOn: "source",
    lay: tapsFrom,
    operator: "×",
    idea:
      "Each δO adds F, as it is, times itself to the window of X that it came from. No flip: " +
      "the rotation appears when one element of X collects what arrived.",
  },
};

/** What a board shows along one axis: coordinates first to last, and the index at each, or null. */
function boardAxis(kind, name, axis) {
  const count = { X: axis.size, F: axis.kernel, O: outputs(axis) }[name.at(-1)];
  const inside = (index) => (index >= 0 && index < count ? index : null);
  if (kind === "plain") return { first: 0, last: count - 1, at: inside };
  if (kind === "padded")
    return { first: -axis.padding, last: count - 1 + axis.padding + axis.surplus, at: inside };
  return {
    // spread: stride - 1 zeros between the elements, and as many around as taps can reach
    first: Math.min(0, axis.padding - axis.dilation * (axis.kernel - 1)),
    last: Math.max((count - 1) * axis.stride, axis.size - 1 + axis.padding),
    at: (q) => (q % axis.stride === 0 ? inside(q / axis.stride) : null),
  };
}
