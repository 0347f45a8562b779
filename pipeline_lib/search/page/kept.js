// What this browser keeps, for this page alone and on this machine alone: the drawing, saved drawings, recent searches.

import { keptStep } from "./pictures.js";

const PREFIX = "drawfind.";
const MOST = { saved: Infinity, recent: 18 };

function read(name) {
  try { return JSON.parse(localStorage.getItem(PREFIX + name)); } catch { return null; }
}

// Whether it was kept: storage may be full, or forbidden.
function write(name, value) {
  try { localStorage.setItem(PREFIX + name, JSON.stringify(value)); return true; } catch { return false; }
}

// Steps as JSON holds them, and back.
function packed(steps) {
  return steps.filter((step) => step.points || step.kept).map((step) => (step.points
    ? { points: step.points, width: step.width, erase: step.erase }
    : { picture: step.kept, photo: step.photo }));
}

export async function unpacked(entries) {
  const step = async (entry) => (entry?.picture ? keptStep(entry.picture, entry.photo) : strokeOf(entry));
  return (await Promise.all(entries.map((entry) => step(entry).catch(() => null)))).filter(Boolean);
}

// Storage may hold what another version of the page wrote.
function strokeOf(entry) {
  const { points, width, erase } = entry ?? {};
  const sound = Number.isFinite(width) && Array.isArray(points) && points.length > 0
    && points.every((point) => Array.isArray(point) && point.length === 2 && point.every(Number.isFinite));
  return sound ? { points, width, erase: Boolean(erase) } : null;
}

export function keepDrawing(steps) { return write("drawing", packed(steps)); }

export async function keptDrawing() {
  const entries = read("drawing");
  return Array.isArray(entries) ? unpacked(entries) : [];
}

// A list that is saved or recent, newest first: [{id, steps}].
export function list(name) {
  const found = read(name);
  return Array.isArray(found) ? found.filter((entry) => Array.isArray(entry?.steps)) : [];
}

// Adds a drawing to a list; older ones make room. Returns whether it was kept.
export function remember(name, steps) {
  const entry = { id: `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`, steps: packed(steps) };
  if (!entry.steps.length) return false;
  const same = JSON.stringify(entry.steps);
  let entries = [entry, ...list(name).filter((other) => JSON.stringify(other.steps) !== same)].slice(0, MOST[name]);
  while (entries.length && !write(name, entries)) {
    if (name === "saved") return false; // what someone saved is not dropped by itself
    entries = entries.slice(0, -1);
  }
  return entries.length > 0;
}

export function forget(name, id) { write(name, list(name).filter((entry) => entry.id !== id)); }

export function forgetAll(name) { write(name, []); }
