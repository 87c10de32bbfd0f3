// What is being computed: a line with a button that cancels it. The page stays usable meanwhile.

import { byId, show } from "./dom.js";

export class Work {
  constructor() {
    this.jobs = new Map(); // by name: {controller, text}
    byId("cancel").addEventListener("click", () => this.cancel());
  }

  /**
   * Run a function of an AbortSignal and of a function that changes the text, instead of what runs by the same name.
   * Returns its result, or null if it was cancelled.
   */
  async run(name, text, task) {
    this.jobs.get(name)?.controller.abort();
    const job = { controller: new AbortController(), text };
    this.jobs.set(name, job);
    this.show();
    const setText = (latest) => {
      job.text = latest;
      this.show();
    };
    try {
      return await task(job.controller.signal, setText);
    } catch (error) {
      if (job.controller.signal.aborted) return null;
      throw error;
    } finally {
      if (this.jobs.get(name) === job) this.jobs.delete(name);
      this.show();
    }
  }

  /** Cancel all that runs. */
  cancel() {
    for (const { controller } of this.jobs.values()) controller.abort();
  }

  show() {
    const jobs = [...this.jobs.values()];
    show(byId("work"), jobs.length > 0);
    const text = jobs.at(-1)?.text ?? "";
    if (byId("work-text").textContent !== text) byId("work-text").textContent = text;
  }
}
