// A camera: frames go to the service one by one, and its scores come back while they do.

import { ServiceError, openStream } from "./api.js";
import { Bars } from "./bars.js";
import { byId, displayName, make, percent, show, sizeCanvas } from "./dom.js";
import { classColors, paint } from "./palette.js";

const DEFAULT_RATE = 8; // frames a second for a model that has none
const MAX_WAITING_SECONDS = 2; // of frames that the service has not answered; beyond, frames are skipped
const RATE_HISTORY = 16; // latest answers, for the frames a second
const ALL_BARS = 15; // with at most so many classes their bars keep their places
const MOST_BARS = 8;
const RIBBON_SECONDS = 20;
const QUALITY = 0.9; // of the JPEG pictures

const NOTHING = { none: "None of these", still: "Nothing moves", start: "Looking…" };

export class Camera {
  /** `onError(error)` is called once for what goes wrong. */
  constructor(onError) {
    this.onError = onError;
    this.model = null;
    this.video = byId("camera");
    this.tasks = []; // {task, names, bars} of each task
    this.threshold = byId("threshold");
    this.canvas = document.createElement("canvas");
    byId("camera-start").addEventListener("click", () => this.start());
    byId("camera-stop").addEventListener("click", () => this.stop());
    this.threshold.addEventListener("input", () => this.showThreshold());
    this.run = null;
  }

  /** Use another model; a running camera goes on with it. */
  async setModel(model) {
    this.model = model;
    byId("camera-start").disabled = !model.stream;
    byId("camera-about").textContent = model.stream
      ? "The frames go to this server only. Nothing is stored."
      : "This model cannot follow a live camera: choose another one.";
    if (!this.run) return;
    this.stop();
    if (model.stream) await this.start();
  }

  /** Ask for the camera, connect and send frames until `stop`. */
  async start() {
    const run = { waiting: new Map(), answers: [], sent: 0, skipped: 0, timer: 0, ready: false };
    this.run = run;
    byId("camera-start").disabled = true;
    try {
      run.media = await openCamera();
      if (this.run !== run) return closeRun(run);
      this.video.srcObject = run.media;
      await this.video.play();
    } catch (error) {
      if (this.run === run) this.fail(run, cameraError(error));
      return;
    }
    if (this.run !== run) return;
    this.showRunning(true);
    this.connect(run);
  }

  /** End the stream and switch the camera off. */
  stop() {
    if (!this.run) return;
    closeRun(this.run);
    this.run = null;
    this.video.srcObject = null;
    this.showRunning(false);
  }

  fail(run, error) {
    if (this.run !== run) return;
    this.stop();
    this.onError(error);
  }

  connect(run) {
    const socket = openStream(this.model.name);
    run.socket = socket;
    socket.onopen = () => socket.send(JSON.stringify({ format: "images", threshold: 0 }));
    socket.onmessage = ({ data }) => this.receive(run, JSON.parse(data));
    socket.onclose = () => {
      const reason = run.ready ? "closed the stream: start the camera again" : "accepts no live stream now: try again later";
      this.fail(run, new ServiceError(run.error ?? `The server ${reason}.`));
    };
  }

  receive(run, message) {
    if (this.run !== run) return;
    if (message.ready) {
      run.ready = true;
      run.rate = message.ready.frame_rate || DEFAULT_RATE;
      this.prepare(message.ready.class_names);
      run.timer = setInterval(() => this.send(run), 1000 / run.rate);
    }
    if (message.scores) this.showScores(run, message.scores);
    if (message.error) run.error = message.error;
  }

  prepare(classNames) {
    byId("live-bars").replaceChildren();
    const tasks = Object.entries(Array.isArray(classNames) ? { "": classNames } : classNames);
    this.tasks = tasks.map(([task, names]) => {
      const node = make("div");
      byId("live-bars").append(...(task ? [make("h3", {}, displayName(task))] : []), node);
      return { task, names, bars: new Bars(node) };
    });
    this.seen = []; // labels in the order of their first appearance
    this.history = [];
    byId("ribbon-legend").replaceChildren();
    this.showLabel(null, NOTHING.start);
  }

