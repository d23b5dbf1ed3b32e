// Work that is repeated while somebody looks.

const SLOWEST = 15_000;

export class Poll {
  #timer = null;
  #working = false;
  #again = false;
  #failures = 0;

  /** `work` is called, awaited and called again after `interval` milliseconds; less often while it throws. */
  constructor(work, interval) {
    this.work = work;
    this.interval = interval;
    document.addEventListener("visibilitychange", () => this.now());
  }

  /** Work at once, or again as soon as the work in progress ends; not while the tab is hidden. */
  async now() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    if (this.#working) {
      this.#again = true;
      return;
    }
    this.#working = true;
    try {
      await this.work();
      this.#failures = 0;
    } catch {
      this.#failures += 1;
    }
    this.#working = false;
    const wait = this.#again ? 0 : Math.min(SLOWEST, this.interval * 2 ** this.#failures);
    this.#again = false;
    if (!document.hidden) this.#timer = setTimeout(() => this.now(), wait);
  }
}
