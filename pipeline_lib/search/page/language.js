// What the page says, in the first of the browser's languages that it knows, or in English.

import { WORDS } from "./words.js";

export const language = navigator.languages.map((tag) => tag.split("-")[0].toLowerCase())
  .find((base) => Object.hasOwn(WORDS, base)) ?? "en";
const plurals = new Intl.PluralRules(language);

// The sentence of a key. {names} in it are replaced; where it has forms for one and more, `n` chooses.
export function say(key, values = {}) {
  let words = WORDS[language][key];
  if (typeof words === "object") words = words[plurals.select(values.n)] ?? words.other;
  return words.replace(/\{(\w+)\}/g, (_, name) => written(values[name]));
}

export const knows = (key) => Object.hasOwn(WORDS[language], key);

function written(value) { return typeof value === "number" ? value.toLocaleString(language) : value; }

// Fills in elements that name their sentences: data-say for the text, data-label, data-title.
export function translate() {
  document.documentElement.lang = language;
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
  }
  for (const element of document.querySelectorAll("[data-title]")) {
    const { title, key } = element.dataset;
    element.title = key ? `${say(title)} (${key})` : say(title);
  }
}
