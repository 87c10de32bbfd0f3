// Where videos come from: a drop, a file, a sample.

import { getBlob, getJson } from "./api.js";
import { byId, displayName, make, show } from "./dom.js";

const MB = 2 ** 20;

/** Connect the drop zone and the file field; `open(video, name)` gets what is chosen, `onError` what is wrong. */
export function connectSources(open, onError) {
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files.length) open(target.files[0], target.files[0].name);
    target.value = ""; // so that the same file can be chosen again
  });
  const mark = (on) => byId("drop").classList.toggle("over", on);
  let depth = 0; // of the elements that the pointer has entered
  addEventListener("dragenter", () => mark((depth += 1) > 0));
  addEventListener("dragleave", () => mark((depth -= 1) > 0));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    mark(false);
    const [file, ...others] = event.dataTransfer.files;
    if (!file) onError(new Error("Drop a video file: this is none."));
    else if (others.length) onError(new Error("Drop one video at a time."));
    else open(file, file.name);
  });
}

/** What is wrong with the size of a video for this service; empty if nothing is. */
export function sizeProblem(video, limits) {
  if (!video.size) return "The file is empty: choose another one.";
  if (video.size <= limits.upload_bytes) return "";
  const [size, limit] = [video.size / MB, limits.upload_bytes / MB].map((value) => `${Math.round(value)} MB`);
  return `The video has ${size}, and this server accepts ${limit}: choose a shorter or smaller one.`;
}

/** Show the limits of the service below the button. */
export function showLimits({ upload_bytes: bytes, seconds }) {
  const minutes = seconds >= 120 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds)} seconds`;
  byId("limits").textContent = `Up to ${Math.round(bytes / MB)} MB and ${minutes}`;
}

/** Fetch the samples and show them as buttons that open them. */
export async function showSamples(open) {
  const samples = await getJson("/v1/samples");
  show(byId("samples"), samples.length > 0);
  const videos = await Promise.all(samples.map(({ url }) => getBlob(url)));
  byId("sample-list").replaceChildren(...samples.map((sample, index) => sampleItem(sample, videos[index], open)));
}

function sampleItem({ label }, video, open) {
  const name = displayName(label);
  const player = make("video", { muted: true, loop: true, playsInline: true, tabIndex: -1, "aria-hidden": "true" });
  player.addEventListener("loadedmetadata", () => (player.currentTime = 0.35 * player.duration));
  player.src = URL.createObjectURL(video);
  const button = make("button", { type: "button", className: "sample", onclick: () => open(video, name) }, player, make("span", {}, name));
  const play = () => matchMedia("(prefers-reduced-motion: reduce)").matches || player.play().catch(() => {});
  const pause = () => player.pause();
  button.addEventListener("pointerenter", play);
  button.addEventListener("focus", play);
  button.addEventListener("pointerleave", pause);
  button.addEventListener("blur", pause);
  return make("li", {}, button);
}
