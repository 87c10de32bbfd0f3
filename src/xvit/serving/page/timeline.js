// A long video over time: segments as a band, a curve for each class, the scores at the playhead, a table.

import { byId, displayName, make, percent, sentence, show, sizeCanvas, styleValue, time } from "./dom.js";
import { classColors, paint } from "./palette.js";

const MAX_CLASSES = 8; // with a curve
const MIN_PEAK = 0.1; // highest score of a class with a curve, unless it has a segment
const STEP = 1 / 50; // of the duration, for the arrow keys
const TICK_WIDTH = 64; // pixels from one to the next, at least
const LAST = 0.96; // of the duration
const TICKS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600];

export class Timeline {
  /** Draws into the elements of the page; `onSeek(seconds)` is called when somebody picks a time. */
  constructor(onSeek) {
    this.onSeek = onSeek;
    this.result = null;
    this.plot = byId("plot");
    this.canvas = make("canvas");
    this.head = make("div", { className: "playhead" });
    this.band = make("div", { className: "band" });
    this.plot.append(this.canvas, this.band, this.head);
    this.plot.addEventListener("pointerdown", (event) => this.drag(event));
    this.plot.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Hide everything, for a new video. */
  clear() {
    this.result = null;
    show(byId("timeline-card"), false);
    show(byId("timeline"), false);
    byId("segments").replaceChildren();
    byId("playhead-text").textContent = "";
  }

  /** Show how much is done; nothing is known of the total for null. */
  showProgress(fraction) {
    const bar = byId("timeline-progress");
    show(byId("timeline-card"));
    show(bar);
    if (fraction === null) bar.removeAttribute("value");
    else bar.value = fraction;
  }

  /** Show the result of `POST /v1/timeline`. */
  showResult(result) {
    this.result = result;
    this.shown = chooseClasses(result);
    this.colors = classColors(this.shown.map((index) => result.class_names[index]));
    show(byId("timeline-progress"), false);
    show(byId("timeline"));
    this.plot.setAttribute("aria-valuemax", result.duration.toFixed(2));
    this.plot.style.setProperty("--rows", this.shown.length);
    this.showLegend();
    this.showBand();
    showSegments(result, this.colors, this.onSeek);
    this.draw();
    this.moveTo(0);
  }

  /** Hide the bar of a timeline that was cancelled or failed. */
  stop() {
    show(byId("timeline-progress"), false);
    if (!this.result) show(byId("timeline-card"), false);
  }

  /** Move the playhead, and show the scores there. */
  moveTo(seconds) {
    if (!this.result) return;
    const { duration, class_names: names, scores } = this.result;
    const position = Math.min(Math.max(seconds, 0), duration);
    const row = scores[nearest(this.result.times, position)];
    this.position = position;
    this.head.style.setProperty("left", `${(100 * position) / duration}%`);
    const best = row.indexOf(Math.max(...row));
    const text = `${time(position)}: ${displayName(names[best])} ${percent(row[best])}`;
    byId("playhead-text").textContent = text;
    this.plot.setAttribute("aria-valuenow", position.toFixed(2));
    this.plot.setAttribute("aria-valuetext", text);
    this.shown.forEach((index, place) => {
      const item = byId("playhead-scores").children[place];
      item.lastChild.textContent = percent(row[index]);
      item.classList.toggle("best", index === best);
    });
  }

  showLegend() {
    const names = this.shown.map((index) => this.result.class_names[index]);
    const legend = names.map((name) => {
      const swatch = make("span", { className: "swatch" });
      paint(swatch, this.colors.get(name));
      return make("li", { title: displayName(name) }, swatch, make("span", {}, displayName(name)));
    });
    const values = names.map((name) =>
      make("li", {}, make("span", { className: "hidden-text" }, `${displayName(name)} `), make("span")),
    );
    byId("legend").replaceChildren(...legend);
    byId("playhead-scores").replaceChildren(...values);
  }

  showBand() {
    const { segments, duration } = this.result;
    const parts = segments.map(({ start, end, label }) => {
      const part = make("span", { className: "segment", title: displayName(label) }, make("span", {}, displayName(label)));
      part.style.setProperty("left", `${(100 * start) / duration}%`);
      part.style.setProperty("width", `${(100 * (end - start)) / duration}%`);
      paint(part, this.colors.get(label));
      return part;
    });
    this.band.replaceChildren(...parts);
  }

  showTicks() {
    const { duration } = this.result;
    const most = Math.max(2, this.plot.clientWidth / TICK_WIDTH);
    const step = TICKS.find((value) => duration / value <= most) ?? 7200;
    const marks = [];
    for (let tick = 0; tick <= duration; tick += step) {
      const mark = make("span", {}, time(tick, step < 1 ? 1 : 0));
      mark.style.setProperty("left", `${(100 * tick) / duration}%`);
      if (tick > LAST * duration) mark.style.setProperty("transform", "translateX(-100%)"); // inside the card
      marks.push(mark);
    }
    byId("ticks").replaceChildren(...marks);
  }

  /** Draw the curves. */
  draw() {
    const width = this.plot.clientWidth;
    if (!this.result || !width) return;
    this.showTicks();
    const sizes = getComputedStyle(this.plot);
    const [rowHeight, curveHeight] = ["--row", "--curve"].map((name) => parseFloat(sizes.getPropertyValue(name)));
    const context = sizeCanvas(this.canvas, width, rowHeight * this.shown.length);
    this.shown.forEach((index, row) => {
      const style = this.colors.get(this.result.class_names[index]);
      const base = (row + 1) * rowHeight - 0.5;
      context.fillStyle = styleValue("--line");
      context.fillRect(0, base, width, 1);
      drawCurve(context, columnPeaks(this.result, index, Math.round(width)), base, curveHeight, style);
    });
  }

  drag(event) {
    const seek = (move) => this.seekTo(move.clientX);
    this.plot.setPointerCapture(event.pointerId);
    this.plot.addEventListener("pointermove", seek);
    const end = () => this.plot.removeEventListener("pointermove", seek);
    this.plot.addEventListener("pointerup", end, { once: true });
    this.plot.addEventListener("pointercancel", end, { once: true });
    seek(event);
  }

  seekTo(clientX) {
    if (!this.result) return;
    const { left, width } = this.plot.getBoundingClientRect();
    const fraction = Math.min(Math.max((clientX - left) / width, 0), 1);
    this.onSeek(fraction * this.result.duration);
  }

  press(event) {
    if (!this.result) return;
    const { duration } = this.result;
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
    const target = { Home: 0, End: duration }[event.key] ?? (step && this.position + step * STEP * duration);
    if (target === undefined) return;
    event.preventDefault();
    this.onSeek(Math.min(Math.max(target, 0), duration));
  }
}

/** Indices of the classes with a curve: those with segments, then those with the highest scores. */
function chooseClasses({ class_names: names, scores, segments }) {
  const peaks = names.map((_, index) => scores.reduce((peak, row) => Math.max(peak, row[index]), 0));
  const found = [...new Set(segments.map(({ label }) => names.indexOf(label)))];
  const others = names.map((_, index) => index).filter((index) => !found.includes(index));
  others.sort((a, b) => peaks[b] - peaks[a]);
  const more = others.slice(0, Math.max(MAX_CLASSES - found.length, 0)).filter((index) => peaks[index] >= MIN_PEAK);
  return found.length + more.length ? [...found, ...more] : others.slice(0, 1);
}

/** The index of the time nearest to some seconds; times ascend. */
function nearest(times, seconds) {
  let [low, high] = [0, times.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] + times[middle + 1]) / 2 < seconds) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The highest score of a class in each pixel column. */
