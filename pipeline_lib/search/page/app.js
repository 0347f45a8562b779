// The page: tools, searches while drawing, and results.

import { Drawing, Pen } from "/drawing.js";

const TOP = 24;
const PAIRS = 12;
const PAUSE = 120; // ms between searches while a line is being drawn
const UNSHOWN = "This browser can't show your picture, but the search uses it. Drawing starts a new sketch.";
const $ = (id) => document.getElementById(id);

const state = { erase: false, seen: false, model: null, hits: [], shown: 0, dirty: false, busy: false, last: 0, timer: 0 };
const drawing = new Drawing($("canvas"));
const width = () => Number($("width").value) / 100;
const pen = new Pen(drawing, $("cursor"), () => ({ width: state.erase ? 2 * width() : width(), erase: state.erase }), changed);

// Searching: one request at a time, the newest drawing next.

function changed(finished = true) {
  const { empty, unshown } = drawing;
  $("hint").hidden = !empty && !unshown;
  $("hint").textContent = unshown ? UNSHOWN : "Draw here";
  switchOff("clear", empty);
  switchOff("undo", drawing.done.length === 0);
  switchOff("redo", drawing.undone.length === 0);
  state.dirty = true;
  clearTimeout(state.timer);
  const wait = finished ? 0 : Math.max(0, PAUSE - (performance.now() - state.last));
  state.timer = setTimeout(search, wait);
}

async function search() {
  if (state.busy || !state.dirty) return;
  state.dirty = false;
  if (drawing.empty) { show([]); tell("Draw something."); problem(""); return; }
  state.busy = true;
  state.last = performance.now();
  try {
    const answer = await ask(await drawing.query());
    if (!drawing.empty) {
      show(answer.found, answer.seen);
      const took = Math.round(performance.now() - state.last);
      const nearest = answer.found[0];
      tell(nearest ? `${answer.found.length} photos in ${took} ms. Nearest: ${nearest.label}` : "No photos.");
    }
    problem("");
  } catch (failure) {
    problem(failure.message);
    if (failure.again) { state.dirty = true; await pause(400); }
  }
  state.busy = false;
  if (state.dirty) search();
}

async function ask(query) {
  const response = await (query.blob
    ? reach(`/api/search/image?top=${TOP}&seen=${state.seen}`, { method: "POST", body: query.blob })
    : reach("/api/search/strokes", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ strokes: query.strokes, top: TOP, seen: state.seen }),
    }));
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const words = typeof answer.detail === "string" ? answer.detail : "the drawing can't be used";
  throw Object.assign(new Error(words[0].toUpperCase() + words.slice(1)), { again: response.status === 503 });
}

async function reach(address, options) {
  try { return await fetch(address, options); } catch { throw new Error("The server does not answer. Is it still running?"); }
}

// Showing.

function show(hits, seen) {
  state.hits = hits;
  const results = $("grid");
  fill(results, hits, (item, hit) => card(item, hit, [[hit.thumbnail, hit.label, ""]]));
  results.dataset.done = String(Number(results.dataset.done || 0) + 1);
  if (!state.seen) return;
  const pairs = hits.slice(0, PAIRS);
  fill($("pairs"), pairs, (item, hit) => card(item, hit, [[hit.thumbnail, hit.label, ""], [hit.edges, "its edges", "edges"]]));
  const size = state.model ? ` (${state.model.image_size} × ${state.model.image_size} px)` : "";
  const drawn = drawing.unshown ? [] : [[drawing.canvas.toDataURL(), "Your drawing"]];
  const query = seen
    ? [...drawn, [seen.input, `As it enters the network${size}`],
      [seen.edges, "Its own edges, found as in training photos"]]
    : [];
  fill($("query"), query, (figure, [source, words]) => {
    const image = figure.querySelector("img") || figure.appendChild(element("img"));
    const caption = figure.querySelector("figcaption") || figure.appendChild(element("figcaption"));
    image.alt = words;
    image.src = source;
    caption.textContent = words;
  }, "figure");
}

// Reuse items, so that nothing flickers and the focus stays in place.
function fill(list, values, write, tag = "li") {
  while (list.children.length > values.length) list.lastChild.remove();
  while (list.children.length < values.length) list.appendChild(element(tag));
  values.forEach((value, place) => write(list.children[place], value));
}

function card(item, hit, pictures) {
  let button = item.firstElementChild;
  if (!button) {
    button = item.appendChild(element("button", "hit"));
    button.type = "button";
    button.append(element("span", "pictures"), element("span", "facts"));
    button.firstChild.append(...pictures.map(() => element("img")));
    button.lastChild.append(element("b"), element("span", "distance"), element("span", "label"));
    button.addEventListener("click", () => open(Number(button.dataset.place)));
  }
  button.dataset.place = hit.rank - 1;
  button.dataset.id = hit.image_id;
  button.setAttribute("aria-label", `${hit.rank}: ${hit.label}, distance ${hit.distance.toFixed(3)}`);
  pictures.forEach(([source, words, kind], place) => {
    const image = button.firstChild.children[place];
    image.alt = "";
    image.title = words;
    image.className = kind;
    if (image.getAttribute("src") !== source) image.src = source;
  });
  const [rank, distance, label] = button.lastChild.children;
  rank.textContent = hit.rank;
  distance.textContent = hit.distance.toFixed(3);
  distance.title = "cosine distance";
  label.textContent = label.title = hit.label;
}

