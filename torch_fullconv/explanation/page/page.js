"use strict";
// What changes with a cell and a number, and what the reader can do.

function update() {
  const { pass, chosen } = state;
  const list = listed();
  const chosenName = walked();
  const taken =
    viewName() === "scatter" ? (product) => position(product.O) <= position(chosen) : undefined;
  const sums = added(pass, list, taken);
  const terms = list.filter((product) => same(place(product, chosenName), chosen));

  for (const element of document.querySelectorAll("#boards .cell:not(.zero)")) {
    const { name, index } = element;
    const value = name in state.numbers ? number(name, index) : sums[index[0]][index[1]];
    const field = element.querySelector("input");
    if (!field) element.querySelector(".value").textContent = brief(value);
    else if (field !== document.activeElement) field.value = brief(value);
    element.classList.toggle("long", brief(value).length > 4);
    element.dataset.value = value;
    focusable(element).ariaLabel = `${spoken(name, index)}: ${shown(value)}`;
    element.classList.toggle(
      "used",
      terms.some((term) => same(place(term, name), index)),
    );
    const isChosen = name === chosenName && same(index, chosen);
    element.classList.toggle("chosen", isChosen);
    if (name === chosenName) {
      element.ariaSelected = String(isChosen);
      focusable(element).tabIndex = isChosen ? 0 : -1;
    }
  }
  layTiles(terms);
  writeEquation(terms, sums);
  writeProof();
  byId("step").value = position(chosen) + 1;
  byId("step").ariaValueText = spoken(chosenName, chosen);
  byId("count").textContent = `${position(chosen) + 1} of ${byId("step").max}`;
}

function writeEquation(terms, sums) {
  const [name, chosen, scatter] = [walked(), state.chosen, viewName() === "scatter"];
  const value = scatter ? number(name, chosen) : sums[chosen[0]][chosen[1]];
  const end = scatter ? " adds" : terms.length ? " =" : "";
  byId("sum").replaceChildren(symbol(name, chosen), " = ", numeral(name, value), end);
  byId("terms").replaceChildren(...terms.map(item));
  byId("terms").classList.toggle("apart", scatter);
  byId("note").textContent = note(terms);

  const subject = scatter ? "adds" : `is ${shown(value)}, the sum of`;
  const read =
    terms.length > 9 ? [] : terms.map((term) => factors(term).map(said).join(", times "));
  const spokenTerms = read.length ? `: ${read.join("; ")}` : "";
  byId("live").textContent =
    `${spoken(name, chosen)} ${subject} ${terms.length} products${spokenTerms}. ${note(terms)}`;
}

/** The two factors of a term: name, index and number of each. */
const factors = (term) =>
  PASSES[state.pass].map((name) => [name, place(term, name), number(name, place(term, name))]);
const said = ([name, index, value]) => `${spoken(name, index)}, ${shown(value)}`;

/** A term in the list: its symbols, and below them its numbers. */
function item(term) {
  const [[a, indexA, valueA], [b, indexB, valueB]] = factors(term);
  const target =
    viewName() === "scatter" ? [symbol(state.pass, place(term, state.pass)), " += "] : [];
  const symbols = [...target, symbol(a, indexA), " ", symbol(b, indexB)];
  const element = make(
    "li",
    {},
    make("span", { className: "symbols" }, ...symbols),
    make("span", { className: "numbers" }, numeral(a, valueA), " × ", numeral(b, valueB)),
  );
  element.addEventListener("pointerenter", () => light(term));
  element.addEventListener("pointerleave", () => light(null));
  return element;
}

/** What there is to say of the elements that the piece lies on without a product. */
function note(terms) {
  const all = document.querySelectorAll(".tile").length;
  const idle = all - terms.length;
  if (viewName() === "scatter") {
    const last = position(state.chosen) + 1 === Number(byId("step").max);
    return (
      (idle ? `${idle} of ${all} products fall on the padding and are dropped. ` : "") +
      (last ? "All of δO has been added: δX is complete." : "")
    );
  }
  if (!terms.length)
    return {
      O: "The filter lies on padding alone.",
      dF: "This tap met padding alone: its gradient is zero.",
      dX: "No output used this element: its gradient is zero.",
    }[state.pass];
  if (!idle) return "";
  const strided = viewName() === "gather" && state.layer.some((axis) => axis.stride > 1);
  const elements = view().piece === "dO" ? "elements of δO" : "taps";
  return (
    `${idle} of the ${all} ${elements} ${idle > 1 ? "lie" : "lies"} on zeros.` +
    (strided
      ? " The kernels put no zeros between: they take the filter apart, a part for each remainder by the stride."
      : "")
  );
}

