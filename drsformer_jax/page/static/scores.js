// The second view: scores image by image, the worst first, methods side by side.

import { Compare } from "./compare.js";

const TITLES = { psnr: "PSNR dB", ssim: "SSIM", niqe: "NIQE" };
const DIGITS = { psnr: 2, ssim: 4, niqe: 3 };
const LOWER_IS_BETTER = new Set(["niqe"]);
const element = (id) => document.getElementById(id);
const stem = (name) => name.replace(/(.)\.[^.]*$/, "$1");
const number = (value) => (value === "inf" ? Infinity : value ?? null);

let table = { methods: [], metrics: [], rows: [] };
let order = { column: 0, up: true };
let ofServer = []; // {name, scores, pictures}
let pictures = new Map(); // name of an image -> [{label, url}]
let shown = null;
let compare = null;

// The files' three forms as {protocol, metrics, methods: [{name, images: [{name, psnr, ...}]}]}.
function methodsOf(file) {
  if (Array.isArray(file.methods)) {
    return { protocol: file.protocol, metrics: file.score, methods: file.methods };
  }
  if (Array.isArray(file.images)) {
    // Of one method, perhaps with the rainy images' scores.
    const rainy = file.images.map(({ name, input_psnr, input_ssim }) => (
      { name, psnr: input_psnr, ssim: input_ssim }));
    const methods = [{ name: "restored", images: file.images }];
    if (rainy.every(({ psnr }) => psnr != null)) methods.unshift({ name: "rainy", images: rainy });
    return { protocol: file.protocol, metrics: ["psnr", "ssim"], methods };
  }
  if (file.scores && typeof file.scores === "object") {
    // As `make demo` writes it.
    const names = Object.keys(file.scores).filter((name) => name !== "mean");
    const methods = Object.keys(file.scores[names[0]]).map((method) => (
      { name: method, images: names.map((name) => ({ name, ...file.scores[name][method] })) }));
    return { protocol: file.protocol, metrics: ["psnr", "ssim"], methods };
  }
  throw new Error("it holds no scores of images");
}

function tableOf(file) {
  const { protocol, metrics: all, methods } = methodsOf(file);
  const values = methods.map(({ images }) => new Map(images.map((image) => [image.name, image])));
  const metrics = all.filter((metric) => methods[0].images.some((image) => image[metric] != null));
  const columns = metrics.flatMap((metric) => methods.map((method) => ({ metric, method: method.name })));
  const rows = methods[0].images.map(({ name }) => ({
    name,
    values: metrics.flatMap((metric) => values.map((of) => number(of.get(name)?.[metric]))),
  }));
  return { protocol, metrics, methods: methods.map(({ name }) => name), columns, rows };
}

function open(file, title) {
  try {
    table = tableOf(file);
  } catch (error) {
    say(`${title}: not scores of eval.py or drsformer score (${error.message})`, true);
    return;
  }
  const first = table.metrics[0];
  order = { column: table.methods.length - 1, up: !LOWER_IS_BETTER.has(first) };
  say(`${title}: ${table.rows.length} images${table.protocol ? `, protocol ${table.protocol}` : ""}`);
  draw();
  show(sorted()[0]?.name ?? null);
}

function say(text, isError = false) {
  element("scores-message").textContent = text;
  element("scores-message").classList.toggle("error", isError);
}

function sorted() {
  const sign = order.up ? 1 : -1;
  const key = ({ values }) => values[order.column] ?? Infinity;
  return [...table.rows].sort((a, b) => (key(a) === key(b) ? 0 : sign * (key(a) - key(b))));
}

