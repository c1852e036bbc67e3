// Votes and undos on their way: kept in the browser until the server says they are on disk, sent in order, one by one.

import { keep, recall } from "./store.js";

const RETRY_MS = [500, 1000, 2000, 4000, 8000];

export async function post(name, body) {
  const response = await fetch(`api/${name}`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: AbortSignal.timeout(15000),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(answer.error ?? `error ${response.status}`), { status: response.status });
  return answer;
}

export class Outbox {
  // onChange({ waiting, offline, saved, progress, refused, feedback })
  constructor(key, onChange, spare = null) {
    this.key = key;
    this.spare = spare;
    this.onChange = onChange;
    this.failures = 0;
    this.sending = false;
    this.timer = null;
    try { this.waiting = JSON.parse(recall(key) ?? "[]"); } catch { this.waiting = []; }
    window.addEventListener("online", () => this.flush());
  }

  add(name, body) {
    this.waiting.push({ name, body });
    this.keep();
    this.onChange({});
    this.flush();
  }

  keep() {
    keep(this.key, JSON.stringify(this.waiting), { spare: this.spare });
  }

  // Assignments whose votes are still here: the server does not know that they are answered.
  get assignments() {
    return this.waiting.filter((item) => item.name === "vote").map((item) => item.body.assignment);
  }

  async flush() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    while (this.waiting.length) {
      const { name, body } = this.waiting[0];
      try {
        const answer = await post(name, body);
        this.done({ saved: true, progress: answer.progress, feedback: answer.feedback });
      } catch (error) {
        if (error.status >= 400 && error.status < 500 && error.status !== 408 && error.status !== 429) {
          this.done({ refused: error.message }); // the server will never take it: say so and go on
          continue;
        }
        this.failures += 1;
        this.timer = setTimeout(() => this.flush(), RETRY_MS[Math.min(this.failures, RETRY_MS.length) - 1]);
        this.sending = false;
        this.onChange({ offline: true });
        return;
      }
    }
    this.sending = false;
  }

  done(change) {
    this.waiting.shift();
    this.failures = 0;
    this.keep();
    this.onChange(change);
  }
}
