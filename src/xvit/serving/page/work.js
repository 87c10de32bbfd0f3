// What is being computed: a line with a button that cancels it. The page stays usable meanwhile.

import { byId, show } from "./dom.js";

export class Work {
  constructor() {
    this.jobs = new Map();
    byId("cancel").addEventListener("click", () => this.cancel());
  }

  /**
   * Run a function of an AbortSignal and of a function that changes the text.
   * Returns its result, or null if it was cancelled.
   */
  async run(text, task) {
    const controller = new AbortController();
    this.jobs.set(controller, text);
    this.show();
    const setText = (latest) => {
      if (this.jobs.has(controller)) this.jobs.set(controller, latest);
      this.show();
    };
    try {
      return await task(controller.signal, setText);
    } catch (error) {
      if (controller.signal.aborted) return null;
      throw error;
    } finally {
      this.jobs.delete(controller);
      this.show();
    }
  }

  /** Cancel all that runs. */
  cancel() {
    for (const controller of this.jobs.keys()) controller.abort();
  }

  show() {
    const texts = [...this.jobs.values()];
    show(byId("work"), texts.length > 0);
    const text = texts.at(-1) ?? "";
    if (byId("work-text").textContent !== text) byId("work-text").textContent = text;
  }
}
