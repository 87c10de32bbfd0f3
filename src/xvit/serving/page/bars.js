// Labels with bars and percentages.

import { displayName, make, percent } from "./dom.js";

/** A list of bars that can be updated in place. */
export class Bars {
  constructor(container) {
    this.list = make("ol", { className: "bars" });
    container.replaceChildren(this.list);
  }

  /** Show names with their scores in [0, 1]; `best` is the index of the one to stress, -1 for none. */
  update(names, scores, best = 0) {
    while (this.list.children.length > names.length) this.list.lastChild.remove();
    while (this.list.children.length < names.length) this.list.append(makeRow());
    names.forEach((name, index) => {
      const row = this.list.children[index];
      const [label, track, value] = row.children;
      label.textContent = displayName(name);
      label.title = displayName(name);
      track.firstChild.style.setProperty("--share", scores[index].toFixed(4));
      value.textContent = percent(scores[index]);
      row.classList.toggle("best", index === best);
    });
  }
}

function makeRow() {
  return make(
    "li",
    {},
    make("span", { className: "bar-name" }),
    make("span", { className: "bar-track", "aria-hidden": "true" }, make("span", { className: "bar-fill" })),
    make("span", { className: "bar-value" }),
  );
}

/** Show a prediction: the best label large, bars below; one block for each task. `known` is of calibrated models. */
export function showPrediction(container, { labels, scores, known }) {
  const tasks = Array.isArray(labels) ? { "": labels } : labels;
  const values = Array.isArray(labels) ? { "": scores } : scores;
  const blocks = Object.keys(tasks).map((task) => {
    const bars = make("div");
    const block = make("div", { className: "task" });
    if (task) block.append(make("h3", {}, displayName(task)));
    const rejected = isRejected(known, task);
    const headline = make("p", { className: "headline" }, headlineOf(tasks[task][0], rejected));
    headline.classList.toggle("none", rejected);
    block.append(headline, bars);
    new Bars(bars).update(tasks[task], values[task], rejected ? -1 : 0);
    return block;
  });
  container.replaceChildren(...blocks);
}

const isRejected = (known, task) => known === false || known?.[task] === false;

const headlineOf = (label, rejected) => (rejected ? `none of these (nearest: ${displayName(label)})` : displayName(label));

/** A prediction as a sentence for screen readers. */
export function describePrediction({ labels, scores, known }) {
  const best = (label, score, task) => `${headlineOf(label, isRejected(known, task))}, ${percent(score)}`;
  if (Array.isArray(labels)) return `Prediction: ${best(labels[0], scores[0], "")}.`;
  const parts = Object.keys(labels).map(
    (task) => `${displayName(task)}: ${best(labels[task][0], scores[task][0], task)}`,
  );
  return `Prediction: ${parts.join("; ")}.`;
}
