// The page: tools, searches while drawing, and what it says of them.

import { Drawing, Pen, paint } from "./drawing.js";
import { forget, forgetAll, keepDrawing, keptDrawing, list, remember, unpacked } from "./kept.js";
import { knows, language, say, translate } from "./language.js";
import { stepOf } from "./pictures.js";
import { $, Results, element, fill, switchOff } from "./results.js";
import { Refusal, back, get, persist, request, search as ask } from "./server.js";
import { Viewer } from "./viewer.js";

const FIRST = 24; // photos that a search asks for
const MORE = [24, 72, 140, 200]; // and by scrolling; the last is what the server allows
const PAUSE = 120; // ms between searches while a line is being drawn
const CHECK = 15_000; // ms between two looks whether the server is the same
const WIDTHS = { 1: ["thin", 0.008], 2: ["medium", 0.014], 3: ["thick", 0.03] }; // keys, buttons, fractions of the side

translate();

const state = {
  erase: false, width: "2", mirror: false, seen: false, model: null, answer: null, asked: FIRST,
  dirty: false, fresh: true, busy: false, refusal: false, last: 0, timer: 0,
};
const drawing = new Drawing($("canvas"));
const width = () => WIDTHS[state.width][1];
const pen = new Pen(drawing, $("cursor"), () => ({ width: state.erase ? 2 * width() : width(), erase: state.erase }), changed);
const results = new Results({ open: (place) => viewer.open(place), like });
const viewer = new Viewer({ hits: () => results.hits, like, lost: check });

// Searching: one request at a time, the newest drawing next.

function changed(finished = true) {
  const { empty, unshown, picture } = drawing;
  $("hint").hidden = !empty && !unshown;
  $("hint").textContent = say(unshown ? "unshown" : "hint");
  $("kind").hidden = !picture || Boolean(picture.photo);
  for (const name of ["clear", "save"]) switchOff(name, empty);
  switchOff("undo", drawing.done.length === 0);
  switchOff("redo", drawing.undone.length === 0);
  if (finished) keepDrawing(drawing.visible);
  if (state.refusal) problem("");
  state.asked = FIRST;
  state.fresh = true;
  plan(finished ? 0 : Math.max(0, PAUSE - (performance.now() - state.last)));
}

function plan(wait = 0) {
  state.dirty = true;
  clearTimeout(state.timer);
  state.timer = setTimeout(search, wait);
}

async function search() {
  if (state.busy || !state.dirty) return;
  state.busy = true;
  try {
    while (state.dirty) {
      state.dirty = false;
      await attempt();
    }
  } finally {
    state.busy = false;
  }
  more();
}

async function attempt() {
  try {
    if (!state.model) await about();
    if (drawing.empty) clearResults(); else await searchOnce();
    if (!state.refusal) problem("");
  } catch (failure) {
    if (!(failure instanceof Refusal)) throw failure;
    await refused(failure);
  }
}

async function searchOnce() {
  state.last = performance.now();
  const { asked, mirror, seen } = state;
  const wish = { top: asked, mirror, seen, kind: $("kind").value, only: only() };
  const answer = await ask(await drawing.query(state.model.version), wish);
  if (answer.version !== state.model.version) await renewed();
  if (drawing.empty) return;
  state.answer = { ...answer, asked };
  show(answer, Math.round(performance.now() - state.last));
}

// Says why, and waits until it may go better.
async function refused(failure) {
  problem(wordsFor(failure));
  if (failure.gone) await back();
  else if (failure.busy) await failure.rest();
  else if (failure.status !== 410) return;
  state.dirty = true;
  await renewed().catch(() => {}); // the search that follows fails likewise, and says so
}

// The server's own words are more exact, but English.
function wordsFor({ status, gone, busy, detail }) {
  if (language === "en" && detail && !gone && !busy) return detail[0].toUpperCase() + detail.slice(1);
  return say(gone ? "refused.0" : knows(`refused.${status}`) ? `refused.${status}` : "refused.other");
}

// Showing.

function clearResults() {
  state.answer = null;
  results.show([]);
  $("empty").hidden = false;
  tell(say("start"));
}

function show(answer, took) {
  results.show(answer.found);
  $("empty").hidden = answer.found.length > 0;
  const n = answer.found.filter((hit) => hit.alike).length;
  if (answer.blank) tell(say("blank"));
  else if (!answer.found.length) tell(say("noPhotos"));
  else tell(say(n ? "alike" : "none", { n, took }));
  $("kind-auto").textContent = say("kind.auto", { of: say(`kind.${answer.kind}`) });
  if (state.seen && answer.seen) {
    const drawn = drawing.unshown ? [] : [[drawing.canvas.toDataURL(), say("seen.query")]];
    results.showSeen(answer, state.model.image_size, drawn);
  }
  // A new query's best photos are at the top, wherever one had scrolled to.
  if (state.fresh && scrollY > 0 && getComputedStyle($("desk")).position === "sticky") scrollTo({ top: 0 });
  state.fresh = false;
}

