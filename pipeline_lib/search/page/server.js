// Requests to the server. All addresses are relative to the page's, so that it works below any path of a proxy.

const PATIENCE = 45_000; // ms after which a request counts as unanswered

// Why a request failed; status 0 means that nothing answered.
export class Refusal extends Error {
  constructor(status, detail = "") {
    super(detail || `status ${status}`);
    this.status = status;
    this.detail = detail;
  }

  // Whether the server has gone: a proxy before it says so by 502 or 504.
  get gone() { return [0, 502, 504].includes(this.status); }
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
  throw new Refusal(response.status, typeof answer.detail === "string" ? answer.detail : "");
}

export async function get(address) {
  const response = await request(address);
  // A connection that breaks in the middle of an answer is no answer either.
  return response.json().catch(() => { throw new Refusal(0); });
}

// Searches by a query of `Drawing`; kind is auto, drawing or photo.
export async function search(query, { top, kind, mirror, seen }) {
  const wish = new URLSearchParams({ top, mirror, seen });
  let [address, options] = ["api/search/strokes", {}];
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

// Resolves when the server answers again; asks ever less often.
export async function back() {
  for (let wait = 500; ; wait = Math.min(8000, wait * 1.6)) {
    await pause(wait);
    const answered = await request("api/health").then(() => true, (failure) => !failure.gone);
    if (answered) return;
  }
}

export function pause(milliseconds) { return new Promise((resolve) => { setTimeout(resolve, milliseconds); }); }
