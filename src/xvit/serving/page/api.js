// Requests to the service. All errors are `ServiceError`s whose message is a sentence for people.

const TOKEN_KEY = "xvit-token";

export class ServiceError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN_KEY),
  set: (value) => sessionStorage.setItem(TOKEN_KEY, value),
};

/** GET an address and return its JSON value. */
export async function getJson(path) {
  return readJson(await request(path));
}

/** GET an address and return its body as a Blob. */
export async function getBlob(path) {
  return (await request(path)).blob();
}

/** POST a video and return the JSON value of the answer. */
export async function postVideo(path, options, video, signal) {
  return readJson(await request(`${path}?${query(options)}`, upload(video, signal)));
}

/** POST a video and yield the values of the JSON lines of the answer. */
export async function* postVideoLines(path, options, video, signal) {
  const response = await request(`${path}?${query(options)}`, upload(video, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await guarded(reader.read());
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines.filter((text) => text.trim())) {
      const item = parse(line);
      if (item.error) throw new ServiceError(item.error, response.status);
      yield item;
    }
    if (done) return;
  }
}

/** Open the WebSocket of live streams. */
export function openStream(model) {
  const address = new URL(`/v1/stream?${query({ model })}`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const value = token.get();
  const socket = new WebSocket(address, value ? ["xvit", `bearer.${value}`] : ["xvit"]);
  socket.binaryType = "arraybuffer";
  return socket;
}

function query(options) {
  const entries = Object.entries(options).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(entries);
}

function upload(video, signal) {
  const type = video.type.startsWith("video/") ? video.type : "application/octet-stream";
  return { method: "POST", body: video, headers: { "Content-Type": type }, signal };
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  const response = await guarded(fetch(path, { ...options, headers, cache: "no-store" }));
  if (response.ok) return response;
  throw new ServiceError(await errorText(response), response.status);
}

/** The result of a network call; a failed connection becomes a sentence, a cancelled request stays an AbortError. */
async function guarded(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The connection to the server failed: check that it is running, then try again.");
  }
}

async function errorText(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string" && error) return error;
  } catch {
    // no JSON, for example from a proxy
  }
  return `The server answered with status ${response.status}: try again later.`;
}

async function readJson(response) {
  return parse(await guarded(response.text()));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new ServiceError("The answer of the server cannot be read: try again later.");
  }
}