  /** Send the picture of this moment. */
  send(run) {
    if (!this.video.videoWidth) return;
    if (run.waiting.size > MAX_WAITING_SECONDS * run.rate) {
      run.skipped += 1;
      return;
    }
    const scale = Math.min(1, (2 * this.model.image_size) / Math.min(this.video.videoWidth, this.video.videoHeight));
    this.canvas.width = Math.round(this.video.videoWidth * scale);
    this.canvas.height = Math.round(this.video.videoHeight * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    const index = run.sent;
    run.sent += 1;
    run.waiting.set(index, performance.now());
    // The picture is that of now, whenever its bytes are ready; they are sent in order.
    const picture = new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", QUALITY));
    run.queue = Promise.all([picture, run.queue]).then(([blob]) => {
      if (blob && run.socket.readyState === WebSocket.OPEN) run.socket.send(blob);
    });
  }

  showScores(run, scores) {
    const now = performance.now();
    const sent = run.waiting.get(scores.frame);
    for (const frame of run.waiting.keys()) if (frame <= scores.frame) run.waiting.delete(frame);
    run.answers.push(now);
    if (run.answers.length > RATE_HISTORY) run.answers.shift();
    this.latest = scores;
    this.showLatest();
    const name = this.shownLabel(this.tasks[0].task);
    if (name !== null && !this.seen.includes(name)) this.seen.push(name);
    this.history.push({ time: now, name });
    this.drawRibbon(now);
    showStats(run, sent === undefined ? scores.lag_seconds : (now - sent) / 1000);
  }

  /** The label of a task if its score is above the threshold, or null. */
  shownLabel(task) {
    const { label, scores } = this.latest;
    return ofTask(scores, task)[0] >= this.threshold.value / 100 ? ofTask(label, task) : null;
  }

  showLatest() {
    const { labels, scores, moving } = this.latest;
    for (const { task, names: all, bars } of this.tasks) {
      const [best, values] = [ofTask(labels, task), ofTask(scores, task)];
      const names = all.length <= ALL_BARS ? all : best.slice(0, MOST_BARS);
      const byName = new Map(best.map((name, index) => [name, values[index]]));
      bars.update(names, names.map((name) => byName.get(name) ?? 0), names.indexOf(this.shownLabel(task)));
    }
    const shown = this.tasks.map(({ task }) => this.shownLabel(task)).filter((label) => label !== null);
    this.showLabel(shown.length ? shown.join(" · ") : null, moving ? NOTHING.none : NOTHING.still);
  }

  showLabel(label, otherwise) {
    const node = byId("live-label");
    const text = label === null ? otherwise : displayName(label);
    if (node.textContent !== text) node.textContent = text; // screen readers read each change
    node.classList.toggle("none", label === null);
  }

  showThreshold() {
    byId("threshold-value").textContent = percent(this.threshold.value / 100);
    if (this.run && this.latest) this.showLatest();
  }

  showRunning(running) {
    show(byId("camera-empty"), !running);
    show(byId("camera-stop"), running);
    byId("camera-start").disabled = !this.model.stream;
    (running ? byId("camera-stop") : byId("camera-start")).focus();
    if (!running) {
      this.latest = null;
      this.showLabel(null, "Stopped");
      byId("camera-rate").textContent = byId("camera-lag").textContent = "–";
    }
  }

  /** Draw the labels of the last seconds, and their legend. */
  drawRibbon(now) {
    this.history = this.history.filter((item) => now - item.time <= 1000 * RIBBON_SECONDS);
    const node = byId("ribbon");
    const [width, height] = [node.clientWidth, node.clientHeight];
    const context = sizeCanvas(node, width, height);
    const colors = classColors(this.seen);
    const place = (moment) => Math.round(width * (1 - (now - moment) / (1000 * RIBBON_SECONDS)));
    this.history.forEach((item, index) => {
      const start = index ? place(this.history[index - 1].time) : place(item.time) - 4;
      if (item.name === null) return;
      const { color, striped } = colors.get(item.name);
      context.fillStyle = color;
      context.fillRect(start, 0, place(item.time) - start, striped ? height / 2 : height);
    });
    this.showLegend(colors);
  }

  showLegend(colors) {
    const names = [...new Set(this.history.map((item) => item.name).filter((name) => name !== null))];
    const legend = byId("ribbon-legend");
    if (names.join() === legend.dataset.names) return;
    legend.dataset.names = names.join();
    legend.replaceChildren(
      ...names.map((name) => {
        const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
        paint(swatch, colors.get(name));
        return make("li", {}, swatch, make("span", {}, displayName(name)));
      }),
    );
  }
}

function openCamera() {
  if (!navigator.mediaDevices) {
    throw new ServiceError("Browsers allow cameras on localhost and https only: open this page at such an address.");
  }
  return navigator.mediaDevices.getUserMedia({ audio: false, video: { width: { ideal: 640 }, height: { ideal: 480 } } });
}

function closeRun(run) {
  clearInterval(run.timer);
  run.media?.getTracks().forEach((track) => track.stop());
  if (run.socket) {
    run.socket.onclose = null;
    run.socket.close();
  }
}

function cameraError(error) {
  const texts = {
    NotAllowedError: "The browser may not use the camera: allow it in the settings of this page, then try again.",
    NotFoundError: "There is no camera: connect one, then try again.",
    NotReadableError: "The camera cannot be opened: close other programs that use it, then try again.",
  };
  return texts[error.name] ? new ServiceError(texts[error.name]) : error;
}

function showStats(run, lag) {
  const times = run.answers;
  const rate = times.length > 1 ? (1000 * (times.length - 1)) / (times.at(-1) - times[0]) : null;
  byId("camera-rate").textContent = rate === null ? "–" : rate.toFixed(1);
  byId("camera-lag").textContent = `${Math.round(1000 * lag)} ms`;
  byId("camera-skipped").textContent = run.skipped;
  show(byId("camera-skipped-item"), run.skipped > 0);
}

/** The value of a task; a model with a single task has no dict of them. */
const ofTask = (value, task) => (task && value !== null ? value[task] : value);