// Photos beyond the first, when one has scrolled to the end of those that are there.
function more() {
  const found = state.answer?.found;
  const near = $("end").getBoundingClientRect().top < innerHeight + (scrollY > 0 ? 600 : 0);
  if (!found || !near || state.busy || state.seen || pen.stroke || !results.ends) return;
  const next = MORE.find((count) => count > state.answer.asked);
  const shown = found.reduce((sum, hit) => sum + 1 + hit.stack.length, 0);
  if (!next || shown < state.answer.asked) return;
  state.asked = next;
  plan();
}
for (const name of ["scroll", "resize"]) addEventListener(name, more, { passive: true });
$("fold").addEventListener("click", more);

function tell(words) { $("status").textContent = $("status").title = words; }

// A refusal of a picture stays until something else is drawn; other problems until a search succeeds.
function problem(words, refusal = false) {
  state.refusal = refusal;
  $("problem-words").textContent = words;
  $("problem").hidden = !words;
}
$("problem-close").addEventListener("click", () => problem(""));

function news(words) {
  $("news-words").textContent = words;
  $("news").hidden = !words;
}
$("news-close").addEventListener("click", () => news(""));

// Tools.

function choose(erase) {
  state.erase = erase;
  press("pen", !erase);
  press("eraser", erase);
}

function chooseWidth(key) {
  state.width = key;
  for (const [other, [name]] of Object.entries(WIDTHS)) press(name, other === key);
}

function press(name, on) { $(name).setAttribute("aria-pressed", String(on)); }

// Lift the pen first: otherwise it would continue a line that is no longer the last step.
function alter(step) { pen.lift(); step(); changed(); }
const undo = () => alter(() => drawing.undo());
const redo = () => alter(() => drawing.redo());

// Another drawing takes this one's place, which stays among the recent ones.
function replace(...steps) {
  pen.lift();
  if (state.answer && !state.answer.blank) remember("recent", drawing.visible);
  $("kind").value = "auto";
  choose(false);
  alter(() => {
    if (!steps.length || steps[0].points) drawing.clear(); // a picture covers what was there
    if (steps.length) drawing.add(...steps);
  });
}
const clear = () => { if (!drawing.empty) replace(); else choose(false); };

$("pen").addEventListener("click", () => choose(false));
$("eraser").addEventListener("click", () => choose(true));
for (const [key, [name]] of Object.entries(WIDTHS)) $(name).addEventListener("click", () => chooseWidth(key));
$("undo").addEventListener("click", undo);
$("redo").addEventListener("click", redo);
$("clear").addEventListener("click", clear);
$("mirror").addEventListener("click", () => { state.mirror = !state.mirror; press("mirror", state.mirror); changed(); });
$("kind").addEventListener("change", () => changed());
$("upload").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (document.querySelector("dialog[open]")) return;
  if (command && key === "z") { event.preventDefault(); if (event.shiftKey) redo(); else undo(); }
  if (command && key === "y") { event.preventDefault(); redo(); }
});
// Letters act on the canvas alone: elsewhere, speech input could change the tool by mistake (WCAG 2.1.4).
const keys = {
  e: () => choose(true), p: () => choose(false), u: undo, r: redo, c: clear, delete: clear,
  ...Object.fromEntries(Object.keys(WIDTHS).map((key) => [key, () => chooseWidth(key)])),
};
$("canvas").addEventListener("keydown", (event) => {
  if (!event.ctrlKey && !event.metaKey && !event.altKey) keys[event.key.toLowerCase()]?.();
});

// Pictures from elsewhere.

async function take(blob) {
  if (!blob) return;
  const step = await stepOf(blob, state.model?.upload_bytes);
  try {
    // The server may read what the browser can't show; if not, it says why, and the drawing stays.
    if (!step.bitmap) await persist(() => ask(step, { top: 1, mirror: false, seen: false, kind: "auto" }), busy);
  } catch (failure) {
    failed(failure);
    return;
  }
  replace(step);
}

async function like(photo) {
  try {
    const step = await stepOf(await (await persist(() => request(photo.photo), busy)).blob());
    replace({ ...step, photo: { number: photo.number, version: state.answer.version } });
  } catch (failure) { failed(failure); }
}

function busy(failure) { problem(wordsFor(failure)); }

function failed(failure) {
  const again = failure.gone || failure.status === 410;
  problem(wordsFor(failure), !again);
  if (again) check();
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
  if (!state.model?.examples) return;
  const number = Math.floor(Math.random() * state.model.examples);
  try {
    const address = `examples/${state.model.version}/${number}`;
    await take(await (await persist(() => request(address), busy)).blob());
  } catch (failure) { failed(failure); }
});

// Saved drawings and recent searches.

$("save").addEventListener("click", () => {
  if (drawing.empty) return;
  tell(say(remember("saved", drawing.visible) ? "saved" : "full"));
});
$("drawings").addEventListener("click", () => { listDrawings(); $("keeper").showModal(); });
$("keeper-close").addEventListener("click", () => $("keeper").close());
$("keeper").addEventListener("click", (event) => { if (event.target === $("keeper")) $("keeper").close(); });

