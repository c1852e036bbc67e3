// What stands beside voting: zoom, comment, guidelines, own votes, pause and finish, feedback on practice pairs.

import { post } from "./outbox.js";
import { $ } from "./view.js";

const ZOOM_STEP = 0.1;
const SAID = { left: "left is better", right: "right is better", tie: "tie", both_bad: "both bad", skip: "skipped" };

// The same place of both clips, larger; the pointer or the arrow keys move it. Reference pictures grow too.
export class Zoom {
  constructor() {
    this.on = false;
    this.x = this.y = 0.5;
    for (const screen of document.querySelectorAll(".screen")) {
      screen.addEventListener("pointermove", (event) => {
        const box = screen.getBoundingClientRect();
        if (this.on) this.look((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      });
    }
  }

  set(on) {
    this.on = on;
    document.body.classList.toggle("zoomed", on);
    $("zoom").setAttribute("aria-pressed", String(on));
    this.look(0.5, 0.4);
  }

  look(x, y) {
    this.x = Math.min(Math.max(x, 0), 1);
    this.y = Math.min(Math.max(y, 0), 1);
    $("stage").style.setProperty("--zx", `${(100 * this.x).toFixed(1)}%`);
    $("stage").style.setProperty("--zy", `${(100 * this.y).toFixed(1)}%`);
  }

  // Returns whether the key moved the place.
  key(name) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[name];
    if (!this.on || !step) return false;
    this.look(this.x + ZOOM_STEP * step[0], this.y + ZOOM_STEP * step[1]);
    return true;
  }
}

// The annotator's words on the pair that is shown; they go with the vote.
export class Comment {
  constructor() {
    this.clear();
    $("comment-dialog").addEventListener("close", () => this.paint());
    $("comment-dialog").querySelector("form").onsubmit = () => { this.text = $("comment-text").value.trim(); };
  }

  open() { $("comment-text").value = this.text; $("comment-dialog").showModal(); }
  clear() { this.text = ""; this.paint(); }
  take() { const text = this.text || null; this.clear(); return text; }
  paint() { $("comment").classList.toggle("given", Boolean(this.text)); $("comment").setAttribute("aria-label", this.text ? "Comment: written" : "Comment"); }
}

export async function openOwnVotes(annotator, takeBack) {
  const list = $("own-list");
  list.replaceChildren(line("Loading…"));
  $("own-votes").showModal();
  try {
    const { votes } = await post("votes", { annotator });
    list.replaceChildren(...(votes.length ? votes.map((vote) => ownVote(vote, takeBack)) : [line("No votes yet.")]));
  } catch (error) { list.replaceChildren(line(error.message)); }
}

function line(text) { const item = document.createElement("li"); item.textContent = text; return item; }

function ownVote(vote, takeBack) {
  const item = line("");
  const words = document.createElement("p");
  const said = document.createElement("b");
  said.textContent = SAID[vote.answer];
  const when = new Date(vote.time_utc).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  words.append(said, ` · ${when} · ${vote.seconds.toFixed(0)} s`, document.createElement("br"), vote.prompt);
  if (vote.comment) words.append(document.createElement("br"), `“${vote.comment}”`);
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "ghost", textContent: "Change" });
  button.setAttribute("aria-label", `Change: ${SAID[vote.answer]}, ${vote.prompt}`);
  button.onclick = () => { $("own-votes").close(); takeBack(vote.vote_id); };
  item.append(words, button);
  return item;
}

export function showFeedback({ right, known }, closed) {
  $("feedback-title").textContent = right ? "Right" : "Look again next time";
  $("feedback-text").textContent = right ? "Your answer is the known one." : `The known answer is: ${SAID[known]}.`;
  const dialog = $("feedback");
  dialog.addEventListener("close", closed, { once: true });
  dialog.showModal();
}

export function showCode(code) {
  $("pause-code").hidden = !code;
  $("code").textContent = code ?? "";
}
