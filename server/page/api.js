// The server's HTTP API: calls, streams of events, and one class of errors. Addresses are relative to this
// file's, so the page works below any --api-prefix.

const root = new URL("..", import.meta.url);
const SILENCE_MS = 30000; // the page asks the server for a ping every 5 s

export const key = {
  get: () => sessionStorage.getItem("key") || "",
  set: (text) => (text ? sessionStorage.setItem("key", text) : sessionStorage.removeItem("key")),
};

// kind: "http" (the server answered with an error), "gone" (no answer), "broken" (the answer ended too early)
export class ServerError extends Error {
  constructor(message, { kind = "http", status = 0, code = "", param = "", retryAfter = 0, body = null } = {}) {
    super(message);
    Object.assign(this, { kind, status, code, param, retryAfter, body });
  }
}

function headers(body) {
  const all = {};
  if (body !== undefined) all["Content-Type"] = "application/json";
  if (key.get()) all.Authorization = "Bearer " + key.get();
  return all;
}

async function send(path, body, signal) {
  const method = body === undefined ? "GET" : "POST";
  const text = body === undefined ? undefined : JSON.stringify(body);
  try {
    return await fetch(new URL(path, root), { method, headers: headers(body), body: text, signal, cache: "no-store" });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new ServerError("The server does not answer.", { kind: "gone" });
  }
}

function fromError(error, status = 0, retryAfter = 0, body = null) {
  return new ServerError(String(error.message || "The server reported an error without a message."),
    { status, code: error.code || "", param: error.param || "", retryAfter, body });
}

async function refusal(response) {
  let body = null;
  try {
    body = await response.json();
  } catch { /* for example a proxy's page */ }
  const error = body && body.error ? body.error : { message: `The server answered ${response.status}.` };
  return fromError(error, response.status, Number(response.headers.get("Retry-After")) || 0, body);
}

export async function call(path, body, signal) {
  const response = await send(path, body, signal);
  if (!response.ok) throw await refusal(response);
  try {
    return await response.json();
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new ServerError("The server's answer broke off.", { kind: "broken" });
  }
}

// The data of each event in a text/event-stream. Comments and other fields are ignored. An event can have
// several data lines; lines end with \n or \r\n.
export class EventParser {
  rest = "";

  feed(text) {
    const events = [];
    const blocks = (this.rest + text).replace(/\r\n/g, "\n").split("\n\n");
    this.rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) events.push(lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n"));
    }
    return events;
  }
}

// Yields the parsed events of a streamed answer until [DONE]. Throws a ServerError when the stream ends in
// any other way.
export async function* stream(path, body, signal) {
  const silence = new AbortController();
  const response = await send(path, { ...body, stream: true, sse_ping_interval: 5 }, AbortSignal.any([signal, silence.signal]));
  if (!response.ok) throw await refusal(response);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  let timer = 0;
  try {
    for (;;) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      const { value, done } = await reader.read();
      if (done) throw new ServerError("The answer broke off: the server closed the connection.", { kind: "broken" });
      for (const data of parser.feed(decoder.decode(value, { stream: true }))) {
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw fromError(event.error);
        yield event;
      }
    }
  } catch (e) {
    if (e instanceof ServerError || signal.aborted) throw e;
    throw new ServerError(silence.signal.aborted ? "The answer broke off: the server has been silent for 30 seconds."
      : "The answer broke off: the connection to the server is lost.", { kind: "broken" });
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}