function listDrawings() {
  for (const name of ["saved", "recent"]) {
    const entries = list(name);
    $(`${name}-none`).hidden = entries.length > 0;
    $(`${name}-all`).hidden = entries.length === 0;
    $(`${name}-list`).replaceChildren(...entries.map((entry, place) => kept(name, entry, place)));
  }
}

function kept(name, entry, place) {
  const [item, button, canvas, remove] = ["li", "button", "canvas", "button"].map((tag) => element(tag));
  button.type = remove.type = "button";
  button.append(canvas);
  button.setAttribute("aria-label", say("search.again", { n: place + 1 }));
  remove.className = "remove";
  remove.textContent = "×";
  remove.setAttribute("aria-label", say("remove", { n: place + 1 }));
  unpacked(entry.steps).then((steps) => {
    paint(canvas, canvas.getContext("2d"), steps, 160);
    button.addEventListener("click", () => { $("keeper").close(); replace(...steps); });
  });
  remove.addEventListener("click", () => { forget(name, entry.id); listDrawings(); $("keeper-close").focus(); });
  item.append(button, remove);
  return item;
}
for (const name of ["saved", "recent"]) {
  $(`${name}-all`).addEventListener("click", () => { forgetAll(name); listDrawings(); $("keeper-close").focus(); });
}

// Some of one's own photos.

const LIMITS = ["folder", "since", "until"];
function only() {
  const asked = LIMITS.map((name) => [name, $(`only-${name}`).value.trim()]);
  return Object.fromEntries(asked.filter(([, value]) => value));
}
// A browser may fill the fields again when the page is loaded anew.
function sayOnly() {
  const asked = Object.values(only());
  $("only-said").textContent = asked.length ? `${say("only")}: ${asked.join(", ")}` : say("only");
}
for (const name of LIMITS) $(`only-${name}`).addEventListener("change", () => { sayOnly(); changed(); });

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
  if (state.seen) plan();
}
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => select(place));
  tab.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") select(1 - place, true);
  });
});

// The server, and what it searches.

async function about() {
  const model = state.model = await get("api/model");
  const { photos: n, gallery, run, architecture } = model;
  $("gallery").textContent = say("photosOf", { n, gallery });
  $("example").disabled = model.examples === 0;
  $("only").hidden = !model.filters;
  fill($("only-folders"), model.folders, (option, name) => { option.value = name; }, "option");
  $("about").textContent = say("about", { n, gallery: model.folders.join(", ") || gallery, run, architecture });
  const accuracy = model.pretext_accuracy === null ? say("unknown")
    : say("accuracy", { percent: Math.round(1000 * model.pretext_accuracy) / 10 });
  const rows = {
    network: say("startedFrom", { architecture, weights: model.start_weights || say("unknown") }),
    learned: model.training_images === null ? say("unknown") : say("photos", { n: model.training_images }),
    pretext: accuracy,
    embedding: `${model.embedding}, ${model.image_size} px`,
    alignment: model.alignment,
    index: model.index,
    version: model.version,
    ...(model.credit ? { credit: model.credit } : {}),
  };
  fill($("model"), Object.entries(rows), (row, [name, value]) => {
    if (!row.firstChild) row.append(element("dt"), element("dd"));
    [row.firstChild.textContent, row.lastChild.textContent] = [say(`model.${name}`), value];
  }, "div");
}

// The server was started again with other photos: what is shown is no longer there.
async function renewed() {
  const before = state.model?.version;
  await about();
  if (!before || state.model.version === before) return;
  viewer.close();
  clearResults();
  news(say("renewed", { n: state.model.photos, gallery: state.model.gallery }));
}

// Looks whether the server is still there and still the same.
async function check() {
  if (state.busy || document.hidden) return;
  const health = await get("api/health").catch((failure) => failure);
  if (state.busy || (health instanceof Refusal ? !health.gone : health.version === state.model?.version)) return;
  state.busy = true;
  if (health instanceof Refusal) await refused(health); else await renewed().catch(() => {});
  state.busy = false;
  plan();
}
setInterval(check, CHECK);
document.addEventListener("visibilitychange", check);

async function offerSharing() {
  const sharing = await get("api/share").catch(() => null); // null too where there is nothing to share
  if (!sharing) return;
  $("share-code").src = sharing.code;
  $("share-address").textContent = sharing.address;
  $("share").hidden = false;
}
$("share").addEventListener("click", () => $("sharing").showModal());
$("sharing-close").addEventListener("click", () => $("sharing").close());
$("sharing").addEventListener("click", (event) => { if (event.target === $("sharing")) $("sharing").close(); });

async function start() {
  chooseWidth(state.width);
  sayOnly();
  const steps = await keptDrawing();
  if (steps.length && drawing.empty) drawing.add(...steps);
  changed();
  await offerSharing();
}

start();
