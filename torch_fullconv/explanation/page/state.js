"use strict";
// What the reader has chosen, what follows from it, and how things are named.

const given = JSON.parse(document.getElementById("given").textContent);
const FIELDS = ["size", "kernel", "stride", "padding", "dilation", "surplus"];
const CAPTIONS = {
  size: "Input",
  kernel: "Filter",
  stride: "Stride",
  padding: "Padding",
  dilation: "Dilation",
  surplus: "More padding at the end",
};

const state = {
  layer: structuredClone(given.layer), // [rows, columns]
  numbers: Object.fromEntries(["X", "F", "dO"].map((name) => [name, grown(given[name])])),
  pass: "dX",
  form: "gather",
  chosen: [0, 0],
};

/** The matrix continued with small integers, as far as the fields let O grow (12 + 4 + 4 + 4). */
function grown(matrix) {
  return range(24).map((r) =>
    range(24).map((c) => matrix[r]?.[c] ?? ((3 * r + 5 * c + r * c) % 7) - 2),
  );
}

const viewName = () => (state.pass === "dX" ? state.form : state.pass);
const view = () => VIEWS[viewName()];
/** The matrix whose cells are chosen and walked through, and a cell's position on that walk. */
const walked = () => view()[view().chosenOn][0];
const position = ([r, c]) => r * sizeOf(walked())[1] + c;
const isGiven = () => JSON.stringify(state.layer) === JSON.stringify(given.layer);
const listed = () => (isGiven() ? given.products : products(state.layer));

function sizeOf(name) {
  return state.layer.map(
    (axis) => ({ X: axis.size, F: axis.kernel, O: outputs(axis) })[name.at(-1)],
  );
}

/** O, δF or δX: its matrix, from those products that `taken` accepts, each as `of` has it. */
function added(pass, list, taken = () => true, of = (value) => value) {
  const [rows, columns] = sizeOf(pass);
  const sums = range(rows).map(() => Array(columns).fill(0));
  for (const product of list)
    if (taken(product)) {
      const [r, c] = place(product, pass);
      const [a, b] = PASSES[pass].map((name) => number(name, place(product, name)));
      sums[r][c] += of(a * b);
    }
  return sums;
}

const number = (name, [r, c]) => state.numbers[name][r][c];

const shown = (value, digits = 3) => String(Number(value.toFixed(digits)) || 0).replace("-", "−");
const brief = (value) => shown(value, 2); // for cells
const indices = (name, [r, c]) => `${r + 1}${Math.max(...sizeOf(name)) > 9 ? "," : ""}${c + 1}`;
const letter = (name) => name.replace("d", "δ");
const spoken = (name, [r, c]) =>
  `${name.length > 1 ? "gradient of " : ""}${name.at(-1)} row ${r + 1} column ${c + 1}`;

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties))
    key in element ? (element[key] = value) : element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const symbol = (name, index) =>
  make("var", { className: ROLES[name] }, letter(name), make("sub", {}, indices(name, index)));
const numeral = (name, value) => make("b", { className: ROLES[name] }, shown(value));