/** Marks the two factors of one term on the boards. */
function light(term) {
  for (const element of document.querySelectorAll(".lit")) element.classList.remove("lit");
  if (!term) return;
  const { piece } = view();
  for (const element of document.querySelectorAll("#boards .cell:not(.zero), .tile")) {
    const name = element.name ?? piece;
    if (same(place(term, name), element.index)) element.classList.add("lit");
  }
}

function writeProof() {
  const sizes = Object.fromEntries(["X", "F", "dO"].map((name) => [name, sizeOf(name)]));
  const rows = (name) =>
    state.numbers[name]
      .slice(0, sizes[name][0])
      .map((row) => `[${row.slice(0, sizes[name][1]).join(", ")}]`)
      .join(",\n" + " ".repeat(9 + 6 + name.length));
  const tensor = (name) => `${name} = torch.tensor([${rows(name)}], dtype=torch.float64)`;
  const tuple = (field, values) => `${field}=(${values.join(", ")})`;
  const pair = (field) =>
    tuple(
      field,
      state.layer.map((axis) => axis[field]),
    );
  const sides = (axis) => [axis.padding, axis.padding + axis.surplus];
  const padding = state.layer.some((axis) => axis.surplus)
    ? tuple("padding", state.layer.toReversed().flatMap(sides)) // left, right, top, bottom
    : pair("padding");
  byId("code").textContent = [
    "import torch",
    "import torch_fullconv.functional as fc",
    "",
    tensor("X"),
    tensor("F"),
    tensor("dO"),
    `layer = dict(${pair("stride")}, ${padding}, ${pair("dilation")})`,
    "",
    "x, f, g = X[None, None], F[None, None], dO[None, None]  # one sample, one channel, one filter",
    "O = fc.conv2d(x, f, **layer)[0, 0]",
    "dF = fc.conv2d_weight_grad(x, f.shape, g, **layer)[0, 0]",
    "dX = fc.conv2d_input_grad(x.shape, f, g, **layer)[0, 0]",
  ].join("\n");

  const untouched =
    isGiven() &&
    ["X", "F", "dO"].every((name) =>
      given[name].every((row, r) => row.every((value, c) => value === state.numbers[name][r][c])),
    );
  let text =
    "Sizes or numbers are yours now. This code has the kernels compute the three matrices.";
  if (untouched) {
    const close = Object.keys(PASSES).flatMap((pass) => {
      const sums = added(pass, given.products).flat();
      const magnitudes = added(pass, given.products, undefined, Math.abs).flat();
      const bound = (k) => 8 * given.precision * magnitudes[k]; // what rounding can make of a sum
      return given[pass].flat().map((value, k) => Math.abs(value - sums[k]) <= bound(k));
    });
    const equal = close.filter(Boolean).length;
    text =
      `The kernels of torch_fullconv ${given.version} computed this layer when the page was written: ` +
      `${equal} of ${close.length} numbers are the same here.`;
  }
  byId("agreement").textContent = text;
}

// ---------------------------------------------------------------- what the reader does

function choose(index) {
  if (same(index, state.chosen)) return;
  state.chosen = index;
  update();
}

const walk = (distance) => goTo(byId("step").valueAsNumber + distance);

/** Chooses the cell of that number, from 1, or the nearest that there is. */
function goTo(number) {
  const [, columns] = sizeOf(walked());
  const k = Math.min(Number(byId("step").max), Math.max(1, number)) - 1;
  choose([Math.floor(k / columns), k % columns]);
}

let timer = null;
function play(on) {
  clearInterval(timer);
  timer = null;
  const step = byId("step");
  if (on) {
    if (step.value === step.max) goTo(1);
    timer = setInterval(() => {
      walk(1);
      if (step.value === step.max) play(false);
    }, 1100);
  }
  byId("play").textContent = on ? "Pause" : "Play";
  byId("live").ariaLive = on ? "off" : "polite"; // a voice would not keep up
}

/** Says why the fields make no layer; nothing, where they do. */
function report(text) {
  const problem = byId("problem");
  problem.hidden = !text;
  problem.textContent = text && `${text} The matrices below still show the last layer.`;
}

function setLayer(layer) {
  const short = layer.some((axis) => outputs(axis) < 1);
  report(
    short
      ? "With its dilation this filter is larger than the padded input: there is no output. Make the input or the padding larger."
      : "",
  );
  if (short) return;
  play(false);
  state.layer = layer;
  writeTitle();
  build();
}

/** The title is the given layer's: another one has none. */
function writeTitle() {
  byId("title").textContent = isGiven() ? given.title : "";
}

function fillControls() {
  for (const [k, axis] of state.layer.entries())
    for (const field of FIELDS) byId(`${field}-${k}`).value = axis[field];
}

