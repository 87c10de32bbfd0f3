// One video: its player, its prediction, its timeline and its explanation.

import { postVideo, postVideoLines } from "./api.js";
import { describePrediction, showPrediction } from "./bars.js";
import { byId, make, percent, sentence, show, time } from "./dom.js";
import { Why } from "./explanation.js";
import { Timeline } from "./timeline.js";

const TOP_K = 5;
const LONG = 1.5; // times the duration of the model's clip: a longer video gets a timeline
const SMALL = 160; // pixels: smaller videos are shown with sharp pixels

export class VideoPage {
  /**
   * @param {Work} work
   * @param {(error: Error) => void} onError
   */
  constructor(work, onError) {
    Object.assign(this, { work, onError, model: null, video: null, run: null });
    this.player = byId("player");
    const seek = (seconds) => this.seek(seconds);
    this.timeline = new Timeline(seek);
    this.why = new Why((options) => this.explain(options), seek);
    this.player.addEventListener("loadedmetadata", () => this.describe());
    this.player.addEventListener("seeking", () => this.timeline.moveTo(this.player.currentTime));
    this.player.addEventListener("play", () => this.follow());
  }

  /** Show a video (a Blob) and ask the model about it. */
  async open(video, name) {
    this.video = video;
    this.name = name;
    URL.revokeObjectURL(this.player.src);
    byId("source").classList.add("compact");
    show(byId("result"));
    byId("video-name").textContent = name;
    this.playable = this.load(video);
    await this.ask();
  }

  /** Use another model; the video that is shown is given to it. */
  async setModel(model) {
    this.model = model;
    if (this.video) await this.ask();
  }

  /** Load the video into the player; whether the browser can play it. */
  load(video) {
    show(byId("unplayable"), false);
    show(this.player);
    this.player.src = URL.createObjectURL(video);
    return new Promise((resolve) => {
      const source = this.player.src;
      const end = (playable) => {
        if (this.player.src !== source) return resolve(false);
        show(byId("unplayable"), !playable);
        show(this.player, playable);
        if (playable && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.player.play().catch(() => {});
        return resolve(playable);
      };
      this.player.addEventListener("loadedmetadata", () => end(this.player.videoWidth > 0), { once: true });
      this.player.addEventListener("error", () => end(false), { once: true });
    });
  }

  describe() {
    const { videoWidth: width, videoHeight: height, duration } = this.player;
    this.player.classList.toggle("small-frames", Math.min(width, height) < SMALL);
    const length = Number.isFinite(duration) ? ` · ${time(duration)}` : "";
    byId("video-name").textContent = `${this.name} · ${width} × ${height}${length}`;
  }

  /** Ask for the prediction and, for a long video, for the timeline. */
  async ask() {
    this.work.cancel();
    const run = {};
    this.run = run;
    this.timeline.clear();
    show(byId("frames-card"), false);
    show(byId("warnings"), false);
    byId("labels").classList.add("waiting");
    byId("labels").replaceChildren(make("p", { className: "headline none" }, "Looking…"));
    byId("prediction-text").textContent = "";
    await Promise.all([this.predict(run), this.findMoments(run)]);
  }

  async predict(run) {
    const options = { model: this.model.name, top_k: TOP_K, frames: 1 };
    const answer = await this.attempt("prediction", "Predicting…", (signal) =>
      postVideo("/v1/predict", options, this.video, signal),
    );
    if (run !== this.run) return;
    byId("labels").classList.remove("waiting");
    if (!answer) {
      this.offerRetry();
      return;
    }
    showPrediction(byId("labels"), answer);
    byId("prediction-text").textContent = `From ${describeFrames(answer.times)}, in ${answer.seconds.toFixed(2)} s`;
    byId("announce").textContent = describePrediction(answer);
    byId("warnings").replaceChildren(...answer.warnings.map((text) => make("li", {}, sentence(text))));
    show(byId("warnings"), answer.warnings.length > 0);
    await this.showFrames(answer);
  }

  async showFrames(answer) {
    byId("frames-text").textContent = describeFrames(answer.times);
    show(byId("frames-card"));
    await this.why.reset(answer, this.rankClasses(answer), this.model.explain);
  }

  /** The classes of the first task, those of the prediction first. */
  rankClasses({ labels }) {
    const { classes } = this.model;
    const all = Array.isArray(classes) ? classes : Object.values(classes)[0];
    const first = Array.isArray(labels) ? labels : Object.values(labels)[0];
    return [...first, ...all.filter((name) => !first.includes(name))];
  }

  async findMoments(run) {
    if (!this.model.timeline) return;
    const { frame_rate: rate, num_frames: frames } = this.model;
    const playable = await this.playable;
    if (run !== this.run || (playable && rate && this.player.duration < (LONG * frames) / rate)) return;
    const found = await this.attempt("timeline", "Finding moments…", (...job) => this.readTimeline(run, ...job));
    if (run === this.run && !found) this.timeline.stop();
  }

  async readTimeline(run, signal, setText) {
    this.timeline.showProgress(null);
    for await (const { progress, result } of postVideoLines("/v1/timeline", { model: this.model.name }, this.video, signal)) {
      if (run !== this.run) return false;
      if (progress) {
        const fraction = progress.total ? progress.decoded / progress.total : null;
        this.timeline.showProgress(fraction);
        if (fraction !== null) setText(`Finding moments: ${percent(fraction)}`);
      }
      if (result) {
        this.timeline.showResult(result);
        this.timeline.moveTo(this.player.currentTime || 0);
        return true;
      }
    }
    return false;
  }

  explain(options) {
    const all = { ...options, model: this.model.name };
    return this.attempt("explanation", "Explaining…", (signal) => postVideo("/v1/explain", all, this.video, signal));
  }

  /** The result of a request; null if it was cancelled or failed, and then the error is shown. */
  async attempt(name, text, task) {
    const { run } = this;
    try {
      return await this.work.run(name, text, task);
    } catch (error) {
      if (run === this.run) this.onError(error);
      return null;
    }
  }

  offerRetry() {
    const retry = make("button", { type: "button", onclick: () => this.ask() }, "Try again");
    byId("labels").replaceChildren(make("p", { className: "headline none" }, "No prediction"), retry);
  }

  seek(seconds) {
    if (this.player.readyState) this.player.currentTime = Math.min(seconds, this.player.duration);
    this.timeline.moveTo(seconds);
  }

  /** Move the playhead while the video plays. */
  follow() {
    const step = () => {
      this.timeline.moveTo(this.player.currentTime);
      if (!this.player.paused) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}

function describeFrames(times) {
  if (times.length === 1) return `1 frame, at ${time(times[0])}`;
  return `${times.length} frames, ${time(times[0])} to ${time(times.at(-1))}`;
}
