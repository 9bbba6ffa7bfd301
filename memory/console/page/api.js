// The public API, as any client has it. The token is in this object and nowhere else.

const BASE = new URL("../api/v1/", document.baseURI);
const TRIES = 5;

export class Problem extends Error {
  constructor(status, document, wait) {
    super(document.detail || `The service answered ${status}.`);
    this.status = status;
    this.code = document.code || "";
    this.errors = document.errors || [];
    this.wait = wait;
  }
}

export class Api {
  #token;

  constructor(token) {
    this.#token = token;
    this.claims = claimsOf(token);
  }

  get user() {
    return this.claims.sub || "";
  }

  forget() {
    this.#token = "";
    this.claims = {};
  }

  async call(method, path, body) {
    const response = await this.#send(method, path, body);
    return response.status === 204 ? null : response.json();
  }

  // As `call`; waits as long as it is told to, where there are too many requests or the service is busy.
  async patient(method, path, body, onWait = () => {}) {
    for (let turn = 1; ; turn += 1) {
      try {
        return await this.call(method, path, body);
      } catch (error) {
        if (!error.wait || turn === TRIES) throw error;
        onWait(error.wait);
        await new Promise((resolve) => setTimeout(resolve, error.wait * 1000));
      }
    }
  }

  async blob(path) {
    return (await this.#send("GET", path)).blob();
  }

  // Server-sent events, as they come: {event, data}.
  async *events(path, body, signal) {
    const response = await this.#send("POST", path, body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      const frames = held.split("\n\n");
      held = frames.pop();
      for (const frame of frames) {
        const fields = Object.fromEntries(frame.split("\n").map((line) => [line.split(": ", 1)[0], line.slice(line.indexOf(": ") + 2)]));
        if (fields.event) yield { event: fields.event, data: JSON.parse(fields.data) };
      }
    }
  }

  async #send(method, path, body, signal) {
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(new URL(path, BASE), {
        method, headers, signal, credentials: "omit", cache: "no-store",
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, { detail: "The service cannot be reached." });
    }
    if (response.ok) return response;
    const document = await response.json().catch(() => ({}));
    throw new Problem(response.status, document, Number(response.headers.get("Retry-After")) || 0);
  }
}

// Not verified, which is the service's work: for the name above and the end of the token's life.
function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return {};
  }
}
