// The frames that the model saw, with their times; with an explanation, a heat map over each and a bar below.

import { make, signed, styleValue, time } from "./dom.js";

const MAX_OPACITY = 0.72;
const MIN_SCALE = 0.01; // of the logit: rounding is far below, and must not be drawn as if it were a result
const MIN_SIDE = 64; // pixels of a frame on its canvas, at least

/**
 * Show frames.
 * @param {Element} list where
 * @param {string[]} frames data addresses
 * @param {number[]} times seconds
 * @param {(seconds: number) => void} onSeek called with the time of a frame that is clicked
 * @param {{frame_relevance: number[], patch_relevance: number[][][]} | null} explanation
 */
export async function showFilmstrip(list, frames, times, onSeek, explanation = null) {
  const images = await Promise.all(frames.map(loadImage));
  const largest = explanation ? Math.max(MIN_SCALE, ...explanation.patch_relevance.flat(2).map(Math.abs)) : 1;
  const largestBar = explanation ? Math.max(MIN_SCALE, ...explanation.frame_relevance.map(Math.abs)) : 1;
  const digits = times.some((value, index) => index && value - times[index - 1] < 0.1) ? 2 : 1;
  const items = images.map((image, index) => {
    const canvas = make("canvas", { "aria-hidden": "true" });
    drawFrame(canvas, image, explanation?.patch_relevance[index], largest);
    const text = time(times[index], digits);
    const relevance = explanation ? `, relevance ${signed(explanation.frame_relevance[index])}` : "";
    const button = make(
      "button",
      { type: "button", className: "frame", "aria-label": `Frame at ${text}${relevance}`, onclick: () => onSeek(times[index]) },
      canvas,
      make("span", { className: "frame-time" }, text),
    );
    const item = make("li", {}, button);
    if (explanation) item.append(makeBar(explanation.frame_relevance[index], largestBar));
    return item;
  });
  list.replaceChildren(...items);
  list.classList.toggle("small-frames", images.length > 0 && images[0].naturalWidth < 160);
}

function loadImage(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("A frame of the answer cannot be shown."));
    image.src = address;
  });
}

/** Draw a frame and the relevance (rows, columns) of its patches. */
function drawFrame(canvas, image, relevance, largest) {
  // Whole multiples of the pixels of a small frame keep its edges and those of the patches sharp.
  const scale = Math.max(1, Math.ceil((4 * MIN_SIDE) / image.naturalWidth));
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = image.naturalWidth >= 160;
  context.drawImage(image, 0, 0, width, height);
  if (!relevance) return;
  context.globalCompositeOperation = "saturation"; // grey, so that only the heat map has colours
  context.fillStyle = "rgb(128 128 128 / 85%)";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  drawHeat(context, relevance, largest, width, height);
}

function drawHeat(context, relevance, largest, width, height) {
  const colors = { for: styleValue("--for"), against: styleValue("--against") };
  const [cellWidth, cellHeight] = [width / relevance[0].length, height / relevance.length];
  relevance.forEach((row, y) =>
    row.forEach((value, x) => {
      context.globalAlpha = MAX_OPACITY * Math.min(1, Math.abs(value) / largest);
      context.fillStyle = value < 0 ? colors.against : colors.for;
      context.fillRect(x * cellWidth, y * cellHeight, cellWidth, cellHeight);
    }),
  );
  context.globalAlpha = 1;
}

/** A bar upwards for positive values, downwards for negative ones. */
function makeBar(value, largest) {
  const share = `${(50 * Math.abs(value)) / largest}%`;
  const fill = make("span", { className: value < 0 ? "relevance-fill against" : "relevance-fill for", style: { height: share } });
  return make(
    "div",
    { className: "relevance", "aria-hidden": "true" },
    make("span", { className: "relevance-track" }, fill),
    make("span", { className: "relevance-value" }, signed(value)),
  );
}

