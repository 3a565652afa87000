// Two pictures, one over the other, with a line between them that can be moved.

const SCALES = [0.125, 0.25, 0.5, 1, 2, 4, 8];
const LARGEST_FIT = 2;

const PARTS = `
  <div class="stage">
    <div class="scroll"><div class="pictures"><img class="right" alt=""><img class="left" alt=""></div></div>
    <div class="line"><span></span></div>
    <span class="tag left"></span><span class="tag right"></span>
  </div>
  <div class="bar controls">
    <input class="split" type="range" min="0" max="100" step="0.5" value="50">
    <label class="pick">Left <select class="left"></select></label>
    <label class="pick">Right <select class="right"></select></label>
    <span class="zoom" role="group" aria-label="Zoom">
      <button type="button" class="out" aria-label="Zoom out">−</button>
      <button type="button" class="fit">Fit</button>
      <button type="button" class="in" aria-label="Zoom in">+</button>
      <output aria-label="Scale"></output>
    </span>
  </div>
`;

export class Compare {
  #pictures = [];
  #scale = null; // null: as large as there is place
  #highest;

  // highest: of the window's height, the part that a picture may fill.
  constructor(root, highest = 0.56) {
    this.#highest = highest;
    root.classList.add("compare");
    root.insertAdjacentHTML("beforeend", PARTS);
    const find = (selector) => root.querySelector(selector);
    this.root = root;
    this.scroll = find(".scroll");
    this.box = find(".pictures");
    this.line = find(".line");
    this.range = find(".split");
    this.output = find("output");
    this.sides = ["left", "right"].map((side) => ({
      image: find(`img.${side}`), select: find(`select.${side}`), tag: find(`.tag.${side}`),
    }));
    this.range.addEventListener("input", () => this.#draw());
    this.scroll.addEventListener("scroll", () => this.#draw());
    new ResizeObserver(() => this.#layOut()).observe(root);
    for (const side of this.sides) {
      side.select.addEventListener("change", () => this.#showSide(side));
      side.image.addEventListener("load", () => this.#layOut());
    }
    find(".fit").addEventListener("click", () => this.#zoom(null));
    find(".in").addEventListener("click", () => this.#zoom(this.#next(1)));
    find(".out").addEventListener("click", () => this.#zoom(this.#next(-1)));
    this.scroll.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // else the page scrolls
      event.preventDefault();
      this.#zoom(this.#next(event.deltaY < 0 ? 1 : -1), event);
    }, { passive: false });
    this.#listenToPointers();
  }

  // Shows pictures ({label, url}), of which two can be chosen; first the first and the second.
  show(pictures) {
    const chosen = this.sides.map((side) => side.select.value);
    const labels = pictures.map((picture) => picture.label);
    const same = labels.join() === this.#pictures.map((picture) => picture.label).join();
    this.#pictures = pictures;
    this.root.hidden = pictures.length === 0;
    this.root.classList.toggle("single", pictures.length < 2);
    this.root.classList.toggle("several", pictures.length > 2);
    this.sides.forEach((side, index) => {
      side.select.replaceChildren(...labels.map((label) => new Option(label)));
      if (same) side.select.value = chosen[index];
      else side.select.selectedIndex = Math.min(index, pictures.length - 1);
      if (pictures.length) this.#showSide(side);
    });
  }

  #showSide(side) {
    const { label, url } = this.#pictures[side.select.selectedIndex];
    if (side.image.src !== url) side.image.src = url;
    side.image.alt = side.tag.textContent = label;
    const [left, right] = this.sides.map(({ select }) => select.value);
    this.range.setAttribute("aria-label", `Line between ${left} and ${right}`);
    this.#draw();
  }

  get #natural() {
    const image = this.sides[1].image;
    return [image.naturalWidth || 1, image.naturalHeight || 1];
  }

  get #fit() {
    const [width, height] = this.#natural;
    const highest = Math.max(200, this.#highest * innerHeight);
    return Math.min(this.scroll.clientWidth / width, highest / height, LARGEST_FIT);
  }

  #next(step) {
    const now = this.#scale ?? this.#fit;
    const larger = SCALES.filter((scale) => scale > now * 1.001);
    const smaller = SCALES.filter((scale) => scale < now / 1.001);
    return step > 0 ? larger[0] ?? SCALES.at(-1) : smaller.at(-1) ?? SCALES[0];
  }

  // Changes the scale; the point under the pointer, or in the middle, stays where it is.
  #zoom(scale, event) {
    const point = () => {
      const { left, top } = this.scroll.getBoundingClientRect();
      const { clientWidth, clientHeight } = this.scroll;
      return event ? [event.clientX, event.clientY] : [left + clientWidth / 2, top + clientHeight / 2];
    };
    const before = this.box.getBoundingClientRect();
    const [across, down] = [
      (point()[0] - before.left) / before.width, (point()[1] - before.top) / before.height,
    ];
    this.#scale = scale;
    this.#layOut();
    const { left, top, width, height } = this.box.getBoundingClientRect();
    this.scroll.scrollBy(left + across * width - point()[0], top + down * height - point()[1]);
    this.#draw();
  }

  #layOut() {
    const scale = this.#scale ?? this.#fit;
    const [width, height] = this.#natural;
    this.root.classList.toggle("zoomed", this.#scale !== null);
    this.box.style.width = `${width * scale}px`;
    this.box.style.height = `${height * scale}px`;
    this.box.classList.toggle("pixels", scale >= 2);
    this.output.textContent = `${Math.round(scale * 100)} %`;
    this.#draw();
  }

  // What can be seen of the pictures, from side to side.
  #visible() {
    const view = this.scroll.getBoundingClientRect();
    const box = this.box.getBoundingClientRect();
    const left = Math.max(view.left, box.left);
    return { view, box, left, width: Math.min(view.left + this.scroll.clientWidth, box.right) - left };
  }

  #draw() {
    const { view, box, left, width } = this.#visible();
    const x = left + (width * this.range.value) / 100;
    this.sides[0].image.style.clipPath = `inset(0 ${Math.max(0, box.right - x)}px 0 0)`;
    this.line.style.left = `${x - view.left}px`;
    this.range.setAttribute("aria-valuetext", `${Math.round(this.range.value)} % from the left`);
  }

  #listenToPointers() {
    const drag = (element, begin) => {
      element.addEventListener("pointerdown", (event) => {
        const move = event.button === 0 && begin(event);
        if (!move) return;
        event.preventDefault();
        element.setPointerCapture(event.pointerId);
        element.addEventListener("pointermove", move);
        const end = () => element.removeEventListener("pointermove", move);
        element.addEventListener("pointerup", end, { once: true });
        element.addEventListener("pointercancel", end, { once: true });
      });
    };
    const split = (event) => {
      const { left, width } = this.#visible();
      this.range.value = (100 * (event.clientX - left)) / width;
      this.#draw();
    };
    drag(this.line, () => split);
    drag(this.scroll, (event) => {
      if (this.#scale === null) {
        split(event);
        return split;
      }
      if (event.pointerType !== "mouse") return null; // fingers scroll by themselves
      let [x, y] = [event.clientX, event.clientY];
      return (moved) => {
        this.scroll.scrollBy(x - moved.clientX, y - moved.clientY);
        [x, y] = [moved.clientX, moved.clientY];
      };
    });
  }
}