function element(tag, name = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  return made;
}

function tell(words) { $("status").textContent = words; }

function problem(words) {
  $("problem").textContent = words;
  $("problem").hidden = !words;
}

// aria-disabled, since a disabled button would lose the keyboard's focus.
function switchOff(name, off) { $(name).setAttribute("aria-disabled", String(off)); }

function pause(milliseconds) { return new Promise((resolve) => { setTimeout(resolve, milliseconds); }); }

// One photo, large.

function open(place) {
  const hit = state.hits[place];
  if (!hit) return;
  state.shown = place;
  $("viewer-title").textContent = hit.label;
  $("viewer-facts").textContent = `Rank ${hit.rank}, distance ${hit.distance.toFixed(4)} · ${hit.image_id}`;
  $("viewer-image").alt = hit.label;
  $("viewer-image").src = hit.photo;
  switchOff("viewer-before", place === 0);
  switchOff("viewer-after", place === state.hits.length - 1);
  if (!$("viewer").open) $("viewer").showModal();
}

$("viewer-before").addEventListener("click", () => open(state.shown - 1));
$("viewer-after").addEventListener("click", () => open(state.shown + 1));
$("viewer-close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) $("viewer").close(); });
$("viewer").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" && state.shown > 0) open(state.shown - 1);
  if (event.key === "ArrowRight" && state.shown + 1 < state.hits.length) open(state.shown + 1);
});

// Tools.

function choose(erase) {
  state.erase = erase;
  $("pen").setAttribute("aria-pressed", String(!erase));
  $("eraser").setAttribute("aria-pressed", String(erase));
}

// Lift the pen first: otherwise it would continue a line that is no longer the last step.
function alter(step) { pen.lift(); step(); changed(); }
const undo = () => alter(() => drawing.undo());
const redo = () => alter(() => drawing.redo());
$("pen").addEventListener("click", () => choose(false));
$("eraser").addEventListener("click", () => choose(true));
$("undo").addEventListener("click", undo);
$("redo").addEventListener("click", redo);
$("clear").addEventListener("click", () => alter(() => drawing.clear()));
$("width").addEventListener("input", () => $("width").setAttribute("aria-valuetext", `${$("width").value} percent of the side`));
$("upload").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if ($("viewer").open) return;
  if (command && key === "z") { event.preventDefault(); if (event.shiftKey) redo(); else undo(); }
  if (command && key === "y") { event.preventDefault(); redo(); }
});
// Letters act on the canvas alone: elsewhere, speech input could change the tool by mistake (WCAG 2.1.4).
$("canvas").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "e" || key === "p") choose(key === "e");
});

// Pictures from elsewhere.

async function take(blob) {
  if (!blob) return;
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (!bitmap) {
    // The server may read what the browser can't show; if not, it says why, and the drawing stays.
    try { await ask({ blob }); } catch (failure) { problem(failure.message); return; }
  }
  alter(() => drawing.add({ blob, bitmap }));
}

document.addEventListener("paste", (event) => {
  const item = [...event.clipboardData.items].find((each) => each.type.startsWith("image/"));
  if (item) { event.preventDefault(); take(item.getAsFile()); }
});
for (const name of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
$("example").addEventListener("click", async () => {
  const number = Math.floor(Math.random() * state.model.examples);
  try {
    const response = await reach(`/examples/${number}?v=${state.model.version}`);
    if (!response.ok) throw new Error("The example can't be loaded.");
    await take(await response.blob());
  } catch (failure) { problem(failure.message); }
});

// Tabs.

const tabs = [$("tab-results"), $("tab-seen")];
function select(place, focus = false) {
  tabs.forEach((tab, other) => {
    tab.setAttribute("aria-selected", String(other === place));
    tab.tabIndex = other === place ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = other !== place;
  });
  if (focus) tabs[place].focus();
  state.seen = place === 1;
  if (state.seen) changed();
}
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => select(place));
  tab.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") select(1 - place, true);
  });
});

// The model.

async function about() {
  const response = await fetch("/api/model").catch(() => null);
  if (!response || !response.ok) { $("gallery").textContent = ""; problem("The server does not answer."); return; }
  const model = state.model = await response.json();
  $("gallery").textContent = `${model.photos.toLocaleString("en")} photos of ${model.gallery}`;
  $("example").disabled = model.examples === 0;
  const percent = (value) => (value === null ? "unknown" : `${(100 * value).toFixed(1)} % (chance 12.5 %)`);
  const rows = {
    Run: model.run,
    Network: `${model.architecture}, started from ${model.start_weights}`,
    "Pretext accuracy": percent(model.pretext_accuracy),
    Embedding: `${model.embedding}, ${model.image_size} px`,
    "Domain alignment": model.alignment,
    Index: model.index,
    Version: model.version,
    ...(model.credit ? { Pictures: model.credit } : {}),
  };
  $("model").replaceChildren(...Object.entries(rows).map(([name, value]) => {
    const row = element("div");
    row.append(element("dt"), element("dd"));
    [row.firstChild.textContent, row.lastChild.textContent] = [name, value];
    return row;
  }));
}

about();
