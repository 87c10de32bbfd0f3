// "Why?": which frames and patches decided, over the filmstrip, and how their relevance adds up.

import { byId, displayName, make, number, sentence, show, signed } from "./dom.js";
import { showFilmstrip } from "./filmstrip.js";

const LEAST_RELEVANCE = 0.01; // of the logit, of all patches of a frame: as in xvit.inference.explain

export class Why {
  /**
   * @param {(options: object) => Promise<object | null>} explain asks the service; null if it was cancelled
   * @param {(seconds: number) => void} onSeek
   */
  constructor(explain, onSeek) {
    this.explain = explain;
    this.onSeek = onSeek;
    this.button = byId("why");
    this.target = byId("why-class");
    this.against = byId("why-against");
    this.button.addEventListener("click", () => this.toggle(this.button.getAttribute("aria-pressed") !== "true"));
    this.target.addEventListener("change", () => this.choose());
    this.against.addEventListener("change", () => this.ask());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.isOn && this.draw());
  }

  /** Set up for a prediction; `classes` are those that can be explained, the best one first. */
  async reset({ frames, times }, classes, possible) {
    Object.assign(this, { frames, times, classes, result: null, question: null });
    show(this.button, possible);
    await this.toggle(false);
    if (!possible) return;
    this.target.replaceChildren(...classes.map((name) => new Option(displayName(name), name)));
    this.fillAgainst();
  }

  get isOn() {
    return this.button.getAttribute("aria-pressed") === "true";
  }

  async toggle(on) {
    this.button.setAttribute("aria-pressed", String(on));
    show(byId("why-choice"), on);
    show(byId("explanation"), on && this.result !== null);
    if (on && !this.result) await this.ask();
    else await this.draw();
  }

  choose() {
    this.fillAgainst();
    return this.ask();
  }

  fillAgainst() {
    const others = this.classes.filter((name) => name !== this.target.value);
    const kept = others.includes(this.against.value) ? this.against.value : "";
    this.against.replaceChildren(new Option("the clip held still", ""), ...others.map((name) => new Option(displayName(name), name)));
    this.against.value = kept;
  }

  async ask() {
    const question = {};
    this.question = question;
    const result = await this.explain({ class: this.target.value, against: this.against.value });
    if (question !== this.question) return; // another video or class meanwhile
    if (!result) {
      await this.goBack();
      return;
    }
    this.result = result;
    if (!this.isOn) return;
    showSum(result);
    show(byId("explanation"));
    await this.draw();
  }

  /** After a request without an answer: back to the explanation before, or to none. */
  async goBack() {
    if (!this.result) {
      await this.toggle(false);
      return;
    }
    this.target.value = this.result.class;
    this.fillAgainst();
    this.against.value = this.result.against ?? "";
  }

  /** Show the frames, with the heat map if it is on. */
  draw() {
    if (!this.frames) return Promise.resolve();
    const shown = this.isOn ? this.result : null;
    const { frames, times } = shown ?? this;
    return showFilmstrip(byId("filmstrip"), frames, times, this.onSeek, shown);
  }
}

/** Show how the relevance adds up: logit of the clip, less that of the clip held still. */
function showSum(result) {
  if (changesNothing(result)) {
    const text = "Motion changes nothing here: the clip and the clip held still have the same logit.";
    byId("explanation").replaceChildren(make("p", { className: "hint" }, text));
    return;
  }
  const difference = result.logit - result.logit_still;
  const name = `“${displayName(result.class)}”`;
  const what = result.against ? `the lead of ${name} over “${displayName(result.against)}”` : `the logit of ${name}`;
  const effect = difference < 0 ? "lowers" : "raises";
  const nodes = [
    legend(result),
    make("p", { className: "sum-text" }, `Motion ${effect} ${what} by ${Math.abs(difference).toFixed(2)}:`),
    make(
      "dl",
      { className: "sum" },
      term("the clip", number(result.logit)),
      make("div", { className: "sign", "aria-hidden": "true" }, make("dt", {}, "\u00a0"), make("dd", {}, "−")),
      term("the clip held still", number(result.logit_still)),
      make("div", { className: "sign", "aria-hidden": "true" }, make("dt", {}, "\u00a0"), make("dd", {}, "=")),
      term("from motion", signed(difference), "total"),
    ),
    completeness(result, difference),
  ];
  byId("explanation").replaceChildren(...nodes);
}

/** Whether all relevance is so small that there is nothing to see. */
function changesNothing({ patch_relevance: frames }) {
  const sums = frames.map((rows) => rows.flat().reduce((total, value) => total + Math.abs(value), 0));
  return Math.max(...sums) < LEAST_RELEVANCE;
}

function term(name, value, className = "") {
  return make("div", { className }, make("dt", {}, name), make("dd", {}, value));
}

function legend({ class: target, against }) {
  const key = (side, text) =>
    make("li", {}, make("span", { className: `swatch ${side}`, "aria-hidden": "true" }), make("span", {}, text));
  const other = against ? `for “${displayName(against)}”` : `against “${displayName(target)}”`;
  return make("ul", { className: "heat-legend" }, key("for", `for “${displayName(target)}”`), key("against", other));
}

function completeness({ frame_relevance: relevance, completeness_error: error, error_bound: bound }, difference) {
  if (error === null) return make("p", { className: "hint" }, "The patches were tested one by one; they need not add up.");
  const sum = relevance.reduce((total, value) => total + value, 0);
  const share = `${(100 * error).toFixed(error < 0.001 ? 3 : 1)} %`;
  const text = `The patches add up to ${signed(sum)} of ${signed(difference)}: completeness error ${share}.`;
  if (error <= bound) return make("p", { className: "hint" }, text);
  const limit = `${(100 * bound).toFixed(0)} %`;
  return make("p", { className: "warning" }, sentence(`${text} This is over ${limit}, so take the picture as a rough guide only`));
}
