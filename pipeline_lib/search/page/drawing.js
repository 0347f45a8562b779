// The drawing: a list of steps that can be undone, and how it is shown on the canvas.

const SIDE = 720;
const PAPER = "#ffffff";
const INK = "#000000";

export class Drawing {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: false });
    // Steps in order: {points, width, erase}, {cleared} or a picture, {blob, bitmap, kept, photo}: its bitmap is null
    // where the browser can't show it, its photo {number, version} where it is one of the gallery.
    this.done = [];
    this.undone = [];
    this.waiting = false;
    this.render();
  }

  // Everything since the paper was last cleared or covered by a picture. Lines drawn after a picture that can't be
  // shown replace it.
  get visible() {
    const start = this.done.findLastIndex((step) => step.cleared || isPicture(step));
    const visible = this.done.slice(Math.max(0, start)).filter((step) => !step.cleared);
    return visible.length > 1 && visible[0].bitmap === null ? visible.slice(1) : visible;
  }

  get empty() { return this.visible.length === 0; }

  get picture() { return this.visible.find(isPicture); }

  // Whether the picture is one that the browser can't show.
  get unshown() { return this.picture?.bitmap === null; }

  get strokes() { return this.visible.filter((step) => step.points); }

  add(...steps) {
    this.done.push(...steps);
    this.undone = [];
    this.show();
  }

  clear() { if (!this.empty) this.add({ cleared: true }); }

  undo() { this.move(this.done, this.undone); }

  redo() { this.move(this.undone, this.done); }

  move(from, to) {
    if (from.length) to.push(from.pop());
    this.show();
  }

  show() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.render(); });
  }

  render() {
    const { canvas } = this;
    paint(canvas, this.context, this.visible, SIDE);
    canvas.classList.toggle("tall", canvas.height > canvas.width);
  }

  // What to search with: strokes alone as strokes, a photo of the gallery alone as its number, a picture alone as its
  // own bytes, both as the canvas shows them.
  async query(version) {
    const { picture, strokes } = this;
    if (!picture) {
      return { strokes: strokes.map(({ points, width, erase }) => ({ points, width, erase })) };
    }
    if (strokes.length === 0 && picture.photo?.version === version) return { photo: picture.photo };
    const isPhoto = Boolean(picture.photo);
    if (strokes.length === 0 && picture.blob) return { blob: picture.blob, isPhoto };
    this.render();
    return { blob: await new Promise((resolve) => { this.canvas.toBlob(resolve, "image/png"); }), isPhoto };
  }
}

function isPicture(step) { return step.bitmap !== undefined; }

// Shows steps on a canvas, whose longer side gets `side` px.
export function paint(canvas, context, steps, side) {
  const bitmap = steps.find(isPicture)?.bitmap;
  const aspect = bitmap ? bitmap.width / bitmap.height : 1;
  const width = Math.max(1, Math.round(aspect >= 1 ? side : side * aspect));
  const height = Math.max(1, Math.round(aspect >= 1 ? side / aspect : side));
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  context.fillStyle = PAPER;
  context.fillRect(0, 0, width, height);
  if (bitmap) context.drawImage(bitmap, 0, 0, width, height);
  context.lineCap = context.lineJoin = "round";
  for (const step of steps) if (step.points) line(context, step, width, height);
}

function line(context, stroke, width, height) {
  context.strokeStyle = context.fillStyle = stroke.erase ? PAPER : INK;
  context.lineWidth = stroke.width * Math.max(width, height);
  context.beginPath();
  const [first, ...rest] = stroke.points;
  if (rest.length === 0) {
    context.arc(first[0] * width, first[1] * height, context.lineWidth / 2, 0, 2 * Math.PI);
    context.fill();
    return;
  }
  context.moveTo(first[0] * width, first[1] * height);
  for (const [x, y] of rest) context.lineTo(x * width, y * height);
  context.stroke();
}

// Turns pointer and keyboard events on a canvas into strokes.
export class Pen {
  constructor(drawing, cursor, settings, changed) {
    this.drawing = drawing;
    this.canvas = drawing.canvas;
    this.cursor = cursor;
    this.settings = settings; // () => ({width, erase})
    this.changed = changed; // (finished) => ...
    this.stroke = null;
    this.pointer = null;
    this.place = [0.5, 0.5];
    const on = (name, handler) => this.canvas.addEventListener(name, handler);
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.moved(event));
    on("pointerup", (event) => this.up(event));
    on("pointercancel", (event) => this.up(event));
    on("keydown", (event) => this.key(event));
    on("blur", () => { this.lift(); this.cursor.hidden = true; this.canvas.classList.remove("pointed"); });
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(rounded);
  }

  begin(point, erase) {
    const { width, erase: chosen } = this.settings();
    this.stroke = { points: [point], width, erase: erase || chosen };
    this.drawing.add(this.stroke);
    this.changed(false);
  }

  extend(point) {
    const [x, y] = this.stroke.points.at(-1);
    if (Math.hypot(point[0] - x, point[1] - y) < 0.002 || this.stroke.points.length >= 5000) return;
    this.stroke.points.push(point);
    this.drawing.show();
    this.changed(false);
  }

  lift() {
    if (!this.stroke) return;
    this.stroke = this.pointer = null;
    this.cursor.classList.remove("down");
    this.changed(true);
  }

  down(event) {
    if (!event.isPrimary || (event.pointerType === "mouse" && event.button !== 0)) return;
    event.preventDefault();
    this.canvas.classList.add("pointed"); // no focus ring around what is under the pointer anyway
    this.canvas.focus({ preventScroll: true });
    this.cursor.hidden = true;
    this.canvas.setPointerCapture(event.pointerId);
    this.lift();
    this.pointer = event.pointerId;
    this.begin(this.at(event), (event.buttons & 32) !== 0); // 32: the eraser end of a pen
  }

  moved(event) {
    if (!this.stroke || event.pointerId !== this.pointer) return;
    const between = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of between.length ? between : [event]) this.extend(this.at(each));
  }

  up(event) {
    if (event.pointerId === this.pointer) this.lift();
  }

  key(event) {
    const step = event.shiftKey ? 0.005 : 0.02;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") {
      event.preventDefault();
      if (this.stroke) this.lift(); else { this.begin([...this.place]); this.cursor.classList.add("down"); }
    } else if (event.key in moves) {
      event.preventDefault();
      this.place = this.place.map((value, axis) => rounded(Math.min(1, Math.max(0, value + moves[event.key][axis]))));
      if (this.stroke) this.extend([...this.place]);
    } else if (event.key === "Escape") {
      this.lift();
    } else {
      return;
    }
    this.canvas.classList.remove("pointed");
    this.cursor.hidden = false;
    [this.cursor.style.left, this.cursor.style.top] = this.place.map((value) => `${value * 100}%`);
  }
}

function rounded(value) { return Math.min(2, Math.max(-1, Math.round(value * 1e4) / 1e4)); }
