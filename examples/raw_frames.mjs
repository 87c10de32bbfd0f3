// Classify a video with a program of `xvit export --raw-frames`, in JavaScript.
//
//     npm install onnxruntime-node          (and ffmpeg, with ffprobe, to decode)
//     node raw_frames.mjs EXPORT VIDEO
//
// onnxruntime-node does not read the metadata of a program: config.json, beside it, says the same.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";

const [directory, video] = process.argv.slice(2);
const { clip_spec: spec, class_names: classNames } = JSON.parse(readFileSync(`${directory}/config.json`));
const T = spec.num_frames;

// The indices of the clip's frames, from the times of all frames of the video in seconds.
function chooseFrames(times) {
  const interval = times.at(-1) / Math.max(times.length - 1, 1);
  const segments = spec.sampling === "segments";
  let rate = spec.frame_rate, total = times.length;
  if (rate) total = Math.max(Math.round((times.length * interval - 0.001) * rate), 1); // frames at the model's rate
  if (rate && segments && total < T) { // a short video
    const repeats = Math.ceil(T / total);
    rate *= repeats, total *= repeats;
  }
  const first = Math.floor(Math.max(total - (T - 1) * spec.stride - 1, 0) / 2);
  const chosen = Array.from({ length: T }, (_, i) => {
    if (!segments) return Math.min(first + spec.stride * i, total - 1); // T frames from the middle of the video
    const [start, end] = [i, i + 1].map((part) => Math.floor((part * total) / T));
    return start + Math.floor(Math.max(end - start, 1) / 2); // the middle frame of each of T equal parts
  });
  if (!rate) return chosen;
  // the frame on display at each moment: the first one after it, if it comes soon enough
  const longest = Math.max(1 / rate - interval / 2, 0.5 / rate);
  const shownFrom = times.slice(1).map((time, i) => {
    const gap = time - times[i], tolerance = Math.min(0.001, gap / 3);
    return time - Math.min(gap - tolerance, longest + tolerance);
  });
  return chosen.map((index) => shownFrom.filter((time) => time <= index / rate).length);
}

// The frames of the video at some indices: { width, height, pixels }, RGB. Large ones are shrunk, as xvit does: faster,
// and the program resizes the rest.
function readFrames(indices) {
  const unique = [...new Set(indices)];
  const select = `select=${unique.map((index) => `eq(n\\,${index})`).join("+")}`;
  const scale = ["iw", "ih"].map(
    (side) => `if(gt(min(iw\\,ih)\\,${2 * spec.image_size})\\,round(${side}*${spec.image_size}/min(iw\\,ih))\\,${side})`);
  const filters = `${select},scale=w=${scale[0]}:h=${scale[1]}:flags=bilinear`;
  const options = ["-vf", filters, "-fps_mode", "passthrough", "-f", "image2pipe"];
  const command = ["-v", "error", "-i", video, ...options, "-c:v", "ppm", "-pix_fmt", "rgb24", "-"];
  let rest = execFileSync("ffmpeg", command, { maxBuffer: Infinity });
  const images = [];
  while (rest.length) {
    const [header, width, height] = rest.subarray(0, 64).toString("latin1").match(/^P6\s(\d+)\s(\d+)\s255\s/);
    const end = header.length + 3 * width * height;
    images.push({ width: +width, height: +height, pixels: rest.subarray(header.length, end) });
    rest = rest.subarray(end);
  }
  return indices.map((index) => images[unique.indexOf(index)]);
}

const probe = ["-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts_time", "-of", "csv=p=0", video];
const times = execFileSync("ffprobe", probe, { maxBuffer: Infinity, encoding: "utf8" }).match(/-?\d+\.\d+/g).map(Number);
const frames = readFrames(chooseFrames(times.map((time) => time - times[0])));
const pixels = new Uint8Array(Buffer.concat(frames.map((frame) => frame.pixels)));
const session = await ort.InferenceSession.create(`${directory}/model.onnx`);
const input = new ort.Tensor("uint8", pixels, [1, T, frames[0].height, frames[0].width, 3]);
const outputs = await session.run({ frames: input });
const scores = [...outputs.scores.data];
if (outputs.margin?.data[0] < 0) console.log("none of these; the nearest:"); // of a calibrated model
const order = scores.map((_, index) => index).sort((a, b) => scores[b] - scores[a]);
for (const index of order.slice(0, 5)) {
  console.log(`${classNames[index].padEnd(20)} ${(100 * scores[index]).toFixed(1).padStart(5)} %`);
}
