"use strict";
// The matrices of a view, and the piece that is laid over one of them.

const byId = (id) => document.getElementById(id);
const cellOf = (name, index) => byId(`${name}-${index[0] + 1}-${index[1] + 1}`);
const focusable = (cell) => cell.querySelector("input") ?? cell;

const captions = {
  padded: (name) =>
    letter(name) +
    (name === "dX" ? " so far" : "") +
    (state.layer.some((axis) => axis.padding + axis.surplus) ? ", with its padding" : ""),
  plain: (name) => letter(name),
  spread: (name) => {
    const between = state.layer.some((axis) => axis.stride > 1);
    return `${letter(name)} with zeros ${between ? "between and " : ""}around`;
  },
};

/** A matrix on the page. Places that show no element are zeros. */
function board(kind, name, { rotated = false, caption = captions[kind](name) } = {}) {
  const [down, across] = state.layer.map((axis) => boardAxis(kind, name, axis));
  const cells = make("div", { className: "cells", role: "grid" });
  cells.setAttribute("aria-label", caption);
  const order = ({ first, last }) => {
    const list = range(last - first + 1).map((k) => first + k);
    return rotated ? list.reverse() : list;
  };
  for (const q of order(down)) {
    const row = make("div", { role: "row" });
    for (const p of order(across)) {
      const index = [down.at(q), across.at(p)];
      row.append(
        index.includes(null)
          ? make("div", { className: "cell zero", role: "gridcell" }, "0")
          : cell(name, index),
      );
    }
    cells.append(row);
  }
  const columns = across.last - across.first + 1;
  cells.style.setProperty("--columns", columns);
  cells.origin = [down.first, across.first];
  cells.addEventListener("keydown", (event) => move(event, name, rotated));
  focusable(cells.querySelector(".cell:not(.zero)")).tabIndex = 0;
  const figure = make(
    "figure",
    {},
    make("figcaption", { className: ROLES[name] }, caption),
    make("div", { className: "scroll" }, cells),
  );
  figure.columns = columns;
  return figure;
}

function cell(name, index) {
  const element = make(
    "div",
    {
      id: `${name}-${index[0] + 1}-${index[1] + 1}`,
      role: "gridcell",
      className: `cell ${ROLES[name]}`,
    },
    Object.assign(symbol(name, index), { ariaHidden: "true" }),
  );
  element.name = name;
  element.index = index;
  element.append(
    name in state.numbers
      ? make("input", { inputMode: "decimal", autocomplete: "off", spellcheck: false })
      : make("span", { className: "value", ariaHidden: "true" }),
  );
  focusable(element).tabIndex = -1;
  return element;
}

/** Arrow keys, Home and End go to another cell of a matrix. */
function move(event, name, rotated) {
  const steps = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    Home: [0, -99],
    End: [0, 99],
  };
  const step = steps[event.key];
  const from = event.target.closest(".cell")?.index;
  if (!step || !from) return;
  event.preventDefault();
  const size = sizeOf(name);
  const to = from.map((at, axis) =>
    Math.min(size[axis] - 1, Math.max(0, at + (rotated ? -step[axis] : step[axis]))),
  );
  focusable(cellOf(name, to)).focus();
}

/** The first cell with the most products: what a view starts with. */
function busiest(name) {
  const counts = {};
  for (const product of listed())
    counts[place(product, name)] = (counts[place(product, name)] ?? 0) + 1;
  const most = Math.max(...Object.values(counts));
  const [rows, columns] = sizeOf(name);
  const cells = range(rows).flatMap((r) => range(columns).map((c) => [r, c]));
  return cells.find((index) => counts[index] === most) ?? [0, 0];
}

/** Draws the matrices of the view anew; `turning` shows the filter's rotation as a movement. */
function build(turning = false) {
  const { source, piece, result, rotated, operator } = view();
  const figures = {
    source: board(source[1], source[0]),
    piece: board("plain", piece, {
      rotated,
      caption: rotated ? `${letter(piece)} rotated by 180°` : letter(piece),
    }),
    result: board(result[1], result[0]),
  };
  const boards = byId("boards");
  const sign = (text) =>
    make("span", { className: "operator", ariaHidden: "true", title: OPERATORS[text] }, text);
  boards.replaceChildren(figures.source, sign(operator), figures.piece, sign("="), figures.result);
  for (const [part, figure] of Object.entries(figures))
    boards.style.setProperty(`--${part}`, figure.columns);
  boards.dataset.view = viewName();
  figures.piece.classList.toggle("turning", turning && Boolean(rotated));

  const under = view().chosenOn === "source" ? figures.result : figures.source;
  const [rows, columns] = sizeOf(piece);
  for (const r of range(rows))
    for (const s of range(columns)) {
      const tile = make(
        "div",
        { className: `tile ${ROLES[piece]}`, ariaHidden: "true" },
        make("b"),
      );
      tile.index = [r, s];
      under.querySelector(".cells").append(tile);
    }
  const size = sizeOf(walked());
  state.chosen = viewName() === "scatter" ? [0, 0] : busiest(walked());
  byId("step").max = size[0] * size[1];
  byId("idea").textContent = view().idea;
  byId("forms").hidden = state.pass !== "dX";
  byId("stage").setAttribute("aria-labelledby", `pass-${state.pass}`);
  for (const name of Object.keys(PASSES)) {
    const tab = byId(`pass-${name}`);
    tab.ariaSelected = String(name === state.pass);
    tab.tabIndex = name === state.pass ? 0 : -1;
  }
  update();
}

/** Lays the piece over its board for the chosen cell. */
function layTiles(terms) {
  const { piece, lay } = view();
  const at = state.layer.map((axis, k) => new Map(lay(axis, state.chosen[k])));
  for (const tile of document.querySelectorAll(".tile")) {
    const { origin } = tile.parentElement;
    const where = tile.index.map((k, axis) => at[axis].get(k) - origin[axis]);
    tile.style.setProperty("--row", where[0]);
    tile.style.setProperty("--column", where[1]);
    const text =
      viewName() === "scatter"
        ? `+${brief(number(piece, tile.index) * number("dO", state.chosen))}`.replace("+−", "−")
        : `×${brief(number(piece, tile.index))}`;
    tile.querySelector("b").textContent = text;
    tile.classList.toggle("idle", !terms.some((term) => same(place(term, piece), tile.index)));
  }
}