function columnPeaks({ times, scores, duration }, index, width) {
  const peaks = new Float32Array(width);
  for (let x = 0; x < width; x += 1) {
    const first = nearest(times, (x / width) * duration);
    const last = nearest(times, ((x + 1) / width) * duration);
    for (let place = first; place <= last; place += 1) peaks[x] = Math.max(peaks[x], scores[place][index]);
  }
  return peaks;
}

function drawCurve(context, peaks, base, height, { color, striped }) {
  const curve = new Path2D();
  const area = new Path2D();
  area.moveTo(0, base);
  peaks.forEach((peak, x) => {
    const y = base - peak * height;
    if (x) curve.lineTo(x + 0.5, y);
    else curve.moveTo(0, y);
    area.lineTo(x + 0.5, y);
  });
  area.lineTo(peaks.length, base);
  context.fillStyle = color;
  context.globalAlpha = 0.28;
  context.fill(area);
  context.globalAlpha = 1;
  context.strokeStyle = color;
  context.lineWidth = 1.5;
  context.setLineDash(striped ? [5, 3] : []);
  context.stroke(curve);
}

/** The segments as a table; the times are buttons that move the playhead. */
function showSegments({ segments, warnings }, colors, onSeek) {
  const nodes = warnings.map((text) => make("p", { className: "warning" }, sentence(text)));
  if (!segments.length) nodes.push(make("p", { className: "hint" }, "No class is clear enough for a segment."));
  else nodes.push(segmentTable(segments, colors, onSeek));
  byId("segments").replaceChildren(...nodes);
}

function segmentTable(segments, colors, onSeek) {
  const head = ["Start", "End", "Class", "Score"].map((text) => make("th", { scope: "col" }, text));
  const rows = segments.map(({ start, end, label, score }) => {
    const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
    paint(swatch, colors.get(label));
    const jump = make("button", { type: "button", className: "link", onclick: () => onSeek(start) }, time(start));
    jump.setAttribute("aria-label", `Go to ${time(start)}, ${displayName(label)}`);
    return make(
      "tr",
      {},
      make("td", {}, jump),
      make("td", {}, time(end)),
      make("td", {}, swatch, displayName(label)),
      make("td", {}, percent(score)),
    );
  });
  const caption = make("caption", {}, segments.length === 1 ? "1 segment" : `${segments.length} segments`);
  return make("table", {}, caption, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}