function draw() {
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const text = (value, { metric }) => (
    value === null ? "–" : value === Infinity ? "identical" : value.toFixed(DIGITS[metric] ?? 3));
  const groups = make("tr", {}, make("td"), ...table.metrics.map((metric) => (
    make("th", { scope: "colgroup", colSpan: table.methods.length }, TITLES[metric] ?? metric))));
  const heads = make("tr", {}, make("th", { scope: "col" }, "image"), ...table.columns.map(
    ({ metric, method }, column) => {
      const button = make("button", {
        type: "button", title: `Sort by ${metric} of ${method}`, onclick: () => sortBy(column),
      }, method);
      const head = make("th", { scope: "col" }, button);
      if (column === order.column) head.ariaSort = order.up ? "ascending" : "descending";
      return head;
    }));
  const mean = (column) => {
    const values = table.rows.map((row) => row.values[column]);
    return values.includes(null) ? null : values.reduce((sum, x) => sum + x, 0) / values.length;
  };
  const means = make("tr", { className: "mean" }, make("th", { scope: "row" }, "mean"),
    ...table.columns.map((column, index) => make("td", {}, text(mean(index), column))));
  const rows = sorted().map(({ name, values }) => {
    const button = make("button", { type: "button", onclick: () => show(name) }, name);
    const row = make("tr", {}, make("th", { scope: "row" }, button), ...values.map((value, index) => {
      const { metric } = table.columns[index];
      const rivals = values.filter((_, other) => table.columns[other].metric === metric);
      const best = (LOWER_IS_BETTER.has(metric) ? Math.min : Math.max)(...rivals);
      return make("td", { className: rivals.length > 1 && value === best ? "best" : "" },
        text(value, table.columns[index]));
    }));
    row.dataset.name = name;
    return row;
  });
  element("scores-table").replaceChildren(
    make("thead", {}, groups, heads), make("tbody", {}, ...rows), make("tfoot", {}, means));
  mark();
}

function sortBy(column) {
  const worstFirst = !LOWER_IS_BETTER.has(table.columns[column].metric);
  order = { column, up: order.column === column ? !order.up : worstFirst };
  draw();
}

function mark() {
  for (const row of element("scores-table").querySelectorAll("tbody tr")) {
    row.classList.toggle("shown", row.dataset.name === shown);
  }
}

function show(name) {
  shown = name;
  mark();
  const found = pictures.get(name) ?? [];
  element("scores-viewer").hidden = found.length === 0;
  element("scores-shown").textContent = name;
  compare.show(found);
}

function addPicture(name, label, url) {
  const known = pictures.get(name) ?? [];
  pictures.set(name, [...known.filter((picture) => picture.label !== label), { label, url }]);
}

async function read(file) {
  try {
    open(JSON.parse(await file.text()), file.name);
  } catch {
    say(`${file.name}: not a JSON file`, true);
  }
}

async function addFolder(files) {
  // WORKDIR/evaluation holds its scores, too.
  const scores = files.filter(({ name }) => name === "scores.json");
  scores.sort((a, b) => a.webkitRelativePath.length - b.webkitRelativePath.length);
  if (scores.length) await read(scores[0]);
  for (const file of files.filter(({ type }) => type.startsWith("image/"))) {
    const folder = file.webkitRelativePath.split("/").at(-2) ?? "pictures";
    addPicture(stem(file.name), folder, URL.createObjectURL(file));
  }
  const found = table.rows.filter(({ name }) => pictures.has(name)).length;
  say(`${found} of ${table.rows.length} images have pictures`);
  show(shown);
}

function openSet(index) {
  pictures = new Map();
  ofServer[index].pictures.forEach((name, picture) => {
    addPicture(name, "restored", `api/evaluation/${index}/${picture}`);
  });
  open(ofServer[index].scores, ofServer[index].name);
}

// Readies the view; `hasEvaluation`: the program was given one to show.
export async function setUpScores(hasEvaluation) {
  compare = new Compare(element("scores-compare"));
  element("scores-file").addEventListener("change", ({ target }) => {
    if (target.files.length) read(target.files[0]);
    target.value = "";
  });
  element("scores-folder").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = "";
    addFolder(files);
  });
  element("set").addEventListener("change", ({ target }) => openSet(target.selectedIndex));
  if (!hasEvaluation) return;
  const answer = await fetch("api/evaluation").catch(() => null);
  const document = await answer?.json().catch(() => null);
  if (!answer?.ok) {
    say(document?.error ?? "the evaluation cannot be read", true);
    return;
  }
  ofServer = document.sets;
  element("set").replaceChildren(...ofServer.map(({ name }) => new Option(name)));
  element("set-field").hidden = ofServer.length < 2;
  openSet(0);
}
