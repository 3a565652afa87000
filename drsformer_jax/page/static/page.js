// The page: its views, and the queue of photographs.

import { Compare } from "./compare.js";
import { setUpScores } from "./scores.js";
import { distinct, zip } from "./zip.js";

const POLL_MILLISECONDS = 500;
const GONE = "the program does not answer: is drsformer serve still running?";
const element = (id) => document.getElementById(id);
const stem = (name) => name.replace(/(.)\.[^.]*$/, "$1");

const compare = new Compare(element("compare"));
const photographs = [];
let shown = null;
let info = { max_bytes: Infinity, protocols: [] };

class Photograph {
  constructor(file) {
    this.file = file;
    this.before = URL.createObjectURL(file);
    this.item = element("queue-item").content.cloneNode(true).firstElementChild;
    this.item.querySelector(".name").textContent = file.name;
    const image = this.item.querySelector("img");
    image.addEventListener("error", () => { image.src = "icon.svg"; }, { once: true });
    image.src = this.before;
    this.item.querySelector(".show").addEventListener("click", () => select(this));
    this.item.querySelector(".act").addEventListener("click", () => this.act());
    const remove = this.item.querySelector(".remove");
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => this.remove());
    element("queue").append(this.item);
    this.wait();
  }

  // state: waiting, working, done, failed or cancelled; progress: 0 to 1, or null if unknown.
  set(state, status, progress = null) {
    const news = state !== this.state && ["done", "failed"].includes(state);
    Object.assign(this, { state, status });
    this.item.className = state;
    this.item.querySelector(".status").textContent = status;
    const bar = this.item.querySelector("progress");
    bar.hidden = state !== "working";
    if (progress === null) bar.removeAttribute("value");
    else bar.value = progress;
    const act = this.item.querySelector(".act");
    act.hidden = state === "done";
    act.textContent = ["waiting", "working"].includes(state) ? "Cancel" : "Retry";
    this.item.querySelector(".remove").hidden = state === "working";
    act.setAttribute("aria-label", `${act.textContent}: ${this.file.name}`);
    if (news) element("news").textContent = `${this.file.name}: ${status}`;
    refresh(this);
  }

  wait() {
    this.set("waiting", "waiting");
    if (this.file.size === 0) this.set("failed", "it is empty, or a folder: choose the pictures in it");
    const megabytes = (this.file.size + (this.target?.size ?? 0)) / 1e6;
    if (megabytes * 1e6 > info.max_bytes) {
      this.set("failed", `${megabytes.toFixed(0)} MB are more than the ${info.max_bytes / 1e6} allowed`);
    }
    startNext();
  }

  act() {
    if (this.state === "working") this.request.abort();
    else if (this.state === "waiting") this.set("cancelled", "cancelled");
    else this.wait();
  }

  remove() {
    this.item.remove();
    photographs.splice(photographs.indexOf(this), 1);
    for (const url of [this.before, this.after, this.clean]) URL.revokeObjectURL(url);
    select(shown === this ? photographs.at(-1) ?? null : shown);
  }

  async restore() {
    this.set("working", "sending", 0);
    const words = crypto.getRandomValues(new Uint32Array(4));
    const job = (this.job = Array.from(words, (word) => word.toString(36)).join("-"));
    const poll = this.watch(job);
    const form = new FormData();
    form.append("image", this.file);
    if (this.target) form.append("target", this.target);
    try {
      const { blob, result } = await this.post(`api/derain?protocol=${element("protocol").value}`, form, job);
      URL.revokeObjectURL(this.after);
      Object.assign(this, { blob, result, after: URL.createObjectURL(blob) });
      this.before = await viewable(this.before, this.file, result);
      if (this.target) this.clean = await viewable(this.clean, this.target, result);
      this.item.querySelector("img").src = this.after;
      const notes = result.notes.map((note) => `; ${note}`).join("");
      const size = `${result.width} × ${result.height}`;
      this.set("done", `${size}, ${result.seconds.toFixed(1)} s${notes}`);
    } catch (error) {
      // Unless it has been begun again in the meantime.
      const told = error.message.replace(`${this.file.name}: `, "");
      if (this.job === job) this.set(told ? "failed" : "cancelled", told || "cancelled");
    } finally {
      clearInterval(poll);
      startNext();
    }
  }

  // Sends the form; an Error with words, without any if it was cancelled.
  post(address, form, job) {
    return new Promise((resolve, reject) => {
      const request = (this.request = new XMLHttpRequest());
      request.open("POST", address);
      request.setRequestHeader("X-Job", job);
      request.responseType = "blob";
      request.upload.addEventListener("progress", ({ loaded, total }) => {
        const part = loaded / total;
        this.set("working", `sending, ${Math.round(part * 100)} %`, part);
      });
      request.upload.addEventListener("load", () => this.set("working", "waiting"));
      request.addEventListener("abort", () => reject(new Error("")));
      request.addEventListener("error", () => reject(new Error(GONE)));
      request.addEventListener("load", async () => {
        if (request.status === 200) {
          const result = JSON.parse(request.getResponseHeader("X-Result"));
          resolve({ blob: request.response, result });
        } else {
          reject(new Error(await words(request.response)));
        }
      });
      request.send(form);
    });
  }

  // Asks again and again how far the job is.
  watch(job) {
    const start = performance.now();
    return setInterval(async () => {
      const answer = await fetch(`api/jobs/${job}`).catch(() => null);
      const { state, ahead, tile, tiles } = answer?.ok ? await answer.json() : {};
      if (this.state !== "working") return;
      const seconds = Math.round((performance.now() - start) / 1000);
      if (state === "waiting") this.set("working", `${ahead} before it, ${seconds} s`);
      if (state === "working") {
        const which = tiles > 1 ? `tile ${tile} of ${tiles}, ` : "";
        this.set("working", `restoring, ${which}${seconds} s`, tiles > 1 ? (tile - 1) / tiles : null);
      }
    }, POLL_MILLISECONDS);
  }
}

