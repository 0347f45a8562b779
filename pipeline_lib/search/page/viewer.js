// One photo, large, and where it lies.

import { say } from "./language.js";
import { $, element, fill, switchOff } from "./results.js";

export class Viewer {
  // hits: those to leaf through; like: searches for more like a photo; lost: a picture could not be loaded.
  constructor({ hits, like, lost }) {
    this.hits = hits;
    this.place = 0;
    this.photo = null;
    $("viewer-before").addEventListener("click", () => this.open(this.place - 1));
    $("viewer-after").addEventListener("click", () => this.open(this.place + 1));
    $("viewer-close").addEventListener("click", () => this.close());
    $("viewer-like").addEventListener("click", () => { this.close(); like(this.photo); });
    $("viewer-copy").addEventListener("click", () => this.copy());
    $("viewer-image").addEventListener("error", () => {
      $("viewer-image").alt = say("unreadable");
      lost();
    });
    $("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) this.close(); });
    $("viewer").addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.open(this.place - 1);
      if (event.key === "ArrowRight") this.open(this.place + 1);
    });
  }

  close() { $("viewer").close(); }

  open(place) {
    const hit = this.hits()[place];
    if (!hit) return;
    this.place = place;
    this.show(hit);
    const percent = Math.round(100 * hit.likeness);
    $("viewer-facts").textContent = say("facts", { rank: hit.rank, percent });
    $("viewer-stack").hidden = hit.stack.length === 0;
    $("viewer-stack-title").textContent = say("stacked", { n: hit.stack.length });
    fill($("viewer-stacked"), hit.stack.length ? [hit, ...hit.stack] : [], (item, photo) => this.small(item, photo));
    switchOff("viewer-before", place === 0);
    switchOff("viewer-after", place === this.hits().length - 1);
    if (!$("viewer").open) $("viewer").showModal();
  }

  show(photo) {
    this.photo = photo;
    $("viewer-title").textContent = photo.label;
    $("viewer-image").alt = photo.label;
    $("viewer-image").src = photo.photo;
    $("viewer-folder").textContent = photo.folder;
    $("viewer-path").textContent = photo.path || photo.image_id;
    $("viewer-copy").textContent = say("copy");
    $("viewer-original").href = $("viewer-download").href = photo.original;
    $("viewer-download").download = photo.label;
  }

  small(item, photo) {
    const button = item.querySelector("button") ?? item.appendChild(element("button"));
    const image = button.querySelector("img") ?? button.appendChild(element("img"));
    button.type = "button";
    button.setAttribute("aria-label", photo.label);
    button.onclick = () => this.show(photo);
    image.alt = "";
    image.src = photo.thumbnail;
  }

  async copy() {
    const words = $("viewer-path").textContent;
    // Browsers offer their clipboard on this machine and over HTTPS alone; elsewhere a selection is copied.
    const done = await (navigator.clipboard?.writeText(words).then(() => true, () => false) ?? false);
    if (!done) {
      getSelection().selectAllChildren($("viewer-path"));
      document.execCommand("copy");
    }
    $("viewer-copy").textContent = say("copied");
  }
}
