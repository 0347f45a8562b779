// Requests to the server. All addresses are relative to the page's, so that it works below any path of a proxy.

const PATIENCE = 45_000; // ms after which a request counts as unanswered

// Why a request failed; status 0 means that nothing answered, `after` the seconds after which a busy server may answer.
export class Refusal extends Error {
  constructor(status, detail = "", after = 1) {
    super(detail || `status ${status}`);
    this.status = status;
    this.detail = detail;
    this.after = after;
  }

  // Whether the server has gone: a proxy before it says so by 502 or 504.
  get gone() { return [0, 502, 504].includes(this.status); }

  get busy() { return this.status === 503; }

  // A busy server is asked again when it says, and not by all pages at the same moment.
  rest() { return pause(1000 * Math.min(10, Math.max(1, this.after)) * (0.7 + 0.6 * Math.random())); }
}

export async function request(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { signal: AbortSignal.timeout(PATIENCE), ...options });
  } catch {
    throw new Refusal(0);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const detail = typeof answer.detail === "string" ? answer.detail : "";
  throw new Refusal(response.status, detail, Number(response.headers.get("retry-after")) || 1);
}

export async function get(address) {
  const response = await request(address);
  // A connection that breaks in the middle of an answer is no answer either.
  return response.json().catch(() => { throw new Refusal(0); });
}

// Searches by a query of `Drawing`; kind is auto, drawing or photo; `only` holds what is asked of photos, by its names.
export async function search(query, { top, kind, mirror, seen, only = {} }) {
  const wish = new URLSearchParams({ top, mirror, seen, ...only });
  const limits = new URLSearchParams(only).toString();
  let [address, options] = [`api/search/strokes${limits && `?${limits}`}`, {}];
  if (query.photo) {
    wish.set("version", query.photo.version);
    address = `api/search/photo/${query.photo.number}?${wish}`;
  } else if (query.blob) {
    wish.set("kind", query.isPhoto && kind === "auto" ? "photo" : kind);
    address = `api/search/image?${wish}`;
    options = { body: query.blob };
  } else {
    options = {
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ strokes: query.strokes, top, mirror, seen }),
    };
  }
  const response = await request(address, { method: "POST", ...options });
  return response.json().catch(() => { throw new Refusal(0); });
}

// Does what asks the server, again and again while it is busy; `told` is called with each such refusal.
export async function persist(work, told) {
  for (;;) {
    try { return await work(); } catch (failure) {
      if (!failure.busy) throw failure;
      told(failure);
      await failure.rest();
    }
  }
}

// Resolves when the server answers again; asks ever less often.
export async function back() {
  for (let wait = 500; ; wait = Math.min(8000, wait * 1.6)) {
    await pause(wait);
    const answered = await request("api/health").then(() => true, (failure) => !failure.gone);
    if (answered) return;
  }
}

export function pause(milliseconds) { return new Promise((resolve) => { setTimeout(resolve, milliseconds); }); }