async function words(blob) {
  try {
    return String(JSON.parse(await blob.text()).error);
  } catch {
    return GONE;
  }
}

// An address of the file as it is decoded here: the browser's own, or of the program's preview.
async function viewable(url, file, { width, height }) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    if (image.naturalWidth === width && image.naturalHeight === height) return url;
  } catch {
    // Not a format of this browser.
  }
  const form = new FormData();
  form.append("image", file);
  const answer = await fetch("api/preview", { method: "POST", body: form });
  if (!answer.ok) throw new Error(await words(await answer.blob()));
  URL.revokeObjectURL(url);
  return URL.createObjectURL(await answer.blob());
}

function startNext() {
  if (photographs.some(({ state }) => state === "working")) return;
  photographs.find(({ state }) => state === "waiting")?.restore();
}

function add(files) {
  const first = photographs.length;
  for (const file of files) {
    const photograph = new Photograph(file);
    photographs.push(photograph);
  }
  startNext();
  if (photographs.length > first) select(photographs[first]);
}

function select(photograph) {
  shown = photograph;
  refresh(photograph);
}

// Draws what hangs on the photograph that has changed.
function refresh(changed) {
  element("desk").hidden = photographs.length === 0;
  document.body.classList.toggle("busy", photographs.length > 0);
  const done = photographs.filter(({ state }) => state === "done");
  element("count").textContent = `${done.length} of ${photographs.length} done`;
  element("zip").hidden = done.length < 2;
  for (const { item } of photographs) {
    item.querySelector(".show").setAttribute("aria-pressed", item === shown?.item);
  }
  if (shown === null || changed !== shown) return;
  const { file, before, after, clean, blob, result, state, status, target } = shown;
  element("shown").textContent = file.name;
  const pictures = [{ label: "before", url: before }];
  if (blob) pictures.push({ label: "after", url: after });
  if (blob && target && state === "done") pictures.push({ label: "clean", url: clean });
  compare.show(pictures);
  element("message").textContent = state === "done" ? "" : status;
  element("message").classList.toggle("error", state === "failed");
  element("download").hidden = !blob;
  if (blob) Object.assign(element("download"), { href: after, download: `${stem(file.name)}.png` });
  element("target-text").textContent = target ? `Clean: ${target.name}` : "Compare with a clean picture";
  element("protocol-field").hidden = !target;
  element("values").hidden = !(state === "done" && result.protocol);
  if (element("values").hidden) return;
  element("values").caption.textContent = `Luminance against ${target.name}, protocol ${result.protocol}`;
  [[result.input_psnr, result.input_ssim], [result.psnr, result.ssim]].forEach(([psnr, ssim], row) => {
    const cells = element("values").tBodies[0].rows[row].querySelectorAll("td");
    cells[0].textContent = psnr === "inf" ? "identical" : `${psnr.toFixed(2)} dB`;
    cells[1].textContent = ssim === null ? "–" : ssim.toFixed(4);
  });
}

function save(blob, name) {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

element("zip").addEventListener("click", async () => {
  const done = photographs.filter(({ state }) => state === "done");
  const names = distinct(done.map(({ file }) => `${stem(file.name)}.png`));
  try {
    save(await zip(done.map(({ blob }, index) => ({ name: names[index], blob }))), "derained.zip");
  } catch (error) {
    element("message").textContent = error.message;
  }
});
element("files").addEventListener("change", ({ target }) => {
  add([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
element("target").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (!file || !shown) return;
  if (shown.state === "working") shown.request.abort();
  URL.revokeObjectURL(shown.clean);
  Object.assign(shown, { target: file, clean: URL.createObjectURL(file) });
  shown.wait();
});
element("protocol").addEventListener("change", () => shown?.target && shown.wait());
document.addEventListener("paste", ({ clipboardData }) => add([...clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  if (!element("photographs").hidden) add([...event.dataTransfer.files]);
});

function showView() {
  const view = location.hash === "#scores" ? "scores" : "photographs";
  for (const link of document.querySelectorAll("nav a")) {
    const isShown = link.hash === `#${view}`;
    element(link.hash.slice(1)).hidden = !isShown;
    if (isShown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}
addEventListener("hashchange", showView);
showView();

const answer = await fetch("api/info").catch(() => null);
if (answer?.ok) {
  info = await answer.json();
  element("about").textContent =
    `Restored by drsformer ${info.version} with the weights ${info.weights}; nothing is kept. ` +
    `At most ${info.max_bytes / 1e6} MB and ${Math.round(info.max_pixels / 1e6)} megapixels.`;
  element("protocol").replaceChildren(...info.protocols.map((name) => new Option(name)));
} else {
  element("about").textContent = GONE;
}
await setUpScores(info.evaluation);
