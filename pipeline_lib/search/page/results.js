// The photos that were found: those that are alike, and behind a fold those that are less alike.

import { say } from "./language.js";

const PAIRS = 12;
const TIMES = 4; // that a picture is asked for again
export const $ = (id) => document.getElementById(id);

export function element(tag, name = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  return made;
}

// Reuse items, so that nothing flickers and the focus stays in place.
export function fill(list, values, write, tag = "li") {
  while (list.children.length > values.length) list.lastChild.remove();
  while (list.children.length < values.length) list.appendChild(element(tag));
  values.forEach((value, place) => write(list.children[place], value, place));
}

// aria-disabled, since a disabled button would lose the keyboard's focus.
export function switchOff(name, off) { $(name).setAttribute("aria-disabled", String(off)); }

export class Results {
  // open: shows a hit large; like: searches for more like it.
  constructor({ open, like }) {
    this.hits = [];
    this.open = open;
    this.like = like;
    this.forced = false; // unfolded because there was nothing else to show
    $("fold").addEventListener("click", () => { this.forced = false; this.unfold(!this.unfolded); });
  }

  get unfolded() { return $("fold").getAttribute("aria-expanded") === "true"; }

  unfold(open) {
    $("fold").setAttribute("aria-expanded", String(open));
    $("unalike").hidden = !open;
  }

  // Whether the last photo that one can scroll to is the last that was found.
  get ends() { return this.unfolded || this.hits.at(-1)?.alike === true; }

  show(hits) {
    this.hits = hits;
    const alike = hits.filter((hit) => hit.alike);
    const unalike = hits.filter((hit) => !hit.alike);
    fill($("grid"), alike, (item, hit) => this.card(item, hit));
    fill($("unalike"), unalike, (item, hit) => this.card(item, hit));
    const nothing = hits.length > 0 && alike.length === 0;
    $("nothing").hidden = !nothing;
    if (nothing ? !this.unfolded : this.forced) { this.unfold(nothing); this.forced = nothing; }
    $("fold").hidden = unalike.length === 0;
    $("fold-count").textContent = say("unalike", { n: unalike.length });
    $("grid").dataset.done = String(Number($("grid").dataset.done || 0) + 1);
  }

  card(item, hit) {
    let button = item.querySelector(".hit");
    if (!button) button = this.made(item);
    button.dataset.place = hit.rank - 1;
    button.dataset.id = hit.image_id;
    const percent = Math.round(100 * hit.likeness);
    const stacked = hit.stack.length ? `, ${say("stacked", { n: hit.stack.length })}` : "";
    button.setAttribute("aria-label", say("hit", { rank: hit.rank, label: hit.label, percent }) + stacked);
    button.title = hit.label;
    picture(button.querySelector("img"), hit.thumbnail, hit.rank > 24);
    const [count, bar, label] = ["count", "bar", "label"].map((name) => button.querySelector(`.${name}`));
    count.textContent = hit.stack.length ? `+${hit.stack.length}` : "";
    bar.firstChild.style.width = `${percent}%`;
    label.textContent = hit.label;
    item.querySelector(".like").title = say("like");
  }

  made(item) {
    const button = element("button", "hit");
    button.type = "button";
    const bar = element("span", "bar");
    bar.append(element("span"));
    const frame = element("span", "frame");
    frame.append(element("img"), element("span", "count"));
    button.append(frame, bar, element("span", "label"));
    button.addEventListener("click", () => this.open(Number(button.dataset.place)));
    // For the pointer alone: by keyboard, the photo that is opened offers the same, without a second stop per photo.
    const like = element("button", "like");
    like.type = "button";
    like.tabIndex = -1;
    like.setAttribute("aria-label", say("like"));
    like.textContent = "≈";
    like.addEventListener("click", () => this.like(this.hits[Number(button.dataset.place)]));
    item.append(button, like);
    return button;
  }

  // The second view: the query and the nearest photos, as the network sees them.
  showSeen(answer, size, drawn) {
    const aligned = say(`align.${answer.seen.alignment}`, { of: say(`of.${answer.kind}`) });
    const [input, ...others] = answer.seen.inputs;
    const query = [...drawn, [input, `${say("seen.input", { size })} ${aligned}`]];
    fill($("query"), query, (figure, [source, words]) => {
      const image = figure.querySelector("img") ?? figure.appendChild(element("img"));
      const caption = figure.querySelector("figcaption") ?? figure.appendChild(element("figcaption"));
      image.alt = words;
      image.src = source;
      caption.textContent = words;
    }, "figure");
    $("others-title").hidden = others.length === 0;
    fill($("others"), others, (image, source) => { image.alt = ""; image.src = source; }, "img");
    $("pairs-title").hidden = false;
    fill($("pairs"), this.hits.slice(0, PAIRS), (item, hit) => {
      const image = item.querySelector("img") ?? item.appendChild(element("img"));
      picture(image, hit.input, false);
      image.alt = hit.label;
    });
  }
}

function picture(image, source, later) {
  image.alt ??= "";
  image.loading = later ? "lazy" : "eager";
  image.decoding = "async";
  if (image.getAttribute("src") === source) return;
  // A busy server refuses pictures too, and a picture does not tell why it failed.
  image.onerror = () => again(image, source, 1);
  image.src = source;
}

// Asks for a picture again while it is still the one to show, some times and ever less often.
function again(image, source, times) {
  if (times > TIMES) return;
  image.onerror = () => again(image, source, times + 1);
  setTimeout(() => { if (image.getAttribute("src") === source) image.src = source; }, 1000 * 2 ** (times - 1 + Math.random()));
}