function makeControls() {
  const axes = ["rows", "columns"];
  const uneven = given.layer.some((axis) => axis.surplus); // few layers are: the others do not ask
  for (const field of FIELDS) {
    const [min, max] = given.limits[field];
    const inputs = axes.map((name, k) =>
      make("input", {
        type: "number",
        id: `${field}-${k}`,
        min,
        max,
        required: true,
        ariaLabel: `${CAPTIONS[field]} ${name}`,
        "aria-describedby": "problem",
      }),
    );
    byId("sizes").append(
      make(
        "fieldset",
        { hidden: field === "surplus" && !uneven },
        make("legend", {}, CAPTIONS[field]),
        inputs[0],
        make("span", { ariaHidden: "true" }, "×"),
        inputs[1],
      ),
    );
  }
  byId("sizes").addEventListener("input", () => {
    const wrong = byId("sizes").querySelector("input:invalid");
    if (wrong) return report(`${wrong.ariaLabel}: ${wrong.min} to ${wrong.max}.`);
    setLayer(
      axes.map((_, k) =>
        Object.fromEntries(FIELDS.map((field) => [field, Number(byId(`${field}-${k}`).value)])),
      ),
    );
  });
  byId("sizes").addEventListener("change", () => {
    if (!byId("layer").checkValidity()) fillControls(); // the fields say what the matrices show
  });
  const plain = { stride: 1, padding: 0, dilation: 1, surplus: 0 };
  const examples = {
    "3×3 by 2×2": { ...plain, size: 3, kernel: 2 },
    "Stride 2": { ...plain, size: 5, kernel: 3, stride: 2 },
    "Padding 1": { ...plain, size: 4, kernel: 3, padding: 1 },
    "Dilation 2": { ...plain, size: 6, kernel: 3, dilation: 2 },
    "Rows left over": { ...plain, size: 6, kernel: 3, stride: 2 },
  };
  for (const [name, axis] of Object.entries(examples)) {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      setLayer([{ ...axis }, { ...axis }]);
      fillControls();
    });
    byId("examples").append(button);
  }
  byId("layer").addEventListener("submit", (event) => event.preventDefault());
}

function listen() {
  const tabs = Object.keys(PASSES);
  byId("passes").addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) show(tab.id.replace("pass-", ""));
  });
  byId("passes").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(state.pass) + step + tabs.length) % tabs.length];
    show(next);
    byId(`pass-${next}`).focus();
  });
  const show = (pass) => {
    play(false);
    state.pass = pass;
    build();
  };
  byId("forms").addEventListener("change", (event) => {
    play(false);
    state.form = event.target.value;
    build(true);
  });

  const boards = byId("boards");
  const chooses = (event) => {
    const element = event.target.closest?.(".cell:not(.zero)");
    if (element?.name !== walked()) return;
    play(false);
    choose(element.index);
  };
  let pointer = [];
  boards.addEventListener("pointerover", (event) => {
    const at = [event.clientX, event.clientY];
    if (!same(at, pointer)) chooses(event); // else the page has moved, not the pointer
    pointer = at;
  });
  boards.addEventListener("focusin", (event) => {
    const element = event.target.closest(".cell");
    for (const other of event.target.closest("[role=grid]").querySelectorAll("[tabindex='0']"))
      other.tabIndex = -1;
    focusable(element).tabIndex = 0;
    event.target.select?.();
    chooses(event);
  });
  boards.addEventListener("input", (event) => {
    const { name, index } = event.target.closest(".cell");
    const text = event.target.value.trim().replace("−", "-").replace(",", ".");
    const valid = text !== "" && Number.isFinite(Number(text));
    event.target.ariaInvalid = String(!valid);
    if (!valid) return;
    state.numbers[name][index[0]][index[1]] = Number(text);
    update();
  });
  boards.addEventListener("focusout", (event) => {
    if (event.target.matches("input")) {
      const { name, index } = event.target.closest(".cell");
      event.target.ariaInvalid = "false";
      event.target.value = brief(number(name, index));
    }
  });

  byId("back").addEventListener("click", () => (play(false), walk(-1)));
  byId("next").addEventListener("click", () => (play(false), walk(1)));
  byId("play").addEventListener("click", () => play(timer === null));
  byId("step").addEventListener(
    "input",
    (event) => (play(false), goTo(Number(event.target.value))),
  );
  byId("copy").addEventListener("click", async () => {
    getSelection().selectAllChildren(byId("code"));
    const copied = navigator.clipboard?.writeText(byId("code").textContent) ?? Promise.reject();
    byId("copy").textContent = await copied.then(
      () => "Copied",
      () => "Selected",
    );
  });
  byId("theme").addEventListener("click", () => setTheme(byId("theme").ariaPressed !== "true"));
}

function setTheme(dark) {
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  byId("theme").ariaPressed = String(dark);
}

writeTitle();
makeControls();
fillControls();
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
listen();
build();
